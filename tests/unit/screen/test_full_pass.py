"""Five hundred crystals through every step: nobody is lost, and the answer does not depend on the batches."""

import itertools

import numpy as np
import pytest
from pymatgen.core import Structure

from sluice.config import (
    Chemistry,
    ScreenSettings,
    ShortlistSettings,
    ValidateSettings,
)
from sluice.screen.check_charge import check_charge
from sluice.screen.check_geometry import check_geometry
from sluice.screen.check_symmetry import check_symmetry
from sluice.screen.rank_candidates import rank_candidates
from sluice.screen.relax_candidates import relax_candidates
from sluice.screen.remove_duplicates import remove_duplicates
from sluice.screen.score_candidates import score_candidates
from sluice.screen.select_candidates import select_candidates
from sluice.screen.shortlist_candidates import shortlist_candidates
from sluice.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib
ELEMENTS = ("Li", "Na", "K", "Mg", "Ca", "F", "Cl", "S")
SETTINGS = ScreenSettings.model_validate(
    {"relax": {"candidates": 4, "batches": 2, "max_per_formula": 1}, "shortlist": {"dft_cpu_seconds": 300.0}}
)


def five_hundred(crystal):
    """Random decorations of two prototypes, some of them impossible, bent or asked to be another group."""
    rng = np.random.default_rng(12)
    rows = []
    for i in range(500):
        elements = rng.permutation(ELEMENTS)[:3].tolist()
        kind, group = (("perovskite", 221), ("half_heusler", 216))[int(rng.integers(2))]
        structure: Structure = crystal[kind](*elements, float(rng.uniform(2.5, 8.0)))
        if rng.random() < 0.1:
            structure.translate_sites([0], [0.07, 0.02, 0])
        rows.append((f"r1-c{i:05d}", structure, group if rng.random() < 0.95 else 225))
    return rows


def run_batches(rows, sizes, name, write_store, folder):
    """The first three steps, batch by batch; the last batch is empty."""
    paths, start = [], 0
    for number, size in enumerate([*sizes, 0]):
        batch = rows[start : start + size]
        start += size
        path = write_store(
            f"{name}_{number}.h5",
            "candidates",
            [row[1] for row in batch],
            [row[0] for row in batch],
            requested_space_group=[row[2] for row in batch],
        )
        files = [folder / f"{name}_{step}_{number}.h5" for step in ("geometry", "symmetry", "charge")]
        check_geometry(candidates=path, settings=SETTINGS.geometry, geometry=files[0])
        check_symmetry(candidates=files[0], settings=SETTINGS.symmetry, symmetry=files[1])
        check_charge(candidates=files[1], settings=SETTINGS.charge, charge=files[2])
        paths.append(files)
    assert start == len(rows)
    return paths


def counts_of(paths, reasons_of):
    total: dict[str, int] = {}
    for path in paths:
        reasons_of(path)  # checks the sums
        with Store(path) as store:
            for name, n in store.counts.items():
                total[name] = total.get(name, 0) + n
    return total


def test_nobody_is_lost(crystal, write_store, reasons_of, screener, tmp_path):
    rows = five_hundred(crystal)
    batches = run_batches(rows, (200, 300), "a", write_store, tmp_path)
    known = write_store("known.h5", "dataset", [crystal["perovskite"]("K", "Mg", "F", 4.0)], space_group=221)
    charge = [files[2] for files in batches]
    unique, scored, selected, ranked, shortlist = (
        tmp_path / f"{n}.h5" for n in ("unique", "scored", "selected", "ranked", "shortlist")
    )
    remove_duplicates(candidates=charge, known=known, earlier=[], settings=SETTINGS.duplicates, unique=unique)
    score_candidates(candidates=unique, model=screener, settings=SETTINGS.score, device="cpu", scored=scored)
    select_candidates(candidates=scored, settings=SETTINGS.relax, selected=selected)
    relaxed = [tmp_path / f"relaxed_{i}.h5" for i in range(2)]
    for i, path in enumerate(relaxed):
        relax_candidates(
            candidates=selected, settings=SETTINGS.relax, symprec=0.1, seed=1, batch=i, device="cpu", relaxed=path
        )
    rank_candidates(candidates=relaxed, known=known, earlier=[], settings=SETTINGS, ranked=ranked)
    shortlist_candidates(
        candidates=ranked,
        settings=ShortlistSettings(dft_cpu_seconds=300.0),
        chemistry=Chemistry(elements=ELEMENTS),
        dft=ValidateSettings(),
        library=tmp_path / "library",
        shortlist=shortlist,
    )
    funnel = [
        counts_of(paths, reasons_of)
        for paths in (
            [files[0] for files in batches],
            [files[1] for files in batches],
            charge,
            [unique],
            [scored],
            [selected],
            relaxed,
            [ranked],
            [shortlist],
        )
    ]
    assert funnel[0]["in"] == 500
    for before, after in itertools.pairwise(funnel):
        assert after["in"] == before["out"]
    lost = sum(step["rejected"] + step["failed"] for step in funnel)
    assert lost + funnel[-1]["out"] == 500
    assert all(step["rejected"] > 0 for step in funnel[:4])
    assert funnel[5]["out"] == 4
    with Store(shortlist) as store:
        assert all(name.endswith("-relaxed") for name in store.ids())
        assert store.attributes["round"] == 1


def test_the_cut_into_batches_makes_no_difference(crystal, write_store, tmp_path):
    rows = five_hundred(crystal)
    known = write_store("known.h5", "dataset", [], space_group=221)
    digests = set()
    for name, sizes in (("a", (500,)), ("b", (123, 77, 300))):
        charge = [files[2] for files in run_batches(rows, sizes, name, write_store, tmp_path)]
        unique = tmp_path / f"{name}_unique.h5"
        remove_duplicates(candidates=charge[::-1], known=known, earlier=[], settings=SETTINGS.duplicates, unique=unique)
        with Store(unique) as store:
            digests.add((tuple(store.ids()), tuple(store.structure_hashes()), store.content_sha256))
    assert len(digests) == 1
