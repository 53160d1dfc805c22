"""The emulator of VASP, told by each test what to do; its energies come from CHGNet in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymatgen.core import SETTINGS, Lattice, Structure
from vasp_stand_ins import Emulator

from emulated_energies import SOCKET, EnergyServer  # isort: skip, found by vasp_stand_ins
from fake_potcars import write_potcars  # isort: skip

ELEMENTS = ("Na", "Cl", "K", "Mg", "O", "Fe", "F", "Li")


@pytest.fixture(scope="session")
def energies() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vasp") as folder, EnergyServer(Path(folder)):
        yield Path(folder)


@pytest.fixture(scope="session")
def potcars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of fake POTCARs."""
    return write_potcars(tmp_path_factory.mktemp("potcars"), ELEMENTS)


@pytest.fixture
def emulator(energies: Path, potcars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    folder = tmp_path / "emulator"
    folder.mkdir()
    (folder / SOCKET).symlink_to(energies / SOCKET)
    monkeypatch.setenv("VASP_EMULATOR", str(folder))
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(potcars))
    return Emulator(folder)


@pytest.fixture
def halite() -> Structure:
    """NaCl's primitive cell, too large by 5 %."""
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.9), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()
