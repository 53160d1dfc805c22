"""Results of the synthesizability experiment: recall, share called positive, precision, and what they are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sluice.experiments.experiment import Comparison, Row
from sluice.experiments.folders import HISTORY_FILE
from sluice.experiments.results import learning_curve, metric_of, missed_goals, named, row_of, summarize
from sluice.experiments.tsdnn_settings import departures
from sluice.experiments.tsdnn_synthesizability_authors import Called, authors_called
from sluice.experiments.tsdnn_synthesizability_mining import FIRST_PASS
from sluice.experiments.tsdnn_synthesizability_runs import NO_BINARIES, read_scores, tpr_at_precision
from sluice.models.cgcnn_training import roc_auc

if TYPE_CHECKING:
    from sluice.experiments.tsdnn_synthesizability import SynthesizabilityConfig

PAPER_TPR, PAPER_PU_TPR = 0.979, 0.879  # arXiv
PUBLISHED = "paper: arXiv; the published abstract says 0.929"
AT_EQUAL_PRECISION = "TPR on test positives at the PU baseline's precision, TSDNN"
COUNTS = {"n_train": "n_train", "n_test": "n_positive"}  # columns of a row of recall, and the metric that each is
PAPER_BAGS = 100
TITLES = {"test": "test positives", "time": "time split", "elements": "element hold-out"}

Authors = Mapping[str, tuple[Called, Called] | None]


def compare(config: SynthesizabilityConfig, prepared: Path, runs: Mapping[str, Sequence[Path]]) -> Comparison:
    """Recall, share called positive, precision, parameters."""
    authors = {name: authors_called(config, prepared, name) for name in FIRST_PASS}
    rows = _recall_rows(runs, authors)
    columns: dict[str, Any] = {n: _of(runs["test"], key) for n, key in COUNTS.items()} | {"unit": "share"}
    rows.append(_at_equal_precision(runs, "test", AT_EQUAL_PRECISION, **columns, paper=PAPER_TPR))
    rows += _no_binaries_rows(runs)
    note = "negatives of the table were mined by a first PU pass: optimistic"
    whole = len(read_scores(runs["test"][0])[1])  # positives and negatives; both models see the same table
    rows.append(
        summarize(
            "precision on the test table, TSDNN",
            runs["test"],
            "precision",
            note=note,
            **columns | {"n_test": whole},
        )
    )
    rows.append(
        summarize(
            "share of unlabelled called positive, TSDNN",
            runs["test"],
            "unlabelled_positive",
            unit="share",
            n_train=columns["n_train"],
            n_test=_of(runs["test"], "n_unlabelled"),
        )
    )
    rows.append(
        summarize(
            "TPR on test positives of compositions not learnt from, TSDNN", runs["test"], "tpr_new", unit="share",
            n_train=columns["n_train"], n_test=_of(runs["test"], "n_positive_new"),
            note="the published split is by id, not by composition",
        )
    )  # fmt: skip
    note = "positives of the training table at random; they choose the epoch"
    rows.append(
        summarize(
            "TPR on its held-out positives, TSDNN",
            runs["test"],
            "held_out_tpr",
            unit="share",
            note=note,
            n_train=columns["n_train"],
        )
    )
    columns["n_train"] = _of(runs["bags"], "n_train")
    s = config.settings
    columns["note"] = f"{s.bags} bags with {s.bag_epochs} passes (published: {PAPER_BAGS} with 50)"
    for metric, words, published, n_test in (
        ("tpr", "TPR on test positives, PU baseline", PAPER_PU_TPR, columns["n_test"]),
        ("held_out_tpr", "TPR on its held-out positives, PU baseline", None, None),
        ("precision", "precision on the test table, PU baseline", None, whole),
        ("unlabelled_positive", "share of unlabelled called positive, PU baseline", None, None),
    ):
        rows.append(summarize(words, runs["bags"], metric, paper=published, **columns | {"n_test": n_test}))
    ratio = _of(runs["bags"], "parameters") / _of(runs["test"], "parameters")
    rows.append(
        Row(
            "parameters of the PU baseline over TSDNN's",
            49.0,
            ratio,
            note=f"{s.bags} bags against two networks; {PAPER_BAGS} would be {ratio * PAPER_BAGS / s.bags:.3g}",
        )
    )
    curve = learning_curve({TITLES[n]: runs[n] for n in TITLES}, ["val_roc_auc"], y_title="validation ROC AUC")
    return Comparison(
        rows=rows,
        figures={} if curve is None else {"Learning curve": curve},
        model=runs["test"][0] / "model.ckpt",
        analysis=[
            *_causes(config, rows, runs),
            "The PU baseline takes the table's positives and, as unlabelled, its mined negatives and the unlabelled"
            " rows; both models are measured on the same test table. Structures are 2024 relaxations; a row whose"
            " structure is missing or larger than the limit is left out of both. Positives that the baseline holds"
            " out, as published, are learnt from by TSDNN. Tables are split by id as published, so other polymorphs"
            " of a test material's composition may be learnt from; the row on other compositions leaves those out.",
            _kinds(runs),
            _baseline(config),
            *(_two_passes(config, name, runs) for name in FIRST_PASS),
            _others_say(runs, authors),
            departures(config.settings.training),
        ],
    )  # fmt: skip


def _recall_rows(runs: Mapping[str, Sequence[Path]], authors: Authors) -> list[Row]:
    """TSDNN's recall by each way to split; the authors' of the two additional ones on the same rows."""
    rows = []
    for name, title in TITLES.items():
        columns: dict[str, Any] = {n: _of(runs[name], key) for n, key in COUNTS.items()} | {"unit": "share"}
        columns["note"] = _mined_note(runs, name) if name in FIRST_PASS else PUBLISHED
        theirs = authors.get(name)
        paper = PAPER_TPR if name not in FIRST_PASS else theirs and theirs[0].tpr
        if theirs:
            columns["note"] += (
                f"; paper: the authors' stored predictions on these rows (on all of theirs {theirs[1].tpr:.4f})"
            )
        rows.append(summarize(f"TPR on {title}, TSDNN", runs[name], "tpr", paper=paper, **columns))
        if name in FIRST_PASS:
            rows += [_others_row(runs[name], title, theirs), _area_row(runs[name], title, theirs)]
            rows += _mining_rows(runs[FIRST_PASS[name]], title)
    return rows


def _mined_note(runs: Mapping[str, Sequence[Path]], split: str) -> str:
    """Where the negatives of a split come from."""
    first = runs[FIRST_PASS[split]]
    return (
        f"negatives: {_of(first, 'n_mined')} of the {_of(first, 'n_zeros')} materials without a status in its table,"
        " mined by a first PU pass; the others unlabelled"
    )


def _mining_rows(runs: Sequence[Path], title: str) -> list[Row]:
    """What a first pass took for negatives, and what it is worth."""
    share = [metric_of(run, "n_mined")[0] / metric_of(run, "n_zeros")[0] for run in runs]
    n_zeros, n_train, n_held_out = (_of(runs, key) for key in ("n_zeros", "n_train", "n_held_out"))
    return [
        row_of(f"share of zeros mined as negatives, {title}, first pass", share, unit="share", n_test=n_zeros),
        summarize(f"highest score among those mined, {title}, first pass", runs, "highest_mined", n_test=n_zeros),
        summarize(
            f"TPR on its held-out positives, {title}, first pass", runs, "held_out_tpr", unit="share", n_train=n_train,
            n_test=n_held_out,
        ),
    ]  # fmt: skip


def _others_row(runs: Sequence[Path], title: str, theirs: tuple[Called, Called] | None) -> Row:
    """Share called positive of a test table's rows that are not known to be: without it a TPR says nothing."""
    quantity = f"share called positive of the others in the test table, {title}, TSDNN"
    note = "materials without a status, no negatives"
    if theirs:
        note += f"; paper: as above (on all of theirs {theirs[1].others:.4f})"
    columns: dict[str, Any] = {"n_train": _of(runs, "n_train"), "n_test": len(_others(runs[0])), "unit": "share"}
    return row_of(quantity, _others_called(runs), paper=theirs and theirs[0].others, note=note, **columns)


