"""How the campaign was made: stores with their digests, settings of the calculations, the configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sluice.config import Config
from sluice.report.funnel import CANDIDATE_STEPS, TASK_STEPS, pipeline_of, store_paths
from sluice.store import Store


@dataclass(frozen=True)
class StoreLine:
    """One store of the campaign: path below its folder, schema, rows, digest of the content."""

    path: str
    schema: str
    rows: int
    content_sha256: str


def campaign_stores(config: Config, folder: Path) -> list[Path]:
    """Every store the campaign ends with, in the order of the pipeline."""
    pipeline = pipeline_of(config)
    paths = [p for step in pipeline.database for p in store_paths(step, config, folder)]
    for number in range(1, config.rounds + 1):
        train = folder / f"round_{number}/train"
        if config.candidates == "compositions":
            paths.append(train / "composition_scorer_held_out.h5")
            paths += [p for step in pipeline.candidates for p in store_paths(step, config, folder, number)]
            continue
        paths += [train / "training_set.h5", train / "screener_test.h5"]
        for step in (*CANDIDATE_STEPS[:-1], *TASK_STEPS, CANDIDATE_STEPS[-1]):
            paths += store_paths(step, config, folder, number)
        paths.append(folder / f"round_{number}/decision.h5")
    return paths


def describe_stores(paths: Iterable[Path], folder: Path) -> list[StoreLine]:
    """Rows and digests of stores.

    Raises:
        StoreError: if one is missing or foreign.
    """
    lines = []
    for path in paths:
        with Store(path, verify=False) as store:
            lines.append(StoreLine(str(path.relative_to(folder)), store.schema, len(store), store.content_sha256))
    return lines


_PACKAGES = {"espresso": "quantum-espresso"}  # by the configuration's name of the code


@dataclass(frozen=True)
class Calculations:
    """Settings of all DFT calculations.

    Attributes:
        setups: number of calculations by what must be equal for their energies to be compared.
        pseudos: beginning of the pseudopotential's SHA-256 by element.
    """

    setups: dict[str, int]
    pseudos: dict[str, str]

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the codes by package, several joined by commas; setups begin with code and version."""
        found: dict[str, set[str]] = {}
        for setup in self.setups:
            words = setup.split(",")[0].split()
            if len(words) == 2:
                found.setdefault(_PACKAGES.get(words[0], words[0]), set()).add(words[1])
        return {name: ", ".join(sorted(values)) for name, values in sorted(found.items())}


def calculations(paths: Iterable[Path]) -> Calculations:
    """How the DFT results of a campaign were computed; a task that occurs in several rounds counts once."""
    setups: dict[str, str] = {}
    pseudos: dict[str, str] = {}
    for path in paths:
        with Store(path, "results", verify=False) as store:
            if "setup" in store.columns:
                setups |= dict(zip(store.text("task_id"), store.text("setup"), strict=True))
            if "pseudos" in store.columns:
                words = [word.split(":", 1) for text in store.text("pseudos") for word in text.split()]
                pseudos |= {word[0]: word[1] for word in words if len(word) == 2}
    counted = Counter(setups.values())
    return Calculations(dict(sorted(counted.items())), dict(sorted(pseudos.items())))


def decisions(paths: dict[int, Path]) -> list[dict[str, Any]]:
    """What was decided after each round: ``round``, ``stop``, ``reason``."""
    found = []
    for number, path in paths.items():
        with Store(path, "decision") as store:
            for stop, reason in zip(store.column("stop"), store.text("reason"), strict=True):
                found.append({"round": number, "stop": bool(stop), "reason": reason})
    return found


def configuration_yaml(config: Config) -> str:
    """The configuration as YAML, every key with the value that was used."""
    values = config.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
