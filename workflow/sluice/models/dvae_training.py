"""How the disentangled VAE learns: labelled and unlabelled alloys in one objective, all members at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from sluice.chemistry.alloy_features import AlloyElements
from sluice.models.dvae import DisentangledVAE
from sluice.models.modelfile import save_model

BETAS, EPSILON = (0.9, 0.999), 1e-8
PLATEAU_THRESHOLD = 1e-4  # relative; torch's and the authors'


@dataclass(frozen=True)
class AlloyTable:
    """Alloys to learn from.

    Attributes:
        fractions: (n, N) element fractions.
        features: (n, F) engineered features in their own units.
        targets: (n, T) classes 0 or 1 of the target properties; NaN where a labelled row lacks one, but not all. Those
            of unlabelled rows are never looked at.
        labelled: for each member, its rows with at least one label; equally many for all.
        unlabelled: for each member, its unlabelled rows.
        validation: rows to choose the best epoch by.
        target_names: T names of the target properties.

    Raises:
        ValueError: if targets and names do not match, a labelled row has no class, or a validation row lacks one.
    """

    fractions: NDArray[np.float64]
    features: NDArray[np.float64]
    targets: NDArray[np.float64]
    labelled: NDArray[np.int64]
    unlabelled: NDArray[np.int64]
    validation: NDArray[np.int64]
    target_names: tuple[str, ...] = ("single_phase",)

    def __post_init__(self) -> None:
        shape, names = (len(self.fractions), len(self.target_names)), self.target_names
        if self.targets.shape != shape or len(set(names)) != len(names):
            raise ValueError(
                f"targets of shape {self.targets.shape}, but {shape[0]} alloys and targets named {', '.join(names)}:"
                " give one column for each name, and each name once"
            )
        known, missing = np.isin(self.targets, (0.0, 1.0)), np.isnan(self.targets)
        rows = self.labelled.ravel()
        if not ((known | missing)[rows].all() and known[rows].any(axis=1).all() and known[self.validation].all()):
            raise ValueError(
                "labelled rows need the class 0 or 1 of at least one target, NaN for the others, and validation rows of"
                " every target; rows without any are unlabelled"
            )

    @property
    def n_rows(self) -> int:
        """Rows that one member learns from."""
        return self.labelled.shape[1] + self.unlabelled.shape[1]

    @property
    def partly_labelled(self) -> bool:
        """Whether labelled rows lack a label."""
        return bool(np.isnan(self.targets[self.labelled]).any())


class DvaeLearner:
    """Members of a disentangled VAE in training.

    The loop's row i is, for member k, the i-th of its labelled rows followed by its unlabelled ones, so that a batch
    has equally many labelled rows for every member.

    Args:
        table: what to learn from.
        hyperparameters: ``DisentangledVAE``'s arguments; ``targets`` are the table's, each with the prior 0.5 unless
            ``prior_target`` says otherwise.
        seeds: one for each member.
        learning_rate: Adam's step at the start.
        schedule: ``plateau``: ``plateau_epochs`` without a better bound of the labelled rows halve the step;
            ``cosine``: it falls to 1 % along half a cosine.
        keep: ``best``: each member ends with its best epoch by validation accuracy; ``last``: with the last one.
        aux: weight of the label likelihood.
        weight_decay: of the label head's weights (decoupled).
        init_std: standard deviation of the initial hidden weights; None: He's.
        validation_steps: the authors' quirk: an optimizer step on the validation rows after every epoch.
        evaluate_every: epochs between measurements.
    """

    one_device_only = "the disentangled VAE's members train as one stack"

    def __init__(
        self,
        table: AlloyTable,
        hyperparameters: Mapping[str, Any],
        seeds: Sequence[int],
        *,
        learning_rate: float,
        plateau_epochs: int,
        schedule: Literal["plateau", "cosine"] = "plateau",
        keep: Literal["best", "last"] = "best",
        aux: float,
        weight_decay: float = 0.0,
        init_std: float | None = 0.001,
        validation_steps: bool = False,
        evaluate_every: int = 10,
    ) -> None:
        self.table, self.seeds, self._partly = table, list(seeds), table.partly_labelled
        priors = {"prior_target": [0.5] * len(table.target_names)}
        self.hyperparameters = priors | dict(hyperparameters) | {"targets": list(table.target_names)}
        self.learning_rate, self.plateau_epochs, self.aux = learning_rate, plateau_epochs, aux
        self.schedule, self.keep = schedule, keep
        self.weight_decay, self.init_std = weight_decay, init_std
        self.validation_steps, self.evaluate_every = validation_steps, evaluate_every

    def set_up(self, fabric: Fabric) -> None:
        """Build the members and the state of Adam."""
        self.fabric = fabric
        members, device = len(self.seeds), fabric.device
        self.network = DisentangledVAE(members=members, **self.hyperparameters)
        self.network.initialize(self.seeds, self.init_std)
        seen = np.concatenate([self.table.labelled[0], self.table.unlabelled[0]])
        with torch.no_grad():  # features need no labels: all training rows scale them
            self.network.fit_features(torch.from_numpy(self.table.features[seen]))
        self.network.to(device)
        flat = self.network.flat
        self.first, self.second = torch.zeros_like(flat), torch.zeros_like(flat)
        self.rate = torch.full((members, 1), self.learning_rate, device=device)
        self.steps, self.since_best = 0, torch.zeros(members, 1, device=device)
        self.best_bound = torch.full((members, 1), -math.inf, device=device)
        self.best_rank = torch.full((members, 2), -math.inf, dtype=torch.float64)
        self.best = flat.detach().clone()
        self._epoch_bound = torch.zeros(members, device=device)
        self._last: dict[str, float] = {}
        self._decayed = self._label_weights().to(device)
        self._tensors(device)

    def _label_weights(self) -> torch.Tensor:
        """(1, P) 1 where a parameter is a weight of the label head."""
        parts = [
            torch.full((n,), float(name == "label" and is_weight))
            for name, sizes in self.network.layers.items()
            for i, o in sizes
            for n, is_weight in ((i * o, True), (o, False))
        ]
        return torch.cat(parts)[None]

    def _tensors(self, device: torch.device) -> None:
        table = self.table
        self.x = torch.tensor(table.fractions, dtype=torch.float32, device=device)
        self.e = self.network.encode_features(torch.tensor(table.features, dtype=torch.float32, device=device)).detach()
        self.y = torch.tensor(table.targets, dtype=torch.float32, device=device)
        # Each member meets the loop's rows in an order of its own.
        own = [np.random.default_rng([seed, 7]) for seed in self.seeds]
        orders = [
            np.concatenate([rng.permutation(table.labelled[k]), rng.permutation(table.unlabelled[k])])
            for k, rng in enumerate(own)
        ]
        self.order = torch.from_numpy(np.stack(orders)).to(device)  # (S, n)

    def step(self, index: NDArray[np.int64], progress: float) -> dict[str, torch.Tensor]:
        """One step of Adam on a batch of labelled and unlabelled rows."""
        if self.schedule == "cosine":
            self.rate.fill_(self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))))
        n_labelled = self.table.labelled.shape[1]
        known, unknown = (
            torch.from_numpy(i).to(self.order.device) for i in (index[index < n_labelled], index[index >= n_labelled])
        )
        losses = self._learn(self.order[:, known], self.order[:, unknown])
        self._epoch_bound += losses["elbo"] * len(known)
        return {name: value.mean() for name, value in losses.items()}

    def _learn(self, known: torch.Tensor, unknown: torch.Tensor) -> dict[str, torch.Tensor]:
        """Adam (Kingma and Ba 2015) with a rate for each member; rows (S, L) and (S, U)."""
        self.network.train()
        self.network.flat.grad = None
        losses = self.network.objective(
            (self.x[known], self.e[known], self.y[known]),
            (self.x[unknown], self.e[unknown]),
            self.aux,
            partly=self._partly,
        )
        self.fabric.backward(losses["loss"].sum())
        self.steps += 1
        with torch.no_grad():
            flat, gradient = self.network.flat, self.network.flat.grad
            assert gradient is not None
            self.first.lerp_(gradient, 1 - BETAS[0])
            self.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            scale = math.sqrt(1 - BETAS[1] ** self.steps)
            update = self.first / (self.second.sqrt().div_(scale)).add_(EPSILON)
            if self.weight_decay:
                flat.sub_(self.rate * self.weight_decay * self._decayed * flat)
            flat.sub_(update.mul_(self.rate / (1 - BETAS[0] ** self.steps)))
        return {name: value.detach() for name, value in losses.items()}

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Adapt the step, take the quirk's step, measure now and then, keep each member's best weights."""
        bound = (self._epoch_bound / self.table.labelled.shape[1])[:, None]
        self._epoch_bound.zero_()
        if self.schedule == "plateau":
            self._watch(bound)
        if self.validation_steps and len(self.table.validation):
            rows = torch.from_numpy(self.table.validation).to(self.order.device).expand(len(self.seeds), -1)
            self._learn(rows, rows[:, :0])
        if epoch % self.evaluate_every == 0 or not self._last:
            self._last = self._measure()
        return self._last | {"learning_rate": float(self.rate.mean())}

    def _watch(self, bound: torch.Tensor) -> None:
        """Halve the step of members whose bound (S, 1) has not grown for long."""
        better = bound > self.best_bound + PLATEAU_THRESHOLD * self.best_bound.abs().nan_to_num(posinf=0.0)
        self.best_bound = torch.where(better, bound, self.best_bound)
        self.since_best = torch.where(better, 0.0, self.since_best + 1)
        stuck = self.since_best > self.plateau_epochs
        self.rate = torch.where(stuck, 0.5 * self.rate, self.rate)
        self.since_best = torch.where(stuck, 0.0, self.since_best)

    def _measure(self) -> dict[str, float]:
        self.network.eval()
        with torch.no_grad():
            rows = torch.from_numpy(self.table.validation).to(self.order.device)
            logits, truth = self.network.label_logits(self.e[rows][None]), self.y[rows]
            accuracy = ((logits > 0) == (truth > 0.5)).double().mean((1, 2))
            likelihood = (
                -torch.nn.functional.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none")
                .double()
                .mean((1, 2))
            )
            train = self.order[:, : self.table.labelled.shape[1]]
            right = (self.network.label_logits(self.e[train]) > 0) == (self.y[train] > 0.5)
            train_accuracy = right[~self.y[train].isnan()].double().mean()
        rank = torch.stack([accuracy, likelihood], 1).cpu()
        better = (rank[:, 0] > self.best_rank[:, 0]) | (
            (rank[:, 0] == self.best_rank[:, 0]) & (rank[:, 1] > self.best_rank[:, 1])
        )
        self.best_rank[better] = rank[better]
        chosen = better.to(self.best.device)
        self.best[chosen] = self.network.flat.detach()[chosen]
        return {
            "train_accuracy": float(train_accuracy),
            "val_accuracy": float(accuracy.mean()),
            "val_label_log_likelihood": float(likelihood.mean()),
            "best_val_accuracy": float(self.best_rank[:, 0].mean()),
        }

    def finish(self) -> DisentangledVAE:
        """The trained members: as they are, or each at its best epoch by validation accuracy, then likelihood."""
        if self.keep == "best":
            with torch.no_grad():
                self.network.flat.copy_(self.best)
        return self.network.cpu().eval()

    _STATE = ("first", "second", "rate", "since_best", "best_bound", "best_rank", "best", "_epoch_bound")

    def state(self) -> dict[str, Any]:
        """Weights, Adam's moments, rates, best weights."""
        return {
            "flat": self.network.flat.detach().clone(),
            "steps": self.steps,
            "last": dict(self._last),
            **{name: getattr(self, name).clone() for name in self._STATE},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The other way round."""
        with torch.no_grad():
            self.network.flat.copy_(state["flat"])
        self.steps, self._last = state["steps"], dict(state["last"])
        for name in self._STATE:
            setattr(self, name, state[name].to(getattr(self, name).device))


def save_dvae(path: Path, learner: DvaeLearner, elements: AlloyElements, formulas: Sequence[str]) -> None:
    """Write the model file of trained members, which ``sluice score`` applies to formulas.

    Args:
        path: file to write.
        learner: after ``finish``.
        elements: properties that the engineered features of further alloys are computed from.
        formulas: of the training alloys.
    """
    save_model(
        path,
        kind="dvae",
        task="classification",
        hyperparameters=learner.hyperparameters | {"members": len(learner.seeds)},
        state=learner.network.state_dict(),
        facts={
            "alloy_elements": elements.plain(),
            "training_formulas": list(formulas),
            "seeds": learner.seeds,
        },
    )
