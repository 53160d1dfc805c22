"""Checkpoints of a training: written whole, checked by digest, the newest good one found again."""

from __future__ import annotations

import hashlib
import io
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sluice.models.modelfile import to_bytes, write_atomically

MAGIC = b"SLUICE-CHECKPOINT-1\n"
DIGEST_LENGTH = 64
KEEP = 2


class CheckpointFolder:
    """The checkpoints of one training.

    Fabric's own ``save`` gives no way to tell a damaged file from a good one before it is unpickled, hence a digest in
    front of torch's format.

    Args:
        path: folder; it is made when first written to.
        digest: of everything that decides the training's result; checkpoints of another digest are passed over.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path, self.digest = path, digest

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("step_*.ckpt"))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state after ``step`` steps and drop all but the newest ``KEEP`` files."""
        content = to_bytes({"digest": self.digest, "step": step, "state": state})
        path = self.path / f"step_{step:09d}.ckpt"
        for stale in self.path.glob(".step_*.tmp"):
            stale.unlink(missing_ok=True)
        write_atomically(path, MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        others = [other for other in self._files() if other != path]
        # Those of later steps can only stem from other settings: this run has not been there yet.
        for other in [o for o in others if o > path] + [o for o in others if o < path][: -(KEEP - 1)]:
            other.unlink(missing_ok=True)
        return path

    def load(self) -> dict[str, Any] | None:
        """The state of the newest checkpoint that is whole and of the same digest; None if there is none."""
        for path in reversed(self._files()):
            content = _checked(path)
            if content is None:
                print(f"{path}: damaged checkpoint passed over", file=sys.stderr)
                continue
            values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            if values["digest"] == self.digest:
                state: dict[str, Any] = values["state"]
                return state
            print(f"{path}: checkpoint of other settings or data passed over", file=sys.stderr)
        return None


def _checked(path: Path) -> bytes | None:
    """The checkpoint's content if the file is whole."""
    raw = path.read_bytes()
    head = len(MAGIC) + DIGEST_LENGTH + 1
    if not raw.startswith(MAGIC) or len(raw) <= head:
        return None
    content = raw[head:]
    digest = raw[len(MAGIC) : head - 1]
    return content if hashlib.sha256(content).hexdigest().encode() == digest else None


def random_state() -> dict[str, Any]:
    """States of all random number generators as plain values and tensors."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put all random number generators where they were."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    random.setstate(state["python"])
