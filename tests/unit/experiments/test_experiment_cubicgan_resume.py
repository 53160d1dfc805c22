"""What the experiment `cubicgan` goes on from after an interruption, and what it does anew; and its table's words."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from sluice.chemistry.hull import MAX_Z, Hull
from sluice.config import GeneratorSettings, GeometrySettings
from sluice.experiments import cubicgan_stability as module
from sluice.experiments.cubicgan import EXPERIMENT, CubicGanConfig, Settings
from sluice.experiments.cubicgan_data import STRUCTURE_FILES, TABLE_FILE, KnownCrystals
from sluice.experiments.cubicgan_funnel import Sites
from sluice.experiments.cubicgan_stability import judge
from sluice.experiments.cubicgan_table import funnel_rows
from sluice.experiments.experiment import Job
from sluice.experiments.folders import write_metrics
from sluice.models.modelfile import load_model
from sluice.models.orbits import grid_index
from sluice.models.potential import Relaxed

PEROVSKITE = grid_index(np.array([[2, 2, 2], [0, 0, 0], [2, 0, 0]]))
POSSIBLE = np.array([True, True, False, True])


def perovskites(lengths):
    """KMgF3 and NaMgF3 in turn."""
    n = len(lengths)
    elements = np.array([[19, 12, 9], [11, 12, 9]])[np.arange(n) % 2]
    return Sites(np.full(n, 221), np.tile(PEROVSKITE, (n, 1)), elements, np.array(lengths, float))


SITES = perovskites([4.0, 4.0, 4.1, 4.2])


def hull(energy=-1.0):
    fractions = np.eye(MAX_Z + 1)[[9, 11, 12, 19]]
    return Hull(fractions, np.array([energy, -1.3, -1.5, -1.1]))


def known(folder, ids=("mp-1",)):
    """The Materials Project's files with KMgF3 alone."""
    folder.mkdir(exist_ok=True)
    table = "material_id,formula\n" + "".join(f"{name},F3KMg\n" for name in ids)
    (folder / TABLE_FILE).write_bytes(gzip.compress(table.encode(), mtime=0))
    frac = np.array([[0.5] * 3, [0] * 3, [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]])
    cell = np.array([[4.0, 4.0, 4.0, 90, 90, 90]])
    crystal = {"cell": cell, "offset": np.array([0, 5]), "z": np.array([19, 12, 9, 9, 9]), "frac": frac}
    np.savez(folder / STRUCTURE_FILES[0], material_id=np.array(["mp-1"]), **crystal)
    np.savez(folder / STRUCTURE_FILES[1], material_id=np.array(["mp-0"]), **crystal)
    return KnownCrystals(folder)


@pytest.fixture
def relaxed(monkeypatch):
    """Lattice constants of the crystals relaxed so far; each keeps its geometry and has an energy of its own."""
    found = []

    def relax(crystal, **_):
        found.append(float(crystal.lattice[0, 0, 0]))
        yield Relaxed(crystal, -5.0 - found[-1] / 7, converged=True, steps=3, max_force=0.01)

    monkeypatch.setattr(module, "relax", relax)
    return found


def text(folder):
    return (folder / "judged.jsonl").read_text(encoding="utf-8")


def test_no_crystals_at_all_are_judged(relaxed, tmp_path):
    assert judge(SITES[:0], POSSIBLE[:0], hull(), known(tmp_path / "mp"), tmp_path) == []
    assert relaxed == []


@pytest.mark.parametrize("torn", ["", '{"formula": "F3K'])
def test_interrupted_judging_goes_on_behind_the_last_whole_line(relaxed, tmp_path, capsys, torn):
    given = (SITES, POSSIBLE, hull(), known(tmp_path / "mp"))
    whole = judge(*given, tmp_path / "a")
    found = [(row.formula, row.reason, row.novel) for row in whole]
    assert [found[i] for i in (0, 1, 3)] == [("F3KMg", "", False), ("F3MgNa", "", True), ("F3MgNa", "", True)]
    assert whole[2].reason == "sites coincide"
    assert relaxed == [4.0, 4.0, 4.2]
    (tmp_path / "b").mkdir()
    lines = text(tmp_path / "a").splitlines(keepends=True)
    (tmp_path / "b" / "judged.jsonl").write_text("".join(lines[:2]) + torn, encoding="utf-8")
    relaxed.clear()
    again = judge(*given, tmp_path / "b")
    assert relaxed == [4.0, 4.2]
    assert text(tmp_path / "b") == text(tmp_path / "a")
    assert list(map(str, again)) == list(map(str, whole))  # as text, NaN equals itself
    relaxed.clear()
    assert list(map(str, judge(*given, tmp_path / "b"))) == list(map(str, whole))
    assert relaxed == []
    assert "passed over" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        "fewer", "lengths", "elements", "points", "space_groups", "possible", "hull", "known", "MAX_FORCE", "MAX_STEPS",
        "MAX_VOLUME_CHANGE", "NAME", "geometry",
    ],
)  # fmt: skip
def test_crystals_judged_under_other_conditions_are_judged_anew(relaxed, tmp_path, monkeypatch, capsys, change):
    mp, folder = known(tmp_path / "mp"), tmp_path / "c"
    judge(SITES, POSSIBLE, hull(), mp, folder)
    given = {"sites": SITES, "possible": POSSIBLE, "hull": hull(), "known": mp}
    other = {
        "fewer": {"sites": SITES[:2], "possible": POSSIBLE[:2]},
        "lengths": {"sites": perovskites([4.0, 4.0, 4.1, 4.3])},
        "elements": {"sites": replace(SITES, elements=SITES.elements[::-1].copy())},
        "points": {"sites": replace(SITES, points=np.tile(PEROVSKITE[[1, 0, 2]], (4, 1)))},
        "space_groups": {"sites": replace(SITES, space_groups=np.array([221, 221, 225, 221]))},
        "possible": {"possible": np.array([True, True, False, False])},
        "hull": {"hull": hull(-1.1)},
        "known": {"known": known(tmp_path / "other", ids=("mp-1", "mp-7"))},
    }
    if change == "geometry":
        monkeypatch.setattr(module, "GeometrySettings", lambda: GeometrySettings(max_lattice=19.0))
    elif change not in other:
        value = getattr(module, change)
        monkeypatch.setattr(module, change, value + (".1" if change == "NAME" else 1))
    given |= other.get(change, {})
    fresh = judge(**given, checkpoints=tmp_path / "fresh")
    capsys.readouterr()
    relaxed.clear()
    found = judge(**given, checkpoints=folder)
    assert list(map(str, found)) == list(map(str, fresh))
    assert text(folder) == text(tmp_path / "fresh")
    assert 4.0 in relaxed  # the first, too, although it is the same crystal
    assert "judged under other settings or data passed over" in capsys.readouterr().err


