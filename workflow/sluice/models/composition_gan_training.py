"""How WGAN and MatGAN learn: a critic tells real compositions from drawn ones, a generator follows it."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from sluice.chemistry.compositions import Compositions
from sluice.chemistry.encodings import ELEMENTS_85, MAX_COUNT, OneHotCounts
from sluice.config_composition_gan import CompositionGanSettings
from sluice.errors import SluiceError
from sluice.models.matgan import Matgan
from sluice.models.training import Plan, Row, train
from sluice.models.wgan import CompositionGan, Wgan
from sluice.provenance import sha256_of_text

BETAS = (0.5, 0.9)  # of Adam, both papers' source: Gulrajani et al., NeurIPS 2017
HELD_OUT_ROWS = 4096  # of the held-out compositions, at most, that the critic's loss is measured on
NOISE_SEED = 2020


@dataclass(frozen=True)
class SparseMatrices:
    """Matrices of zeros and ones as the places of their ones.

    Attributes:
        offsets: (n + 1,) int64, ones of matrix i are ``offsets[i]:offsets[i + 1]``.
        places: (m,) uint8 row (element) of each one.
        counts: (m,) uint8 count that its column stands for.
        shape: rows × columns.
    """

    offsets: NDArray[np.int64]
    places: NDArray[np.uint8]
    counts: NDArray[np.uint8]
    shape: tuple[int, int]

    @classmethod
    def of(cls, compositions: Compositions, encoding: OneHotCounts) -> SparseMatrices:
        """Matrices of compositions.

        Raises:
            SluiceError: if one of them has none.
        """
        wrong = next((f"{k + 1}: {p}" for k, p in enumerate(encoding.problems(compositions)) if p), "")
        if wrong:
            raise SluiceError(f"a composition cannot be encoded, number {wrong}")
        return cls(
            compositions.offsets,
            encoding.position[compositions.numbers].astype(np.uint8),
            compositions.counts().astype(np.uint8),
            (encoding.shape[0], encoding.shape[1]),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def digest(self) -> str:
        """Digest of all of it."""
        found = hashlib.sha256()
        for array in (self.offsets, self.places, self.counts):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def dense(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(r, elements, counts) of the chosen matrices."""
        sizes = np.diff(self.offsets)[rows]
        ends = np.cumsum(sizes)
        entries = np.repeat(self.offsets[rows] - (ends - sizes), sizes) + np.arange(sizes.sum())
        values = np.zeros((len(rows), *self.shape), dtype=np.float32)
        values[np.repeat(np.arange(len(rows)), sizes), self.places[entries], self.counts[entries].astype(int) - 1] = 1.0
        return values


def make_gan(
    settings: CompositionGanSettings, elements: Sequence[str] = ELEMENTS_85, max_count: int = MAX_COUNT
) -> tuple[CompositionGan, dict[str, Any]]:
    """The untrained networks for these elements, in order of atomic number, and their arguments."""
    shape = {"elements": list(elements), "max_count": max_count}
    if settings.model == "wgan":
        arguments: dict[str, Any] = {
            **shape,
            "noise_size": settings.noise_size,
            "embedding_size": settings.embedding_size,
            "critic_widths": list(settings.critic_widths),
            "width": settings.width,
        }
        return Wgan(**arguments), arguments
    arguments = {
        **shape,
        "noise_size": settings.noise_size,
        "critic_norm": settings.critic_norm,
        "width": settings.width,
    }
    return Matgan(**arguments), arguments


