"""The tiny campaign end to end: two rounds, real pw.x, as a user runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from sluice.store import Store, StoreWriter

REPOSITORY = Path(__file__).parents[2]
FUNNEL_KEYS = {"step", "in", "made", "merged", "out", "rejected", "failed", "reasons"}
VALIDATED_KEYS = {
    "id", "confirmed", "formula", "space_group", "formation_energy_ev_per_atom",
    "formation_energy_corrected_ev_per_atom", "mlip_formation_energy_ev_per_atom", "code", "protocol",
    "converged", "cif",
}  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.dft,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(shutil.which("pw.x") is None, reason="pw.x is not installed: apt-get install quantum-espresso"),
]


def sluice(*words: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sluice.cli", *words], cwd=cwd, capture_output=True, text=True, check=False
    )


def snakemake(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--configfile", str(config), *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Configuration, working directory and printed output of a finished tiny campaign."""
    folder = tmp_path_factory.mktemp("campaign")
    values = yaml.safe_load((REPOSITORY / "config" / "test.yaml").read_text())
    values["results"] = str(folder / "results")
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(values))
    done = sluice("run", str(config), "--cores", "2")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return config, folder / "results" / values["campaign"], done.stdout


def test_ends_with_report_and_confirmed_crystals(campaign):
    _, workdir, printed = campaign
    html = workdir / "report" / "index.html"
    assert html.stat().st_size > 100_000
    assert "index.html" in printed.replace("\n", "")
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    assert {"campaign", "funnel", "validated", "versions", "cpu_seconds"} <= set(summary)
    assert summary["validated"], "no crystal reached DFT"
    confirmed = [row for row in summary["validated"] if row["confirmed"]]
    assert confirmed, "DFT confirmed nothing"
    for row in summary["validated"]:
        assert set(row) >= VALIDATED_KEYS
        assert row["code"] == "espresso" and row["protocol"] == "fast"
    for row in confirmed:
        assert row["converged"] and row["formation_energy_ev_per_atom"] < 0
        assert (workdir / "report" / row["cif"]).is_file()
        assert row["formula"] in printed


def test_funnel_adds_up(campaign):
    _, workdir, _ = campaign
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    for step in summary["funnel"]:
        assert set(step) >= FUNNEL_KEYS
        assert step["in"] + step["made"] - step["merged"] == step["out"] + step["rejected"] + step["failed"], step
        assert sum(step["reasons"].values()) == step["rejected"] + step["failed"], step
    generated = next(s for s in summary["funnel"] if s["step"] == "generate_candidates")
    assert generated["made"] == 16000  # two rounds of 8000


def test_every_store_says_where_it_is_from(campaign):
    _, workdir, _ = campaign
    for path in workdir.rglob("*.h5"):
        with Store(path) as store:
            assert store.attributes["campaign"] == "tiny", path
            inside = path.relative_to(workdir).parts[0]
            assert store.attributes["round"] == (int(inside[-1]) if inside.startswith("round_") else 0), path


def test_dft_and_interatomic_potential_agree_roughly(campaign):
    _, workdir, _ = campaign
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    for row in summary["validated"]:
        if row["converged"]:
            # CHGNet lives on the corrected scale: MP2020 shifts fluorides by about -0.46 eV per F.
            corrected = row["formation_energy_corrected_ev_per_atom"]
            assert corrected == pytest.approx(row["mlip_formation_energy_ev_per_atom"], abs=0.3)


def test_second_round_learns_from_dft(campaign):
    _, workdir, _ = campaign
    with Store(workdir / "round_2/train/training_set.h5", "dataset") as training:
        sources = training.text("label_source")
    assert "dft" in sources


def test_nothing_is_left_to_do(campaign):
    config, _, _ = campaign
    again = snakemake(config, "-n", "--quiet", "rules")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


def test_status_of_a_finished_campaign(campaign):
    config, _, _ = campaign
    status = sluice("status", str(config), "--once")
    assert status.returncode == 0, status.stderr
    assert "train_generator" in status.stdout


@pytest.mark.long
def test_altering_one_dft_label_changes_the_next_ranking(campaign, tmp_path):
    config, workdir, _ = campaign
    copy = tmp_path / "results" / workdir.name
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "round_2")
    values = yaml.safe_load(config.read_text()) | {"results": str(tmp_path / "results")}
    values.setdefault("validate", {})["library"] = str(workdir.parent / "dft")
    altered_config = tmp_path / "altered.yaml"
    altered_config.write_text(yaml.safe_dump(values))
    _alter_first_label(copy / "round_1/validate/validated.h5")
    done = snakemake(altered_config, "--cores", "2", "--rerun-triggers", "mtime", "--until", "rank_candidates")
    assert done.returncode == 0, done.stderr[-3000:]
    with Store(workdir / "round_2/screen/ranked.h5") as before, Store(copy / "round_2/screen/ranked.h5") as after:
        assert len(before), "round 2 ranked nothing"
        assert (before.ids(), before.structure_hashes()) != (after.ids(), after.structure_hashes())
    with Store(workdir / "round_1/screen/ranked.h5") as before, Store(copy / "round_1/screen/ranked.h5") as after:
        assert before.content_sha256 == after.content_sha256


def _alter_first_label(path: Path) -> None:
    """Turn the first confirmed crystal into one with a formation energy of +2 eV/atom."""
    with Store(path, "validated") as store:
        rows, columns = store.rows(), store.columns
    index = int(np.flatnonzero(rows.columns["converged"])[0])
    for name in ("formation_energy_ev_per_atom", "formation_energy_corrected_ev_per_atom"):
        rows.columns[name][index] = 2.0
    rows.columns["confirmed"][index] = False
    with StoreWriter(path, "validated", columns=columns) as writer:
        writer.append_chunk(rows)
