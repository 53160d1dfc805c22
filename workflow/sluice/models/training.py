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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sluice.errors import SluiceError
from sluice.models.checkpoints import CheckpointFolder, random_state, set_random_state
from sluice.models.distributed import (
    SIGNALS,
    agree,
    all_random_states,
    count_devices,
    is_first,
    launch,
    make_fabric,
    mean_over_processes,
    own_share,
    seed_process,
)
from sluice.models.learner import Learner, OlderState
from sluice.models.modelfile import write_atomically
from sluice.step import Continue, Recorder, add_gpu_seconds, current_recorder, report_progress, use_recorder

Row = dict[str, float | int]


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
        devices: how many, a number or ``auto``; see ``count_devices``.
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
    devices: str = "1"
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

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> _Signals:
        self._before = {name: signal.signal(name, self._remember) for name in SIGNALS}
        return self

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.received = number

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)


class Stopped(Exception):
    """A signal has ended the training, its state being saved."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


def leave(number: int, reason: str) -> NoReturn:
    """End the step as a signal asks for, the training's state being saved."""
    if number == signal.SIGUSR1:
        raise Continue(f"{reason}, to be continued")
    if number == signal.SIGINT:
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
        SluiceError: if its losses are no numbers any more.
        ValueError: if there is nothing to learn from.
    """
    if plan.n_rows < 1:
        raise ValueError(f"{plan.description}: no training rows")
    devices = count_devices(plan.device, plan.devices)
    if devices > 1:
        if learner.one_device_only:
            raise SluiceError(f"train.devices is {devices}, but {learner.one_device_only}: set train.devices to 1")
        print(f"{plan.description}: on {devices} devices")
        several = make_fabric(plan.device, plan.precision, devices)
        started = time.monotonic()
        stopped = launch(several, _train_share, learner=learner, plan=plan, recorder=current_recorder())
        if several.device.type == "cuda":
            add_gpu_seconds((time.monotonic() - started) * devices)
        if isinstance(stopped, str):
            raise SluiceError(stopped)
        if stopped is not None:
            leave(stopped, f"{plan.description}: saved")
    # After several devices, one takes the result from the last checkpoint.
    return _train_here(make_fabric(plan.device, plan.precision), learner, plan)


def _train_share(fabric: Fabric, *, learner: Learner, plan: Plan, recorder: Recorder | None) -> int | str | None:
    """One of several processes; the signal that ended it, what went wrong, None at the training's end."""
    use_recorder(recorder if is_first(fabric) else None)
    try:
        _train_here(fabric, learner, plan)
    except Stopped as stop:
        return stop.number
    except SluiceError as error:  # for the parent to raise: of a child's it makes a traceback
        return str(error)
    return None


def _train_here(fabric: Fabric, learner: Learner, plan: Plan) -> list[Row]:
    torch.set_num_threads(plan.threads)
    fabric.seed_everything(plan.seed % 2**32, verbose=False)
    learner.set_up(fabric)
    folder = CheckpointFolder(plan.checkpoints, plan.digest)
    position, sums, rows = _Position(), {}, []
    saved = folder.load()
    if saved is not None:
        try:
            learner.load_state(saved["learner"])
        except OlderState as reason:
            saved = None
            if is_first(fabric):
                print(f"{plan.description}: {reason}; the training starts anew")
    if saved is not None:
        position = _Position(*saved["position"])
        sums = {name: value.to(fabric.device) for name, value in saved["sums"].items()}
        rows = saved["rows"]
        set_random_state(saved["random"])
        if is_first(fabric):
            print(f"{plan.description}: resumed after step {position.step} of {plan.steps}")
    seed_process(fabric, plan.seed, saved)
    started = time.monotonic()
    try:
        _loop(fabric, learner, plan, position=position, sums=sums, rows=rows, saved=saved, folder=folder)
    except Stopped as stop:
        if fabric.world_size > 1:
            raise
        leave(stop.number, str(stop))
    finally:
        if fabric.device.type == "cuda" and fabric.world_size == 1:
            add_gpu_seconds(time.monotonic() - started)
    if is_first(fabric):
        _write_rows(plan.metrics, rows)
    return rows


