"""What can go wrong with pw.x and what is changed then: inputs, never thresholds.

``diagnose`` gives exactly one name to the state of a directory, so exactly one handler acts. The ladders are the tables
``SCF_LADDER`` and ``ROUTINE_ERRORS``. Smearing width, cutoffs and k-points decide the energy and are never changed.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from custodian.custodian import ErrorHandler, Validator

from sluice.validate.espresso.inputs import ERROR_FILE, OUTPUT_FILE, EspressoInputs
from sluice.validate.espresso.outputs import PwOutput, read_output
from sluice.validate.espresso.run import Changes, History, has_density


class Diagnosis(StrEnum):
    """The state of a directory after pw.x ended."""

    DONE = "done"
    RELAXED = "relaxed, interrupted afterwards"
    SCF = "scf not converged"
    TIME = "out of time"
    STEPS = "ionic steps used up"
    ROUTINE = "error in routine"
    NO_OUTPUT = "no output"
    CRASH = "crashed"


@dataclass(frozen=True)
class Situation:
    """A directory as handlers see it.

    Attributes:
        diagnosis: what is the matter.
        inputs: of the last attempt.
        output: of the last attempt.
        history: of all attempts.
        stderr: end of the standard error.
    """

    diagnosis: Diagnosis
    inputs: EspressoInputs
    output: PwOutput
    history: History
    stderr: str


def _relaxed_before(directory: Path, inputs: EspressoInputs) -> bool:
    return any(read_output(path, inputs.structure).relaxed for path in directory.glob(f"{OUTPUT_FILE}.*"))


def diagnose(directory: Path) -> Situation:
    """Read a directory and say what happened."""
    inputs, history = EspressoInputs.read(directory), History(directory)
    output = read_output(directory / OUTPUT_FILE, inputs.structure)
    stderr = ""
    if (directory / ERROR_FILE).exists():
        stderr = (directory / ERROR_FILE).read_text(encoding="utf-8", errors="replace")[-4000:]
    relaxing = inputs.namelists["control"]["calculation"] != "scf"
    # An exit code that nobody was there to write down is as good as 0 if the output is whole.
    done = output.complete and history.exit_code() in (0, None) and (output.relaxed or not relaxing)
    charge = output.error is not None and "charge is wrong" in output.error[1]
    if done:
        diagnosis = Diagnosis.DONE
    elif relaxing and (output.relaxed or (charge and _relaxed_before(directory, inputs))):
        diagnosis = Diagnosis.RELAXED
    elif output.empty and output.error is None:
        diagnosis = Diagnosis.NO_OUTPUT
    elif output.out_of_time:
        diagnosis = Diagnosis.TIME
    elif output.error is not None:
        diagnosis = Diagnosis.ROUTINE
    elif output.scf_failed:
        diagnosis = Diagnosis.SCF
    elif output.out_of_steps:
        diagnosis = Diagnosis.STEPS
    else:
        diagnosis = Diagnosis.CRASH
    return Situation(diagnosis, inputs, output, history, stderr)


def finished(directory: Path) -> bool:
    """Whether there is nothing left to run."""
    return diagnose(directory).diagnosis in (Diagnosis.DONE, Diagnosis.RELAXED)


def explain(directory: Path) -> str:
    """Why a job failed, in one line that is the same whether or not the job was interrupted on its way."""
    now = diagnose(directory)
    reason = str(now.diagnosis)
    if now.output.error is not None:
        reason += f" {now.output.error[0]}: {now.output.error[1]}"
    elif now.diagnosis in (Diagnosis.NO_OUTPUT, Diagnosis.CRASH):
        lines = [line.strip() for line in now.stderr.splitlines() if line.strip(" -*")]
        reason += f": {lines[0][:200]}" if lines else ""
    return reason


@dataclass(frozen=True)
class Plan:
    """What the next attempt does differently.

    Attributes:
        changes: namelist → key → new value, None to remove.
        from_geometry: go on from the last geometry instead of the first.
        drop_flags: start pw.x without further words on its command line.
    """

    changes: Changes
    from_geometry: bool = True
    drop_flags: bool = False


class EspressoHandler(ErrorHandler, ABC):
    """Acts on one diagnosis; subclasses say what to change.

    Attributes:
        diagnosis: the one it acts on.
        kind: ``failure`` or ``continuation``, which are counted apart.
    """

    diagnosis: ClassVar[Diagnosis]
    kind: ClassVar[str] = "failure"

    def __init__(self, max_attempts: int = 4, max_continuations: int = 20) -> None:
        self.max_attempts = max_attempts
        self.max_continuations = max_continuations

    def check(self, directory: str = "./") -> bool:
        """Whether this handler's case is at hand."""
        return diagnose(Path(directory)).diagnosis == self.diagnosis

    @abstractmethod
    def plan(self, now: Situation) -> Plan | None:
        """What to change; None if nothing helps."""

    def correct(self, directory: str = "./") -> dict[str, Any]:
        """Write the next attempt's input, or give up."""
        here = Path(directory)
        now = diagnose(here)
        problem = str(now.diagnosis) + (f": {now.output.error[1]}" if now.output.error else "")
        if self.kind == "failure":
            spent = now.history.failures + 1 >= self.max_attempts
        else:
            spent = now.history.continuations >= self.max_continuations
        plan = None if spent else self.plan(now)
        if plan is None:
            now.history.add("gave_up", handler=type(self).__name__, problem=problem, spent=spent)
            return {"errors": [problem], "actions": None}
        base: Changes = {"control": {"restart_mode": "from_scratch"}, "electrons": {"startingwfc": None}}
        changes = {name: {**base.get(name, {}), **plan.changes.get(name, {})} for name in {*base, *plan.changes}}
        inputs = now.inputs.changed(changes, now.output.structure if plan.from_geometry else None)
        if plan.drop_flags:
            inputs.flags = ()
        inputs.write(here)
        now.history.add("correction", kind=self.kind, handler=type(self).__name__, problem=problem, changes=changes)
        return {"errors": [problem], "actions": [changes]}


