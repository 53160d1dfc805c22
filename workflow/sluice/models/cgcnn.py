"""Crystal graph convolutional network (Xie and Grossman, Phys. Rev. Lett. 120, 145301, 2018), equations as there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sluice.models.element_features import MAX_Z, N_FEATURES, feature_table
from sluice.models.graphs import GraphBatch


class Convolution(nn.Module):
    """One gated convolution, eq. (5): v_i ← v_i + Σ_jk σ(z W_f + b_f) ⊙ g(z W_s + b_s), z = v_i ⊕ v_j ⊕ u_ij,k.

    The product with the concatenation z is written as the sum of three products, so that those with v are done once
    an atom and not once a pair. Batch normalization before the gate and after the sum is the authors' code's.
    """

    def __init__(self, hidden_size: int, gaussians: int) -> None:
        super().__init__()
        self.from_self = nn.Linear(hidden_size, 2 * hidden_size)
        self.from_neighbour = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.from_bond = nn.Linear(gaussians, 2 * hidden_size, bias=False)
        self.norm_pairs = nn.BatchNorm1d(2 * hidden_size)
        self.norm_atoms = nn.BatchNorm1d(hidden_size)

    def forward(self, atoms: Tensor, bonds: Tensor, batch: GraphBatch) -> Tensor:
        """Update the atoms' features (M, H) from bonds (E, G), E pairs of atom and neighbour."""
        centre, slot = batch.mask.nonzero(as_tuple=True)  # (E,), (E,)
        neighbour = batch.neighbours[batch.mask]  # (E,)
        z = self.from_self(atoms)[centre] + self.from_neighbour(atoms)[neighbour] + self.from_bond(bonds)  # (E, 2H)
        gate, core = self.norm_pairs(z).chunk(2, dim=1)  # (E, H), (E, H)
        message = torch.sigmoid(gate) * softplus(core)  # (E, H)
        padded = message.new_zeros(*batch.mask.shape, message.shape[1])  # (M, K, H)
        padded[centre, slot] = message
        return softplus(atoms + self.norm_atoms(padded.sum(dim=1)))  # (M, H)


class CGCNN(nn.Module):
    """Graph → one number a crystal: a logit or a regression value.

    Args:
        hidden_size: H, length of an atom's feature vector.
        head_size: width of the layer after pooling.
        convolutions: number of convolutions.
        gaussians: G, number of Gaussians that a distance is expanded in, eq. (3) of the supplement.
        neighbours: greatest number of neighbours in the graphs that it takes.
        cutoff: radius of the neighbour search, Å.
    """

    features: Tensor
    centres: Tensor

    def __init__(
        self,
        *,
        hidden_size: int,
        head_size: int,
        convolutions: int,
        gaussians: int,
        neighbours: int,
        cutoff: float,
    ) -> None:
        super().__init__()
        self.neighbours, self.cutoff = neighbours, cutoff
        self.register_buffer("features", torch.from_numpy(feature_table()))  # (104, F)
        self.register_buffer("centres", torch.linspace(0.0, cutoff, gaussians))  # (G,)
        self.embed = nn.Linear(N_FEATURES, hidden_size)
        self.convolutions = nn.ModuleList(Convolution(hidden_size, gaussians) for _ in range(convolutions))
        self.pooled = nn.Linear(hidden_size, head_size)
        self.head = nn.Linear(head_size, 1)

    def forward(self, batch: GraphBatch) -> Tensor:
        """One output for each of the B crystals."""
        atoms = self.embed(self.features[batch.numbers.clamp(max=MAX_Z)])  # (M, H)
        width = self.cutoff / max(1, len(self.centres) - 1)
        distances = batch.distances[batch.mask]  # (E,)
        bonds = torch.exp(-(((distances[:, None] - self.centres) / width) ** 2))  # (E, G)
        for convolution in self.convolutions:
            atoms = convolution(atoms, bonds, batch)  # (M, H)
        crystals = torch.segment_reduce(atoms, "mean", lengths=batch.counts)  # (B, H)
        crystals = softplus(self.pooled(softplus(crystals)))  # (B, head)
        return self.head(crystals).squeeze(1)  # (B,)
