"""Data sets: found, fetched from a server of this machine, converted, refused when they are not what they were."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import pickle
import threading
from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split
from typer.testing import CliRunner

from sluice.cli import app
from sluice.datasets import fetch, registry
from sluice.datasets.converters import hea_splits, plain_pickle_to_json
from sluice.datasets.fetch import content_digest, fetch_data
from sluice.datasets.plain_pickle import read_plain_pickle
from sluice.datasets.registry import DataSet, DataSetError, local_copy, require_data
from sluice.errors import BadDataError, MissingProgramError

NAMES = list(registry.registry())


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that keeps its mouth shut."""

    def log_message(self, format, *args):
        """Say nothing."""


@pytest.fixture
def server(tmp_path):
    """Folder of published files and its address."""
    folder = tmp_path / "published"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def digest(content):
    return hashlib.sha256(content).hexdigest()


TABLE = b"formula,class\nNaCl,1\n"


@pytest.fixture
def demo(server, tmp_path, monkeypatch):
    """A registered data set on the server; SLUICE_DATA unset, the cache in a folder of its own."""
    folder, address = server
    (folder / "table.csv").write_bytes(TABLE)
    values = {"a": {"k": 1.5}, "b": [1, 2.0, "x", None, True]}
    (folder / "dict.pkl").write_bytes(pickle.dumps(values))
    plain = json.dumps(values).encode()
    entry = DataSet(
        title="demo",
        licence="CC0",
        citation="Nobody 2020",
        homepage=address,
        sources={
            "table.csv": {"url": f"{address}/table.csv", "sha256": digest(TABLE)},
            "in/a/folder/dict.pkl": {"url": f"{address}/dict.pkl"},
        },
        files=(
            {"path": "table.csv.gz", "sources": ("table.csv",), "sha256": digest(TABLE)},
            {
                "path": "deep/d.json",
                "sources": ("in/a/folder/dict.pkl",),
                "converter": "plain_pickle_to_json",
                "sha256": digest(plain),
            },
        ),
        required=("table.csv.gz",),
    )
    monkeypatch.setattr(registry, "registry", lambda: {"demo": entry})
    monkeypatch.delenv("SLUICE_DATA", raising=False)
    monkeypatch.setenv("SLUICE_CACHE", str(tmp_path / "cache"))
    return entry


def test_fetched_converted_and_found(demo, tmp_path):
    assert local_copy("demo") is None
    folder = fetch_data("demo")
    assert folder == tmp_path / "cache" / "data" / "demo" == require_data("demo")
    assert gzip.decompress((folder / "table.csv.gz").read_bytes()) == TABLE
    assert json.loads((folder / "deep" / "d.json").read_text())["a"] == {"k": 1.5}
    note = (folder / "SOURCE.txt").read_text()
    assert "CC0" in note and "Nobody 2020" in note and "table.csv" in note
    assert sorted(p.name for p in folder.iterdir()) == ["SOURCE.txt", "deep", "table.csv.gz"]


def test_fetched_to_a_directory_serves_as_sluice_data(demo, tmp_path, monkeypatch):
    fetch_data("demo", tmp_path / "mine")
    monkeypatch.setenv("SLUICE_DATA", str(tmp_path / "mine"))
    assert require_data("demo") == tmp_path / "mine" / "demo"


def test_missing_data_names_the_command_and_the_variable(demo, monkeypatch, tmp_path):
    with pytest.raises(MissingProgramError, match=r"sluice data fetch demo.*set SLUICE_DATA.*SLUICE_DATA is not set"):
        require_data("demo")
    monkeypatch.setenv("SLUICE_DATA", str(tmp_path))
    with pytest.raises(MissingProgramError, match=r"lacks table\.csv\.gz"):
        require_data("demo")


def test_a_changed_file_is_refused_and_nothing_is_left_to_be_found(demo, server):
    (server[0] / "table.csv").write_bytes(b"something else")
    with pytest.raises(DataSetError, match="is not the file it was"):
        fetch_data("demo")
    assert local_copy("demo") is None


def test_a_changed_content_is_refused_where_only_the_product_is_pinned(demo, server):
    (server[0] / "dict.pkl").write_bytes(pickle.dumps({"a": 2}))
    with pytest.raises(DataSetError, match=r"d\.json was made, but its SHA-256 is"):
        fetch_data("demo")


