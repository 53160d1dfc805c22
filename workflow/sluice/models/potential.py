"""CHGNet, the interatomic potential that labels the built database and relaxes candidates.

Everything this module returns is the energy of a machine-learned interatomic potential, **not** of a first-principles
calculation. CHGNet (Deng et al., Nat. Mach. Intell. 5, 1031, 2023; version 0.3.0 of the weights, in the package's
wheel) was fitted to PBE/PBE+U energies of the Materials Project *with* that project's MP2020 corrections, so its
energies are on that corrected scale and must not be mixed with raw energies of a DFT code.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress
from chgnet import model as chgnet_model
from chgnet.graph import CrystalGraph
from chgnet.model.model import CHGNet
from numpy.typing import NDArray
from pymatgen.core import Element
from pymatgen.optimization.neighbors import find_points_in_spheres
from threadpoolctl import threadpool_limits

from sluice.crystals import Crystals
from sluice.models.devices import pick_device

NAME = "CHGNet 0.3.0"
WEIGHTS = "0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar"
REFERENCES = Path(__file__).with_name("chgnet_references.csv")
# Above these a cell holds no crystal any more; its neighbour lists would only fill the memory.
MAX_ATOMS_PER_VOLUME = 1.0  # 1/Å³; diamond has 0.18
MAX_ELEMENT = 94  # CHGNet's composition model ends at Pu
SYMMETRY_TOLERANCE = 1e-3  # Å, for the symmetry that a relaxation keeps


class PotentialError(Exception):
    """A crystal that CHGNet can give no energy for; ``reason`` is the category, the message the particulars."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Relaxed:
    """How one relaxation ended.

    Attributes:
        crystal: the relaxed crystal, or the last geometry of one that failed (always one crystal).
        energy: CHGNet energy of that geometry in eV/atom; NaN where there is none.
        converged: whether forces and cell forces fell below the limit.
        steps: optimizer steps taken.
        max_force: largest remaining force or cell force in eV/Å (cell forces: virial per atom); NaN without one.
        reason: "" if converged, else the category (``not converged``, ``collapsed``, ``exploded``, …).
        detail: particulars of the failure.
    """

    crystal: Crystals
    energy: float
    converged: bool
    steps: int
    max_force: float
    reason: str = ""
    detail: str = ""


@lru_cache(maxsize=2)
def load_chgnet(device: str = "cpu") -> CHGNet:
    """CHGNet with the pretrained weights of its wheel, in evaluation mode, on the CPU or a GPU.

    The checkpoint is read as plain tensors (``weights_only``), which CHGNet's own loader does not do.
    """
    path = Path(str(chgnet_model.__file__)).parent.parent / "pretrained" / WEIGHTS
    state = torch.load(path, map_location="cpu", weights_only=True)
    with contextlib.redirect_stdout(io.StringIO()):
        model = CHGNet.from_dict(state["model"], mlp_out_bias=False, version="0.3.0")
    return model.to(pick_device(device)).eval()


def make_graph(
    lattice: NDArray[np.float64],
    numbers: NDArray[np.integer],
    frac_coords: NDArray[np.float64],
    model: CHGNet,
    *,
    gradients: bool = False,
) -> CrystalGraph:
    """CHGNet's graph of one crystal (atoms within 6 Å, bonds with angles within 3 Å).

    Args:
        lattice: (3, 3) cell vectors in Å.
        numbers: (k,) atomic numbers.
        frac_coords: (k, 3) fractional coordinates.
        model: whose converter to use.
        gradients: whether forces and stress will be asked for.

    Raises:
        PotentialError: if the cell is not finite, far too dense, or leaves an atom without neighbours.
    """
    if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()):
        raise PotentialError("not a number", "cell or coordinates are not finite")
    if numbers.size == 0 or int(numbers.max()) > MAX_ELEMENT:
        raise PotentialError("unknown element", f"CHGNet knows the elements up to Z = {MAX_ELEMENT}")
    volume = abs(float(np.linalg.det(lattice)))
    if volume * MAX_ATOMS_PER_VOLUME < len(numbers):
        raise PotentialError("collapsed", f"{len(numbers)} atoms in {volume:.3g} Å³")
    converter = model.graph_converter
    cart = np.ascontiguousarray(frac_coords @ lattice)
    centre, neighbour, image, distance = find_points_in_spheres(
        cart, cart, r=float(converter.atom_graph_cutoff), pbc=np.ones(3, np.int64),
        lattice=np.ascontiguousarray(lattice), tol=1e-8,
    )  # fmt: skip
    other = (centre != neighbour) | (distance > 1e-8)
    centre, neighbour, image, distance = centre[other], neighbour[other], image[other], distance[other]
    isolated = len(numbers) - len(np.unique(centre))
    if isolated:
        raise PotentialError("exploded", f"{isolated} atoms have no neighbour within {converter.atom_graph_cutoff} Å")
    graph = converter.create_graph(len(numbers), centre, neighbour, image, distance)
    atom_graph, directed = graph.adjacency_list()
    bond_graph, undirected = graph.line_graph_adjacency_list(cutoff=converter.bond_graph_cutoff)
    return CrystalGraph(
        atomic_number=torch.tensor(numbers.astype(np.int32)),
        atom_frac_coord=torch.tensor(frac_coords, dtype=torch.float32, requires_grad=gradients),
        atom_graph=torch.tensor(atom_graph, dtype=torch.int32),
        atom_graph_cutoff=converter.atom_graph_cutoff,
        neighbor_image=torch.tensor(image, dtype=torch.float32),
        directed2undirected=torch.tensor(directed, dtype=torch.int32),
        undirected2directed=torch.tensor(undirected, dtype=torch.int32),
        bond_graph=torch.tensor(bond_graph, dtype=torch.int32),
        bond_graph_cutoff=converter.bond_graph_cutoff,
        lattice=torch.tensor(lattice, dtype=torch.float32, requires_grad=gradients),
    )


