"""The one training loop: every model of Sluice is trained here.

Killed at any moment, the same call goes on from the newest checkpoint and ends with the same weights and metrics, on a
CPU to the bit at an equal number of threads.
"""

from __future__ import annotations

import csv
import io
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sluice.models.checkpoints import CheckpointFolder, random_state, set_random_state
from sluice.models.devices import pick_device
from sluice.models.modelfile import write_atomically
from sluice.step import Continue, add_gpu_seconds, report_progress

Row = dict[str, float | int]


class Learner(Protocol):
    """What the loop asks of a model in training."""

    def set_up(self, fabric: Fabric) -> None:
        """Build networks and optimizers and hand them to Fabric; called once, after seeding."""

    def step(self, index: NDArray[np.int64], progress: float) -> dict[str, torch.Tensor]:
        """Learn from the chosen training rows; ``progress`` runs from 0 to 1; returns mean losses by name."""

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Measure on validation rows, remember the best weights."""

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors and plain values."""

    def load_state(self, state: dict[str, Any]) -> None:
        """The other way round."""


class BestEpoch:
    """The part of a learner that keeps its best epoch's weights and knows its state.

    Attributes:
        network: what is trained; the learner's ``set_up`` makes it.
        optimizers: all of its optimizers, in a fixed order.
        best: weights of the best epoch so far.
        best_rank: how good that was; compared as a list, the larger the better.
    """

    network: torch.nn.Module
    optimizers: Sequence[torch.optim.Optimizer]

    def __init__(self) -> None:
        self.best: dict[str, torch.Tensor] = {}
        self.best_rank: Any = [-math.inf, -math.inf]

    def weights_now(self) -> dict[str, torch.Tensor]:
        """A copy of the present weights in main memory."""
        return {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}

    def keep_if_best(self, rank: list[float]) -> None:
        """Remember the present weights if they rank above all before."""
        if rank > self.best_rank:
            self.best_rank, self.best = rank, self.weights_now()

    def use_best(self) -> None:
        """Go back to the best epoch's weights."""
        self.network.load_state_dict(self.best)

    def state(self) -> dict[str, Any]:
        """Weights, optimizers, and the best epoch so far."""
        return {
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "best": self.best,
            "best_rank": self.best_rank,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The other way round."""
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.best, self.best_rank = state["best"], state["best_rank"]


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        description: name for progress bars.
        n_rows: number of training rows.
        epochs: passes over them.
        batch_size: rows in a step.
        seed: of weights, order and noise.
        digest: of everything that decides the result (settings, data, seed); names whose checkpoints these are.
        checkpoints: folder of checkpoints.
        checkpoint_minutes: time between them.
        metrics: CSV with one row an epoch, written at the end; until then it grows beside the checkpoints.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: lightning-fabric's name.
        threads: CPU threads.
    """

    description: str
    n_rows: int
    epochs: int
    batch_size: int
    seed: int
    digest: str
    checkpoints: Path
    checkpoint_minutes: float
    metrics: Path
    device: str = "auto"
    precision: str = "32-true"
    threads: int = 2

    @property
    def batches(self) -> int:
        """Steps of one epoch."""
        return -(-self.n_rows // self.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.batches * self.epochs


class _Signals:
    """Remembers the signal that asks for an end, so that a step in progress is finished first."""

    NAMES = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> _Signals:
        self._before = {name: signal.signal(name, self._remember) for name in self.NAMES}
        return self

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.received = number

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def leave(self, description: str, step: int, steps: int) -> None:
        """End the training, its state being saved."""
        if self.received == signal.SIGUSR1:
            raise Continue(f"{description}: saved after {step} of {steps} steps, to be continued")
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(143)


@dataclass
class _Position:
    """Where the training stands."""

    epoch: int = 0
    batch: int = 0
    step: int = 0

    def state(self, sums: dict[str, torch.Tensor], rows: list[Row], order: NDArray, learner: Learner) -> dict[str, Any]:
        """Everything that a resumed training needs."""
        return {
            "position": [self.epoch, self.batch, self.step],
            "sums": {name: value.clone() for name, value in sums.items()},
            "rows": [dict(row) for row in rows],
            "order": torch.from_numpy(order),
            "random": random_state(),
            "learner": learner.state(),
        }


def make_fabric(device: str, precision: str) -> Fabric:
    """One process on one device; a SLURM allocation around it is no multi-process launch."""
    kind = pick_device(device).type
    plugins: list[Any] = [LightningEnvironment()]
    return Fabric(accelerator=kind, devices=1, precision=precision, plugins=plugins)  # type: ignore[arg-type]


def epoch_order(n_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The rows' order in an epoch; it depends on nothing else."""
    return np.random.default_rng([seed, epoch]).permutation(n_rows)


def train(learner: Learner, plan: Plan) -> list[Row]:
    """Train to the end, or go on from the newest checkpoint.

    Returns:
        The rows of the metrics file.

    Raises:
        Continue: after SIGUSR1 (a time limit is near), with the state saved.
        SystemExit: after SIGTERM, with the state saved.
        ValueError: if there is nothing to learn from.
    """
    if plan.n_rows < 1:
        raise ValueError(f"{plan.description}: no training rows")
    torch.set_num_threads(plan.threads)
    fabric = make_fabric(plan.device, plan.precision)
    fabric.seed_everything(plan.seed % 2**32, verbose=False)
    learner.set_up(fabric)
    folder = CheckpointFolder(plan.checkpoints, plan.digest)
    position, sums, rows = _Position(), {}, []
    saved = folder.load()
    if saved is not None:
        position = _Position(*saved["position"])
        sums = {name: value.to(fabric.device) for name, value in saved["sums"].items()}
        rows = saved["rows"]
        learner.load_state(saved["learner"])
        set_random_state(saved["random"])
        print(f"{plan.description}: resumed after step {position.step} of {plan.steps}")
    started = time.monotonic()
    try:
        _loop(learner, plan, position=position, sums=sums, rows=rows, saved=saved, folder=folder)
    finally:
        if fabric.device.type == "cuda":
            add_gpu_seconds(time.monotonic() - started)
    _write_rows(plan.metrics, rows)
    return rows


def _loop(
    learner: Learner,
    plan: Plan,
    *,
    position: _Position,
    sums: dict[str, torch.Tensor],
    rows: list[Row],
    saved: dict[str, Any] | None,
    folder: CheckpointFolder,
) -> None:
    order = epoch_order(plan.n_rows, plan.seed, position.epoch) if saved is None else saved["order"].numpy()
    last_save = epoch_started = time.monotonic()
    done_before = position.batch
    with _Signals() as signals, _bar(plan, position.step) as show:
        while position.epoch < plan.epochs:
            index = order[position.batch * plan.batch_size : (position.batch + 1) * plan.batch_size]
            for name, value in learner.step(index, position.step / plan.steps).items():
                sums[name] = sums.get(name, torch.zeros_like(value, dtype=torch.float64)) + value.double() * len(index)
            position.batch += 1
            position.step += 1
            if position.batch == plan.batches:
                means = {name: value.item() / plan.n_rows for name, value in sums.items()}
                rows.append({"epoch": position.epoch + 1, **means, **learner.end_epoch(position.epoch)})
                _log_epoch(plan, rows[-1], position.batch - done_before, time.monotonic() - epoch_started)
                epoch_started, done_before = time.monotonic(), 0
                position.epoch, position.batch = position.epoch + 1, 0
                sums.clear()
                order = epoch_order(plan.n_rows, plan.seed, position.epoch)
            show(position.step)
            over = position.epoch == plan.epochs
            if signals.received is not None or over or time.monotonic() - last_save > 60 * plan.checkpoint_minutes:
                folder.save(position.step, position.state(sums, rows, order, learner))
                # The declared output appears only when the training is over.
                _write_rows(plan.checkpoints / "metrics.csv", rows)
                last_save = time.monotonic()
            if signals.received is not None:
                signals.leave(plan.description, position.step, plan.steps)


@contextmanager
def _bar(plan: Plan, start: int) -> Iterator[Any]:
    """A progress bar on a terminal and progress events in the attempts file."""
    columns = (TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task(plan.description, total=plan.steps, completed=start)

        def show(step: int) -> None:
            progress.update(bar, completed=step)
            report_progress(step, plan.steps, "steps", plan.description, force=step == plan.steps)

        yield show


def _log_epoch(plan: Plan, row: Row, batches: int, seconds: float) -> None:
    """Print the epoch; keep its pace, which differs from run to run, away from the metrics."""
    rate = min(batches * plan.batch_size, plan.n_rows) / max(seconds, 1e-9)
    values = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
    print(f"{plan.description}: epoch {row['epoch']}/{plan.epochs}  {values}  ({rate:.0f} crystals/s)", flush=True)
    path = plan.checkpoints / "throughput.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", encoding="utf-8") as handle:
        handle.write(
            ("epoch,seconds,crystals_per_second\n" if new else "") + f"{row['epoch']},{seconds:.3f},{rate:.1f}\n"
        )


def _write_rows(path: Path, rows: list[Row]) -> None:
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
