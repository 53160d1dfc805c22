"""Formation energies of files: reading, reporting, resuming; and the whole stage once with the real pw.x."""

from __future__ import annotations

import csv
import io
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Composition, Lattice, Structure
from rich.console import Console
from validate_stand_ins import rock_salt, use_table, write_store

from sluice.config import Chemistry, DuplicateSettings, ValidateSettings
from sluice.errors import SluiceError
from sluice.store import Store
from sluice.validate.collect_energies import collect_energies
from sluice.validate.compute_compounds import compute_compounds
from sluice.validate.compute_files import FileEnergy, dft_files
from sluice.validate.compute_references import compute_references
from sluice.validate.espresso.pseudos import find_pseudos, pseudo_table
from sluice.validate.plan_tasks import plan_tasks

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib


def write_cifs(folder: Path) -> list[Path]:
    folder.mkdir()
    rock_salt("Na", "Cl", 5.64).to(str(folder / "halite.cif"))
    rock_salt("Mg", "O", 4.2).to(str(folder / "periclase.cif"))
    (folder / "broken.cif").write_text("data_broken\n_cell_length_a oops\n")
    Structure(Lattice.cubic(4.0), [{"Na": 0.5, "K": 0.5}], [[0.0, 0.0, 0.0]]).to(str(folder / "mixed.cif"))
    Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0.0] * 3, [0.01] * 3]).to(str(folder / "overlap.cif"))
    rock_salt("U", "O", 5.0).to(str(folder / "uranium.cif"))
    names = ("halite", "broken", "mixed", "overlap", "uranium", "periclase")
    return [folder / f"{name}.cif" for name in names]


def compute(tmp_path: Path, inputs: list[Path], text: io.StringIO, **options: Any) -> list[FileEnergy]:
    return dft_files(
        inputs,
        output=tmp_path / "energies.csv",
        settings=ValidateSettings(),
        library=tmp_path / "dft",
        console=Console(file=text, width=160),
        **options,
    )


@pytest.mark.filterwarnings("ignore::UserWarning:pymatgen")
def test_good_files_get_energies_and_bad_ones_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_table(monkeypatch)
    text = io.StringIO()
    entries = compute(tmp_path, write_cifs(tmp_path / "cifs"), text)
    assert [e.raw for e in entries] == pytest.approx([-2.0, *[math.nan] * 4, -2.0], nan_ok=True)
    assert [e.corrected for e in entries] == pytest.approx([-2.307, *[math.nan] * 4, -2.3435], nan_ok=True)
    for entry, words in zip(
        entries[1:5], ("cannot be read", "partially occupied", "closer than", "U not"), strict=True
    ):
        assert entry.reason == "cannot be used" and words in entry.detail and entry.path.name in entry.detail
    with (tmp_path / "energies.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["id"] for row in rows] == ["halite", "broken", "mixed", "overlap", "uranium", "periclase"]
    assert float(rows[0]["formation_energy_ev_per_atom"]) == pytest.approx(-2.0)
    assert rows[1]["formation_energy_ev_per_atom"] == "" and "broken.cif" in rows[1]["detail"]
    # Each file has the tier of its own elements, whatever other files there are.
    assert (rows[0]["tier"], rows[5]["tier"]) == ("T40", "T50")
    with Store(tmp_path / "energies.h5", "results") as store:
        assert store.ids() == ["halite", "periclase"]
        assert store.counts["in"] == 6 and store.counts["failed"] == 4
        digests = [{el: pseudo_table()[el].sha256[:12] for el in pair} for pair in (("Cl", "Na"), ("Mg", "O"))]
        texts = [" ".join(f"{el}:{digest}" for el, digest in found.items()) for found in digests]
        assert store.text("pseudos") == texts == [rows[0]["pseudos"], rows[5]["pseudos"]]
        assert store.rows().parent_id.tolist() == [b"", b""]
    assert rows[1]["pseudos"] == ""
    for words in ("halite.cif", "-2.307", "partially occupied"):
        assert words in text.getvalue()


def test_a_second_call_computes_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = use_table(monkeypatch)
    folder = tmp_path / "cifs"
    folder.mkdir()
    rock_salt("Na", "Cl", 5.64).to(str(folder / "halite.cif"))
    rock_salt("K", "Cl", 6.3).to(str(folder / "sylvite.cif"))
    compute(tmp_path, [folder / "halite.cif"], io.StringIO())
    assert made[-1].calls == 3
    entries = compute(tmp_path, sorted(folder.iterdir()), io.StringIO())
    assert [e.name for e in entries] == ["halite", "sylvite"]
    assert made[-1].calls == 3  # potassium's tier is higher, so chlorine is computed in it as well


def test_a_chemistry_sets_one_tier_for_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = use_table(monkeypatch)
    folder = tmp_path / "cifs"
    folder.mkdir()
    for pair, length in (("NaCl", 5.64), ("KCl", 6.3), ("MgO", 4.2)):
        parts = Composition(pair).elements
        rock_salt(parts[0].symbol, parts[1].symbol, length).to(str(folder / f"{pair}.cif"))
    entries = compute(
        tmp_path, [folder / f"{n}.cif" for n in ("NaCl", "KCl", "MgO")], io.StringIO(), elements=("Na", "K", "Cl", "O")
    )
    assert [e.task.tier for e in entries if e.task] == ["T60", "T60"]  # potassium needs the highest
    assert [e.raw for e in entries] == pytest.approx([-2.0, -2.0, math.nan], nan_ok=True)
    assert entries[2].reason == "cannot be used"
    assert entries[2].detail.endswith("MgO.cif: Mg not among the elements Na, K, Cl, O")
    assert made[-1].calls == 5  # chlorine once


def test_files_of_one_name_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_table(monkeypatch)
    paths = []
    for number, length in enumerate((5.64, 5.7)):
        (tmp_path / str(number)).mkdir()
        paths.append(tmp_path / str(number) / "halite.cif")
        rock_salt("Na", "Cl", length).to(str(paths[-1]))
    assert [e.name for e in compute(tmp_path, paths, io.StringIO())] == ["halite", "halite-2"]


def test_no_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match="no files given"):
        compute(tmp_path, [], io.StringIO())


