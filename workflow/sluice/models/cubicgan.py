"""CubicGAN (Zhao et al., Adv. Sci. 8, 2100566, 2021): cubic crystals from a few base sites.

A crystal is a sequence of base sites × channels: 3 coordinates, 23 descriptors of the element, the lattice constant and
the space group one-hot. Three sites of three elements are the paper's ternaries; four make quaternaries. The layers are
the authors'; all convolutions have kernels of 1 or 2, so they are written as matrix products over neighbouring places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sluice.config_generator import GanSizes
from sluice.models.cubicgan_descriptors import MAX_Z, N_DESCRIPTORS
from sluice.models.orbits import GRID, HALL_NUMBERS

SPACE_GROUPS = tuple(HALL_NUMBERS)  # order of the one-hot
SPAN = GRID / (GRID - 1)  # coordinates end half a grid step beyond the outer points, so that all are alike
AXES = 3
SLOPE = 0.2


def channels(coordinates: Tensor, lengths: Tensor, groups: Tensor, descriptors: Tensor) -> Tensor:
    """Put a batch of crystals into the critic's form.

    The authors' code lays the space group's one-hot along the three sites; here every site holds all of it, since
    crystals may have four sites.

    Args:
        coordinates: (B, S, 3) scaled coordinates of the sites.
        lengths: (B,) scaled lattice constants.
        groups: (B,) index of the space group in ``SPACE_GROUPS``.
        descriptors: (B, S, 23) of the elements.

    Returns:
        (B, S, 30).
    """
    one_hot = nn.functional.one_hot(groups, len(SPACE_GROUPS)).to(coordinates.dtype)  # (B, 3 groups)
    per_crystal = torch.cat([lengths[:, None], one_hot], dim=1)[:, None, :]
    per_crystal = per_crystal.expand(-1, coordinates.shape[1], -1)  # (B, S, 4)
    return torch.cat([coordinates, descriptors.to(coordinates.dtype), per_crystal], dim=2)


def scale_points(points: NDArray[np.int64]) -> NDArray[np.float32]:
    """(…, 3) multiples of 1/4 → [−1, 1]."""
    return (points / (GRID - 1) * 2 - 1).astype(np.float32)


def round_points(coordinates: NDArray) -> NDArray[np.int64]:
    """The other way round, to the nearest multiple of 1/4."""
    return np.clip(np.rint((coordinates + 1) / 2 * (GRID - 1)), 0, GRID - 1).astype(np.int64)


class PairConv(nn.Module):
    """Convolution of kernel 2 along the second-last axis: (…, L, C) → (…, L − 1, C')."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * before, after)

    def forward(self, x: Tensor) -> Tensor:
        """Join neighbours."""
        return self.linear(torch.cat([x[..., :-1, :], x[..., 1:, :]], dim=-1))


class PairExpand(nn.Module):
    """Transposed convolution of kernel 2 along the second-last axis: (…, L, C) → (…, L + 1, C')."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.linear = nn.Linear(before, 2 * after, bias=False)
        self.bias = nn.Parameter(torch.zeros(after))

    def forward(self, x: Tensor) -> Tensor:
        """Spread every place over two."""
        left, right = self.linear(x).chunk(2, dim=-1)
        pad = nn.functional.pad
        return pad(left, (0, 0, 0, 1)) + pad(right, (0, 0, 1, 0)) + self.bias


def _dense(sizes: Sequence[int], activation: nn.Module) -> nn.Sequential:
    """Fully connected layers with an activation after each, then one to a single number."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), activation]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


class Generator(nn.Module):
    """Noise, space group and elements → coordinates of the base sites and a lattice constant.

    Args:
        sites: number of base sites S.
        noise_size: length of the noise vector.
        sizes: widths of the layers.
        dropout: share of the hidden values dropped between the layers of the coordinates in training.
        lattice_inputs: what the lattice head sees, see ``GeneratorSettings``.
    """

    def __init__(self, *, sites: int, noise_size: int, sizes: GanSizes, dropout: float, lattice_inputs: str) -> None:
        super().__init__()
        self.sites, self.lattice_inputs = sites, lattice_inputs
        self.embed_group = nn.Embedding(len(SPACE_GROUPS), sizes.group_embedding)
        self.group = nn.Linear(sizes.group_embedding, sizes.group)
        self.element = nn.Linear(N_DESCRIPTORS, sizes.element)
        self.noise = nn.Linear(noise_size, sizes.noise)
        self.dense = nn.Linear(sizes.group + sites * sizes.element + sizes.noise, sites * sizes.site)
        widths = sizes.coordinates
        layers: list[nn.Module] = []
        for place, (before, after) in enumerate(pairwise((sizes.site, *widths))):
            layers += [PairExpand(before, after) if place < AXES - 1 else nn.Linear(before, after), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout else []
        self.coordinates = nn.Sequential(*layers, nn.Linear(widths[-1], 1), nn.Tanh())
        seen = sites * AXES if lattice_inputs == "coordinates" else sites * (AXES + N_DESCRIPTORS) + len(SPACE_GROUPS)
        self.lattice = _dense((seen, *sizes.lattice), nn.LeakyReLU(SLOPE))

    def forward(self, noise: Tensor, groups: Tensor, descriptors: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled coordinates (B, S, 3) and scaled lattice constants (B,); ``descriptors`` (B, S, 23)."""
        group = torch.relu(self.group(self.embed_group(groups)))  # (B, 96)
        elements = torch.relu(self.element(descriptors)).flatten(1)  # (B, S · 128)
        hidden = torch.relu(self.dense(torch.cat([group, elements, self.noise(noise)], dim=1)))
        hidden = hidden.view(len(noise), self.sites, 1, -1)  # (B, S, 1, 128)
        coordinates = self.coordinates(hidden).squeeze(-1) * SPAN  # (B, S, 3): 1 → 2 → 3 by expansion
        return coordinates, self.lattice_constant(coordinates, groups, descriptors)

    def lattice_constant(self, coordinates: Tensor, groups: Tensor, descriptors: Tensor) -> Tensor:
        """The lattice head: scaled lattice constants (B,) that fit the sites."""
        seen = coordinates.flatten(1)
        if self.lattice_inputs != "coordinates":
            one_hot = nn.functional.one_hot(groups, len(SPACE_GROUPS)).to(seen.dtype)
            seen = torch.cat([seen, descriptors.to(seen.dtype).flatten(1), one_hot], dim=1)
        return self.lattice(seen).squeeze(1)


class Critic(nn.Module):
    """Crystal → a number, larger for real ones; no batch normalization, which the gradient penalty forbids.

    The first three layers see one site each, the fourth a site and the next one, the last two narrow the sequence.

    Args:
        sites: number of base sites.
        sizes: widths of the layers.
        dropout: share of the hidden values dropped between the convolutions in training.
    """

    def __init__(self, *, sites: int, sizes: GanSizes, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for place, (before, after) in enumerate(
            pairwise((AXES + N_DESCRIPTORS + 1 + len(SPACE_GROUPS), *sizes.critic))
        ):
            if place == 3:
                layers.append(nn.ZeroPad2d((0, 0, 0, 1)))  # "same" padding: after the last site
            layers.append(nn.Linear(before, after) if place < 3 else PairConv(before, after))
            layers += [nn.Dropout(dropout)] if dropout else []
            layers.append(nn.LeakyReLU(SLOPE))
        self.convolutions = nn.Sequential(*layers)
        left = sites - max(0, len(sizes.critic) - 4)
        self.dense = _dense((left * sizes.critic[-1], *sizes.critic_dense), nn.LeakyReLU(SLOPE))

    def forward(self, crystals: Tensor) -> Tensor:
        """(B, S, 30) → (B,)."""
        return self.dense(self.convolutions(crystals).flatten(1)).squeeze(1)


class CubicGAN(nn.Module):
    """The generator, with the critic that it was trained against.

    Args:
        sites: number of base sites, each of an element of its own.
        noise_size: length of the noise vector.
        sizes: widths of the layers.
        length_range: smallest and largest conventional lattice constant of the training crystals, Å.
        dropout, critic_dropout, lattice_inputs: see ``Generator`` and ``Critic``.
    """

    features: Tensor  # (104, 23) scaled descriptors of the elements, fitted to the training crystals

    def __init__(
        self,
        *,
        sites: int,
        noise_size: int,
        sizes: GanSizes | Mapping[str, Any],
        length_range: Sequence[float],
        dropout: float = 0.0,
        critic_dropout: float = 0.0,
        lattice_inputs: Literal["crystal", "coordinates"] = "crystal",
    ) -> None:
        super().__init__()
        sizes = GanSizes.model_validate(sizes)
        self.sites, self.noise_size, self.length_range = sites, noise_size, tuple(length_range)
        self.register_buffer("features", torch.zeros(MAX_Z + 1, N_DESCRIPTORS))
        self.generator = Generator(
            sites=sites, noise_size=noise_size, sizes=sizes, dropout=dropout, lattice_inputs=lattice_inputs
        )
        self.critic = Critic(sites=sites, sizes=sizes, dropout=critic_dropout)

    def describe(self, elements: Tensor) -> Tensor:
        """(B, S) atomic numbers → (B, S, 23) descriptors."""
        return self.features[elements.clamp(max=MAX_Z)]

    def forward(self, noise: Tensor, groups: Tensor, elements: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled coordinates (B, S, 3) and scaled lattice constants (B,)."""
        return self.generator(noise, groups, self.describe(elements))

    def judge(self, coordinates: Tensor, lengths: Tensor, groups: Tensor, elements: Tensor) -> Tensor:
        """The critic's opinion (B,) of crystals, coordinates and lengths scaled."""
        return self.critic(channels(coordinates, lengths, groups, self.describe(elements)))

    def scale_lengths(self, lengths: NDArray[np.float64]) -> NDArray[np.float32]:
        """Lattice constants in Å → [−1, 1] over the training range."""
        low, high = self.length_range
        return ((lengths - low) / max(high - low, 1e-6) * 2 - 1).astype(np.float32)

    def unscale_lengths(self, scaled_lengths: NDArray) -> NDArray[np.float64]:
        """The other way round, Å."""
        low, high = self.length_range
        return (np.asarray(scaled_lengths, dtype=np.float64) + 1) / 2 * max(high - low, 1e-6) + low
