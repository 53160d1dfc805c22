"""A training step of CGCNN: Sluice's formulation against the original one, same weights, same batches.

The original one is the published model code's: N x 12 neighbours by plain indexing, one product with the concatenation
of atom, neighbour and bond, one mean per crystal. Its graphs and Gaussians are made before; both assemble their batch
in the step, Sluice also its Gaussians. Loss curves must agree. Repeats are interleaved; CPU time counts.

    SLUICE_DATA=… OMP_WAIT_POLICY=passive python benchmarks/cgcnn_step.py [--threads 2]

On several threads waiting must not spin: it would count as work where other work keeps a thread from its core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from mp_sample import mp_sample
from torch import Tensor, nn

from sluice.models.cgcnn import CGCNN, Convolution
from sluice.models.element_features import N_FEATURES
from sluice.models.graphs import Graphs, build_graphs
from sluice.models.layers import expand

SIZES = {"hidden_size": 64, "head_size": 128, "convolutions": 3, "gaussians": 41, "neighbours": 12, "cutoff": 8.0}
LOSS_TOLERANCE = 2e-3  # relative, of single precision sums in another order over a whole training


class OriginalConvolution(nn.Module):
    """``ConvLayer`` of the published code."""

    def __init__(self, hidden: int, gaussians: int) -> None:
        super().__init__()
        self.fc_full = nn.Linear(2 * hidden + gaussians, 2 * hidden)
        self.bn1, self.bn2 = nn.BatchNorm1d(2 * hidden), nn.BatchNorm1d(hidden)

    def forward(self, atoms: Tensor, bonds: Tensor, index: Tensor) -> Tensor:
        """Atoms (N, H), bonds (N, 12, G), index (N, 12)."""
        n, m = index.shape
        neighbours = atoms[index, :]
        total = torch.cat([atoms.unsqueeze(1).expand(n, m, atoms.shape[1]), neighbours, bonds], dim=2)
        gated = self.fc_full(total)
        gated = self.bn1(gated.view(-1, gated.shape[2])).view(n, m, -1)
        gate, core = gated.chunk(2, dim=2)
        summed = torch.sum(torch.sigmoid(gate) * nn.functional.softplus(core), dim=1)
        return nn.functional.softplus(atoms + self.bn2(summed))


class Original(nn.Module):
    """``CrystalGraphConvNet`` of the published code, on the same element features."""

    def __init__(self, fast: CGCNN) -> None:
        super().__init__()
        hidden, gaussians = SIZES["hidden_size"], SIZES["gaussians"]
        self.embedding = nn.Linear(N_FEATURES, hidden)
        self.convs = nn.ModuleList(OriginalConvolution(hidden, gaussians) for _ in range(SIZES["convolutions"]))
        self.conv_to_fc = nn.Linear(hidden, SIZES["head_size"])
        self.fc_out = nn.Linear(SIZES["head_size"], 1)
        with torch.no_grad():
            pairs = [(self.embedding, fast.embed), (self.conv_to_fc, fast.pooled), (self.fc_out, fast.head)]
            for mine, theirs in pairs:
                mine.weight.copy_(theirs.weight)
                mine.bias.copy_(theirs.bias)
            for mine, theirs in zip(self.convs, fast.convolutions, strict=True):
                assert isinstance(theirs, Convolution)
                parts = [theirs.from_self.weight, theirs.from_neighbour.weight, theirs.from_bond.weight]
                mine.fc_full.weight.copy_(torch.cat(parts, dim=1))
                mine.fc_full.bias.copy_(theirs.from_self.bias)

    def forward(self, features: Tensor, bonds: Tensor, index: Tensor, crystals: list[Tensor]) -> Tensor:
        """Features (N, F), bonds (N, 12, G), index (N, 12), crystals: atoms of each."""
        atoms = self.embedding(features)
        for conv in self.convs:
            atoms = conv(atoms, bonds, index)
        pooled = torch.cat([torch.mean(atoms[rows], dim=0, keepdim=True) for rows in crystals], dim=0)
        hidden = nn.functional.softplus(self.conv_to_fc(nn.functional.softplus(pooled)))
        return self.fc_out(hidden).squeeze(1)


class OriginalData:
    """Each crystal's tensors in a list, and ``collate_pool`` of the published code."""

    def __init__(self, graphs: Graphs, fast: CGCNN) -> None:
        k = SIZES["neighbours"]
        self.items = []
        for i in range(len(graphs)):
            one = graphs.batch(np.array([i]))
            assert len(one.distances) == k * len(one.numbers), "every atom needs 12 neighbours here"
            bonds = expand(one.distances, fast.centres).view(-1, k, SIZES["gaussians"])
            self.items.append((fast.features[one.numbers], bonds, one.neighbours.view(-1, k)))

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """The chosen crystals side by side."""
        features, bonds, index, crystals, start = [], [], [], [], 0
        for row in rows:
            one = self.items[row]
            n = len(one[0])
            features.append(one[0])
            bonds.append(one[1])
            index.append(one[2] + start)
            crystals.append(torch.arange(start, start + n))
            start += n
        return torch.cat(features), torch.cat(bonds), torch.cat(index), crystals


def trainer(model: nn.Module, make: Callable[[np.ndarray], tuple], target: Tensor) -> Callable[[np.ndarray], float]:
    """One step of SGD with momentum, as a function of the rows."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(rows: np.ndarray) -> float:
        loss = nn.functional.mse_loss(model(*make(rows)), target[torch.from_numpy(rows)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def main() -> None:
    """Time both, compare their losses, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, default=512)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    crystals = mp_sample(given.crystals, seed=1, max_atoms=200)
    graphs = {merge: build_graphs(crystals, neighbours=12, cutoff=8.0, merge=merge) for merge in (False, True)}
    degree = np.diff(graphs[False].edge_offsets)
    full = np.add.reduceat(degree < 12, graphs[False].node_offsets[:-1]) == 0
    graphs = {merge: found[full] for merge, found in graphs.items()}
    target = torch.randn(len(graphs[True]), generator=torch.Generator().manual_seed(0))

    def fast() -> CGCNN:
        torch.manual_seed(0)
        return CGCNN(**SIZES)  # type: ignore[arg-type]

    first = fast()
    original = OriginalData(graphs[False], first)
    merged, whole = graphs[True], graphs[False]
    steps = {
        "original formulation": trainer(Original(first), original.batch, target),
        "Sluice, every atom a node": trainer(fast(), lambda rows: (whole.batch(rows),), target),
        "Sluice": trainer(fast(), lambda rows: (merged.batch(rows),), target),
    }
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(given.steps):
        rows = rng.permutation(len(merged))[: given.batch_size]
        for name, step in steps.items():
            start = time.process_time()
            losses[name].append(step(rows))
            times[name].append(time.process_time() - start)
    reference = np.array(losses["original formulation"])
    print(
        f"{len(merged)} crystals, {len(whole.numbers) / len(whole):.1f} atoms each, batch {given.batch_size},", end=" "
    )
    print(f"{given.steps} steps, {given.threads} threads")
    print("| formulation | CPU s a step | crystals/CPU-s | ratio | largest difference of the loss |")
    print("|---|---|---|---|---|")
    base = median(times["original formulation"][1:])
    for name in steps:
        spent, apart = median(times[name][1:]), float(np.max(np.abs(np.array(losses[name]) / reference - 1)))
        print(f"| {name} | {spent:.3f} | {given.batch_size / spent:.0f} | {base / spent:.1f} | {apart:.1e} |")
        assert apart < LOSS_TOLERANCE, f"{name}: the losses differ"


if __name__ == "__main__":
    main()
