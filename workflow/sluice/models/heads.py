"""The head that all encodings of compositions share: a fully connected network down to its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from sluice.models.processes import over_processes, several_processes

PAPER_WIDTHS = (256, 128, 64, 32)  # Hu et al., Symmetry 12, 1889 (2020)


class BatchNorm(nn.BatchNorm1d):
    """torch's batch normalization of rows; in a training on several devices, over the rows of all of them."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) → (B, C)."""
        if not self.training or not several_processes():
            return super().forward(x)
        rows = over_processes(x.new_tensor(float(len(x))))
        mean = over_processes(x.sum(0)) / rows
        centred = x - mean
        var = over_processes(centred.square().sum(0)) / rows
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * rows / (rows - 1), self.momentum)
        return centred * torch.rsqrt(var + self.eps) * self.weight + self.bias


class Head(nn.Module):
    """Inputs → hidden layers → outputs.

    Args:
        inputs: width of the input.
        widths: of the hidden layers.
        outputs: 1, or 2 with the logarithm of the spread beside the value.
        dropout: share of hidden units left out after each layer: one number, or one for each hidden layer.
        residual: whether each hidden layer is normalized (batch) and added to its input.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int] = PAPER_WIDTHS,
        outputs: int = 1,
        *,
        dropout: float | Sequence[float] = 0.0,
        residual: bool = False,
    ) -> None:
        super().__init__()
        shares = [dropout] * len(widths) if isinstance(dropout, float | int) else list(dropout)
        if len(shares) != len(widths):
            raise ValueError(f"{len(shares)} shares of dropout for {len(widths)} hidden layers")
        sizes = [inputs, *widths]
        self.residual = residual
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(BatchNorm(b) if residual else nn.Identity() for b in widths)
        self.skips = nn.ModuleList(
            nn.Identity() if not residual or a == b else nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)
        )
        self.dropouts = nn.ModuleList(nn.Dropout(share) for share in shares)
        self.output = nn.Linear(sizes[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) → (B, outputs)."""
        for layer, norm, skip, dropout in zip(self.layers, self.norms, self.skips, self.dropouts, strict=True):
            hidden = torch.relu(norm(layer(x)))
            x = dropout(hidden + skip(x) if self.residual else hidden)
        return self.output(x)
