"""Inputs: written through ASE, kept as data, changed without touching what was not named."""

import pytest
from espresso_stand_ins import silicon
from pymatgen.core import Lattice, Structure

from sluice.validate.espresso.inputs import INPUT_FILE, EspressoInputs, make_inputs
from sluice.validate.espresso.pseudos import pseudopotential
from sluice.validate.espresso.sets import PROTOCOLS, calculation_settings, k_grid


class FakeLibrary:
    """Names the library's files without having them."""

    def __init__(self, directory):
        self.directory = directory

    def path(self, element):
        return self.directory / pseudopotential(element).file


UPF = '<UPF version="2.0.1"><PP_HEADER z_valence="{z}"/></UPF>\n'


@pytest.fixture
def library(tmp_path):
    for element, z in (("Si", 4), ("Fe", 16), ("Al", 3)):
        (tmp_path / pseudopotential(element).file).write_text(UPF.format(z=z))
    return FakeLibrary(tmp_path)


def inputs_for(structure, library, calculation="scf", **options):
    settings = calculation_settings(structure, protocol="fast", tier="T30", spin_elements=("Fe",), **options)
    return make_inputs(structure, settings, library, calculation=calculation, outdir=library.directory / "out")


def test_what_is_written_and_read_back_is_the_same(tmp_path, library):
    inputs = inputs_for(silicon(), library)
    inputs.write(tmp_path)
    again = EspressoInputs.read(tmp_path)
    assert again.namelists == inputs.namelists
    assert again.kpoints == inputs.kpoints
    assert again.structure == inputs.structure


def test_the_text_holds_the_settings(tmp_path, library):
    inputs_for(silicon(), library, "vc-relax").write(tmp_path)
    text = (tmp_path / INPUT_FILE).read_text().lower()
    for words in ("'vc-relax'", "24.0", "192.0", "'cold'", "press_conv_thr", "k_points automatic", "cell_parameters"):
        assert words in text
    coarse = k_grid(silicon().lattice, PROTOCOLS["fast"].relax_kspacing_per_angstrom)
    assert " ".join(map(str, coarse)) + "  0 0 0" in text  # the relaxation's coarser grid
    assert pseudopotential("Si").file.lower() in text


def test_spin_reaches_the_input(tmp_path, library):
    structure = Structure(Lattice.cubic(2.9), ["Fe", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    inputs_for(structure, library).write(tmp_path)
    text = (tmp_path / INPUT_FILE).read_text()
    assert "nspin            = 2" in text
    fraction = next(line for line in text.splitlines() if "starting_magnetization" in line and "1)" in line)
    assert float(fraction.split("=")[1]) == pytest.approx(3.0 / 16.0, rel=1e-6)


def test_gamma_for_molecules(tmp_path, library):
    inputs_for(silicon(), library, box=True, relax="ions").write(tmp_path)
    assert "K_POINTS gamma" in (tmp_path / INPUT_FILE).read_text()


def test_changes_leave_the_original_alone(library):
    inputs = inputs_for(silicon(), library)
    changed = inputs.changed({"electrons": {"mixing_beta": 0.1, "conv_thr": None}, "ions": {"upscale": 2.0}})
    assert inputs.namelists["electrons"]["mixing_beta"] == 0.5
    assert "ions" not in inputs.namelists
    assert changed.namelists["electrons"]["mixing_beta"] == 0.1
    assert "conv_thr" not in changed.namelists["electrons"]
