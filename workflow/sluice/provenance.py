"""What made a file: package versions, the source's commit, digests of the inputs."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from numpy.typing import NDArray

PACKAGES = (
    "sluice-crystals", "numpy", "torch", "pymatgen", "spglib", "ase", "smact", "chgnet", "jobflow", "custodian",
    "atomate2", "snakemake", "h5py", "lightning-fabric",
)  # fmt: skip

CIF_SUFFIXES = (".cif",)


@cache
def git_commit() -> str:
    """Commit of the checkout that the package runs from, ``+dirty`` if tracked files differ, else ``unknown``."""
    if os.environ.get("SLUICE_COMMIT"):
        return os.environ["SLUICE_COMMIT"]
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+dirty" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@cache
def created_with() -> str:
    """Versions of Python and of the packages that decide results, and the commit, as JSON."""
    versions = {"python": platform.python_version(), "commit": git_commit()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return json.dumps(versions, sort_keys=True)


def crystal_files(path: Path) -> list[Path]:
    """The CIF files anywhere in a folder, sorted; a file itself."""
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.rglob("*") if p.suffix.lower() in CIF_SUFFIXES and p.is_file())


def sha256_of_file(path: Path) -> str:
    """Digest of a file's bytes; of a folder, digest over the names and digests of its CIF files."""
    if path.is_dir():
        lines = [f"{sha256_of_file(p)}  {p.relative_to(path)}\n" for p in crystal_files(path)]
        return sha256_of_text("".join(lines))
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_text(text: str) -> str:
    """Digest of a text, for settings."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_arrays(*arrays: NDArray) -> str:
    """Digest of arrays, types and shapes included.

    Raises:
        TypeError: if an array holds Python objects, whose bytes are mere addresses.
    """
    digest = hashlib.sha256()
    for array in arrays:
        if array.dtype.hasobject:
            raise TypeError("an array of Python objects has no digest; give it a plain type")
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def existing(paths: Iterable[Path | None]) -> list[Path]:
    """Those of the paths that are given and exist, for ``inputs`` of a store."""
    return [path for path in paths if path is not None and path.exists()]
