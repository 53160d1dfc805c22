"""The task library: first-principles results found by what was asked, shared by rounds, campaigns and machines.

``<library>/<task id>/`` holds ``result.json`` (with its digest), ``files.tar.xz`` (inputs and outputs), the claim of
whoever works on it (``sluice.task_claims``) and, until there is a result, ``work/``. A failed calculation is a result,
too, with its reason: nobody runs it again unless more attempts are allowed than it had.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tarfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from sluice.config import Chemistry, ValidateSettings
from sluice.errors import SluiceError
from sluice.provenance import created_with, sha256_of_text
from sluice.task_claims import HEARTBEAT_SECONDS, LEASE_SECONDS, Claim, ClaimTaker

RESULT_FILE, ARCHIVE_FILE, WORK_DIRECTORY = "result.json", "files.tar.xz", "work"
LENGTH_DECIMALS = 3  # Å
ANGLE_DECIMALS = 2  # degrees
FRACTION_DECIMALS = 3
SYMPREC = 0.01  # Å; finer than what two relaxations of one crystal differ by
MAX_PACKED_BYTES = 64 << 20
# Restart data and wave functions: large, machine dependent, worthless once there is a result.
_NOT_PACKED = (
    ".save",
    ".wfc",
    ".mix",
    ".igk",
    ".bfgs",
    ".hub",
    ".UPF",
    ".upf",
    ".dat",
    ".hdf5",
    ".xml",
    "scratch",
    "lock",
)


class LibraryError(SluiceError):
    """A result that cannot be read; names the file."""


# --- What a task is -------------------------------------------------------------------------------------------------


def canonical_structure(structure: Structure) -> dict[str, Any]:
    """Describe a crystal in a way that does not depend on order of atoms, choice of cell, origin or orientation.

    The standardized primitive cell is Niggli-reduced; among all origins on an atom of the rarest element and all
    symmetries of the bare lattice, the description that sorts first is taken. Mirror images count as one.

    Returns:
        Lengths in Å, angles in degrees and sorted ``[Z, x, y, z]``, all rounded.
    """
    lattice, frac, numbers = _reduced_primitive(structure)
    kinds, counts = np.unique(numbers, return_counts=True)
    origins = frac[numbers == kinds[np.argmin(counts)]]
    bare = _quietly(spglib.get_symmetry, (lattice.matrix, [[0.0, 0.0, 0.0]], [1]), symprec=SYMPREC)
    rotations = [np.eye(3, dtype=int)] if bare is None else bare["rotations"]
    best = min(_sites(numbers, (frac - origin) @ rotation.T) for origin in origins for rotation in rotations)
    return {
        "lengths": [_plain(x, LENGTH_DECIMALS) for x in lattice.lengths],
        "angles": [_plain(x, ANGLE_DECIMALS) for x in lattice.angles],
        "sites": best,
    }


def _reduced_primitive(structure: Structure) -> tuple[Lattice, NDArray[np.float64], NDArray[np.int_]]:
    cell = (structure.lattice.matrix, structure.frac_coords, [site.specie.Z for site in structure])
    found = _quietly(spglib.standardize_cell, cell, to_primitive=True, no_idealize=False, symprec=SYMPREC)
    matrix, frac, numbers = cell if found is None else found
    primitive = Lattice(matrix)
    reduced = _quietly(spglib.niggli_reduce, primitive.matrix)
    lattice = primitive if reduced is None else Lattice(reduced)
    return lattice, lattice.get_fractional_coords(primitive.get_cartesian_coords(frac)), np.asarray(numbers)


def _quietly(function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Return spglib's answer, None where it has none; by version it warns of the way it would report that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*given, **named)
        except spglib.error.SpglibError:
            return None


def _plain(value: float, decimals: int) -> float:
    return round(float(value), decimals) + 0.0


def _sites(numbers: NDArray[np.int_], frac: NDArray[np.float64]) -> list[list[float]]:
    wrapped = np.round(np.mod(frac, 1.0), FRACTION_DECIMALS) % 1.0 + 0.0
    rows = [[int(z), *(float(x) for x in row)] for z, row in zip(numbers, wrapped, strict=True)]
    return sorted(rows)


def task_id(
    *,
    name: str,
    structure: Structure,
    code: str,
    code_version: str,
    settings: Mapping[str, Any],
    tier: str,
    pseudos: Mapping[str, str],
) -> str:
    """Address a calculation by its content; equal on every machine.

    Args:
        name: what people see in front of the digest: the formula, or ``ref-<element>``.
        structure: what is computed; enters in canonical form.
        code: the first-principles code.
        code_version: as the code reports it.
        settings: all that decides the numbers; JSON-able.
        tier: the cutoff tier.
        pseudos: SHA-256 of the pseudopotential of each element in the crystal.
    """
    asked = {
        "code": code,
        "code_version": code_version,
        "structure": canonical_structure(structure),
        "settings": settings,
        "tier": tier,
        "pseudos": dict(pseudos),
    }
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{name[:11]}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


# --- Results --------------------------------------------------------------------------------------------------------


def structure_to_json(structure: Structure) -> dict[str, Any]:
    """Cell (Å), atomic numbers and fractional coordinates, exact to the last bit."""
    return {
        "lattice": structure.lattice.matrix.tolist(),
        "numbers": [site.specie.Z for site in structure],
        "frac_coords": structure.frac_coords.tolist(),
    }


def structure_from_json(values: Mapping[str, Any]) -> Structure:
    """Undo ``structure_to_json``."""
    return Structure(Lattice(values["lattice"]), values["numbers"], values["frac_coords"])


def _digest(record: Mapping[str, Any]) -> str:
    return sha256_of_text(json.dumps({k: v for k, v in record.items() if k != "digest"}, sort_keys=True))


def read_result(path: Path) -> dict[str, Any] | None:
    """Read a ``result.json``; None if there is none.

    Raises:
        LibraryError: if it is damaged.
        SluiceError: if the file system does not give it out now, which says nothing about the result.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SluiceError(
            f"{path}: cannot be read now ({error.strerror or error}); see to the file system and resume"
        ) from error
    except ValueError as error:
        raise LibraryError(f"{path}: cannot be read ({error}); delete it to have the task computed again") from error
    if not isinstance(record, dict) or record.get("digest") != _digest(record):
        raise LibraryError(f"{path}: does not match its digest (damaged or edited); delete it to compute it again")
    return record


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file whole: to a temporary name, synced, renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            json.dump(values, handle, sort_keys=True, indent=1, allow_nan=False)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _packed_names(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        parts = path.relative_to(directory).parts
        if any(part.endswith(_NOT_PACKED) or ".wfc" in part for part in parts):
            continue
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_PACKED_BYTES:
            yield path


def pack_directory(directory: Path, archive: Path) -> None:
    """Pack what is worth keeping of a finished calculation; written whole, equal for equal files."""
    temporary = archive.with_name(f".{archive.name}.{os.getpid()}.tmp")
    try:
        with tarfile.open(temporary, "w:xz", preset=6) as tar:
            for path in _packed_names(directory):
                info = tar.gettarinfo(str(path), arcname=str(path.relative_to(directory)))
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                info.mtime = 0
                with path.open("rb") as handle:
                    tar.addfile(info, handle)
        temporary.replace(archive)
    finally:
        temporary.unlink(missing_ok=True)


class TaskLibrary:
    """Results and claims under one directory.

    Args:
        path: the directory; made when first written to.
        lease_seconds: silence after which a holder on another machine counts as dead.
        heartbeat_seconds: how often claims are renewed.
    """

    def __init__(
        self,
        path: Path,
        *,
        lease_seconds: float = LEASE_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        # Absolute: calculations change the working directory while heartbeats go on.
        self.path = Path(path).resolve()
        self._taker = ClaimTaker(lease_seconds=lease_seconds, heartbeat_seconds=heartbeat_seconds)

    def directory(self, task: str) -> Path:
        """Where a task lives."""
        return self.path / task

    def work_directory(self, task: str) -> Path:
        """Where its calculation runs, and restarts from."""
        return self.path / task / WORK_DIRECTORY

    def result(self, task: str) -> dict[str, Any] | None:
        """The result of a task; None if it has none.

        Raises:
            LibraryError: if it is damaged.
        """
        return read_result(self.directory(task) / RESULT_FILE)

    def set_aside_damaged(self, task: str) -> None:
        """Rename a result that cannot be read, so that the task is computed again."""
        path = self.directory(task) / RESULT_FILE
        with contextlib.suppress(FileNotFoundError):
            path.rename(path.with_name("result.damaged.json"))

    def try_claim(self, task: str, *, on_lost: Callable[[], None] | None = None) -> Claim | None:
        """Claim a task; None if somebody has it."""
        return self._taker.try_claim(self.directory(task), on_lost=on_lost)

    def publish(self, claim: Claim, record: Mapping[str, Any], *, scratch: Path | None = None) -> bool:
        """Pack the files of a claimed task, make its result visible, delete the working files.

        Returns:
            Whether it was published; not if the claim had been lost.
        """
        if not claim.is_ours():  # the files are the new holder's
            return False
        directory = claim.task_directory
        work = directory / WORK_DIRECTORY
        if work.is_dir():
            pack_directory(work, directory / ARCHIVE_FILE)
        whole = {**record, "task_id": directory.name, "created_with": json.loads(created_with())}
        whole["digest"] = _digest(json.loads(json.dumps(whole, allow_nan=False)))
        if not claim.is_ours():
            return False
        write_json(directory / RESULT_FILE, whole)
        self.tidy(claim, scratch=scratch)
        return True

    def tidy(self, claim: Claim, *, scratch: Path | None = None) -> None:
        """Delete what a finished task no longer needs."""
        shutil.rmtree(claim.task_directory / WORK_DIRECTORY, ignore_errors=True)
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        for stray in claim.task_directory.glob(".*.tmp"):
            stray.unlink(missing_ok=True)
        claim.forget_former()

    def needs_tidying(self, task: str) -> bool:
        """Whether its producer died between the result and the cleaning up."""
        return self.work_directory(task).exists()

    def references(self, element: str) -> Iterator[dict[str, Any]]:
        """All readable results of an elemental reference, whatever their settings."""
        for path in sorted(self.path.glob(f"ref-{element}-*/{RESULT_FILE}")):
            try:
                record = read_result(path)
            except LibraryError:
                continue
            if record is not None:
                yield record


def known_references(
    library: Path, elements: Iterable[str], settings: ValidateSettings, chemistry: Chemistry
) -> dict[str, bool]:
    """Which elemental references the library already holds for a campaign, for estimates of cost.

    A record says which elements its cutoff tier covers and which of them need it, so that no table of cutoffs is asked
    here; a failed calculation is not a known reference. Versions and pseudopotentials are looked at when the tasks are
    planned.

    Args:
        library: the task library; need not exist.
        elements: symbols to look for.
        settings: tells code and protocol.
        chemistry: its hardest element decides the tier.
    """
    shelf, wanted = TaskLibrary(library), set(chemistry.elements)

    def fits(record: Mapping[str, Any]) -> bool:
        alike = (record.get("code"), record.get("protocol")) == (settings.code, settings.protocol_name)
        return (
            bool(record.get("converged"))
            and alike
            and wanted <= set(record["tier_covers"])
            and bool(wanted & set(record["tier_needed_by"]))
        )

    return {element: any(fits(record) for record in shelf.references(element)) for element in elements}
