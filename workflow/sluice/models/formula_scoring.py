"""Applying a trained composition model to a CSV of formulas."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sluice.chemistry.alloy_features import AlloyElements, alloy_features, parse_alloy, why_not
from sluice.chemistry.compositions import FormulaError, read_formulas
from sluice.errors import BadDataError
from sluice.models.composition import CompositionModel
from sluice.models.devices import pick_device
from sluice.models.dvae import DisentangledVAE
from sluice.models.formula_table import read_formula_table
from sluice.models.modelfile import Model, ModelError, write_atomically

SHOWN = 20  # rows without a score that are named on standard error


@dataclass(frozen=True)
class Scores:
    """What a model says of n formulas.

    Attributes:
        columns: (n,) numbers by the column they are written to, scores before what belongs to them; NaN: none.
        reasons: why a formula has no score, or what its score rests on; "" if there is nothing to say.
    """

    columns: dict[str, NDArray[np.float64]]
    reasons: list[str]

    @property
    def missing(self) -> NDArray[np.bool_]:
        """(n,) whether a formula has no score."""
        return np.isnan(next(iter(self.columns.values())))


def score_alloys(model: Model, formulas: Sequence[str], device: str = "auto") -> Scores:
    """Probability of each target property (e.g. single phase) of each alloy, mean over the model's members.

    Args:
        model: of kind ``dvae``.
        formulas: e.g. ``Al0.5CoCrFeNi``.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        ``score`` of a model with one target, ``score_<target>`` of each target of one with several, and the reason for
        each that is missing; one that rests on an estimated mixing enthalpy of a pair, or on elements that no training
        alloy holds, says so there.

    Raises:
        ModelError: if the file does not hold the elements' properties.
    """
    network = model.network
    if not isinstance(network, DisentangledVAE) or "alloy_elements" not in model.facts:
        raise ModelError(f"{model.path}: a {model.kind} model that cannot be applied to formulas")
    elements = AlloyElements.from_plain(model.facts["alloy_elements"])
    completed = elements.with_estimated_pairs()
    reasons, alloys, rows = [""] * len(formulas), [], []
    for k, formula in enumerate(formulas):
        try:
            alloy = parse_alloy(formula)
        except FormulaError as error:
            reasons[k] = str(error)
            continue
        reasons[k] = why_not(alloy, completed)
        if not reasons[k]:
            strange = sorted(set(alloy) - set(network.elements))
            notes = (
                why_not(alloy, elements).replace("no mixing enthalpy", "estimated mixing enthalpy"),
                f"no training alloy holds {', '.join(strange)}" if strange else "",
            )
            reasons[k] = "; ".join(note for note in notes if note)
            alloys.append(alloy)
            rows.append(k)
    scores = np.full((len(formulas), len(network.targets)), np.nan)
    if rows:
        features = alloy_features(completed.fractions(alloys), completed, network.features)
        where = pick_device(device)
        network = network.to(where).eval()
        with torch.inference_mode():
            found = network.probabilities(torch.tensor(features, dtype=torch.float32, device=where))
        scores[rows] = found.mean(0).double().cpu().numpy()
    names = ["score"] if len(network.targets) == 1 else [f"score_{target}" for target in network.targets]
    return Scores(dict(zip(names, scores.T, strict=True)), reasons)


def score_compositions(model: Model, formulas: Sequence[str], device: str = "auto") -> Scores:
    """Predicted value, or probability of class 1, of each formula, and how uncertain it is.

    Args:
        model: of kind ``composition``.
        formulas: e.g. ``SrTiO3``, ``Ca3(PO4)2``, ``La1.85Sr0.15CuO4``.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        ``score`` and, with an ensemble or a network that predicts its own spread, ``uncertainty``, a standard deviation
        in the score's unit.
    """
    network = model.network
    assert isinstance(network, CompositionModel)
    compositions, reasons = read_formulas(formulas)
    found = network.predict(compositions, pick_device(device))
    reasons = [given or further for given, further in zip(reasons, found.reasons, strict=True)]
    if network.settings.uncertainty or network.settings.members > 1:
        return Scores({"score": found.value, "uncertainty": found.uncertainty}, reasons)
    return Scores({"score": found.value}, reasons)


# What scores formulas, by kind of model.
FORMULA_SCORERS: dict[str, Callable[[Model, Sequence[str], str], Scores]] = {
    "dvae": score_alloys,
    "composition": score_compositions,
}


def score_formula_file(model: Model, path: Path, output: Path, device: str = "auto") -> None:
    """Score a CSV of formulas: columns ``id``, ``formula``, ``score``, ``reason``, one row for each of the input.

    Models that say how uncertain they are add ``uncertainty``, a standard deviation in the score's unit; models with
    several target properties write ``score_<target>`` for each instead of ``score``.

    Raises:
        BadDataError: if the input is no CSV of formulas, or none of them gets a score.
    """
    if path.suffix.lower() != ".csv":
        raise BadDataError(
            f"{path}: {model.path} ({model.kind}) scores compositions; give a CSV with a column `formula`"
        )
    table = read_formula_table(path)
    readable = ["" if row.problem else row.formula for row in table]
    scores = FORMULA_SCORERS[model.kind](model, readable, device)
    reasons = [row.problem or reason for row, reason in zip(table, scores.reasons, strict=True)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "formula", *scores.columns, "reason"])
    for k, row in enumerate(table):
        numbers = ["" if np.isnan(column[k]) else f"{column[k]:.6g}" for column in scores.columns.values()]
        writer.writerow([row.id, row.formula, *numbers, reasons[k]])
    write_atomically(output, text.getvalue().encode())
    tell_missing([f"{table[k].id}: {reasons[k]}" for k in np.flatnonzero(scores.missing)], len(table), output)


def tell_missing(reasons: Sequence[str], rows: int, output: Path) -> None:
    """Name on standard error what got no score.

    Args:
        reasons: one line for each row without a score.
        rows: all of them.
        output: the CSV that was written.

    Raises:
        BadDataError: if no row has a score.
    """
    if not reasons:
        return
    more = [f"  … and {len(reasons) - SHOWN} more, see {output}"] if len(reasons) > SHOWN else []
    shown = "\n".join([f"{len(reasons)} of {rows} have no score:", *(f"  {one}" for one in reasons[:SHOWN]), *more])
    if len(reasons) == rows:
        raise BadDataError(f"{shown}\n{output} holds no score")
    print(shown, file=sys.stderr)
