"""ElemNet and Roost on OQMD formation energies: error against depth, epochs and training size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.stats import spearmanr

from sluice.chemistry.composition_table import CompositionTable, composition_table, read_table
from sluice.chemistry.compositions import Compositions
from sluice.chemistry.encodings import ElementFractions, Magpie
from sluice.config_base import Count, Section
from sluice.config_composition import CompositionDataSettings, CompositionModelSettings
from sluice.experiments.experiment import Comparison, Experiment, ExperimentConfig, Job, Part, Row
from sluice.experiments.folders import write_history, write_metrics
from sluice.experiments.results import describe_fit, learning_curve, metric_of, missed_goals, summarize
from sluice.models.baselines import Baseline, fit_baseline
from sluice.models.composition import CompositionModel, combined
from sluice.models.composition_training import save_composition_model, train_members
from sluice.models.devices import pick_device
from sluice.models.modelfile import load_model
from sluice.report.theme import styled

UNIT = "eV/atom"
BASELINES: dict[str, Baseline] = {"random_forest": "random_forest", "gradient_boosting": "gradient_boosting"}
# Milliseconds of CPU a composition and epoch: Roost's measured, the others estimated; ElemNet's grows with its depth.
ROOST_MS, ELEMNET_MS, BASELINE_MS = 0.8, 0.55, 0.12
FULL_DEPTH = 17
ELEMNET_NOTE = "the best validation error in the authors' training log is 0.0429"


class ElemnetSettings(Section):
    """Settings of the experiment."""

    data: CompositionDataSettings = Field(
        CompositionDataSettings(target_column="e_form", unit=UNIT, duplicates="lowest", max_sigma=5.0),
        description="What is read of the data; rows without a formation energy are left out.",
    )
    rows: Count | None = Field(None, description="Compositions used, at random; null: all.")
    elemnet: CompositionModelSettings = Field(CompositionModelSettings(), description="ElemNet as it is compared.")
    roost: CompositionModelSettings = Field(CompositionModelSettings(model="roost"), description="Roost.")
    depths: tuple[Count, ...] = Field((2, 4, 8, 12, 17, 24), description="Depths of ElemNet to compare.")
    depth_epochs: Count = Field(30, description="Epochs for each depth.")
    shares: tuple[float, ...] = Field((0.03, 0.1, 0.3), description="Shares of the training rows, learning curve.")
    share_epochs: Count = Field(30, description="Epochs for each share.")
    trees: Count = Field(100, description="Trees of the baselines.")

    @model_validator(mode="after")
    def _check(self) -> ElemnetSettings:
        for name, network in (("elemnet", self.elemnet), ("roost", self.roost)):
            if network.needs_wgan:
                raise ValueError(
                    f"{name}.encoding = 'embedding' needs the vectors that a WGAN learns, and this experiment trains"
                    " none; take fractions, onehot or magpie"
                )
        return self


class ElemnetConfig(ExperimentConfig):
    """The experiment's configuration."""

    settings: ElemnetSettings = ElemnetSettings()


