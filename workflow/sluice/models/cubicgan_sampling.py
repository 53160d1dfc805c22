"""Drawing crystals from CubicGAN, whole chunks at a time: what generation and the paper's experiment share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sluice.crystals import Crystals
from sluice.errors import SluiceError
from sluice.models.cubicgan import SPACE_GROUPS, CubicGAN, round_points, scale_points
from sluice.models.cubicgan_training import distinct, orbits_of, sort_sites
from sluice.models.devices import pick_device
from sluice.models.favourites import UNLIKELY, all_but_favourites
from sluice.models.modelfile import Model
from sluice.models.orbits import build_crystals, grid_index, grid_points

NO_NUMBER = "generator gave no number"
COINCIDE = "two sites coincide"
NOT_POSITIVE = "lattice constant not positive"


@dataclass(frozen=True)
class Draws:
    """A chunk of n crystals as drawn.

    Attributes:
        space_groups: (n,) international numbers.
        points: (n, S) grid index of each base site.
        elements: (n, S) atomic numbers, by electronegativity.
        lengths: (n,) conventional lattice constants in Å.
        reasons: (n,) why a draw makes no candidate, "" for those that do.
        critic: (n,) the critic's opinion; NaN where it was not asked.
    """

    space_groups: NDArray[np.int64]
    points: NDArray[np.int64]
    elements: NDArray[np.int64]
    lengths: NDArray[np.float64]
    reasons: NDArray[np.object_]
    critic: NDArray[np.float64]

    def crystals(self, chosen: NDArray[np.bool_]) -> Crystals:
        """The chosen ones as primitive crystals."""
        return build_crystals(
            self.space_groups[chosen], self.points[chosen], self.elements[chosen], self.lengths[chosen]
        )


def group_weights(model: Model, wanted: Sequence[int]) -> NDArray[np.float64]:
    """(3,) probability of each of ``SPACE_GROUPS``: its frequency in training among those wanted.

    Raises:
        SluiceError: if none of them was trained on.
    """
    counts = np.array(model.facts["space_group_counts"], dtype=np.float64)
    counts[~np.isin(SPACE_GROUPS, list(wanted))] = 0
    if counts.sum() == 0:
        raise SluiceError(
            f"{model.path}: trained on no crystal of the space groups {sorted(wanted)}; change chemistry.space_groups"
            " or generate.space_groups"
        )
    return counts / counts.sum()


class Sampler:
    """Draws crystals: the space group by its frequency in training, distinct elements at random.

    Args:
        model: CubicGAN's model file.
        elements: atomic numbers to draw from.
        space_groups: international numbers to draw.
        critic_share: share of every chunk that goes on, the critic's favourites.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        SluiceError: if the model is no generator, knows none of the space groups, has a critic that never learned
            to choose, or if there are too few elements.
    """

    def __init__(
        self,
        model: Model,
        *,
        elements: NDArray[np.int64],
        space_groups: Sequence[int],
        critic_share: float,
        device: str,
    ) -> None:
        network = model.network
        if not isinstance(network, CubicGAN):
            raise SluiceError(f"{model.path}: a {model.kind} model generates nothing; give a generator.ckpt")
        if len(elements) < network.sites:
            raise SluiceError(
                f"{model.path}: makes crystals of {network.sites} elements, but only {len(elements)} may be drawn"
            )
        if critic_share < 1 and not model.facts.get("random_elements", 0):
            raise SluiceError(
                f"{model.path}: its critic never learned which elements belong together (random_elements was 0 in"
                " training), so generate.critic_share must be 1"
            )
        self.where = pick_device(device)
        self.network = network.to(self.where).eval()
        self.elements, self.weights = np.sort(elements), group_weights(model, space_groups)
        self.critic_share = critic_share

    def draw(self, rng: np.random.Generator, n: int) -> Draws:
        """Draw n crystals; only ``rng`` decides which."""
        groups = rng.choice(len(SPACE_GROUPS), size=n, p=self.weights)
        sites = self.network.sites
        keys = rng.random((n, len(self.elements)), dtype=np.float32)
        chosen = self.elements[np.argpartition(keys, sites - 1, axis=1)[:, :sites]]  # (n, S)
        chosen = np.take_along_axis(chosen, sort_sites(chosen), axis=1)
        noise = rng.standard_normal((n, self.network.noise_size), dtype=np.float32)
        with torch.inference_mode():
            coordinates, lengths = self.network(*self._to_device(noise, groups, chosen))
        sites_found, scaled = coordinates.cpu().numpy(), lengths.cpu().numpy()
        finite = np.isfinite(sites_found).all(axis=(1, 2)) & np.isfinite(scaled)
        points = grid_index(round_points(np.where(finite[:, None, None], sites_found, 0.0)))
        constants = self.network.unscale_lengths(np.where(finite, scaled, 0.0))
        reasons = np.full(n, "", dtype=object)
        reasons[constants <= 0] = NOT_POSITIVE
        reasons[~distinct(orbits_of(groups, points))] = COINCIDE
        reasons[~finite] = NO_NUMBER
        critic = np.full(n, np.nan)
        if self.critic_share < 1:
            critic = self._judge(points, np.where(finite, scaled, 0.0), groups, chosen)
            self._keep_favourites(reasons, critic)
        return Draws(np.array(SPACE_GROUPS)[groups], points, chosen, constants, reasons, critic)

    def _to_device(self, *arrays: NDArray) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(np.ascontiguousarray(array)).to(self.where) for array in arrays)

    def _judge(self, points: NDArray, scaled: NDArray, groups: NDArray, elements: NDArray) -> NDArray[np.float64]:
        """The critic's opinion (n,) of the rounded crystals."""
        coordinates = scale_points(grid_points()[points])
        with torch.inference_mode():
            opinion = self.network.judge(*self._to_device(coordinates, scaled.astype(np.float32), groups, elements))
        return opinion.double().cpu().numpy()

    def _keep_favourites(self, reasons: NDArray[np.object_], critic: NDArray[np.float64]) -> None:
        """Reject all but the share of possible crystals that the critic likes best."""
        possible = np.flatnonzero(reasons == "")
        reasons[possible[all_but_favourites(critic[possible], self.critic_share, len(reasons))]] = UNLIKELY
