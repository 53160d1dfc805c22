"""The table of ``dft_agreement.py``: what ``sluice dft`` has calculated so far, how, and what it cost."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import platform
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from dft_agreement import (
    COMPOUNDS,
    CRYSTALLINE,
    DOCS,
    LIBRARY,
    MAIN,
    NITRIDES,
    PROTOCOL,
    WORK,
    data,
    mp_energies,
    mp_formation_energy,
)

from sluice.store import Store
from sluice.task_library import TaskLibrary, structure_from_json
from sluice.validate.espresso.references import reference_structure
from sluice.validate.espresso.sets import PROTOCOLS, tier_for

# MaterialsProject2020Compatibility, eV per atom of the anion (A. Wang et al., Sci. Rep. 2021, 11, 15496).
MP2020 = {"O": -0.687, "S": -0.503, "F": -0.462, "Cl": -0.614, "N": -0.361}
GOAL = 0.03
MAGNETIC = 0.1  # μB per cell


def finished(name: str) -> dict | None:
    """What ``sluice dft`` wrote of a crystal, with the library's record and the commit; None if it has no energy."""
    path = WORK / "energies" / f"{name}.csv"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as handle:
        row = next(csv.DictReader(handle))
    if not row["formation_energy_ev_per_atom"]:
        return None
    with Store(path.with_suffix(".h5"), "results") as store:
        record = TaskLibrary(LIBRARY).result(store.text("task_id")[0])
        commit = json.loads(store.attributes["created_with"])["commit"]
    assert record is not None
    return {**row, "record": record, "commit": commit}


def references(elements: tuple[str, ...]) -> Iterator[tuple[str, str, dict]]:
    """Element, tier and record of every reference of a chemistry that was calculated."""
    tier = tier_for(elements, PROTOCOL).name
    for element in sorted(elements):
        for record in TaskLibrary(LIBRARY).references(element):
            if record["converged"] and record["settings"]["tier"] == tier:
                yield element, tier, record


def compound_rows() -> list[dict]:
    """One row a compound that has a formation energy."""
    rows = []
    for material, formula, kind in COMPOUNDS:
        found = finished(material)
        if found is None:
            continue
        record, settings = found["record"], found["record"]["settings"]
        structure = structure_from_json(record["structure"])
        energy, theirs = float(found["formation_energy_ev_per_atom"]), mp_formation_energy(material)
        rows.append(
            {
                "formula": formula,
                "material_id": material,
                "class": kind,
                "space_group": int(found["space_group"]),
                "cutoffs_ry": f"{settings['ecutwfc_ry']:g}/{settings['ecutrho_ry']:g}",
                "k_grid": "x".join(map(str, settings["kpoints"])),
                "sluice_ev_per_atom": energy,
                "mp_uncorrected_ev_per_atom": theirs,
                "difference_ev_per_atom": energy - theirs,
                "difference_same_references_ev_per_atom": energy - theirs - of_references(material),
                "magnetization_mu_b_per_cell": float(found["magnetization_mu_b_per_cell"] or "nan"),
                "volume_a3_per_atom": structure.volume / len(structure),
                "cpu_seconds": float(found["cpu_seconds"]),
                "pw_starts": record["pw_starts"],
            }
        )
    return rows


def of_references(material: str) -> float:
    """What our formation energy differs by only because of other polymorphs in the references, eV/atom."""
    shift = mp_formation_energy(material, same_polymorph=True) - mp_formation_energy(material)
    for element, share in mp_energies()[material][0].fractional_composition.items():
        crystal = finished(f"{element.symbol}-crystal")
        if crystal is not None:
            shift += share * float(crystal["formation_energy_ev_per_atom"])
    return shift


def check_corrections() -> float:
    """Largest |uncorrected + MP2020 corrections − corrected value of the MP-20 table| over the compounds, eV/atom.

    The total energies used here come from a list whose column says "corrected"; that they are not is seen by adding
    the documented corrections, which then meets the corrected formation energies of an independent table.
    """
    with gzip.open(data("mp_structures", "mp_table.csv.gz"), "rt") as handle:
        corrected = {row["material_id"]: row["e_form_mp20"] for row in csv.DictReader(handle)}
    worst = 0.0
    for material, _, kind in COMPOUNDS:
        composition = mp_energies()[material][0].fractional_composition
        ionic = kind != "intermetallic"
        added = sum(MP2020.get(e.symbol, 0.0) * share for e, share in composition.items()) if ionic else 0.0
        difference = mp_formation_energy(material) + added - float(corrected[material])
        worst = max(worst, abs(difference))
    return worst


def cpu_name() -> str:
    """The processor's name, where the system tells."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def number(value: object) -> str:
    """A cell of the tables."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3f}"
    return str(value)


def markdown_table(rows: list[dict], columns: dict[str, str]) -> list[str]:
    """Rows with some columns under new headings."""
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + " --- |" * len(columns)]
    return lines + ["| " + " | ".join(number(row[key]) for key in columns) + " |" for row in rows]


def reference_rows() -> list[dict]:
    """One row a reference that was calculated."""
    rows = []
    for element, tier, record in [*references(MAIN), *references(NITRIDES)]:
        reference = reference_structure(element)
        moment = record["magnetization_mu_b_per_cell"]
        rows.append(
            {
                "element": element,
                "tier": tier,
                "prototype": reference.prototype,
                "energy": record["energy_ev_per_atom"],
                "above": reference.above_ground_state_ev_per_atom,
                "moment": math.nan if moment is None else moment,
                "cpu": f"{record['cpu_seconds']:.0f}",
            }
        )
    return rows


