"""Crystal graph convolutional network (Xie and Grossman, Phys. Rev. Lett. 120, 145301, 2018), equations as there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sluice.models.element_features import MAX_Z, N_FEATURES, feature_table
from sluice.models.graphs import GraphBatch
from sluice.models.layers import Dense, GraphNetwork, Norm, Scale, bond_features, gated_sum


class Convolution(nn.Module):
    """One gated convolution, eq. (5): v_i ← v_i + Σ_jk σ(z W_f + b_f) ⊙ g(z W_s + b_s), z = v_i ⊕ v_j ⊕ u_ij,k.

    The product with the concatenation z is written as the sum of three products, so that those with v are done once
    an atom and not once a pair. Batch normalization before the gate and after the sum is the authors' code's.
    """

    def __init__(self, hidden_size: int, gaussians: int, bags: int | None = None) -> None:
        super().__init__()
        self.from_self = Dense(hidden_size, 2 * hidden_size, bags=bags)
        self.from_neighbour = Dense(hidden_size, 2 * hidden_size, bias=False, bags=bags)
        self.from_bond = Dense(gaussians, 2 * hidden_size, bias=False, bags=bags)
        self.norm_pairs = Norm(2 * hidden_size, bags=bags)
        self.norm_atoms = Norm(hidden_size, bags=bags)

    def forward(self, atoms: Tensor, bonds: Tensor, batch: GraphBatch, node_weights: Tensor) -> Tensor:
        """Update the atoms' features ([A,] M, H).

        Args:
            atoms: ([A,] M, H).
            bonds: (E, G' ≤ G) as of ``bond_features``.
            batch: the graphs.
            node_weights: ([A,] M) weight of each node in the statistics of the normalizations.
        """
        z = self.from_self(atoms).index_select(-2, batch.centres)  # ([A,] E, 2H)
        z = z + self.from_neighbour(atoms).index_select(-2, batch.neighbours)
        z = z + self.from_bond(bonds)
        edge_weights = node_weights.index_select(-1, batch.centres) * batch.edge_counts  # ([A,] E)
        messages = gated_sum(z, self.norm_pairs, edge_weights, batch)
        return softplus(atoms + self.norm_atoms(messages, node_weights))  # ([A,] M, H)


class CGCNN(GraphNetwork):
    """Graph → one number a crystal: a logit or a regression value.

    Args:
        hidden_size: H, length of an atom's feature vector.
        head_size: width of the layer after pooling.
        convolutions: number of convolutions.
        gaussians: G, number of Gaussians that a distance is expanded in, eq. (3) of the supplement.
        neighbours: see ``GraphNetwork``; so ``cutoff`` and ``scale``.
        dropout: share of the head's features that are dropped in training.
        shift: value of a zero output; ``spread`` of one unit. Mean and standard deviation of a regression's targets.
        bags: number A of networks side by side; see ``sluice.models.layers``.
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
        scale: Scale = "given",
        dropout: float = 0.0,
        shift: float = 0.0,
        spread: float = 1.0,
        bags: int | None = None,
    ) -> None:
        super().__init__(neighbours=neighbours, cutoff=cutoff, scale=scale)
        self.shift, self.spread = shift, spread
        self.register_buffer("features", torch.from_numpy(feature_table()))  # (104, F)
        self.register_buffer("centres", torch.linspace(0.0, cutoff, gaussians))  # (G,)
        self.embed = Dense(N_FEATURES, hidden_size, bags=bags)
        self.convolutions = nn.ModuleList(Convolution(hidden_size, gaussians, bags) for _ in range(convolutions))
        self.pooled = Dense(hidden_size, head_size, bags=bags)
        self.dropout = nn.Dropout(dropout)
        self.head = Dense(head_size, 1, bags=bags)

    def forward(self, batch: GraphBatch, crystal_weights: Tensor | None = None) -> Tensor:
        """Outputs ([A,] B).

        Args:
            batch: the graphs.
            crystal_weights: ([A,] B) weight of each crystal in the statistics of the normalizations; 0 leaves it out.
        """
        weights = batch.node_counts  # (M,)
        if crystal_weights is not None:
            weights = weights * crystal_weights.index_select(-1, batch.crystals)  # ([A,] M)
        atoms = self.embed(self.features[batch.numbers.clamp(max=MAX_Z)])  # ([A,] M, H)
        bonds = bond_features(batch, self.centres, self.cutoff)  # (E, G')
        for convolution in self.convolutions:
            atoms = convolution(atoms, bonds, batch, weights)  # ([A,] M, H)
        crystals = batch.mean_over_atoms(atoms)  # ([A,] B, H)
        crystals = self.dropout(softplus(self.pooled(softplus(crystals))))  # ([A,] B, head)
        return self.shift + self.spread * self.head(crystals).squeeze(-1)  # ([A,] B)
