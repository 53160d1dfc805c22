"""Bagged learning from positive and unlabelled crystals: many CGCNN, each with its own draw of the unlabelled.

Jang et al., J. Am. Chem. Soc. 142, 18836 (2020); Mordelet and Vert, Pattern Recognit. Lett. 37, 201 (2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from sluice.models.cgcnn import CGCNN
from sluice.models.graphs import GraphBatch
from sluice.models.layers import GraphNetwork, logit_of_mean


class BaggedCGCNN(GraphNetwork):
    """Graph → logit of the mean probability over the bags.

    Args:
        bags: A, number of networks; they share graphs and differ in weights.
        sizes: further arguments of ``CGCNN``.
    """

    def __init__(self, *, bags: int, **sizes: Any) -> None:
        members = CGCNN(bags=bags, **sizes)
        super().__init__(neighbours=members.neighbours, cutoff=members.cutoff, scale=members.scale)
        self.bags, self.members = bags, members
        with torch.device("meta"):
            form = CGCNN(**sizes)
        self._form = (form,)  # a member without weights; in a tuple, so that it is no part of this network

    def logits(self, batch: GraphBatch, crystal_weights: Tensor | None = None) -> Tensor:
        """(A, B) logits of all members at once; arguments as of ``CGCNN``."""
        logits: Tensor = self.members(batch, crystal_weights)
        return logits

    def logits_apart(self, batches: Sequence[GraphBatch], first: int = 0, *, last: bool = True) -> list[Tensor]:
        """Logits (B_k,) of members on graphs of their own, one member after the other.

        As ``logits`` with weights that leave the other graphs out, but without the work on them; on a CPU, which has
        nothing to win from many members at once, that is faster.

        Args:
            batches: graphs of member ``first`` and those after it.
            first: where they begin.
            last: whether no further members follow in this step; what is counted for all of them, is counted then.
        """
        form = self._form[0].train(self.training)
        chosen = slice(first, first + len(batches))
        parameters = {name: stacked[chosen].unbind() for name, stacked in self.members.named_parameters()}
        # Running statistics are written to views of the members'; what is counted for all of them, to a copy.
        stacked = {name: buffer.shape != form.get_buffer(name).shape for name, buffer in self.members.named_buffers()}
        found, buffers = [], {}
        for k, batch in enumerate(batches):
            buffers = {n: b[first + k] if stacked[n] else b.clone() for n, b in self.members.named_buffers()}
            own = {name: each[k] for name, each in parameters.items()}
            found.append(functional_call(form, own | buffers, (batch,)))
        for name, buffer in self.members.named_buffers():
            if last and not stacked[name]:
                buffer.copy_(buffers[name])
        return found

    def probabilities(self, batch: GraphBatch) -> Tensor:
        """(A, B) probability of being positive by each member."""
        return torch.sigmoid(self.logits(batch))

    def forward(self, batch: GraphBatch) -> Tensor:
        """(B,) logits."""
        return logit_of_mean(self.logits(batch))


def draw_bags(
    positive: NDArray[np.int64], unlabelled: NDArray[np.int64], n_rows: int, bags: int, seed: int
) -> NDArray[np.bool_]:
    """(A, n) which rows each bag learns from: all positives and as many unlabelled ones, drawn without repeats.

    Args:
        positive: rows known to be positive.
        unlabelled: rows that are taken for negatives where they are drawn.
        n_rows: number n of rows in all.
        bags: number A.
        seed: of the draws; bag k is the same whatever the number of bags.
    """
    member = np.zeros((bags, n_rows), bool)
    member[:, positive] = True
    for k in range(bags):
        count = min(len(positive), len(unlabelled))
        member[k, np.random.default_rng([seed, k]).choice(unlabelled, count, replace=False)] = True
    return member


def draw_bags_in_pairs(
    positive: NDArray[np.int64], unlabelled: NDArray[np.int64], n_rows: int, bags: int, seed: int
) -> NDArray[np.bool_]:
    """(A, n) as ``draw_bags``, but bags 2k and 2k + 1 have no unlabelled row in common.

    From two bags on, every unlabelled row is thus outside a bag. A bag takes at most half of the unlabelled rows, fewer
    than there are positives where those are short.

    Args:
        positive: rows known to be positive.
        unlabelled: rows that are taken for negatives where they are drawn.
        n_rows: number n of rows in all.
        bags: number A.
        seed: of the draws.
    """
    member = np.zeros((bags, n_rows), bool)
    member[:, positive] = True
    count = min(len(positive), len(unlabelled) // 2)
    for k in range(bags):
        order = np.random.default_rng([seed, k // 2]).permutation(unlabelled)  # the same for both of a pair
        member[k, order[:count] if k % 2 == 0 else order[count : 2 * count]] = True
    return member


def out_of_bag(probabilities: NDArray[np.float64], member: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n,) mean probability over the bags that did not learn from the row; over all where every bag did.

    Args:
        probabilities: (A, n).
        member: (A, n) as of ``draw_bags``.
    """
    outside = np.where(member, np.nan, probabilities)
    everyone = member.all(axis=0)
    outside[:, everyone] = probabilities[:, everyone]
    return np.nanmean(outside, axis=0)