def programs_or_skip() -> None:
    try:
        find_pseudos().path("Li")
    except SluiceError as error:
        pytest.skip(f"pseudopotentials are missing: {error}")
    if shutil.which("pw.x") is None or shutil.which("mpirun") is None:
        pytest.skip("pw.x is missing")


@pytest.mark.dft
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:cd is deprecated:FutureWarning")  # monty, by jobflow
@pytest.mark.long
def test_the_stage_with_real_calculations(tmp_path: Path) -> None:
    programs_or_skip()
    caesium_chloride = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.17), ["Li", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    overlapping = Structure(Lattice.cubic(3.0), ["Li", "Al"], [[0.0, 0.0, 0.0], [0.1, 0.1, 0.1]])
    shortlist = write_store(
        tmp_path / "shortlist.h5", "shortlist", ["good", "bad"], [caesium_chloride, overlapping], rank=np.array([1, 2])
    )
    known = write_store(tmp_path / "dataset.h5", "dataset", [], [])
    tasks, references, compounds = (tmp_path / f"{name}.h5" for name in ("tasks", "references", "compounds"))
    settings, library = ValidateSettings(batches=1), tmp_path / "dft"
    chemistry = Chemistry(elements=("Li", "Al", "Na"))
    plan_tasks(shortlist=shortlist, settings=settings, chemistry=chemistry, library=library, tasks=tasks)
    compute_references(tasks=tasks, settings=settings, batch=0, library=library, results=references)
    compute_compounds(
        tasks=tasks, references=[references], settings=settings, batch=0, library=library, results=compounds
    )
    collect_energies(
        shortlist=shortlist,
        tasks=tasks,
        references=[references],
        compounds=[compounds],
        known=known,
        settings=settings,
        duplicates=DuplicateSettings(),
        validated=tmp_path / "validated.h5",
    )
    with Store(tmp_path / "validated.h5", "validated") as store:
        assert store.ids() == ["good"]
        # PBE: B2 LiAl lies a tenth of an eV below its elements.
        assert store.column("formation_energy_ev_per_atom")[0] == pytest.approx(-0.113, abs=0.02)
        assert store.column("formation_energy_corrected_ev_per_atom")[0] == pytest.approx(
            store.column("formation_energy_ev_per_atom")[0], abs=1e-12
        )
        assert store.column("space_group").tolist() == [221] and store.column("confirmed").all()
        assert (store.failures().candidate_id, store.failures().reason) == (["bad"], ["atoms overlap"])
        assert store.column("cpu_seconds")[0] > 1.0
