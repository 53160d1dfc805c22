"""Element mover's distance: answers and speed against the ElMD package, and the nearest of many formulas.

ElMD (0.5.15 was measured) is no dependency: it imports only with setuptools < 80, so give it an environment of its own,

    python -m venv elmd; elmd/bin/pip install "setuptools<80" ElMD
    SLUICE_DATA=… python benchmarks/element_distance.py --elmd-python elmd/bin/python

The first table compares all pairs of formulas of the OQMD, block by block in turns, in CPU-seconds of one thread, made
from formulas beforehand: ElMD's own ``x.elmd(y)``, and its compiled kernel in a compiled loop over arrays, which users
would have to write. "Chemistry" has formulas of few elements only, as a campaign has. The second table is of the k
nearest among the OQMD's formulas for formulas of the Materials Project, each size in a process of its own; a sample
is checked against all distances.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.chemistry.compositions import Compositions, read_formulas
from sluice.chemistry.element_distance import element_distances, nearest_compositions, scale_positions
from sluice.datasets.registry import require_data

SEED = 2026
TOLERANCE = 1e-12
CHEMISTRY = {"Li", "Na", "K", "Mg", "Ca", "Zn", "O", "F", "Cl", "Br"}
NEAREST = 10
CHECKED = 200  # queries
KNOWN_PART = 8192
# Runs under ElMD's Python: formulas of a block in, distances of both kinds and their CPU-seconds out.
WORKER = """
import importlib, json, sys, time
import numpy as np
from numba import njit
from ElMD import ElMD
kernel = importlib.import_module("ElMD.ElMD").simple_emd
@njit
def loop(first, second, out):
    for i in range(len(first)):
        for j in range(len(second)):
            out[i, j] = kernel(first[i], second[j])
loop(np.zeros((1, 103)), np.zeros((1, 103)), np.zeros((1, 1)))
for line in sys.stdin:
    first, second = ([ElMD(text) for text in texts] for texts in json.loads(line))
    start = time.process_time()
    objects = [[x.elmd(y) for y in second] for x in first]
    objects_s = time.process_time() - start
    a, b = (np.array([x.feature_vector for x in side]) for side in (first, second))
    out = np.empty((len(a), len(b)))
    start = time.process_time()
    loop(a, b, out)
    loop_s = time.process_time() - start
    assert np.array_equal(out, objects)
    print(json.dumps([out.tolist(), objects_s, loop_s]), flush=True)
