"""What the emulator writes: vasprun.xml, OUTCAR, OSZICAR, CONTCAR and their companions, ionic step by ionic step."""

from __future__ import annotations

import datetime
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from emulated_energies import Evaluation
from emulated_inputs import Cell, Potential
from numpy.typing import NDArray

VERSION, SUBVERSION = "6.4.2", "20Jul23 (build Aug 01 2023 12:00:00) complex parallel"
BANNER = (
    " running    1 mpi-ranks, on    1 nodes\n distrk:  each k-point on    1 cores,    1 groups\n"
    f" vasp.{VERSION} {SUBVERSION}\n"
)
KPOINTS = (((0.0, 0.0, 0.0), 0.25), ((0.5, 0.5, 0.5), 0.75))  # the two that stand for the whole grid
KBAR = 1602.1766208  # of an eV/Å³
# ASSUME: what CHGNet does not know: compounds whose electronegativities differ are insulators, all else are metals.
ELECTRONEGATIVITY = {
    "H": 2.2, "Li": 0.98, "Na": 0.93, "K": 0.82, "Rb": 0.82, "Cs": 0.79, "Be": 1.57, "Mg": 1.31, "Ca": 1.0, "Sr": 0.95,
    "Ba": 0.89, "B": 2.04, "Al": 1.61, "C": 2.55, "Si": 1.9, "N": 3.04, "O": 3.44, "F": 3.98, "P": 2.19, "S": 2.58,
    "Cl": 3.16, "Br": 2.96, "I": 2.66, "Fe": 1.83, "Co": 1.88, "Ni": 1.91, "Mn": 1.55, "Cr": 1.66, "Ti": 1.54,
}  # fmt: skip
_INTEGERS = {"NELM", "NSW", "IBRION", "ISIF", "ISPIN", "ISMEAR", "ISYM", "ISTART", "ICHARG", "LORBIT", "NBANDS", "IMIX"}


def band_gap(symbols: Sequence[str]) -> float:
    """The gap in eV that the emulated bands have; 0 for a metal. Molecules of one non-metal have one, too."""
    scale = [ELECTRONEGATIVITY.get(symbol, 1.6) for symbol in symbols]
    if len(set(symbols)) == 1:
        return 4.0 if scale[0] > 2.5 else 0.0
    return 2.5 * max(0.0, max(scale) - min(scale) - 0.8)


def eigenvalues(symbols: Sequence[str], electrons: float, bands: int, spins: int) -> NDArray[np.float64]:
    """(spins, k-points, bands, 2) energies in eV, occupations; a metal's last valence band crosses the Fermi level."""
    gap, filled = band_gap(symbols), int(np.ceil(electrons / 2))
    if electrons % 2 and spins == 1:
        gap = 0.0
    found = np.zeros((spins, len(KPOINTS), bands, 2))
    for spin in range(spins):
        full = filled if spin == 0 else int(electrons) - filled
        for k in range(len(KPOINTS)):
            for band in range(bands):
                below = band < full
                energy = -1.0 - 0.2 * (full - band) if below else gap + 1.0 + 0.2 * (band - full) - (1.0 if gap else 0)
                if gap == 0.0 and band == full - 1:
                    energy = -0.5 if k == 0 else 0.5
                elif gap and below:
                    energy += 1.0
                found[spin, k, band] = energy, float(energy <= gap / 2)
    return found


def _tag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f'  <i type="logical" name="{name}"> {"T" if value else "F"}  </i>\n'
    if isinstance(value, list):
        return f'  <v name="{name}">{"".join(f"{x:16.8f}" for x in value)}</v>\n'
    if name in _INTEGERS or isinstance(value, int):
        return f'  <i type="int" name="{name}">{int(value):6d}</i>\n'
    if isinstance(value, float):
        return f'  <i name="{name}">{value:16.8f}</i>\n'
    return f'  <i type="string" name="{name}">{value}</i>\n'


def _rows(name: str, rows: Any, indent: str = "   ") -> str:
    body = "".join(f"{indent} <v>{''.join(f'{x:17.8f}' for x in row)} </v>\n" for row in rows)
    return f'{indent}<varray name="{name}" >\n{body}{indent}</varray>\n'


