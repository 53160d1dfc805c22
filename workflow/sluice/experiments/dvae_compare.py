"""Results of the disentangled VAE's experiment: table, figures, proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sluice.experiments import dvae_figures
from sluice.experiments.dvae_data import Alloys, load_alloys
from sluice.experiments.dvae_design import Proposals, permutation_importance, propose_alloys, within_limits
from sluice.experiments.experiment import Comparison, Row
from sluice.experiments.folders import read_metrics
from sluice.experiments.results import learning_curve, metric_of, missed_goals, row_of, summarize
from sluice.models.modelfile import Model, load_model

if TYPE_CHECKING:
    from sluice.experiments.dvae import DvaeConfig, DvaeSettings

PAPER = {"test": 0.877, "unlabelled": 0.875, "validation": 0.920, "training": 0.905}
PAPER_MAE, PAPER_MLP = 2.33, 0.870
PUBLISHED_EPOCHS = 20_000
BEST_NOTE = "the paper's is its best model by test accuracy; ours the mean over seeds, its recipe cross-validated"


def compare(config: DvaeConfig, prepared: Path, runs: Mapping[str, Sequence[Path]]) -> Comparison:
    """The comparison with the paper."""
    alloys = load_alloys(prepared)
    sizes = {name: len(alloys.rows(name)) for name in ("labelled", "unlabelled", "validation", "test")}
    model = load_model(runs["model"][0] / "model.ckpt")
    proposals = propose_alloys(model, alloys, config.settings, config.seed)
    importance = permutation_importance(model, alloys, config.settings.model.features, config.seed)
    files = _write_tables(prepared.parent, proposals, importance)
    passes = f"{config.settings.paper.epochs} epochs, published are {PUBLISHED_EPOCHS}"
    rows = [
        *_recipe_rows(runs["model"], sizes, "", BEST_NOTE),
        *_recipe_rows(runs["paper"], sizes, ", paper's recipe", passes),
        *_quirk_rows(runs["quirk"], sizes, passes),
        *_ensemble_rows(runs["model"], sizes),
        *_label_rows(runs["labels"], sizes),
        *_design_rows(proposals, sizes),
        *_feature_rows(prepared),
    ]
    return Comparison(
        rows=rows,
        figures=_figures(alloys, model, runs, proposals=proposals, importance=importance),
        model=runs["model"][0] / "model.ckpt",
        analysis=[*_analysis(config, rows, importance, alloys), _design(config.settings, proposals, alloys)],
        files=files,
        excerpts={"proposals.csv": "Proposed alloys, at.%"},
    )


def _recipe_rows(runs: Sequence[Path], sizes: Mapping[str, int], suffix: str, note: str) -> list[Row]:
    n_train = sizes["labelled"] + sizes["unlabelled"]
    rows = [
        summarize(
            f"{name} accuracy{suffix}",
            runs,
            f"{split}_accuracy",
            paper=PAPER[name],
            n_train=n_train,
            n_test=sizes[split],
            unit="share",
            note=note if name == "test" else "",
        )
        for name, split in (
            ("test", "test"),
            ("unlabelled", "unlabelled"),
            ("validation", "validation"),
            ("training", "labelled"),
        )
    ]
    mae = summarize(
        f"composition MAE{suffix}",
        runs,
        "composition_mae_percent",
        paper=PAPER_MAE,
        n_train=n_train,
        n_test=sizes["test"],
        unit="%",
        note="mean over 30 elements of the test alloys, rounded to whole per cent as the authors do",
    )
    return [*rows, mae]


def _quirk_rows(runs: Sequence[Path], sizes: Mapping[str, int], passes: str) -> list[Row]:
    n_train = sizes["labelled"] + sizes["unlabelled"] + sizes["validation"]
    note = f"{passes}; validation takes optimizer steps, as in the authors' code: its alloys are trained on"
    return [
        summarize(
            f"{name} accuracy, with the validation-step quirk",
            runs,
            f"{name}_accuracy",
            paper=PAPER[name],
            n_train=n_train,
            n_test=sizes[name],
            unit="share",
            note=note,
        )
        for name in ("test", "unlabelled", "validation")
    ]


def _ensemble_rows(runs: Sequence[Path], sizes: Mapping[str, int]) -> list[Row]:
    n_train = sizes["labelled"] + sizes["unlabelled"]
    common: dict[str, Any] = {
        "n_train": n_train,
        "n_test": sizes["test"],
        "note": "mean probability of all seeds: what model.ckpt gives",
    }
    return [
        summarize(
            "test accuracy, ensemble", runs, "ensemble_test_accuracy", paper=PAPER["test"], unit="share", **common
        ),
        summarize("test ROC AUC, ensemble", runs, "ensemble_test_roc_auc", unit="", **common),
        summarize("test ROC AUC", runs, "test_roc_auc", unit="", n_train=n_train, n_test=sizes["test"]),
    ]


def _label_rows(runs: Sequence[Path], sizes: Mapping[str, int]) -> list[Row]:
    rows = []
    for run in runs:
        metrics = read_metrics(run)
        labels, share = int(metrics["labels"][0]), metrics["share"][0]
        whole = share == 1.0
        for name, metric, paper in (
            ("dVAE", "test_accuracy", None),
            ("supervised MLP", "mlp_test_accuracy", PAPER_MLP if whole else None),
        ):
            rows.append(
                row_of(
                    f"test accuracy, {name}, {share:.0%} of labels",
                    metric_of(run, metric),
                    paper=paper,
                    n_train=labels,
                    n_test=sizes["test"],
                    unit="share",
                    note="scikit-learn, labelled alloys only"
                    if name != "dVAE"
                    else "n_train: labels; the rest unlabelled",
                )
            )
    return rows


def _design_rows(proposals: Proposals, sizes: Mapping[str, int]) -> list[Row]:
    probability = proposals.table["single_phase_probability"].to_numpy()
    kept, decoded = len(proposals.table), max(1, proposals.decoded)
    return [
        Row("new single-phase alloys proposed", None, float(kept), unit="alloys", note="proposals.csv"),
        Row(
            "probability of the proposals",
            None,
            float(probability.mean()) if kept else float("nan"),
            float(probability.std(ddof=1)) if kept > 1 else None,
            kept,
            unit="",
            note="ensemble; spread over proposals",
        ),
        Row(
            "decoded alloys called single-phase",
            None,
            proposals.single_phase / decoded,
            n_test=decoded,
            unit="share",
            note="y = 1 decoded at random latent positions, features computed from the formula, before any choice",
        ),
    ]


def _feature_rows(prepared: Path) -> list[Row]:
    with np.load(prepared / "alloys.npz") as stored:
        worst, n = float(stored["deviation"].max()), len(stored["target"])
    note = "largest absolute difference between features computed from formulas and the published ones"
    return [Row("deviation of engineered features", 0.0, worst, n_test=n, unit="feature's unit", note=note)]


def _write_tables(folder: Path, proposals: Proposals, importance: pd.DataFrame) -> dict[str, Path]:
    files = {"proposals.csv": folder / "proposals.csv", "importance.csv": folder / "importance.csv"}
    proposals.table.to_csv(files["proposals.csv"], index=False)
    importance.to_csv(files["importance.csv"], index=False)
    return files


def _figures(
    alloys: Alloys,
    model: Model,
    runs: Mapping[str, Sequence[Path]],
    *,
    proposals: Proposals,
    importance: pd.DataFrame,
) -> dict[str, go.Figure]:
    curves = {"our recipe": runs["model"], "paper's recipe": runs["paper"], "with the quirk": runs["quirk"]}
    accuracy = learning_curve(curves, ["val_accuracy"], y_title="validation accuracy", log_x=True)
    bound = learning_curve(curves, ["elbo"], y_title="evidence bound per labelled alloy", log_x=True)
    found = {
        "Learning curve: validation accuracy": accuracy,
        "Learning curve: evidence bound": bound,
        "Data efficiency": dvae_figures.data_efficiency(runs["labels"]),
        "Permutation importance of the label head": dvae_figures.importance_figure(importance),
        "Latent plane": dvae_figures.latent_plane(model, alloys),
        "Latent plane: single-phase probability of decoded alloys": dvae_figures.decoded_plane(model, alloys),
        "Proposals in the latent plane": dvae_figures.proposals_figure(proposals, alloys, model),
    }
    return {title: figure for title, figure in found.items() if figure is not None}


def _analysis(config: DvaeConfig, rows: Sequence[Row], importance: pd.DataFrame, alloys: Alloys) -> list[str]:
    by_name = {row.quantity: row for row in rows}
    test, n = by_name["test accuracy"], by_name["test accuracy"].n_test or 1
    error = (test.sluice_mean * (1 - test.sluice_mean) / n) ** 0.5
    top = ", ".join(importance["feature"].head(3))
    text = [
        f"Test accuracy rests on {n} alloys: its sampling error alone is ±{error:.3f} (binomial, one standard "
        f"deviation). The label head leans most on {top}.",
        "The paper's .877 belongs to the model its authors picked by test accuracy. Our recipe was chosen by "
        "cross-validation on the labelled alloys; the test accuracy of an earlier recipe was known by then, so that "
        "the test alloys are not wholly unseen. With the paper's recipe every seed keeps its best epoch on the 75 "
        "validation alloys.",
        *_repeated(alloys),
        *_efficiency(config, by_name),
    ]
    text += [
        f"The goal {goal.quantity} {goal.describe()} is missed. When the recipe was chosen, supervised models "
        "cross-validated on the 864 labelled alloys ended between .82 and .87 (not part of this run): likely "
        "the features carry no more at this number of labels."
        for goal in missed_goals(config, rows)
    ]
    return text


def _design(settings: DvaeSettings, proposals: Proposals, alloys: Alloys) -> str:
    """How the proposals were found."""
    table = proposals.table
    known = np.logical_and.reduce(within_limits(100 * alloys.fractions, settings)).mean()
    failures = ", ".join(f"{count} for {reason}" for reason, count in proposals.rejected.items())
    text = (
        f"Inverse design: {len(table)} of {settings.proposals} alloys asked for were found among {proposals.examined} "
        f"decoded ones. Of the others, each rejected for the first of these that it failed by, {failures}. "
        f"The limits of elements and shares are settings; {known:.0%} of the known alloys lie within them."
    )
    if len(table):
        far = 100 * table["largest_difference_of_a_fraction"].median()
        text += (
            f" Half of the proposals differ from the nearest known alloy by {far:.0f} at.% or more in some element: "
            "the farther away, the less their probability, which is the network's own, has been tested."
        )
    return text


def _repeated(alloys: Alloys) -> list[str]:
    repeated = alloys.repeated("test", "labelled")
    if not repeated:
        return []
    return [
        f"{len(repeated)} of the {len(alloys.rows('test'))} test alloys have the composition of a labelled one in the "
        f"published split, which is kept as it is: {', '.join(repeated)}."
    ]


def _efficiency(config: DvaeConfig, by_name: Mapping[str, Row]) -> list[str]:
    """Whether unlabelled alloys help where labels are few."""
    shares = [f"{share:.0%}" for share in config.settings.label_shares]
    pairs = [
        [by_name[f"test accuracy, {name}, {share} of labels"].sluice_mean for name in ("dVAE", "supervised MLP")]
        for share in shares
    ]
    better = [share for share, (ours, mlp) in zip(shares, pairs, strict=True) if ours > mlp]
    where = f"with {', '.join(better)} of the labels" if better else "at no share of the labels"
    return [f"Data efficiency: the dVAE's mean test accuracy is above the supervised MLP's {where}."]
