"""Results of the experiment `wgan`: Table 4, shares, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from sluice.experiments.composition_gan_data import PROPERTIES
from sluice.experiments.experiment import Comparison, Row
from sluice.experiments.folders import read_metrics
from sluice.experiments.results import learning_curve, missed_goals, named, summarize
from sluice.experiments.wgan_runs import CLASSES, ENCODINGS, read_planes
from sluice.report.theme import SERIES, styled

if TYPE_CHECKING:
    from sluice.experiments.wgan import WganConfig

METRICS = ("mae", "rmse", "r2")
# Table 4 of the paper, by property and encoding: MAE, RMSE, R².
PAPER: dict[tuple[str, str], tuple[float, float, float]] = {
    ("mp_gap", "wgan"): (0.467, 0.641, 0.828),
    ("mp_gap", "magpie"): (0.570, 0.786, 0.745),
    ("mp_gap", "onehot"): (0.484, 0.662, 0.810),
    ("supercon", "wgan"): (6.05, 9.21, 0.902),
    ("supercon", "magpie"): (6.47, 10.3, 0.878),
    ("supercon", "onehot"): (6.11, 9.63, 0.887),
    ("oqmd", "wgan"): (0.101, 0.180, 0.907),
    ("oqmd", "magpie"): (0.126, 0.203, 0.841),
    ("oqmd", "onehot"): (0.108, 0.221, 0.866),
}
PAPER_NEUTRAL = {"training": 0.558, "generated": 0.581}
PAPER_LOSS = 0.3194
FEW_DECODED = 0.1  # share of the draws below which what is said of the generated compositions needs a word


def compare(config: WganConfig, prepared: Path, runs: Mapping[str, Sequence[Path]]) -> Comparison:
    """The comparison with the paper."""
    cells = _cells(runs)
    rows = [*cells, _wins(cells), *_shares(runs["draws"]), *_loss(runs["gan"]), *_separation(runs["tsne"])]
    return Comparison(
        rows,
        figures=_figures(runs),
        model=runs["mp_gap_wgan"][0] / "model.ckpt",
        analysis=_analysis(config, rows),
        files={"generator.ckpt": runs["gan"][0] / "model.ckpt"},
    )


def _cells(runs: Mapping[str, Sequence[Path]]) -> list[Row]:
    rows = []
    for (name, encoding), values in PAPER.items():
        folder = runs[f"{name}_{encoding}"]
        sizes = read_metrics(folder[0])
        for metric, paper in zip(METRICS, values, strict=True):
            rows.append(
                summarize(
                    f"{name} {encoding} {metric}",
                    folder,
                    metric,
                    paper=paper,
                    n_train=int(sizes["n_train"][0]),
                    n_test=int(sizes["n_test"][0]),
                    unit="" if metric == "r2" else PROPERTIES[name][2].unit,
                )
            )
    return rows


def _wins(cells: Sequence[Row]) -> Row:
    mae = {row.quantity: row.sluice_mean for row in cells}
    best = [min(ENCODINGS, key=lambda encoding: mae[f"{name} {encoding} mae"]) for name in PROPERTIES]
    note = "data sets on which its mean MAE is the lowest of the three encodings"
    return Row("learned encoding best", float(len(best)), float(best.count("wgan")), unit="data sets", note=note)


def _shares(runs: Sequence[Path]) -> list[Row]:
    sizes = read_metrics(runs[0])
    n_train, n_drawn, n_decoded = (int(sizes[name][0]) for name in ("n_training", "n_drawn", "n_decoded"))
    training = {"n_train": n_train, "unit": "share"}
    draws = {**training, "n_test": n_drawn}
    decoded = {**training, "n_test": n_decoded, "note": "of the draws that are a composition"}
    rows: tuple[tuple[str, str, float | None, dict[str, Any]], ...] = (
        (
            "charge-neutral, training",
            "training_neutral",
            PAPER_NEUTRAL["training"],
            {**training, "note": "default oxidation states"},
        ),
        ("charge-neutral, generated", "neutral", PAPER_NEUTRAL["generated"], decoded),
        (
            "charge-neutral and balanced, training",
            "training_ordered",
            None,
            {**training, "note": "electronegativities in order, too"},
        ),
        ("charge-neutral and balanced, generated", "ordered", None, decoded),
        ("generated decodable", "decodable", None, {**draws, "note": "of all draws"}),
        ("generated unique", "unique", None, decoded),
        ("generated novel", "novel", None, decoded),
        ("held-out compositions drawn", "recovered", None, {**draws, "note": "of those that training never saw"}),
    )
    return [summarize(name, runs, metric, paper=paper, **columns) for name, metric, paper, columns in rows]


def _loss(runs: Sequence[Path]) -> list[Row]:
    note = "absolute difference of mean scores, held-out and drawn; its scale depends on what bounds the critic's slope"
    return [
        summarize("critic loss, held out", runs, "least_critic_loss", paper=PAPER_LOSS, note=note),
        summarize("critic loss, held out, first pass", runs, "first_critic_loss", paper=4.1e13, note=note),
    ]


def _separation(runs: Sequence[Path]) -> list[Row]:
    n = int(read_metrics(runs[0])["rows"][0])
    notes = {
        "silhouette": "of iron-based, copper-based and other superconductors in the plane of t-SNE",
        "purity": "share of the ten nearest in the plane that are of the same family, mean over families",
    }
    return [
        summarize(f"supercon {encoding} t-SNE {score}", runs, f"{encoding}_{score}", n_test=n, note=note)
        for score, note in notes.items()
        for encoding in ENCODINGS
    ]


def _figures(runs: Mapping[str, Sequence[Path]]) -> dict[str, go.Figure]:
    curves: dict[str, Any] = {
        "Critic loss on held-out compositions": learning_curve(
            {"WGAN": runs["gan"]}, ["val_critic_loss"], y_title="critic loss"
        )
    }
    for name, (_, _, settings) in PROPERTIES.items():
        cells = {encoding: runs[f"{name}_{encoding}"] for encoding in ENCODINGS}
        curves[f"Learning curve: {name}"] = learning_curve(
            cells, ["val_mae"], y_title=f"validation MAE ({settings.unit})"
        )
    planes = read_planes(runs["tsne"][0])
    found = {title: figure for title, figure in curves.items() if figure is not None}
    for encoding in ENCODINGS:
        figure = go.Figure()
        for k, label in enumerate(CLASSES):
            of_class = planes[encoding][planes["classes"] == k]
            figure.add_scatter(
                x=of_class[:, 0],
                y=of_class[:, 1],
                name=label,
                mode="markers",
                marker={"size": 4, "color": SERIES[k % len(SERIES)]},
            )
        styled(figure)
        figure.update_xaxes(title_text="t-SNE 1")
        figure.update_yaxes(title_text="t-SNE 2")
        found[f"t-SNE of superconductors: {encoding}"] = figure
    return found


def _constraint(config: WganConfig) -> str:
    gan = config.settings.gan
    if gan.constraint == "clipping":
        return f"{gan.clip:g}"
    return (
        f"a gradient penalty in its place, with {gan.optimizer} at {gan.generator_rate:g} and {gan.critic_rate:g}"
        f" (published: RMSProp at 1e-2) and a running average of the generator with decay {gan.average:g}"
        " (benchmarks/RESULTS.md has what clipping gave)"
    )


def _analysis(config: WganConfig, rows: Sequence[Row]) -> list[str]:
    by_name = {row.quantity: row.sluice_mean for row in rows}
    text = [
        "The paper states neither the length of the learned vectors, nor the clip value, nor how the head was trained: "
        f"here {config.settings.gan.embedding_size}, {_constraint(config)}, and Adam with the best of all "
        "passes on validation rows. All encodings see the same splits; `onehot` is the shares of 85 elements, since no "
        "matrix of counts holds the amounts of superconductors.",
        "A sum of fixed vectors of the elements is a linear map of the elements' shares: the head on the learned "
        "encoding can represent nothing that the head on one-hot vectors cannot, so that the two differ by how easily "
        "they are learned only.",
        "The paper prints a generator that goes from 5 × 4 to 11 × 8 with a (5, 5) deconvolution of stride (2, 2), "
        "which does not come out with `same` padding (10 rows). Here that layer crops two of its 13 rows, one at each "
        "end, instead of three; the layers behind it then give the printed 22, 43 and 85 rows. MatGAN, whose code "
        "these layers come from, starts from 6 × 4.",
    ]
    if by_name["generated decodable"] < FEW_DECODED:
        text.append(
            f"Of {config.settings.samples} draws only {by_name['generated decodable']:.2%} are a composition, on which"
            " the shares of generated ones rest: they say little. The critic sees a matrix only through sums of count"
            " times vector, which entries between zero and one can bring about as well; MatGAN's sees the entries."
        )
    for name in PROPERTIES:
        best = min(ENCODINGS, key=lambda encoding: by_name[f"{name} {encoding} mae"])
        if best != "wgan":
            text.append(f"{name}: the lowest MAE is that of {best}, not of the learned encoding.")
    if missed := missed_goals(config, rows):
        gaps = [f"{name} {by_name[f'{name} wgan mae'] / by_name[f'{name} onehot mae'] - 1:+.1%}" for name in PROPERTIES]
        text.append(
            f"Missed goals: {named(missed)}. By the argument above the learned encoding adds nothing that the head"
            f" could not learn from the one-hot one, from whose MAE its own differs by {', '.join(gaps)}: what is"
            " missing to the goals is more likely to be found in the head and its training than in the encoding."
        )
    return text
