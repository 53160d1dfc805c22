"""Teacher–student dual network (Gleaves et al., Digital Discovery 2, 377, 2023): two CGCNN classifiers."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from sluice.models.cgcnn import CGCNN
from sluice.models.graphs import GraphBatch
from sluice.models.layers import GraphNetwork, logit_of_mean

Answer = Literal["student", "teacher", "both"]


class TSDNN(GraphNetwork):
    """Graph → logit of the positive class.

    Args:
        answer: who answers; ``both``: the mean of both probabilities. The paper's is the student.
        sizes: arguments of ``CGCNN``, the same for both.
    """

    def __init__(self, *, answer: Answer = "student", **sizes: Any) -> None:
        student = CGCNN(**sizes)
        super().__init__(neighbours=student.neighbours, cutoff=student.cutoff, scale=student.scale)
        self.answer = answer
        self.student = student
        self.teacher = CGCNN(**sizes)

    def forward(self, batch: GraphBatch) -> Tensor:
        """(B,) logits."""
        if self.answer == "both":
            return self.joint(self.student(batch), self.teacher(batch))
        return self.student(batch) if self.answer == "student" else self.teacher(batch)

    @staticmethod
    def joint(student: Tensor, teacher: Tensor) -> Tensor:
        """(B,) logits of the mean of the probabilities that both give."""
        return logit_of_mean(torch.stack([student, teacher]))
