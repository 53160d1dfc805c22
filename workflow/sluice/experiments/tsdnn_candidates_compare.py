"""Results of the experiment with candidates: order against DFT, and what DFT's own labels are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from pymatgen.core import Composition
from sklearn.metrics import roc_curve

from sluice.experiments.experiment import Comparison, Row
from sluice.experiments.results import learning_curve, metric_of, row_of, summarize
from sluice.experiments.tsdnn_candidates_runs import ADAPTED, CLASSIFIERS, KNOWN
from sluice.experiments.tsdnn_data import formula_of_id
from sluice.experiments.tsdnn_settings import departures
from sluice.models.cgcnn_training import roc_auc
from sluice.report.theme import SERIES, styled

if TYPE_CHECKING:
    from sluice.experiments.tsdnn_candidates import CandidateConfig

NAMES = {
    "unseparated": "TSDNN, sign of E_f, size as given",
    "unseparated_touching": "TSDNN, sign of E_f, size where atoms touch",
    "separated": "TSDNN, E_f < -2 eV/atom, size as given",
    ADAPTED: "CGCNN that also learnt from candidates of other compositions",
}
UNSEEN = ", no candidate's label seen"
FALSE_POSITIVE_RATES = np.linspace(0, 1, 501)  # where the repeats' ROC curves are averaged
# By whether a classifier has learnt from candidates: what its training rows are, and how it came about.
_TRAINED_ON = {True: ("n_train", "n_candidates"), False: ("n_train",)}
HOW = {
    True: "a CGCNN, not a TSDNN, that learnt from materials and from the DFT labels of candidates of other "
    "compositions (folds by composition)",
    False: "a TSDNN that learnt from materials only, chosen on materials",
}


def read_scores(run: Path) -> pd.DataFrame:
    """Scores and energies of the candidates of one run."""
    table = pd.read_csv(run / "candidates.csv", keep_default_na=False)
    table["negative"] = table["formation_energy_ev_per_atom"].astype(float) < 0
    formulas = [formula_of_id(name) for name in table["id"]]
    table["anion"] = ["O" if _has(f, "O") and not _has(f, "F") else "F" if _has(f, "F") else "other" for f in formulas]
    return table


def _has(formula: str, element: str) -> bool:
    return element in Composition(formula).as_dict()


def precision_in_top_half(negative: ArrayLike, score: ArrayLike) -> float:
    """Share of E_f < 0 among the better half by score."""
    scores = np.asarray(score)
    top = np.argsort(-scores, kind="stable")[: len(scores) // 2]
    return float(np.asarray(negative)[top].mean())


def choose(runs: Mapping[str, Sequence[Path]]) -> str:
    """The classifier of the sign of E_f that orders validation materials of a wrong size best; no candidate counts."""
    of_sign = [name for name, (label, _) in CLASSIFIERS.items() if label == "unseparated"]
    return max(of_sign, key=lambda name: np.mean([metric_of(run, "val_strained_roc_auc") for run in runs[name]]))


def compare(config: CandidateConfig, prepared: Path, runs: Mapping[str, Sequence[Path]]) -> Comparison:
    """The comparison with the authors' score; both model files are of the first repeat."""
    best = choose(runs)
    tables = {name: [read_scores(run) for run in folders] for name, folders in runs.items()}
    first = tables[best][0]
    rows = [*_headline(runs, tables, best), *_classifier_rows(runs, tables)]
    rows += _label_rows(first, pd.read_csv(prepared / KNOWN, keep_default_na=False))
    figures = {"ROC curves": _roc_figure(tables), "Energies by anion": _anion_figure(first)}
    curve = learning_curve({NAMES[n]: runs[n] for n in CLASSIFIERS}, ["val_roc_auc"], y_title="validation ROC AUC")
    if curve is not None:
        figures["Learning curve"] = curve
    return Comparison(
        rows=rows,
        figures=figures,
        model=runs[ADAPTED][0] / "model.ckpt",
        analysis=[*_analysis(rows, best, first), departures(config.settings.training)],
        files={"model_without_dft_labels.ckpt": runs[best][0] / "model.ckpt"},
    )


def _auc(tables: Sequence[pd.DataFrame], anion: str = "") -> list[float]:
    kept = [t[t["anion"] == anion] if anion else t for t in tables]
    return [roc_auc(t["negative"].to_numpy(), t["score"].to_numpy(float)) for t in kept]


