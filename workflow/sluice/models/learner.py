"""What the training loop asks of a model in training, and the part of it that most models share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from sluice.errors import SluiceError


class Learner(Protocol):
    """What the loop asks of a model in training.

    Attributes:
        one_device_only: why it cannot share its batches out to several devices; "" if it can.
    """

    one_device_only: str

    def set_up(self, fabric: Fabric) -> None:
        """Build networks and optimizers and hand them to Fabric; called once, after seeding."""

    def step(self, index: NDArray[np.int64], progress: float) -> dict[str, torch.Tensor]:
        """Learn from the chosen training rows; ``progress`` runs from 0 to 1; returns mean losses by name.

        On several devices the rows are this process's, and the losses' mean over processes is that over the batch.
        """

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Measure on validation rows, remember the best weights."""

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors and plain values."""

    def load_state(self, state: dict[str, Any]) -> None:
        """The other way round.

        Raises:
            OlderState: before anything is taken from it, if it is an earlier version's and lacks something.
        """


class OlderState(Exception):
    """A checkpoint of an earlier version, from which no training can go on to the same end; says what it lacks."""


class BestEpoch:
    """The part of a learner that keeps its best epoch's weights and knows its state.

    Attributes:
        network: what is trained; the learner's ``set_up`` makes it.
        optimizers: all of its optimizers, in a fixed order.
        best: weights of the best epoch so far.
        best_rank: how good that was; compared as a list, the larger the better.
    """

    one_device_only = ""

    network: torch.nn.Module
    optimizers: Sequence[torch.optim.Optimizer]

    def __init__(self) -> None:
        self.best: dict[str, torch.Tensor] = {}
        self.best_rank: Any = [-math.inf, -math.inf]

    def weights_now(self) -> dict[str, torch.Tensor]:
        """A copy of the present weights in main memory."""
        return {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}

    def keep_if_best(self, rank: list[float]) -> None:
        """Remember the present weights if they rank above all before and are numbers."""
        if rank > self.best_rank:
            now = self.weights_now()
            if all(bool(torch.isfinite(value).all()) for value in now.values()):
                self.best_rank, self.best = rank, now

    def use_best(self) -> None:
        """Go back to the best epoch's weights.

        Raises:
            SluiceError: if no epoch ended with weights that are numbers.
        """
        if not self.best:
            raise SluiceError("the training diverged: no epoch ended with finite weights; lower the learning rate")
        self.network.load_state_dict(self.best)

    def state(self) -> dict[str, Any]:
        """Weights, optimizers, and the best epoch so far."""
        return {
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "best": self.best,
            "best_rank": self.best_rank,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The other way round."""
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.best, self.best_rank = state["best"], state["best_rank"]