class ElemNet(Experiment):
    """Two networks, two baselines, one job for each depth and each share of the training rows."""

    config_type = ElemnetConfig

    def parts(self, config: ElemnetConfig) -> list[Part]:
        """The jobs."""
        s = config.settings
        return [
            Part("elemnet", config.repeats),
            Part("roost", config.repeats),
            *([Part("ensemble", needs=("roost",))] if config.repeats > 1 else []),
            Part("random_forest"),
            Part("gradient_boosting"),
            *([Part("depth", len(s.depths))] if s.depths else []),
            *([Part("share", len(s.shares))] if s.shares else []),
        ]

    def cpu_hours(self, config: ElemnetConfig) -> float:
        """Rows times epochs times the measured cost of one."""
        s = config.settings
        rows = 0.8 * (s.rows or 200_000)

        def elemnet_ms(depth: int) -> float:
            return ELEMNET_MS * max(0.2, depth / FULL_DEPTH)

        each = s.elemnet.epochs * s.elemnet.members * elemnet_ms(s.elemnet.depth)
        each += s.roost.epochs * s.roost.members * ROOST_MS
        total = config.repeats * each + sum(s.depth_epochs * elemnet_ms(depth) for depth in s.depths)
        total += sum(s.shares) * s.share_epochs * elemnet_ms(s.elemnet.depth) + 2 * s.trees * BASELINE_MS
        return total * rows / 3.6e6

    def prepare(self, config: ElemnetConfig, folder: Path) -> None:
        """Read the formation energies, merge duplicates, split."""
        s = config.settings
        source = config.data_folders["oqmd_formation"] / "oqmd_compositions.csv.gz"
        # Two in five rows have no formation energy: they are no mistakes.
        table = composition_table(read_table(source, s.data, missing=""), s.data, config.seed)
        usable = np.array([p == "" for p in ElementFractions().problems(table.compositions)])
        usable &= table.compositions.sizes > 1
        chosen = np.flatnonzero(usable)
        if s.rows is not None and s.rows < len(chosen):
            chosen = np.sort(np.random.default_rng(config.seed).permutation(chosen)[: s.rows])
        save_table(folder / "table.npz", table[chosen])

    def run(self, config: ElemnetConfig, job: Job) -> None:
        """Train and measure."""
        s, table = config.settings, load_table(job.prepared / "table.npz")
        if job.variant == "ensemble":
            models = [_composition_model(run) for run in job.needed["roost"]]
            mean = combined(models).predict(table.compositions[_held_out(table)], pick_device(config.device))
            _write(job.folder, table, mean.value, mean.disagreement)
            return
        if job.variant in BASELINES:
            baseline = BASELINES[job.variant]
            found = fit_baseline(table, Magpie(), baseline, trees=s.trees, seed=job.seed, threads=job.threads)
            _write(job.folder, table, found[_held_out(table)])
            return
        settings = s.roost if job.variant == "roost" else s.elemnet
        seed = job.seed
        if job.variant == "depth":
            settings, seed = settings.model_copy(update={"depth": s.depths[job.repeat]}), config.seed
            settings = settings.model_copy(update={"epochs": s.depth_epochs, "members": 1})
        if job.variant == "share":
            settings, seed = settings.model_copy(update={"epochs": s.share_epochs, "members": 1}), config.seed
            table = thinned(table, s.shares[job.repeat], config.seed)
        model, history = train_members(
            table,
            settings,
            seed=seed,
            checkpoints=job.checkpoints,
            metrics=job.checkpoints / "final_metrics.csv",
            device=config.device,
            precision=config.precision,
            threads=job.threads,
        )
        write_history(job.folder, history)
        _write(job.folder, table, model.predict(table.compositions[_held_out(table)]).value)
        if job.variant in ("elemnet", "roost"):
            _save(job, model, table)

    def compare(self, config: ElemnetConfig, prepared: Path, runs: Mapping[str, Sequence[Path]]) -> Comparison:
        """The table beside the papers', the figures."""
        s, table = config.settings, load_table(prepared / "table.npz")
        sizes: dict[str, Any] = {"n_train": len(table.rows("train")), "n_test": len(table.rows("test")), "unit": UNIT}
        rows = [
            summarize(
                "ElemNet MAE",
                runs["elemnet"],
                "test_mae",
                paper=0.050,
                note=f"{s.elemnet.epochs} epochs; {ELEMNET_NOTE}",
                **sizes,
            ),
            summarize(
                "Roost MAE",
                runs["roost"],
                "test_mae",
                paper=0.0297,
                note=f"{s.roost.epochs} epochs; same split",
                **sizes,
            ),
            *_ensemble_rows(runs, sizes),
            summarize("random forest MAE", runs["random_forest"], "test_mae", note="Magpie", **sizes),
            summarize("gradient boosting MAE", runs["gradient_boosting"], "test_mae", note="Magpie", **sizes),
        ]
        figures: dict[str, go.Figure] = {}
        depth_rows = _curve(
            rows, runs.get("depth", []), [f"depth {d}" for d in s.depths], {**sizes, "note": f"{s.depth_epochs} epochs"}
        )
        if depth_rows:
            figures["Error against depth"] = _line(list(s.depths), depth_rows, "layers", log=False)
        full = metric_of(runs["elemnet"][0], "n_train")[0]
        share_rows = _curve(
            rows, runs.get("share", []), [f"{share:g} of the training rows" for share in s.shares],
            {**sizes, "note": f"{s.share_epochs} epochs"},
        )  # fmt: skip
        if share_rows:
            xs = [share * full for share in s.shares]
            figures["Learning curve"] = _line(xs, share_rows, "training compositions", log=True)
        epochs = learning_curve(
            {"ElemNet": runs["elemnet"], "Roost": runs["roost"]}, ["val_mae"], y_title=f"validation MAE, {UNIT}"
        )
        if epochs is not None:
            figures["Error against epochs"] = epochs
        best = min(("elemnet", "roost"), key=lambda name: np.mean([metric_of(r, "val_mae")[0] for r in runs[name]]))
        return Comparison(
            rows, figures, runs[best][0] / "model.ckpt", _analysis(config, rows, len(table), runs, share_rows)
        )