def _area_row(runs: Sequence[Path], title: str, theirs: tuple[Called, Called] | None) -> Row:
    """Positives against the others of a test table, whatever the threshold."""
    scores = [read_scores(run) for run in runs]
    note = "the others taken for negatives, though some are synthesizable"
    if theirs:
        note += f"; paper: as above (on all of theirs {theirs[1].roc_auc:.4f})"
    return row_of(
        f"ROC AUC of positives against the others, {title}, TSDNN",
        [roc_auc(label == 1, score) for score, label in scores],
        paper=theirs and theirs[0].roc_auc, n_train=_of(runs, "n_train"), n_test=len(scores[0][0]), note=note,
    )  # fmt: skip


def _others_called(runs: Sequence[Path]) -> list[float]:
    found = [_others(run) for run in runs]
    return [float((score > 0.5).mean()) if len(score) else float("nan") for score in found]


def _others(run: Path) -> NDArray[np.float64]:
    """Scores of a run's test rows that are not known to be positive."""
    score, label = read_scores(run)
    return score[label != 1]


def _at_equal_precision(runs: Mapping[str, Sequence[Path]], variant: str, quantity: str, **columns: Any) -> Row:
    """TSDNN's TPR where its threshold is set so that it is at least as precise as the baseline on the same rows."""
    precision = float(np.mean([metric_of(run, "precision")[0] for run in runs["bags"]]))
    found = [tpr_at_precision(*read_scores(run), precision) for run in runs[variant]]
    note = (
        "the PU baseline calls nothing positive and has no precision"
        if math.isnan(precision)
        else f"threshold set, on the test table, for a precision of at least {precision:.4f}, the PU baseline's; the"
        " paper's is one half"
    )
    if "paper" in columns:
        note = f"{note}; {PUBLISHED}"
    return row_of(quantity, found, note=note, **columns)