class CompositionGanLearner:
    """WGAN or MatGAN in training.

    The kept weights are those of the epoch, after a warm-up, with the smallest critic loss on held-out compositions.
    # ASSUME: the published "total loss of the discriminator", 4.1e13 → 0.3194, is the absolute difference of the mean
    # scores of held-out and drawn compositions: with its sign it would have no lower end.

    Args:
        compositions: all of them, those of both index lists within the matrices' elements and counts.
        settings: of networks and training.
        training: indices of those learned from; ``validation`` of those held out.
        epochs: passes to come, from which the warm-up follows.
        elements: rows of the matrices, in order of atomic number.
        max_count: columns of the matrices.
    """

    one_device_only = "GANs of compositions are small"

    def __init__(
        self,
        compositions: Compositions,
        settings: CompositionGanSettings,
        *,
        training: NDArray[np.int64],
        validation: NDArray[np.int64],
        epochs: int,
        elements: Sequence[str] = ELEMENTS_85,
        max_count: int = MAX_COUNT,
    ) -> None:
        self.settings, self.training, self.validation = settings, training, validation
        self.shape = (tuple(elements), max_count)
        self.matrices = SparseMatrices.of(compositions, OneHotCounts(*self.shape))
        self.first_kept = min(epochs - 1, math.ceil(settings.warm_up * epochs))
        self.steps_done = 0
        self.last: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}
        self.best_loss = math.inf

    def set_up(self, fabric: Fabric) -> None:
        """Build both networks and their optimizers."""
        self.fabric = fabric
        self.network, self.hyperparameters = make_gan(self.settings, *self.shape)
        self.generator, self.critic = self.network.generator, self.network.critic
        self.generator_optimizer = self._make_optimizer(self.generator, self.settings.generator_rate)
        self.critic_optimizer = self._make_optimizer(self.critic, self.settings.critic_rate)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self._generator, self._generator_optimizer = fabric.setup(self.generator, self.generator_optimizer)
        self._critic, self._critic_optimizer = fabric.setup(self.critic, self.critic_optimizer)
        self.average = self.average.to(fabric.device).eval()

    def _make_optimizer(self, network: torch.nn.Module, rate: float) -> torch.optim.Optimizer:
        if self.settings.optimizer == "adam":
            return torch.optim.Adam(network.parameters(), lr=rate, betas=BETAS)
        return torch.optim.RMSprop(network.parameters(), lr=rate)

    def _real(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.matrices.dense(rows)).to(self.fabric.device)

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, self.settings.noise_size, device=self.fabric.device)

    def step(self, index: NDArray[np.int64], progress: float) -> dict[str, Tensor]:
        """A critic step; after every ``critic_steps`` of them a generator step."""
        # Batch normalization cannot learn from a single row.
        self._generator.train(len(index) > 1)
        self._critic.train(len(index) > 1)
        losses = self._critic_step(self._real(self.training[index]))
        self.steps_done += 1
        if self.steps_done % self.settings.critic_steps == 0 or not self.last:
            self.last = self._generator_step(len(index))
        return {**losses, **self.last}

    def _critic_step(self, real: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = self._generator(self._noise(len(real))).float()
        gap = self._critic(real).float().mean() - self._critic(fake).float().mean()
        loss = -gap
        found = {"critic_gap": gap.detach()}
        if self.settings.constraint == "penalty":
            penalty = loss.new_zeros(())
            if self.steps_done % self.settings.penalty_every == 0:
                penalty = self.settings.penalty_every * self._penalty(real, fake)  # so that its mean is the same
            loss = loss + self.settings.gradient_penalty * penalty
            found["gradient_penalty"] = penalty.detach()
        self._critic_optimizer.zero_grad()
        self.fabric.backward(loss)
        self._critic_optimizer.step()
        if self.settings.constraint == "clipping":
            with torch.no_grad():
                for weight in self.critic.parameters():
                    weight.clamp_(-self.settings.clip, self.settings.clip)
        return {"critic_loss": loss.detach(), **found}

    def _penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean squared deviation of the slope's length from one, between real and drawn matrices."""
        share = torch.rand(len(real), 1, 1, device=real.device)
        mixed = (real + share * (fake - real)).requires_grad_(True)
        slope = torch.autograd.grad(self._critic(mixed).float().sum(), mixed, create_graph=True)[0]
        return (((slope.square().flatten(1).sum(dim=1) + 1e-8).sqrt() - 1) ** 2).mean()

    def _generator_step(self, n: int) -> dict[str, Tensor]:
        loss = -self._critic(self._generator(self._noise(n)).float()).float().mean()
        self._generator_optimizer.zero_grad()
        self.fabric.backward(loss)
        self._generator_optimizer.step()
        with torch.no_grad():
            kept, current = self.average.state_dict(), self.generator.state_dict()
            for name, value in kept.items():
                if value.is_floating_point():
                    value.lerp_(current[name], 1 - self.settings.average)
        return {"generator_loss": loss.detach()}

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """The critic's loss on held-out compositions; the best epoch's weights are kept."""
        if not len(self.validation):
            return {}
        rows = self.validation[:HELD_OUT_ROWS]
        # The same noise every time, and none taken from the training's own sequence.
        source = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn(len(rows), self.settings.noise_size, generator=source).to(self.fabric.device)
        self._critic.eval()
        with torch.no_grad():
            fake = self.average(noise).float()
            gap = float(self._critic(self._real(rows)).float().mean() - self._critic(fake).float().mean())
            ones = fake >= 0.5
            possible = (ones.sum(dim=2) <= 1).all(dim=1) & ones.flatten(1).any(dim=1)
        if epoch >= self.first_kept and abs(gap) < self.best_loss:
            self.best_loss = abs(gap)
            self.best = {name: value.detach().cpu().clone() for name, value in self.current().items()}
        return {"val_critic_gap": gap, "val_critic_loss": abs(gap), "val_decodable": float(possible.float().mean())}

    def current(self) -> dict[str, Tensor]:
        """The present weights, the generator's running average in place of the generator."""
        averaged = {f"generator.{name}": value for name, value in self.average.state_dict().items()}
        return {**self.network.state_dict(), **averaged}

    def weights(self) -> dict[str, Tensor]:
        """The weights to keep."""
        return self.best if self.settings.keep == "best" and self.best else self.current()

    def state(self) -> dict[str, Any]:
        """Both networks and optimizers, the best epoch, and where the alternation stands."""
        return {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "critic": self.critic.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "steps_done": self.steps_done,
            "last": self.last,
            "best": self.best,
            "best_loss": self.best_loss,
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
        self.best, self.best_loss = state["best"], state["best_loss"]


def hold_out(n: int, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to learn from and indices held out, at random."""
    order = np.random.default_rng([seed, 17]).permutation(n)
    held_out = round(share * n)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def train_composition_gan(
    compositions: Compositions,
    settings: CompositionGanSettings,
    *,
    seed: int,
    checkpoints: Path,
    metrics: Path,
    device: str = "auto",
    precision: str = "32-true",
    threads: int = 1,
    elements: Sequence[str] = ELEMENTS_85,
) -> tuple[CompositionGan, dict[str, Any], list[Row]]:
    """Train WGAN or MatGAN, or go on where it was interrupted.

    Args:
        compositions: all within the elements and eight atoms of each; a share is held out.
        settings: of networks and training.
        seed: of the split, weights, order and noise.
        checkpoints: folder that survives interruptions.
        metrics: CSV with one row an epoch.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: lightning-fabric's name.
        threads: CPU threads; results are equal to the bit at equal threads.
        elements: that compositions may be drawn of, in order of atomic number.

    Returns:
        The networks with the kept weights, their arguments, and the metrics.

    Raises:
        SluiceError: if there is nothing to learn from, a composition cannot be encoded, or training diverged.
    """
    training, validation = hold_out(len(compositions), settings.validation_share, seed)
    if len(training) < 2:
        raise SluiceError(f"{len(compositions)} compositions are too few to learn from")
    batches = -(-len(training) // settings.batch_size)
    epochs = -(-settings.steps // batches)
    learner = CompositionGanLearner(
        compositions, settings, training=training, validation=validation, epochs=epochs, elements=elements
    )
    chosen = settings.model_dump_json(exclude={"checkpoint_minutes"})
    rows = train(
        learner,
        Plan(
            description=f"train {settings.model}",
            n_rows=len(training),
            epochs=epochs,
            batch_size=settings.batch_size,
            seed=seed,
            digest=sha256_of_text(
                f"{chosen} {seed} {precision} {threads} {list(elements)} {learner.matrices.digest()}"
            ),
            checkpoints=checkpoints,
            checkpoint_minutes=settings.checkpoint_minutes,
            metrics=metrics,
            device=device,
            precision=precision,
            threads=threads,
        ),
    )
    weights = learner.weights()
    if not all(bool(torch.isfinite(value).all()) for value in weights.values() if value.is_floating_point()):
        raise SluiceError(f"{settings.model}: training diverged; lower generator_rate and critic_rate")
    network, arguments = make_gan(settings, elements)
    network.load_state_dict(weights)
    return network.eval(), arguments, rows
