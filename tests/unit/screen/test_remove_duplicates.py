"""New crystals stay once; what is known, was sent to DFT or occurs twice is rejected."""

import itertools

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_matcher import StructureMatcher

from sluice.chemistry import duplicates
from sluice.config import DuplicateSettings
from sluice.screen.remove_duplicates import DUPLICATE, EARLIER, KNOWN, remove_duplicates
from sluice.store import Store

SETTINGS = DuplicateSettings()


@pytest.fixture
def run(write_store, tmp_path):
    """Run the step on batches of (id, structure, space group)."""

    def go(batches, known=(), earlier=(), name="unique.h5"):
        def columns(rows, group):
            return {group: [row[2] for row in rows]}

        paths = [
            write_store(f"{name}-b{i}.h5", "charge", [r[1] for r in b], [r[0] for r in b], **columns(b, "space_group"))
            for i, b in enumerate(batches)
        ]
        database = write_store(
            f"{name}-known.h5", "dataset", [r[1] for r in known], [r[0] for r in known], **columns(known, "space_group")
        )
        before = [
            write_store(
                f"{name}-shortlist.h5",
                "shortlist",
                [r[1] for r in earlier],
                [r[0] for r in earlier],
                **columns(earlier, "relaxed_space_group"),
            )
        ] * bool(earlier)
        remove_duplicates(candidates=paths, known=database, earlier=before, settings=SETTINGS, unique=tmp_path / name)
        return tmp_path / name

    return go


def moved(structure, shift):
    """The same crystal with another origin, order of atoms and cell."""
    other = structure.copy()
    other.translate_sites(range(len(other)), shift, to_unit_cell=False)
    other.make_supercell([[0, 1, 0], [0, 0, 1], [1, 1, 0]])
    return Structure.from_sites(sorted(other, key=lambda site: -site.specie.Z))


def test_each_reason_and_the_lowest_id_wins(crystal, run, reasons_of, tmp_path):
    kmgf, kmgf_wide = (crystal["perovskite"]("K", "Mg", "F", a) for a in (4.0, 4.6))
    namgf = crystal["perovskite"]("Na", "Mg", "F", 3.9)
    rbmgf, cscaf = crystal["perovskite"]("Rb", "Mg", "F", 4.1), crystal["perovskite"]("Cs", "Ca", "F", 4.6)
    path = run(
        [
            [("c3", kmgf_wide, 221), ("c2", kmgf, 221), ("c7", namgf, 221)],
            [("c1", moved(kmgf, [0.1, 0.2, 0.3]), 221), ("c5", rbmgf, 221), ("c6", cscaf, 221)],
        ],
        known=[("db-1", moved(namgf, [0.5, 0.5, 0.5]), 221)],
        earlier=[("old-relaxed", Structure(Lattice.cubic(4.3), rbmgf.species, rbmgf.frac_coords), 221)],
    )
    assert reasons_of(path) == {
        "c2": ("rejected", DUPLICATE, "duplicate of c1"),
        "c3": ("rejected", DUPLICATE, "duplicate of c1"),
        "c7": ("rejected", KNOWN, "same as db-1"),
        "c5": ("rejected", EARLIER, "same as old-relaxed"),
    }
    with Store(path, "unique") as store:
        assert sorted(store.ids()) == ["c1", "c6"]
    assert not list(tmp_path.glob(".*scratch*"))


def test_different_crystals_of_one_formula_and_group_stay(crystal, run):
    # Which element sits in the fourfold hole makes another crystal of the same formula, group and cell.
    three = [
        crystal["half_heusler"](*order, 6.0) for order in (("Li", "Al", "Si"), ("Al", "Li", "Si"), ("Li", "Si", "Al"))
    ]
    path = run([[(f"c{i}", s, 216) for i, s in enumerate(three)]])
    with Store(path) as store:
        assert store.ids() == ["c0", "c1", "c2"]


