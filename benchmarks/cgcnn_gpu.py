"""A training step of CGCNN on a GPU: crystals a second, and how much of the memory's bandwidth it uses.

Bytes are those that the step's operations read and write by their shapes, one operation after the other, counted on
the CPU; the limit is what a large copy on the same GPU moves. In bf16 the losses are held against single precision,
same weights and batches.

    python benchmarks/cgcnn_gpu.py results/experiments/tsdnn-synthesizability/default/prepared/graphs.h5
    SLUICE_DATA=… python benchmarks/cgcnn_gpu.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from cgcnn_step import SIZES
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sluice.models.cgcnn import CGCNN
from sluice.models.graph_store import read_graphs
from sluice.models.graphs import Graphs, build_graphs

VIEWS = ("view", "expand", "t", "transpose", "slice", "select", "unsqueeze", "squeeze", "detach", "alias", "permute",
         "_unsafe_view", "split", "as_strided", "unbind", "empty", "empty_like", "new_empty", "chunk")  # fmt: skip
COPY_BYTES = 2**32


class Traffic(TorchDispatchMode):
    """Sums the sizes of what operations read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            read = () if name.startswith("new_") or name.endswith("_like") else (args, kwargs)
            tensors = [x for x in tree_leaves((read, found)) if isinstance(x, torch.Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return found


def bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of a large copy."""
    source = torch.empty(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(6):
        times.append(timed(device, partial(target.copy_, source))[1])
    return 2 * COPY_BYTES / min(times)


def timed(device: torch.device, work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    """What something gives, and the seconds that it takes."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return found, time.perf_counter() - start


def trainer(model: torch.nn.Module, precision: str, device: torch.device) -> Callable[..., torch.Tensor]:
    """One step of SGD on a batch that is at hand."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(target: torch.Tensor, *batch: Any) -> torch.Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            output = model(*batch)
        loss = torch.nn.functional.mse_loss(output.float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def sample(path: Path | None, count: int) -> Graphs:
    """Graphs of a store, or of the reference data's structures."""
    if path is not None:
        _, graphs, _ = read_graphs(path)
        rows = np.random.default_rng(1).permutation(len(graphs))[:count]
        return graphs[np.sort(rows)]
    from mp_sample import mp_sample

    return build_graphs(mp_sample(count, seed=1, max_atoms=200), neighbours=12, cutoff=8.0)


def main() -> None:
    """Time, count, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, nargs="?")
    parser.add_argument("--crystals", type=int, default=16384)
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 2048, 8192])
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    graphs = sample(given.store, given.crystals)
    target = torch.randn(len(graphs), generator=torch.Generator().manual_seed(0))
    limit = bandwidth(device) if device.type == "cuda" else float("nan")
    name = torch.cuda.get_device_name(0) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, a copy moves {limit / 1e12:.2f} TB/s; {len(graphs)} crystals,", end=" ")
    print(f"{graphs.node_counts.sum() / len(graphs):.1f} atoms and {len(graphs.numbers) / len(graphs):.1f} nodes each")
    print(
        "| batch | precision | ms a step | crystals/s | with assembly of the batch | MB a crystal | share of the",
        end=" ",
    )
    print("bandwidth | largest difference of the loss |")
    print("|---|---|---|---|---|---|---|---|")
    for size in given.batches:
        curves: dict[str, np.ndarray] = {}
        for precision in ("fp32", "bf16"):
            torch.manual_seed(0)
            model = CGCNN(**SIZES).to(device)  # type: ignore[arg-type]
            step = trainer(model, precision, device)
            losses, alone, whole = [], [], []
            rng = np.random.default_rng(0)
            for _ in range(given.steps):
                rows = rng.choice(len(graphs), size, replace=size > len(graphs))
                began = time.perf_counter()
                batch = graphs.batch(rows, device)
                wanted = target[torch.from_numpy(rows)].to(device)
                loss, seconds = timed(device, partial(step, wanted, batch))
                losses.append(loss)
                alone.append(seconds)
                whole.append(time.perf_counter() - began)
            curves[precision] = torch.stack(losses).cpu().numpy()
            with Traffic() as traffic:
                trainer(CGCNN(**SIZES), precision, torch.device("cpu"))(  # type: ignore[arg-type]
                    target[torch.from_numpy(rows)], graphs.batch(rows)
                )
            seconds, together = median(alone[3:]), median(whole[3:])
            apart = float(np.max(np.abs(curves[precision] / curves["fp32"] - 1)))
            print(
                f"| {size} | {precision} | {1e3 * seconds:.2f} | {size / seconds:.0f} | {size / together:.0f} |"
                f" {traffic.bytes / size / 1e6:.2f} | {traffic.bytes / seconds / limit:.0%} | {apart:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