def _structure(cell: Cell, name: str = "") -> str:
    attribute = f' name="{name}"' if name else ""
    volume = abs(np.linalg.det(cell.lattice))
    return (
        f"  <structure{attribute} >\n   <crystal>\n{_rows('basis', cell.lattice)}"
        f'    <i name="volume">{volume:17.8f} </i>\n{_rows("rec_basis", np.linalg.inv(cell.lattice).T)}'
        f"   </crystal>\n{_rows('positions', cell.frac)}  </structure>\n"
    )


class Writer:
    """VASP's output files of one run, flushed after every ionic step so that a kill leaves what VASP would leave.

    Args:
        incar: tags with defaults.
        kpoints: style and divisions.
        potentials: by kind of atom.
        cell: the start.
    """

    def __init__(
        self, incar: dict[str, Any], kpoints: tuple[str, list[int]], potentials: list[Potential], cell: Cell
    ) -> None:
        self.incar, self.kpoints, self.potentials = incar, kpoints, potentials
        kinds = cell.kinds
        self.electrons = sum(p.valence * n for p, (_, n) in zip(potentials, kinds, strict=True))
        self.spins = int(incar["ISPIN"])
        default = max(int(self.electrons / 2 + 2) + max(len(cell.symbols) // 2, 3), int(0.6 * self.electrons))
        self.bands = int(incar.get("NBANDS", default))
        self.began, self.step = time.time(), 0
        self._xml, self._outcar, self._oszicar = (
            Path(name).open("w", encoding="ascii")  # noqa: SIM115
            for name in ("vasprun.xml", "OUTCAR", "OSZICAR")
        )
        for name in ("CHG", "CHGCAR", "WAVECAR", "CONTCAR", "EIGENVAL", "DOSCAR", "IBZKPT", "PCDAT", "XDATCAR"):
            Path(name).write_text("")
        self._head(cell)

    def _head(self, cell: Cell) -> None:
        now = datetime.datetime.now()
        xml = (
            '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n <generator>\n'
            '  <i name="program" type="string">vasp </i>\n'
            f'  <i name="version" type="string">{VERSION}  </i>\n'
            f'  <i name="subversion" type="string">{SUBVERSION}</i>\n'
            f'  <i name="platform" type="string">emulator</i>\n'
            f'  <i name="date" type="string">{now:%Y %m %d}</i>\n  <i name="time" type="string">{now:%H:%M:%S}</i>\n'
            " </generator>\n <incar>\n"
        )
        given = {k: v for k, v in self.incar.items() if k not in ("METAGGA", "GGA") or v != "--"}
        xml += "".join(_tag(k, v) for k, v in given.items()) + " </incar>\n"
        style, divisions = self.kpoints
        xml += f' <kpoints>\n  <generation param="{style}">\n'
        xml += f'   <v type="int" name="divisions">{"".join(f"{n:9d}" for n in divisions)}</v>\n'
        xml += '   <v name="usershift">      0.0 0.0 0.0</v>\n  </generation>\n'
        xml += _rows("kpointlist", [k for k, _ in KPOINTS], "  ") + _rows("weights", [[w] for _, w in KPOINTS], "  ")
        xml += " </kpoints>\n <parameters>\n" + "".join(_tag(k, v) for k, v in self.parameters().items())
        xml += f" </parameters>\n <atominfo>\n  <atoms> {len(cell.symbols)} </atoms>\n"
        xml += f"  <types> {len(cell.kinds)} </types>\n"
        atoms = [(s, n) for n, (s, count) in enumerate(cell.kinds, 1) for _ in range(count)]
        xml += '  <array name="atoms" >\n   <dimension dim="1">ion</dimension>\n   <set>\n'
        xml += "".join(f"    <rc><c>{s:2s}</c><c>{n:4d}</c></rc>\n" for s, n in atoms) + "   </set>\n  </array>\n"
        xml += '  <array name="atomtypes" >\n   <dimension dim="1">type</dimension>\n   <set>\n'
        for potential, (symbol, count) in zip(self.potentials, cell.kinds, strict=True):
            numbers = f"<c>{potential.mass:16.8f}</c><c>{potential.valence:16.8f}</c>"
            xml += f"    <rc><c>{count:4d}</c><c>{symbol:2s}</c>{numbers}<c>  {potential.titel}</c></rc>\n"
        xml += "   </set>\n  </array>\n </atominfo>\n" + _structure(cell, "initialpos")
        self._put(self._xml, xml)
        outcar = (
            f" vasp.{VERSION} {SUBVERSION}\n\n executed on             emulator date {now:%Y.%m.%d  %H:%M:%S}\n"
            " running    1 mpi-ranks, with    1 threads/rank, on    1 nodes\n\n"
        )
        outcar += "".join(f" POTCAR:    {p.titel}\n" for p in self.potentials)
        outcar += (
            f"   ISPIN  =      {self.spins}    spin polarized calculation?\n"
            f"   IBRION =     {int(self.incar['IBRION'])}    ionic relax: 0-MD 1-quasi-New 2-CG\n"
            f"   NSW    =     {int(self.incar['NSW'])}    number of steps for IOM\n"
            f"   NELECT =     {self.electrons:.4f}    total number of electrons\n"
            f"   k-points           NKPTS =      {len(KPOINTS)}   k-points in BZ     NKDIM =      {len(KPOINTS)}   "
            f"number of bands    NBANDS= {self.bands:6d}\n"
            "   total plane-waves  NPLWV =   1000\n"
        )
        self._put(self._outcar, outcar)

    def parameters(self) -> dict[str, Any]:
        """All tags as VASP understood them."""
        understood = {k: v for k, v in self.incar.items() if k not in ("LREAL", "METAGGA", "GGA", "ALGO")}
        return understood | {
            "LREAL": str(self.incar["LREAL"])[0].upper() in "AOT",
            "METAGGA": str(self.incar["METAGGA"]).upper(),
            "GGA": str(self.incar["GGA"]),
            "NELECT": float(self.electrons),
            "NBANDS": self.bands,
            "LHFCALC": False,
            "LUSE_VDW": False,
            "LEPSILON": False,
            "LCHIMAG": False,
            "IVDW": 0,
        }

    @staticmethod
    def _put(handle: TextIO, text: str) -> None:
        handle.write(text)
        handle.flush()

    def electronic_step(self, number: int, energy: float, change: float, seconds: float) -> None:
        """A line of OSZICAR and a LOOP of OUTCAR."""
        if number == 1:
            self._put(self._oszicar, "       N       E                     dE             d eps       ncg     rms\n")
        self._put(self._oszicar, f"DAV: {number:3d}    {energy:.12E}   {change:.5E}   {change:.5E}  1000   0.1E+00\n")
        self._put(self._outcar, f" number of electron   {self.electrons:.7f} magnetization   0.0000000\n")
        self._put(self._outcar, f"      LOOP:  cpu time    {seconds:.4f}: real time    {seconds:.4f}\n")

    def ionic_step(self, cell: Cell, found: Evaluation, energies: Sequence[float], seconds: float) -> None:
        """Everything about one geometry."""
        self.step += 1
        previous = getattr(self, "_energy", 0.0)
        self._energy = found.energy
        magnetization = sum(found.moments) if self.spins == 2 else 0.0
        mag = f"  mag= {magnetization:9.4f}" if self.spins == 2 else ""
        change = found.energy - previous if self.step > 1 else found.energy
        self._put(
            self._oszicar,
            f"{self.step:4d} F= {found.energy:.8E} E0= {found.energy:.8E}  d E ={change:.6E}{mag}\n",
        )
        names = ("e_fr_energy", "e_wo_entrp", "e_0_energy")

        def block(e: float) -> str:
            return "<energy>" + "".join(f'<i name="{n}">{e:17.8f} </i>' for n in names) + "</energy>\n"

        scf = "".join(f'  <scstep><time name="total"> 0.01 0.01</time>{block(e)}  </scstep>\n' for e in energies)
        self._put(
            self._xml,
            f" <calculation>\n{scf}{_structure(cell)}{_rows('forces', found.forces, '  ')}"
            f"{_rows('stress', -KBAR * found.stress, '  ')}  {block(found.energy)}",
        )
        sites = "".join(
            f" {r} {f}\n"
            for r, f in zip(
                ("".join(f"{x:13.5f}" for x in row) for row in cell.frac @ cell.lattice),
                ("".join(f"{x:14.6f}" for x in row) for row in found.forces),
                strict=True,
            )
        )
        drift = "".join(f"{x:14.6f}" for x in found.forces.sum(axis=0))
        self._put(
            self._outcar,
            f" E-fermi :   0.0000     XC(G=0):  -1.0000     alpha+bet :  -1.0000\n\n"
            f" number of electron   {self.electrons:.7f} magnetization   {magnetization:.7f}\n\n"
            f" POSITION{' ' * 39}TOTAL-FORCE (eV/Angst)\n{sites}    total drift: {drift}\n\n"
            f"  free  energy   TOTEN  =  {found.energy:17.8f} eV\n\n"
            f"  energy  without entropy= {found.energy:17.8f}  energy(sigma->0) = {found.energy:17.8f}\n"
            f"     LOOP+:  cpu time    {seconds:.4f}: real time    {seconds:.4f}\n",
        )
        with Path("XDATCAR").open("a", encoding="ascii") as handle:
            handle.write(cell.poscar(f"Direct configuration= {self.step}"))

    def end_of_step(self, contcar: Cell, *, last: bool) -> None:
        """Close a step: CONTCAR holds where the next one would start."""
        if last:
            self._bands(contcar)
        self._put(self._xml, " </calculation>\n")
        Path("CONTCAR").write_text(contcar.poscar(str(self.incar["SYSTEM"])))

    def _bands(self, cell: Cell) -> None:
        found = eigenvalues(cell.symbols, self.electrons, self.bands, self.spins)
        xml = '  <eigenvalues>\n   <array>\n    <dimension dim="1">band</dimension>\n    <set>\n'
        for spin in range(self.spins):
            xml += f'     <set comment="spin {spin + 1}">\n'
            for k in range(len(KPOINTS)):
                xml += f'      <set comment="kpoint {k + 1}">\n'
                xml += "".join(f"       <r>{e:10.4f} {o:8.4f} </r>\n" for e, o in found[spin, k])
                xml += "      </set>\n"
            xml += "     </set>\n"
        xml += "    </set>\n   </array>\n  </eigenvalues>\n"
        gap = band_gap(cell.symbols)
        xml += f'  <dos>\n   <i name="efermi">{0.01 if gap else 0.0:12.6f} </i>\n   <total>\n    <array>\n'
        xml += "     <field>energy</field>\n     <field>total</field>\n     <field>integrated</field>\n     <set>\n"
        for spin in range(self.spins):
            xml += f'      <set comment="spin {spin + 1}">\n'
            for energy in np.linspace(-10.0, 10.0, 21):
                inside = float(energy <= 0.0 or energy >= max(gap, 0.0)) if gap else 1.0
                xml += f"       <r>{energy:10.4f} {inside:8.4f} {max(0.0, energy + 10):8.4f} </r>\n"
            xml += "      </set>\n"
        self._put(self._xml, xml + "     </set>\n    </array>\n   </total>\n  </dos>\n")

    def close(self, cell: Cell, moments: Sequence[float], *, stopped: str) -> None:
        """Write the ends of all files."""
        self._put(self._xml, _structure(cell, "finalpos") + "</modeling>\n")
        wall = time.time() - self.began
        used = resource.getrusage(resource.RUSAGE_SELF)
        text = f" {stopped} stop encountered!  aborting job ...\n" if stopped else ""
        if self.spins == 2 and int(self.incar["LORBIT"]) >= 10:
            rows = "".join(f"{i:5d}    0.000   0.000   0.000  {m:7.3f}\n" for i, m in enumerate(moments, 1))
            total = f"tot       0.000   0.000   0.000  {sum(moments):7.3f}\n"
            head = "# of ion       s       p       d       tot\n" + "-" * 42 + "\n"
            text += f"\n magnetization (x)\n\n{head}{rows}{'-' * 42}\n{total}\n"
        text += (
            "\n General timing and accounting informations for this job:\n ====\n\n"
            f"                  Total CPU time used (sec):  {used.ru_utime + used.ru_stime:12.3f}\n"
            f"                            User time (sec):  {used.ru_utime:12.3f}\n"
            f"                          System time (sec):  {used.ru_stime:12.3f}\n"
            f"                         Elapsed time (sec):  {wall:12.3f}\n\n"
            f"                   Maximum memory used (kb):  {used.ru_maxrss:12d}.\n"
            "                   Average memory used (kb):             0.\n\n"
        )
        self._put(self._outcar, text)
        if self.incar["LCHARG"] is True:
            Path("CHGCAR").write_text(cell.poscar() + "\n emulated density\n")
        if self.incar["LWAVE"] is True:
            Path("WAVECAR").write_text("emulated wave functions\n")