"""


def read_column(dataset: str, file: str, column: str) -> set[str]:
    """The different texts of a column of a data set."""
    with gzip.open(require_data(dataset) / file, "rt", encoding="utf-8", newline="") as handle:
        return {row[column] for row in csv.DictReader(handle)}


def oqmd_and_mp() -> tuple[list[str], list[str]]:
    """Formulas of the OQMD and of the Materials Project in random order, each once, without those off the scale."""
    oqmd = read_column("oqmd_formation", "oqmd_compositions.csv.gz", "formula")
    mp = read_column("mp_structures", "mp_table.csv.gz", "formula")
    mp |= read_column("mp_properties", "mpid_formula_sp.csv.gz", "pretty_formula")
    found = []
    for texts in (sorted(oqmd), sorted(mp)):
        compositions, problems = read_formulas(texts)
        bad = np.array([bool(problem) for problem in problems])
        bad[compositions.rows[scale_positions()[compositions.numbers] < 0]] = True
        keep = np.random.default_rng(SEED).permutation(np.flatnonzero(~bad))
        found.append([texts[row] for row in keep.tolist()])
    return found[0], found[1]


def compare_with_elmd(python: Path, oqmd: list[str], blocks: int, size: int) -> None:
    """Print the table of pairs a CPU-second."""
    within = [f for f in oqmd if not set("".join(c if c.isalpha() else " " for c in f).split()) - CHEMISTRY]
    within *= -(-2 * size * blocks // len(within))
    print(
        "| formulas | pairs | largest difference | x.elmd(y) | ElMD's kernel, in a loop | here | times x.elmd(y) "
        "| times the kernel |"
    )
    print("|---" * 8 + "|", flush=True)
    with subprocess.Popen(
        [str(python), "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin and worker.stdout
        for name, formulas in (("OQMD", oqmd), (f"chemistry of {len(CHEMISTRY)} elements", within)):
            seconds = np.zeros(3)
            apart = 0.0
            for begin in range(0, 2 * size * blocks, 2 * size):
                sides = [formulas[begin : begin + size], formulas[begin + size : begin + 2 * size]]
                worker.stdin.write(json.dumps(sides) + "\n")
                worker.stdin.flush()
                theirs, objects_s, loop_s = json.loads(worker.stdout.readline())
                first, second = (Compositions.from_formulas(side) for side in sides)
                start = time.process_time()
                ours = element_distances(first, second)
                seconds += objects_s, loop_s, time.process_time() - start
                apart = max(apart, float(np.abs(ours - np.array(theirs)).max()))
            assert apart < TOLERANCE, f"{name}: distances differ by {apart}"
            n = size * size * blocks
            rates = n / seconds
            print(
                f"| {name} | {n} | {apart:.0e} | {rates[0]:.3g} | {rates[1]:.3g} | {rates[2]:.3g} "
                f"| {rates[2] / rates[0]:.0f} | {rates[2] / rates[1]:.1f} |",
                flush=True,
            )
        worker.stdin.close()


def check(
    queries: Compositions, known: Compositions, indices: NDArray[np.int64], distances: NDArray[np.float64]
) -> None:
    """A sample of queries against all distances.

    Raises:
        AssertionError: if a distance differs, or belongs to another composition than it says.
    """
    sample = np.random.default_rng(SEED).choice(len(queries), min(CHECKED, len(queries)), replace=False)
    parts = [known[begin : begin + KNOWN_PART] for begin in range(0, len(known), KNOWN_PART)]
    every = np.concatenate([element_distances(queries[sample], part) for part in parts], axis=1)
    expected = np.sort(np.partition(every, NEAREST, axis=1)[:, :NEAREST], axis=1)
    assert np.abs(distances[sample] - expected).max() < TOLERANCE, "there are nearer ones"
    named = np.take_along_axis(every, indices[sample], axis=1)
    assert np.abs(named - distances[sample]).max() < TOLERANCE, "distances of others than those named"
    assert all(len(set(row)) == NEAREST for row in indices[sample].tolist()), "one is listed twice"


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far; getrusage would count the one that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def save(path: Path, compositions: Compositions) -> None:
    """Keep them for another process."""
    np.savez(path, offsets=compositions.offsets, numbers=compositions.numbers, amounts=compositions.amounts)


def load(path: Path, n: int) -> Compositions:
    """The first ``n`` of those kept."""
    with np.load(path) as kept:
        return Compositions(kept["offsets"], kept["numbers"], kept["amounts"])[:n]


def find_nearest(folder: Path, n_queries: int, n_known: int, threads: int) -> None:
    """Print one row of the table of nearest compositions."""
    queries, known = load(folder / "mp.npz", n_queries), load(folder / "oqmd.npz", n_known)
    before = peak_memory_mb()
    start, wall = time.process_time(), time.perf_counter()
    indices, distances = nearest_compositions(queries, known, NEAREST, threads=threads)
    cpu, wall, peak = time.process_time() - start, time.perf_counter() - wall, peak_memory_mb()
    check(queries, known, indices, distances)
    print(
        f"| {len(queries)} | {len(known)} | {NEAREST} | {threads} | {cpu:.1f} | {wall:.1f} "
        f"| {len(queries) / cpu:.0f} | {before:.0f} | {peak:.0f} |",
        flush=True,
    )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elmd-python", type=Path, help="Python that has ElMD; without it no comparison")
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--block-size", type=int, default=400, help="formulas on either side of a block")
    parser.add_argument("--queries", type=int, nargs="*", default=[10_000, 100_000, 100_000])
    parser.add_argument("--known", type=int, nargs="*", default=[150_000, 50_000, 150_000], help="as many as --queries")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of a process of its own
    given = parser.parse_args()
    if given.folder:
        find_nearest(given.folder, given.queries[0], given.known[0], given.threads)
        return
    oqmd, mp = oqmd_and_mp()
    if given.elmd_python:
        compare_with_elmd(given.elmd_python, oqmd, given.blocks, given.block_size)
        print()
    print("| queries | known | k | threads | CPU s | wall s | queries/CPU-s | memory before, MB | peak, MB |")
    print("|---" * 9 + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "oqmd.npz", Compositions.from_formulas(oqmd))
        save(Path(folder) / "mp.npz", Compositions.from_formulas(mp))
        for n_queries, n_known in zip(given.queries, given.known, strict=True):
            flags = ["--queries", n_queries, "--known", n_known, "--threads", given.threads, "--folder", folder]
            subprocess.run([sys.executable, __file__, *map(str, flags)], check=True)


if __name__ == "__main__":
    main()
