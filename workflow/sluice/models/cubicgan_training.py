"""How CubicGAN learns: a Wasserstein GAN with gradient penalty (Gulrajani et al., NeurIPS 2017)."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import mse_loss

from sluice.config_generator import GeneratorSettings
from sluice.models.cubicgan import SPACE_GROUPS, CubicGAN, channels, round_points, scale_points
from sluice.models.cubicgan_descriptors import fit_descriptors
from sluice.models.distributed import balanced, mean_over_processes
from sluice.models.element_features import continuous_table
from sluice.models.orbits import Decomposition, canonical_points, grid_index, grid_points, space_group

BETAS = (0.5, 0.9)  # of Adam, Gulrajani et al.
# Candidates are drawn with the running average of the generator's weights (Yazici et al., ICLR 2019): the weights
# themselves circle around the equilibrium.
AVERAGE_DECAY = 0.99


@cache
def electronegativity_ranks() -> NDArray[np.int64]:
    """(104,) place of each element by electronegativity; ties (elements without a value) go by atomic number."""
    values = continuous_table()[:, 0]
    ranks = np.zeros(len(values), np.int64)
    ranks[np.lexsort((np.arange(len(values)), values))] = np.arange(len(values))
    return ranks


def sort_sites(elements: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, S) order of each crystal's sites by electronegativity, so that a composition has one form everywhere."""
    return np.argsort(electronegativity_ranks()[elements], axis=1)


