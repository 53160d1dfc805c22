"""Every handler on the real output of its failure: what it changes, and that it gives up."""

import pytest
from espresso_stand_ins import copy_case

from sluice.validate.espresso import handlers as h
from sluice.validate.espresso.inputs import EspressoInputs
from sluice.validate.espresso.run import History

CASES = {
    "done": h.Diagnosis.DONE,
    "relaxed": h.Diagnosis.DONE,
    "scf_not_converged": h.Diagnosis.SCF,
    "out_of_time": h.Diagnosis.TIME,
    "steps_used_up": h.Diagnosis.STEPS,
    "killed_midway": h.Diagnosis.CRASH,
    "killed_in_final_scf": h.Diagnosis.RELAXED,
    "missing_pseudopotential": h.Diagnosis.ROUTINE,
    "bad_key": h.Diagnosis.ROUTINE,
    "too_few_bands": h.Diagnosis.ROUTINE,
    "fixed_occupations_on_a_metal": h.Diagnosis.ROUTINE,
    "bad_pools": h.Diagnosis.ROUTINE,
    "cell_factor_too_small": h.Diagnosis.ROUTINE,
    "no_slots": h.Diagnosis.NO_OUTPUT,
}
THRESHOLDS = [("electrons", "conv_thr"), ("control", "forc_conv_thr"), ("control", "etot_conv_thr")]
THRESHOLDS += [("cell", "press_conv_thr"), ("system", "ecutwfc"), ("system", "ecutrho"), ("system", "degauss")]


def correct(handler, directory):
    before = EspressoInputs.read(directory)
    assert handler.check(str(directory))
    answer = handler.correct(str(directory))
    return before, EspressoInputs.read(directory), answer


@pytest.mark.parametrize(("case", "diagnosis"), CASES.items())
def test_each_failure_gets_exactly_one_handler(case, diagnosis, tmp_path):
    directory = copy_case(case, tmp_path / "job")
    assert h.diagnose(directory).diagnosis == diagnosis
    acting = [x for x in h.all_handlers() if x.check(str(directory))]
    fine = diagnosis in (h.Diagnosis.DONE, h.Diagnosis.RELAXED)
    assert len(acting) == (0 if fine else 1)
    assert h.SuccessValidator().check(str(directory)) is not fine


@pytest.mark.parametrize("case", [c for c, d in CASES.items() if d not in (h.Diagnosis.DONE, h.Diagnosis.RELAXED)])
def test_nothing_that_decides_the_energy_is_ever_changed(case, tmp_path):
    directory = copy_case(case, tmp_path / "job")
    first = EspressoInputs.read(directory)
    for _ in range(5):
        handler = next(x for x in h.all_handlers(10, 10) if x.check(str(directory)))
        if handler.correct(str(directory))["actions"] is None:
            break
    last = EspressoInputs.read(directory)
    assert last.kpoints == first.kpoints
    for namelist, key in THRESHOLDS:
        was = first.namelists.get(namelist, {}).get(key)
        if was is not None:
            assert last.namelists[namelist][key] == was


def test_a_handler_must_say_what_it_changes():
    class Idle(h.EspressoHandler):
        diagnosis = h.Diagnosis.CRASH

    with pytest.raises(TypeError, match="plan"):
        Idle()
    assert {handler.diagnosis for handler in h.all_handlers()} == set(h.Diagnosis) - {"done", h.Diagnosis.RELAXED}


def test_scf_climbs_the_ladder_and_then_gives_up(tmp_path):
    directory = copy_case("scf_not_converged", tmp_path / "job")
    handler = h.ScfHandler(max_attempts=10)
    for rung in h.SCF_LADDER:
        _, after, answer = correct(handler, directory)
        assert answer["actions"]
        assert rung.items() <= after.namelists["electrons"].items()
        assert after.namelists["electrons"]["startingpot"] == "atomic"
        assert "mixing_beta" in (directory / "pw.in").read_text()
    assert handler.correct(str(directory))["actions"] is None
    assert History(directory).failures == len(h.SCF_LADDER)