def offsets() -> str:
    """How far the molecules lie above the molecular crystals, where both were calculated."""
    found = {element: finished(f"{element}-crystal") for element in CRYSTALLINE}
    return "".join(
        f" {element}2 in a box lies {-float(crystal['formation_energy_ev_per_atom']):.3f} eV/atom above its molecular"
        " crystal, calculated alike."
        for element, crystal in found.items()
        if crystal is not None
    )


def write_table() -> None:
    """Write ``docs/experiments/dft-agreement.{csv,md}``."""
    rows = compound_rows()
    if not rows:
        raise SystemExit(f"nothing calculated yet in {WORK}")
    DOCS.mkdir(parents=True, exist_ok=True)
    with (DOCS / "dft-agreement.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
    (DOCS / "dft-agreement.md").write_text("\n".join(report(rows)) + "\n", encoding="utf-8")
    print(f"{len(rows)} compounds → {DOCS / 'dft-agreement.md'}")


def accuracy(rows: list[dict]) -> list[str]:
    """The figures that matter, and the settings behind them."""
    line = PROTOCOLS[PROTOCOL]
    signed = [r["difference_ev_per_atom"] for r in rows]
    same = statistics.fmean(abs(r["difference_same_references_ev_per_atom"]) for r in rows)
    magnetic = [f"{r['formula']}" for r in rows if abs(r["magnetization_mu_b_per_cell"]) > MAGNETIC]
    versions = sorted({found["record"]["code_version"] for m, _, _ in COMPOUNDS if (found := finished(m))})
    return [
        f"**Mean absolute difference over {len(rows)} compounds: {statistics.fmean(map(abs, signed)):.3f} eV/atom**"
        f" (goal {GOAL}; largest {max(map(abs, signed)):.3f}; mean signed {statistics.fmean(signed):+.3f});"
        f" with references of the same polymorph where both are known: {same:.3f} eV/atom.",
        "",
        f"Raw PBE from pw.x {', '.join(versions)} with SSSP PBE efficiency 1.3.0, protocol `{PROTOCOL}`: k spacing"
        f" {line.kspacing_per_angstrom} 1/Å ({line.relax_kspacing_per_angstrom} while relaxing), cold smearing"
        f" {line.degauss_ry} Ry; compounds and references are relaxed. One cutoff tier for"
        f" {', '.join(MAIN)}, another for the nitrides ({', '.join(NITRIDES)}). With a moment:"
        f" {', '.join(magnetic) or 'none'}.",
    ]


def cost(rows: list[dict]) -> list[str]:
    """What it took, where, and by which commit."""
    names = [*(m for m, _, _ in COMPOUNDS), *(f"{element}-crystal" for element in CRYSTALLINE)]
    found = [entry for name in names if (entry := finished(name))]
    records = [entry["record"] for entry in found]
    records += [record for _, _, record in [*references(MAIN), *references(NITRIDES)]]
    cpu, wall = (sum(record[f"{kind}_seconds"] for record in records) / 3600 for kind in ("cpu", "wall"))
    commits = ", ".join(f"`{commit}`" for commit in sorted({entry["commit"] for entry in found}))
    text = [
        f"Cost: {cpu:.2f} CPU-hours, {wall:.2f} h of wall time of pw.x, {len(records)} calculations, on {cpu_name()},"
        f" {os.cpu_count()} cores shared with other work; {datetime.now(UTC):%Y-%m-%d}, commit {commits}."
    ]
    left = [formula for _, formula, _ in COMPOUNDS if formula not in {row["formula"] for row in rows}]
    return [*text, "", f"Not done within the time: {', '.join(left)}."] if left else text


def report(rows: list[dict]) -> list[str]:
    """The page's lines."""
    return [
        "# Formation energies against Materials Project",
        "",
        "Generated by `python benchmarks/dft_agreement.py table` from what `sluice dft` wrote; `… run` calls it for"
        " what is missing and resumes after any stop. Not typed.",
        "",
        *accuracy(rows),
        "",
        "Materials Project's side is uncorrected PBE: total energies and elemental references without anion"
        " corrections. The list of total energies calls its column corrected; it is not: with MP2020's corrections"
        " added, these formation energies meet the corrected ones of the MP-20 table to"
        f" {check_corrections():.3f} eV/atom for every compound here.",
        "",
        *markdown_table(
            rows,
            {
                "formula": "compound",
                "material_id": "MP id",
                "class": "class",
                "space_group": "space group",
                "cutoffs_ry": "cutoffs, Ry",
                "k_grid": "k grid",
                "sluice_ev_per_atom": "Sluice, eV/atom",
                "mp_uncorrected_ev_per_atom": "MP uncorrected, eV/atom",
                "difference_ev_per_atom": "difference, eV/atom",
                "difference_same_references_ev_per_atom": "difference, same references, eV/atom",
                "magnetization_mu_b_per_cell": "moment, μB/cell",
                "cpu_seconds": "CPU-s",
            },
        ),
        "",
        "The two columns of differences are apart by what stands in for what: Materials Project measures from molecular"
        " crystals and, for some metals, from unusual low-energy cells; Sluice measures from molecules in a box and"
        f" from the prototypes below.{offsets()}",
        "",
        "## References",
        "",
        *markdown_table(
            reference_rows(),
            {
                "element": "element",
                "tier": "tier",
                "prototype": "structure",
                "energy": "energy, eV/atom",
                "above": "above MP's reference in MP's data, eV/atom",
                "moment": "moment, μB/cell",
                "cpu": "CPU-s",
            },
        ),
        "",
        *cost(rows),
    ]