def _analysis(
    config: ElemnetConfig, rows: Sequence[Row], n: int, runs: Mapping[str, Sequence[Path]], curve: Sequence[float]
) -> list[str]:
    s = config.settings
    text = [
        "The papers train on 341 000 and 256 000 formation energies of OQMD, each of a release of its own; here there"
        f" are {n}. The split is random, by composition; of duplicates the lowest energy is kept; elements and energies"
        " beyond five standard deviations are left out.",
    ]
    if s.elemnet.residual or s.elemnet.paper_dropout != 1.0:
        text.append(
            f"ElemNet has the paper's widths{', normalized layers added to their inputs' if s.elemnet.residual else ''}"
            f" and {s.elemnet.paper_dropout:g} times its dropout; `residual: false` and `paper_dropout: 1` give the"
            " paper's network."
        )
    text.append(
        "Roost starts from tabulated properties and learned vectors of the elements, not from Matscholar's, and learns"
        f" for {s.roost.epochs} passes with a rate that rises to {s.roost.learning_rate:g} and falls."
    )
    unpredicted = max(int(metric_of(run, "unpredicted")[0]) for run in [*runs["elemnet"], *runs["roost"]])
    if unpredicted:
        text.append(f"{unpredicted} compositions have an element that no training row holds, and no prediction.")
    for goal in missed_goals(config, rows):
        network = goal.quantity.split()[0].lower()
        causes = [
            describe_fit(runs[network][0]) if network in ("elemnet", "roost") else "",
            _pace(s.shares, curve) if network == "elemnet" else "",
        ]
        sentences = [f"The goal {goal.quantity} {goal.describe()} is missed.", *filter(None, causes)]
        text.append(" ".join(sentences))
    return text


def _pace(shares: Sequence[float], curve: Sequence[float]) -> str:
    """How the error falls with the number of rows, by the learning curve."""
    if len(curve) < 2:
        return ""
    slope = np.polyfit(np.log(shares), np.log(curve), 1)[0]
    return (
        f"From {min(shares):g} to {max(shares):g} of the training rows ElemNet's error goes with the power {slope:.2f}"
        " of their number, after equal passes and therefore fewer steps."
    )


def save_table(path: Path, table: CompositionTable) -> None:
    """Write a table as plain arrays."""
    c = table.compositions
    np.savez_compressed(
        path, offsets=c.offsets, numbers=c.numbers, amounts=c.amounts, target=table.target, split=table.split
    )


