"""Snapshots of Materials Project's elemental entries: taken as they are, or refused with what is wrong."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from sluice.validate.vasp.references import SnapshotError, snapshot_digest, snapshot_reference


def entry(element: str = "Na", **changed: Any) -> dict[str, Any]:
    return {
        "entry_id": "mp-1-GGA",
        "energy": -5.0,
        "composition": {element: 4.0},
        "parameters": {"run_type": "GGA", "potcar_spec": [{"titel": f"PAW_PBE {element} 01Jan1970"}]},
    } | changed


def test_an_entry_is_read_plain_or_compressed(tmp_path: Path) -> None:
    content = json.dumps({"Na": entry()}).encode()
    for name, raw in (("s.json", content), ("s.json.gz", gzip.compress(content))):
        path = tmp_path / name
        path.write_bytes(raw)
        found = snapshot_reference(path, "Na")
        assert (found.energy_ev_per_atom, found.entry_id, found.titel) == (-1.25, "mp-1-GGA", "PAW_PBE Na 01Jan1970")
        assert snapshot_digest(path) == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"K": entry("K")}, "no entry of Na"),
        ({"Na": {"structure": [], "energy_per_atom": []}}, "names its POTCAR"),
        ({"Na": entry(parameters={"run_type": "GGA", "potcar_spec": []})}, "names its POTCAR"),
        ({"Na": entry(parameters={"run_type": "GGA+U", "potcar_spec": [{"titel": "x"}]})}, r"is GGA\+U, not GGA"),
        ({"Na": entry(composition={"Na": 1.0, "Cl": 1.0})}, "not that of an element"),
        ({"Na": entry(energy=float("nan"))}, "not that of an element"),
        ([1, 2], "no object of element"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, entries: Any, words: str) -> None:
    path = tmp_path / "snapshot.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(SnapshotError, match=words):
        snapshot_reference(path, "Na")


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.json.gz"
    path.write_bytes(gzip.compress(b"{}")[:-4])
    with pytest.raises(SnapshotError, match="cannot be read as JSON"):
        snapshot_digest(path)
    with pytest.raises(SnapshotError, match="No such file"):
        snapshot_digest(tmp_path / "missing.json")


def test_the_snapshot_of_matbench_discovery_is_read(sluice_data: Path) -> None:
    path = sluice_data / "elemental_refs_hull" / "mp-elemental-reference-entries-2023-02-07.json.gz"
    found = snapshot_reference(path, "Na")
    assert found.titel == "PAW_PBE Na_pv 05Jan2001"
    assert found.energy_ev_per_atom == pytest.approx(-1.31, abs=0.02)  # Materials Project's sodium
    other = sluice_data / "elemental_refs_hull" / "MP-PBE-Element-Refs.json.gz"
    with pytest.raises(SnapshotError, match="names its POTCAR"):
        snapshot_reference(other, "Na")
