"""The whole report of a small campaign: contract, sums, page, bad input."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pymatgen.core import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from report_campaign import Campaign, make_campaign
from rich.console import Console

from sluice.errors import SluiceError, StoreError
from sluice.report.build_report import build_report
from sluice.report.funnel import CANDIDATE_STEPS
from sluice.report.summarize import VALIDATED_KEYS, summary_table
from sluice.report.validated import read_failed
from sluice.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib

ROW_KEYS = ["step", "in", "made", "merged", "out", "rejected", "failed", "reasons"]


class Page(HTMLParser):
    """What a browser would load, run or follow."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def adds_up(row: dict[str, Any]) -> bool:
    return row["in"] + row["made"] - row["merged"] == row["out"] + row["rejected"] + row["failed"]


def copy_of(campaign: Campaign, folder: Path) -> Campaign:
    shutil.copytree(campaign.folder, folder / "fluorides", ignore=shutil.ignore_patterns("report"))
    return Campaign(folder / "fluorides", campaign.config, campaign.confirmed)


def test_summary_has_the_keys_of_the_contract(built):
    summary = built["summary"]
    assert list(summary)[:5] == ["campaign", "funnel", "validated", "versions", "cpu_seconds"]
    assert summary["campaign"] == "fluorides"
    assert [row["step"] for row in summary["funnel"]] == [step.name for step in CANDIDATE_STEPS]
    assert all(list(row) == ROW_KEYS for row in summary["funnel"])
    assert all(tuple(row) == VALIDATED_KEYS for row in summary["validated"])
    assert "numpy" in summary["versions"]
    assert summary["cpu_seconds"]["train_generator"] == 160.0


def test_every_sum_holds_and_batches_are_summed(built):
    funnel = {row["step"]: row for row in built["summary"]["funnel"]}
    everything = built["summary"]["funnel"] + built["summary"]["database"] + built["summary"]["tasks"]
    assert all(adds_up(row) for row in everything)
    assert funnel["generate_candidates"]["made"] == 60
    assert funnel["check_geometry"] == {
        "step": "check_geometry", "in": 60, "made": 0, "merged": 0, "out": 48, "rejected": 10, "failed": 2,
        "reasons": {"atoms too close": 10, "no cell": 2},
    }  # fmt: skip
    assert funnel["collect_energies"]["reasons"] == {"scf not converged": 1}


def test_validated_rows_are_sorted_and_finite_json(built, campaign):
    rows = built["summary"]["validated"]
    assert sum(row["confirmed"] for row in rows) == campaign.confirmed > 0
    assert [row["converged"] for row in rows] == [True] * (len(rows) - 1) + [False]
    energies = [row["formation_energy_ev_per_atom"] for row in rows if row["confirmed"]]
    assert energies == sorted(energies)
    corrected = [row["formation_energy_corrected_ev_per_atom"] for row in rows]
    assert None in corrected and any(value is not None for value in corrected)


def test_failed_candidates_are_rows_with_their_reason(built, campaign):
    with Store(campaign.folder / "round_1/screen/shortlist.h5") as store:
        last = len(store) - 1
        name, formula = store.ids()[last], store.crystals().structure(last).composition.reduced_formula
        group = int(store.column("relaxed_space_group")[last])
        mlip = float(store.column("mlip_formation_energy_ev_per_atom")[last])
    (row,) = [row for row in built["summary"]["validated"] if row["reason"]]
    assert row == {
        "id": name, "confirmed": False, "formula": formula, "space_group": group,
        "formation_energy_ev_per_atom": None, "formation_energy_corrected_ev_per_atom": None,
        "mlip_formation_energy_ev_per_atom": mlip, "code": "espresso", "protocol": "fast", "converged": False,
        "cif": None, "reason": "scf not converged",
    }  # fmt: skip
    with (built["folder"] / "validated.csv").open(encoding="utf-8") as handle:
        cells = list(csv.DictReader(handle))[-1]
    assert (cells["id"], cells["reason"], cells["cif"], cells["converged"]) == (name, "scf not converged", "", "false")
    listed = built["html"].partition('<table id="dft-failed">')[2].partition("</table>")[0]
    assert name in listed and "scf not converged" in listed


def test_version_of_the_dft_code_is_among_the_versions(built):
    assert built["summary"]["versions"]["quantum-espresso"] == "6.7"
    assert list(built["summary"]["versions"]) == sorted(built["summary"]["versions"])