def test_exchanging_equivalent_sites_is_no_new_crystal(crystal, run, reasons_of):
    # X and Z of a half-Heusler crystal are the same site up to a shift of the origin.
    path = run(
        [
            [
                ("c0", crystal["half_heusler"]("Li", "Al", "Si", 6.0), 216),
                ("c1", crystal["half_heusler"]("Si", "Al", "Li", 6.4), 216),
            ]
        ]
    )
    assert reasons_of(path)["c1"] == ("rejected", DUPLICATE, "duplicate of c0")


def test_another_space_group_is_another_crystal_unless_it_is_not_known(crystal, run, reasons_of):
    kmgf = crystal["perovskite"]("K", "Mg", "F", 4.0)
    both = run([[("c0", kmgf, 221)]], known=[("db", kmgf, 99)], name="prefilter.h5")
    with Store(both) as store:
        assert store.ids() == ["c0"]
    unknown = run([[("c0", kmgf, 221), ("c1", kmgf, 221)]], known=[("db", kmgf, 0)], name="unknown.h5")
    assert {v[1:] for v in reasons_of(unknown).values()} == {(KNOWN, "same as db")}


def population(crystal, n, seed):
    """Real prototypes with repeats, other origins and sizes."""
    rng = np.random.default_rng(seed)
    alkali, earth, halogen = ["Na", "K", "Rb"], ["Mg", "Ca"], ["F", "Cl"]
    rows = []
    for i in range(n):
        a, b, x = rng.choice(alkali), rng.choice(earth), rng.choice(halogen)
        if rng.random() < 0.5:
            structure, group = crystal["perovskite"](a, b, x, float(rng.uniform(3.8, 5.2))), 221
        else:
            sites = rng.permutation([a, b, x])
            structure, group = crystal["half_heusler"](*sites, float(rng.uniform(5.5, 7.5))), 216
        if rng.random() < 0.3:
            structure = moved(structure, rng.uniform(0, 1, 3))
        rows.append((f"c{i:05d}", structure, group))
    return rows


def test_equal_to_comparing_everything_with_everything(crystal, run, reasons_of):
    rows = population(crystal, 60, seed=4)
    matcher = StructureMatcher(ltol=0.2, stol=0.3, angle_tol=5)
    kept, expected = [], {}
    for name, structure, group in rows:  # ids rise, so the first is the lowest
        same = next((k for k in kept if k[2] == group and matcher.fit(k[1], structure)), None)
        if same is None:
            kept.append((name, structure, group))
        else:
            expected[name] = f"duplicate of {same[0]}"
    path = run([rows[:25], rows[25:]])
    assert {name: detail for name, (_, _, detail) in reasons_of(path).items()} == expected
    assert 5 < len(kept) < 50


def test_the_order_of_batches_makes_no_difference(crystal, run, monkeypatch):
    monkeypatch.setattr(duplicates, "ROWS_PER_BUCKET", 7)  # many buckets
    monkeypatch.setattr(duplicates, "CHUNK", 5)
    rows = population(crystal, 40, seed=9)
    batches = [rows[:10], rows[10:18], [], rows[18:]]
    answers = set()
    for number, order in enumerate(itertools.islice(itertools.permutations(range(4)), 0, 24, 7)):
        with Store(run([batches[i] for i in order], name=f"u{number}.h5")) as store:
            answers.add(store.content_sha256)
    assert len(answers) == 1


def test_empty_batches_give_an_empty_store(run, crystal):
    with Store(run([[], []], known=[("db", crystal["perovskite"]("K", "Mg", "F", 4.0), 221)])) as store:
        assert len(store) == 0
        assert store.counts["in"] == 0
    with Store(run([[]], name="all-empty.h5")) as store:
        assert len(store) == 0


def test_a_scratch_left_by_a_killed_run_does_no_harm(crystal, run, tmp_path):
    left = tmp_path / ".unique_scratch"
    left.mkdir()
    (left / "records_0").write_bytes(b"rubbish")
    with Store(run([[("c0", crystal["perovskite"]("K", "Mg", "F", 4.0), 221)]])) as store:
        assert store.ids() == ["c0"]
    assert not left.exists()
