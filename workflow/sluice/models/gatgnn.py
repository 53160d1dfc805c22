"""Graph attention network with composition attention (Louis et al., Phys. Chem. Chem. Phys. 22, 18141, 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, softplus

from sluice.models.element_features import MAX_Z, N_FEATURES, feature_table
from sluice.models.graphs import GraphBatch
from sluice.models.layers import Dense, GraphNetwork, Norm, Scale, bond_features

SLOPE = 0.2
ATTENTION_SIZE = 32


def attention(logits: Tensor, counts: Tensor, group: Tensor, groups: int) -> Tensor:
    """Softmax (N, C) of logits over the rows of each group; a row counts as often as ``counts`` (N,) says.

    The result is what all that a row stands for get together. Each group's own maximum is taken off before the
    exponential: with that of all groups, one of far smaller logits would get no weight at all, and no gradient.
    """
    with torch.no_grad():
        top = logits.new_full((groups, logits.shape[1]), -torch.inf)
        top.scatter_reduce_(0, group[:, None].expand_as(logits), logits, "amax")
    weights = torch.exp(logits - top.index_select(0, group)) * counts[:, None]
    total = weights.new_zeros(groups, weights.shape[1]).index_add(0, group, weights)
    return weights / total.index_select(0, group).clamp(min=torch.finfo(weights.dtype).tiny)


class AugmentedAttention(nn.Module):
    """AGAT layer: heads of attention over the neighbours, both ends augmented by the bond's features.

    The product with (atom ⊕ bond) is written as a sum of two, so that the one with the atoms is done once an atom.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.from_atom = Dense(size, heads * size, bias=False)
        self.from_bond = Dense(size, heads * size, bias=False)
        self.scores = nn.Parameter(torch.empty(heads, 2 * size).uniform_(-1, 1) / size**0.5)
        self.norm = Norm(heads)
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, atoms: Tensor, bonds: Tensor, batch: GraphBatch) -> Tensor:
        """From atoms (M, H) and bonds (E, H) to atoms (M, H)."""
        per_atom, per_bond = self.from_atom(atoms), self.from_bond(bonds)  # (M, KH), (E, KH)
        near = softplus(per_atom.index_select(0, batch.centres) + per_bond).unflatten(1, (self.heads, -1))  # (E, K, H)
        far = softplus(per_atom.index_select(0, batch.neighbours) + per_bond).unflatten(1, (self.heads, -1))
        own, other = self.scores.chunk(2, dim=1)  # (K, H)
        logits = softplus((near * own).sum(-1) + (far * other).sum(-1))  # (E, K)
        logits = softplus(self.norm(logits, batch.node_counts.index_select(0, batch.centres) * batch.edge_counts))
        share = attention(logits.float(), batch.edge_counts, batch.centres, len(atoms))  # (E, K)
        message = (far * share[:, :, None]).mean(dim=1)  # (E, H)
        return message.new_zeros(len(atoms), message.shape[1]).index_add(0, batch.centres, message) + self.bias


class GATGNN(GraphNetwork):
    """Graph → one number a crystal.

    Args:
        hidden_size: H, length of an atom's feature vector.
        heads: K, heads of attention in a layer.
        layers: number of attention layers.
        gaussians: number of Gaussians that a distance is expanded in.
        neighbours: see ``GraphNetwork``; so ``cutoff`` and ``scale``.
        shift: value of a zero output; ``spread`` of one unit. Mean and standard deviation of a regression's targets.
    """

    features: Tensor
    centres: Tensor

    def __init__(
        self,
        *,
        hidden_size: int,
        heads: int,
        layers: int,
        gaussians: int,
        neighbours: int,
        cutoff: float,
        scale: Scale = "given",
        shift: float = 0.0,
        spread: float = 1.0,
    ) -> None:
        super().__init__(neighbours=neighbours, cutoff=cutoff, scale=scale)
        self.shift, self.spread = shift, spread
        self.register_buffer("features", torch.from_numpy(feature_table()))  # (104, F)
        self.register_buffer("centres", torch.linspace(0.0, cutoff, gaussians))  # (G,)
        self.embed = Dense(N_FEATURES, hidden_size)
        self.embed_bonds = Dense(gaussians, hidden_size)
        self.layers = nn.ModuleList(AugmentedAttention(hidden_size, heads) for _ in range(layers))
        self.norms = nn.ModuleList(Norm(hidden_size) for _ in range(layers))
        self.attend = Dense(hidden_size + MAX_Z + 1, ATTENTION_SIZE)
        self.attend_score = Dense(ATTENTION_SIZE, 1)
        self.hidden = nn.ModuleList(Dense(hidden_size, hidden_size) for _ in range(2))
        self.head = Dense(hidden_size, 1)

    def forward(self, batch: GraphBatch) -> Tensor:
        """(B,) outputs."""
        numbers = batch.numbers.clamp(max=MAX_Z)
        atoms = self.embed(self.features[numbers])  # (M, H)
        bonds = leaky_relu(self.embed_bonds(bond_features(batch, self.centres, self.cutoff)), SLOPE)  # (E, H)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            atoms = softplus(norm(layer(atoms, bonds, batch), batch.node_counts))  # (M, H)
        share = (batch.node_counts / batch.n_atoms[batch.crystals])[:, None]
        composition = batch.sum_over_nodes(torch.nn.functional.one_hot(numbers, MAX_Z + 1).float() * share)  # (B, 104)
        seen = torch.cat([atoms, composition[batch.crystals]], dim=1)
        logits = self.attend_score(softplus(self.attend(seen))).float()  # (M, 1)
        pooled = batch.sum_over_nodes(
            atoms * attention(logits, batch.node_counts, batch.crystals, len(batch))
        )  # (B, H)
        for layer in self.hidden:
            pooled = softplus(layer(pooled))
        return self.shift + self.spread * self.head(pooled).squeeze(1)  # (B,)