def test_a_failure_that_was_never_sent_is_an_error(campaign, tmp_path):
    mixed = copy_of(campaign, tmp_path)
    with pytest.raises(SluiceError, match="failed but is not in"):
        read_failed(
            {1: mixed.folder / "round_1/validate/validated.h5"},
            {1: make_campaign(tmp_path / "x" / "fluorides", candidates=0).folder / "round_1/screen/shortlist.h5"},
            code="espresso",
            protocol="fast",
        )


def test_cif_files_hold_the_crystals_with_their_symmetry(built):
    rows = [row for row in built["summary"]["validated"] if row["converged"]]
    assert {path.name for path in (built["folder"] / "cifs").iterdir()} == {Path(row["cif"]).name for row in rows}
    for row in rows:
        text = (built["folder"] / row["cif"]).read_text(encoding="utf-8")
        structure = Structure.from_str(text, fmt="cif")
        assert structure.composition.reduced_formula == row["formula"]
        assert SpacegroupAnalyzer(structure, 0.01).get_space_group_number() == row["space_group"]
        assert f"_symmetry_Int_Tables_number   {row['space_group']}" in text


def test_table_agrees_with_summary(built):
    text = (built["folder"] / "validated.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(StringIO(text)))
    assert [row["id"] for row in rows] == [row["id"] for row in built["summary"]["validated"]]
    for row, other in zip(rows, built["summary"]["validated"], strict=True):
        raw = other["formation_energy_ev_per_atom"]
        assert row["formation_energy_ev_per_atom"] == ("" if raw is None else str(raw))
        assert row["confirmed"] == str(other["confirmed"]).lower()
        missing = other["formation_energy_corrected_ev_per_atom"] is None
        assert (row["formation_energy_corrected_ev_per_atom"] == "") == missing


def test_page_loads_nothing_from_anywhere(built):
    page = Page(built["html"])
    assert all(ref.startswith(("#", "data:")) for ref in page.references)
    assert "link" not in page.tags and "iframe" not in page.tags and "img" not in page.tags
    assert not re.search(r"@import|url\(", built["html"][: built["html"].index("</style>")])
    assert "default-src 'none'" in built["html"]
    assert built["html"].count("plotly.js v") == 1


def test_page_says_what_was_not_dft(built):
    assert "CHGNet, an interatomic potential, not" in built["html"]
    assert "MP2020-corrected scale" in built["html"]
    assert "48/384 Ry" in built["html"]


def test_every_figure_has_its_data(built):
    plots = re.findall(r'class="plot" id="([a-z_]+)"', built["html"])
    assert {"generator_curves", "screener_curves", "roc", "scores", "lattice", "energies"} <= set(plots)
    assert {"dft_parity_raw", "dft_parity_corrected", "elements_ratio"} <= set(plots)
    for name in plots:
        text = re.search(rf'id="data-{name}">(.*?)</script>', built["html"], re.S)
        assert text is not None
        assert json.loads(text[1])["data"]


def test_untrusted_text_is_escaped(built):
    assert "&lt;b&gt;mixing&lt;/b&gt; 0.3" in built["html"]
    assert "<b>mixing" not in built["html"]


def test_hostile_ids_neither_escape_the_folder_nor_the_page(tmp_path):
    hostile = make_campaign(tmp_path / "results" / "fluorides", candidates=20, prefix="../../<script>alert(1)</script>")
    build_report(**hostile.arguments())
    names = [path.name for path in (hostile.folder / "report/cifs").iterdir()]
    assert names and all(re.fullmatch(r"[A-Za-z0-9_.-]+\.cif", name) for name in names)
    assert "<script>alert" not in (hostile.folder / "report/index.html").read_text(encoding="utf-8")


def test_rounds_are_summed_and_kept_apart(tmp_path):
    two = make_campaign(tmp_path / "results" / "fluorides", rounds=2, candidates=20)
    build_report(**two.arguments())
    summary = json.loads((two.folder / "report/summary.json").read_text(encoding="utf-8"))
    assert [part["round"] for part in summary["rounds"]] == [1, 2]
    for k, row in enumerate(summary["funnel"]):
        assert row["out"] == sum(part["funnel"][k]["out"] for part in summary["rounds"])
    assert summary["funnel"][0]["made"] == 80


def test_summary_is_the_same_twice_but_for_costs_and_versions(campaign, built, tmp_path):
    arguments = campaign.arguments() | {
        name: tmp_path / name for name in ("html", "summary", "table", "cifs")
    }  # fmt: skip
    build_report(**arguments)
    again = json.loads((tmp_path / "summary").read_text(encoding="utf-8"))
    for name in set(again) - {"versions", "cpu_seconds"}:
        assert again[name] == built["summary"][name]


def test_nothing_validated_and_no_metrics_still_gives_a_page(tmp_path):
    empty = make_campaign(tmp_path / "results" / "fluorides", candidates=0, validated=False, metrics=False)
    (empty.folder / "attempts.jsonl").unlink()
    build_report(**empty.arguments())
    summary = json.loads((empty.folder / "report/summary.json").read_text(encoding="utf-8"))
    page = (empty.folder / "report/index.html").read_text(encoding="utf-8")
    assert summary["validated"] == [] and summary["cpu_seconds"] == {}
    assert "No crystal came through DFT" in page and "Nothing to draw" in page
    assert list((empty.folder / "report/cifs").iterdir()) == []


def test_damaged_store_is_named(campaign, tmp_path):
    damaged = copy_of(campaign, tmp_path)
    path = damaged.folder / "round_1/screen/scored.h5"
    with h5py.File(path, "r+") as file:
        file["properties/screener_score"][0] = 0.123456
    with pytest.raises(StoreError, match=r"round_1/screen/scored\.h5.*screener_score"):
        build_report(**damaged.arguments())
    assert not (damaged.folder / "report").exists()


def test_missing_store_is_named(campaign, tmp_path):
    missing = copy_of(campaign, tmp_path)
    (missing.folder / "round_1/screen/geometry/batch_1.h5").unlink()
    with pytest.raises(StoreError, match=r"geometry/batch_1\.h5: no such store"):
        build_report(**missing.arguments())


def test_stores_of_different_runs_are_an_error_naming_the_step(campaign, tmp_path):
    mixed = copy_of(campaign, tmp_path)
    other = make_campaign(tmp_path / "other" / "fluorides", candidates=7)
    shutil.copy(other.folder / "round_1/generate/batch_0.h5", mixed.folder / "round_1/generate/batch_0.h5")
    with pytest.raises(SluiceError, match=r"check_geometry \(round 1\): 60 candidates came in, but 37 left"):
        build_report(**mixed.arguments())


def test_table_for_the_terminal_lists_the_confirmed(built):
    text = StringIO()
    Console(file=text, width=200).print(summary_table(built["summary"]))
    shown = text.getvalue()
    for row in built["summary"]["validated"]:
        assert (row["cif"] is not None and row["cif"] in shown) == row["confirmed"]
    assert "DFT of 1 failed" in shown
    first = built["summary"]["validated"][0]
    assert f"{first['formation_energy_ev_per_atom']:.3f}" in shown


def test_a_filter_that_was_left_out_is_said_everywhere(campaign, tmp_path):
    copied = copy_of(campaign, tmp_path)
    path = copied.folder / "round_1/screen/scored.h5"
    with h5py.File(path, "r+") as file:
        file.attrs["filters_left_out"] = json.dumps(["synthesizability: no <model>"])
    build_report(**copied.arguments())
    summary = json.loads((copied.folder / "report/summary.json").read_text(encoding="utf-8"))
    assert summary["filters_left_out"] == ["synthesizability: no <model>"]
    page = (copied.folder / "report/index.html").read_text(encoding="utf-8")
    assert "A filter was left out" in page and "synthesizability: no &lt;model&gt;" in page
    text = StringIO()
    Console(file=text, width=200).print(summary_table(summary))
    assert "WARNING: synthesizability: no <model>" in text.getvalue()


def test_page_states_the_share_below_zero(built):
    energies = [row["formation_energy_ev_per_atom"] for row in built["summary"]["validated"]]
    known = [value for value in energies if value is not None]
    below = sum(value < 0 for value in known)
    text = " ".join(built["html"].split())
    assert f"Of {len(known)} that came to a raw formation energy {below} lie at" in text
    assert f"({100 * below / len(known):.0f} %)" in text


def test_table_for_the_terminal_takes_names_literally():
    row = dict.fromkeys(VALIDATED_KEYS) | {"confirmed": True, "formula": "[red]NaCl", "cif": "cifs/[bold]x.cif"}
    text = StringIO()
    Console(file=text, width=200).print(summary_table({"campaign": "[x]", "validated": [row]}))
    assert "[red]NaCl" in text.getvalue() and "cifs/[bold]x.cif" in text.getvalue()


def test_energies_of_the_page_are_those_of_the_store(built):
    first = built["summary"]["validated"][0]
    assert f"{first['formation_energy_ev_per_atom']:.3f}".replace("-", "−") in built["html"]
    assert np.isfinite(first["formation_energy_ev_per_atom"])
