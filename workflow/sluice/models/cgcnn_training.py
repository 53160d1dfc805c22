"""How CGCNN and GATGNN learn: weighted classes or values, the best validation epoch kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss, mse_loss

from sluice.models.cgcnn import CGCNN
from sluice.models.distributed import balanced
from sluice.models.graphs import GraphBatch, Graphs
from sluice.models.layers import GraphNetwork
from sluice.models.learner import BestEpoch

WARM_UP = 0.1  # share of the steps in which the rate rises
GRADIENT_NORM = 5.0


def roc_auc(target: NDArray, score: NDArray) -> float:
    """Area under the ROC curve; NaN where one class is missing, or a score is no number."""
    defined = len(np.unique(target)) == 2 and np.isfinite(score).all()
    return float(roc_auc_score(target, score)) if defined else math.nan


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate: linear rise, then half a cosine down to 1 %."""
    if progress < WARM_UP:
        return 0.1 + 0.9 * progress / WARM_UP
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


class GraphLearner(BestEpoch):
    """A graph network in training.

    Args:
        graphs: of all rows, training and validation.
        target: (n,) class (0 or 1) or value of each row.
        weight: (n,) weight of each row in the training loss.
        training: indices of the training rows; the loop's row i is ``training[i]``.
        validation: indices of the validation rows; without any, the last epoch is kept.
        task: what the output is.
        hyperparameters: the network's arguments.
        learning_rate: peak step of AdamW; ``weight_decay`` its decay.
        batch_size: rows in a batch of evaluation.
        network_type: the network's class.
        strain: each crystal of a training batch is shrunk or blown up at random by up to this linear strain.
        loss: of a regression: ``mse`` or ``mae``, in units of the network's ``spread``.
    """

    def __init__(
        self,
        graphs: Graphs,
        target: NDArray,
        weight: NDArray,
        *,
        training: NDArray[np.int64],
        validation: NDArray[np.int64],
        task: Literal["classification", "regression"],
        hyperparameters: Mapping[str, Any],
        learning_rate: float,
        weight_decay: float,
        batch_size: int,
        network_type: type[GraphNetwork] = CGCNN,
        strain: float = 0.0,
        loss: Literal["mse", "mae"] = "mse",
    ) -> None:
        self.graphs, self.target, self.weight = graphs, target.astype(np.float32), weight.astype(np.float32)
        self.training, self.validation = training, validation
        self.task, self.hyperparameters = task, dict(hyperparameters)
        self.learning_rate, self.weight_decay, self.batch_size = learning_rate, weight_decay, batch_size
        self.network_type, self.strain, self.loss_name = network_type, strain, loss
        super().__init__()

    def set_up(self, fabric: Fabric) -> None:
        """Build the network and its optimizer."""
        self.fabric = fabric
        self.network = self.network_type(**self.hyperparameters)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        self.optimizers = (self.optimizer,)
        self._model, self._optimizer = fabric.setup(self.network, self.optimizer)

    def _loss(self, output: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
        target = torch.from_numpy(self.target[rows]).to(output.device)
        weight = torch.from_numpy(self.weight[rows]).to(output.device)
        spread = float(self.hyperparameters.get("spread", 1.0))
        if self.task == "classification":
            losses = binary_cross_entropy_with_logits(output.float(), target, reduction="none")
        else:
            measure = mse_loss if self.loss_name == "mse" else l1_loss
            losses = measure(output.float() / spread, target / spread, reduction="none")
        return (weight * losses).sum() / weight.sum()

    def _strained(self, batch: GraphBatch) -> GraphBatch:
        """The batch with each crystal at another size."""
        factors = torch.exp((2 * torch.rand(len(batch)) - 1) * self.strain).to(batch.distances.device)
        return batch.scaled(factors)

    def step(self, index: NDArray[np.int64], progress: float) -> dict[str, torch.Tensor]:
        """One step of AdamW."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * one_cycle(progress)
        rows = self.training[index]
        self._model.train()
        batch = self.graphs.batch(rows, self.fabric.device)
        if self.strain > 0:
            batch = self._strained(batch)
        loss = balanced(self.fabric, self._loss(self._model(batch), rows), float(self.weight[rows].sum()))
        self._optimizer.zero_grad()
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self._model, self._optimizer, max_norm=GRADIENT_NORM, error_if_nonfinite=False)
        self._optimizer.step()
        return {"train_loss": loss.detach()}

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(r,) outputs (logits or values) of the present weights, in full precision as of a model file."""
        network = self.network.eval()
        found = []
        with torch.no_grad():
            for start in range(0, len(rows), self.batch_size):
                batch = self.graphs.batch(rows[start : start + self.batch_size], self.fabric.device)
                found.append(network(batch).double().cpu().numpy())
        return np.concatenate(found) if found else np.zeros(0)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Validation loss and area under the ROC curve (or mean absolute error); the best epoch's weights are kept."""
        rows = self.validation
        row = {"learning_rate": float(self.optimizer.param_groups[0]["lr"])}
        output = self.predict(rows)
        if len(rows):
            row["val_loss"] = float(self._loss(torch.from_numpy(output), rows))
            if self.task == "classification":
                row["val_roc_auc"] = roc_auc(self.target[rows], output)
            else:
                row["val_mae"] = float(np.abs(output - self.target[rows]).mean())
        auc = row.get("val_roc_auc", math.nan)
        rank = [0.0 if math.isnan(auc) else auc, -row.get("val_loss", -float(epoch))]
        self.keep_if_best(rank)
        return row
