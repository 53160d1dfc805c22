"""POTCARs: found, identified, missed with words that help."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
from fake_potcars import text, write_potcars
from pymatgen.core import SETTINGS
from pymatgen.io.vasp.inputs import PotcarSingle

from sluice.errors import MissingProgramError
from sluice.validate.vasp.potcars import find_potcars


def test_identity_is_that_of_the_text_compressed_or_not(tmp_path: Path) -> None:
    plain = find_potcars(write_potcars(tmp_path / "plain", ["Na"]), "PBE").potcar("Na_pv")
    folder = tmp_path / "packed" / "POT_GGA_PAW_PBE"
    folder.mkdir(parents=True)
    (folder / "POTCAR.Na_pv.gz").write_bytes(gzip.compress(text("Na").encode()))
    packed = find_potcars(tmp_path / "packed", "PBE").potcar("Na_pv")
    assert plain.sha256 == packed.sha256 == hashlib.sha256(text("Na").encode()).hexdigest()
    assert plain.titel == packed.titel == "PAW_PBE Na_pv 01Jan1970"


def test_pymatgen_takes_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", None)
    library = find_potcars(write_potcars(tmp_path, ["Na"]), "PBE")
    library.use()
    with pytest.warns(UserWarning, match="not known to pymatgen"):
        assert library.potcar("Na_pv").titel == PotcarSingle.from_symbol_and_functional("Na_pv", "PBE").TITEL


def test_what_is_missing_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", None)
    with pytest.raises(
        MissingProgramError, match=r"PMG_VASP_PSP_DIR is not set; set .*validate.vasp.potcars.*pmg config -p"
    ):
        find_potcars(None, "PBE")
    with pytest.raises(MissingProgramError, match="is no directory; set PMG_VASP_PSP_DIR"):
        find_potcars(tmp_path / "nowhere", "PBE")
    library = find_potcars(write_potcars(tmp_path, ["Na"]), "PBE")
    assert library.missing(["Na_pv", "Cl", "K_sv"]) == ["Cl", "K_sv"]
    with pytest.raises(MissingProgramError, match=r"no POTCAR of Cl \(PBE\): looked for .*POTCAR.Cl"):
        library.potcar("Cl")
    (library.folder / "Cl").mkdir()
    (library.folder / "Cl" / "POTCAR").write_text("nothing of the kind")
    with pytest.raises(MissingProgramError, match="has no TITEL"):
        _ = library.potcar("Cl").titel
