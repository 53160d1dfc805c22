"""The rows, figures and words of the experiment `cubicgan`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from sluice.experiments.cubicgan_funnel import DISTANCES, Sites
from sluice.experiments.experiment import Row
from sluice.experiments.folders import read_metrics
from sluice.experiments.results import row_of, summarize
from sluice.models.orbits import Decomposition
from sluice.report.theme import SERIES, styled

STABLE = 0.1  # eV/atom above the hull, MatterGen's threshold (Zeni et al., Nature 2025)
MATTERGEN = 22.27  # % S.U.N. of MatterGen-MP20, DFT energies (its Table of baselines)
SETS = ("random", "checked", "critic", "critic_checked", "test")
TITLES = {
    "random": "as drawn, elements at random",
    "checked": "after the paper's checks",
    "critic": "the critic's favourites",
    "critic_checked": "the critic's favourites after the paper's checks",
    "test": "held-out MP crystals (novelty aside, the ceiling)",
}


def numbers_of(run: Path) -> dict[str, float]:
    """The numbers of a run; each job has one seed."""
    return {name: values[0] for name, values in read_metrics(run).items()}


def load_crystals(prepared: Path) -> tuple[Decomposition, NDArray[np.str_], NDArray[np.float64]]:
    """Crystals, their split, and their energies (eV/atom) where they lie on MP's hull."""
    with np.load(prepared / "crystals.npz") as arrays:
        names = ("space_groups", "points", "elements", "lengths")
        data = Decomposition(np.arange(len(arrays["lengths"])), *(arrays[name] for name in names))
        return data, arrays["split"], arrays["energies"]


def sites_of(data: Decomposition, chosen: NDArray) -> Sites:
    """The chosen crystals."""
    return Sites(data.space_groups[chosen], data.points[chosen], data.elements[chosen], data.lengths[chosen])


def read_sites(path: Path) -> tuple[Sites, NDArray[np.bool_]]:
    """Crystals as drawn, and which are crystals at all."""
    with np.load(path) as arrays:
        names = ("space_groups", "points", "elements", "lengths")
        return Sites(*(arrays[name] for name in names)), arrays["possible"]


def training_rows(runs: Sequence[Path], n_train: int, n_val: int) -> list[Row]:
    """How well the generator learned, on held-out crystals."""
    sizes: dict[str, Any] = {"n_train": n_train, "n_test": n_val}
    return [
        summarize("val: sites distinct", runs, "val_distinct_sites", unit="share", **sizes),
        summarize(
            "val: real arrangement drawn", runs, "val_recovered", unit="share", **sizes,
            note="one draw for each held-out composition and space group",
        ),
        summarize("val: lattice constant, MAE", runs, "val_length_mae_angstrom", unit="Å", **sizes),
    ]  # fmt: skip


def funnel_rows(runs: Sequence[Path], critic_share: float, n_train: int) -> list[Row]:
    """Shares that pass each check, and distances from the training crystals."""
    found = numbers_of(runs[0])
    rows = []
    for name, title in (("random", "elements at random"), ("critic", "critic's favourites")):
        n = int(found[f"{name}_drawn"])
        said = f"{title}" + (f", best {100 * critic_share:g} %" if name == "critic" else "")
        for key, what, of in (
            ("distinct", "sites distinct (a crystal at all)", "drawn"),
            ("geometry", "possible distances and density", "drawn"),
            ("symmetry", "space group found is the one asked for", "drawn"),
            ("neutral", "charge-neutral", "symmetry"),
            ("charge", "charge-neutral in electronegativity order, no alloys", "symmetry"),
            ("unique", "unique", "charge"),
            ("novel", "novel against MP's cubic ternaries", "unique"),
        ):
            total = found[f"{name}_{of}"]
            share = found[f"{name}_{key}"] / total if total else float("nan")
            note = f"of {_spaced(total)} {_PASSED[of]}"
            if (name, key) == ("critic", "distinct") and critic_share < 1:
                note += "; 100 % by construction: they are chosen among draws with distinct sites"
            rows.append(Row(f"{said}: {what}", None, 100 * share, None, 1, n_train, n, "%", note))
        compared, passed = len(read_sites(runs[0] / f"{name}_sample.npz")[0]), int(found[f"{name}_symmetry"])
        # Draws do not depend on each other, so the first that pass are as good as any others.
        part = f"the first {_spaced(compared)} of" if compared < passed else "all of"
        of_these = f"from {part} the {_spaced(passed)} draws that pass geometry and symmetry"
        for key, unit in DISTANCES.items():
            value, ceiling = found[f"{name}_distance_{key}"], found[f"test_distance_{key}"]
            note = f"{of_these} to the training crystals; held-out MP crystals have {ceiling:.3g}"
            quantity = f"{said}: distance of {key.replace('_', ' ')}"
            rows.append(Row(quantity, None, value, None, 1, n_train, compared, unit, note))
    return rows


def _spaced(n: float) -> str:
    """A whole number with its thousands apart."""
    return f"{int(n):,}".replace(",", " ")


_PASSED = {"drawn": "drawn", "symmetry": "of the right symmetry", "charge": "that pass every check", "unique": "unique"}


