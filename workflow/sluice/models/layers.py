"""Layers that know how many atoms a node and how many bonds an edge stands for.

All take an optional number of bags: as many networks of one architecture side by side, each with weights of its own, on
the same graphs (leading dimension ``A`` below, absent for one network).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from sluice.models.graphs import GraphBatch
from sluice.models.processes import over_processes

Scale = Literal["given", "touching"]
EPS = 1e-5
MOMENTUM = 0.1
REACH = 6.0  # widths from its centre at which a Gaussian has fallen to 2e-16


def lead(bags: int | None) -> tuple[int, ...]:
    """Leading dimensions of the weights."""
    return () if bags is None else (bags,)


class GraphNetwork(nn.Module):
    """A network that turns graphs into one number a crystal.

    Args:
        neighbours: greatest number of neighbours in the graphs that it takes.
        cutoff: radius of the neighbour search, Å.
        scale: size at which it sees a crystal; see ``sluice.models.graphs.prepare_graphs``.
    """

    def __init__(self, *, neighbours: int, cutoff: float, scale: Scale = "given") -> None:
        super().__init__()
        self.neighbours, self.cutoff, self.scale = neighbours, cutoff, scale


def logit_of_mean(logits: Tensor) -> Tensor:
    """Logit (…) of the mean of the probabilities that logits (A, …) stand for.

    From logarithms: probabilities themselves round to 1 where crystals are likely enough, and lose their order.
    """
    return logsigmoid(logits).logsumexp(0) - logsigmoid(-logits).logsumexp(0)


class Dense(nn.Module):
    """x Wᵀ + b, with torch's usual initial weights; (…, N, in) → ([A,] N, out)."""

    def __init__(self, size_in: int, size_out: int, *, bias: bool = True, bags: int | None = None) -> None:
        super().__init__()
        bound = 1 / math.sqrt(size_in)
        self.weight = nn.Parameter(torch.empty(*lead(bags), size_out, size_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(*lead(bags), size_out).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply it; inputs that x (…, N, ≤ in) lacks count as zero."""
        weight = self.weight if x.shape[-1] == self.weight.shape[-1] else self.weight[..., : x.shape[-1]]
        y = x @ weight.mT
        return y if self.bias is None else y + self.bias.unsqueeze(-2)


class Norm(nn.Module):
    """Batch normalization over rows that stand for different numbers of atoms or bonds; as torch's over all of them.

    The running statistics are a plain mean over the first batches: those of a short training would else still be half
    made of what they started from.
    """

    running_mean: Tensor
    running_var: Tensor
    batches: Tensor

    def __init__(self, size: int, *, bags: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*lead(bags), size))
        self.bias = nn.Parameter(torch.zeros(*lead(bags), size))
        self.register_buffer("running_mean", torch.zeros(*lead(bags), size))
        self.register_buffer("running_var", torch.ones(*lead(bags), size))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """Normalize rows x ([A,] N, C) that count ``counts`` ([A,] N) times."""
        if not self.training:
            scale, shift = self.affine()
            return x * scale + shift
        share, total = shares(counts)
        x = x.float()
        with torch.autocast(x.device.type, enabled=False):
            mean = over_processes(share.unsqueeze(-2) @ x)  # ([A,] 1, C)
            centred = x - mean
            var = over_processes(share.unsqueeze(-2) @ centred.square())
        self.remember(mean.detach().squeeze(-2), var.detach().squeeze(-2), total)
        return centred * (self.weight.unsqueeze(-2) * torch.rsqrt(var + EPS)) + self.bias.unsqueeze(-2)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Factor and summand ([A,] 1, C) of evaluation."""
        scale = self.weight * torch.rsqrt(self.running_var + EPS)
        return scale.unsqueeze(-2), (self.bias - self.running_mean * scale).unsqueeze(-2)

    @torch.no_grad()
    def remember(self, mean: Tensor, var: Tensor, total: Tensor) -> None:
        """Move the running statistics; the variance without bias, as torch's. A bag without a row keeps its own."""
        unbiased = var * (total / (total - 1).clamp(min=1)).unsqueeze(-1)
        self.batches += 1
        share = ((1 / self.batches).clamp(min=MOMENTUM) * (total > 0)).to(mean.dtype).unsqueeze(-1)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(unbiased, share)


def shares(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ([A,] N) that sum to one, over all processes of the training, and the sum ([A]) before."""
    total = over_processes(counts.sum(-1))
    return counts / total.clamp(min=1e-12).unsqueeze(-1), total


def expand(distances: Tensor, centres: Tensor, used: int | None = None) -> Tensor:
    """(E, G) Gaussians of the distances, as wide as their centres are apart; ``used``: only so many, the first."""
    width = (centres[-1] - centres[0]) / max(1, len(centres) - 1)
    return torch.exp(-(((distances[:, None] - centres[:used]) / width) ** 2))


def bond_features(batch: GraphBatch, centres: Tensor, cutoff: float) -> Tensor:
    """(E, G') ``expand`` of a batch's distances, made once for all networks with these Gaussians that see the batch.

    G' ≤ G: the last Gaussians, which lie too far beyond the longest bond to count in single precision, are left out.

    Args:
        batch: the graphs.
        centres: (G,) evenly from 0 Å to the cutoff.
        cutoff: Å.
    """
    key = (cutoff, len(centres))
    if key not in batch.expanded:
        longest = float(batch.distances.max()) if len(batch.distances) else 0.0
        used = int(longest / cutoff * (len(centres) - 1) + REACH) + 1
        batch.expanded[key] = expand(batch.distances, centres, used)
    return batch.expanded[key]


class _GatedSum(torch.autograd.Function):
    """Σ over the edges of each node of σ(gate) ⊙ softplus(core), the two halves of normalized z.

    One function with a hand-written derivative: on a CPU a training step spends its time on element-wise passes over
    the edges, of which autograd makes many more.
    """

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, z: Tensor, weight: Tensor, bias: Tensor, share: Tensor, counts: Tensor, centres: Tensor, nodes: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean = over_processes(share.unsqueeze(-2) @ z)  # ([A,] 1, 2H)
        normal = z - mean
        var = over_processes(share.unsqueeze(-2) @ normal.square())
        rstd = torch.rsqrt(var + EPS)
        normal *= rstd
        y = torch.addcmul(bias.unsqueeze(-2), normal, weight.unsqueeze(-2))
        size = y.shape[-1] // 2
        gate = torch.sigmoid(y[..., :size])
        core = softplus(y[..., size:])
        message = (gate * core).mul_(counts[:, None])
        out = z.new_zeros((*z.shape[:-2], nodes, size)).index_add_(-2, centres, message)
        ctx.save_for_backward(normal, rstd, weight, share, counts, centres, gate, core)
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        normal, rstd, weight, share, counts, centres, gate, core = ctx.saved_tensors
        message = grads[0].index_select(-2, centres).mul_(counts[:, None]).mul_(gate)  # ([A,] E, H)
        to_gate = (message * core).mul_(1 - gate)
        to_core = message.mul_(-torch.expm1(-core))  # the derivative of softplus is 1 − exp(−softplus)
        y = torch.cat([to_gate, to_core], dim=-1)
        bias_grad = y.sum(-2)
        weight_grad = (y * normal).sum(-2)
        y *= weight.unsqueeze(-2)
        # Derivative of the normalization: subtract what mean and variance give back, each row by its share.
        to_mean, to_var = over_processes(bias_grad), over_processes(weight_grad)
        back = torch.addcmul((to_mean * weight).unsqueeze(-2), normal, (to_var * weight).unsqueeze(-2))
        y.addcmul_(back, share.unsqueeze(-1), value=-1)
        y *= rstd
        return y, weight_grad, bias_grad, None, None, None, None


def gated_sum(z: Tensor, norm: Norm, edge_weights: Tensor, batch: GraphBatch) -> Tensor:
    """Sum over each node's edges of σ(gate) ⊙ softplus(core), gate and core the halves of normalized z.

    Args:
        z: ([A,] E, 2H).
        norm: normalization of z.
        edge_weights: ([A,] E) how often each edge counts in the statistics of the normalization.
        batch: the graphs.

    Returns:
        ([A,] M, H)
    """
    counts, centres, nodes = batch.edge_counts, batch.centres, len(batch.numbers)
    if norm.training:
        share, total = shares(edge_weights)
        with torch.autocast(z.device.type, enabled=False):
            out, mean, var = _GatedSum.apply(z.float(), norm.weight, norm.bias, share, counts, centres, nodes)
        norm.remember(mean.squeeze(-2), var.squeeze(-2), total)
        return out
    scale, shift = norm.affine()
    gate, core = torch.addcmul(shift, z, scale).chunk(2, dim=-1)
    message = torch.sigmoid(gate) * softplus(core) * counts[:, None]
    return message.new_zeros((*z.shape[:-2], nodes, message.shape[-1])).index_add(-2, centres, message)