class GanLearner:
    """CubicGAN in training.

    Args:
        data: crystals as base sites.
        settings: of the networks and the training.
        training: indices of the training rows, repeats allowed; ``validation`` those of the validation rows.
    """

    one_device_only = ""

    def __init__(
        self,
        data: Decomposition,
        settings: GeneratorSettings,
        *,
        training: NDArray[np.int64],
        validation: NDArray[np.int64],
    ) -> None:
        order = sort_sites(data.elements)
        self.elements = np.take_along_axis(data.elements, order, axis=1)
        self.points = canonical_points(data.space_groups, np.take_along_axis(data.points, order, axis=1))
        self.lengths = data.lengths
        self.groups = np.searchsorted(SPACE_GROUPS, data.space_groups)
        self.training, self.validation, self.settings = training, validation, settings
        used = self.lengths[training]
        self.hyperparameters: dict[str, Any] = {
            "sites": settings.base_sites,
            "noise_size": settings.noise_size,
            "sizes": settings.sizes.model_dump(mode="json"),
            "length_range": [float(used.min()), float(used.max())],
            "dropout": settings.dropout,
            "critic_dropout": settings.critic_dropout,
            "lattice_inputs": settings.lattice_inputs,
        }
        grid_step = (scale_points(np.array(1)) - scale_points(np.array(0))).item()
        self.coordinate_noise = settings.coordinate_noise * grid_step
        self.steps_done = 0
        self.last: dict[str, Tensor] = {}

    def set_up(self, fabric: Fabric) -> None:
        """Build both networks, their optimizers, and the training tensors."""
        self.fabric = fabric
        self.network = CubicGAN(**self.hyperparameters)
        self.network.features.copy_(torch.from_numpy(fit_descriptors(self.elements[self.training])))
        self.generator, self.critic = self.network.generator, self.network.critic
        rate = self.settings.learning_rate
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), lr=rate, betas=BETAS, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=rate, betas=BETAS, fused=True)
        self.average = copy.deepcopy(self.generator).eval()
        self._generator, self._generator_optimizer = fabric.setup(self.generator, self.generator_optimizer)
        self._critic, self._critic_optimizer = fabric.setup(self.critic, self.critic_optimizer)
        self._generator.mark_forward_method("lattice_constant")
        self.average = self.average.to(fabric.device).requires_grad_(False)
        self._coordinates = fabric.to_device(torch.from_numpy(scale_points(grid_points()[self.points])))  # (n, S, 3)
        self._lengths = fabric.to_device(torch.from_numpy(self.network.scale_lengths(self.lengths)))
        self._groups = fabric.to_device(torch.from_numpy(self.groups))
        self._elements = fabric.to_device(torch.from_numpy(self.elements))
        self._features = fabric.to_device(self.network.features)
        choice = np.unique(self.elements[self.training])
        self._choice = fabric.to_device(torch.from_numpy(choice[np.argsort(electronegativity_ranks()[choice])]))

    def _real(self, rows: Tensor) -> Tensor:
        coordinates = self._coordinates[rows]
        coordinates = coordinates + (torch.rand_like(coordinates) * 2 - 1) * self.coordinate_noise
        return channels(coordinates, self._lengths[rows], self._groups[rows], self._features[self._elements[rows]])

    def _fake(self, rows: Tensor) -> Tensor:
        """Crystals of the generator's with the real ones' space groups and, but for a share, elements."""
        groups, elements = self._groups[rows], self._elements[rows]
        share = self.settings.random_elements
        if share > 0:
            # Places in the list sorted by electronegativity, the smallest first, as sort_sites has them.
            keys = torch.rand(len(rows), len(self._choice), device=rows.device)
            places = keys.topk(elements.shape[1], dim=1).indices.sort(dim=1).values
            chance = torch.rand(len(rows), 1, device=rows.device) < share
            elements = torch.where(chance, self._choice[places], elements)
        descriptors = self._features[elements]
        coordinates, lengths = self._generator(self._noise(len(rows)), groups, descriptors)
        return channels(coordinates.float(), lengths.float(), groups, descriptors)

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, self.settings.noise_size, device=self.fabric.device)

    def step(self, index: NDArray[np.int64], progress: float) -> dict[str, Tensor]:
        """A critic step; after every ``critic_steps`` of them a generator step."""
        rows = torch.from_numpy(self.training[index]).to(self.fabric.device)
        # What a mean over this process's rows is multiplied with, so that the processes' mean is the batch's.
        part = balanced(self.fabric, torch.ones((), device=self.fabric.device), len(rows))
        losses = self._critic_step(rows, part)
        self.steps_done += 1
        if self.steps_done % self.settings.critic_steps == 0 or not self.last:
            # Of the whole batch: the first process alone writes it to the checkpoints, and all go on with it.
            self.last = mean_over_processes(self.fabric, self._generator_step(rows, part))
        return {**losses, **self.last}

    def _critic_step(self, rows: Tensor, part: Tensor) -> dict[str, Tensor]:
        real = self._real(rows)
        with torch.no_grad():
            fake = self._fake(rows)
        judged = self._critic(torch.cat([real, fake])).float()
        gap = judged[: len(real)].mean() - judged[len(real) :].mean()
        shape = (len(rows), 1, 1)
        uniform = self.settings.mixing == "uniform"
        share = torch.rand(shape, device=real.device) if uniform else torch.randn(shape, device=real.device)
        mixed = (share * real + (1 - share) * fake).requires_grad_(True)
        # In full precision whatever the training's: the slope's own slope does not survive fewer bits.
        slope = torch.autograd.grad(self.critic(mixed).sum(), mixed, create_graph=True)[0]
        penalty = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
        loss = -gap + self.settings.gradient_penalty * penalty
        self._critic_optimizer.zero_grad()
        self.fabric.backward(part * loss)
        self._critic_optimizer.step()
        found = {"critic_loss": loss, "critic_gap": gap, "gradient_penalty": penalty}
        return {name: part * value.detach() for name, value in found.items()}

    def _generator_step(self, rows: Tensor, part: Tensor) -> dict[str, Tensor]:
        loss = -self._critic(self._fake(rows)).float().mean()
        # ASSUME: the lattice head also learns from real sites directly; the published head sees the critic only.
        lengths = self._generator.lattice_constant(
            self._coordinates[rows], self._groups[rows], self._features[self._elements[rows]]
        )
        lattice = mse_loss(lengths.float(), self._lengths[rows])
        self._generator_optimizer.zero_grad()
        self.fabric.backward(part * (loss + self.settings.lattice_weight * lattice))
        self._generator_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - AVERAGE_DECAY)
        return {"generator_loss": part * loss.detach(), "lattice_loss": part * lattice.detach()}

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """On the validation crystals' space groups and elements: what the generator makes of them.

        ``val_distinct_sites`` is the share of crystals whose sites lie in different orbits, ``val_recovered`` the
        share that is the real arrangement, ``val_length_mae_angstrom`` the lattice constant's error.
        """
        if not len(self.validation):
            return {}
        rows = torch.from_numpy(self.validation).to(self.fabric.device)
        descriptors = self._features[self._elements[rows]]
        with torch.no_grad():
            real, noise = self._real(rows), self._noise(len(rows))
            coordinates, lengths = self.average(noise, self._groups[rows], descriptors)
            fake = channels(coordinates, lengths, self._groups[rows], descriptors)
            self.critic.eval()
            gap = self._critic(real).float().mean() - self._critic(fake).float().mean()
            self.critic.train()
        points = grid_index(round_points(coordinates.float().cpu().numpy()))
        groups = self.groups[self.validation]
        apart = distinct(orbits_of(groups, points))
        found = canonical_points(np.array(SPACE_GROUPS)[groups], points)
        right = apart & (found == self.points[self.validation]).all(axis=1)
        errors = np.abs(self.network.unscale_lengths(lengths.float().cpu().numpy()) - self.lengths[self.validation])
        return {
            "val_critic_gap": float(gap),
            "val_distinct_sites": float(apart.mean()),
            "val_recovered": float(right.mean()),
            "val_length_mae_angstrom": float(errors.mean()),
        }

    def weights(self) -> dict[str, Tensor]:
        """The network to keep: the averaged generator and the critic."""
        averaged = {f"generator.{name}": value for name, value in self.average.state_dict().items()}
        return {**self.network.state_dict(), **averaged}

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
    """(n, S) orbit of each site; ``groups`` (n,) are indices in ``SPACE_GROUPS``, ``points`` (n, S) grid indices."""
    found = np.zeros_like(points)
    for place, number in enumerate(SPACE_GROUPS):
        found[groups == place] = space_group(number).orbit_of[points[groups == place]]
    return found


def distinct(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether the values of each row differ."""
    ordered = np.sort(values, axis=1)
    return (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)