def _headline(runs: Mapping[str, Sequence[Path]], tables: Mapping[str, Sequence[pd.DataFrame]], best: str) -> list[Row]:
    """With the DFT labels of candidates of other compositions, which is the goal's row, and without any."""
    first = tables[best][0]
    negative, authors = first["negative"].to_numpy(), first["authors_score"].to_numpy(float)
    rows = []
    for name, which in ((ADAPTED, ""), (best, UNSEEN)):
        n_train = sum(int(metric_of(runs[name][0], m)[0]) for m in _TRAINED_ON[name == ADAPTED])
        common = {"n_train": n_train, "n_test": len(first)}
        precision = [precision_in_top_half(t["negative"], t["score"]) for t in tables[name]]
        rows += [
            row_of(
                f"ROC AUC for E_f < 0{which}", _auc(tables[name]), paper=roc_auc(negative, authors),
                note=_against_authors(name, "ROC AUC for E_f < 0"), **common,
            ),
            row_of(
                f"precision among the top half{which}", precision, paper=precision_in_top_half(negative, authors),
                unit="share", **common,
                note=f"{_against_authors(name, 'precision among the top half')}; share of all: {negative.mean():.3f}",
            ),
            row_of(
                f"ROC AUC among fluorides{which}", _auc(tables[name], "F"), n_train=n_train,
                n_test=int((first["anion"] == "F").sum()), note=f"candidates with F; {HOW[name == ADAPTED]}",
            ),
        ]  # fmt: skip
    return rows


def _against_authors(name: str, quantity: str) -> str:
    """What stands in the paper's column beside a row of that classifier, and what may be compared with it."""
    paper = "paper: the authors' score on the same rows, which saw no candidate's DFT label"
    fair = f"; the row to compare it with is '{quantity}{UNSEEN}'" if name == ADAPTED else ""
    return f"{paper}{fair}; ours: {HOW[name == ADAPTED]}"


def _classifier_rows(runs: Mapping[str, Sequence[Path]], tables: Mapping[str, Sequence[pd.DataFrame]]) -> list[Row]:
    rows = []
    for name in CLASSIFIERS:
        n_train = int(metric_of(runs[name][0], "n_train")[0])
        rows.append(
            row_of(
                f"candidates' ROC AUC, {NAMES[name]}", _auc(tables[name]), n_train=n_train, n_test=len(tables[name][0])
            )
        )
        for metric, words in (
            ("val_strained_roc_auc", "validation ROC AUC at a wrong size"),
            ("test_roc_auc", "test ROC AUC"),
            ("test_accuracy", "test accuracy"),
        ):
            rows.append(summarize(f"{words}, {NAMES[name]}", runs[name], metric, n_train=n_train))
    return rows


def _label_rows(table: pd.DataFrame, known: pd.DataFrame) -> list[Row]:
    oxide = (table["anion"] == "O").to_numpy()
    rows = [
        Row(
            "ROC AUC of the rule: contains O, not F", None, roc_auc(table["negative"].to_numpy(), oxide.astype(float)),
            n_test=len(table), note="what the authors' DFT labels hold apart from structure",
        )
    ]  # fmt: skip
    for anion in ("O", "F"):
        part = table[table["anion"] == anion]
        if len(part):
            rows.append(
                Row(
                    f"share of E_f < 0 in the authors' DFT, candidates with {anion}",
                    None,
                    float(part["negative"].mean()),
                    n_test=len(part),
                    unit="share",
                )
            )
    fluorides = known[np.array([_has(formula, "F") for formula in known["formula"]], dtype=bool)]
    if len(fluorides):
        authors, mp = fluorides["authors_ev_per_atom"].astype(float), fluorides["mp_ev_per_atom"].astype(float)
        each = zip(fluorides["formula"], authors, mp, strict=True)
        rows.append(
            Row(
                "median authors' E_f less the Materials Project's lowest, fluorides it knows",
                None,
                float((authors - mp).median()),
                n_test=len(fluorides),
                unit="eV/atom",
                note="; ".join(f"{formula}: {a:+.2f} against {m:+.2f}" for formula, a, m in each),
            )
        )
    return rows