# Mixing first, then the eigensolver: each step is slower and more robust than the one before.
SCF_LADDER: tuple[dict[str, Any], ...] = (
    {"mixing_beta": 0.2, "mixing_mode": "plain", "electron_maxstep": 150},
    {"mixing_beta": 0.2, "mixing_mode": "local-TF", "mixing_ndim": 12, "electron_maxstep": 200},
    {"mixing_beta": 0.05, "mixing_mode": "plain", "mixing_ndim": 12, "diagonalization": "cg", "electron_maxstep": 300},
)


class ScfHandler(EspressoHandler):
    """The scf did not converge: climb ``SCF_LADDER`` from fresh densities."""

    diagnosis = Diagnosis.SCF

    def plan(self, now: Situation) -> Plan | None:
        """The next rung."""
        rung = now.history.count("correction", handler=type(self).__name__)
        if rung >= len(SCF_LADDER):
            return None
        return Plan({"electrons": {**SCF_LADDER[rung], "startingpot": "atomic"}})


class WalltimeHandler(EspressoHandler):
    """pw.x stopped itself at ``max_seconds``: continue where it stopped, which is not a failure."""

    diagnosis = Diagnosis.TIME
    kind = "continuation"

    def plan(self, now: Situation) -> Plan | None:
        """The same input, restarted; given up where two runs in a row did not get through one iteration."""
        ends = [event for event in now.history.events() if event["event"] == "end"]
        if len(ends) > 1 and all(event.get("n_iterations") == 0 for event in ends[-2:]):
            return None
        if not has_density(now.inputs):  # stopped before it had one, or its files lie on another machine
            return Plan({"electrons": {"startingpot": "atomic"}})
        return Plan({"control": {"restart_mode": "restart"}}, from_geometry=False)


class IonicStepsHandler(EspressoHandler):
    """A relaxation used all its steps: go on from the last geometry with a fresh history."""

    diagnosis = Diagnosis.STEPS

    def plan(self, now: Situation) -> Plan | None:
        """More steps and, from the second time on, a smaller trust radius."""
        steps = int(now.inputs.namelists["control"].get("nstep", 50)) * 2
        again = now.history.count("correction", handler=type(self).__name__) > 0
        ions = {"trust_radius_max": 0.2, "trust_radius_ini": 0.1} if again else {}
        return Plan({"control": {"nstep": steps}, "ions": ions, "electrons": {"startingpot": _pot(now)}})


def _pot(now: Situation) -> str:
    return "file" if has_density(now.inputs) else "atomic"


def _diagonalization(now: Situation) -> Plan | None:
    """Davidson with a larger space, then conjugate gradients."""
    tried = now.inputs.namelists["electrons"]
    if tried.get("diagonalization", "david") != "david":
        return None
    if tried.get("diago_david_ndim", 2) <= 2:
        return Plan({"electrons": {"diago_david_ndim": 4, "startingpot": "atomic"}})
    return Plan({"electrons": {"diagonalization": "cg", "diago_david_ndim": None, "startingpot": "atomic"}})


def _bands(now: Situation) -> Plan | None:
    """A quarter more bands than there were."""
    electrons = now.inputs.namelists["system"].get("nbnd")
    if electrons is None:
        return Plan({"system": {"nbnd": guess_bands(now.inputs)}})
    return Plan({"system": {"nbnd": int(electrons * 1.25) + 2}})


def guess_bands(inputs: EspressoInputs) -> int:
    """Bands for a metal with room: six tenths of the electrons and eight."""
    from sluice.validate.espresso.pseudos import pseudopotential

    electrons = sum(pseudopotential(site.specie.symbol).valence_electrons for site in inputs.structure)
    return int(0.6 * electrons) + 8


def _smearing(now: Situation) -> Plan | None:
    """Fixed occupations on a metal: smear as everything else does."""
    if now.inputs.namelists["system"].get("occupations") == "smearing":
        return _charge(now)
    return Plan({"system": {"occupations": "smearing", "smearing": "cold", "degauss": 0.02}})


