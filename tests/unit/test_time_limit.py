"""SLURM's warning as a step sees it."""

import math
import os
import signal
import subprocess
import sys

import pytest

from sluice.time_limit import RESERVE_SHARE, WARNING_VARIABLE, forget_warnings, heed_warnings, seconds_left, warned


@pytest.fixture
def heeding():
    heed_warnings()
    yield
    forget_warnings()


def test_a_warning_is_remembered_with_the_time_it_leaves(heeding, monkeypatch):
    monkeypatch.setenv(WARNING_VARIABLE, "100")
    assert not warned() and seconds_left() == math.inf
    os.kill(os.getpid(), signal.SIGUSR1)
    assert warned()
    assert 100 * (1 - RESERVE_SHARE) - 5 < seconds_left() <= 100 * (1 - RESERVE_SHARE)


@pytest.mark.parametrize("value", [None, "soon"])
def test_without_a_known_limit_nothing_has_to_be_killed(heeding, monkeypatch, value):
    monkeypatch.delenv(WARNING_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(WARNING_VARIABLE, value)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert warned() and seconds_left() == math.inf


def test_who_does_not_heed_dies_of_it():
    code = "import os, signal, sluice.time_limit; os.kill(os.getpid(), signal.SIGUSR1)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGUSR1
