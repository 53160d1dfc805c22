"""When a campaign stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sluice.config import StopSettings
from sluice.crystals import Crystals
from sluice.schemas import SCHEMAS
from sluice.store import Store, StoreWriter
from sluice.validate.decide_round import decide_round


def write_validated(path: Path, confirmed: list[bool], round_number: int = 1) -> Path:
    n = len(confirmed)
    columns = {
        name: np.zeros(n, column.dtype) if not column.dtype.startswith("S") else [""] * n
        for name, column in SCHEMAS["validated"][1].items()
    }
    cells = Crystals.from_arrays([np.eye(3) * 4] * n, [np.array([11])] * n, [np.zeros((1, 3))] * n)
    with StoreWriter(path, "validated", campaign="halides", round_number=round_number) as writer:
        writer.append([f"c{i}" for i in range(n)], columns | {"confirmed": confirmed}, crystals=cells)
    return path


def decide(
    tmp_path: Path, name: str, confirmed: list[bool], wanted: int | None, **files: list[Path]
) -> tuple[bool, str]:
    validated, decision = write_validated(tmp_path / f"{name}.h5", confirmed), tmp_path / f"{name}-decision.h5"
    decide_round(
        validated=validated,
        earlier=files.get("earlier", []),
        before=files.get("before", []),
        settings=StopSettings(confirmed=wanted),
        decision=decision,
    )
    with Store(decision, "decision") as store:
        assert store.attributes["campaign"] == "halides"
        return bool(store.column("stop")[0]), store.text("reason")[0]


@pytest.mark.parametrize(("wanted", "stop"), [(None, False), (3, False), (2, True), (1, True)])
def test_stops_once_enough_are_confirmed(tmp_path: Path, wanted: int | None, stop: bool) -> None:
    stopped, reason = decide(tmp_path, "one", [True, False, True], wanted)
    assert stopped is stop
    assert reason.startswith("2 confirmed crystals")


def test_confirmed_crystals_of_earlier_rounds_count(tmp_path: Path) -> None:
    earlier = write_validated(tmp_path / "before.h5", [True, True])
    assert decide(tmp_path, "two", [True], 3, earlier=[earlier])[0]
    assert not decide(tmp_path, "three", [True], 4, earlier=[earlier])[0]


def test_a_stopped_campaign_stays_stopped_with_its_reason(tmp_path: Path) -> None:
    _, reason = decide(tmp_path, "first", [True], 1)
    stop, again = decide(tmp_path, "second", [], None, before=[tmp_path / "first-decision.h5"])
    assert stop and again == reason


def test_a_round_without_crystals_is_decided(tmp_path: Path) -> None:
    assert decide(tmp_path, "empty", [], 1) == (False, "0 confirmed crystals of 1 asked for")
