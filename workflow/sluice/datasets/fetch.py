"""Get a data set from its authors: download, verify, convert, verify again."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pooch

from sluice.datasets import converters
from sluice.datasets.registry import DataSet, DataSetError, cache_folder, find_in_registry

NOTE = "SOURCE.txt"


def fetch_data(name: str, directory: Path | None = None) -> Path:
    """Fetch a data set; what is there already and whole is kept; the folder.

    Args:
        name: of the registry.
        directory: where its folder is put; None for the user's cache.

    Raises:
        DataSetError: if there is no such data set, it cannot be fetched, or its content is not what it should be.
    """
    entry = find_in_registry(name)
    if not entry.files:
        raise DataSetError(
            f"{name} cannot be fetched by itself: {entry.by_hand or 'no address'}; source: {entry.homepage}"
        )
    folder = cache_folder(name) if directory is None else directory / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch") as work:
        published = {source: _download(name, entry, source, folder / ".published") for source in entry.sources}
        for wanted in entry.files:
            made = Path(work) / Path(wanted.path).name
            convert = converters.CONVERTERS[wanted.converter]
            convert([published[source] for source in wanted.sources], made)
            if wanted.sha256 and (found := content_digest(made)) != wanted.sha256:
                raise DataSetError(
                    f"{name}: {wanted.path} was made, but its SHA-256 is {found}, expected {wanted.sha256}: "
                    "the published files or the versions of pandas and scikit-learn differ"
                )
            target = folder / wanted.path
            target.parent.mkdir(parents=True, exist_ok=True)
            made.replace(target)
    (folder / NOTE).write_text(_note(name, entry), encoding="utf-8")
    shutil.rmtree(folder / ".published", ignore_errors=True)
    return folder.absolute()


def _download(name: str, entry: DataSet, source: str, folder: Path) -> Path:
    wanted = entry.sources[source]
    known = f"sha256:{wanted.sha256}" if wanted.sha256 else None
    (folder / source).parent.mkdir(parents=True, exist_ok=True)
    try:
        path = pooch.retrieve(wanted.url, known_hash=known, fname=source, path=folder, progressbar=False)
    except ValueError as error:  # pooch's word for a digest that does not match
        raise DataSetError(f"{name}: {wanted.url} is not the file it was: {error}") from error
    except (OSError, RuntimeError) as error:
        raise DataSetError(
            f"{name}: {wanted.url} cannot be fetched ({type(error).__name__}: {error}); "
            "get it elsewhere and set SLUICE_DATA"
        ) from error
    return Path(path)


def content_digest(path: Path) -> str:
    """SHA-256 of a file's content, uncompressed if its name ends in ``.gz``."""
    digest = hashlib.sha256()
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _note(name: str, entry: DataSet) -> str:
    lines = [f"{name}: {entry.title}", f"source: {entry.homepage}"]
    lines += [f"  {source}: {file.url}" for source, file in entry.sources.items()]
    lines += [f"licence: {entry.licence}", f"cite: {entry.citation}", "fetched and converted by `sluice data fetch`"]
    if unchecked := [file.path for file in entry.files if not file.sha256]:
        lines.append(f"of a pinned address, but not checked by a digest: {', '.join(unchecked)}")
    return "\n".join(lines) + os.linesep