def stability_rows(runs: Mapping[str, Sequence[Path]], n_train: int) -> list[Row]:
    """Stable, unique, novel, for every set."""
    rows = []
    for name in SETS:
        folders = runs[f"stability_{name}"]
        found = numbers_of(folders[0])
        sizes: dict[str, Any] = {"n_train": n_train, "n_test": int(found["n"])}
        note = (
            f"± {standard_error(found['sun'], found['n']):.1f} points, the standard error of {found['n']:.0f} crystals;"
            f" E ≤ {STABLE:g} eV/atom above MP's hull, CHGNet energies; MatterGen-MP20 by DFT: {MATTERGEN:g} %"
        )
        for key, what in (("relaxed", "relaxed"), ("stable", "stable"), ("unique", "unique"), ("novel", "novel")):
            rows.append(row_of(f"{TITLES[name]}: {what}", [100 * found[key]], unit="%", **sizes))
        if name.startswith("critic"):
            note += "; a choice among many draws, MatterGen's is a share of all"
        paper = MATTERGEN if name != "test" else None
        rows.append(row_of(f"S.U.N., {TITLES[name]}", [100 * found["sun"]], paper=paper, unit="%", note=note, **sizes))
        rows.append(
            row_of(f"S.U.N. on or below the hull, {TITLES[name]}", [100 * found["sun_on_hull"]], unit="%", **sizes)
        )
        rows.append(
            row_of(
                f"{TITLES[name]}: lattice constant before CHGNet relaxation, MAE",
                [found["length_mae_angstrom"]],
                unit="Å",
                note=f"{found['length_error_percent']:.3g} %",
                **sizes,
            )
        )
    found = numbers_of(runs["stability_test"][0])
    for key, what in (("mae", "MAE"), ("bias", "mean error")):
        value = found[f"chgnet_{key}_ev_per_atom"]
        rows.append(
            row_of(f"CHGNet against MP energies: {what}", [value], n_test=int(found["chgnet_n"]), unit="eV/atom",
                   note="held-out cubic ternaries on MP's hull, MP's geometry")
        )  # fmt: skip
    return rows


def standard_error(share: float, n: float) -> float:
    """Of a share found among n crystals, in points (binomial); NaN of none."""
    return 100 * math.sqrt(share * (1 - share) / n) if n else math.nan


def lengths_figure(prepared: Path, draws: Path) -> go.Figure:
    """Lattice constants of training and drawn crystals."""
    data, split, _ = load_crystals(prepared)
    figure = go.Figure()
    for k, (name, lengths) in enumerate(
        {
            "MP, training": data.lengths[split == "train"],
            "drawn": read_sites(draws / "random_sample.npz")[0].lengths,
            "critic's favourites": read_sites(draws / "critic_sample.npz")[0].lengths,
        }.items()
    ):
        density, edges = np.histogram(lengths, bins=np.arange(2.5, 13, 0.1), density=True)
        figure.add_scatter(x=(edges[1:] + edges[:-1]) / 2, y=density, name=name, line={"color": SERIES[k]})
    styled(figure)
    figure.update_xaxes(title_text="lattice constant, Å")
    figure.update_yaxes(title_text="density, 1/Å")
    return figure


def hull_figure(runs: Mapping[str, Sequence[Path]]) -> go.Figure:
    """Cumulative share of each set by energy above the hull."""
    figure = go.Figure()
    for k, name in enumerate(SETS):
        lines = (runs[f"stability_{name}"][0] / "judged.csv").read_text(encoding="utf-8").splitlines()[1:]
        above = np.sort([float(line.split(",")[2]) for line in lines])
        share = np.arange(1, len(above) + 1) / len(above)
        inside = np.isfinite(above)
        figure.add_scatter(x=above[inside], y=share[inside], name=TITLES[name], line={"color": SERIES[k % len(SERIES)]})
    styled(figure)
    figure.add_vline(x=STABLE, line_dash="dot")
    figure.update_xaxes(title_text="energy above MP's hull, eV/atom", range=[-0.3, 1.5])
    figure.update_yaxes(title_text="share of all crystals up to it")
    return figure


def analyse(runs: Mapping[str, Sequence[Path]], critic_share: float) -> list[str]:
    """What a reader must know."""
    sun = {name: 100 * numbers_of(runs[f"stability_{name}"][0])["sun"] for name in SETS}
    error = standard_error(sun["critic"] / 100, numbers_of(runs["stability_critic"][0])["n"])
    bias = numbers_of(runs["stability_test"][0])["chgnet_bias_ev_per_atom"]
    return [
        "S.U.N. is counted over all crystals of a set, those that are no crystals or do not relax included. Stable: at"
        f" most {STABLE:g} eV/atom above the hull of the Materials Project (snapshot of early 2023) by CHGNet's energy"
        " after relaxation with the symmetry kept. Unique: the first of its kind in the set (space group, orbits and"
        " elements). Novel: pymatgen's StructureMatcher finds it among none of the project's crystals of that formula"
        " with up to 60 atoms, as far as the data set holds them.",
        "MatterGen's figure has the same threshold and the same three conditions, but is by DFT, and its hull and known"
        " crystals are those of Alexandria and ICSD, too, a lower hull and more known crystals: on its references the"
        " shares here would be smaller. It counts all that was generated, so the critic's favourites,"
        f" {100 * critic_share:g} % chosen from the draws, stand beside it as a generator with its choice.",
        f"Elements drawn at random, as in the paper, give {sun['random']:.1f} %; what passes the paper's checks"
        f" {sun['checked']:.1f} %; the critic's favourites (the best {100 * critic_share:g} % of the"
        f" draws, no other check) {sun['critic']:.1f} %, after the checks {sun['critic_checked']:.1f} %. One training;"
        f" of the crystals alone the favourites' share has a standard error of {error:.1f} points. The critic saw real"
        " crystals beside made ones with random elements, so it has learned which elements go together; it has never"
        " seen an energy.",
        f"On held-out crystals on the hull CHGNet's energy is off by {1000 * bias:.0f} meV/atom on average, which"
        " shifts the share of stable crystals accordingly.",
        "Trained on the Materials Project's cubic ternaries (the paper: 375 749 of OQMD), so shares of the funnel"
        " cannot be compared with the paper's one by one; its abstract names 506 phonon-stable materials from"
        " 10 million draws.",
    ]
