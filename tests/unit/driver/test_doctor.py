"""What is missing is named, with what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sluice.config import Config
from sluice.config_file import check_config
from sluice.driver import doctor
from sluice.errors import ConfigError, MissingProgramError


def configured(**values) -> Config:
    return check_config(values)


def executable(folder: Path, name: str, text: str = "exit 0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return folder / name


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine with nothing installed, and no pseudopotentials."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("SLUICE_PSEUDO_DIR", str(tmp_path / "pseudos"))
    return tmp_path / "bin"


def test_packages_of_this_installation_will_do():
    assert doctor.check_packages().ok


def test_missing_and_old_packages_are_named(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy>=99", "no-such-package>=1", "x; extra == 'dev'"])
    check = doctor.check_packages()
    assert check.ok is False and "numpy is" in check.found and "no-such-package is missing" in check.found
    assert "x is missing" not in check.found and "make install" in check.advice


def test_bare_machine(bare):
    config = configured()
    for check, word in (
        (doctor.check_code(config), "pw.x"),
        (doctor.check_launcher(config), "mpirun"),
        (doctor.check_pseudos(config), "pseudopotentials"),
    ):
        assert check.ok is False and check.name == word and check.advice
    assert doctor.check_slurm().ok is None


def test_everything_missing_is_one_message(bare):
    with pytest.raises(MissingProgramError) as problem:
        doctor.require_machine(configured(), local=True)
    text = str(problem.value)
    assert all(word in text for word in ("pw.x: not found", "mpirun: not found", "sluice pseudos install", "apt-get"))


def test_program_by_path(bare, tmp_path):
    program = executable(tmp_path / "elsewhere", "my-pw.x")
    assert doctor.check_code(configured(validate={"command": str(program)})).found == str(program)
    in_a_container = configured(validate={"command": f"{program} exec image.sif pw.x"})
    assert doctor.check_code(in_a_container).found == str(program)
    program.chmod(0o644)
    assert doctor.check_code(configured(validate={"command": str(program)})).ok is False


def test_launcher_that_does_not_start(bare):
    executable(bare, "mpirun", "echo 'mpirun has detected an attempt to run as root.' >&2; exit 1")
    check = doctor.check_launcher(configured())
    assert check.ok is False and "attempt to run as root" in check.found


def test_launcher_starts_a_process(bare):
    executable(bare, "mpirun", '[ "$1 $2 $3" = "-np 1 true" ]')
    check = doctor.check_launcher(configured())
    assert check.ok and check.found.startswith("mpirun -np 1 pw.x (")


LISTED = "MPI plugin types are...\\n\\tpmix\\n\\tnone\\n\\tpmi2\\nspecific pmix plugin versions available: pmix_v4\\n"


@pytest.mark.parametrize(("kind", "ok"), [("pmix", True), ("pmi2", True), ("pmix_v4", True), ("openmpi", False)])
def test_srun_is_asked_for_its_ways_of_starting_mpi(bare, kind, ok):
    executable(bare, "srun", f"printf '{LISTED}' >&2")
    check = doctor.check_launcher(configured(validate={"launch": f"srun --mpi={kind} -n {{ranks}}", "ranks": 8}))
    assert check.ok is ok
    words = f"srun --mpi={kind} -n 8 pw.x (" if ok else "knows no --mpi=openmpi; it has pmix, none, pmi2"
    assert words in check.found


def test_wrong_pseudopotential_is_named(bare, tmp_path):
    from sluice.validate.espresso.pseudos import pseudo_table

    (tmp_path / "pseudos").mkdir()
    (tmp_path / "pseudos" / pseudo_table()["Li"].file).write_text("not the one")
    check = doctor.check_pseudos(configured())
    assert check.ok is False and "md5" in check.found and "li_pbe" in check.found


def test_vasp_and_its_potcars(bare, tmp_path, monkeypatch):
    from pymatgen.core import SETTINGS

    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", None)
    chosen = {"code": "vasp", "launch": ""}
    config = configured(chemistry={"elements": ["Na", "K", "Cl"]}, validate=chosen)
    program, potcars = doctor.check_code(config), doctor.check_pseudos(config)
    assert (program.name, program.ok) == ("vasp_std", False) and "docs/vasp.md" in program.advice
    assert potcars.ok is False and "PMG_VASP_PSP_DIR is not set" in potcars.found and "pmg config -p" in potcars.advice
    for name in ("Na_pv", "K_sv"):
        executable(tmp_path / "potcars" / "POT_GGA_PAW_PBE" / name, "POTCAR", "   TITEL  = PAW_PBE fake")
    config = configured(
        chemistry={"elements": ["Na", "K", "Cl"]}, validate=chosen | {"vasp": {"potcars": str(tmp_path / "potcars")}}
    )
    assert "no POTCARs (PBE) of Cl in" in doctor.check_pseudos(config).found
    with pytest.raises(MissingProgramError, match=r"vasp_std: not found(.|\n)*no POTCARs \(PBE\) of Cl"):
        doctor.require_machine(config, local=False)
    executable(tmp_path / "potcars" / "POT_GGA_PAW_PBE" / "Cl", "POTCAR", "   TITEL  = PAW_PBE fake")
    assert doctor.check_pseudos(config).ok
    program = executable(tmp_path / "elsewhere", "my-vasp")
    assert doctor.check_code(configured(validate=chosen | {"command": str(program)})).ok


def test_models_of_filters_are_looked_for(tmp_path):
    filters = [{"name": "a", "experiment": "one"}, {"name": "b", "experiment": "two", "optional": True}]
    config = configured(results=str(tmp_path), screen={"score": {"filters": filters}})
    needed, optional = doctor.check_filters(config)
    assert (needed.ok, optional.ok) == (False, None)
    assert needed.advice == "sluice experiment one" and "NOT filtered" in optional.found
    model = tmp_path / "experiments" / "two" / "model.ckpt"
    model.parent.mkdir(parents=True)
    model.write_text("")
    assert doctor.check_filters(config)[1].ok is True


def test_directories(tmp_path):
    good = doctor.check_directory("results", tmp_path / "new" / "deep", 1, "advice")
    assert good.ok and "GiB free" in good.found and not (tmp_path / "new").exists()
    full = doctor.check_directory("results", tmp_path, 1 << 60, "advice")
    assert full.ok is False and full.advice == "advice"
    blocked = doctor.check_directory("results", Path("/proc/x"), 1, "advice")
    assert blocked.ok is False and "cannot be written" in blocked.found


def test_gpu_is_needed_only_if_asked_for(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert doctor.check_gpu(configured()).ok is None
    assert doctor.check_gpu(configured(train={"device": "cuda"})).ok is False


def test_gpus_are_counted(monkeypatch, bare):
    from sluice.driver.launch import count_gpus

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert count_gpus() == 0
    executable(bare, "nvidia-smi", "echo 'GPU 0: H'; echo 'GPU 1: H'")
    assert count_gpus() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert count_gpus() == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert count_gpus() == 0


def test_environment_of_a_run(monkeypatch):
    from sluice.driver.launch import environment
    from sluice.step import DRIVER_VARIABLE

    monkeypatch.setenv(DRIVER_VARIABLE, "old:1:1")
    assert environment()[DRIVER_VARIABLE].split(":")[1] == str(os.getpid())
    assert DRIVER_VARIABLE not in environment(local=False), "jobs of a cluster outlive their driver"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert environment()["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"


def test_everything_is_looked_at():
    names = {check.name for check in doctor.examine(configured())}
    assert {"python packages", "GPU", "pw.x", "mpirun", "pseudopotentials", "results", "scratch", "SLURM"} <= names


def test_a_campaign_of_compositions_needs_no_dft(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    config = configured(candidates="compositions")
    checks = {check.name: check.ok for check in doctor.examine(config)}
    assert checks["first principles"] is None and not {"pw.x", "mpirun", "pseudopotentials", "scratch"} & set(checks)
    assert doctor.estimate_space(config).scratch_bytes == 0


def refusal(config: Config, **how) -> str:
    with pytest.raises(ConfigError) as problem:
        doctor.require_machine(config, **({"local": True, "with_dft": False} | how))
    return str(problem.value)


@pytest.fixture
def installed(monkeypatch):
    """A machine on which every program is found."""
    for name in ("check_code", "check_launcher", "check_pseudos"):
        monkeypatch.setattr(doctor, name, lambda _, name=name: doctor.Check(name, True, ""))


def test_directories_that_cannot_be_written_are_one_message(installed, tmp_path):
    assert "results: /proc/x/halides cannot be written" in refusal(configured(results="/proc/x"))
    (tmp_path / "file").write_text("")
    values = {"library": "/proc/library", "scratch": str(tmp_path / "file")}
    config = configured(results=str(tmp_path / "new"), validate=values)
    text = refusal(config, with_dft=True)
    assert "task library: /proc/library cannot be written" in text and "set validate.scratch" in text
    assert "results" not in text and not (tmp_path / "new").exists()
    doctor.require_machine(config, local=True, with_dft=False)


def test_more_threads_than_cores_is_refused_on_this_machine_only(installed, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    config = configured(results=str(tmp_path), train={"threads": 3})
    text = refusal(config)
    assert "train.threads: 3" in text and "2 cores" in text
    doctor.require_machine(config, local=False)
    doctor.require_machine(configured(results=str(tmp_path), train={"threads": 2}), local=True)


def test_more_ranks_than_the_runs_cores_is_refused(installed, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    config = configured(results=str(tmp_path), validate={"ranks": 3})
    text = refusal(config, cores=2, with_dft=True)
    assert "validate.ranks is 3" in text and "--cores" in text and "has 2 cores" in text
    doctor.require_machine(config, local=True, cores=2, with_dft=False)
    doctor.require_machine(config, local=False, cores=2)
    doctor.require_machine(config, local=True)


def test_ranks_of_a_clusters_nodes_are_not_those_of_its_login_node(installed, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    tools = tmp_path / "slurm"
    tools.mkdir()
    (tools / "sbatch").write_text("#!/bin/sh\n")
    (tools / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    config = configured(results=str(tmp_path), validate={"ranks": 32})
    doctor.require_machine(config, local=False)
    assert "validate.ranks is 32" in refusal(config, cores=64, with_dft=True), "but not on this machine alone"


def test_a_gpu_that_is_asked_for_must_be_there(installed, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = configured(results=str(tmp_path), train={"device": "cuda"})
    assert "GPU: none that torch can use" in refusal(config)
    doctor.require_machine(config, local=False)
