"""What the section `validate` of a configuration refuses."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from sluice.config import ValidateSettings
from sluice.config_file import check_config
from sluice.errors import ConfigError


@pytest.mark.parametrize("launch", ["mpirun -np {ranks} --bind {where}", "mpirun -np {}", "mpirun -x 'A=1 -np {ranks}"])
def test_a_launch_command_that_cannot_be_filled_in_is_refused(launch: str) -> None:
    with pytest.raises(ValidationError, match="no other braces"):
        ValidateSettings(launch=launch)


@pytest.mark.parametrize("launch", ["mpirun -np {ranks}", "srun --mpi=pmix -n {ranks}", ""])
def test_usual_launch_commands_pass(launch: str) -> None:
    assert ValidateSettings(launch=launch).launch == launch


def test_more_ranks_than_cores_are_refused_unless_slurm_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)  # no SLURM
    ranks = len(os.sched_getaffinity(0)) + 1
    with pytest.raises(ValidationError, match=r"cores may be used here; give at most"):
        ValidateSettings(ranks=ranks)
    assert ValidateSettings(ranks=ranks, launch="srun -n {ranks}").ranks == ranks


def test_several_ranks_need_a_launcher_that_is_told_how_many() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core only")
    with pytest.raises(ValidationError, match=r"must contain \{ranks\}"):
        ValidateSettings(ranks=2, launch="mpirun")


def test_vasp_has_a_program_of_its_own_and_survives_the_command_line() -> None:
    chosen = ValidateSettings(code="vasp", vasp={"kpar": 2})
    assert (chosen.command, chosen.protocol_name) == ("vasp_std", "MPGGADoubleRelaxStaticMaker")
    assert ValidateSettings.model_validate_json(chosen.model_dump_json()) == chosen
    assert ValidateSettings(code="vasp", command="my-vasp").command == "my-vasp"
    assert (ValidateSettings().command, ValidateSettings().protocol_name) == ("pw.x", "fast")


def test_a_snapshot_of_pbe_energies_goes_with_pbe_only(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="flow must be MPGGADoubleRelaxStaticMaker"):
        ValidateSettings(code="vasp", vasp={"flow": "MP24DoubleRelaxStaticMaker", "references": "snapshot.json"})
    with pytest.raises(ConfigError, match=r"validate.vasp.references = .*none.json.*no such file"):
        check_config({"validate": {"code": "vasp", "vasp": {"references": str(tmp_path / "none.json")}}})