def _no_binaries_rows(runs: Mapping[str, Sequence[Path]]) -> list[Row]:
    """TSDNN that has seen no labelled crystal of two elements, on the same test table."""
    found, words = runs[NO_BINARIES], "TSDNN without labelled binaries"
    columns: dict[str, Any] = {n: _of(found, key) for n, key in COUNTS.items()} | {"unit": "share"}
    note = "labelled crystals of two elements left out of training"
    whole = len(read_scores(found[0])[1])
    return [
        summarize(f"TPR on test positives, {words}", found, "tpr", note=note, **columns),
        summarize(
            f"precision on the test table, {words}", found, "precision", note=note, **columns | {"n_test": whole}
        ),
        _at_equal_precision(
            runs, NO_BINARIES, f"TPR on test positives at the PU baseline's precision, {words}", **columns
        ),
        summarize(f"TPR on its held-out positives, {words}", found, "held_out_tpr", unit="share"),
    ]


def _causes(config: SynthesizabilityConfig, rows: Sequence[Row], runs: Mapping[str, Sequence[Path]]) -> list[str]:
    """Why the goal was missed, as far as it is known."""
    missed = missed_goals(config, rows)
    if not missed:
        return []
    s, curve = config.settings, pd.read_csv(runs["test"][0] / HISTORY_FILE)["val_roc_auc"]
    return [
        f"Missed goals: {named(missed)}. TSDNN passed {s.training.epochs} times over {_of(runs['test'], 'n_train')}"
        f" crystals of at most {s.graphs.max_atoms} atoms, in the paper 50 to 100 times over 77 035 of any size; its"
        f" validation ROC AUC was {curve.iloc[0]:.4f} after the first pass, {curve.max():.4f} at its best and"
        f" {curve.iloc[-1]:.4f} after the last."
    ]


