"""Choose what goes to DFT: by rank, as far as the budget of estimated CPU-seconds pays, references included."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from pymatgen.core import Element, Structure
from spglib import SpglibError

from sluice.chemistry.costs import estimate_cpu_seconds
from sluice.config import Chemistry, ShortlistSettings, ValidateSettings
from sluice.errors import SluiceError
from sluice.schemas import Column
from sluice.screen.common import further_columns, lineage
from sluice.step import run_step
from sluice.store import Store, StoreWriter
from sluice.task_library import known_references
from sluice.validate.espresso import planning as espresso

REVISION = 1
NO_ESTIMATE = "no estimate of the DFT cost"
BEYOND_BUDGET = "beyond the DFT budget"
ENOUGH_OF_FORMULA = "enough of this formula"
ENOUGH_CANDIDATES = "enough candidates"


@dataclass
class CostEstimator:
    """Expected CPU-seconds of compounds and elemental references in one campaign's settings.

    Attributes:
        dft: code, protocol and the elements that start spin-polarized.
        tier: cutoff tier of the hardest element of the chemistry.
    """

    dft: ValidateSettings
    tier: str
    _references: dict[str, float] = field(default_factory=dict)

    @classmethod
    def for_chemistry(cls, dft: ValidateSettings, chemistry: Chemistry) -> CostEstimator:
        """The estimator of a campaign."""
        if dft.code == "vasp":
            from sluice.validate.vasp import planning as vasp

            return cls(dft, vasp.tier_name(chemistry.elements, dft))
        return cls(dft, espresso.tier_name(chemistry.elements, dft))

    def _seconds(self, structure: Structure, element: str) -> float:
        if self.dft.code == "vasp":
            from sluice.validate.vasp import planning as vasp  # takes a second, which only VASP's users pay

            settings = vasp.settings_for(structure, element=element, tier=self.tier, settings=self.dft)
            return 0.0 if settings.snapshot else estimate_cpu_seconds(structure, settings)
        return estimate_cpu_seconds(
            structure, espresso.settings_for(structure, element=element, tier=self.tier, settings=self.dft)
        )

    def compound(self, structure: Structure) -> float:
        """CPU-seconds of relaxing a compound and computing its energy.

        Raises:
            SluiceError: if there is no symmetry to be found, or no pseudopotential.
        """
        return self._seconds(espresso.prepare_structure(structure), "")

    def reference(self, element: str) -> float:
        """CPU-seconds of an elemental reference.

        Raises:
            SluiceError: if the element has none.
        """
        if element not in self._references:
            self._references[element] = self._seconds(espresso.reference_cell(element), element)
        return self._references[element]


@lru_cache(maxsize=200)
def _symbol(number: int) -> str:
    return str(Element.from_Z(number).symbol)


def shortlist_candidates(
    *,
    candidates: Path,
    settings: ShortlistSettings,
    chemistry: Chemistry,
    dft: ValidateSettings,
    library: Path,
    shortlist: Path,
) -> None:
    """Take candidates by rank while the DFT budget lasts.

    A candidate costs its own calculation and every elemental reference that neither the task library nor a candidate
    before it has paid for. One that the rest of the budget does not cover is passed over for cheaper ones.

    Args:
        candidates: ranked candidates (schema ``ranked``).
        settings: the budget in estimated CPU-seconds, most candidates, most of one formula.
        chemistry: its hardest element sets the cutoffs.
        dft: protocol and spin.
        library: the task library, for the references that are known already.
        shortlist: the chosen by rank, with ``estimated_cpu_seconds`` of their own and of the references that they
            add (schema ``shortlist``).
    """
    estimator = CostEstimator.for_chemistry(dft, chemistry)
    known: dict[str, bool] = {}
    budget, taken, formulas = settings.dft_cpu_seconds, 0, Counter[str]()
    with (
        Store(candidates, "ranked") as store,
        StoreWriter(
            shortlist,
            "shortlist",
            columns=further_columns(store, "shortlist") | {"estimated_reference_cpu_seconds": Column("f8", "s")},
            settings={"shortlist": settings.model_dump(), "tier": estimator.tier, "protocol": dft.protocol_name},
            inputs=[candidates],
            revision=REVISION,
            **lineage(store),
        ) as writer,
    ):
        for chunk in store.chunks():
            assert chunk.crystals is not None
            for i, formula in enumerate(chunk.crystals.reduced_formulas()):
                name = chunk.candidate_id[i : i + 1]
                elements = {_symbol(int(z)) for z in chunk.crystals.numbers[chunk.crystals.atoms_of(i)]}
                new = sorted(elements - set(known))
                known |= known_references(library, new, dft, chemistry)
                if taken >= settings.max_candidates:
                    writer.drop(name, ENOUGH_CANDIDATES)
                    continue
                if formulas[formula] >= settings.max_per_formula:
                    writer.drop(name, ENOUGH_OF_FORMULA)
                    continue
                missing = sorted(element for element in elements if not known[element])
                try:
                    own = estimator.compound(chunk.crystals.structure(i))
                    added = sum(estimator.reference(element) for element in missing)
                except (SluiceError, SpglibError) as error:  # spglib returns None or raises, as other packages set it
                    writer.drop(name, NO_ESTIMATE, kind="failed", detail=str(error))
                    continue
                if own + added > budget:
                    writer.drop(name, BEYOND_BUDGET, detail=f"{own + added:.0f} s needed, {budget:.0f} s left")
                    continue
                budget -= own + added
                taken += 1
                formulas[formula] += 1
                known |= dict.fromkeys(missing, True)
                writer.append_chunk(
                    chunk.select(np.array([i])),
                    estimated_cpu_seconds=np.array([own]),
                    estimated_reference_cpu_seconds=np.array([added]),
                )


if __name__ == "__main__":
    run_step(shortlist_candidates)