def test_attempts_are_limited(tmp_path):
    directory = copy_case("scf_not_converged", tmp_path / "job")
    handler = h.ScfHandler(max_attempts=2)
    assert handler.correct(str(directory))["actions"]
    assert handler.correct(str(directory))["actions"] is None
    assert History(directory).count("gave_up", spent=True) == 1


def leave_density(directory, outdir):
    inputs = h.EspressoInputs.read(directory).changed({"control": {"outdir": str(outdir)}})
    inputs.write(directory)
    (outdir / "sluice.save").mkdir(parents=True)
    (outdir / "sluice.save" / "charge-density.dat").touch()


def test_out_of_time_without_files_to_restart_from_begins_at_the_last_geometry(tmp_path):
    _, after, _ = correct(h.WalltimeHandler(), copy_case("out_of_time", tmp_path / "job"))
    assert after.namelists["control"]["restart_mode"] == "from_scratch"
    assert after.namelists["electrons"]["startingpot"] == "atomic"


def test_out_of_time_continues_and_is_no_failure(tmp_path):
    directory = copy_case("out_of_time", tmp_path / "job")
    leave_density(directory, tmp_path / "out")
    _, after, answer = correct(h.WalltimeHandler(max_attempts=1, max_continuations=2), directory)
    assert answer["actions"]
    assert after.namelists["control"]["restart_mode"] == "restart"
    history = History(directory)
    assert (history.continuations, history.failures) == (1, 0)
    correct(h.WalltimeHandler(1, 2), directory)
    assert h.WalltimeHandler(1, 2).correct(str(directory))["actions"] is None


def test_a_clock_too_short_for_any_progress_is_given_up(tmp_path):
    directory = copy_case("out_of_time", tmp_path / "job")
    history = History(directory)
    history.add("end", exit_code=2, n_iterations=0)
    handler = h.WalltimeHandler()
    assert handler.correct(str(directory))["actions"]
    history.add("end", exit_code=2, n_iterations=0)
    assert handler.correct(str(directory))["actions"] is None


def test_used_up_steps_go_on_from_the_last_geometry(tmp_path):
    directory = copy_case("steps_used_up", tmp_path / "job")
    before, after, _ = correct(h.IonicStepsHandler(), directory)
    assert after.namelists["control"]["nstep"] == 2 * before.namelists["control"]["nstep"]
    assert after.namelists["control"]["restart_mode"] == "from_scratch"
    assert after.structure != before.structure
    assert abs(after.structure.frac_coords - before.structure.frac_coords).max() < 0.1
    _, again, _ = correct(h.IonicStepsHandler(), directory)
    assert again.namelists["ions"]["trust_radius_max"] == 0.2


def test_too_few_bands_get_more(tmp_path):
    directory = copy_case("too_few_bands", tmp_path / "job")
    before, after, _ = correct(h.RoutineErrorHandler(), directory)
    assert after.namelists["system"]["nbnd"] > before.namelists["system"]["nbnd"]


def test_fixed_occupations_on_a_metal_are_smeared(tmp_path):
    directory = copy_case("fixed_occupations_on_a_metal", tmp_path / "job")
    _, after, _ = correct(h.RoutineErrorHandler(), directory)
    assert after.namelists["system"]["occupations"] == "smearing"
    assert after.namelists["system"]["smearing"] == "cold"


def test_bad_pools_are_dropped(tmp_path):
    directory = copy_case("bad_pools", tmp_path / "job")
    before, after, _ = correct(h.RoutineErrorHandler(), directory)
    assert before.flags == ("-nk", "4")
    assert after.flags == ()


def test_cell_factor_grows_from_the_last_geometry(tmp_path):
    directory = copy_case("cell_factor_too_small", tmp_path / "job")
    before, after, _ = correct(h.RoutineErrorHandler(), directory)
    assert after.namelists["cell"]["cell_factor"] > before.namelists["cell"]["cell_factor"]
    assert after.structure.volume != pytest.approx(before.structure.volume, rel=1e-6)