def _move(graph: CrystalGraph, model: CHGNet) -> CrystalGraph:
    return graph.to(str(next(model.parameters()).device))


def energies(crystals: Crystals, *, device: str = "auto", batch_size: int = 16) -> NDArray[np.float64]:
    """(n,) CHGNet energies in eV/atom of crystals as they are; NaN where CHGNet can give none.

    These are an interatomic potential's energies on the Materials Project's corrected scale, not DFT energies.
    """
    found = np.full(len(crystals), np.nan)
    if len(crystals) == 0:
        return found
    model = load_chgnet(device)
    for start in range(0, len(crystals), batch_size):
        rows, graphs = [], []
        for i in range(start, min(start + batch_size, len(crystals))):
            part = crystals.atoms_of(i)
            with contextlib.suppress(PotentialError):
                graph = make_graph(crystals.lattice[i], crystals.numbers[part], crystals.frac_coords[part], model)
                graphs.append(_move(graph, model))
                rows.append(i)
        if graphs:
            with torch.no_grad():
                found[rows] = model.forward(graphs, task="e")["e"].double().cpu().numpy()
    return found


def why_no_energy(crystal: Crystals) -> str:
    """Why the first of these crystals has no CHGNet energy; "" if nothing speaks against it."""
    part = crystal.atoms_of(0)
    try:
        make_graph(crystal.lattice[0], crystal.numbers[part], crystal.frac_coords[part], load_chgnet("cpu"))
    except PotentialError as error:
        return f"{error.reason}: {error}"
    return ""


@lru_cache(maxsize=1)
def reference_energies() -> NDArray[np.float64]:
    """(119,) energy in eV/atom of each element's ground state by atomic number; NaN where there is none.

    The Materials Project's PBE energies of its elemental reference crystals (snapshot of 2023-02-07 as used by
    Matbench Discovery; CC-BY 4.0), uncorrected as that project leaves its elements: the consistent zero for CHGNet's
    corrected energies of compounds. For the gases they stand for molecular crystals.

    # ASSUME: CHGNet's own energies of elements are not used as the zero: it was fitted to crystals of this scale, and
    # its errors for molecules would enter every oxide, halide and nitride.
    """
    found = np.full(119, np.nan)
    with REFERENCES.open(encoding="utf-8") as handle:
        for row in csv.DictReader(line for line in handle if not line.startswith("#")):
            found[Element(row["element"]).Z] = float(row["energy_ev_per_atom"])
    return found


def formation_energies(crystals: Crystals, energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) formation energies in eV/atom from (n,) CHGNet energies in eV/atom; NaN where a reference is missing.

    Comparable with the Materials Project's *corrected* formation energies, not with raw PBE ones.
    """
    if len(crystals) == 0:
        return np.zeros(0)
    atoms = reference_energies()[crystals.numbers]
    return np.asarray(energies, np.float64) - np.add.reduceat(atoms, crystals.atom_offsets[:-1]) / crystals.n_atoms


class ChgnetCalculator(Calculator):
    """CHGNet as an ASE calculator: silent, without magnetic moments, raising where there is no crystal any more."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 (as ASE declares it)

    def __init__(self, model: CHGNet) -> None:
        super().__init__()
        self.model = model

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = tuple(all_changes)
    ) -> None:
        """Energy in eV, forces in eV/Å, stress in eV/Å³."""
        super().calculate(atoms, properties or ["energy"], system_changes)
        now: Any = self.atoms
        cell, coords = np.asarray(now.cell, dtype=np.float64), now.get_scaled_positions(wrap=False)
        graph = make_graph(cell, now.numbers, coords, self.model, gradients=True)
        found: Any = self.model.predict_graph(_move(graph, self.model), task="efs")
        if not all(np.isfinite(found[key]).all() for key in "efs"):
            raise PotentialError("not a number", "energy, forces or stress are not finite")
        energy = float(found["e"]) * len(now)
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": found["f"].astype(np.float64),
            "stress": full_3x3_to_voigt_6_stress(found["s"].astype(np.float64) * units.GPa),
        }