def test_a_file_without_a_digest_is_fetched_and_told_of(demo, server, monkeypatch):
    table, converted = demo.files
    loose = demo.model_copy(update={"files": (table, converted.model_copy(update={"sha256": None}))})
    monkeypatch.setattr(registry, "registry", lambda: {"demo": loose})
    (server[0] / "dict.pkl").write_bytes(pickle.dumps({"a": 2}))
    folder = fetch_data("demo")
    assert json.loads((folder / "deep" / "d.json").read_text()) == {"a": 2}
    assert "not checked by a digest: deep/d.json\n" in (folder / "SOURCE.txt").read_text()


def test_an_address_that_is_gone_says_so(demo, server):
    (server[0] / "table.csv").unlink()
    with pytest.raises(DataSetError, match=r"table\.csv cannot be fetched .*SLUICE_DATA"):
        fetch_data("demo")


def test_what_cannot_be_fetched_says_why(monkeypatch, demo):
    entry = demo.model_copy(update={"files": (), "by_hand": "ask its authors"})
    monkeypatch.setattr(registry, "registry", lambda: {"demo": entry})
    with pytest.raises(DataSetError, match="ask its authors"):
        fetch_data("demo")
    with pytest.raises(DataSetError, match="no such data set; there are: demo"):
        fetch_data("other")


def test_commands(demo, monkeypatch):
    result = CliRunner().invoke(app, ["data", "fetch", "demo"])
    assert result.exit_code == 0 and "demo: " in result.output
    monkeypatch.setenv("COLUMNS", "400")
    listed = CliRunner().invoke(app, ["data", "list"])
    assert "CC0" in listed.output and "cache/data/demo" in listed.output


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_are_read_without_executing_them(tmp_path, protocol):
    values = {"Ta": {"tm": 3290.15, "vac": 19}, "big": 2**70, "list": [[], (1,), ()], "same": None, "é": -1}
    values["same"] = values["list"]
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(values, protocol=protocol))
    assert read_plain_pickle(path) == values


class Evil:
    """Executes something when it is unpickled."""

    def __reduce__(self):
        return (open, ("/dev/null",))


@pytest.mark.parametrize("content", [pickle.dumps({"a": Evil()}), pickle.dumps(np.float64(1)), b"nonsense", b""])
def test_pickles_that_name_anything_are_refused(tmp_path, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(BadDataError, match="not a pickle of plain values"):
        read_plain_pickle(path)


def test_pairs_as_keys_become_text(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({("Al", "Fe"): -11.0}))
    plain_pickle_to_json([tmp_path / "x.pkl"], tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"Al,Fe": -11.0}


def test_split_is_the_authors_rule(tmp_path):
    rows = pd.DataFrame({"Alloys": [f"Fe{k}Ni" for k in range(1, 41)], "Class": [0, 1] * 20, "Fe": 0.5, "Ni": 0.5})
    features = rows[["Alloys", "Class"]].assign(k=np.arange(40.0))
    (tmp_path / "a.csv").write_text("# a comment\n" + pd.concat([rows, rows[:3]]).to_csv(index=False))
    (tmp_path / "b.csv").write_text(features.to_csv(index=False))
    hea_splits([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "s.csv.gz")
    made = pd.read_csv(tmp_path / "s.csv.gz")
    assert len(made) == 40 and abs(made["k_n"].mean()) < 1e-12
    _, test = train_test_split(rows, test_size=0.1, random_state=42)
    assert made.loc[made["split"] == "test", "Alloys"].tolist() == test["Alloys"].tolist()


def test_split_equals_the_published_one(tmp_path, sluice_data):
    """From the authors' two tables, byte for byte what their stored split says."""
    folder = sluice_data / "hea_dvae"
    if not folder.is_dir():
        pytest.skip("SLUICE_DATA has no hea_dvae")
    sources = []
    for name in ("HEA_top30_comps.csv", "HEA_feature_engineered.csv"):
        (tmp_path / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
        sources.append(tmp_path / name)
    hea_splits(sources, tmp_path / "splits.csv.gz")
    wanted = next(f.sha256 for f in registry.registry()["hea_dvae"].files if f.path == "splits.csv.gz")
    assert content_digest(tmp_path / "splits.csv.gz") == wanted == content_digest(folder / "splits.csv.gz")


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_complete(name):
    entry = registry.find_in_registry(name)
    assert entry.title and entry.licence and entry.citation and entry.homepage.startswith("https://")
    assert entry.required and bool(entry.files) != bool(entry.by_hand)
    for file in entry.files:
        assert set(file.sources) <= set(entry.sources) and file.converter in fetch.converters.CONVERTERS


@pytest.mark.parametrize("name", NAMES)
def test_local_copies_are_what_would_be_fetched(name, sluice_data):
    for file in registry.find_in_registry(name).files:
        path = sluice_data / name / file.path
        if path.is_file() and file.sha256:
            assert content_digest(path) == file.sha256, path
