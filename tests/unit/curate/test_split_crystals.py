"""Splits: no formula in two of them, the same whatever the order and the batches, nothing lost."""

from collections import Counter

import numpy as np
import pytest

from sluice.config import CurateSettings
from sluice.crystals import Crystals
from sluice.curate.split_crystals import assign_splits, split_crystals
from sluice.schemas import Column
from sluice.store import Store, StoreWriter

FORMULAS = [f"A{i}B" for i in range(200) for _ in range(3)]


def rock_salts(pairs):
    n = len(pairs)
    return Crystals(
        np.tile(np.eye(3) * 4.0, (n, 1, 1)),
        np.arange(0, 2 * n + 1, 2, dtype=np.int64),
        np.array(pairs, np.uint8).reshape(-1),
        np.tile([[0.0, 0, 0], [0.5, 0.5, 0.5]], (n, 1)),
    )


def write(path, pairs, names):
    columns = {
        "prototype": ["x"] * len(pairs),
        "space_group": [221] * len(pairs),
        "formation_energy_ev_per_atom": [-float(a) for a, _ in pairs],
        "label_source": ["user"] * len(pairs),
        "extra": [float(b) for _, b in pairs],
    }
    with StoreWriter(path, "labelled", columns={"extra": Column("f8", "eV")}, campaign="c") as writer:
        writer.append(names, columns, crystals=rock_salts(pairs))
        writer.drop([f"bad-{path.stem}"], "no energy minimum", kind="failed")
    return path


def split(labelled, out, seed=1, **settings):
    split_crystals(labelled=labelled, settings=CurateSettings(**settings), seed=seed, dataset=out)
    with Store(out, "dataset") as store:
        return store.rows(), store.counts, store.content_sha256, store.columns


@pytest.fixture
def parts(tmp_path):
    pairs = [(a, b) for a in (3, 4, 11, 12, 19, 20, 37, 38, 55, 56) for b in (8, 9, 16, 17, 34, 35)] * 2
    names = [f"id-{i:04d}" for i in range(len(pairs))]
    return [write(tmp_path / f"{k}.h5", pairs[k::2], names[k::2]) for k in range(2)], pairs, names


def test_formulas_are_not_shared_and_shares_are_met():
    splits = assign_splits(FORMULAS, 0.1, 0.2, 1)
    of_formula = {}
    for formula, name in zip(FORMULAS, splits, strict=True):
        assert of_formula.setdefault(formula, name) == name
    assert Counter(of_formula.values()) == {"train": 140, "val": 20, "test": 40}


def test_row_order_does_not_matter_but_the_seed_does():
    splits = assign_splits(FORMULAS, 0.1, 0.2, 1)
    order = np.random.default_rng(0).permutation(len(FORMULAS))
    assert np.array_equal(assign_splits([FORMULAS[i] for i in order], 0.1, 0.2, 1), splits[order])
    assert not np.array_equal(assign_splits(FORMULAS, 0.1, 0.2, 2), splits)


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, {"train": 1}), (2, {"train": 2}), (3, {"train": 1, "val": 1, "test": 1}), (0, {})],
)
def test_few_formulas(n, expected):
    assert Counter(assign_splits(FORMULAS[: 3 * n : 3], 0.1, 0.1, 1).tolist()) == expected


def test_a_share_of_nothing_gets_nothing():
    assert set(assign_splits(FORMULAS, 0.0, 0.1, 1)) == {"train", "test"}


def test_dataset_has_every_row_once_sorted_by_id(parts, tmp_path):
    paths, pairs, names = parts
    rows, counts, _, columns = split(paths, tmp_path / "d.h5")
    assert rows.candidate_id.astype(str).tolist() == sorted(names)
    assert counts == {"in": len(names), "made": 0, "merged": 0, "out": len(names), "rejected": 0, "failed": 0}
    assert columns["extra"] == Column("f8", "eV")
    for i, (a, b) in enumerate(pairs):
        assert rows.columns["formation_energy_ev_per_atom"][i] == -a
        assert rows.columns["extra"][i] == b
        assert rows.crystals.numbers[rows.crystals.atoms_of(i)].tolist() == [a, b]
    splits = rows.columns["split"].astype(str)
    formulas = np.array(rows.crystals.reduced_formulas())
    assert set(splits) == {"train", "val", "test"}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not set(formulas[splits == one]) & set(formulas[splits == other])


def test_order_of_batches_does_not_matter(parts, tmp_path):
    paths = parts[0]
    assert split(paths, tmp_path / "a.h5")[2] == split(paths[::-1], tmp_path / "b.h5")[2]
    assert split(paths, tmp_path / "a.h5")[2] != split(paths, tmp_path / "c.h5", seed=2)[2]


def test_empty_batches_and_nothing_at_all(parts, tmp_path):
    empty = write(tmp_path / "empty.h5", [], [])
    assert split([empty, *parts[0]], tmp_path / "a.h5")[2] == split(parts[0], tmp_path / "b.h5")[2]
    rows, counts, _, _ = split([empty], tmp_path / "c.h5")
    assert len(rows) == 0 and counts["in"] == 0
