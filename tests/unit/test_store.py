"""Stores: what goes in comes out; the old store survives whatever happens to the new; readers refuse by name."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

from sluice.crystals import Crystals
from sluice.errors import StoreError
from sluice.schemas import SCHEMAS, Column
from sluice.store import Store, is_valid_store
from sluice.store_writer import StoreWriter

N = 50


def some_crystals(n: int = N, seed: int = 1) -> Crystals:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 6, n)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Crystals(
        np.eye(3) * rng.uniform(3, 8, (n, 1, 1)),
        offsets,
        rng.integers(1, 80, offsets[-1]).astype(np.uint8),
        rng.uniform(0, 1, (offsets[-1], 3)),
    )


def write(path: Path, n: int = N, seed: int = 1, **options) -> Crystals:
    crystals = some_crystals(n, seed)
    with StoreWriter(path, "candidates", **options) as writer:
        groups = np.full(n, 225, np.int16)
        writer.append([f"c{i}" for i in range(n)], {"requested_space_group": groups}, crystals=crystals)
        writer.drop(["bad"], "too close", detail="0.1 Å")
    return crystals


@pytest.fixture
def store(tmp_path) -> Path:
    write(tmp_path / "a.h5")
    return tmp_path / "a.h5"


def test_words_of_failures_are_not_all_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("sluice.store_writer.MOST_WORDS", 5)
    details = [f"duplicate of c{i // 2}" for i in range(40)] + ["duplicate of c0", "é" * 200, ""]
    with StoreWriter(tmp_path / "a.h5", "candidates") as writer:
        for start in range(0, len(details), 7):
            part = details[start : start + 7]
            names = [f"bad{start + i}" for i in range(len(part))]
            writer.drop(names, ["duplicate", "known"][start % 2], detail=part)
            assert all(len(book) <= 5 for book in writer._vocabulary.values())
    with Store(tmp_path / "a.h5", "candidates") as store:
        failures = store.failures()
        assert failures.detail[:41] == details[:41] and failures.detail[42] == ""
        assert failures.detail[41] == "é" * 126 + "…"  # cut to 256 bytes, and shown to be
        assert store.reasons() == {"duplicate": 22, "known": 21}
    with h5py.File(tmp_path / "a.h5") as handle:
        assert handle["failures/detail_words"].dtype == "S256" and handle["failures/reason_words"].dtype == "S9"


def test_round_trip(tmp_path):
    crystals = write(tmp_path / "a.h5", campaign="x", round_number=2, revision=3, settings={"b": 1})
    with Store(tmp_path / "a.h5", "candidates") as store:
        assert len(store) == N and store.ids()[:2] == ["c0", "c1"]
        back = store.crystals()
        np.testing.assert_array_equal(back.lattice, crystals.lattice)
        np.testing.assert_array_equal(back.numbers, crystals.numbers)
        np.testing.assert_array_equal(back.frac_coords, crystals.frac_coords)
        assert store.structure_hashes() == [h.decode() for h in crystals.structure_hashes()]
        assert store.counts == {"in": N + 1, "made": 0, "merged": 0, "out": N, "rejected": 1, "failed": 0}
        failures = store.failures()
        assert (failures.candidate_id, failures.kind) == (["bad"], ["rejected"])
        assert (failures.reason, failures.detail) == (["too close"], ["0.1 Å"])
        assert store.attributes["campaign"] == "x" and store.attributes["round"] == 2
        assert store.attributes["revision"] == 3 and json.loads(store.attributes["settings"]) == {"b": 1}
        assert json.loads(store.attributes["created_with"])["numpy"] == np.__version__


def test_chunks_cover_all_rows_in_order(store):
    with Store(store) as opened:
        parts = list(opened.chunks(size=7))
        assert [len(p) for p in parts] == [7] * 7 + [1]
        joined = Crystals.concatenate([p.crystals for p in parts])
        np.testing.assert_array_equal(joined.frac_coords, opened.crystals().frac_coords)
        assert [i.decode() for p in parts for i in p.candidate_id] == opened.ids()
        middle = opened.crystals(10, 20)
        np.testing.assert_array_equal(middle.numbers, opened.crystals()[10:20].numbers)


def test_written_in_pieces_or_at_once_is_the_same(tmp_path):
    crystals = some_crystals()
    digests = set()
    for size in (N, 7):
        with StoreWriter(tmp_path / f"{size}.h5", "candidates") as writer:
            for start in range(0, N, size):
                part = slice(start, start + size)
                ids = [f"c{i}" for i in range(N)][part]
                writer.append(ids, {"requested_space_group": np.full(len(ids), 221)}, crystals=crystals[part])
        with Store(tmp_path / f"{size}.h5") as store:
            digests.add(store.content_sha256)
    assert len(digests) == 1


def test_digest_depends_on_content_not_on_provenance_or_costs(tmp_path):
    def digest(name: str, energy: float, cost: float, **options) -> str:
        columns = {"energy": Column("f8", "eV/atom"), "cost": Column("f8", "s", volatile=True)}
        with StoreWriter(tmp_path / name, "candidates", columns=columns, **options) as writer:
            values = {"requested_space_group": [225], "energy": [energy], "cost": [cost]}
            writer.append(["a"], values, crystals=some_crystals(1))
        with Store(tmp_path / name) as store:
            return store.content_sha256

    base = digest("a.h5", -1.0, 3.0)
    assert digest("b.h5", -1.0, 99.0, campaign="other", revision=7) == base
    assert digest("c.h5", -1.1, 3.0) != base


def test_extra_columns_units_and_missing_values(tmp_path):
    with StoreWriter(tmp_path / "a.h5", "candidates", columns={"gap": Column("f8", "eV")}) as writer:
        values = {"requested_space_group": [1, 2], "gap": [np.nan, 1.5]}
        writer.append(["a", "b"], values, crystals=some_crystals(2))
    with Store(tmp_path / "a.h5") as store:
        assert store.columns["gap"].unit == "eV"
        np.testing.assert_array_equal(store.column("gap"), [np.nan, 1.5])
        with pytest.raises(StoreError, match=r"no column 'nope'.*gap"):
            store.column("nope")


def test_empty_store_is_valid(tmp_path):
    with StoreWriter(tmp_path / "a.h5", "candidates"):
        pass
    with Store(tmp_path / "a.h5", "candidates") as store:
        assert len(store) == 0 and len(store.crystals()) == 0 and list(store.chunks()) == []
        assert store.reasons() == {} and sum(store.counts.values()) == 0


def test_rows_without_crystals(tmp_path):
    with StoreWriter(tmp_path / "a.h5", "decision", with_crystals=False) as writer:
        writer.append(["round_1"], {"stop": [True], "reason": ["enough"]})
    with Store(tmp_path / "a.h5", "decision") as store:
        assert not store.has_crystals and store.rows().crystals is None
        assert store.text("reason") == ["enough"] and bool(store.column("stop")[0])


def test_funnel_counts(tmp_path):
    with StoreWriter(tmp_path / "a.h5", "candidates") as writer:
        writer.append(["a"], {"requested_space_group": [225]}, crystals=some_crystals(1))
        writer.drop(["b", "c"], ["x", "y"])
        writer.drop(["d"], "y", kind="failed")
        writer.count(merged=2, came_in=6)
    with Store(tmp_path / "a.h5") as store:
        assert store.counts == {"in": 6, "made": 0, "merged": 2, "out": 1, "rejected": 2, "failed": 1}
        assert store.reasons() == {"x": 1, "y": 2}


def test_sums_that_do_not_add_up_are_refused(tmp_path):
    with pytest.raises(StoreError, match="do not add up"), StoreWriter(tmp_path / "a.h5", "candidates") as writer:
        writer.append(["a"], {"requested_space_group": [225]}, crystals=some_crystals(1))
        writer.count(came_in=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "crystals", "message"),
    [
        ({}, 1, "missing columns"),
        ({"requested_space_group": [1], "foo": [1]}, 1, "unknown columns"),
        ({"requested_space_group": [1, 2]}, 1, "shape"),
        ({"requested_space_group": [1]}, 2, "with 2 crystals"),
        ({"requested_space_group": [1]}, None, "with 0 crystals"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, values, crystals, message):
    with pytest.raises(StoreError, match=message), StoreWriter(tmp_path / "a.h5", "candidates") as writer:
        writer.append(["a"], values, crystals=None if crystals is None else some_crystals(crystals))
    assert not (tmp_path / "a.h5").exists()


def test_long_text_is_refused_not_cut(tmp_path):
    with pytest.raises(StoreError, match="longer than 64"), StoreWriter(tmp_path / "a.h5", "candidates") as writer:
        writer.append(["x" * 65], {"requested_space_group": [1]}, crystals=some_crystals(1))


def test_unknown_schema_is_refused(tmp_path):
    with pytest.raises(StoreError, match="unknown schema 'nope'"):
        StoreWriter(tmp_path / "a.h5", "nope")


def test_missing_wrong_schema_and_wrong_version(store, tmp_path):
    with pytest.raises(StoreError, match=r"b\.h5: no such store"):
        Store(tmp_path / "b.h5")
    with pytest.raises(StoreError, match=r"a\.h5: schema is 'candidates', expected ranked or scored"):
        Store(store, ("ranked", "scored"))
    edit(store, lambda handle: handle.attrs.__setitem__("schema_version", 99))
    with pytest.raises(StoreError, match="schema_version of 'candidates' is 99, not 1"):
        Store(store)


def edit(path: Path, change) -> None:
    with h5py.File(path, "r+") as handle:
        change(handle)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_file_is_refused_by_name(store, share):
    size = store.stat().st_size
    os.truncate(store, int(size * share))
    with pytest.raises(StoreError, match=r"a\.h5: .*(truncated or foreign|cannot be read|damaged)"):
        Store(store)
    assert not is_valid_store(store)


def test_foreign_files_are_refused_by_name(tmp_path):
    (tmp_path / "text.h5").write_text("not HDF5 at all")
    with pytest.raises(StoreError, match=r"text\.h5: not a readable HDF5 file"):
        Store(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as handle:
        handle["x"] = np.arange(3)
    with pytest.raises(StoreError, match=r"other\.h5: not a Sluice store .*'schema'"):
        Store(tmp_path / "other.h5")
    with pytest.raises(StoreError, match="not a readable HDF5 file"):
        Store(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["crystals/lattice", "crystals/numbers", "ids/candidate_id", "properties/requested_space_group", "failures/reason"],
)
def test_edited_value_is_refused_naming_the_dataset(store, name):
    def change(handle):
        values = handle[name][:]
        values.reshape(-1)[0] = b"zzz" if values.dtype.kind == "S" else values.reshape(-1)[0] + 1
        handle[name][:] = values

    edit(store, change)
    with pytest.raises(StoreError, match=f"a.h5: dataset '{name}' does not match its digest"):
        Store(store)
    Store(store, verify=False).__exit__()


def test_edited_digest_or_unit_or_count_is_refused(store, tmp_path):
    edit(store, lambda h: h["crystals/lattice"].attrs.__setitem__("units", "bohr"))
    with pytest.raises(StoreError, match="crystals/lattice"):
        Store(store)
    write(store)
    edit(store, lambda h: h.attrs.__setitem__("count_out", 3))
    with pytest.raises(StoreError, match="content_sha256"):
        Store(store)
    write(store)
    edit(store, lambda h: h["properties/requested_space_group"].attrs.__setitem__("sha256", "0" * 64))
    with pytest.raises(StoreError, match="requested_space_group"):
        Store(store)


@pytest.mark.parametrize("name", ["properties/requested_space_group", "ids/parent_id", "failures/kind"])
def test_missing_dataset_is_refused_by_name(store, name):
    edit(store, lambda handle: handle.__delitem__(name))
    with pytest.raises(StoreError, match=f"a.h5: dataset '{name}' is missing"):
        Store(store)


def test_error_inside_leaves_the_old_store(store):
    before = store.read_bytes()
    with pytest.raises(ZeroDivisionError), StoreWriter(store, "candidates"):
        raise ZeroDivisionError
    assert store.read_bytes() == before
    assert [p.name for p in store.parent.iterdir()] == ["a.h5"]


def test_left_over_temporary_files_are_removed(store):
    (store.parent / ".a.h5.1234.tmp").write_text("from a killed process")
    write(store)
    assert [p.name for p in store.parent.iterdir()] == ["a.h5"]


CHILD = """
    import sys, os, signal
    sys.path.insert(0, {here!r})
    from pathlib import Path
    import numpy as np
    from test_store import some_crystals
    from sluice.store_writer import StoreWriter
    {first}
    with StoreWriter(Path(sys.argv[1]), "candidates") as writer:
        for part in range({parts}):
            n = 20_000
            ids = [f"p{{part}}-{{i}}" for i in range(n)]
            writer.append(ids, {{"requested_space_group": np.full(n, 225)}}, crystals=some_crystals(n, part))
            {each}
