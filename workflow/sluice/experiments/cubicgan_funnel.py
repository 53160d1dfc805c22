"""The paper's funnel: crystals drawn, and how many pass each check, in memory that grows with the unique ones alone."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from sluice.chemistry.charge_neutrality import METALS_ONLY, charge_problems, charge_rule
from sluice.chemistry.compositions import Compositions
from sluice.chemistry.geometry import densities
from sluice.chemistry.hull import MAX_Z
from sluice.chemistry.symmetry import SpaceGroupFinder
from sluice.config import ChargeSettings, GeometrySettings, SymmetrySettings
from sluice.experiments.cubicgan_data import crystal_keys
from sluice.models.cubicgan_sampling import Draws, Sampler
from sluice.models.orbits import build_crystals
from sluice.screen.check_geometry import examine
from sluice.step import track

CHUNK = 4000
RESERVOIR = 20_000  # crystals whose properties are kept for distributions
# What distributions are compared in, and the unit of the distance.
DISTANCES = {
    "lattice_constant": "Å",
    "density": "g/cm³",
    "volume_per_atom": "Å³",
    "elements": "JS distance",
    "prototypes": "JS distance",
    "space_groups": "JS distance",
}


@dataclass
class Sites:
    """Crystals as base sites, in order; columns as in ``Draws``."""

    space_groups: NDArray[np.int64]
    points: NDArray[np.int64]
    elements: NDArray[np.int64]
    lengths: NDArray[np.float64]

    @classmethod
    def of(cls, draws: Draws, chosen: NDArray) -> Sites:
        """The chosen draws."""
        return cls(draws.space_groups[chosen], draws.points[chosen], draws.elements[chosen], draws.lengths[chosen])

    @classmethod
    def joined(cls, parts: list[Sites]) -> Sites:
        """One after the other."""
        names = ("space_groups", "points", "elements", "lengths")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: NDArray | slice) -> Sites:
        return Sites(self.space_groups[index], self.points[index], self.elements[index], self.lengths[index])

    def keys(self) -> NDArray[np.int64]:
        """(n,) see ``crystal_keys``."""
        return crystal_keys(self.space_groups, self.points, self.elements)


@dataclass
class Funnel:
    """What became of n crystals drawn.

    Attributes:
        counts: how many passed each check, by its name, in order.
        first: the first draws, possible or not, with ``possible`` (k,).
        passed: what passed every check, each crystal once.
        sample: crystals of possible geometry and the right symmetry, for distributions.
    """

    counts: Counter[str]
    first: Sites
    possible: NDArray[np.bool_]
    passed: Sites
    sample: Sites


@dataclass
class _Checks:
    """The checks with what they remember."""

    symmetry: SymmetrySettings = field(default_factory=SymmetrySettings)
    geometry: GeometrySettings = field(default_factory=GeometrySettings)
    charge: ChargeSettings = field(default_factory=ChargeSettings)

    def __post_init__(self) -> None:
        self.finder = SpaceGroupFinder(self.symmetry.symprec)

    def __call__(self, sites: Sites, counts: Counter[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which pass geometry and symmetry, and which of those charge; counts how many get how far."""
        crystals = build_crystals(sites.space_groups, sites.points, sites.elements, sites.lengths)
        alive = np.flatnonzero(examine(crystals, self.geometry)[0] == "")
        counts["geometry"] += len(alive)
        alive = alive[self.finder(crystals[alive]) == sites.space_groups[alive]]
        counts["symmetry"] += len(alive)
        compositions = Compositions.from_crystals(crystals[alive])
        neutral = charge_rule(self.charge.oxidation_states).neutral(compositions)
        counts["neutral"] += int(neutral.sum())
        problems = charge_problems(compositions, self.charge)
        counts["metals only"] += int((problems == METALS_ONLY).sum())
        counts["charge"] += int((problems == "").sum())
        return alive, alive[problems == ""]


def draw_and_check(sampler: Sampler, n: int, seed: int, *, keep: int) -> Funnel:
    """Draw n crystals and check them as CubicGAN's authors did, with the interatomic distances before.

    Args:
        sampler: where they come from.
        n: how many.
        seed: of the draws.
        keep: how many of the first draws to keep.
    """
    rng, counts, checks = np.random.default_rng([seed, 7]), Counter[str](), _Checks()
    first: list[Sites] = []
    possible: list[NDArray[np.bool_]] = []
    passed: list[Sites] = []
    sample: list[Sites] = []
    seen = np.zeros(0, np.int64)
    for start in track(range(0, n, CHUNK), "draw and check", unit="chunks"):
        draws = sampler.draw(rng, CHUNK)
        asked = np.arange(CHUNK) < n - start
        if sampler.critic_share < 1:  # the favourites are what is drawn
            asked &= ~np.isnan(draws.critic) & (draws.reasons == "")
        good = asked & (draws.reasons == "")
        counts["drawn"] += int(asked.sum())
        counts["distinct"] += int(good.sum())
        if sum(map(len, first)) < keep:
            first.append(Sites.of(draws, asked))
            possible.append(good[asked])
        sites = Sites.of(draws, good)
        sound, neutral = checks(sites, counts)
        if sum(map(len, sample)) < RESERVOIR:
            sample.append(sites[sound])
        sites = sites[neutral]
        keys, places = np.unique(sites.keys(), return_index=True)
        new = ~np.isin(keys, seen, assume_unique=True)
        seen = np.union1d(seen, keys[new])
        passed.append(sites[np.sort(places[new])])
    counts["unique"] = len(seen)
    return Funnel(
        counts,
        Sites.joined(first)[slice(keep)],
        np.concatenate(possible)[:keep],
        Sites.joined(passed),
        Sites.joined(sample)[slice(RESERVOIR)],
    )


def distances(made: Sites, real: Sites) -> dict[str, float]:
    """Distances between the distributions of two sets of crystals.

    Returns:
        Earth mover's distances of the lattice constant (Å), density (g/cm³) and volume per atom (Å³), Jensen–Shannon
        distances (base 2, 0 … 1) of elements, prototypes (space group, orbits by electronegativity), space groups. NaN
        where either set is empty.
    """
    if not (len(made) and len(real)):
        return {f"distance_{name}": math.nan for name in DISTANCES}
    values, shares = [], []
    for sites in (made, real):
        crystals = build_crystals(sites.space_groups, sites.points, sites.elements, sites.lengths)
        values.append((sites.lengths, densities(crystals), crystals.volumes / crystals.n_atoms))
        prototypes = sites.keys() // (MAX_Z + 1) ** sites.elements.shape[1]
        shares.append((np.bincount(sites.elements.ravel(), minlength=MAX_Z + 1), prototypes, sites.space_groups))
    found = [float(wasserstein_distance(a, b)) for a, b in zip(*values, strict=True)]
    found.append(float(jensenshannon(shares[0][0], shares[1][0], base=2)))
    for place in (1, 2):
        labels, inverse = np.unique(np.concatenate([shares[0][place], shares[1][place]]), return_inverse=True)
        n = len(shares[0][place])
        counts = [np.bincount(part, minlength=len(labels)) for part in (inverse[:n], inverse[n:])]
        found.append(float(jensenshannon(*counts, base=2)))
    return {f"distance_{name}": value for name, value in zip(DISTANCES, found, strict=True)}
