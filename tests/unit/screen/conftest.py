"""Real crystals in stores of the screening stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from sluice.crystals import Crystals
from sluice.schemas import SCHEMAS
from sluice.store import Store, StoreWriter


def perovskite(a: str, b: str, x: str, length: float) -> Structure:
    """Cubic ABX3, A twelvefold coordinated."""
    return Structure.from_spacegroup(221, Lattice.cubic(length), [a, b, x], [[0.5] * 3, [0] * 3, [0.5, 0, 0]])


def half_heusler(x: str, y: str, z: str, length: float) -> Structure:
    """Primitive XYZ of MgAgAs type, Y in the fourfold hole between both others."""
    cell = Structure.from_spacegroup(216, Lattice.cubic(length), [x, z, y], [[0] * 3, [0.5] * 3, [0.25] * 3])
    return cell.get_primitive_structure()


def elpasolite(a: str, b: str, c: str, x: str, length: float) -> Structure:
    """Primitive A2BCX6."""
    sites = [[0.25] * 3, [0] * 3, [0.5] * 3, [0.24, 0, 0]]
    return Structure.from_spacegroup(225, Lattice.cubic(length), [a, b, c, x], sites).get_primitive_structure()


@pytest.fixture
def crystal() -> dict[str, Callable[..., Structure]]:
    return {"perovskite": perovskite, "half_heusler": half_heusler, "elpasolite": elpasolite}


@pytest.fixture
def write_store(tmp_path: Path) -> Callable[..., Path]:
    """Write structures to a store; columns of the schema that are not given get a plain value."""

    def write(
        name: str,
        schema: str,
        structures: Sequence[Structure] | Crystals,
        ids: Sequence[str] | None = None,
        *,
        round_number: int = 1,
        extra: dict[str, Any] | None = None,
        **columns: Any,
    ) -> Path:
        crystals = structures if isinstance(structures, Crystals) else Crystals.from_structures(structures)
        n = len(crystals)
        names = [f"c{i:06d}" for i in range(n)] if ids is None else list(ids)
        values: dict[str, Any] = {}
        for column, kind in {**SCHEMAS[schema][1], **(extra or {})}.items():
            given = columns.get(column, "" if kind.dtype.startswith("S") else 0)
            values[column] = [given] * n if isinstance(given, str | int | float) else given
            if not kind.dtype.startswith("S"):
                values[column] = np.array(values[column], dtype=kind.dtype).reshape(n)
        path = tmp_path / name
        with StoreWriter(path, schema, columns=extra, campaign="test", round_number=round_number) as writer:
            writer.append(names, values, crystals=crystals)
        return path

    return write


@pytest.fixture
def reasons_of() -> Callable[[Path], dict[str, tuple[str, str, str]]]:
    """Read candidate → (kind, reason, detail) of everything that did not go on, after checking the sums."""

    def read(path: Path) -> dict[str, tuple[str, str, str]]:
        with Store(path) as store:
            counts = store.counts
            assert counts["in"] + counts["made"] - counts["merged"] == sum(
                counts[name] for name in ("out", "rejected", "failed")
            )
            assert counts["out"] == len(store)
            failures = store.failures()
            assert len(failures) == counts["rejected"] + counts["failed"]
            assert all(failures.reason)
            return dict(
                zip(
                    failures.candidate_id,
                    zip(failures.kind, failures.reason, failures.detail, strict=True),
                    strict=True,
                )
            )

    return read
