"""The machine-readable end of a campaign (``summary.json``) and its short form for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from sluice.report.costs import Costs
from sluice.report.funnel import Funnel
from sluice.report.validated import Row
from sluice.store import Store

LEFT_OUT = "filters_left_out"  # attribute of scored candidates: filters whose models were not there

VALIDATED_KEYS = (
    "id", "confirmed", "formula", "space_group", "formation_energy_ev_per_atom",
    "formation_energy_corrected_ev_per_atom", "mlip_formation_energy_ev_per_atom", "code", "protocol", "converged",
    "cif", "reason",
)  # fmt: skip


SHOWN = 15  # formulas of a shortlist that the terminal shows


def read_versions(paths: Iterable[Path]) -> dict[str, str]:
    """Versions of everything that wrote the stores, by package; several are joined by commas."""
    found: dict[str, set[str]] = {}
    for path in paths:
        with Store(path, verify=False) as store:
            for name, value in json.loads(store.attributes["created_with"]).items():
                found.setdefault(name, set()).add(str(value))
    return {name: ", ".join(sorted(values)) for name, values in sorted(found.items())}


def read_left_out(paths: Iterable[Path]) -> list[str]:
    """Warnings about filters that stores of scored candidates went without, each once."""
    found: dict[str, None] = {}
    for path in paths:
        with Store(path, "scored", verify=False) as store:
            found |= dict.fromkeys(json.loads(store.attributes.get(LEFT_OUT, "[]")))
    return list(found)


def make_summary(
    campaign: str, funnel: Funnel, rows: list[Row], versions: dict[str, str], costs: Costs, *, left_out: list[str]
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Everything but ``versions`` and ``cpu_seconds`` is the same whether or not the campaign was interrupted.
    """
    validated = [{key: row[key] for key in VALIDATED_KEYS} for row in rows]
    common = common_summary(campaign, funnel, {"validated": validated}, versions, costs)
    return common | {"filters_left_out": left_out}


def common_summary(
    campaign: str, funnel: Funnel, results: dict[str, Any], versions: dict[str, str], costs: Costs
) -> dict[str, Any]:
    """What ``summary.json`` says of every campaign, its results between the funnel and the versions."""
    return {
        "campaign": campaign,
        "funnel": [row.as_dict() for row in funnel.total()],
        **results,
        "versions": versions,
        "cpu_seconds": {step: round(cost.cpu_seconds, 2) for step, cost in costs.steps.items()},
        "rounds": [{"round": n, "funnel": [row.as_dict() for row in rows]} for n, rows in funnel.rounds.items()],
        "database": [row.as_dict() for row in funnel.database],
        "tasks": [row.as_dict() for row in funnel.tasks],
    }


def _energy(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def summary_table(summary: dict[str, Any]) -> Table:
    """The confirmed crystals of a campaign, or its shortlist of formulas, for the terminal.

    Args:
        summary: the content of ``summary.json``.
    """
    if "shortlist" in summary:
        return _shortlist_table(summary)
    confirmed = [row for row in summary["validated"] if row["confirmed"]]
    tried = len(summary["validated"])
    failed = sum(bool(row["reason"]) for row in summary["validated"])
    title = Text(f"{summary['campaign']}: {len(confirmed)} of {tried} crystals confirmed by DFT")
    left_out = "".join(f"\nWARNING: {text}" for text in summary.get("filters_left_out", []))
    further = f"; DFT of {failed} failed, see the report" if failed else ""
    table = Table(title=title, caption=Text(f"formation energies in eV/atom{further}{left_out}"))
    for name in ("formula", "space group"):
        table.add_column(name)
    for name in ("raw", "MP2020-corrected", "CHGNet"):
        table.add_column(name, justify="right")
    for name in ("code", "CIF"):
        table.add_column(name)
    for row in confirmed:
        table.add_row(
            Text(row["formula"]),
            str(row["space_group"]),
            _energy(row["formation_energy_ev_per_atom"]),
            _energy(row["formation_energy_corrected_ev_per_atom"]),
            _energy(row["mlip_formation_energy_ev_per_atom"]),
            Text(f"{row['code']}, {row['protocol']}"),
            Text(row["cif"]),
        )
    return table


def _shortlist_table(summary: dict[str, Any]) -> Table:
    rows = summary["shortlist"]
    title = Text(f"{summary['campaign']}: {len(rows)} formulas on the shortlist")
    rest = f"the first {SHOWN} of {len(rows)}; " if len(rows) > SHOWN else ""
    table = Table(title=title, caption=f"{rest}formation energies in eV/atom, predicted; no structures are known yet")
    table.add_column("rank", justify="right")
    table.add_column("formula")
    for name in ("predicted", "standard deviation"):
        table.add_column(name, justify="right")
    table.add_column("nearest known")
    for row in rows[:SHOWN]:
        numbers = [_energy(row[f"{name}_ev_per_atom"]) for name in ("predicted_formation_energy", "standard_deviation")]
        table.add_row(str(row["rank"]), Text(row["formula"]), *numbers, Text(row["nearest_known"]))
    return table
