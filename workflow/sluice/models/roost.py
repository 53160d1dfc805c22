"""Roost (Goodall and Lee, Nat. Commun. 11, 6280, 2020): a composition as a graph of its elements, all joined.

The pairs of all compositions of a batch lie one after the other, so that nothing loops over compositions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from sluice.chemistry.compositions import MAX_Z, Compositions
from sluice.models.element_features import MAX_Z as FEATURES_Z
from sluice.models.element_features import N_FEATURES, feature_table
from sluice.models.heads import Head


@dataclass(frozen=True)
class ElementGraphs:
    """B compositions of M elements in all, with E pairs.

    Attributes:
        numbers: (M,) atomic numbers.
        fractions: (M,) shares of the atoms.
        sizes: (B,) number of elements of each composition.
        first: (E,) element that a pair belongs to, in order; each element has one pair with every element beside it,
            itself among them.
        second: (E,) the other one.
        degrees: (M,) number of pairs of each element.
    """

    numbers: Tensor
    fractions: Tensor
    sizes: Tensor
    first: Tensor
    second: Tensor
    degrees: Tensor


def element_graphs(compositions: Compositions, device: torch.device | str = "cpu") -> ElementGraphs:
    """The graphs of some compositions (none of them empty) as one batch."""
    sizes = compositions.sizes
    degrees = np.repeat(sizes, sizes)
    first = np.repeat(np.arange(len(degrees)), degrees)
    begins = np.repeat(compositions.offsets[:-1], sizes)  # where the composition of each element begins
    place = np.arange(len(first)) - np.repeat(np.cumsum(degrees) - degrees, degrees)

    def tensor(array: NDArray, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.as_tensor(array, dtype=dtype).to(device)

    return ElementGraphs(
        tensor(compositions.numbers.astype(np.int64)),
        tensor(compositions.fractions, torch.float32),
        tensor(sizes),
        tensor(first),
        tensor(begins[first] + place),
        tensor(degrees),
    )


class WeightedAttention(nn.Module):
    """Soft attention over the members of segments, weighted by their shares of the atoms; several heads, averaged.

    Eq. (3) and (4): a_j ∝ w_j^p exp(gate(x_j)), out = mean over heads of Σ_j a_j message(x_j).

    Args:
        inputs: width of x.
        outputs: width of the messages.
        hidden: width of the hidden layer of gates and messages.
        heads: number of heads.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads, self.outputs = heads, outputs
        self.gate_hidden, self.message_hidden = nn.Linear(inputs, heads * hidden), nn.Linear(inputs, heads * hidden)
        self.gate = nn.Parameter(torch.empty(heads, hidden).uniform_(-1, 1) / hidden**0.5)
        self.gate_bias = nn.Parameter(torch.zeros(heads))
        self.message = nn.Parameter(torch.empty(heads, hidden, outputs).uniform_(-1, 1) / hidden**0.5)
        self.message_bias = nn.Parameter(torch.zeros(heads, outputs))
        self.power = nn.Parameter(torch.ones(heads))

    def forward(self, gates: Tensor, messages: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
        """Attend.

        Args:
            gates: (E, heads · hidden) what the hidden layer of the gates makes of x, before its nonlinearity.
            messages: the same of the messages.
            weight: (E,) shares of the atoms.
            lengths: (S,) members of each segment.

        Returns:
            (S, outputs).
        """
        shape = (len(gates), self.heads, -1)
        gate = (leaky_relu(gates).view(shape) * self.gate).sum(-1) + self.gate_bias  # (E, heads)
        logit = gate + self.power * weight.clamp(min=1e-12).log()[:, None]
        with torch.no_grad():
            top = torch.segment_reduce(logit.detach(), "max", lengths=lengths)  # (S, heads)
        power = (logit - top.repeat_interleave(lengths, dim=0)).exp()
        total = torch.segment_reduce(power, "sum", lengths=lengths)
        share = power / (total + 1e-10).repeat_interleave(lengths, dim=0)  # (E, heads)
        hidden = leaky_relu(messages).view(shape)  # (E, heads, hidden)
        # The sum over members goes before the linear map: fewer rows to multiply.
        summed = torch.segment_reduce((share[..., None] * hidden).flatten(1), "sum", lengths=lengths)
        shares = torch.segment_reduce(share, "sum", lengths=lengths)  # (S, heads)
        pooled = torch.einsum("shk,hko->so", summed.view(len(summed), self.heads, -1), self.message)
        return (pooled + shares @ self.message_bias) / self.heads


class Message(nn.Module):
    """One round of messages: each element attends to all elements of its composition; added to what it had."""

    def __init__(self, size: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.attention = WeightedAttention(2 * size, size, hidden, heads)

    def forward(self, elements: Tensor, graphs: ElementGraphs) -> Tensor:
        """(M, size) → (M, size).

        The first layer's product with the concatenation of both elements of a pair is the sum of two products, done
        once an element and not once a pair.
        """
        size = elements.shape[1]
        hidden = []
        for layer in (self.attention.gate_hidden, self.attention.message_hidden):
            own = elements @ layer.weight[:, :size].T + layer.bias
            other = elements @ layer.weight[:, size:].T
            hidden.append(own.repeat_interleave(graphs.degrees, dim=0) + other[graphs.second])
        weight = graphs.fractions[graphs.second]
        return elements + self.attention(hidden[0], hidden[1], weight, graphs.degrees)


class Roost(nn.Module):
    """Composition → outputs.

    # ASSUME: in place of the paper's Matscholar vectors an element starts from tabulated properties (group, row, block,
    # eight numbers) and a vector that is learned.

    Args:
        size: length of an element's vector.
        messages: rounds of messages.
        heads: attention heads.
        hidden: width of the hidden layers of gates and messages.
        trunk: widths of the hidden layers behind the pooling.
        outputs: see ``Head``.
        dropout: share of the trunk's hidden units left out.
    """

    features: Tensor

    def __init__(
        self,
        *,
        size: int = 64,
        messages: int = 3,
        heads: int = 3,
        hidden: int = 256,
        trunk: Sequence[int] = (1024, 512),
        outputs: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        table = torch.zeros(MAX_Z + 1, N_FEATURES)
        table[: FEATURES_Z + 1] = torch.from_numpy(feature_table())
        self.register_buffer("features", table)
        self.tabulated = nn.Linear(N_FEATURES, size - 1)
        self.learned = nn.Embedding(MAX_Z + 1, size - 1)
        nn.init.normal_(self.learned.weight, std=0.1)
        self.messages = nn.ModuleList(Message(size, hidden, heads) for _ in range(messages))
        self.pool = WeightedAttention(size, size, hidden, heads)
        self.trunk = Head(size, trunk, outputs, dropout=dropout, residual=True)

    def forward(self, graphs: ElementGraphs) -> Tensor:
        """(B, outputs) of B compositions."""
        vectors = self.tabulated(self.features[graphs.numbers]) + self.learned(graphs.numbers)  # (M, size - 1)
        elements = torch.cat([vectors, graphs.fractions[:, None]], dim=1)  # (M, size)
        for message in self.messages:
            elements = message(elements, graphs)
        gates, messages = self.pool.gate_hidden(elements), self.pool.message_hidden(elements)
        return self.trunk(self.pool(gates, messages, graphs.fractions, graphs.sizes))
