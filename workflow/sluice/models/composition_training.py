"""How models of compositions learn: the best validation epoch is kept, members of an ensemble follow one another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss, mse_loss

from sluice.chemistry.composition_table import CompositionTable
from sluice.config_composition import CompositionModelSettings
from sluice.errors import SluiceError
from sluice.models.cgcnn_training import one_cycle, roc_auc
from sluice.models.composition import MAX_LOG_SPREAD, CompositionModel, combined
from sluice.models.distributed import balanced
from sluice.models.learner import BestEpoch
from sluice.models.modelfile import ModelError, load_model, save_model
from sluice.models.training import Plan, Row, train
from sluice.models.wgan import Wgan
from sluice.provenance import sha256_of_text

GRADIENT_NORM = 10.0
EVALUATION_ROWS = 4096


class CompositionLearner(BestEpoch):
    """One network in training.

    Args:
        table: all rows; those of the split ``train`` are learned from.
        settings: of the model, for one member.
        encoding: see ``CompositionModel``.
    """

    network: CompositionModel

    def __init__(
        self, table: CompositionTable, settings: CompositionModelSettings, encoding: Mapping[str, Any] | None = None
    ) -> None:
        self.table, self.settings, self.encoding = table, settings, encoding
        self.training, self.validation = table.rows("train"), table.rows("val")
        super().__init__()

    def set_up(self, fabric: Fabric) -> None:
        """Build the network and its optimizer, take the scale from the training rows."""
        self.fabric = fabric
        self.network = CompositionModel(
            settings=self.settings.model_dump(mode="json") | {"members": 1}, encoding=self.encoding
        )
        self.network.fit_scale(self.table.compositions[self.training], self.table.target[self.training])
        self.inputs = self.network.inputs(self.table.compositions)
        scale = float(self.network.target_std)
        scaled = (self.table.target - float(self.network.target_mean)) / scale
        self._target = torch.from_numpy(scaled.astype(np.float32))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        self.optimizers = (self.optimizer,)
        self._model, self._optimizer = fabric.setup(self.network, self.optimizer)

    def _loss(self, output: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
        target = self._target[torch.from_numpy(rows)].to(output.device)
        value = output[:, 0].float()
        if self.settings.task == "classification":
            return binary_cross_entropy_with_logits(value, target)
        if self.settings.uncertainty:
            log_width = output[:, 1].float().clamp(max=MAX_LOG_SPREAD)
            return ((value - target).abs() * torch.exp(-log_width) + log_width).mean()
        return l1_loss(value, target) if self.settings.loss == "mae" else mse_loss(value, target)

    def step(self, index: NDArray[np.int64], progress: float) -> dict[str, torch.Tensor]:
        """One step of AdamW."""
        factor = one_cycle(progress) if self.settings.schedule == "one-cycle" else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        rows = self.training[index]
        # Batch normalization cannot learn from a single row.
        self._model.train(len(rows) > 1 or self.fabric.world_size > 1)
        loss = balanced(
            self.fabric, self._loss(self._model(self.inputs.batch(rows, self.fabric.device)), rows), len(rows)
        )
        self._optimizer.zero_grad()
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self._model, self._optimizer, max_norm=GRADIENT_NORM, error_if_nonfinite=False)
        self._optimizer.step()
        return {"train_loss": loss.detach()}

    def outputs(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """(r, outputs) of the present weights."""
        network = self.network.eval()
        parts = []
        with torch.no_grad():
            for begin in range(0, len(rows), EVALUATION_ROWS):
                part = rows[begin : begin + EVALUATION_ROWS]
                parts.append(network(self.inputs.batch(part, self.fabric.device)).float().cpu())
        return torch.cat(parts) if parts else torch.zeros(0, self.network.outputs)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Validation loss and mean absolute error (or area under the ROC curve); the best epoch's weights are kept."""
        row = {"learning_rate": float(self.optimizer.param_groups[0]["lr"])}
        rank = [0.0, float(epoch)]
        if len(self.validation):
            output = self.outputs(self.validation)
            row["val_loss"] = float(self._loss(output, self.validation))
            if self.settings.task == "classification":
                row["val_roc_auc"] = roc_auc(self.table.target[self.validation], output[:, 0].numpy())
                rank = [0.0 if math.isnan(row["val_roc_auc"]) else row["val_roc_auc"], -row["val_loss"]]
            else:
                wanted = self._target[torch.from_numpy(self.validation)]
                row["val_mae"] = float((output[:, 0] - wanted).abs().mean()) * float(self.network.target_std)
                rank = [-row["val_mae"], -row["val_loss"]]
        self.keep_if_best(rank)
        return row


