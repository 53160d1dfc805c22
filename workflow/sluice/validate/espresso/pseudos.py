"""SSSP PBE efficiency 1.3.0: where the pseudopotentials are, how to get them, and that they are the right ones.

``pseudos.csv`` states file, digests, recommended cutoffs (Ry) and valence of all 103 elements. Source of file names,
md5 sums and cutoffs: G. Prandini et al., npj Comput. Mater. 2018, 4, 72, library version 1.3.0.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from sluice.errors import MissingProgramError, SluiceError

LIBRARY = "SSSP_1.3.0_PBE_efficiency"
ENVIRONMENT_VARIABLE = "SLUICE_PSEUDO_DIR"
TABLE = Path(__file__).with_name("pseudos.csv")
DEBIAN_PACKAGE = "quantum-espresso-data-sssp"
DEBIAN_SUITE = "trixie"
DEBIAN_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
# The Materials Cloud archive, under its present and its former kind of address.
ARCHIVE_URLS = (
    f"https://archive.materialscloud.org/api/records/rcyfm-68h65/files/{LIBRARY}.tar.gz/content",
    f"https://archive.materialscloud.org/record/file?filename={LIBRARY}.tar.gz&record_id=1732",
)


class PseudopotentialError(SluiceError):
    """A pseudopotential file that is not the one of the library; names the file."""


@dataclass(frozen=True)
class Pseudopotential:
    """One row of the table.

    Attributes:
        element: symbol.
        file: name of the UPF file.
        md5: digest as SSSP publishes it.
        sha256: digest of the same file.
        ecutwfc_ry: recommended cutoff of the wave functions, Ry.
        ecutrho_ry: recommended cutoff of the density, Ry.
        valence_electrons: electrons of the neutral atom that are not in the core.
        kind: ``NC``, ``US`` or ``PAW``.
    """

    element: str
    file: str
    md5: str
    sha256: str
    ecutwfc_ry: float
    ecutrho_ry: float
    valence_electrons: float
    kind: str


@cache
def pseudo_table() -> dict[str, Pseudopotential]:
    """The library's table, element → row, in order of atomic number."""
    with TABLE.open(encoding="utf-8", newline="") as handle:
        return {
            row["element"]: Pseudopotential(
                element=row["element"],
                file=row["file"],
                md5=row["md5"],
                sha256=row["sha256"],
                ecutwfc_ry=float(row["ecutwfc_ry"]),
                ecutrho_ry=float(row["ecutrho_ry"]),
                valence_electrons=float(row["valence_electrons"]),
                kind=row["kind"],
            )
            for row in csv.DictReader(handle)
        }


def pseudopotential(element: str) -> Pseudopotential:
    """The table's row of an element.

    Raises:
        PseudopotentialError: if the library has no such element.
    """
    try:
        return pseudo_table()[element]
    except KeyError:
        raise PseudopotentialError(f"{LIBRARY} has no pseudopotential for {element!r}") from None


@dataclass(frozen=True)
class PseudoLibrary:
    """A directory that holds files of the library; a file is verified before it is used."""

    directory: Path

    def path(self, element: str) -> Path:
        """The verified UPF file of an element.

        Raises:
            MissingProgramError: if the file is not there.
            PseudopotentialError: if its content is not the library's.
        """
        row = pseudopotential(element)
        path = self.directory / row.file
        if not path.is_file():
            raise MissingProgramError(
                f"{path}: no pseudopotential for {element}; get them with `sluice pseudos install`"
            )
        stat = path.stat()
        digest = _md5(path, stat.st_mtime_ns, stat.st_size)
        if digest != row.md5:
            raise PseudopotentialError(
                f"{path}: md5 is {digest}, but {LIBRARY} has {row.md5};"
                " get the right file with `sluice pseudos install`"
            )
        return path

    def sha256(self, element: str) -> str:
        """SHA-256 of the verified file of an element."""
        self.path(element)
        return pseudopotential(element).sha256

    def check(self, elements: Iterable[str] | None = None) -> list[str]:
        """Verify several files and return what is wrong, one line a file, nothing if all is well.

        Args:
            elements: symbols; None for all 103.
        """
        problems = []
        for element in pseudo_table() if elements is None else elements:
            try:
                self.path(element)
            except SluiceError as error:
                problems.append(str(error))
        return problems


@cache
def _md5(path: Path, modified_ns: int, size: int) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def default_directory() -> Path:
    """Where ``sluice pseudos install`` puts the files unless told otherwise."""
    if os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(os.environ[ENVIRONMENT_VARIABLE]).expanduser()
    data = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
    return data / "sluice" / "pseudos" / LIBRARY


def find_pseudos(directory: Path | None = None) -> PseudoLibrary:
    """Find the library; files are verified when they are used.

    Args:
        directory: a directory of the user's; None looks in ``$SLUICE_PSEUDO_DIR``, then in the user's data directory,
            then where Debian's package installs.

    Raises:
        MissingProgramError: if no directory has any of the files; says how to get them.
    """
    if directory is not None:
        places = [directory]
    elif os.environ.get(ENVIRONMENT_VARIABLE):
        places = [default_directory()]
    else:
        places = [default_directory(), Path("/usr/share/espresso/pseudo")]
    files = {row.file for row in pseudo_table().values()}
    for place in places:
        if place.is_dir() and any(path.name in files for path in place.iterdir()):
            return PseudoLibrary(place.resolve())
    raise MissingProgramError(
        f"no {LIBRARY} pseudopotentials in {', '.join(map(str, places))}; get them with `sluice pseudos install`"
    )


