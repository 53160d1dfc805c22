"""The registry of published data sets and how a local copy of one is found."""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import files
from pathlib import Path

import pooch
import yaml
from pydantic import Field, field_validator

from sluice.config_base import Section
from sluice.errors import MissingProgramError, SluiceError

DATA_VARIABLE = "SLUICE_DATA"
CACHE_VARIABLE = "SLUICE_CACHE"
SHA256 = r"^[0-9a-f]{64}$"


class DataSetError(SluiceError):
    """An unknown data set, or one that cannot be fetched; says what to do."""


class SourceFile(Section):
    """A file as its authors publish it."""

    url: str = Field(description="Address, pinned to a commit or version.", pattern=r"^https?://")
    sha256: str | None = Field(
        None, description="Digest of the published file; null: that of what is made from it counts.", pattern=SHA256
    )


class DataFile(Section):
    """A file as Sluice reads it."""

    path: str = Field(description="Name in the data set's folder.")
    sources: tuple[str, ...] = Field(description="Names of the published files that it is made from.", min_length=1)
    converter: str = Field("copy", description="Function of sluice.datasets.converters.")
    sha256: str | None = Field(
        None, description="Digest of the content, uncompressed; null: only the address is pinned.", pattern=SHA256
    )

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ValueError("must lie in the data set's folder")
        return path


class DataSet(Section):
    """A published data set."""

    title: str = Field(description="What it is.")
    licence: str = Field(description="What its authors allow.")
    citation: str = Field(description="What to cite.")
    homepage: str = Field(description="Where it lives.")
    sources: dict[str, SourceFile] = Field({}, description="Published files by name; empty: none can be fetched.")
    files: tuple[DataFile, ...] = Field((), description="Files of the folder that can be made from them.")
    required: tuple[str, ...] = Field((), description="Files a local copy must have.")
    by_hand: str = Field("", description="Why it cannot be fetched, and how to get it; empty if it can.")


@cache
def registry() -> dict[str, DataSet]:
    """Every data set by its name."""
    values = yaml.safe_load((files("sluice.datasets") / "registry.yaml").read_text(encoding="utf-8"))
    return {name: DataSet.model_validate(value) for name, value in values.items()}


def find_in_registry(name: str) -> DataSet:
    """One data set.

    Raises:
        DataSetError: if there is none of that name.
    """
    try:
        return registry()[name]
    except KeyError:
        raise DataSetError(f"{name}: no such data set; there are: {', '.join(registry())}") from None


def cache_folder(name: str) -> Path:
    """Where ``sluice data fetch`` puts a data set: under SLUICE_CACHE, else the user's cache directory."""
    base = os.environ.get(CACHE_VARIABLE)
    return (Path(base) if base else Path(pooch.os_cache("sluice"))) / "data" / name


def local_copy(name: str) -> Path | None:
    """The folder of a data set: in SLUICE_DATA, else where it was fetched to; None if it is in neither."""
    wanted = find_in_registry(name).required
    base = os.environ.get(DATA_VARIABLE)
    for folder in ([Path(base) / name] if base else []) + [cache_folder(name)]:
        if folder.is_dir() and all((folder / file).is_file() for file in wanted):
            return folder.absolute()
    return None


def require_data(name: str) -> Path:
    """The folder of a data set.

    Raises:
        MissingProgramError: if it is not here; says how to get it.
    """
    folder = local_copy(name)
    if folder is None:
        entry = find_in_registry(name)
        how = (
            f"run `sluice data fetch {name}`"
            if not entry.by_hand
            else f"it cannot be fetched by itself ({entry.by_hand})"
        )
        base = os.environ.get(DATA_VARIABLE)
        where = (
            f"SLUICE_DATA is {base}, {name}/ there lacks {', '.join(entry.required)}"
            if base
            else "SLUICE_DATA is not set"
        )
        raise MissingProgramError(
            f"data set {name} is not here: {how}, or set SLUICE_DATA to a directory with {name}/ in it ({where}); "
            f"source: {entry.homepage}"
        )
    return folder
