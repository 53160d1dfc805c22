"""Makers of single pw.x jobs, in the shape of atomate2's: write → run → parse → decide."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jobflow import Maker, Response, job
from pymatgen.core import Structure

from sluice.errors import SluiceError
from sluice.validate.espresso.handlers import finished
from sluice.validate.espresso.inputs import STATE_FILE, EspressoInputs, make_inputs
from sluice.validate.espresso.pseudos import PseudoLibrary
from sluice.validate.espresso.run import Launch, has_density, locked, record_interruption, run_espresso
from sluice.validate.espresso.schemas import EspressoTaskDocument
from sluice.validate.espresso.sets import CalculationSettings


@dataclass(frozen=True)
class Workplace:
    """Where and how the jobs of one task run.

    Attributes:
        directory: the task's directory; each job has a folder of its name in it.
        outdir: pw.x's working files, shared by the task's jobs.
        pseudos: directory of the pseudopotentials.
        launch: how pw.x is started.
        max_attempts: attempts at each job.
        max_continuations: continuations of each job.
        max_seconds: wall time after which pw.x stops itself to be continued, None for never.
    """

    directory: str
    outdir: str
    pseudos: str
    launch: Launch = field(default_factory=Launch)
    max_attempts: int = 4
    max_continuations: int = 20
    max_seconds: float | None = None


@dataclass
class BaseEspressoMaker(Maker):
    """Runs one pw.x calculation.

    Attributes:
        name: of the job and its folder.
        calculation: pw.x's word.
        settings: what decides the number, as plain values of ``CalculationSettings``.
        workplace: where and how, as plain values.
    """

    name: str = "base"
    calculation: str = "scf"
    settings: dict = field(default_factory=dict)
    workplace: dict = field(default_factory=dict)

    @job
    def make(self, structure: Structure | dict) -> Response:
        """Run the calculation of a structure; an interrupted one goes on where it was.

        Args:
            structure: geometry (Å), also as pymatgen's dictionary.
        """
        place = Workplace(**{**self.workplace, "launch": Launch(**self.workplace["launch"])})
        directory = Path(place.directory) / self.name
        directory.mkdir(parents=True, exist_ok=True)
        with locked(Path(place.outdir)):
            if not (directory / STATE_FILE).exists():
                self._write(structure, directory, place)
            reason = None
            if finished(directory):  # the process died between the end of the work and the record of it
                record_interruption(directory, place.launch.ranks)
            else:
                reason = run_espresso(
                    directory,
                    launch=place.launch,
                    max_attempts=place.max_attempts,
                    max_continuations=place.max_continuations,
                )
        document = EspressoTaskDocument.from_directory(directory, reason)
        return Response(output=document.model_dump(), stop_children=not document.converged)

    def _write(self, structure: Structure | dict, directory: Path, place: Workplace) -> None:
        geometry = Structure.from_dict(structure) if isinstance(structure, dict) else structure
        settings = CalculationSettings(**self.settings)
        inputs: EspressoInputs = make_inputs(
            geometry,
            settings,
            PseudoLibrary(Path(place.pseudos)),
            calculation=self.calculation,
            outdir=Path(place.outdir),
            max_seconds=place.max_seconds,
        )
        if self.calculation == "scf" and has_density(inputs):
            inputs = inputs.changed({"electrons": {"startingpot": "file"}})
        inputs.write(directory)


@dataclass
class StaticMaker(BaseEspressoMaker):
    """The calculation whose energy counts; starts from the density a relaxation left."""

    name: str = "static"
    calculation: str = "scf"


@dataclass
class RelaxMaker(BaseEspressoMaker):
    """Relaxes ions, and the cell too where the settings say so."""

    name: str = "relax"
    calculation: str = "vc-relax"

    @classmethod
    def from_settings(cls, settings: CalculationSettings, workplace: dict) -> RelaxMaker:
        """The maker for settings that relax something.

        Raises:
            SluiceError: if they relax nothing.
        """
        if settings.relax == "none":
            raise SluiceError("these settings relax nothing")
        calculation = "vc-relax" if settings.relax == "cell" else "relax"
        return cls(calculation=calculation, settings=settings.model_dump(), workplace=workplace)
