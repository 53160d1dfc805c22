"""Several heads of one architecture trained side by side, each on a split and from weights of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from sluice.chemistry.compositions import Compositions
from sluice.chemistry.encodings import Encoding
from sluice.models.cgcnn_training import one_cycle
from sluice.models.composition import CompositionModel
from sluice.models.heads import PAPER_WIDTHS
from sluice.models.layers import Dense
from sluice.models.learner import BestEpoch

EVALUATION_ROWS = 4096


class StackedHeads(nn.Module):
    """``members`` networks, inputs → hidden layers → one output, on inputs of their own.

    Args:
        inputs: width of the input.
        members: number of networks.
        widths: of the hidden layers.
    """

    def __init__(self, inputs: int, members: int, widths: Sequence[int] = PAPER_WIDTHS) -> None:
        super().__init__()
        sizes = [inputs, *widths, 1]
        self.layers = nn.ModuleList(Dense(a, b, bags=members) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(M, B, inputs) → (M, B)."""
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x).squeeze(-1)


class StackedHeadsLearner(BestEpoch):
    """Stacked heads in training; each member keeps its best validation epoch.

    Args:
        values: (n, inputs) encoded compositions.
        target: (n,) what is learned, in its unit.
        training: (M, t) indices of each member's training rows; ``validation`` (M, v) of its validation rows.
        widths: of the hidden layers.
        learning_rate: Adam's peak step.
        loss: ``mae`` or ``mse``.
    """

    network: StackedHeads
    one_device_only = "stacked heads train as one stack"

    def __init__(
        self,
        values: NDArray[np.float32],
        target: NDArray[np.float64],
        *,
        training: NDArray[np.int64],
        validation: NDArray[np.int64],
        widths: Sequence[int],
        learning_rate: float,
        loss: str,
    ) -> None:
        self.values, self.target = values, target
        self.training, self.validation = training, validation
        self.widths, self.learning_rate, self.loss = tuple(widths), learning_rate, loss
        super().__init__()
        self.best_rank = torch.full((len(training),), -math.inf, dtype=torch.float64)  # each member's own

    def set_up(self, fabric: Fabric) -> None:
        """Build the networks; inputs and targets are scaled by each member's own training rows."""
        self.fabric = fabric
        members = len(self.training)
        self.network = StackedHeads(self.values.shape[1], members, self.widths)
        moments = [_moments(self.values[rows]) for rows in self.training]
        self.input_mean = torch.from_numpy(np.stack([mean for mean, _ in moments])[:, None])  # (M, 1, inputs)
        self.input_std = torch.from_numpy(np.stack([std for _, std in moments])[:, None])
        chosen = self.target[self.training]
        self.target_mean, self.target_std = chosen.mean(axis=1), chosen.std(axis=1)
        self.target_std[self.target_std == 0] = 1.0
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)
        self.optimizers = (self.optimizer,)
        self._network, self._optimizer = fabric.setup(self.network, self.optimizer)
        device = fabric.device
        self._mean, self._std = self.input_mean.to(device), self.input_std.to(device)
        self._values = torch.from_numpy(self.values).to(device)
        scaled = (self.target[None] - self.target_mean[:, None]) / self.target_std[:, None]
        self._scaled = torch.from_numpy(scaled.astype(np.float32)).to(device)

    def _inputs(self, rows: Tensor) -> Tensor:
        """(M, B, inputs) of (M, B) rows."""
        return (self._values[rows] - self._mean) / self._std

    def step(self, index: NDArray[np.int64], progress: float) -> dict[str, Tensor]:
        """One step of Adam for all members."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * one_cycle(progress)
        rows = torch.from_numpy(self.training[:, index]).to(self.fabric.device)
        error = self._network(self._inputs(rows)).float() - self._scaled.gather(1, rows)
        losses = (error.abs() if self.loss == "mae" else error.square()).mean(dim=1)
        self._optimizer.zero_grad()
        self.fabric.backward(losses.sum())  # members share no weight
        self._optimizer.step()
        return {"train_loss": losses.detach().mean()}

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(M, r) values for (M, r) rows, in the target's unit."""
        parts = []
        with torch.no_grad():
            for start in range(0, rows.shape[1], EVALUATION_ROWS):
                part = torch.from_numpy(rows[:, start : start + EVALUATION_ROWS]).to(self.fabric.device)
                parts.append(self._network(self._inputs(part)).double().cpu().numpy())
        return np.concatenate(parts, axis=1) * self.target_std[:, None] + self.target_mean[:, None]

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Mean validation error over the members; each keeps its best weights."""
        error = np.abs(self.predict(self.validation) - self.target[self.validation])
        mae = torch.from_numpy(error.mean(axis=1))
        better = -mae > self.best_rank
        self.best_rank = torch.where(better, -mae, self.best_rank)
        state = self.weights_now()
        before = self.best or state
        self.best = {
            name: torch.where(better.reshape(-1, *[1] * (value.ndim - 1)), value, before[name])
            for name, value in state.items()
        }
        return {"val_mae": float(mae.mean())}

    def ensemble(self, encoding: Encoding, compositions: Compositions) -> CompositionModel:
        """The members as one model of compositions; their scales go into their first and last layers.

        Args:
            encoding: that made ``values``.
            compositions: the training compositions, whose elements are the known ones.
        """
        settings = {"model": "head", "widths": list(self.widths), "members": len(self.training)}
        model = CompositionModel(settings=settings, encoding=encoding.plain())
        model.known[torch.from_numpy(np.unique(compositions.numbers).astype(np.int64))] = True
        state = {name: value.cpu().double() for name, value in self.network.state_dict().items()}
        last = len(self.widths)
        for k, member in enumerate(model.members):
            weights = [(state[f"layers.{i}.weight"][k], state[f"layers.{i}.bias"][k]) for i in range(last + 1)]
            first = weights[0][0] / self.input_std[k].double()
            weights[0] = (first, weights[0][1] - first @ self.input_mean[k, 0].double())
            scale, shift = float(self.target_std[k]), float(self.target_mean[k])
            weights[last] = (weights[last][0] * scale, weights[last][1] * scale + shift)
            names = [*(f"layers.{i}" for i in range(last)), "output"]
            found: dict[str, torch.Tensor] = {}
            for name, (weight, bias) in zip(names, weights, strict=True):
                found |= {f"{name}.weight": weight.float(), f"{name}.bias": bias.float()}
            member.load_state_dict(found)
        return model.eval()


def _moments(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each column; 1 where a column does not vary."""
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    return mean.astype(np.float32), np.where(std > 1e-8, std, 1.0).astype(np.float32)