def _loop(
    fabric: Fabric,
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
    with _Signals() as signals, _bar(plan, position.step, shown=is_first(fabric)) as show:
        while position.epoch < plan.epochs:
            index = order[position.batch * plan.batch_size : (position.batch + 1) * plan.batch_size]
            losses = learner.step(own_share(index, fabric), position.step / plan.steps)
            for name, value in mean_over_processes(fabric, losses).items():
                sums[name] = sums.get(name, torch.zeros_like(value, dtype=torch.float64)) + value.double() * len(index)
            position.batch += 1
            position.step += 1
            if position.batch == plan.batches:
                means = {name: value.item() / plan.n_rows for name, value in sums.items()}
                _refuse_divergence(plan, position.epoch, means)
                rows.append({"epoch": position.epoch + 1, **means, **learner.end_epoch(position.epoch)})
                if is_first(fabric):
                    _log_epoch(plan, rows[-1], position.batch - done_before, time.monotonic() - epoch_started)
                epoch_started, done_before = time.monotonic(), 0
                position.epoch, position.batch = position.epoch + 1, 0
                sums.clear()
                order = epoch_order(plan.n_rows, plan.seed, position.epoch)
            show(position.step)
            over = position.epoch == plan.epochs
            due = over or time.monotonic() - last_save > 60 * plan.checkpoint_minutes
            received, due = agree(fabric, signals.received, save=due)
            if received is not None or due:
                others = all_random_states(fabric)
                if is_first(fabric):
                    state = position.state(sums, rows, order, learner)
                    folder.save(position.step, state | ({"other_random": others} if others else {}))
                    # The declared output appears only when the training is over.
                    _write_rows(plan.checkpoints / "metrics.csv", rows)
                last_save = time.monotonic()
            if received is not None:
                raise Stopped(received, f"{plan.description}: saved after {position.step} of {plan.steps} steps")


def _refuse_divergence(plan: Plan, epoch: int, means: dict[str, float]) -> None:
    """End a training whose losses are no numbers any more: no further step would mend it."""
    lost = [name for name, value in means.items() if not math.isfinite(value)]
    if lost:
        raise SluiceError(
            f"{plan.description}: in epoch {epoch + 1} {', '.join(lost)} became {means[lost[0]]}: the training"
            " diverged; lower the learning rate, and look for extreme values in the data"
        )


@contextmanager
def _bar(plan: Plan, start: int, *, shown: bool) -> Iterator[Any]:
    """A progress bar on a terminal and progress events in the attempts file."""
    columns = (TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    hidden = not (console.is_terminal and shown)
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=hidden) as progress:
        bar = progress.add_task(plan.description, total=plan.steps, completed=start)

        def show(step: int) -> None:
            progress.update(bar, completed=step)
            report_progress(step, plan.steps, "steps", plan.description, force=step == plan.steps)

        yield show


def _log_epoch(plan: Plan, row: Row, batches: int, seconds: float) -> None:
    """Print the epoch; keep its pace, which differs from run to run, away from the metrics."""
    rate = min(batches * plan.batch_size, plan.n_rows) / max(seconds, 1e-9)
    values = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
    print(f"{plan.description}: epoch {row['epoch']}/{plan.epochs}  {values}  ({rate:.0f} rows/s)", flush=True)
    path = plan.checkpoints / "throughput.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", encoding="utf-8") as handle:
        handle.write(("epoch,seconds,rows_per_second\n" if new else "") + f"{row['epoch']},{seconds:.3f},{rate:.1f}\n")


def _write_rows(path: Path, rows: list[Row]) -> None:
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
