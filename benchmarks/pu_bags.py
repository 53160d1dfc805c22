"""A training step of bagged PU learning on a CPU: each bag on its own rows against all bags on all rows.

Same weights, same rows, three repeats in turn; gradients must agree. A quarter of the crystals stands for the
positives, and each bag draws as many of the others without repeats. CPU time counts.

    SLUICE_DATA=… python benchmarks/pu_bags.py [--bags 10]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch
from mp_sample import mp_sample
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from sluice.models.graphs import build_graphs
from sluice.models.pu_bags import BaggedCGCNN, draw_bags

SIZES = {"hidden_size": 90, "head_size": 180, "convolutions": 3, "gaussians": 81, "neighbours": 12, "cutoff": 16.0}
REPEATS = 3
TOLERANCE = 1e-3  # relative, of single precision sums in another order


def main() -> None:
    """Time both, compare them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, default=256)
    parser.add_argument("--bags", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    graphs = build_graphs(mp_sample(given.crystals, seed=1, max_atoms=40), neighbours=12, cutoff=SIZES["cutoff"])
    rows = np.arange(len(graphs))
    positive, others = np.split(rows, [len(rows) // 4])
    member = draw_bags(positive, others, len(rows), given.bags, seed=0)
    inside = torch.from_numpy(member)
    target = torch.from_numpy(np.isin(rows, positive)).float().expand(given.bags, -1)
    torch.manual_seed(0)
    bagged = BaggedCGCNN(bags=given.bags, **SIZES).train()

    def together() -> Tensor:
        return bagged.logits(graphs.batch(rows), inside.float())[inside]

    def apart() -> Tensor:
        return torch.cat(bagged.logits_apart([graphs.batch(rows[mine]) for mine in member]))

    spent: dict[str, list[float]] = {"all bags on all rows": [], "each bag on its own rows": []}
    losses, gradients = {}, {}
    for _ in range(REPEATS):
        for name, logits in zip(spent, (together, apart), strict=True):
            bagged.zero_grad()
            start = time.process_time()
            loss = binary_cross_entropy_with_logits(logits(), target[inside])
            loss.backward()
            spent[name].append(time.process_time() - start)
            losses[name] = loss.item()
            gradients[name] = torch.cat([p.grad.flatten() for p in bagged.parameters() if p.grad is not None])
    first, second = gradients.values()
    difference = float((first - second).norm() / first.norm())
    assert difference < TOLERANCE, f"gradients differ by {difference:.1e}"
    base = median(next(iter(spent.values())))
    print(f"{len(rows)} crystals, {given.bags} bags, a bag learns from {member.mean():.0%} of the rows")
    print("| step | CPU s | ratio | loss |\n|---|---|---|---|")
    for name, times in spent.items():
        print(f"| {name} | {median(times):.3f} | {base / median(times):.1f} | {losses[name]:.6f} |")
    print(f"relative difference of the gradients: {difference:.1e}")


if __name__ == "__main__":
    main()
