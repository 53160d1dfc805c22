"""The command: quick to answer, one red message for a user's mistakes, campaigns found by name."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from sluice.cli import app, find_campaign
from sluice.config import Config
from sluice.config_file import load_config
from sluice.driver.launch import RunOptions, Workflow, find_profile, store_config
from sluice.driver.run import is_last_config, rebuild_report
from sluice.errors import SluiceError

COMMANDS = ("run", "resume", "status", "report", "doctor", "pseudos", "score", "dft", "config")


def call(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == code, result.output
    return re.sub(r"\x1b\[[0-9;]*m", "", result.output)


@pytest.fixture
def campaign(tmp_path, monkeypatch) -> Config:
    """A campaign that has been started once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("campaign: mine\nrounds: 2\n")
    config = load_config(tmp_path / "c.yaml")
    store_config(config)
    return config


def test_help_names_every_command():
    text = call("--help")
    for name in COMMANDS:
        assert name in text
        assert call(name, "--help")


def test_help_imports_nothing_heavy():
    code = "import sys, sluice.cli; print({'torch', 'pymatgen', 'numpy', 'snakemake', 'h5py'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_mistakes_are_one_message_without_traceback(tmp_path):
    (tmp_path / "bad.yaml").write_text("rounds: 0\nfoo: 1\n")
    for command in ("run", "doctor", "resume", "status"):
        done = subprocess.run(
            [sys.executable, "-m", "sluice.cli", command, str(tmp_path / "bad.yaml")],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("Error: ") and "Traceback" not in done.stderr
        assert "line 1: rounds = 0" in done.stderr and "line 2: foo: unknown key" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yaml"]


def test_unknown_step_and_profile_are_refused(campaign, tmp_path):
    assert "no such step; steps are: collect_crystals" in call("run", "c.yaml", "--until", "nope", code=2)
    assert "no such profile; there are: default" in call("run", "c.yaml", "--profile", "nope", code=2)
    assert not (campaign.workdir / "lease.json").exists()


def test_missing_programs_stop_the_run_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("validate: {command: no-such-pw.x}\n")
    text = call("run", "c.yaml", code=2)
    assert "no-such-pw.x: not found" in text and "apt-get install quantum-espresso" in text
    assert not (tmp_path / "results").exists()


def test_campaign_is_found_by_name_directory_configuration_or_alone(campaign, tmp_path):
    for name in (None, "mine", "results/mine", "c.yaml"):
        assert find_campaign(name) == campaign
    with pytest.raises(SluiceError, match="no campaign of that name"):
        find_campaign("other")
    store_config(campaign.model_copy(update={"campaign": "second"}))
    with pytest.raises(SluiceError, match=r"several campaigns .* mine, second"):
        find_campaign(None)
    assert find_campaign("mine") == campaign


def test_without_any_campaign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "start one with `sluice run CONFIG`" in call("resume", code=2)


def test_stored_configuration_is_what_was_run_last(campaign, tmp_path):
    assert is_last_config(campaign)
    (tmp_path / "c.yaml").write_text("campaign: mine\nrounds: 3\n")
    assert not is_last_config(load_config(tmp_path / "c.yaml"))
    assert find_campaign("c.yaml").rounds == 2, "resume goes on with the configuration last used"


def test_relative_paths_survive_in_the_stored_configuration(tmp_path, monkeypatch):
    (tmp_path / "conf" / "cifs").mkdir(parents=True)
    (tmp_path / "conf" / "c.yaml").write_text("curate: {source: files, files: {path: cifs}}\n")
    monkeypatch.chdir(tmp_path)
    config = load_config(tmp_path / "conf" / "c.yaml")
    assert load_config(store_config(config)).curate.files.path == tmp_path / "conf" / "cifs"


def test_status_of_a_campaign_that_has_not_begun(campaign):
    text = call("status", "--once")
    assert "campaign mine: 0/" in text and "not running" in text


def test_report_before_the_first_decision(campaign):
    assert "no round is finished yet" in call("report", code=2)
    with pytest.raises(SluiceError, match="nothing to report"):
        rebuild_report(campaign)


def test_doctor_says_what_is_missing(tmp_path):
    (tmp_path / "c.yaml").write_text("validate: {command: no-such-pw.x}\n")
    text = call("doctor", str(tmp_path / "c.yaml"), code=1)
    assert "no-such-pw.x" in text and "cannot run here yet" in text


def test_default_configuration_can_be_printed_and_read(tmp_path):
    assert Config.model_validate(yaml.safe_load(call("config", "default"))) == Config()
    schema = json.loads(call("config", "schema"))
    assert {"campaign", "chemistry", "validate"} <= set(schema["properties"])
    (tmp_path / "c.yaml").write_text("campaign: x\n")
    assert "campaign x" in call("config", "check", str(tmp_path / "c.yaml"))


def test_pseudopotentials_from_a_directory_without_them(tmp_path):
    assert "not auto, debian, archive or a directory" in call("pseudos", "install", "--from", "/nowhere", code=2)
    (tmp_path / "empty").mkdir()
    words = ["pseudos", "install", "--from", str(tmp_path / "empty"), "--directory", str(tmp_path / "to")]
    assert "could not be installed" in call(*words, code=2)
    assert not (tmp_path / "to").exists()


def test_tools_refuse_missing_files_and_wrong_protocols(tmp_path):
    assert "no such file or directory: a.cif" in call("dft", "a.cif", code=2)
    assert "no such file or directory: m.ckpt, in" in call("score", "m.ckpt", "in", "out.csv", code=2)
    (tmp_path / "a.cif").write_text("")
    assert "'balanced'" in call("dft", str(tmp_path / "a.cif"), "--protocol", "best", code=2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("fast", 1, ("Cr", "Mn", "Fe", "Co", "Ni"))),
        (["--config", "c.yaml"], ("balanced", 1, ("Ni",))),
        (["--config", "c.yaml", "--protocol", "stringent"], ("stringent", 1, ("Ni",))),
    ],
)
def test_dft_takes_from_the_configuration_what_no_option_says(options, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.cif").write_text("")
    (tmp_path / "c.yaml").write_text("validate: {protocol: balanced, spin_elements: [Ni]}\n")
    given = {}
    monkeypatch.setattr("sluice.validate.compute_files.dft_files", lambda files, **values: given.update(values) or [])
    call("dft", "a.cif", *options, "--elements", "Ni,Pt", code=1)
    assert given["elements"] == ("Ni", "Pt")
    assert (given["settings"].protocol, given["settings"].ranks, given["settings"].spin_elements) == expected


MP24 = "MP24DoubleRelaxStaticMaker"


@pytest.mark.parametrize(
    ("config", "options", "expected"),
    [
        ("{}", [], ("espresso", "pw.x", "fast")),
        ("{}", ["--code", "vasp"], ("vasp", "vasp_std", "MPGGADoubleRelaxStaticMaker")),
        ("{command: my-pw.x}", ["--code", "vasp"], ("vasp", "vasp_std", "MPGGADoubleRelaxStaticMaker")),
        ("{code: vasp, command: my-vasp}", [], ("vasp", "my-vasp", "MPGGADoubleRelaxStaticMaker")),
        (
            "{code: vasp, vasp: {flow: MP24DoubleRelaxStaticMaker}}",
            [],
            ("vasp", "vasp_std", "MP24DoubleRelaxStaticMaker"),
        ),
    ],
)
def test_each_code_has_a_program_of_its_own(config, options, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.cif").write_text("")
    (tmp_path / "c.yaml").write_text(f"validate: {config}\n")
    given = {}
    monkeypatch.setattr("sluice.validate.compute_files.dft_files", lambda files, **values: given.update(values) or [])
    call("dft", "a.cif", "--config", "c.yaml", *options, code=1)
    settings = given["settings"]
    assert (settings.code, settings.command, settings.protocol_name) == expected


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ("Li,Xx", "'Xx' is not supported; allowed are the elements from H to Bi"),
        ("Li,na", "'na' is not supported"),
        ("U", "'U' is not supported"),
        ("Li,Li", "an element is listed twice"),
        ("Li F", "'Li F' is not supported"),
        (" , ", "give element symbols with commas between them"),
    ],
)
def test_elements_of_dft_must_be_symbols(tmp_path, elements, words):
    (tmp_path / "a.cif").write_text("")
    text = call("dft", str(tmp_path / "a.cif"), "--elements", elements, code=2)
    assert "--elements" in text and words in text


def test_command_line_of_snakemake(repository, tmp_path, monkeypatch):
    monkeypatch.setattr("sluice.driver.launch.count_gpus", lambda: 2)
    command = Workflow(repository, tmp_path / "c.yaml", RunOptions(3, None, ("rank_candidates",))).command("--x")
    text = " ".join(command)
    assert f"--configfile {tmp_path / 'c.yaml'}" in text and f"--workflow-profile {repository}/profiles/default" in text
    assert "--cores 3 --resources gpu=2 --until rank_candidates --x" in text
    assert "--rerun-incomplete" not in text


def test_cluster_profiles_do_not_tie_jobs_to_this_host(repository, tmp_path, monkeypatch):
    monkeypatch.setattr("sluice.driver.launch.count_gpus", lambda: 2)
    (tmp_path / "config.yaml").write_text("executor: slurm\njobs: 10\n")
    workflow = Workflow(repository, tmp_path / "c.yaml", RunOptions(profile=str(tmp_path)))
    assert not workflow.is_local and "--resources" not in workflow.command()
    assert find_profile(None, repository) == repository / "profiles" / "default"