def _roc_figure(tables: Mapping[str, Sequence[pd.DataFrame]]) -> go.Figure:
    figure = go.Figure()
    first = next(iter(tables.values()))[0]
    curves = {NAMES[name]: [(t["negative"], t["score"]) for t in repeats] for name, repeats in tables.items()}
    curves["the authors' score"] = [(first["negative"], first["authors_score"].astype(float))]
    for k, (name, repeats) in enumerate(curves.items()):
        true = np.mean([_true_positive_rate(negative, score) for negative, score in repeats], axis=0)
        figure.add_scatter(
            x=FALSE_POSITIVE_RATES, y=true, mode="lines", name=name, line={"color": SERIES[k % len(SERIES)]}
        )
    styled(figure, height=460)
    figure.update_xaxes(title_text="false positive rate")
    figure.update_yaxes(title_text="true positive rate, mean over repeats")
    return figure


def _true_positive_rate(negative: ArrayLike, score: ArrayLike) -> NDArray[np.float64]:
    """The ROC curve of one repeat at ``FALSE_POSITIVE_RATES``."""
    false, true, _ = roc_curve(negative, score)
    return np.r_[0.0, np.interp(FALSE_POSITIVE_RATES[1:], false, true)]


def _anion_figure(table: pd.DataFrame) -> go.Figure:
    figure = go.Figure()
    for k, (anion, part) in enumerate(table.groupby("anion")):
        figure.add_histogram(
            x=part["formation_energy_ev_per_atom"].astype(float), name=str(anion), nbinsx=60, opacity=0.7,
            marker={"color": SERIES[k % len(SERIES)]},
        )  # fmt: skip
    styled(figure)
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(title_text="formation energy of the authors' DFT, eV/atom")
    figure.update_yaxes(title_text="candidates")
    return figure


def _spread(row: Row) -> str:
    """Mean, and standard deviation where there are repeats."""
    spread = "" if row.sluice_std is None else f" ± {row.sluice_std:.3f} ({row.repeats} repeats)"
    return f"{row.sluice_mean:.3f}{spread}"


def _analysis(rows: Sequence[Row], best: str, table: pd.DataFrame) -> list[str]:
    value = {row.quantity: row for row in rows}
    main, unseen = value["ROC AUC for E_f < 0"], value[f"ROC AUC for E_f < 0{UNSEEN}"]
    rule = value["ROC AUC of the rule: contains O, not F"]
    shares = table.groupby("anion")["negative"].mean()
    text = [
        "Every score is from a network that was trained on no crystal of the scored candidate's composition. The "
        "first rows are those of a CGCNN, not of TSDNN, that has also learnt from the DFT labels of candidates of "
        "other compositions, as the second round of a campaign does: candidates are dealt into folds by composition, "
        f"each fold is scored by a network that learnt from the others. It reaches {_spread(main)}; model.ckpt is "
        "such a CGCNN, trained on all candidates.",
        "The authors' score saw no candidate's DFT label, so that the first rows are no comparison of methods. The "
        f"rows to compare it with are those with '{UNSEEN.removeprefix(', ')}'. They are of a classifier of materials "
        f"only, chosen on validation materials at a wrong size ({NAMES[best]}; model_without_dft_labels.ckpt). It "
        f"reaches {_spread(unseen)}, the authors' own score {main.paper:.3f}. The authors chose the candidates by that "
        f"score: here it has to rank crystals to which it gives {table['authors_score'].astype(float).min():.5f} or "
        "more, all of them.",
        "Repeats differ in the networks' seeds and in how candidates are dealt into folds; materials and their splits "
        "are the same in all of them. Both model files are of the first repeat.",
        "The labels themselves explain the distance. In the authors' DFT "
        + ", ".join(f"{share:.1%} of the candidates with {anion}" for anion, share in shares.items())
        + " have a negative formation energy: whether a candidate contains O and not F alone gives "
        f"{rule.sluice_mean:.3f}.",
    ]
    for row in rows:
        if row.quantity.startswith("median authors'") and row.n_test:
            text.append(
                f"For the {row.n_test} fluorides among the candidates that the Materials Project knows, the energies "
                f"lie {row.sluice_mean:+.1f} eV/atom (median) above its lowest ({row.note}): their fluorine reference "
                "is not the Materials Project's, and a classifier that has learnt its formation energies, in which "
                "fluorides are the most stable of all, must order these labels the wrong way round."
            )
    text.append(
        "model.ckpt therefore predicts the sign of these authors' formation energies; for the Materials Project's, "
        "take the model of `sluice experiment tsdnn-stability`."
    )
    return text