def _charge(now: Situation) -> Plan | None:
    """Density of another cell or of too few bands: superposed atoms, and from the second time on more bands."""
    if now.history.count("correction", handler="RoutineErrorHandler") > 0:
        return Plan({"electrons": {"startingpot": "atomic"}, "system": {"nbnd": guess_bands(now.inputs)}})
    return Plan({"electrons": {"startingpot": "atomic"}})


def _fresh(now: Situation) -> Plan | None:
    """Files of an earlier run are unreadable: do without them."""
    return Plan({"electrons": {"startingpot": "atomic"}})


def _pools(now: Situation) -> Plan | None:
    """More pools than k-points, or the like: none."""
    return Plan({}, from_geometry=False, drop_flags=True) if now.inputs.flags else None


def _cell_factor(now: Situation) -> Plan | None:
    """The cell grew beyond pw.x's tables: larger ones, from the last geometry."""
    factor = 1.5 * float(now.inputs.namelists.get("cell", {}).get("cell_factor", 2.0))
    return Plan({"cell": {"cell_factor": factor}, "electrons": {"startingpot": "atomic"}})


def _bfgs(now: Situation) -> Plan | None:
    """The quasi-Newton history is spoilt: start it anew with smaller steps."""
    return Plan({"ions": {"trust_radius_max": 0.2, "trust_radius_ini": 0.1}, "electrons": {"startingpot": _pot(now)}})


def _symmetry(now: Situation) -> Plan | None:
    """The cell lost some of its symmetry while it relaxed: find the symmetry of the last geometry afresh."""
    if now.output.structure is None:
        return Plan({"system": {"nosym": True}, "electrons": {"startingpot": "atomic"}})
    return Plan({"electrons": {"startingpot": "atomic"}})


# First match wins; patterns are searched in "routine: message".
ROUTINE_ERRORS = (
    (r"smearing is needed|fixed occupations|specify occupations|system is metallic", _smearing),
    (r"charge is wrong", _charge),
    (r"too few bands|bands.*not enough|nbnd.*too small", _bands),
    (r"S matrix not positive definite|cholesky|[cr]diaghg|diagonalization failed|eigenvectors failed|"
     r"too many bands are not converged", _diagonalization),
    (r"some nodes have no k-points|number of pools|mp_start_pools", _pools),
    (r"larger cell_factor|cell_factor too small|Not enough space allocated for radial FFT", _cell_factor),
    (r"dE0s is positive|bfgs.*history already reset|trust.radius", _bfgs),
    (r"not orthogonal operation|symmetry operations? not satisfied|checkallsym|lattice.*symm", _symmetry),
    (r"davcio|diropn|read_rhog|read_wfc|read_scf|pw_restart|readfile_xml|error (opening|reading|while reading) .*(save|"
     r"file|wfc|charge)|fail to open|reading xml|restart", _fresh),
)  # fmt: skip
HOPELESS = r"read_namelists|read_cards|readpp|read_upf|upflib|pseudopotential|bad line|namelist|more bands than PWs"


class RoutineErrorHandler(EspressoHandler):
    """pw.x stopped with an error box: change what ``ROUTINE_ERRORS`` says; an unknown one is tried afresh once."""

    diagnosis = Diagnosis.ROUTINE

    def plan(self, now: Situation) -> Plan | None:
        """The first entry that matches."""
        text = ": ".join(now.output.error or ("", ""))
        for pattern, change in ROUTINE_ERRORS:
            if re.search(pattern, text, re.I):
                return change(now)
        tried = now.history.count("correction", handler=type(self).__name__) > 0
        return None if tried or re.search(HOPELESS, text, re.I) else _fresh(now)


# What an MPI launcher says when trying again cannot help.
LAUNCH_HOPELESS = r"not enough slots|command not found|No such file|could not find the executable|not found|Permission"


class LaunchHandler(EspressoHandler):
    """Nothing was printed: the launcher failed; once more unless it said why."""

    diagnosis = Diagnosis.NO_OUTPUT

    def plan(self, now: Situation) -> Plan | None:
        """The same again, once."""
        tried = now.history.count("correction", handler=type(self).__name__) > 0
        if tried or re.search(LAUNCH_HOPELESS, now.stderr, re.I):
            return None
        return Plan({}, from_geometry=False)


class CrashHandler(EspressoHandler):
    """pw.x ended midway without a word: from the last geometry and superposed atoms."""

    diagnosis = Diagnosis.CRASH

    def plan(self, now: Situation) -> Plan | None:
        """Do not trust the files it left."""
        return Plan({"electrons": {"startingpot": "atomic"}})


def all_handlers(max_attempts: int = 4, max_continuations: int = 20) -> list[EspressoHandler]:
    """Every handler; their cases exclude each other."""
    classes = (ScfHandler, WalltimeHandler, IonicStepsHandler, RoutineErrorHandler, LaunchHandler, CrashHandler)
    return [handler(max_attempts, max_continuations) for handler in classes]


class SuccessValidator(Validator):
    """Accepts exit code 0 with a final energy, converged and in time, or a relaxation that had converged before."""

    def check(self, directory: str = "./") -> bool:
        """True means that the job failed."""
        return not finished(Path(directory))
