"""Real crystals in stores of the screening stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from sluice.crystals import Crystals
from sluice.models.cgcnn import CGCNN
from sluice.models.modelfile import save_model
from sluice.schemas import SCHEMAS
from sluice.store import Store, StoreWriter


@lru_cache(maxsize=8)
def _cell(group: int, *sites: tuple[float, float, float]) -> Structure:
    """Primitive cell with the stand-ins H, He, Li, Be on the sites, conventional lattice constant 1 Å."""
    elements = ["H", "He", "Li", "Be"][: len(sites)]
    return Structure.from_spacegroup(group, Lattice.cubic(1), elements, list(sites), tol=1e-3).get_primitive_structure(
        tolerance=0.01
    )


def _decorated(cell: Structure, elements: Sequence[str], length: float) -> Structure:
    names = dict(zip(["H", "He", "Li", "Be"], elements, strict=False))
    species = [names[site.specie.symbol] for site in cell]
    return Structure(Lattice(cell.lattice.matrix * length), species, cell.frac_coords)


def perovskite(a: str, b: str, x: str, length: float) -> Structure:
    """Cubic ABX3, A twelvefold coordinated."""
    return _decorated(_cell(221, (0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (0.5, 0.0, 0.0)), (a, b, x), length)


def half_heusler(x: str, y: str, z: str, length: float) -> Structure:
    """XYZ of MgAgAs type, Y in the fourfold hole between both others."""
    return _decorated(_cell(216, (0.0, 0.0, 0.0), (0.25, 0.25, 0.25), (0.5, 0.5, 0.5)), (x, y, z), length)


@pytest.fixture
def crystal() -> dict[str, Callable[..., Structure]]:
    return {"perovskite": perovskite, "half_heusler": half_heusler}


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


@pytest.fixture
def screener(tmp_path: Path) -> Path:
    """A screener with the weights that a seeded start gives: what it says is arbitrary but fixed."""
    sizes = {"hidden_size": 16, "head_size": 16, "convolutions": 2, "gaussians": 11, "neighbours": 8, "cutoff": 6.0}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = CGCNN(**sizes)
    path = tmp_path / "screener.ckpt"
    save_model(
        path,
        kind="cgcnn",
        task="classification",
        hyperparameters=sizes,
        state=network.state_dict(),
        facts={"threshold": -2.0},
    )
    return path
