"""How the campaign was made: stores with their digests, settings of the calculations, the configuration."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sluice.config import Config
from sluice.report.funnel import CANDIDATE_STEPS, DATABASE_STEPS, TASK_STEPS, store_paths
from sluice.store import Store
from sluice.store_format import COUNTS

_STANDARD = {
    "schema", "schema_version", "campaign", "round", "revision", "settings_sha256", "settings", "inputs_sha256",
    "created_with", "content_sha256", *(f"count_{name}" for name in COUNTS),
}  # fmt: skip


@dataclass(frozen=True)
class StoreLine:
    """One store of the campaign: path below its folder, schema, rows, digest of the content."""

    path: str
    schema: str
    rows: int
    content_sha256: str


def campaign_stores(config: Config, folder: Path) -> list[Path]:
    """Every store the campaign ends with, in the order of the pipeline."""
    paths = [p for step in DATABASE_STEPS for p in store_paths(step, config, folder)]
    for number in range(1, config.rounds + 1):
        train = folder / f"round_{number}/train"
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


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings as one line for each value, ``a.b`` → text."""
    if isinstance(value, str) and value[:1] in "{[":
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return {prefix: value}
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for key, part in value.items():
            found |= flatten(part, f"{prefix}.{key}" if prefix else str(key))
        return found
    if isinstance(value, list):
        return {prefix: ", ".join(str(v) for v in value)}
    return {prefix: f"{value:.6g}" if isinstance(value, float) else str(value)}


def calculation_settings(paths: Iterable[Path]) -> dict[str, str]:
    """What the stores of the DFT steps say about protocol, cutoffs, k points, smearing and pseudopotentials."""
    found: dict[str, str] = {}
    for path in paths:
        with Store(path, verify=False) as store:
            extra = {k: v for k, v in store.attributes.items() if k not in _STANDARD}
        for name, value in flatten(extra).items():
            known = found.get(name)
            found[name] = value if known in (None, value) else f"{known}; {value}"
    return dict(sorted(found.items()))


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
