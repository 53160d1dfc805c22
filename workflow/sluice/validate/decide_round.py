"""Whether another round is worth its cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sluice.config import StopSettings
from sluice.step import run_step
from sluice.store import Store, StoreWriter

REVISION = 1


def decide_round(
    *, validated: Path, earlier: list[Path], before: list[Path], settings: StopSettings, decision: Path
) -> None:
    """Decide whether the campaign stops after this round; once it has stopped it stays so.

    Args:
        validated: this round's crystals.
        earlier: those of all rounds before.
        before: the decision of the round before; empty in round 1.
        settings: when to stop.
        decision: the store to write, one row.
    """
    with Store(validated, "validated") as store:
        lineage = {"campaign": store.attributes["campaign"], "round_number": store.attributes["round"]}
    stopped = ""
    for path in before:
        with Store(path, "decision") as store:
            if bool(store.column("stop")[0]):
                stopped = store.text("reason")[0]
    confirmed = 0
    for path in (*earlier, validated):
        with Store(path, "validated") as store:
            confirmed += int(np.count_nonzero(store.column("confirmed")))
    stop, reason = _decide(stopped, confirmed, settings)
    with StoreWriter(
        decision,
        "decision",
        settings=settings,
        inputs=[validated, *earlier, *before],
        revision=REVISION,
        with_crystals=False,
        **lineage,
    ) as writer:
        writer.append(["decision"], {"stop": np.array([stop]), "reason": [reason]})
        writer.count(made=1, came_in=0)
    print(reason)


def _decide(stopped: str, confirmed: int, settings: StopSettings) -> tuple[bool, str]:
    if stopped:
        return True, stopped
    found = f"{confirmed} confirmed crystal{'' if confirmed == 1 else 's'}"
    if settings.confirmed is None:
        return False, f"{found}; no number to stop at is set"
    if confirmed >= settings.confirmed:
        return True, f"{found}, {settings.confirmed} were asked for"
    return False, f"{found} of {settings.confirmed} asked for"


if __name__ == "__main__":
    run_step(decide_round)
