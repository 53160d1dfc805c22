"""The table of ``dft_agreement.py``: what is done so far, with what it was made with and what it cost."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import platform
import statistics
from datetime import UTC, datetime
from pathlib import Path

from dft_agreement import (
    COMPOUNDS,
    CRYSTALLINE,
    DOCS,
    MAIN,
    NITRIDES,
    PROTOCOL,
    WORK,
    data,
    mp_energies,
    mp_formation_energy,
)
from pymatgen.core import Composition

from sluice.provenance import git_commit
from sluice.validate.espresso.references import reference_structure
from sluice.validate.espresso.sets import PROTOCOLS, tier_for

# MaterialsProject2020Compatibility, eV per atom of the anion (A. Wang et al., Sci. Rep. 2021, 11, 15496).
MP2020 = {"O": -0.687, "S": -0.503, "F": -0.462, "Cl": -0.614, "N": -0.361}
GOAL = 0.03


def finished() -> dict[str, dict]:
    """Label → result of everything that is done and converged."""
    rows = [json.loads(path.read_text()) for path in sorted(WORK.glob("*.json"))]
    return {row["label"]: row for row in rows if row["converged"]}


def compound_rows(done: dict[str, dict]) -> list[dict]:
    """One row a compound whose calculation and references are done."""
    rows = []
    for material, formula, kind in COMPOUNDS:
        tier = tier_for(NITRIDES if kind == "nitride" else MAIN, PROTOCOL).name
        composition = Composition(formula).fractional_composition
        needed = [f"{tier}-{material}", *(f"{tier}-{e.symbol}" for e in composition)]
        if any(label not in done for label in needed):
            continue
        found = done[needed[0]]
        energy = found["energy_ev_per_atom"]
        energy -= sum(share * done[f"{tier}-{e.symbol}"]["energy_ev_per_atom"] for e, share in composition.items())
        theirs = mp_formation_energy(material, same_polymorph=False)
        same = like_with_like(material, composition, tier, done)
        rows.append(
            {
                "formula": formula,
                "material_id": material,
                "class": kind,
                "space_group": found["space_group"],
                "cutoffs_ry": f"{found['ecutwfc_ry']:g}/{found['ecutrho_ry']:g}",
                "k_grid": "x".join(map(str, found["kpoints"])),
                "sluice_ev_per_atom": energy,
                "mp_uncorrected_ev_per_atom": theirs,
                "difference_ev_per_atom": energy - theirs,
                "difference_same_references_ev_per_atom": energy - theirs - same,
                "magnetization_mu_b_per_cell": found["magnetization"],
                "volume_a3_per_atom": found["volume_per_atom"],
                "cpu_seconds": found["cpu_seconds"],
                "pw_starts": found["pw_starts"],
            }
        )
    return rows


def like_with_like(material: str, composition: Composition, tier: str, done: dict[str, dict]) -> float:
    """What our formation energy differs by only because of other polymorphs in the references, eV/atom."""
    shift = mp_formation_energy(material, same_polymorph=True) - mp_formation_energy(material, same_polymorph=False)
    for element, share in composition.items():
        crystal, molecule = f"{tier}-{element.symbol}-crystal", f"{tier}-{element.symbol}"
        if crystal in done:
            shift -= share * (done[molecule]["energy_ev_per_atom"] - done[crystal]["energy_ev_per_atom"])
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
        difference = mp_formation_energy(material, same_polymorph=False) + added - float(corrected[material])
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


def reference_rows(done: dict[str, dict]) -> list[dict]:
    """One row a reference that was calculated."""
    rows = []
    for label, found in done.items():
        tier, element = label.split("-", 1)
        if "-" in element:
            continue
        reference = reference_structure(element)
        rows.append(
            {
                "element": element,
                "tier": tier,
                "prototype": reference.prototype,
                "energy": found["energy_ev_per_atom"],
                "above": reference.above_ground_state_ev_per_atom,
                "moment": found["magnetization"],
                "cpu": f"{found['cpu_seconds']:.0f}",
            }
        )
    return rows


def offsets(done: dict[str, dict]) -> list[str]:
    """How far the molecules lie above the molecular crystals, where both were calculated."""
    lines = []
    for element in CRYSTALLINE:
        for label, found in done.items():
            tier = label.split("-", 1)[0]
            if label == f"{tier}-{element}-crystal":
                above = done[f"{tier}-{element}"]["energy_ev_per_atom"] - found["energy_ev_per_atom"]
                lines.append(f"{element}2 in a box lies {above:.3f} eV/atom above its molecular crystal")
    return lines


def write_table() -> None:
    """Write ``docs/experiments/dft-agreement.{csv,md}``."""
    done = finished()
    rows = compound_rows(done)
    DOCS.mkdir(parents=True, exist_ok=True)
    with (DOCS / "dft-agreement.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
    (DOCS / "dft-agreement.md").write_text("\n".join(report(done, rows)) + "\n", encoding="utf-8")
    print(f"{len(rows)} compounds → {DOCS / 'dft-agreement.md'}")


def report(done: dict[str, dict], rows: list[dict]) -> list[str]:
    """The page's lines."""
    line = PROTOCOLS[PROTOCOL]
    plain = [abs(r["difference_ev_per_atom"]) for r in rows]
    same = [abs(r["difference_same_references_ev_per_atom"]) for r in rows]
    cpu_hours = sum(row["cpu_seconds"] for row in done.values()) / 3600
    wall_hours = sum(row["wall_seconds"] for row in done.values()) / 3600
    magnetic = [r["formula"] for r in rows if abs(r["magnetization_mu_b_per_cell"]) > 0.1]
    versions = sorted({row["pw_version"] for row in done.values()})
    mean, mean_same = statistics.fmean(plain), statistics.fmean(same)
    left = [formula for _, formula, _ in COMPOUNDS if formula not in {r["formula"] for r in rows}]
    text = [
        "# Formation energies against Materials Project",
        "",
        "Generated by `python benchmarks/dft_agreement.py table` from `results/dft-agreement`; `… run` makes what is"
        " missing and resumes after any stop. Not typed.",
        "",
        f"**Mean absolute difference over {len(rows)} compounds: {mean:.3f} eV/atom** (goal {GOAL}; largest"
        f" {max(plain):.3f}; mean signed {statistics.fmean(r['difference_ev_per_atom'] for r in rows):+.3f});"
        f" with references of the same polymorph where both are known: {mean_same:.3f} eV/atom.",
        "",
        f"Raw PBE from pw.x {', '.join(versions)} with SSSP PBE efficiency 1.3.0, protocol `{PROTOCOL}`: k spacing"
        f" {line.kspacing_per_angstrom} 1/Å ({line.relax_kspacing_per_angstrom} while relaxing), cold smearing"
        f" {line.degauss_ry} Ry; compounds and references are relaxed. One cutoff tier for"
        f" {', '.join(MAIN)}, another for the nitrides ({', '.join(NITRIDES)}). With a moment:"
        f" {', '.join(magnetic) or 'none'}.",
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
        " from the prototypes below. " + "".join(f"{line}. " for line in offsets(done)),
        "",
        "## References",
        "",
        *markdown_table(
            reference_rows(done),
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
        f"Cost: {cpu_hours:.2f} CPU-hours, {wall_hours:.2f} h of wall time of pw.x on 1 rank, {len(done)} calculations,"
        f" on {cpu_name()}, {os.cpu_count()} cores shared with other work; {datetime.now(UTC):%Y-%m-%d}, commit"
        f" `{git_commit()}`.",
    ]
    if left:
        text += ["", f"Not done within the time: {', '.join(left)}."]
    return text