def load_table(path: Path) -> CompositionTable:
    """Read what ``save_table`` wrote."""
    with np.load(path) as stored:
        compositions = Compositions(stored["offsets"], stored["numbers"], stored["amounts"])
        return CompositionTable(compositions, stored["target"], stored["split"])


def thinned(table: CompositionTable, share: float, seed: int) -> CompositionTable:
    """The table with a share of its training rows; smaller shares are parts of larger ones."""
    training = np.random.default_rng([seed, 17]).permutation(table.rows("train"))
    kept = training[: max(2, round(share * len(training)))]
    return table[np.sort(np.concatenate([kept, table.rows("val"), table.rows("test")]))]


def _composition_model(run: Path) -> CompositionModel:
    network = load_model(run / "model.ckpt").network
    assert isinstance(network, CompositionModel)
    return network


def _ensemble_rows(runs: Mapping[str, Sequence[Path]], sizes: Mapping[str, Any]) -> list[Row]:
    """The mean of the repeats' networks, and what their disagreement says of the error."""
    if "ensemble" not in runs:
        return []
    note = f"mean of the {len(runs['roost'])} networks of the row above"
    said = "Spearman's, of the networks' disagreement and the error of their mean"
    plain = {**sizes, "unit": "", "note": said}
    return [
        summarize("Roost MAE, ensemble", runs["ensemble"], "test_mae", note=note, **sizes),
        summarize("rank correlation of disagreement and error, ensemble", runs["ensemble"], "test_rank", **plain),
    ]


def _held_out(table: CompositionTable) -> NDArray[np.int64]:
    return np.concatenate([table.rows("val"), table.rows("test")])


def _write(
    folder: Path, table: CompositionTable, predicted: np.ndarray, disagreement: np.ndarray | None = None
) -> None:
    """Write what predictions (and their disagreement) for the rows of ``_held_out`` are worth."""
    error = np.abs(predicted - table.target[_held_out(table)])
    # Elements that only held-out rows have cannot be predicted; they are counted.
    good = ~np.isnan(error)
    metrics: dict[str, float] = {"n_train": float(len(table.rows("train"))), "unpredicted": float((~good).sum())}
    n_val = len(table.rows("val"))
    for name, part in (("val", slice(n_val)), ("test", slice(n_val, None))):
        found = error[part][good[part]]
        metrics[f"{name}_mae"] = float(found.mean())
        metrics[f"{name}_rmse"] = float(np.sqrt((found**2).mean()))
        if disagreement is not None:
            metrics[f"{name}_rank"] = float(spearmanr(disagreement[part][good[part]], found).statistic)
    write_metrics(folder, metrics)


def _save(job: Job, model: CompositionModel, table: CompositionTable) -> None:
    facts = {
        "output": f"formation energy, {UNIT}",
        "training_rows": len(table.rows("train")),
        "training_sha256": table.digest(),
        "seed": job.seed,
    }
    save_composition_model(job.folder / "model.ckpt", model, facts)


def _curve(rows: list[Row], runs: Sequence[Path], names: Sequence[str], sizes: Mapping[str, Any]) -> list[float]:
    """Add a row for each run; its mean absolute errors."""
    for run, name in zip(runs, names, strict=True):
        n_train = int(metric_of(run, "n_train")[0])
        rows.append(summarize(f"ElemNet MAE, {name}", [run], "test_mae", **{**sizes, "n_train": n_train}))
    return [metric_of(run, "test_mae")[0] for run in runs]


def _line(x: Sequence[float], y: Sequence[float], title: str, *, log: bool) -> go.Figure:
    figure = go.Figure(go.Scatter(x=list(x), y=list(y), mode="lines+markers"))
    styled(figure)
    figure.update_xaxes(title_text=title, type="log" if log else "linear")
    figure.update_yaxes(title_text=f"test MAE, {UNIT}", type="log" if log else "linear")
    return figure


EXPERIMENT = ElemNet()
