"""How the bagged networks learn: in the same steps on the same graphs, each on its own rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from sluice.models.cgcnn_training import one_cycle
from sluice.models.graphs import Graphs
from sluice.models.processes import over_processes
from sluice.models.pu_bags import BaggedCGCNN

BAGS_AT_ONCE = 10


class BagLearner:
    """Bagged CGCNN in training.

    A step takes rows that at least one bag learns from; a row outside a bag counts neither in that bag's loss nor in
    the statistics of its normalizations, so each bag learns what it would alone from its part of the batch.

    Args:
        graphs: of all rows.
        target: (n,) 1 for known positives, 0 for unlabelled rows.
        member: (A, n) which rows each bag learns from.
        hyperparameters: arguments of ``BaggedCGCNN``.
        learning_rate: Adam's peak step.
        batch_size: rows in a batch of evaluation; on a CPU of all bags together.
    """

    one_device_only = ""
    apart: bool  # each bag computes its own rows, one bag after the other

    def __init__(
        self,
        graphs: Graphs,
        target: NDArray,
        member: NDArray[np.bool_],
        *,
        hyperparameters: Mapping[str, Any],
        learning_rate: float,
        batch_size: int,
    ) -> None:
        self.graphs, self.target, self.member = graphs, target.astype(np.float32), member
        self.rows = np.flatnonzero(member.any(axis=0))  # the loop's row i is rows[i]
        self.hyperparameters = dict(hyperparameters)
        self.learning_rate, self.batch_size = learning_rate, batch_size

    def set_up(self, fabric: Fabric) -> None:
        """Build the networks and their optimizer."""
        self.fabric = fabric
        self.apart = fabric.device.type == "cpu"  # which is faster elsewhere was not measured
        self.network = BaggedCGCNN(**self.hyperparameters)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)
        self._network, self._optimizer = fabric.setup(self.network, self.optimizer)
        for method in ("logits", "logits_apart"):
            self._network.mark_forward_method(method)

    def step(self, index: NDArray[np.int64], progress: float) -> dict[str, Tensor]:
        """One step of Adam for all bags."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * one_cycle(progress)
        rows, device = self.rows[index], self.fabric.device
        self._network.train()
        inside = self.member[:, rows]  # (A, B)
        weights = torch.from_numpy(inside).float().to(device)
        target = torch.from_numpy(self.target[rows]).to(device).expand_as(weights)
        totals = over_processes(weights.sum(1)).clamp(min=1)  # (A,) of the whole batch
        self._optimizer.zero_grad()
        found = torch.zeros((), device=device)
        # Of so many bags at a time the activations are held; gradients of bags have nothing to do with each other.
        size = BAGS_AT_ONCE if self.apart else len(inside)
        for first in range(0, len(inside), size):
            some, last = slice(first, first + size), first + size >= len(inside)
            with self.fabric.no_backward_sync(self._network, enabled=not last):
                if self.apart:
                    own = [self.graphs.batch(rows[of_bag], device) for of_bag in inside[some]]
                    each = self._network.logits_apart(own, first, last=last)
                    logits = torch.zeros_like(weights[some]).masked_scatter(weights[some] > 0, torch.cat(each).float())
                else:
                    logits = self._network.logits(self.graphs.batch(rows, device), weights).float()
                losses = binary_cross_entropy_with_logits(logits, target[some], reduction="none")
                # Summed over bags: the gradient of each is its own, whatever the number of bags. Gradients and losses
                # are averaged over processes, where the batch's are their sum.
                loss = self.fabric.world_size * ((weights[some] * losses).sum(1) / totals[some]).sum()
                self.fabric.backward(loss)
            found += loss.detach()
        self._optimizer.step()
        return {"train_loss": found / len(weights)}

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(A, r) probabilities of the present weights."""
        self.network.eval()
        found = [np.zeros((len(self.member), 0))]
        with torch.no_grad():
            size = max(1, self.batch_size // len(self.member)) if self.apart else self.batch_size
            for start in range(0, len(rows), size):
                batch = self.graphs.batch(rows[start : start + size], self.fabric.device)
                found.append(self.network.probabilities(batch).double().cpu().numpy())
        return np.concatenate(found, axis=1)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """The published recipe keeps the last epoch: nothing is measured on the way."""
        return {"learning_rate": float(self.optimizer.param_groups[0]["lr"])}

    def state(self) -> dict[str, Any]:
        """Weights and optimizer."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The other way round."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
