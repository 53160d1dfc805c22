"""SLURM's own time limits, which are whole minutes: with a warning that a step heeds, and without."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_step_that_heeds_the_warning_continues(campaign):
    # SLURM warns a quarter of the limit before it: the work of 80 s cannot end in one job of a minute
    campaign.write(["a"], "count", "--steps 80 --seconds 1", "mem_mb=400, runtime=1")
    driver = campaign.start()
    assert driver.wait(400) == 0, driver.text()
    assert (campaign.root / "a.txt").read_text() == "80"
    assert 2 <= len(campaign.starts()) <= 5
    assert driver.text().count("saved its state and goes on") == len(campaign.starts()) - 1
    assert "Error in rule" not in driver.text()


def test_step_that_does_not_is_retried_with_more_time(campaign):
    campaign.write(["a"], "nap", "--seconds 130", "mem_mb=400, runtime=lambda w, attempt: 3 ** (attempt - 1)")
    driver = campaign.start(retries=1)
    assert driver.wait(500) == 0, driver.text()
    assert "TIME" in driver.text()
    assert len(campaign.starts()) == 2
