"""What both trainings share: rounds that pass through, and the digest that names their checkpoints."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sluice.models.modelfile import write_atomically
from sluice.provenance import sha256_of_text
from sluice.store import Store


def has_stopped(decision: list[Path]) -> bool:
    """Whether the round before decided that no further one is worth its cost."""
    for path in decision:
        with Store(path, "decision") as store:
            if bool(store.column("stop").any()):
                return True
    return False


def copy_outputs(earlier: list[Path], outputs: list[Path]) -> None:
    """Hand on the outputs of the round before, which have the same names."""
    found = {path.name: path for path in earlier}
    for output in outputs:
        write_atomically(output, found[output.name].read_bytes())
    print("the campaign has stopped: the models of the round before are handed on")


def training_digest(step: str, revision: int, settings: BaseModel, content_sha256: str, **further: Any) -> str:
    """Digest of everything that decides a training's result; pauses between checkpoints do not."""
    values = {
        "step": step,
        "revision": revision,
        "settings": settings.model_dump(mode="json", exclude={"checkpoint_minutes"}),
        "content": content_sha256,
        **further,
    }
    return sha256_of_text(json.dumps(values, sort_keys=True))


def derive_seed(seed: int, *words: str | int) -> int:
    """A seed of its own for each round and model, from the campaign's."""
    text = json.dumps([seed, *words])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
