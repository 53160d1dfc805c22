"""The estimate before a start: its parts by hand from the measured rates, and that it grows with what it depends on."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from sluice.config import Config, GeneratorSettings, ScreenerSettings
from sluice.config_file import check_config
from sluice.driver import estimate


def configured(**values) -> Config:
    return check_config(values)


def all_seconds(config: Config) -> float:
    return sum(cost.cpu_seconds + cost.network_seconds for cost in estimate.estimate_cost(config).values())


def test_every_rule_that_works_on_many_rows_has_a_rate():
    names = {key.split()[0] for key in estimate.rates()}
    assert set(estimate.work(Config())) <= names
    assert {f"train_screener {name}" for name in ("cgcnn", "gatgnn", "tsdnn")} <= set(estimate.rates())


def test_drawing_costs_what_the_rate_says():
    small = configured(generate={"candidates": 1000, "batches": 4})
    large = configured(generate={"candidates": 1_001_000, "batches": 4}, rounds=1)
    rate = estimate.rates()["generate_candidates"].per_unit
    costs = [estimate.estimate_cost(config)["generate"].network_seconds for config in (small, large)]
    assert costs[1] - costs[0] == pytest.approx(1e6 * rate)
    assert estimate.estimate_cost(small)["generate"].jobs == 4


def test_dft_is_its_budget_in_every_round():
    shortlist = {"dft_cpu_seconds": 7200.0}
    one, three = (configured(rounds=n, screen={"shortlist": shortlist}) for n in (1, 3))
    costs = [estimate.estimate_cost(config)["validate"].cpu_seconds for config in (one, three)]
    assert costs[1] - costs[0] == pytest.approx(2 * 7200, rel=0.02)
    assert costs[0] == pytest.approx(7200, rel=0.02)


def test_trainings_grow_with_network_and_epochs():
    paper = GeneratorSettings.model_validate({"sizes": {"preset": "paper"}})
    small, rates = GeneratorSettings(), estimate.rates()
    assert estimate.generator_rate(paper) == pytest.approx(rates["train_generator paper"].per_unit)
    assert estimate.generator_rate(small) == pytest.approx(rates["train_generator small"].per_unit)
    between = GeneratorSettings.model_validate({"sizes": {"coordinates": [512, 512]}})
    assert estimate.generator_rate(small) < estimate.generator_rate(between) < estimate.generator_rate(paper)
    wide = ScreenerSettings(hidden_size=96)
    assert estimate.screener_rate(wide) == pytest.approx(4 * estimate.screener_rate(ScreenerSettings()))
    assert all_seconds(configured(train={"screener": {"epochs": 200}})) > all_seconds(configured())


def test_crystals_of_the_user_are_counted_and_labels_of_theirs_cost_nothing(tmp_path):
    (tmp_path / "cifs").mkdir()
    for k in range(7):
        (tmp_path / "cifs" / f"{k}.cif").write_text("")
    (tmp_path / "energies.csv").write_text("id,formation_energy_ev_per_atom\n")
    files = {"path": str(tmp_path / "cifs")}
    unlabelled = estimate.work(configured(curate={"source": "files", "files": files}))
    labelled = estimate.work(
        configured(curate={"source": "files", "files": files | {"properties": str(tmp_path / "energies.csv")}})
    )
    assert (unlabelled["collect_crystals"], unlabelled["label_crystals"]) == (7, 7)
    assert labelled["label_crystals"] == 0


def test_space_grows_with_the_campaign():
    small = estimate.estimate_space(configured(generate={"candidates": 1000}))
    large = estimate.estimate_space(configured(generate={"candidates": 1_000_000}, rounds=3))
    assert large.kept_bytes > small.kept_bytes + 999_000 * 3 * 100
    assert large.files > small.files


def test_the_table_says_hours_disk_and_files():
    def shown(config: Config) -> str:
        text = StringIO()
        Console(file=text, width=160).print(estimate.cost_table(config))
        return text.getvalue()

    text = shown(configured(screen={"shortlist": {"dft_cpu_seconds": 36e6}}))
    for words in ("CPU-hours", "GPU-hours", "10,000", "GiB", "files", "(assumed)"):
        assert words in text
    assert "GPU" not in shown(configured(train={"device": "cpu"}))