def test_a_file_of_an_earlier_version_is_judged_anew(relaxed, tmp_path, capsys):
    given = (SITES, POSSIBLE, hull(), known(tmp_path / "mp"))
    judge(*given, tmp_path / "a")
    path = tmp_path / "a" / "judged.jsonl"
    rows = text(tmp_path / "a").splitlines(keepends=True)[1:]
    assert all("formula" in json.loads(row) for row in rows)
    path.write_text("".join(rows), encoding="utf-8")
    relaxed.clear()
    assert len(judge(*given, tmp_path / "a")) == len(SITES)
    assert len(relaxed) == 3
    assert "passed over" in capsys.readouterr().err


def crystals_file(folder, lengths):
    """Prepared data of 40 perovskites, the last eight held out."""
    folder.mkdir(exist_ok=True)
    sites, split = perovskites(lengths), np.array(["train"] * 32 + ["val"] * 8)
    arrays = {name: getattr(sites, name) for name in ("space_groups", "points", "elements", "lengths")}
    np.savez_compressed(folder / "crystals.npz", split=split, energies=np.full(40, np.nan), **arrays)
    return folder


def test_other_data_is_trained_on_anew(tmp_path, capsys):
    generator = GeneratorSettings(epochs=1, batch_size=16, noise_size=8)
    config = CubicGanConfig(
        experiment="cubicgan", title="t", paper="p", device="cpu", settings=Settings(generator=generator)
    )

    def weights(name, prepared, checkpoints):
        folder = tmp_path / name
        folder.mkdir()
        EXPERIMENT.run(config, Job("training", 0, 1, prepared, {}, folder, tmp_path / checkpoints, 1))
        return [value.numpy() for value in load_model(folder / "model.ckpt").network.state_dict().values()]

    def equal(a, b):
        return all(map(np.array_equal, a, b))

    lengths = np.random.default_rng(0).uniform(3.9, 4.5, 40)
    lengths[:2] = 3.9, 4.5
    first = crystals_file(tmp_path / "p", lengths)
    second = crystals_file(tmp_path / "q", np.concatenate([lengths[:2], lengths[:1:-1]]))
    before = weights("a", first, "kept")
    assert equal(weights("b", first, "kept"), before)
    assert "passed over" not in capsys.readouterr().err
    after = weights("c", second, "kept")
    assert "passed over" in capsys.readouterr().err
    assert equal(after, weights("d", second, "empty"))
    assert not equal(after, before)


@pytest.mark.parametrize("kept", [3, 5])
def test_the_table_says_how_many_crystals_were_compared(tmp_path, kept):
    steps = ("drawn", "distinct", "geometry", "symmetry", "neutral", "charge", "unique", "novel")
    counts = dict(zip(steps, (9000, 8000, 7, 5, 4, 3, 2, 1), strict=True))
    names = ("lattice_constant", "density", "volume_per_atom", "elements", "prototypes", "space_groups")
    found = {f"test_distance_{name}": 0.1 for name in names}
    for title in ("random", "critic"):
        found |= {f"{title}_{name}": n for name, n in counts.items()}
        found |= {f"{title}_distance_{name}": 0.2 for name in names}
        sample = perovskites([4.0] * kept)
        arrays = {name: getattr(sample, name) for name in ("space_groups", "points", "elements", "lengths")}
        np.savez(tmp_path / f"{title}_sample.npz", possible=np.ones(kept, bool), **arrays)
    write_metrics(tmp_path, found)
    rows = funnel_rows([tmp_path], 0.01, 40)
    distances = [row for row in rows if "distance of" in row.quantity]
    assert len(distances) == 12
    assert {row.n_test for row in distances} == {kept}
    part = "from all of the 5 draws" if kept == 5 else "from the first 3 of the 5 draws"
    assert all(row.note.startswith(f"{part} that pass geometry and symmetry to the training") for row in distances)
    assert {row.n_test for row in rows if row not in distances} == {9000}
    so = {row.quantity: "by construction" in row.note for row in rows if "sites distinct" in row.quantity}
    assert list(so.values()) == [False, True]
    plain = funnel_rows([tmp_path], 1.0, 40)  # all draws are favourites then
    assert not any("by construction" in row.note for row in plain)
