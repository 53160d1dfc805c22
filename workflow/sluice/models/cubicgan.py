"""CubicGAN (Zhao et al., Adv. Sci. 8, 2100566, 2021): ternary cubic crystals from three base sites.

A crystal is a sequence of 3 sites × channels: 3 coordinates, the element's descriptors, the lattice constant and the
space group one-hot. Layer widths are the paper's times ``width``.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sluice.models.element_features import MAX_Z, N_FEATURES, feature_table
from sluice.models.orbits import GRID, HALL_NUMBERS

SITES = 3
SPACE_GROUPS = tuple(HALL_NUMBERS)  # order of the one-hot
EMBEDDING = 64
DENSE = 384
GENERATOR_CHANNELS = (1024, 1024, 512, 512, 128)
LATTICE_CHANNELS = (30, 18, 6)
CRITIC_CHANNELS = (128, 512, 1024, 1024, 2048, 4096)
CRITIC_DENSE = (1024, 512, 256, 32)
SPAN = GRID / (GRID - 1)  # coordinates end half a grid step beyond the outer points, so that all are alike


def scaled(size: int, width: float, least: int = 64) -> int:
    """A layer's width; no layer becomes a bottleneck."""
    return max(least, round(size * width))


def channels(coordinates: Tensor, lengths: Tensor, groups: Tensor, elements: Tensor, features: Tensor) -> Tensor:
    """Put a batch of crystals into the critic's form.

    Args:
        coordinates: (B, 3, 3) scaled coordinates of the sites.
        lengths: (B,) scaled lattice constants.
        groups: (B,) index of the space group in ``SPACE_GROUPS``.
        elements: (B, 3) atomic numbers.
        features: (104, F) descriptors of the elements.

    Returns:
        (B, C, 3) with the sites last.
    """
    one_hot = nn.functional.one_hot(groups, len(SPACE_GROUPS)).to(coordinates.dtype)  # (B, 3 groups)
    per_crystal = torch.cat([lengths[:, None], one_hot], dim=1)[:, None, :].expand(-1, SITES, -1)  # (B, 3, 4)
    return torch.cat([coordinates, features[elements].to(coordinates.dtype), per_crystal], dim=2).transpose(1, 2)


def scale_points(points: NDArray[np.int64]) -> NDArray[np.float32]:
    """(…, 3) multiples of 1/4 → [−1, 1]."""
    return (points / (GRID - 1) * 2 - 1).astype(np.float32)


def round_points(coordinates: NDArray) -> NDArray[np.int64]:
    """The other way round, to the nearest multiple of 1/4."""
    return np.clip(np.rint((coordinates + 1) / 2 * (GRID - 1)), 0, GRID - 1).astype(np.int64)


class CubicGAN(nn.Module):
    """The generator: noise, space group and three elements → coordinates of the sites and a lattice constant.

    Args:
        noise_size: length of the noise vector.
        width: width of the layers relative to the paper's.
        length_range: smallest and largest conventional lattice constant of the training crystals, Å.
    """

    features: Tensor

    def __init__(self, *, noise_size: int, width: float, length_range: tuple[float, float]) -> None:
        super().__init__()
        self.noise_size, self.length_range = noise_size, tuple(length_range)
        self.register_buffer("features", torch.from_numpy(feature_table()))  # (104, F)
        sizes = [scaled(size, width) for size in GENERATOR_CHANNELS]
        site = scaled(128, width)
        self.embed_group = nn.Embedding(len(SPACE_GROUPS), EMBEDDING)
        self.embed_element = nn.Conv1d(N_FEATURES, site, 1)
        self.dense = nn.Linear(noise_size + EMBEDDING + SITES * site, DENSE)
        layers: list[nn.Module] = [
            nn.ConvTranspose1d(DENSE // SITES + site, sizes[0], 3, padding=1), nn.ReLU(),
        ]  # fmt: skip
        for before, after in pairwise(sizes):
            layers += [nn.Conv1d(before, after, 3, padding=1), nn.ReLU()]
        self.coordinates = nn.Sequential(*layers, nn.Conv1d(sizes[-1], SITES, 1), nn.Tanh())
        lattice = [N_FEATURES * SITES + SITES * SITES + len(SPACE_GROUPS) + noise_size, *LATTICE_CHANNELS]
        steps: list[nn.Module] = []
        for before, after in pairwise(lattice):
            steps += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
        self.lattice = nn.Sequential(*steps, nn.Linear(lattice[-1], 1))

    def forward(self, noise: Tensor, groups: Tensor, elements: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled coordinates (B, 3 sites, 3) and scaled lattice constants (B,)."""
        features = self.features[elements.clamp(max=MAX_Z)].to(noise.dtype)  # (B, 3, F)
        sites = torch.relu(self.embed_element(features.transpose(1, 2)))  # (B, S, 3)
        start = torch.cat([noise, self.embed_group(groups), sites.flatten(1)], dim=1)
        hidden = torch.relu(self.dense(start)).view(len(noise), DENSE // SITES, SITES)  # (B, 128, 3)
        coordinates = self.coordinates(torch.cat([hidden, sites], dim=1)).transpose(1, 2) * SPAN  # (B, 3, 3)
        return coordinates, self.lattice_constant(coordinates, noise, groups, elements)

    def lattice_constant(self, coordinates: Tensor, noise: Tensor, groups: Tensor, elements: Tensor) -> Tensor:
        """The lattice head: scaled lattice constants (B,) that fit the sites."""
        features = self.features[elements.clamp(max=MAX_Z)].to(noise.dtype).flatten(1)  # (B, 3 F)
        one_hot = nn.functional.one_hot(groups, len(SPACE_GROUPS)).to(noise.dtype)
        return self.lattice(torch.cat([features, coordinates.flatten(1), one_hot, noise], dim=1)).squeeze(1)

    def scale_lengths(self, lengths: NDArray[np.float64]) -> NDArray[np.float32]:
        """Lattice constants in Å → [−1, 1] over the training range."""
        low, high = self.length_range
        return ((lengths - low) / max(high - low, 1e-6) * 2 - 1).astype(np.float32)

    def unscale_lengths(self, scaled_lengths: NDArray) -> NDArray[np.float64]:
        """The other way round, Å."""
        low, high = self.length_range
        return (np.asarray(scaled_lengths, dtype=np.float64) + 1) / 2 * max(high - low, 1e-6) + low


class Critic(nn.Module):
    """Crystal → a number, larger for real ones; no batch normalization, which the gradient penalty forbids.

    Args:
        width: width of the layers relative to the paper's.
    """

    def __init__(self, *, width: float) -> None:
        super().__init__()
        sizes = [3 + N_FEATURES + 1 + len(SPACE_GROUPS), *(scaled(size, width) for size in CRITIC_CHANNELS)]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Conv1d(before, after, 3, padding=1), nn.LeakyReLU(0.2)]
        self.convolutions = nn.Sequential(*layers)
        dense = [sizes[-1] * SITES, *(scaled(size, width) for size in CRITIC_DENSE)]
        steps: list[nn.Module] = []
        for before, after in pairwise(dense):
            steps += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
        self.dense = nn.Sequential(*steps, nn.Linear(dense[-1], 1))

    def forward(self, crystals: Tensor) -> Tensor:
        """(B, C, 3) → (B,)."""
        return self.dense(self.convolutions(crystals).flatten(1)).squeeze(1)
