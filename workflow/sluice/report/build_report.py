"""The end of a campaign: one page to read and show, one file for machines, the crystals to take along."""

from __future__ import annotations

import json
import os
from pathlib import Path

from sluice.attempts import ATTEMPTS_FILE
from sluice.config import Config
from sluice.report.costs import read_costs
from sluice.report.funnel import TASK_STEPS, read_funnel, store_paths
from sluice.report.page import make_page
from sluice.report.provenance import calculations, campaign_stores
from sluice.report.summarize import make_summary, read_left_out, read_versions
from sluice.report.validated import cif_text, csv_text, read_failed, read_validated, write_cifs
from sluice.step import report_progress, run_step

REVISION = 2


def write_text(path: Path, text: str) -> None:
    """Write whole and replace."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def build_report(
    *,
    dataset: Path,
    decisions: list[Path],
    configuration: Config,
    html: Path,
    summary: Path,
    table: Path,
    cifs: Path,
) -> None:
    """Read the stores of the whole campaign and write its report.

    Args:
        dataset: the campaign's data set, ``curate/dataset.h5`` in its folder.
        decisions: how each round ended, in order.
        configuration: the campaign's.
        html: the page, self-contained.
        summary: the same for machines, JSON.
        table: the crystals that were sent to DFT, CSV.
        cifs: folder of their DFT-relaxed structures.

    Raises:
        StoreError: if a store is missing or damaged; names it.
        SluiceError: if a step's candidates do not add up; names it.
    """
    folder = dataset.parent.parent
    configuration = configuration.model_copy(update={"rounds": len(decisions)})  # `sluice report` may come early
    report_progress(0, 4, "parts", "funnel", force=True)
    funnel = read_funnel(configuration, folder)
    costs = read_costs(folder / ATTEMPTS_FILE)
    rounds = range(1, len(decisions) + 1)
    validated = {n: folder / f"round_{n}/validate/validated.h5" for n in rounds}
    shortlists = {n: folder / f"round_{n}/screen/shortlist.h5" for n in rounds}
    crystals = read_validated(validated)
    used = configuration.validate_
    failed = read_failed(validated, shortlists, code=used.code, protocol=used.protocol)
    rows = [crystal.row for crystal in crystals] + failed
    report_progress(1, 4, "parts", "crystals", force=True)
    texts = {Path(c.row["cif"]).name: cif_text(c.structure) for c in crystals}
    results = [p for step in TASK_STEPS[1:] for n in rounds for p in store_paths(step, configuration, folder, n)]
    found = read_versions(campaign_stores(configuration, folder)) | calculations(results).versions
    versions = dict(sorted(found.items()))
    left_out = read_left_out(folder / f"round_{n}/screen/scored.h5" for n in rounds)
    content = make_summary(configuration.campaign, funnel, rows, versions, costs, left_out=left_out)
    report_progress(2, 4, "parts", "page", force=True)
    page = make_page(
        configuration, folder, funnel=funnel, costs=costs, crystals=crystals, failed=failed, cifs=texts, summary=content
    )
    report_progress(3, 4, "parts", "files", force=True)
    write_cifs(cifs, texts)
    write_text(table, csv_text(rows))
    write_text(summary, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(html, page)


if __name__ == "__main__":
    run_step(build_report)
