"""How TSDNN learns: meta pseudo labels (Pham et al., CVPR 2021) as in Gleaves et al., Digital Discovery 2, 377, 2023.

The teacher labels unlabelled crystals, the student takes a step on those labels alone, and the teacher is told whether
that lowered the student's loss on labelled crystals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from sluice.errors import SluiceError
from sluice.models.cgcnn_training import GRADIENT_NORM, one_cycle, roc_auc
from sluice.models.distributed import balanced, mean_over_processes, own_share
from sluice.models.graphs import Graphs
from sluice.models.learner import BestEpoch, OlderState
from sluice.models.tsdnn import TSDNN, Answer

AVERAGE_DECAY = 0.99  # of the moving average that the student's gain is measured against
REDRAWN_LIMIT = 3.0**0.5  # the published code draws its baseline from U(-√3, √3) in every step


def _seed_of_draws(seed: int) -> int:
    """Another seed than that of the networks' first weights."""
    return int(np.random.SeedSequence(seed, spawn_key=(0,)).generate_state(1)[0])


class TsdnnLearner(BestEpoch):
    """A TSDNN in training.

    Args:
        graphs: of all rows.
        target: (n,) class of each row, 0 or 1; of unlabelled rows never looked at.
        labelled: rows with a class that may be learnt from; the loop's row i is ``labelled[i]``.
        unlabelled: rows without.
        validation: rows that choose the epoch.
        hyperparameters: TSDNN's arguments.
        optimizer: ``sgd`` with momentum 0.9 at a constant rate (the paper's) or ``adamw`` with a warm-up and a cosine.
        learning_rate: of both networks.
        weight_decay: of both networks.
        batch_size: unlabelled rows in a step, and rows in a batch of evaluation.
        gain: ``old_minus_new``: a teacher whose labels lowered the student's loss is confirmed. ``new_minus_old``:
            the published code's sign.
        moving_average: ``kept``: over the steps; ``redrawn``: as in the published code, a random number of
            U(-√3, √3) in its place at each step.
        student_labels: weight of the labelled crystals in the student's own loss; the paper's is 0.

    Raises:
        SluiceError: without unlabelled rows.
    """

    network: TSDNN

    def __init__(
        self,
        graphs: Graphs,
        target: NDArray,
        *,
        labelled: NDArray[np.int64],
        unlabelled: NDArray[np.int64],
        validation: NDArray[np.int64],
        hyperparameters: Mapping[str, Any],
        optimizer: Literal["sgd", "adamw"],
        learning_rate: float,
        weight_decay: float,
        batch_size: int,
        gain: Literal["old_minus_new", "new_minus_old"] = "old_minus_new",
        moving_average: Literal["kept", "redrawn"] = "kept",
        student_labels: float = 0.0,
    ) -> None:
        if not len(unlabelled):
            raise SluiceError(
                "TSDNN learns from unlabelled crystals, too, and there are none; give it some, or take CGCNN"
            )
        self.graphs, self.target = graphs, target.astype(np.float32)
        self.labelled, self.unlabelled, self.validation = labelled, unlabelled, validation
        self.hyperparameters = dict(hyperparameters)
        self.optimizer_name, self.learning_rate, self.weight_decay = optimizer, learning_rate, weight_decay
        self.batch_size, self.student_labels = batch_size, student_labels
        self.sign = 1.0 if gain == "old_minus_new" else -1.0
        self.redrawn = moving_average == "redrawn"
        self.average = 0.0
        super().__init__()

    def set_up(self, fabric: Fabric) -> None:
        """Build both networks and their optimizers."""
        self.fabric = fabric
        # Of the learner's own, for torch's differs from process to process; its seed is still the same in all of them.
        self.draws = torch.Generator().manual_seed(_seed_of_draws(torch.initial_seed()))
        self.network = TSDNN(**self.hyperparameters)
        self._setups, self.optimizers = [], []
        for network in (self.network.student, self.network.teacher):
            optimizer: torch.optim.Optimizer
            if self.optimizer_name == "sgd":
                optimizer = torch.optim.SGD(
                    network.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=self.weight_decay
                )
            else:
                optimizer = torch.optim.AdamW(
                    network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
                )
            self.optimizers.append(optimizer)
            self._setups.append(fabric.setup(network, optimizer))
        self.network.to(fabric.device)

    def _targets(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.target[rows]).to(self.fabric.device)

    def _draw(self) -> NDArray[np.int64]:
        """This process's share of the step's unlabelled rows, which all processes draw alike."""
        chosen = torch.randint(len(self.unlabelled), (self.batch_size,), generator=self.draws).numpy()
        return own_share(self.unlabelled[chosen], self.fabric)

    def _part(self, rows: NDArray[np.int64]) -> Tensor:
        """What a mean over this process's rows is multiplied with, so that the processes' mean is the batch's."""
        return balanced(self.fabric, torch.ones((), device=self.fabric.device), len(rows))

    def step(self, index: NDArray[np.int64], progress: float) -> dict[str, Tensor]:
        """A step of the student, then one of the teacher."""
        if self.optimizer_name == "adamw":
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate * one_cycle(progress)
        (student, student_optimizer), (teacher, teacher_optimizer) = self._setups
        student.train()
        teacher.train()
        rows, drawn = self.labelled[index], self._draw()
        labelled, target = self.graphs.batch(rows, self.fabric.device), self._targets(rows)
        unlabelled = self.graphs.batch(drawn, self.fabric.device)
        of_labelled, of_unlabelled = self._part(rows), self._part(drawn)
        teacher_on_unlabelled = teacher(unlabelled).float()
        pseudo = (teacher_on_unlabelled.detach() > 0).float()

        with torch.set_grad_enabled(self.student_labels > 0):
            before = of_labelled * binary_cross_entropy_with_logits(student(labelled).float(), target)
        student_loss = of_unlabelled * binary_cross_entropy_with_logits(student(unlabelled).float(), pseudo)
        if self.student_labels > 0:
            student_loss = student_loss + self.student_labels * before
        self._update(student, student_optimizer, student_loss)
        with torch.no_grad():
            after = of_labelled * binary_cross_entropy_with_logits(student(labelled).float(), target)

        # Of the whole batch, so that every process tells its teacher the same.
        change = mean_over_processes(self.fabric, {"change": before.detach() - after})["change"]
        gain = self._gain(self.sign * change.item())
        teacher_loss = of_labelled * binary_cross_entropy_with_logits(teacher(labelled).float(), target)
        meta = gain * of_unlabelled * binary_cross_entropy_with_logits(teacher_on_unlabelled, pseudo)
        self._update(teacher, teacher_optimizer, teacher_loss + meta)
        return {
            "student_loss": student_loss.detach(),
            "teacher_loss": teacher_loss.detach(),
            "pseudo_positive": of_unlabelled * pseudo.mean(),
        }

    def _gain(self, change: float) -> float:
        """The student's gain less its moving average."""
        if self.redrawn:
            self.average = float(torch.empty(()).uniform_(-REDRAWN_LIMIT, REDRAWN_LIMIT, generator=self.draws))
        self.average = AVERAGE_DECAY * self.average + (1 - AVERAGE_DECAY) * change
        return change - self.average

    def _update(self, network: Any, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.fabric.backward(loss)
        self.fabric.clip_gradients(network, optimizer, max_norm=GRADIENT_NORM, error_if_nonfinite=False)
        optimizer.step()

    def predict(self, rows: NDArray[np.int64], answer: Answer | None = None) -> NDArray[np.float64]:
        """(r,) logits of the present weights; ``answer`` other than the network's own on demand."""
        network = self.network.eval()
        own, found = network.answer, []
        network.answer = answer or own
        with torch.no_grad():
            for start in range(0, len(rows), self.batch_size):
                batch = self.graphs.batch(rows[start : start + self.batch_size], self.fabric.device)
                found.append(network(batch).double().cpu().numpy())
        network.answer = own
        return np.concatenate(found) if found else np.zeros(0)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Validation AUC of student and teacher; the epoch that is best by who answers is kept."""
        row = {}
        target = self.target[self.validation]
        if len(self.validation):
            student, teacher = (self.predict(self.validation, who) for who in ("student", "teacher"))
            row["val_roc_auc_student"], row["val_roc_auc_teacher"] = roc_auc(target, student), roc_auc(target, teacher)
            joint = self.network.joint(torch.from_numpy(student), torch.from_numpy(teacher)).numpy()
            own = {"student": student, "teacher": teacher, "both": joint}[self.network.answer]
            row["val_roc_auc"] = roc_auc(target, own)
            row["val_accuracy"] = float(((own > 0) == (target > 0.5)).mean())
        auc = row.get("val_roc_auc", math.nan)
        rank = [0.0 if math.isnan(auc) else auc, row.get("val_accuracy", float(epoch))]
        self.keep_if_best(rank)
        return row

    def state(self) -> dict[str, Any]:
        """Both networks and optimizers, the best epoch so far, the moving average, and where the draws stand."""
        return {**super().state(), "average": self.average, "draws": self.draws.get_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The other way round.

        Raises:
            OlderState: if the checkpoint does not say where the draws of unlabelled crystals stood.
        """
        if "draws" not in state:
            raise OlderState("the checkpoint of an earlier version does not say which crystals are to be drawn next")
        super().load_state(state)
        self.average = state["average"]
        self.draws.set_state(state["draws"])