def learned_encoding(settings: CompositionModelSettings, generator: Sequence[Path]) -> dict[str, Any] | None:
    """The encoding that a WGAN's critic learned, as plain values; None where the settings do not ask for it.

    Args:
        settings: of the model that will see it.
        generator: model file of the WGAN; not read, and may be missing, where the settings do not ask for it.

    Raises:
        SluiceError: if it is asked for and there is no model file, or one without vectors of the elements.
    """
    if not settings.needs_wgan:
        return None
    if len(generator) != 1:
        raise SluiceError(
            f"encoding = 'embedding' needs the model file of one WGAN, {len(generator)} are given: set --generator"
        )
    model = load_model(generator[0])
    if not isinstance(model.network, Wgan):
        raise ModelError(f"{generator[0]}: a {model.kind} model has no vectors of the elements; give a WGAN's")
    return model.network.element_encoding().plain()


def train_members(
    table: CompositionTable,
    settings: CompositionModelSettings,
    *,
    seed: int,
    checkpoints: Path,
    metrics: Path,
    device: str = "auto",
    precision: str = "32-true",
    threads: int = 1,
    devices: str = "1",
    encoding: Mapping[str, Any] | None = None,
) -> tuple[CompositionModel, list[Row]]:
    """Train all members of a model, or go on where it was interrupted.

    Args:
        table: rows that are all within the encoding.
        settings: of the model.
        seed: of the first member; each has one of its own.
        checkpoints: folder that survives interruptions.
        metrics: CSV of the first member, one row an epoch; those of the others lie in ``checkpoints``.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: lightning-fabric's name.
        threads: CPU threads; results are equal to the bit at equal threads.
        devices: how many, a number or ``auto``: all GPUs given to the job.
        encoding: see ``CompositionModel``.

    Returns:
        The model and the first member's metrics.

    Raises:
        SluiceError: if there is nothing to learn from, or a row that the encoding cannot hold.
    """
    if len(table.rows("train")) == 0:
        raise SluiceError("no compositions to train on")
    probe = CompositionModel(settings=settings.model_dump(mode="json") | {"members": 1}, encoding=encoding)
    wrong = next((problem for problem in probe.problems(table.compositions) if problem), "")
    if wrong:
        raise SluiceError(f"a composition cannot be encoded: {wrong}")
    digest = sha256_of_text(
        f"{settings.model_dump_json(exclude={'checkpoint_minutes', 'members'})} {encoding} {precision} {threads} "
        f"{table.digest()}{'' if devices == '1' else f' {devices} devices'}"
    )
    models: list[CompositionModel] = []
    rows: list[Row] = []
    for member in range(settings.members):
        learner = CompositionLearner(table, settings, encoding)
        found = train(
            learner,
            Plan(
                description=f"train {settings.model}" + (f" {member + 1}" if settings.members > 1 else ""),
                n_rows=len(learner.training),
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                seed=seed + 7919 * member,
                digest=sha256_of_text(f"{digest} {seed} {member}"),
                checkpoints=checkpoints / f"member_{member}",
                checkpoint_minutes=settings.checkpoint_minutes,
                metrics=metrics if member == 0 else checkpoints / f"member_{member}" / "final_metrics.csv",
                device=device,
                devices=devices,
                precision=precision,
                threads=threads,
            ),
        )
        learner.use_best()
        models.append(learner.network.to("cpu").eval())
        rows = rows or found
    return combined(models).eval(), rows


def save_composition_model(path: Path, model: CompositionModel, facts: Mapping[str, Any]) -> None:
    """Write the model file that ``sluice score`` takes; ``facts`` say what the output is."""
    save_model(
        path,
        kind="composition",
        task=model.settings.task,
        hyperparameters={
            "settings": model.settings.model_dump(mode="json"),
            "encoding": model.encoding.plain() if model.encoding is not None else None,
        },
        state=model.state_dict(),
        facts=dict(facts),
    )
