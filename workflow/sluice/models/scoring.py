"""Applying a trained model to crystals or, for models of compositions, to formulas.

A score is the probability of lying below the model's threshold for a classifier (higher: more likely stable), the
predicted value for a regressor.
"""

from __future__ import annotations

import csv
import io
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sluice.chemistry.read_crystals import Reading, read_crystals
from sluice.crystals import Crystals
from sluice.errors import BadDataError
from sluice.models.devices import pick_device
from sluice.models.element_features import MAX_Z
from sluice.models.formula_scoring import FORMULA_SCORERS, score_formula_file, tell_missing
from sluice.models.graphs import prepare_graphs, usable
from sluice.models.layers import GraphNetwork
from sluice.models.modelfile import Model, ModelError, load_model, write_atomically

__all__ = ["Model", "ModelError", "load_model", "score_crystals", "score_input"]

CHUNK = 2000  # crystals whose graphs are held at a time
ATOMS_PER_BATCH = 4096
MIN_DISTANCE = 0.5  # Å; closer atoms count as overlapping in a user's files
NO_GRAPH = "no usable cell"
NO_FEATURES = "element beyond Lr"
NO_NUMBER = "the model gives no number: its weights or this cell are out of bounds"


def score_crystals(model: Model, crystals: Crystals, device: str = "auto") -> NDArray[np.float64]:
    """(n,) score of each crystal; NaN for those without a usable cell or with an element beyond Lr (no features).

    A crystal's score does not depend on the others beside it, except for rounding.

    Raises:
        ModelError: if the model does not take crystals.
    """
    network = model.network
    if not isinstance(network, GraphNetwork):
        raise ModelError(f"{model.path}: a {model.kind} model gives no scores; give a screener")
    where = pick_device(device)
    network = network.to(where).eval()
    scores = np.full(len(crystals), np.nan)
    for start in range(0, len(crystals), CHUNK):
        part = crystals[start : start + CHUNK]
        good = np.flatnonzero(usable(part) & ~_beyond_features(part))
        if len(good) == 0:
            continue
        graphs = prepare_graphs(part[good], neighbours=network.neighbours, cutoff=network.cutoff, scale=network.scale)
        # Members of a bagged network look at a batch all at once.
        batch_of = np.cumsum(part.n_atoms[good]) // max(1, ATOMS_PER_BATCH // getattr(network, "bags", 1))
        values = []
        with torch.inference_mode():
            for number in np.unique(batch_of):
                output = network(graphs.batch(np.flatnonzero(batch_of == number), where))
                # Doubles: in single precision all that is likely enough would be 1, and in no order.
                output = output.double().cpu()
                values.append(torch.sigmoid(output) if model.task == "classification" else output)
        scores[start + good] = torch.cat(values).numpy()
    return scores


def _beyond_features(crystals: Crystals) -> NDArray[np.bool_]:
    """(n,) whether a crystal holds an element beyond ``MAX_Z``."""
    rows = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
    return np.bincount(rows[crystals.numbers > MAX_Z], minlength=len(crystals)) > 0


def score_input(model_path: Path, input_path: Path, output: Path, device: str = "auto") -> None:
    """Score a user's crystals: columns ``id``, ``score``, ``reason`` in the order of the input.

    Models of compositions take a CSV of formulas instead and write ``id``, ``formula``, ``score``, ``reason``; those
    with several target properties write ``score_<target>`` for each instead of ``score``.

    ``id`` is the file's name without suffix (or what the file says); ``score`` as of ``score_crystals``; a crystal that
    cannot be scored has an empty score and the reason, and is named on standard error, which also says how many are of
    compositions whose labels it has learnt, if its file names those.

    Args:
        model_path: model file of a screener.
        input_path: folder of CIF files, a CIF, an extxyz or a store.
        output: CSV to write.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ModelError: if the model cannot be read or gives no scores.
        BadDataError: if the input is none of these, holds nothing, or nothing of it gets a score.
    """
    model = load_model(model_path)
    if model.kind in FORMULA_SCORERS:
        score_formula_file(model, input_path, output, device)
        return
    if not isinstance(model.network, GraphNetwork):
        raise ModelError(f"{model_path}: a {model.kind} model gives no scores; give a screener.ckpt")
    if input_path.suffix.lower() == ".csv":
        raise BadDataError(
            f"{input_path}: a CSV of formulas, but {model_path} ({model.kind}) was trained on structures and takes"
            " a folder of CIF files, an extxyz file or a store; formulas need a composition model"
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "score", "reason"])
    learnt = set(model.facts.get("training_formulas", ()))
    bad, rows, known = [], 0, 0
    for readings in _chunks(read_crystals(input_path, min_distance=MIN_DISTANCE)):
        for reading, value, reason in _score_readings(model, readings, device):
            writer.writerow([reading.name, "" if np.isnan(value) else f"{value:.12g}", reason])
            rows += 1
            if reason:
                bad.append(f"{reading.name}: {reason}{f' ({reading.detail})' if reading.detail else ''}")
            elif learnt and reading.crystal is not None:
                known += reading.crystal.reduced_formulas()[0] in learnt
    if rows == 0:
        raise BadDataError(f"{input_path}: holds no crystals (CIF files end in .cif)")
    write_atomically(output, text.getvalue().encode())
    tell_missing(bad, rows, output)
    if known:
        print(
            f"{known} of {rows} are of compositions whose labels {model_path} has learnt: no test of it",
            file=sys.stderr,
        )


def _chunks(readings: Iterator[Reading]) -> Iterator[list[Reading]]:
    while chunk := list(itertools.islice(readings, CHUNK)):
        yield chunk


def _score_readings(model: Model, readings: list[Reading], device: str) -> Iterator[tuple[Reading, float, str]]:
    """Each reading with its score and, where it has none, the reason."""
    crystals = [reading.crystal for reading in readings if reading.crystal is not None]
    scores = iter(score_crystals(model, Crystals.concatenate(crystals), device).tolist())
    for reading in readings:
        value = np.nan if reading.crystal is None else next(scores)
        reason = reading.reason
        if not reason and reading.crystal is not None and np.isnan(value):
            if _beyond_features(reading.crystal).any():
                reason = NO_FEATURES
            else:
                reason = NO_NUMBER if usable(reading.crystal).all() else NO_GRAPH
        yield reading, value, reason
