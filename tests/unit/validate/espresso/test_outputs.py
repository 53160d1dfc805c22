"""The parser on real outputs, whole, cut off anywhere, or empty."""

import math

import pytest
from espresso_stand_ins import DATA, silicon

from sluice.validate.espresso.outputs import parse_duration, parse_output, read_output


def text_of(name: str) -> str:
    return (DATA / name / "pw.out").read_text()


def test_a_whole_scf():
    output = parse_output(text_of("done"))
    assert output.complete
    assert output.version == "6.7MaX"
    assert len(output.energies_ev) == 1
    assert output.energies_ev[0] == pytest.approx(-308.0839, abs=1e-3)
    assert output.magnetization is None
    assert output.error is None
    assert output.n_iterations > 0
    assert output.cpu_seconds > 0
    assert output.structure is None  # an scf prints no new geometry


def test_a_whole_relaxation_has_its_final_geometry_and_energy():
    output = parse_output(text_of("relaxed"), silicon(0.02))
    assert output.complete
    assert output.relaxed
    assert output.final_scf
    assert output.structure is not None
    assert output.structure.composition == silicon().composition
    # Relaxing moves the shifted atom back: the bond approaches a quarter of the body diagonal.
    bond = output.structure.get_distance(0, 1)
    a = (output.structure.volume * 4) ** (1 / 3)
    assert bond == pytest.approx(math.sqrt(3) / 4 * a, rel=0.03)
    # The last energy is the lowest but for the change of basis.
    assert output.energies_ev[-1] < output.energies_ev[0] + 0.5


@pytest.mark.parametrize("name", ["relaxed", "killed_midway", "killed_in_final_scf", "scf_not_converged", "bad_key"])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.21, 0.5, 0.77, 0.93, 0.999])
def test_no_cut_off_output_makes_it_raise(name, share):
    text = text_of(name)
    output = parse_output(text[: int(len(text) * share)], silicon())
    if share < 0.99:
        assert not output.complete


def test_a_geometry_cut_off_in_the_middle_is_not_taken():
    text = text_of("killed_midway")
    start = text.rindex("ATOMIC_POSITIONS")
    one_atom = text[: text.index("\n", text.index("Si", start)) + 1]
    whole = parse_output(text, silicon())
    assert whole.structure is not None
    assert parse_output(one_atom, silicon()).structure is None


def test_killed_in_the_final_scf_counts_as_relaxed():
    output = parse_output(text_of("killed_in_final_scf"), silicon())
    assert output.relaxed
    assert not output.final_scf
    assert not output.complete


@pytest.mark.parametrize(
    ("name", "routine", "message"),
    [
        ("too_few_bands", "setup", "too few bands"),
        ("fixed_occupations_on_a_metal", "electrons", "charge is wrong: smearing is needed"),
        ("bad_pools", "mp_start_pools", "invalid number of pools"),
        ("missing_pseudopotential", "readpp", "not found"),
        ("bad_key", "read_namelists", "no_such_key"),
        ("cell_factor_too_small", "scale_h", "larger cell_factor"),
    ],
)
def test_error_boxes(name, routine, message):
    output = parse_output(text_of(name))
    assert output.error is not None
    assert output.error[0] == routine
    assert message in output.error[1]
    assert not output.complete


def test_out_of_time_prints_job_done_and_is_not_complete():
    output = parse_output(text_of("out_of_time"))
    assert output.job_done
    assert output.out_of_time
    assert not output.complete


def test_a_missing_file_is_an_empty_output(tmp_path):
    assert read_output(tmp_path / "pw.out").empty


@pytest.mark.parametrize(
    ("text", "seconds"), [("7.41s", 7.41), ("1m20.5s", 80.5), ("2h 3m", 7380.0), ("1d 2h 3m", 93780.0), ("", 0.0)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


def test_spin_is_read():
    text = "     Program PWSCF v.6.7MaX starts\n     total magnetization       =     2.00 Bohr mag/cell\n"
    assert parse_output(text).magnetization == 2.0


def test_cells_in_units_of_alat_and_positions_in_bohr():
    text = (
        "CELL_PARAMETERS (alat=  2.00000000)\n   1.0 0.0 0.0\n   0.0 1.0 0.0\n   0.0 0.0 1.0\n\n"
        "ATOMIC_POSITIONS (bohr)\nSi1            1.0    0.0   0.0    0   0   0\n\n"
    )
    structure = parse_output(text).structure
    assert structure is not None
    assert structure.lattice.a == pytest.approx(2 * 0.529177210903)
    assert structure.frac_coords[0] == pytest.approx([0.5, 0.0, 0.0])
    assert structure[0].specie.symbol == "Si"