"""


FORGET = """
from sluice import store_writer
write = store_writer._Output.write
def forgetful(self, data):
    try:
        return write(self, data)
    except OSError:
        sys._clear_type_cache()  # what Python looks up now, with the error still raised, it does not find
        raise
store_writer._Output.write = forgetful
"""


def run_child(
    path: Path, *, parts: int = 3, each: str = "pass", first: str = "", **options
) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(CHILD).format(here=str(Path(__file__).parent), parts=parts, each=each, first=first)
    return subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False, **options
    )


def test_sigkill_in_the_middle_leaves_the_old_store(store):
    before = store.read_bytes()
    killed = run_child(store, each="os.kill(os.getpid(), signal.SIGKILL)")
    assert killed.returncode == -signal.SIGKILL
    assert any(p.name.endswith(".tmp") for p in store.parent.iterdir()), "it was not killed in the middle"
    assert store.read_bytes() == before
    with Store(store) as opened:
        assert len(opened) == N


@pytest.mark.parametrize("first", ["", FORGET])
def test_file_size_limit_leaves_the_old_store(store, first):
    """A limit on the file size fails writes as a full quota does; HDF5 goes on writing after the first that fails."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    before = store.read_bytes()
    done = run_child(store, preexec_fn=limit, first=first)
    assert done.returncode == 1
    assert "StoreError" in done.stderr and "a.h5: cannot be written" in done.stderr
    assert "older store of that name is untouched" in done.stderr
    assert store.read_bytes() == before
    assert [p.name for p in store.parent.iterdir()] == ["a.h5"]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_leaves_the_old_store(small_disk):
    path = small_disk / "a.h5"
    write(path)
    before = path.read_bytes()
    done = run_child(path)
    assert done.returncode == 1, "the process must end with its message, not crash"
    message = done.stderr.split("StoreError: ")[-1]
    assert "a.h5: cannot be written" in message and "No space left" in message and "MiB free there" in message
    assert path.read_bytes() == before
    assert [p.name for p in small_disk.iterdir()] == ["a.h5"]
    write(path, n=5)
    assert is_valid_store(path)


def test_every_schema_can_be_written_empty(tmp_path):
    for name in SCHEMAS:
        with StoreWriter(tmp_path / f"{name}.h5", name):
            pass
        with Store(tmp_path / f"{name}.h5", name) as store:
            assert set(store.columns) == set(SCHEMAS[name][1])
            for column, given in store.columns.items():
                assert (given.dtype, given.unit) == (
                    np.dtype(SCHEMAS[name][1][column].dtype).str.lstrip("<|=>"),
                    SCHEMAS[name][1][column].unit,
                )


def test_inputs_of_one_name_are_kept_apart(tmp_path):
    for folder in ("references", "compounds"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "batch_0.h5").write_text(folder)
    inputs = [tmp_path / folder / "batch_0.h5" for folder in ("references", "compounds")]
    with StoreWriter(tmp_path / "made.h5", "decision", with_crystals=False, inputs=inputs):
        pass
    with Store(tmp_path / "made.h5") as store:
        assert len(json.loads(store.attributes["inputs_sha256"])) == 2
