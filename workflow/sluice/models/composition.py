"""Models of compositions: one or several networks on an encoding, or Roost, with the scale of what they predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sluice.chemistry.compositions import MAX_Z, Compositions, symbols
from sluice.chemistry.encodings import ElementFractions, Encoding, EncodingError, make_encoding
from sluice.config_composition import CompositionModelSettings, seen_encodings
from sluice.models.elemnet import elemnet
from sluice.models.heads import Head
from sluice.models.roost import Roost, element_graphs

CACHED_BYTES = 512 * 2**20  # encoded compositions up to so much are kept, larger ones encoded a batch at a time
MAX_LOG_SPREAD = 5.0


@dataclass(frozen=True)
class Prediction:
    """What a model says of n compositions.

    Attributes:
        value: (n,) predicted value, or probability of class 1; NaN without a prediction.
        spread: (n,) standard deviation that the networks predict themselves; 0 where they do not.
        disagreement: (n,) standard deviation between the members of an ensemble; 0 for one member.
        reasons: why there is no prediction; "" where there is one.
    """

    value: NDArray[np.float64]
    spread: NDArray[np.float64]
    disagreement: NDArray[np.float64]
    reasons: list[str]

    @property
    def uncertainty(self) -> NDArray[np.float64]:
        """(n,) both together."""
        return np.hypot(self.spread, self.disagreement)


class CompositionModel(nn.Module):
    """Networks of one architecture that differ in their seeds.

    Args:
        settings: ``CompositionModelSettings`` as plain values; what concerns training only does not matter here.
        encoding: of the inputs, as plain values, which it must be if it is learned; None for Roost, and for what the
            settings name.

    Raises:
        EncodingError: if the settings name a learned encoding and none is given.
    """

    input_mean: Tensor
    input_std: Tensor
    target_mean: Tensor
    target_std: Tensor
    known: Tensor

    def __init__(self, *, settings: Mapping[str, Any], encoding: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.settings = CompositionModelSettings.model_validate(_without_unseen_encoding(settings))
        self.encoding = _encoding(self.settings, encoding)
        self.outputs = 2 if self.settings.uncertainty else 1
        width = int(np.prod(self.encoding.shape)) if self.encoding is not None else 1
        self.register_buffer("input_mean", torch.zeros(width))
        self.register_buffer("input_std", torch.ones(width))
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_std", torch.ones(()))
        self.register_buffer("known", torch.zeros(MAX_Z + 1, dtype=torch.bool))  # elements of the training rows
        self.members = nn.ModuleList(self._network(width) for _ in range(self.settings.members))

    def _network(self, width: int) -> nn.Module:
        s = self.settings
        if s.model == "roost":
            return Roost(
                size=s.size,
                messages=s.messages,
                heads=s.heads,
                hidden=s.hidden,
                trunk=s.trunk,
                outputs=self.outputs,
                dropout=s.dropout,
            )
        if s.model == "elemnet":
            return elemnet(width, depth=s.depth, outputs=self.outputs, dropout=s.paper_dropout, residual=s.residual)
        return Head(width, s.widths, self.outputs, dropout=s.dropout, residual=s.residual)

    def fit_scale(self, compositions: Compositions, target: NDArray[np.float64]) -> None:
        """Take the scale of inputs and targets, and the elements that are known, from the training rows."""
        if self.encoding is not None and self.encoding.name in ("magpie", "embedding"):
            values = self.encoding.encode(compositions).reshape(len(compositions), -1)
            mean, std = values.mean(axis=0, dtype=float), values.std(axis=0, dtype=float)
            self.input_mean.copy_(torch.from_numpy(mean))
            self.input_std.copy_(torch.from_numpy(np.where(std > 1e-8, std, 1.0)))
        if self.settings.task == "regression":
            self.target_mean.fill_(float(target.mean()))
            self.target_std.fill_(float(target.std()) or 1.0)
        self.known[torch.from_numpy(np.unique(compositions.numbers).astype(np.int64))] = True

    def problems(self, compositions: Compositions) -> list[str]:
        """Why the model cannot say anything of each composition; "" where it can."""
        found = [""] * len(compositions)
        if self.encoding is not None:
            found = self.encoding.problems(compositions)
        if bool(self.known.any()):
            strange = ~self.known.cpu().numpy()[compositions.numbers]
            for row, z in zip(compositions.rows[strange].tolist(), compositions.numbers[strange].tolist(), strict=True):
                found[row] = found[row] or f"the model was trained on no composition with {symbols()[z]}"
        return [f or ("no elements" if size == 0 else "") for f, size in zip(found, compositions.sizes, strict=True)]

    def inputs(self, compositions: Compositions) -> Inputs:
        """The compositions as the networks take them; none may have a problem."""
        return Inputs(self, compositions)

    def forward(self, batch: Any, member: int = 0) -> Tensor:
        """(B, outputs) of one member, in units of the training targets' standard deviation; logits of a classifier."""
        if torch.is_tensor(batch):
            batch = (batch - self.input_mean) / self.input_std
        output: Tensor = self.members[member](batch)
        return output

    def predict(
        self, compositions: Compositions, device: torch.device | str = "cpu", batch_size: int = 4096
    ) -> Prediction:
        """Predict, in the target's unit; puts the networks into evaluation mode on the device."""
        self.to(device).eval()
        reasons = self.problems(compositions)
        good = np.flatnonzero([reason == "" for reason in reasons])
        inputs = self.inputs(compositions[good])
        outputs = np.zeros((len(self.members), len(good), self.outputs))
        with torch.inference_mode():
            for begin in range(0, len(good), batch_size):
                rows = np.arange(begin, min(begin + batch_size, len(good)))
                batch = inputs.batch(rows, device)
                for member in range(len(self.members)):
                    outputs[member, rows] = self(batch, member).double().cpu().numpy()
        value, spread, disagreement = (np.full(len(reasons), np.nan) for _ in range(3))
        value[good], spread[good], disagreement[good] = self._scaled(outputs)
        return Prediction(value, spread, disagreement, reasons)

    def _scaled(self, outputs: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray]:
        """Value, own spread and disagreement from (members, n, outputs)."""
        scale = float(self.target_std)
        values = outputs[..., 0] * scale + float(self.target_mean)
        if self.settings.task == "classification":
            values = 1 / (1 + np.exp(-outputs[..., 0]))
        spread = np.zeros(values.shape[1])
        if self.outputs == 2:
            # Of a Laplace distribution of width b the standard deviation is √2 b.
            spread = np.sqrt(2 * np.mean(np.exp(2 * np.minimum(outputs[..., 1], MAX_LOG_SPREAD)), axis=0)) * scale
        return values.mean(axis=0), spread, values.std(axis=0)