def install_pseudos(
    target: Path | None = None, source: Literal["auto", "debian", "archive"] | Path = "auto"
) -> PseudoLibrary:
    """Put the 103 files into a directory, every one verified.

    Args:
        target: directory; None for the default one.
        source: ``debian`` downloads and unpacks Debian's package (no root needed), ``archive`` downloads from the
            Materials Cloud archive, a path copies from that directory; ``auto`` tries Debian, then the archive.

    Returns:
        The installed library.

    Raises:
        MissingProgramError: if no source worked; names each and its reason.
        PseudopotentialError: if a source's files are not the library's.
    """
    target = default_directory() if target is None else target
    if target.is_dir() and not PseudoLibrary(target).check():
        return PseudoLibrary(target.resolve())
    routes = {"debian": _from_debian, "archive": _from_archive}
    names = list(routes) if source == "auto" else [source]
    reasons = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="sluice-pseudos-") as work:
            try:
                found = name if isinstance(name, Path) else routes[name](Path(work))
                _copy_verified(found, target)
            except (OSError, subprocess.SubprocessError, tarfile.TarError, ValueError, MissingProgramError) as error:
                reasons.append(f"  {name}: {_reason(error)}")
                continue
            _md5.cache_clear()
            return PseudoLibrary(target.resolve())
    raise MissingProgramError(
        f"the pseudopotentials {LIBRARY} could not be installed in {target}:\n"
        + "\n".join(reasons)
        + f"\nDownload {LIBRARY}.tar.gz from the Materials Cloud archive, unpack it and run"
        " `sluice pseudos install --from DIRECTORY`"
    )


def _reason(error: Exception) -> str:
    output = getattr(error, "stderr", None) or ""
    lines = [line for line in output.splitlines() if line.strip()]
    return f"{error}" + (f" ({lines[-1].strip()})" if lines else "")


def _copy_verified(found: Path, target: Path) -> None:
    """Copy the library's files by temporary names; nothing is replaced unless all are right."""
    problems = PseudoLibrary(found).check()
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        message = "; ".join(problems[:3]) + more
        raise PseudopotentialError(message) if any("md5" in p for p in problems) else MissingProgramError(message)
    target.mkdir(parents=True, exist_ok=True)
    for row in pseudo_table().values():
        partial = target / f".{row.file}.{os.getpid()}"
        shutil.copyfile(found / row.file, partial)
        partial.replace(target / row.file)


def _debian_source() -> str:
    """First stanza of the system's Debian sources, its suites set to the one that has the package.

    Raises:
        MissingProgramError: if this is not a Debian system with deb822 sources.
    """
    if not DEBIAN_SOURCES.is_file():
        raise MissingProgramError(f"{DEBIAN_SOURCES} does not exist: not a Debian 12 or later system")
    stanzas = [s for s in DEBIAN_SOURCES.read_text(encoding="utf-8").split("\n\n") if "URIs:" in s]
    if not stanzas:
        raise MissingProgramError(f"{DEBIAN_SOURCES}: no source found")
    lines = [f"Suites: {DEBIAN_SUITE}" if line.startswith("Suites:") else line for line in stanzas[0].splitlines()]
    return "\n".join(line for line in lines if not line.startswith("#")) + "\n"


def _from_debian(work: Path) -> Path:
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise MissingProgramError(f"{program} not found: not a Debian system")
    for folder in ("etc", "lists/partial", "cache/archives/partial", "unpacked"):
        (work / folder).mkdir(parents=True)
    work.chmod(0o755)
    (work / "etc" / "debian.sources").write_text(_debian_source(), encoding="utf-8")
    options = [
        "-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={work}/etc",
        "-o", f"Dir::State::lists={work}/lists", "-o", f"Dir::Cache={work}/cache",
    ]  # fmt: skip
    for words in (["update"], ["download", DEBIAN_PACKAGE]):
        subprocess.run(["apt-get", *options, *words], cwd=work, check=True, capture_output=True, text=True, timeout=600)
    packages = sorted(work.glob(f"{DEBIAN_PACKAGE}_*.deb"))
    if not packages:
        raise MissingProgramError(f"apt-get downloaded no {DEBIAN_PACKAGE}")
    subprocess.run(
        ["dpkg", "-x", str(packages[-1]), str(work / "unpacked")],
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return work / "unpacked" / "usr" / "share" / "espresso" / "pseudo"


def _from_archive(work: Path) -> Path:
    import pooch

    # Each of the 103 files is verified against the table, which is stricter than a digest of the archive.
    name, unpacked = f"{LIBRARY}.tar.gz", work / "unpacked"
    try:
        archive = pooch.retrieve(ARCHIVE_URLS[0], known_hash=None, fname=name, path=work)
    except OSError:
        archive = pooch.retrieve(ARCHIVE_URLS[1], known_hash=None, fname=name, path=work)
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    first = next(unpacked.rglob(next(iter(pseudo_table().values())).file), None)
    if first is None:
        raise MissingProgramError("the archive does not hold the library's files")
    return first.parent
