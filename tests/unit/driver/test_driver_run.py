"""Signals that end a run."""

from __future__ import annotations

import os
import signal

import pytest

from sluice.driver.run import Stopped, stop_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_run_and_its_handler_comes_back(number):
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(Stopped) as stopped, stop_signals():
            os.kill(os.getpid(), number)
        assert stopped.value.number == number
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_under_nohup_a_hangup_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
