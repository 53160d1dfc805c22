"""Model files: one self-describing dictionary, read without running anything in it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sluice.errors import SluiceError
from sluice.models.cgcnn import CGCNN
from sluice.models.composition import CompositionModel
from sluice.models.cubicgan import CubicGAN
from sluice.models.dvae import DisentangledVAE
from sluice.models.gatgnn import GATGNN
from sluice.models.matgan import Matgan
from sluice.models.pu_bags import BaggedCGCNN
from sluice.models.tsdnn import TSDNN
from sluice.models.wgan import Wgan
from sluice.provenance import created_with, sha256_of_file

FORMAT = "sluice-model"
FORMAT_VERSION = 1
NETWORKS: dict[str, type[nn.Module]] = {
    "cgcnn": CGCNN,
    "gatgnn": GATGNN,
    "tsdnn": TSDNN,
    "pu_bags": BaggedCGCNN,
    "cubicgan": CubicGAN,
    "dvae": DisentangledVAE,
    "composition": CompositionModel,
    "wgan": Wgan,
    "matgan": Matgan,
}


class ModelError(SluiceError):
    """A model file that cannot be used; names the file and what is wrong."""


@dataclass(frozen=True)
class Model:
    """A trained network with what is needed to apply it.

    Attributes:
        kind: a key of ``NETWORKS``.
        network: in evaluation mode.
        task: ``classification`` (the output is a logit of lying below ``threshold``), ``regression`` or ``generation``.
        facts: everything else that the file says: ``threshold`` (eV/atom), ``elements``, ``training_sha256``, …
        path: where it was read.
        sha256: digest of the file.
    """

    kind: str
    network: nn.Module
    task: str
    facts: dict[str, Any]
    path: Path
    sha256: str


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file as a whole: readers and a crash see the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SluiceError(f"{path}: cannot be written ({error}); what was there before is untouched") from error


def to_bytes(values: Mapping[str, Any]) -> bytes:
    """Tensors and plain values as torch's zip format, equal bytes for equal content."""
    buffer = io.BytesIO()
    torch.save(dict(values), buffer)
    return buffer.getvalue()


def save_model(
    path: Path,
    *,
    kind: str,
    task: str,
    hyperparameters: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Write a model file.

    Args:
        path: the file to write or replace.
        kind: a key of ``NETWORKS``.
        task: see ``Model``.
        hyperparameters: the network's arguments.
        state: its weights.
        facts: plain values that belong to it.
    """
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "task": task,
        "hyperparameters": dict(hyperparameters),
        "state": {name: value.detach().cpu().clone() for name, value in state.items()},
        "facts": dict(facts),
        "versions": created_with(),
    }
    write_atomically(path, to_bytes(content))


def load_model(path: Path, device: torch.device | str = "cpu") -> Model:
    """Read a model file.

    Raises:
        ModelError: if it is missing, damaged, foreign or of another format version.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such model file")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a foreign file can make the unpickler raise nearly anything
        raise ModelError(f"{path}: not a readable model file (truncated or foreign): {_first_line(error)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelError(f"{path}: not a model that Sluice wrote; give a screener.ckpt or generator.ckpt of a campaign")
    if content.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{path}: model format {content.get('format_version')}, this Sluice reads {FORMAT_VERSION}; train it again"
        )
    if content["kind"] not in NETWORKS:
        raise ModelError(f"{path}: unknown kind of model {content['kind']!r}; known: {', '.join(NETWORKS)}")
    try:
        network = NETWORKS[content["kind"]](**content["hyperparameters"])
        network.load_state_dict(content["state"])
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: weights do not fit the network it names: {_first_line(error)}") from error
    facts = {**content["facts"], "versions": content["versions"], "hyperparameters": content["hyperparameters"]}
    return Model(content["kind"], network.to(device).eval(), content["task"], facts, path, sha256_of_file(path))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
