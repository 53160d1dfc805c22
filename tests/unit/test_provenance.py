"""What made a file."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess

import numpy as np
import pytest

from sluice import provenance


@pytest.fixture(autouse=True)
def forget():
    yield
    provenance.git_commit.cache_clear()
    provenance.created_with.cache_clear()


def test_digests(tmp_path):
    data = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(data)
    assert provenance.sha256_of_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    assert provenance.sha256_of_text("Å") == hashlib.sha256("Å".encode()).hexdigest()


def test_digest_of_arrays_knows_types_shapes_and_values():
    numbers = np.arange(6)
    given = [
        (numbers,), (numbers.astype(float),), (numbers.reshape(2, 3),), (numbers[::-1],), (numbers[:3], numbers[3:]),
        (numbers[3:], numbers[:3]), (np.array(["val", "train"]),),
    ]  # fmt: skip
    assert len({provenance.sha256_of_arrays(*arrays) for arrays in given}) == len(given)
    assert provenance.sha256_of_arrays(np.repeat(numbers, 2)[::2]) == provenance.sha256_of_arrays(numbers)
    with pytest.raises(TypeError, match="Python objects"):
        provenance.sha256_of_arrays(np.array(["x", None], dtype=object))


def test_digest_of_a_folder_is_that_of_its_crystals(tmp_path):
    def digest() -> str:
        return provenance.sha256_of_file(tmp_path)

    (tmp_path / "deeper").mkdir()
    for name in ("b.cif", "a.cif", "deeper/c.cif"):
        (tmp_path / name).write_text(name)
    first = digest()
    (tmp_path / "notes.txt").write_text("of no matter")
    assert digest() == first
    (tmp_path / "deeper" / "c.cif").write_text("edited")
    second = digest()
    (tmp_path / "a.cif").rename(tmp_path / "d.cif")
    assert len({first, second, digest()}) == 3


def test_versions_of_what_decides_results():
    versions = json.loads(provenance.created_with())
    assert versions["python"] == platform.python_version()
    assert versions["numpy"] == np.__version__
    assert {"sluice-crystals", "torch", "pymatgen", "chgnet", "commit"} <= set(versions)


def test_commit_is_that_of_the_checkout(repository, monkeypatch):
    monkeypatch.delenv("SLUICE_COMMIT", raising=False)
    provenance.git_commit.cache_clear()
    head = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if head.returncode != 0:
        pytest.skip("not a git checkout")
    assert re.fullmatch(re.escape(head.stdout.strip()) + r"(\+dirty)?", provenance.git_commit())


def test_commit_may_be_given_or_unknown(monkeypatch, tmp_path):
    provenance.git_commit.cache_clear()
    monkeypatch.setenv("SLUICE_COMMIT", "abc")
    assert provenance.git_commit() == "abc"
    provenance.git_commit.cache_clear()
    monkeypatch.delenv("SLUICE_COMMIT")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_commit() == "unknown"


def test_existing_inputs(tmp_path):
    (tmp_path / "a").write_text("")
    assert provenance.existing([tmp_path / "a", tmp_path / "b", None]) == [tmp_path / "a"]