class Inputs:
    """Compositions as the networks of a model take them, a batch at a time."""

    def __init__(self, model: CompositionModel, compositions: Compositions) -> None:
        self.encoding, self.compositions = model.encoding, compositions
        self._values: NDArray[np.float32] | None = None
        self.width = int(np.prod(self.encoding.shape)) if self.encoding is not None else 0
        if self.encoding is not None and 4 * len(compositions) * self.width <= CACHED_BYTES:
            self._values = self.encoding.encode(compositions).reshape(len(compositions), self.width)

    def __len__(self) -> int:
        return len(self.compositions)

    def batch(self, rows: NDArray[np.int64], device: torch.device | str) -> Any:
        """The chosen rows on a device."""
        if self.encoding is None:
            return element_graphs(self.compositions[rows], device)
        if self._values is not None:
            return torch.from_numpy(self._values[rows]).to(device)
        values = self.encoding.encode(self.compositions[rows])
        return torch.from_numpy(values.reshape(len(rows), self.width)).to(device)


def _without_unseen_encoding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a model file; those of earlier versions may name an encoding that their model never looked at."""
    usual = CompositionModelSettings.model_fields
    model, encoding = (settings.get(name, usual[name].default) for name in ("model", "encoding"))
    ignored = encoding in seen_encodings("head") and encoding not in seen_encodings(model)
    return {**settings, "encoding": "fractions" if ignored else encoding}


def _encoding(settings: CompositionModelSettings, plain: Mapping[str, Any] | None) -> Encoding | None:
    if settings.model == "roost":
        return None
    if plain is not None:
        return make_encoding(dict(plain))
    if settings.needs_wgan:
        raise EncodingError("encoding = 'embedding': the vectors of the elements, which a WGAN learned, are not given")
    return ElementFractions() if settings.model == "elemnet" else make_encoding({"name": settings.encoding})


def combined(models: list[CompositionModel]) -> CompositionModel:
    """One ensemble of models of one member each, trained on the same rows."""
    first = models[0]
    settings = first.settings.model_dump(mode="json") | {"members": len(models)}
    encoding = first.encoding.plain() if first.encoding is not None else None
    ensemble = CompositionModel(settings=settings, encoding=encoding)
    for name in ("input_mean", "input_std", "target_mean", "target_std", "known"):
        getattr(ensemble, name).copy_(getattr(first, name))
    for member, model in zip(ensemble.members, models, strict=True):
        member.load_state_dict(model.members[0].state_dict())
    return ensemble
