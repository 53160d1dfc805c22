"""One training on several devices: a process for each, every batch shared out, gradients averaged (DDP).

The processes are started by the training step itself, through lightning-fabric, so that ``python -m`` steps, Snakemake
and SLURM see one process as ever. A batch means the same on any number of devices: losses and the statistics of
normalizations are those of the whole of it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from inspect import signature
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sluice.errors import SluiceError
from sluice.models.checkpoints import random_state, set_random_state
from sluice.models.devices import pick_device

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def count_devices(device: str, devices: str) -> int:
    """How many devices a training takes.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        devices: a number, or ``auto``: all GPUs that the job was given, on a CPU one process.

    Raises:
        SluiceError: if there are fewer GPUs than asked for.
    """
    kind, there = pick_device(device).type, torch.cuda.device_count()
    if devices == "auto":
        return max(1, there) if kind == "cuda" else 1
    if kind == "cuda" and int(devices) > there:
        raise SluiceError(
            f"train.devices is {devices}, but this job has {there} GPUs; ask for more (resource `gpu` of the profile),"
            " or set train.devices to `auto`"
        )
    return int(devices)


def make_fabric(device: str, precision: str, devices: int = 1) -> Fabric:
    """One process on one device, or one for each of several; SLURM around it is no multi-process launch."""
    plugins: list[Any] = [LightningEnvironment()]
    # The networks' buffers are equal on all devices by themselves, and an evaluation must not wait for other processes.
    names = signature(DistributedDataParallel).parameters
    shared = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"  # its older name
    options: dict[str, Any] = {"start_method": "spawn", shared: False}
    strategy = DDPStrategy(**options) if devices > 1 else "auto"
    kind = pick_device(device).type
    return Fabric(accelerator=kind, devices=devices, strategy=strategy, precision=precision, plugins=plugins)  # type: ignore[arg-type]


def launch(fabric: Fabric, work: Callable[..., int | str | None], **arguments: Any) -> int | str | None:
    """Run ``work(fabric, **arguments)`` in a process for each device; what the first one returns.

    Signals that ask for an end are passed on to all of them.
    """
    with _passed_on():
        # Bound beforehand: Fabric takes arguments of its own apart and stumbles over frozen dataclasses.
        found: int | str | None = fabric.launch(partial(work, **arguments))
    return found


@contextmanager
def _passed_on() -> Iterator[None]:
    over = threading.Event()

    def pass_on(number: int, _: FrameType | None) -> None:
        threading.Thread(target=_tell, args=(number, over), daemon=True).start()

    before = {name: signal.signal(name, pass_on) for name in SIGNALS}
    try:
        yield
    finally:
        over.set()
        for name, handler in before.items():
            signal.signal(name, handler)


def _tell(number: int, over: threading.Event) -> None:
    """Send a signal once to each child of this process, as soon as it heeds it: one that still starts would die."""
    told: set[int] = set()
    while not over.wait(0.2):
        for child in psutil.Process().children():
            if child.pid not in told and _heeds(child.pid, number):
                told.add(child.pid)
                with suppress(ProcessLookupError):
                    os.kill(child.pid, number)


def _heeds(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def own_share(index: NDArray[np.int64], fabric: Fabric) -> NDArray[np.int64]:
    """The rows of a batch that this process learns from; all of them where there are fewer than processes."""
    if len(index) < fabric.world_size:
        return index
    return index[fabric.global_rank :: fabric.world_size]


def balanced(fabric: Fabric, loss: Tensor, weight: float) -> Tensor:
    """A mean over this process's rows, so scaled that the mean over all processes is that over all rows.

    Args:
        fabric: of the training.
        loss: mean over the rows of this process.
        weight: sum of their weights, or their number.
    """
    if fabric.world_size == 1:
        return loss
    total = fabric.all_reduce(torch.tensor(weight, device=fabric.device), reduce_op="sum")
    assert isinstance(total, Tensor)
    return loss * (fabric.world_size * weight / total)


def mean_over_processes(fabric: Fabric, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each value's mean over all processes."""
    if fabric.world_size == 1:
        return values
    found = fabric.all_reduce({name: value.clone() for name, value in values.items()}, reduce_op="mean")
    assert isinstance(found, dict)
    return found


def agree(fabric: Fabric, received: int | None, *, save: bool) -> tuple[int | None, bool]:
    """What all processes do after a step: end for the signal that any received, save if the first one wants to."""
    if fabric.world_size == 1:
        return received, save
    wishes = torch.tensor([received or 0, int(save and fabric.global_rank == 0)], device=fabric.device)
    dist.all_reduce(wishes, op=dist.ReduceOp.MAX)
    number, wanted = wishes.tolist()
    return number or None, bool(wanted)


def all_random_states(fabric: Fabric) -> list[dict[str, Any]]:
    """The random states of all processes but the first, whose own is in every checkpoint."""
    if fabric.world_size == 1:
        return []
    states: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(states, random_state())
    return states[1:]


def seed_process(fabric: Fabric, seed: int, saved: dict[str, Any] | None) -> None:
    """Random numbers of its own for each process but the first: as saved, or of a new seed."""
    if fabric.global_rank == 0:
        return
    others = (saved or {}).get("other_random", [])
    if fabric.global_rank <= len(others):
        set_random_state(others[fabric.global_rank - 1])
    else:
        mixed = np.random.SeedSequence([seed, fabric.global_rank]).generate_state(1)
        fabric.seed_everything(int(mixed[0]), verbose=False)


def is_first(fabric: Fabric) -> bool:
    """Whether this process writes: checkpoints, metrics, progress, log."""
    return bool(fabric.global_rank == 0)
