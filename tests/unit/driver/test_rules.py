"""Rules as text: which job made a file."""

from __future__ import annotations

import pytest

from sluice.config import Config
from sluice.driver.rules import campaign_rules, job_of, read_rules, repository
from sluice.errors import SluiceError


@pytest.fixture(scope="module")
def rules():
    return read_rules(repository() / "workflow" / "rules")


def test_stages_in_pipeline_order(rules):
    stages = list(dict.fromkeys(rule.stage for rule in rules.values()))
    assert stages == ["curate", "train", "generate", "screen", "validate", "report"]


def test_job_of_a_batch(rules):
    job = job_of(rules, "round_2/screen/relaxed/batch_13.h5")
    assert (job.rule, job.log) == ("relax_candidates", "logs/relax_candidates/round_2_batch_13.log")
    assert job.name == "relax_candidates/round_2_batch_13"
    assert job.outputs == ("round_2/screen/relaxed/batch_13.h5",)


def test_job_with_several_outputs(rules):
    job = job_of(rules, "round_1/train/screener.ckpt")
    assert job.rule == "train_screener"
    assert "round_1/train/screener_metrics.csv" in job.outputs and len(job.outputs) == 3


def test_job_without_wildcards(rules):
    assert job_of(rules, "curate/crystals.h5").name == "collect_crystals"
    assert rules["build_report"].makes_directory and not rules["split_crystals"].makes_directory


@pytest.mark.parametrize("path", ["nowhere.h5", "round_1/screen/relaxed/batch_1/x.h5", "../curate/crystals.h5", ""])
def test_other_files_belong_to_no_job(rules, path):
    assert job_of(rules, path) is None


def test_rules_are_those_of_the_kind_of_candidates(rules):
    assert campaign_rules(Config()) == rules
    values = {"candidates": "compositions"}
    found = campaign_rules(Config.model_validate(values))
    assert list(dict.fromkeys(rule.stage for rule in found.values())) == [
        "curate", "train", "generate", "screen", "report",
    ]  # fmt: skip
    assert list(found)[:4] == ["collect_crystals", "label_crystals", "split_crystals", "collect_compositions"]
    assert job_of(found, "report/index.html").rule == "build_composition_report"
    assert job_of(found, "round_1/screen/compositions/charge/batch_3.h5").log.endswith("round_1_batch_3.log")
    table = campaign_rules(Config.model_validate(values | {"compositions": {"data": {"path": "x.csv"}}}))
    assert next(iter(table)) == "collect_compositions" and set(table) < set(found)


def test_without_a_checkout_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sluice.driver.rules.REPOSITORY", tmp_path / "gone")
    with pytest.raises(SluiceError, match="clone of the repository"):
        repository()