@pytest.mark.parametrize("case", ["missing_pseudopotential", "bad_key", "no_slots"])
def test_what_trying_again_cannot_mend_is_given_up_at_once(case, tmp_path):
    directory = copy_case(case, tmp_path / "job")
    handler = next(x for x in h.all_handlers() if x.check(str(directory)))
    assert handler.correct(str(directory))["actions"] is None
    assert h.History(directory).starts == 1


@pytest.mark.parametrize("case", ["missing_pseudopotential", "no_slots", "killed_midway"])
def test_the_reason_is_the_same_after_an_interruption(case, tmp_path):
    directory = copy_case(case, tmp_path / "job")
    before = h.explain(directory)
    h.History(directory).add("start", number=2)
    h.History(directory).add("end", exit_code=137)
    assert h.explain(directory) == before


def test_the_launchers_words_are_in_the_reason(tmp_path):
    assert "not enough slots" in h.explain(copy_case("no_slots", tmp_path / "job"))


def test_empty_output_without_a_reason_is_tried_once_more(tmp_path):
    directory = copy_case("no_slots", tmp_path / "job")
    (directory / "pw.err").write_text("ORTE has lost communication with a remote daemon.\n")
    assert h.LaunchHandler().correct(str(directory))["actions"]
    assert h.LaunchHandler().correct(str(directory))["actions"] is None


def test_a_crash_goes_on_from_the_last_geometry_with_fresh_densities(tmp_path):
    directory = copy_case("killed_midway", tmp_path / "job")
    before, after, _ = correct(h.CrashHandler(), directory)
    assert after.structure != before.structure
    assert after.namelists["electrons"]["startingpot"] == "atomic"


@pytest.mark.parametrize(
    ("routine", "message", "namelist", "key", "value"),
    [
        ("cdiaghg", "S matrix not positive definite", "electrons", "diago_david_ndim", 4),
        ("c_bands", "too many bands are not converged", "electrons", "diago_david_ndim", 4),
        ("bfgs", "dE0s is positive which should never happen", "ions", "trust_radius_max", 0.2),
        ("davcio", "error reading file", "electrons", "startingpot", "atomic"),
        ("electrons", "charge is wrong", "electrons", "startingpot", "atomic"),
        ("checkallsym", "not orthogonal operation", "electrons", "startingpot", "atomic"),
        ("somewhere", "never seen before", "electrons", "startingpot", "atomic"),
    ],
)
def test_the_table_of_routine_errors(routine, message, namelist, key, value, tmp_path):  # noqa: PLR0917
    directory = copy_case("killed_midway", tmp_path / "job")
    box = " " + "%" * 78
    with (directory / "pw.out").open("a") as output:
        output.write(f"\n{box}\n     Error in routine {routine} (1):\n     {message}\n{box}\n\n     stopping ...\n")
    _, after, _ = correct(h.RoutineErrorHandler(), directory)
    assert after.namelists[namelist][key] == value


def test_davidson_gives_way_to_conjugate_gradients(tmp_path):
    directory = copy_case("killed_midway", tmp_path / "job")
    box = " " + "%" * 78
    with (directory / "pw.out").open("a") as output:
        output.write(f"\n{box}\n     Error in routine cdiaghg (1):\n     problems computing cholesky\n{box}\n")
    correct(h.RoutineErrorHandler(), directory)
    _, after, _ = correct(h.RoutineErrorHandler(), directory)
    assert after.namelists["electrons"]["diagonalization"] == "cg"


def test_wrong_charge_after_a_relaxation_that_had_converged_is_no_failure(tmp_path):
    directory = copy_case("killed_in_final_scf", tmp_path / "job")
    (directory / "pw.out").rename(directory / "pw.out.1")
    box = " " + "%" * 78
    head = (directory / "pw.out.1").read_text()[:2000]
    error = f"\n{box}\n     Error in routine electrons (1):\n     charge is wrong\n{box}\n"
    (directory / "pw.out").write_text(head + error)
    assert h.diagnose(directory).diagnosis == h.Diagnosis.RELAXED
    assert not h.SuccessValidator().check(str(directory))
