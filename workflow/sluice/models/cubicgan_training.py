"""How CubicGAN learns: a Wasserstein GAN with gradient penalty (Gulrajani et al., NeurIPS 2017)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import mse_loss

from sluice.models.cubicgan import SPACE_GROUPS, Critic, CubicGAN, channels, round_points, scale_points
from sluice.models.element_features import continuous_table
from sluice.models.orbits import Decomposition, grid_index, grid_points, space_group

BETAS = (0.5, 0.9)  # of Adam, Gulrajani et al.
# Candidates are drawn with the running average of the generator's weights (Yazici et al., ICLR 2019): the weights
# themselves circle around the equilibrium.
AVERAGE_DECAY = 0.99


def sort_sites(elements: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 3) order of each crystal's sites by electronegativity: a composition has one form, in training and sampling.

    Ties (elements without a value) are broken by atomic number.
    """
    electronegativity = continuous_table()[:, 0][elements]
    return np.lexsort((elements, electronegativity), axis=1)


class GanLearner:
    """CubicGAN in training.

    Args:
        data: crystals as three base sites.
        training: indices of the training rows, repeats allowed; ``validation`` those of the validation rows.
        noise_size: see ``CubicGAN``.
        width: see ``CubicGAN``.
        learning_rate: Adam's step for both networks.
        critic_steps: critic steps for one generator step.
        gradient_penalty: weight of the gradient penalty.
        lattice_weight: weight of the lattice head's own error on real sites.
        coordinate_noise: largest displacement of real coordinates, in grid steps of 1/4; up to 0.5 rounding undoes it.
            Without it the critic tells real crystals by the roundness of their coordinates alone.
    """

    def __init__(
        self,
        data: Decomposition,
        *,
        training: NDArray[np.int64],
        validation: NDArray[np.int64],
        noise_size: int,
        width: float,
        learning_rate: float,
        critic_steps: int,
        gradient_penalty: float,
        lattice_weight: float,
        coordinate_noise: float,
    ) -> None:
        order = sort_sites(data.elements)
        self.elements = np.take_along_axis(data.elements, order, axis=1)
        self.points = np.take_along_axis(data.points, order, axis=1)
        self.lengths = data.lengths
        self.groups = np.searchsorted(SPACE_GROUPS, data.space_groups)
        self.training, self.validation = training, validation
        used = self.lengths[training]
        self.hyperparameters: dict[str, Any] = {
            "noise_size": noise_size,
            "width": width,
            "length_range": [float(used.min()), float(used.max())],
        }
        self.width, self.learning_rate, self.critic_steps = width, learning_rate, critic_steps
        self.gradient_penalty, self.lattice_weight = gradient_penalty, lattice_weight
        self.coordinate_noise = coordinate_noise * (scale_points(np.array(1)) - scale_points(np.array(0))).item()
        self.steps_done = 0
        self.last: dict[str, Tensor] = {}

    def set_up(self, fabric: Fabric) -> None:
        """Build both networks, their optimizers, and the training tensors."""
        self.fabric = fabric
        self.generator, self.critic = CubicGAN(**self.hyperparameters), Critic(width=self.width)
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=self.learning_rate, betas=BETAS, fused=True
        )
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters(), lr=self.learning_rate, betas=BETAS, fused=True
        )
        self.average = copy.deepcopy(self.generator)
        self._generator, self._generator_optimizer = fabric.setup(self.generator, self.generator_optimizer)
        self._critic, self._critic_optimizer = fabric.setup(self.critic, self.critic_optimizer)
        self._generator.mark_forward_method("lattice_constant")
        self.average = self.average.to(fabric.device).requires_grad_(False)
        self._coordinates = fabric.to_device(torch.from_numpy(scale_points(grid_points()[self.points])))  # (n, 3, 3)
        self._lengths = fabric.to_device(torch.from_numpy(self.generator.scale_lengths(self.lengths)))
        self._groups = fabric.to_device(torch.from_numpy(self.groups))
        self._elements = fabric.to_device(torch.from_numpy(self.elements))

    def _real(self, rows: Tensor) -> Tensor:
        coordinates = self._coordinates[rows]
        coordinates = coordinates + (torch.rand_like(coordinates) * 2 - 1) * self.coordinate_noise
        return channels(coordinates, self._lengths[rows], self._groups[rows], self._elements[rows], self._features)

    def _fake(self, rows: Tensor) -> Tensor:
        """Crystals of the generator's with the real ones' space groups and elements."""
        groups, elements = self._groups[rows], self._elements[rows]
        coordinates, lengths = self._generator(self._noise(len(rows)), groups, elements)
        return channels(coordinates.float(), lengths.float(), groups, elements, self._features)

    @property
    def _features(self) -> Tensor:
        return self.generator.features

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, self.generator.noise_size, device=self.fabric.device)

    def step(self, index: NDArray[np.int64], progress: float) -> dict[str, Tensor]:
        """A critic step; after every ``critic_steps`` of them a generator step."""
        rows = torch.from_numpy(self.training[index]).to(self.fabric.device)
        losses = self._critic_step(rows)
        self.steps_done += 1
        if self.steps_done % self.critic_steps == 0 or not self.last:
            self.last = self._generator_step(rows)
        return {**losses, **self.last}

    def _critic_step(self, rows: Tensor) -> dict[str, Tensor]:
        real = self._real(rows)
        with torch.no_grad():
            fake = self._fake(rows)
        judged = self._critic(torch.cat([real, fake])).float()
        gap = judged[: len(real)].mean() - judged[len(real) :].mean()
        # The authors' code draws the mixing coefficient from N(0, 1); U(0, 1) is the published method's.
        share = torch.rand(len(rows), 1, 1, device=real.device)
        mixed = (share * real + (1 - share) * fake).requires_grad_(True)
        slope = torch.autograd.grad(self._critic(mixed).float().sum(), mixed, create_graph=True)[0]
        penalty = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
        loss = -gap + self.gradient_penalty * penalty
        self._critic_optimizer.zero_grad()
        self.fabric.backward(loss)
        self._critic_optimizer.step()
        return {"critic_loss": loss.detach(), "critic_gap": gap.detach(), "gradient_penalty": penalty.detach()}

    def _generator_step(self, rows: Tensor) -> dict[str, Tensor]:
        loss = -self._critic(self._fake(rows)).float().mean()
        # ASSUME: the lattice head also learns from real sites directly; the published head sees the critic only.
        lengths = self._generator.lattice_constant(
            self._coordinates[rows], self._noise(len(rows)), self._groups[rows], self._elements[rows]
        )
        lattice = mse_loss(lengths.float(), self._lengths[rows])
        self._generator_optimizer.zero_grad()
        self.fabric.backward(loss + self.lattice_weight * lattice)
        self._generator_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - AVERAGE_DECAY)
        return {"generator_loss": loss.detach(), "lattice_loss": lattice.detach()}

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """On the validation crystals' space groups and elements: what the generator makes of them.

        ``val_distinct_sites`` is the share of crystals whose three sites lie in three orbits, ``val_recovered`` the
        share whose three orbits are the real ones, ``val_length_mae_angstrom`` the lattice constant's error.
        """
        if not len(self.validation):
            return {}
        rows = torch.from_numpy(self.validation).to(self.fabric.device)
        with torch.no_grad():
            real, noise = self._real(rows), self._noise(len(rows))
            coordinates, lengths = self.average(noise, self._groups[rows], self._elements[rows])
            fake = channels(coordinates, lengths, self._groups[rows], self._elements[rows], self._features)
            gap = self._critic(real).float().mean() - self._critic(fake).float().mean()
        points = grid_index(round_points(coordinates.float().cpu().numpy()))
        groups = self.groups[self.validation]
        found, wanted = orbits_of(groups, points), orbits_of(groups, self.points[self.validation])
        errors = np.abs(self.generator.unscale_lengths(lengths.float().cpu().numpy()) - self.lengths[self.validation])
        return {
            "val_critic_gap": float(gap),
            "val_distinct_sites": float(distinct(found).mean()),
            "val_recovered": float((found == wanted).all(axis=1).mean()),
            "val_length_mae_angstrom": float(errors.mean()),
        }

    def state(self) -> dict[str, Any]:
        """Both networks and optimizers, and where the alternation stands."""
        return {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "critic": self.critic.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "steps_done": self.steps_done,
            "last": self.last,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The other way round."""
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.critic.load_state_dict(state["critic"])
        self.generator_optimizer.load_state_dict(state["generator_optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.steps_done = state["steps_done"]
        self.last = {name: value.to(self.fabric.device) for name, value in state["last"].items()}


def orbits_of(groups: NDArray[np.int64], points: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 3) orbit of each site; ``groups`` (n,) are indices in ``SPACE_GROUPS``, ``points`` (n, 3) grid indices."""
    found = np.zeros_like(points)
    for place, number in enumerate(SPACE_GROUPS):
        found[groups == place] = space_group(number).orbit_of[points[groups == place]]
    return found


def distinct(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether the three values of each row differ."""
    ordered = np.sort(values, axis=1)
    return (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)
