"""Charge neutrality of random formulas: answers and speed against smact's own ``smact_validity``.

Usage: ``python benchmarks/charge_neutrality.py [--formulas 100000] [--tables icsd24 smact14]``. Both sides start from
texts of 2 to 5 elements, equally many of each, in amounts of 1 to 12, and are timed in turns, block by block, in
CPU-seconds of this process. ``--mixed-valence`` lets atoms of one element differ in their state, where smact gives up
on formulas with more than a million combinations: those are counted apart and compared with nothing. smact takes
minutes for each; ``--amounts 4`` makes the formulas small enough for it. ``--keep`` and ``--seconds`` do it in pieces.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from smact.screening import smact_validity

from sluice.chemistry.charge_neutrality import charge_rule, smact_valid
from sluice.chemistry.compositions import Compositions, symbols

BLOCK = 5000
SEED = 2026
SIZES = (2, 3, 4, 5)


@dataclass
class Result:
    """Sums over some formulas; CPU-seconds."""

    formulas: int = 0
    undecided: int = 0
    different: int = 0
    valid: int = 0
    theirs_s: float = 0.0
    ours_s: float = 0.0

    def __add__(self, other: Result) -> Result:
        return Result(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def columns(self) -> str:
        """The row of the table."""
        n = self.formulas
        return (
            f"{n} | {self.undecided} | {self.different} | {self.valid / n:.1%} | {n / self.theirs_s:.0f} "
            f"| {n / self.ours_s:.0f} | {self.theirs_s / self.ours_s:.0f} |"
        )


def random_formulas(n: int, size: int, largest: int) -> list[str]:
    """Formulas of so many of the first 94 elements, in amounts of 1 to ``largest``."""
    rng = np.random.default_rng([SEED, size])
    names = np.array(symbols()[1:95])
    found = []
    for _ in range(n):
        chosen, amounts = rng.choice(names, size, replace=False), rng.integers(1, largest + 1, size)
        found.append("".join(f"{s}{a}" for s, a in zip(chosen.tolist(), amounts.tolist(), strict=True)))
    return found


def by_smact(formulas: list[str], **options: str | bool) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Answers of smact, and which formulas it gives up on."""
    answers, undecided = [], []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for formula in formulas:
            answers.append(smact_validity(formula, **options))
            undecided.append(any("too many combinations" in str(w.message) for w in caught))
            caught.clear()
    return np.array(answers), np.array(undecided)


def compare(part: list[str], table: str, *, pauling: bool, mixed: bool) -> Result:
    """Both sides on the same formulas, one after the other."""
    options = {"use_pauling_test": pauling, "include_alloys": False, "mixed_valence": mixed}
    charge_rule(table, mixed_valence=mixed)
    smact_validity("NaCl", oxidation_states_set=table, **options)
    start = time.process_time()
    theirs, undecided = by_smact(part, oxidation_states_set=table, **options)
    middle = time.process_time()
    ours = smact_valid(
        Compositions.from_formulas(part), table=table, use_pauling=pauling, include_alloys=False, mixed_valence=mixed
    )
    end = time.process_time()
    different = int(np.count_nonzero((ours != theirs) & ~undecided))
    return Result(len(part), int(undecided.sum()), different, int(ours.sum()), middle - start, end - middle)


def kept(path: Path | None) -> dict[str, Result]:
    """Blocks that an earlier run of the same arguments has done."""
    if path is None or not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row.pop("block"): Result(**row) for row in rows}


def main() -> None:
    """Compare and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formulas", type=int, default=100_000, help="of all sizes together")
    parser.add_argument("--tables", nargs="+", default=["icsd24", "smact14"])
    parser.add_argument("--electronegativity", nargs="+", choices=["yes", "no"], default=["yes", "no"])
    parser.add_argument("--amounts", type=int, default=12, help="largest amount")
    parser.add_argument("--mixed-valence", action="store_true")
    parser.add_argument("--keep", type=Path, help="file of finished blocks: a run that was stopped goes on from it")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many CPU-seconds")
    given = parser.parse_args()
    per_size = given.formulas // len(SIZES)
    formulas = {size: random_formulas(per_size, size, given.amounts) for size in SIZES}
    print(
        "| table | electronegativity | elements | formulas | smact gives up | different | valid | smact, 1/CPU-s "
        "| here, 1/CPU-s | times |"
    )
    print("|---" * 10 + "|", flush=True)
    done = kept(given.keep)
    for table, order in itertools.product(given.tables, given.electronegativity):
        total = Result()
        for size in SIZES:
            found = Result()
            for begin in range(0, per_size, BLOCK):
                part = formulas[size][begin : min(begin + BLOCK, per_size)]
                name = f"{table} {order} {given.mixed_valence} {given.amounts} {size} {begin} {len(part)}"
                if name not in done:
                    if time.process_time() > given.seconds:
                        return
                    done[name] = compare(part, table, pauling=order == "yes", mixed=given.mixed_valence)
                    if given.keep:
                        with given.keep.open("a", encoding="utf-8") as handle:
                            handle.write(json.dumps({"block": name, **vars(done[name])}) + "\n")
                found += done[name]
            print(f"| {table} | {order} | {size} | {found.columns()}", flush=True)
            total += found
        print(f"| {table} | {order} | all | {total.columns()}", flush=True)


if __name__ == "__main__":
    main()
