"""The end of a campaign of compositions: one page to read, one file for machines, the shortlist to take along."""

from __future__ import annotations

import json
from pathlib import Path

from sluice.attempts import ATTEMPTS_FILE
from sluice.config import Config
from sluice.report.build_report import write_text
from sluice.report.composition_page import make_composition_page
from sluice.report.costs import read_costs
from sluice.report.figures_compositions import calibration
from sluice.report.formulas import csv_text, read_held_out, read_not_encoded, read_shortlist
from sluice.report.funnel import read_funnel
from sluice.report.provenance import campaign_stores
from sluice.report.summarize import common_summary, read_versions
from sluice.step import report_progress, run_step

REVISION = 1


def build_composition_report(
    *, compositions: Path, configuration: Config, html: Path, summary: Path, table: Path
) -> None:
    """Read the stores of the whole campaign and write its report.

    Args:
        compositions: the campaign's table, ``curate/compositions.h5`` in its folder.
        configuration: the campaign's.
        html: the page, self-contained.
        summary: the same for machines, JSON.
        table: the shortlisted formulas, CSV.

    Raises:
        StoreError: if a store is missing or damaged; names it.
        SluiceError: if a step's candidates do not add up; names it.
    """
    folder = compositions.parent.parent
    report_progress(0, 3, "parts", "funnel", force=True)
    funnel = read_funnel(configuration, folder)
    costs = read_costs(folder / ATTEMPTS_FILE, own_step="build_composition_report")
    rounds = range(1, configuration.rounds + 1)
    rows = read_shortlist({n: folder / f"round_{n}/screen/compositions/shortlist.h5" for n in rounds})
    latest = folder / f"round_{configuration.rounds}/train/composition_scorer_held_out.h5"
    results = {
        "shortlist": rows,
        "held_out": calibration(read_held_out(latest)),
        "not_encoded": read_not_encoded(latest),
    }
    versions = read_versions(campaign_stores(configuration, folder))
    content = common_summary(configuration.campaign, funnel, results, versions, costs)
    report_progress(1, 3, "parts", "page", force=True)
    page = make_composition_page(configuration, folder, funnel=funnel, costs=costs, rows=rows, summary=content)
    report_progress(2, 3, "parts", "files", force=True)
    write_text(table, csv_text(rows))
    write_text(summary, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(html, page)


if __name__ == "__main__":
    run_step(build_composition_report)
