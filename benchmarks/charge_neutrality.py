"""Charge neutrality of random formulas: answers and speed against smact's own ``smact_validity``.

Usage: ``python benchmarks/charge_neutrality.py [--formulas 100000] [--tables icsd24 smact14]``. Both sides start from
texts of 2 to 5 elements in amounts of 1 to 12 and are timed in turns, block by block, in CPU-seconds of this process.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from smact.screening import smact_validity

from sluice.chemistry.charge_neutrality import charge_rule, smact_valid
from sluice.chemistry.compositions import Compositions, symbols

BLOCK = 5000
SEED = 2026


def random_formulas(n: int) -> list[str]:
    """Formulas of 2 to 5 of the first 94 elements, equally many of each size."""
    rng = np.random.default_rng(SEED)
    names = np.array(symbols()[1:95])
    found = []
    for size in rng.integers(2, 6, n):
        chosen, amounts = rng.choice(names, size, replace=False), rng.integers(1, 13, size)
        found.append("".join(f"{s}{a}" for s, a in zip(chosen.tolist(), amounts.tolist(), strict=True)))
    return found


def compare(formulas: list[str], table: str, *, pauling: bool) -> str:
    """One row of the table of results."""
    options = {"use_pauling_test": pauling, "include_alloys": False, "oxidation_states_set": table}
    charge_rule(table)
    smact_validity(formulas[0], **options)
    ours_s = theirs_s = 0.0
    different = valid = 0
    for begin in range(0, len(formulas), BLOCK):
        part = formulas[begin : begin + BLOCK]
        start = time.process_time()
        theirs = [smact_validity(formula, **options) for formula in part]
        middle = time.process_time()
        ours = smact_valid(Compositions.from_formulas(part), table=table, use_pauling=pauling, include_alloys=False)
        ours_s, theirs_s = ours_s + time.process_time() - middle, theirs_s + middle - start
        different += int(np.count_nonzero(ours != np.array(theirs)))
        valid += int(ours.sum())
    n = len(formulas)
    return (
        f"| {table} | {'yes' if pauling else 'no'} | {n} | {different} | {valid / n:.1%} "
        f"| {n / theirs_s:.0f} | {n / ours_s:.0f} | {theirs_s / ours_s:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--formulas", type=int, default=100_000)
    parser.add_argument("--tables", nargs="+", default=["icsd24", "smact14"])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    formulas = random_formulas(arguments.formulas)
    print("| table | electronegativity | formulas | different | valid | smact, 1/CPU-s | here, 1/CPU-s | times |")
    print("|---|---|---|---|---|---|---|---|")
    for table in arguments.tables:
        for pauling in (True, False):
            print(compare(formulas, table, pauling=pauling), flush=True)


if __name__ == "__main__":
    main()
