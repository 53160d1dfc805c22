"""From the authors' files to the files that Sluice reads; nothing in them is executed."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from sluice.datasets.plain_pickle import read_plain_pickle

Converter = Callable[[list[Path], Path], None]


def copy(sources: list[Path], target: Path) -> None:
    """The file itself, compressed if the target's name ends in ``.gz``."""
    if target.suffix != ".gz":
        shutil.copyfile(sources[0], target)
        return
    with (
        sources[0].open("rb") as source,
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
    ):
        shutil.copyfileobj(source, packed)


def as_it_is(sources: list[Path], target: Path) -> None:
    """The file itself, byte by byte: it is compressed already."""
    shutil.copyfile(sources[0], target)


def plain_pickle_to_json(sources: list[Path], target: Path) -> None:
    """A pickle of plain values as JSON; read without executing anything."""
    values = read_plain_pickle(sources[0])
    if isinstance(values, dict):
        values = {",".join(key) if isinstance(key, tuple) else key: value for key, value in values.items()}
    target.write_text(json.dumps(values), encoding="utf-8")


def hea_splits(sources: list[Path], target: Path) -> None:
    """The split of the disentangled VAE's paper, made from its two tables as its authors' ``train.py`` does.

    Equal, row by row, to the split they stored in pickles.
    """
    from sklearn.model_selection import train_test_split

    compositions, engineered = (pd.read_csv(path, comment="#").drop_duplicates("Alloys") for path in sources)
    features = [name for name in engineered.columns if name not in ("Alloys", "Class")]
    merged = compositions.merge(engineered.drop(columns="Class"), on="Alloys", how="inner")
    for name in features:  # over all rows, as they did; Sluice's own models scale by the training rows
        merged[f"{name}_n"] = (merged[name] - merged[name].mean()) / merged[name].std(ddof=0)
    rest, test = train_test_split(merged, test_size=0.1, random_state=42)
    labelled, rest = train_test_split(rest, test_size=0.3, random_state=42)
    unlabelled, validation = train_test_split(rest, test_size=0.2, random_state=42)
    parts = {"labelled": labelled, "unlabelled": unlabelled, "validation": validation, "test": test}
    table = pd.concat([part.assign(split=name) for name, part in parts.items()])
    with target.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
        packed.write(table.to_csv(index=False).encode())


CONVERTERS: dict[str, Converter] = {
    "copy": copy,
    "as_it_is": as_it_is,
    "plain_pickle_to_json": plain_pickle_to_json,
    "hea_splits": hea_splits,
}
