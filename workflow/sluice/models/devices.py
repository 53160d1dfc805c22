"""Where a model runs."""

from __future__ import annotations

import os
import socket

import torch

from sluice.errors import SluiceError


def pick_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device; auto takes a GPU if there is one.

    Raises:
        SluiceError: if a GPU is asked for and there is none.
    """
    if name == "auto":
        if not torch.cuda.is_available() and os.environ.get("SLURM_JOB_GPUS"):
            print(f"no GPU that torch can use on {socket.gethostname()}, so this runs on the CPU: {_advice()}")
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        where = socket.gethostname()
        raise SluiceError(f"device is `cuda`, but torch finds no GPU on {where}; {_advice()}")
    return device


def _advice() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return "use `auto` or `cpu`, or see `sluice doctor`"
    given = os.environ.get("SLURM_JOB_GPUS")
    if given:
        return f"SLURM gave job {job} GPU {given} there: see whether its driver and envs/python-cuda.yaml fit"
    return (
        f"SLURM gave job {job} none: slurm_partition of the networks in the profile must be a partition with GPUs, "
        "or set train.device to cpu"
    )