def _two_passes(config: SynthesizabilityConfig, split: str, runs: Mapping[str, Sequence[Path]]) -> str:
    """How the negatives of a table without any were found, and what TSDNN then makes of its test table."""
    s, first = config.settings, runs[FIRST_PASS[split]]
    positive, zeros, mined = (_of(first, key) for key in ("n_positive", "n_zeros", "n_mined"))
    called, others = _mean(runs[split], "tpr"), float(np.mean(_others_called(runs[split])))
    return (
        f"The zeros of the {TITLES[split]} are materials without a status. As the balanced table's, its negatives were"
        f" mined by a first pass of PU learning: {s.mining_bags} bags with {s.mining_epochs} passes scored {zeros}"
        f" zeros, each by the bags that had not taken it for a negative. The {mined} with the lowest scores"
        f" ({mined / zeros:.0%} of them, up to {_mean(first, 'highest_mined'):.3f}) became the negatives beside"
        f" {positive} positives; the other {zeros - mined} joined the unlabelled crystals. Of the positives held out"
        f" from the first pass it calls {_mean(first, 'held_out_tpr'):.1%} positive. TSDNN calls {called:.1%} of the"
        f" test positives positive, and {others:.1%} of the others in the test table."
    )


def _others_say(runs: Mapping[str, Sequence[Path]], authors: Authors) -> str:
    """What a recall without negatives is worth, ours and the authors'."""
    text = (
        "The others of those two test tables have no status either: some are synthesizable, so what TSDNN calls"
        " positive of them is not its rate of errors. A recall says something as far as it is above that share: who"
        " tells nothing apart has both alike."
    )
    for name in FIRST_PASS:
        if theirs := authors[name]:
            ours = _mean(runs[name], "tpr") - float(np.mean(_others_called(runs[name])))
            text += (
                f" By the {TITLES[name]} ours is {100 * ours:.1f} points above it, the authors'"
                f" {100 * theirs[0].above:.1f} on the same rows and {100 * theirs[1].above:.1f} on all of theirs."
            )
    return text


def _kinds(runs: Mapping[str, Sequence[Path]]) -> str:
    """What the recall on the test positives measures."""
    tested, learnt, against = (_mean(runs["test"], f"binary_{name}") for name in ("test", "learnt", "negative"))
    without, precision, held_out = (_mean(runs[NO_BINARIES], name) for name in ("tpr", "precision", "held_out_tpr"))
    tpr, with_precision, with_held_out = (_mean(runs["test"], name) for name in ("tpr", "precision", "held_out_tpr"))
    return (
        f"Of the published test positives {tested:.1%} have two elements, of the positives learnt from {learnt:.1%}, of"
        f" the negatives learnt from {against:.1%}: that recall measures how far a model carries from compounds of more"
        " elements to binary ones, of which the table has other shares among its positives and its negatives. The"
        " recall on held-out positives is of crystals of the same kind as those learnt from. TSDNN that learns from"
        f" the table without its labelled crystals of two elements calls {without:.1%} of the test positives positive"
        f" (with them {tpr:.1%}), at a precision of {precision:.4f} (with them {with_precision:.4f}), and"
        f" {held_out:.1%} of its held-out positives (with them {with_held_out:.1%})."
    )


def _baseline(config: SynthesizabilityConfig) -> str:
    """How the PU baseline differs from the published one."""
    s = config.settings
    return (
        f"The PU baseline sees what TSDNN sees ({s.training.gaussians} Gaussians to {s.graphs.cutoff:g} Å; published:"
        f" 41 to 8 Å), drops nothing (0.5), and takes {s.bag_epochs} passes (50) in batches of {s.bag_batch_size} (64)"
        " with a rate that rises and falls (constant). What is published as its recall may be that on its own held-out"
        " positives."
    )


def _mean(runs: Sequence[Path], metric: str) -> float:
    return float(np.mean([metric_of(run, metric)[0] for run in runs]))


def _of(runs: Sequence[Path], metric: str) -> int:
    return int(metric_of(runs[0], metric)[0])
