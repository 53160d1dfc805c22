"""Every mistake in a configuration is found before anything runs, in one message: key, value, allowed, line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import ValidationError

from sluice.config import Config, usable_cores
from sluice.config_composition import CompositionModelSettings
from sluice.config_composition_campaign import CompositionScorerSettings
from sluice.config_docs import walk_keys
from sluice.config_file import check_config, load_config
from sluice.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    def read(text: str) -> Config:
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return load_config(path)

    return read


def message(load, text: str) -> str:
    with pytest.raises(ConfigError) as problem:
        load(text)
    return str(problem.value)


def test_empty_file_is_the_default(load):
    config = load("")
    assert config.model_copy(update={"results": Path("results")}) == Config()
    assert config.results == Path.cwd() / "results"


def test_configuration_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Config().rounds = 3


def test_every_key_is_documented():
    for key in walk_keys():
        assert key.section is not None or key.field.description, f"{key.name} has no description"
        assert key.section is None or key.section.__doc__


def test_default_file_says_every_key_and_nothing_else(repository):
    values = yaml.safe_load((repository / "config" / "config.yaml").read_text())
    assert Config.model_validate(values) == Config()
    for key in walk_keys():
        node = values
        for part in key.name.split("."):
            assert part in node, f"{key.name} is missing"
            node = node[part]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("campaigns: x", ["line 1", "campaigns: unknown key", "campaign"]),
        ("screen:\n  relax:\n    candidate: 3", ["line 3", "screen.relax.candidate", "unknown key", "candidates"]),
        ("rounds: many", ["line 1", "rounds = 'many'", "integer"]),
        ("rounds: 0", ["rounds = 0", "greater than or equal to 1"]),
        ("seed: -1", ["seed = -1"]),
        ("screen:\n  shortlist:\n    dft_cpu_seconds: -5", ["line 3", "dft_cpu_seconds = -5", "greater than 0"]),
        ("chemistry:\n  elements: [Li, Xx, O]", ["line 2", "Xx", "not supported"]),
        ("chemistry:\n  elements: [Li, Ce, O]", ["Ce", "without Ce-Lu"]),
        ("chemistry:\n  elements: [Li, Li, O]", ["listed twice"]),
        ("chemistry:\n  elements: [Li, O]", ["elements", "3"]),
        ("chemistry:\n  space_groups: [225, 12]", ["12", "216"]),
        ("campaign: dft", ["'dft' is reserved"]),
        ("campaign: ../x", ["campaign = '../x'", "letters, digits"]),
        ("campaign: 3", ["campaign = 3", "string"]),
        ("validate:\n  protocol: best", ["protocol = 'best'", "fast"]),
        ("validate:\n  ranks: 2\n  launch: mpirun", ["launch must contain {ranks}"]),
        ("curate:\n  source: files", ["files.path must be given"]),
        ("curate:\n  validation_share: 0.5\n  test_share: 0.5", ["below 0.9"]),
        ("curate:\n  source: files\n  files:\n    path: nowhere", ["line 4", "curate.files.path", "no such file"]),
        ("validate:\n  pseudos: /nowhere", ["line 2", "validate.pseudos = '/nowhere'", "no such file"]),
        ("generate:\n  allowed_elements: [Fe]", ["Fe", "chemistry.elements"]),
        ("chemistry:\n  elements: [Li, O, F]\ngenerate:\n  excluded_elements: [F]", ["2 elements are left"]),
        ("train:\n  generator:\n    base_sites: 4", ["has 4 elements", "elpasolite"]),
        ("curate:\n  build:\n    prototypes: [elpasolite]", ["has 3 elements", "half-heusler"]),
        (
            "chemistry:\n  space_groups: [225]\ncurate:\n  build:\n    prototypes: [heusler, quaternary-heusler]\n"
            "train:\n  generator:\n    base_sites: 4",
            ["has 4 elements", "elpasolite"],
        ),
        (
            "candidates: compositions\nchemistry: {elements: [Li, O, F]}\ncurate: {build: {prototypes: [elpasolite]}}",
            ["none of elpasolite has 3 elements"],
        ),
        ("generate:\n  critic_share: 0.1", ["critic_share", "random_elements"]),
        ("chemistry:\n  space_groups: [221]\ngenerate:\n  space_groups: [225]", ["not among chemistry.space_groups"]),
        ("generate:\n  space_groups: [229]", ["generate.space_groups", "216", "225"]),
        ("screen:\n  score:\n    filters: [{name: x}]", ["give `model`"]),
        ("screen:\n  objectives: []", ["objectives", "1"]),
        ("screen:\n  objectives:\n    - quantity: volume_change", ["direction", "target"]),
        ("screen:\n  objectives:\n    - {quantity: volume_change, target: [2, 1]}", ["[lower, upper]"]),
        (
            "screen:\n  objectives:\n    - {quantity: output, direction: minimize, model: no.ckpt}",
            ["no.ckpt", "no such file"],
        ),
        (
            "screen:\n  objectives:\n    - {quantity: band_gap, direction: minimize}",
            ["line 3: screen.objectives.0.quantity = 'band_gap'", "volume_change", "`output` with a `model`"],
        ),
        ("screen:\n  objectives:\n    - {quantity: output, direction: minimize}", ["quantity = 'output'", "`model`"]),
        (
            "screen:\n  objectives:\n    - {quantity: volume_change, direction: minimize, model: no.ckpt}",
            ["quantity = 'volume_change'", "go together"],
        ),
        ("screen:\n  geometry:\n    max_density: .inf", ["line 3", "max_density = inf", "finite"]),
        ("train:\n  screener:\n    threshold: .nan", ["line 3", "train.screener.threshold", "finite"]),
        (
            "screen:\n  geometry:\n    min_density: 30",
            ["line 2: screen.geometry", "min_density = 30", "max_density = 25"],
        ),
        ("candidates: alloys", ["line 1: candidates = 'alloys'", "crystals", "compositions"]),
        ("candidates: compositions\nrounds: 2", ["line 2: rounds = 2", "allowed: 1"]),
        (
            "candidates: compositions\ngenerate: {space_groups: [225]}",
            ["line 2: generate: space_groups = [225]", "allowed: []"],
        ),
        (
            "candidates: compositions\nscreen:\n  score:\n    filters: [{name: x, experiment: y}]",
            ["line 2: screen: score.filters", "allowed: []"],
        ),
        (
            "candidates: compositions\nscreen:\n  objectives: [{quantity: volume_change, direction: minimize}]",
            ["line 2: screen: objectives", "compositions.shortlist"],
        ),
        ("candidates: compositions\nstop: {confirmed: 3}", ["line 2: stop: confirmed = 3", "allowed: null"]),
        (
            "candidates: compositions\ncurate: {source: files, files: {path: .}}\ncompositions: {data: {path: c.yaml}}",
            ["line 3: compositions: data.path", "give one"],
        ),
        (
            "candidates: compositions\ncompositions:\n  data:\n    path: no.csv",
            ["line 4: compositions.data.path", "no.csv", "no such file"],
        ),
        (
            "candidates: compositions\ncompositions:\n  scorer: {members: 1, uncertainty: false}",
            ["line 2: compositions", "shortlist.exploration = 1", "raise members"],
        ),
        (
            "candidates: compositions\ncompositions:\n  scorer: {task: classification}",
            ["line 3: compositions.scorer.task = 'classification'", "regression"],
        ),
        (
            "candidates: compositions\ncompositions:\n  scorer: {encoding: embedding}",
            [
                "line 3: compositions.scorer.encoding = 'embedding'",
                "`roost`, which learns vectors of the elements itself",
                "allowed: fractions",
                "set model: head or model: elemnet",
            ],
        ),
        (
            "candidates: compositions\ncompositions:\n  scorer:\n    encoding: magpie\n    model: roost",
            ["line 4: compositions.scorer.encoding = 'magpie'", "allowed: fractions", "set model: head, or leave"],
        ),
        *(
            (
                f"candidates: compositions\ncompositions:\n  scorer: {{model: elemnet, encoding: {encoding}}}",
                [
                    f"line 3: compositions.scorer.encoding = '{encoding}'",
                    "allowed: fractions, embedding",
                    "model: head",
                ],
            )
            for encoding in ("onehot", "magpie")
        ),
        (
            "candidates: compositions\ncompositions:\n  scorer: {model: head, encoding: embedding}",
            ["line 2: compositions", "vectors that a WGAN learns", "'matgan' has none", "generator.model: wgan"],
        ),
        (
            "candidates: compositions\ncompositions:\n  scorer: {model: head, encoding: vectors}",
            ["line 3: compositions.scorer.encoding = 'vectors'", "embedding"],
        ),
        (
            "candidates: compositions\ncompositions:\n  generator: {model: cubicgan}",
            ["line 3: compositions.generator.model", "wgan"],
        ),
        ("candidates: compositions\ngenerate: {allowed_elements: [Li]}", ["1 elements are left", "at least 2"]),
        ("compositions: {shortlist: {size: 3}}", ["line 1: compositions", "set candidates: compositions"]),
        ("rounds: 1\nrounds: 2", ["rounds", "given twice", "lines 1 and 2"]),
        ("train: 3", ["train"]),
        ("- a\n- b", ["must hold keys and values"]),
        ("a: [", ["not valid YAML"]),
        ("a: !!python/object:os.system {}", ["not valid YAML"]),
    ],
)
def test_mistakes_are_named(load, text, words):
    found = message(load, text)
    assert "c.yaml" in found
    for word in words:
        assert word in found, found


def test_more_ranks_than_cores(load, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)  # no SLURM
    cores = len(os.sched_getaffinity(0))
    found = message(load, f"validate:\n  ranks: {cores + 1}")
    assert f"ranks is {cores + 1}" in found and f"{cores} cores" in found
    assert load(f"validate:\n  ranks: {cores + 1}\n  launch: srun -n {{ranks}}").validate_.ranks == cores + 1


def test_only_cores_that_may_be_used_count(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cores() == 3
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # a small job that reads the configuration of larger ones
    assert usable_cores() == 64


def test_all_problems_in_one_message(load):
    found = message(load, "rounds: 0\nfoo: 1\nvalidate:\n  protocol: best\ncampaign: dft\n")
    for word in ("rounds = 0", "foo: unknown key", "protocol = 'best'", "reserved"):
        assert word in found


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such configuration file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00a: 1")
    with pytest.raises(ConfigError, match=r"b\.yaml: not valid YAML"):
        load_config(tmp_path / "b.yaml")


def test_relative_paths_mean_the_file_for_inputs_and_the_current_directory_for_outputs(tmp_path, monkeypatch):
    (tmp_path / "conf" / "cifs").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = tmp_path / "conf" / "c.yaml"
    path.write_text("results: out\nvalidate: {scratch: work}\ncurate: {source: files, files: {path: cifs}}\n")
    config = load_config(path)
    assert config.curate.files.path == tmp_path / "conf" / "cifs"
    assert config.workdir == tmp_path / "elsewhere" / "out" / "halides"
    assert config.validate_.scratch == tmp_path / "elsewhere" / "work"
    assert config.library == tmp_path / "elsewhere" / "out" / "dft"


@pytest.mark.parametrize(
    ("model", "encodings"),
    [
        ("roost", ["fractions"]),
        ("elemnet", ["fractions", "embedding"]),
        ("head", ["fractions", "onehot", "magpie", "embedding"]),
    ],
)
def test_models_of_compositions_take_the_encodings_that_they_look_at(load, model, encodings):
    for encoding in encodings:
        for settings in (CompositionModelSettings, CompositionScorerSettings):
            assert settings(model=model, encoding=encoding).encoding == encoding
    left = [e for e in get_args(CompositionModelSettings.model_fields["encoding"].annotation) if e not in encodings]
    for encoding in left:
        for settings in (CompositionModelSettings, CompositionScorerSettings):
            with pytest.raises(ValueError, match=rf"encoding\n.*model is `{model}`.*allowed: {', '.join(encodings)}"):
                settings(model=model, encoding=encoding)
    without = load(f"candidates: compositions\ncompositions: {{scorer: {{model: {model}}}}}")
    assert without.compositions.scorer.encoding == "fractions"


@pytest.mark.parametrize(
    "text",
    [
        "rounds: 2\nvalidate: {ranks: 1}\n",
        "candidates: compositions\ncompositions: {data: {path: c.yaml}, generator: {model: matgan}}\n",
    ],
)
def test_written_and_read_again_is_the_same(load, text, tmp_path):
    config = load(text)
    assert load(yaml.safe_dump(config.model_dump(mode="json", by_alias=True))) == config


def test_table_of_formulas_lies_beside_the_configuration(load, tmp_path):
    config = load("candidates: compositions\ncompositions: {data: {path: c.yaml}}")
    assert config.compositions.data.path == tmp_path / "c.yaml"
    assert not config.curates_crystals and not config.builds_database
    from_crystals = load("candidates: compositions")
    assert from_crystals.curates_crystals and from_crystals.builds_database


def test_values_without_a_file_are_checked_too():
    with pytest.raises(ConfigError, match="configuration cannot be run"):
        check_config({"rounds": 0})
