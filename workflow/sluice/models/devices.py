"""Where a model runs."""

from __future__ import annotations

import torch

from sluice.errors import SluiceError


def pick_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device; auto takes a GPU if there is one.

    Raises:
        SluiceError: if a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SluiceError("device is `cuda`, but torch finds no GPU here; use `auto` or `cpu`, or see `sluice doctor`")
    return device
