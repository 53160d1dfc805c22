"""For every test: few threads, the tools of this Python first on the path, no driver of a surrounding run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sluice.step import DRIVER_VARIABLE

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
os.environ.pop(DRIVER_VARIABLE, None)
if os.geteuid() == 0:
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return Path(__file__).parents[1]


@pytest.fixture
def sluice_data() -> Path:
    """Reference data, where the environment names them."""
    folder = os.environ.get("SLUICE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SLUICE_DATA is not set: no reference data here")
    return Path(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs of the workflow come first: they take longest, and two workers should end together."""
    items.sort(key=lambda item: (item.path.name != "test_campaign.py", item.path.parent.name != "workflow"))