def relax(
    crystals: Crystals,
    *,
    max_force: float,
    max_steps: int,
    max_volume_change: float = math.inf,
    device: str = "auto",
    keep_symmetry: bool = True,
) -> Iterator[Relaxed]:
    """Relax atoms and cell of one crystal after the other; one that fails has its reason, nothing is raised.

    BFGS on atoms and cell together (``FrechetCellFilter``): a crystal is converged once the largest force *and* the
    largest cell force (virial per atom) are below ``max_force``. Deterministic; ``max_volume_change`` makes no
    difference to crystals that stay within it.

    Args:
        crystals: n crystals.
        max_force: limit for forces and cell forces, eV/Å.
        max_steps: most optimizer steps.
        max_volume_change: volume ratio to the start beyond which a crystal is given up as exploded, and below whose
            inverse as collapsed, at whatever step that happens.
        device: ``auto``, ``cpu`` or ``cuda``.
        keep_symmetry: hold the space group found at the start; otherwise numerical noise may leave a saddle point.

    Yields:
        One result a crystal, in order.
    """
    model = load_chgnet(device) if len(crystals) else None
    for i in range(len(crystals)):
        assert model is not None
        yield _relax_one(
            crystals[i : i + 1],
            ChgnetCalculator(model),
            max_force=max_force,
            max_steps=max_steps,
            max_volume_change=max_volume_change,
            keep_symmetry=keep_symmetry,
        )


def _check_volume(ratio: float, limit: float) -> None:
    if ratio > limit:
        raise PotentialError("exploded", f"volume ratio {ratio:.3g}, limit {limit:g}")
    if ratio < 1.0 / limit:
        raise PotentialError("collapsed", f"volume ratio {ratio:.3g}, limit 1/{limit:g}")


def _relax_one(
    crystal: Crystals,
    calculator: ChgnetCalculator,
    *,
    max_force: float,
    max_steps: int,
    max_volume_change: float,
    keep_symmetry: bool,
) -> Relaxed:
    steps, force = 0, float("nan")
    try:
        atoms = crystal.ase_atoms(0)
        make_graph(crystal.lattice[0], crystal.numbers, crystal.frac_coords, calculator.model)  # spglib dies of NaN
        atoms.calc = calculator
        # Threads only slow down the 3 x 3 logarithms of the cell filter: 10 ms each instead of 0.05.
        with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
            # FixSymmetry warns of large cell steps; the symmetry found afterwards is checked by whoever asked.
            warnings.simplefilter("ignore")
            if keep_symmetry:
                atoms.set_constraint(FixSymmetry(atoms, symprec=SYMMETRY_TOLERANCE, verbose=False))
            filtered: Any = FrechetCellFilter(atoms)
            optimizer = BFGS(filtered, logfile=None)
            for _ in optimizer.irun(fmax=max_force, steps=max_steps):
                steps = optimizer.nsteps
                _check_volume(float(atoms.get_volume() / crystal.volumes[0]), max_volume_change)
                force = float(np.sqrt((filtered.get_forces() ** 2).sum(axis=1)).max())
        energy = float(atoms.get_potential_energy()) / len(atoms)
    except PotentialError as error:
        return Relaxed(_geometry(atoms, crystal), float("nan"), False, steps, force, error.reason, str(error))
    except Exception as error:  # whatever ASE, spglib or torch meet in an impossible crystal must not end the others
        detail = f"{type(error).__name__}: {error}"
        return Relaxed(crystal, float("nan"), False, steps, force, "relaxation failed", detail[:200])
    relaxed = _geometry(atoms, crystal)
    if force < max_force:
        return Relaxed(relaxed, energy, True, steps, force)
    detail = f"{force:.3g} eV/Å after {steps} steps, limit {max_force:g}"
    return Relaxed(relaxed, energy, False, steps, force, "not converged", detail)


def _geometry(atoms: Atoms, start: Crystals) -> Crystals:
    """The crystal as ASE holds it now, with the atoms still in the order they came in."""
    cell = np.asarray(atoms.cell, dtype=np.float64)[None]
    return Crystals(cell, start.atom_offsets, start.numbers, np.asarray(atoms.get_scaled_positions(wrap=True)))
