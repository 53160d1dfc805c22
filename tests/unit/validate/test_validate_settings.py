"""What the section `validate` of a configuration refuses."""

from __future__ import annotations

import os

import pytest
from pydantic import ValidationError

from sluice.config import ValidateSettings


@pytest.mark.parametrize("launch", ["mpirun -np {ranks} --bind {where}", "mpirun -np {}", "mpirun -x 'A=1 -np {ranks}"])
def test_a_launch_command_that_cannot_be_filled_in_is_refused(launch: str) -> None:
    with pytest.raises(ValidationError, match="no other braces"):
        ValidateSettings(launch=launch)


@pytest.mark.parametrize("launch", ["mpirun -np {ranks}", "srun --mpi=pmix -n {ranks}", ""])
def test_usual_launch_commands_pass(launch: str) -> None:
    assert ValidateSettings(launch=launch).launch == launch


def test_more_ranks_than_cores_are_refused_unless_slurm_finds_them() -> None:
    ranks = len(os.sched_getaffinity(0)) + 1
    with pytest.raises(ValidationError, match=r"cores may be used here; give at most"):
        ValidateSettings(ranks=ranks)
    assert ValidateSettings(ranks=ranks, launch="srun -n {ranks}").ranks == ranks


def test_several_ranks_need_a_launcher_that_is_told_how_many() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core only")
    with pytest.raises(ValidationError, match=r"must contain \{ranks\}"):
        ValidateSettings(ranks=2, launch="mpirun")
