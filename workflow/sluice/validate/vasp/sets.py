"""What decides a number: the input sets of atomate2's makers, what moves, Hubbard's U.

The sets are Materials Project's as pymatgen has them; nothing in them is changed but what must be for a molecule in a
box (ISIF, NUPDOWN) or is asked for (plain PBE). The settings of a task hold the INCAR and k-points that result, so that
a version of pymatgen that changes them makes new tasks and no silent mixture.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pymatgen.core import Structure
from pymatgen.io.vasp.sets import MP24StaticSet, MPScanStaticSet, MPStaticSet, VaspInputSet

from sluice.validate.espresso.sets import k_grid

RYDBERG_EV = 13.605693
GGA, GGA_U, R2SCAN = "GGA", "GGA+U", "r2SCAN"
# Tags by site or kind of atom, told by element instead, so that the order of atoms plays no part.
_BY_SITE, _BY_KIND = ("MAGMOM",), ("LDAUU", "LDAUJ", "LDAUL")
_NOT_THE_NUMBER = ("KPAR", "NCORE", "NPAR", "NSIM", "SYSTEM")


@dataclass(frozen=True)
class FlowKind:
    """One of atomate2's flows.

    Attributes:
        module: where atomate2 has it.
        functional: ``GGA`` or ``r2SCAN``.
        static: the input set of its static calculation, whose energy counts.
    """

    module: str
    functional: str
    static: Callable[[dict[str, Any]], VaspInputSet]


def _gga(user: dict[str, Any]) -> VaspInputSet:
    return MPStaticSet(force_gamma=True, auto_metal_kpoints=True, inherit_incar=False, user_incar_settings=user)


# The static sets as atomate2's makers make them (a test compares).
_METAGGA = {"ALGO": "FAST", "GGA": None, "LCHARG": True, "LWAVE": False, "LVHAR": None, "LELF": False}


def _scan(user: dict[str, Any]) -> VaspInputSet:
    return MPScanStaticSet(auto_ismear=False, inherit_incar=False, user_incar_settings={**_METAGGA, **user})


def _mp24(user: dict[str, Any]) -> VaspInputSet:
    return MP24StaticSet(xc_functional="r2SCAN", user_incar_settings={"LELF": True, "KPAR": 1, **user})


FLOWS = {
    "MPGGADoubleRelaxStaticMaker": FlowKind("atomate2.vasp.flows.mp", GGA, _gga),
    "MPMetaGGADoubleRelaxStaticMaker": FlowKind("atomate2.vasp.flows.mp", R2SCAN, _scan),
    "MP24DoubleRelaxStaticMaker": FlowKind("atomate2.vasp.flows.mp", R2SCAN, _mp24),
}


class VaspCalculationSettings(BaseModel):
    """Everything that decides the energy of a calculation besides structure, code and POTCARs.

    Attributes:
        flow: name in ``FLOWS``.
        run_type: ``GGA``, ``GGA+U`` or ``r2SCAN``.
        hubbards: U by element, eV; empty without.
        relax: ``cell`` (with ions), ``ions`` or ``none``.
        changed: tags of the flow's INCARs that are set otherwise than its makers do.
        incar: the static calculation's INCAR, tags by site told by element.
        kpoints: divisions of its grid, also where the INCAR says a spacing.
        functional: pymatgen's name of the POTCARs' functional.
        potcars: POTCAR's symbol by element.
        snapshot: SHA-256 of the snapshot that an elemental reference is taken from; "" where it is computed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flow: str
    run_type: str
    hubbards: dict[str, float]
    relax: Literal["cell", "ions", "none"]
    changed: dict[str, Any]
    incar: dict[str, Any]
    kpoints: tuple[int, int, int]
    functional: str
    potcars: dict[str, str]
    snapshot: str = ""

    # What the estimate of costs asks for, in its words.
    @property
    def ecutwfc_ry(self) -> float:
        """Cutoff of the wave functions, Ry."""
        return float(self.incar["ENCUT"]) / RYDBERG_EV

    @property
    def ecutrho_ry(self) -> float:
        """Cutoff of the density, Ry: VASP's fine grid holds twice the wave functions' wave vectors."""
        return 4.0 * self.ecutwfc_ry

    @property
    def relax_kpoints(self) -> tuple[int, int, int]:
        """The relaxation's grid, which is the static calculation's but for its density."""
        return self.kpoints

    @property
    def starting_moments(self) -> Mapping[str, float]:
        """Moments by element, μB; these sets are spin-polarized throughout."""
        found: Mapping[str, float] = self.incar.get("MAGMOM", {})
        return found

    @property
    def nosym(self) -> bool:
        """Whether symmetry is switched off."""
        return int(self.incar.get("ISYM", 2)) <= 0


def calculation_settings(
    structure: Structure,
    *,
    flow: str,
    hubbard_u: bool = True,
    relax: Literal["cell", "ions", "none"] = "cell",
    total_moment: float | None = None,
    snapshot: str = "",
) -> VaspCalculationSettings:
    """Settings of one calculation.

    Args:
        structure: what is going to be calculated.
        flow: name in ``FLOWS``.
        hubbard_u: PBE+U where Materials Project has it.
        relax: what may move.
        total_moment: fixed moment of the cell, μB (NUPDOWN).
        snapshot: SHA-256 of the snapshot that the energy is taken from.
    """
    changed: dict[str, Any] = {}
    if relax == "ions":
        changed["ISIF"] = 2
    if total_moment is not None:
        changed["NUPDOWN"] = total_moment
    if not hubbard_u and calculation_settings(structure, flow=flow).hubbards:
        changed["LDAU"] = False
    kind = FLOWS[flow]
    user = {tag: value for tag, value in changed.items() if tag != "ISIF"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen on smearing and r2SCAN's POTCARs: the sets are taken as they are
        made = kind.static(user)
        inputs = made.get_input_set(structure, potcar_spec=True)
    incar = _by_element(dict(inputs["INCAR"]), inputs["POSCAR"].structure)
    hubbards = {e: float(u) for e, u in incar.get("LDAUU", {}).items() if u} if incar.get("LDAU") else {}
    kpoints = inputs["KPOINTS"]
    run_type = kind.functional if not hubbards else f"{kind.functional}+U"
    if kpoints is None:
        grid = k_grid(structure.lattice, float(incar["KSPACING"]))
    else:
        a, b, c = (int(n) for n in kpoints.kpts[0])
        grid = a, b, c
    elements = [str(e) for e in inputs["POSCAR"].site_symbols]
    return VaspCalculationSettings(
        flow=flow,
        run_type=run_type,
        hubbards=hubbards,
        relax=relax,
        changed=changed,
        incar=incar,
        kpoints=grid,
        functional=str(made.user_potcar_functional),
        potcars=dict(zip(elements, (str(symbol) for symbol in made.potcar_symbols), strict=True)),
        snapshot=snapshot,
    )


def _by_element(incar: dict[str, Any], structure: Structure) -> dict[str, Any]:
    sites = [site.specie.symbol for site in structure]
    kinds = list(dict.fromkeys(sites))
    found: dict[str, Any] = {}
    for tag, value in sorted(incar.items()):
        if tag in _NOT_THE_NUMBER:
            continue
        if tag in _BY_SITE:
            found[tag] = {element: float(moment) for element, moment in zip(sites, value, strict=True)}
        elif tag in _BY_KIND:
            found[tag] = {element: float(number) for element, number in zip(kinds, value, strict=True)}
        else:
            found[tag] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
