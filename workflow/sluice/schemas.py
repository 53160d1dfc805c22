"""The one table of stores: schema name → version and the columns every such store must hold.

A step may write further columns (it names dtype and unit itself); it may not leave one of these out.
Energies are in eV/atom, lengths in Å, times in seconds. NaN stands for missing numbers, "" for missing text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """How one property is stored.

    Attributes:
        dtype: numpy dtype string; ``S<n>`` for text.
        unit: unit, "" for pure numbers and text.
        volatile: costs and the like, which may differ between an interrupted and an undisturbed run; kept out of
            the digest of the whole store.
    """

    dtype: str
    unit: str = ""
    volatile: bool = False


ENERGY = Column("f8", "eV/atom")
SPACE_GROUP = Column("i2")
FLAG = Column("?")
SHORT_TEXT = Column("S32")
TEXT = Column("S128")

# Crystals on their way from the built database to the training set.
_PROTOTYPE = {"prototype": SHORT_TEXT, "space_group": SPACE_GROUP}
_LABELLED = {"formation_energy_ev_per_atom": ENERGY, "label_source": SHORT_TEXT}
# What screening adds, step by step.
_GENERATED = {"requested_space_group": SPACE_GROUP}
_GEOMETRY = {"min_distance_ratio": Column("f8"), "density_g_per_cm3": Column("f8", "g/cm^3")}
_SYMMETRY = {"space_group": SPACE_GROUP}
_SCORED = {"screener_score": Column("f8")}
_RELAXED = {
    "mlip_energy_ev_per_atom": ENERGY,
    "mlip_formation_energy_ev_per_atom": ENERGY,
    "relaxed_space_group": SPACE_GROUP,
    "volume_change": Column("f8"),
}
_RANKED = {"rank": Column("i8"), "objective": Column("f8")}
# Campaigns of compositions: rows are formulas, there are no crystals.
_FORMULA = {"formula": TEXT}
_FORMULA_SCORED = {
    "predicted_formation_energy_ev_per_atom": ENERGY,
    "standard_deviation_ev_per_atom": ENERGY,  # of the prediction; 0 if the scorer does not say
}
_TASK = {
    "task_id": SHORT_TEXT,
    "kind": Column("S16"),  # reference | compound
    "element": Column("S4"),  # of a reference, else ""
    "batch": Column("i4"),
    "estimated_cpu_seconds": Column("f8", "s"),
}
_RESULT = {
    "task_id": SHORT_TEXT,
    "energy_ev_per_atom": ENERGY,
    "converged": FLAG,
    "space_group": SPACE_GROUP,
    "magnetization_mu_b_per_cell": Column("f8", "mu_B/cell"),
    "cpu_seconds": Column("f8", "s", volatile=True),
    "wall_seconds": Column("f8", "s", volatile=True),
    "attempts": Column("i4", "", volatile=True),
    "continuations": Column("i4", "", volatile=True),
}

SCHEMAS: dict[str, tuple[int, dict[str, Column]]] = {
    "crystals": (1, _PROTOTYPE),
    "labelled": (1, _PROTOTYPE | _LABELLED),
    "dataset": (1, _PROTOTYPE | _LABELLED | {"split": Column("S8")}),  # train | val | test
    "predictions": (1, _LABELLED | {"split": Column("S8"), "predicted": Column("f8"), "target": Column("f8")}),
    "candidates": (1, _GENERATED),
    "geometry": (1, _GENERATED | _GEOMETRY),
    "symmetry": (1, _GENERATED | _GEOMETRY | _SYMMETRY),
    "charge": (1, _GENERATED | _GEOMETRY | _SYMMETRY),
    "unique": (1, _GENERATED | _GEOMETRY | _SYMMETRY),
    "scored": (1, _GENERATED | _GEOMETRY | _SYMMETRY | _SCORED),
    "selected": (1, _GENERATED | _GEOMETRY | _SYMMETRY | _SCORED | {"batch": Column("i4")}),
    "relaxed": (1, _SYMMETRY | _SCORED | _RELAXED),
    "ranked": (1, _SYMMETRY | _SCORED | _RELAXED | _RANKED),
    "shortlist": (
        1,
        _SYMMETRY | _SCORED | _RELAXED | _RANKED | {"estimated_cpu_seconds": Column("f8", "s")},
    ),
    "compositions": (1, _FORMULA | _LABELLED | {"split": Column("S8")}),
    "composition_predictions": (1, _FORMULA | _LABELLED | {"split": Column("S8")} | _FORMULA_SCORED),
    "composition_candidates": (1, _FORMULA),
    "composition_charge": (1, _FORMULA),
    "composition_unique": (1, _FORMULA),
    "composition_scored": (1, _FORMULA | _FORMULA_SCORED),
    # Where a campaign of compositions ends; what predicts structures starts from these rows.
    "composition_shortlist": (
        1,
        _FORMULA
        | _FORMULA_SCORED
        | {
            "rank": Column("i8"),
            "acquisition_ev_per_atom": ENERGY,
            "elements": TEXT,
            "nearest_known": TEXT,
            "element_movers_distance": Column("f8"),
        },
    ),
    "tasks": (1, _TASK),
    "results": (1, _RESULT),  # of a batch of references or compounds
    "validated": (
        1,
        _RESULT
        | {
            "parent_rank": Column("i8"),
            "formation_energy_ev_per_atom": ENERGY,
            "formation_energy_corrected_ev_per_atom": ENERGY,
            "mlip_formation_energy_ev_per_atom": ENERGY,
            "confirmed": FLAG,
            "novel": FLAG,
            "code": SHORT_TEXT,
            "protocol": SHORT_TEXT,
        },
    ),
    "graphs": (1, {}),  # of crystals, flat, for the models of sluice.models.graphs
    "decision": (1, {"stop": FLAG, "reason": TEXT}),
}
