"""Element mover's distance between many compositions, and the nearest of them.

Hargreaves et al., Chem. Mater. 32, 10610 (2020): the Wasserstein distance between element fractions, elements lying
on the modified Pettifor scale (Glawe et al., New J. Phys. 18, 093011, 2016). On a line it is the area between the
cumulative distributions, here the sum over the scale's 102 unit steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain, count

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from sluice.chemistry.compositions import MAX_Z, Compositions, FormulaError, atomic_numbers, symbols

# The modified Pettifor scale, from 0 to 102.
_ORDER = (
    "He Ne Ar Kr Xe Rn Fr Cs Rb K Na Li Ra Ba Sr Ca Eu Yb Lu Tm Y Er Ho Dy Tb Gd Sm Pm Nd Pr Ce La Ac Th Pa U Np Pu"
    " Am Cm Bk Cf Es Fm Md No Lr Sc Zr Hf Ti Ta Nb V Cr Mo W Re Tc Os Ru Ir Rh Pt Pd Au Ag Cu Ni Co Fe Mn Mg Zn Cd Hg"
    " Be Al Ga In Tl Pb Sn Ge Si B C N P As Sb Bi Po Te Se S O At I Br Cl F H"
)
SCALE = tuple(_ORDER.split())
QUERY_BLOCK = 256
KNOWN_BLOCK = 2048
ROUNDING = 1e-9  # of the bound that ends a search


@cache
def scale_positions() -> NDArray[np.int64]:
    """(119,) place of each element on the scale, −1 for those beyond lawrencium."""
    places = np.full(MAX_Z + 1, -1)
    places[[atomic_numbers()[symbol] for symbol in SCALE]] = np.arange(len(SCALE))
    return places


def cumulative_fractions(compositions: Compositions) -> NDArray[np.float64]:
    """(n, 102) share of the atoms up to each place of the scale; the distance is the sum of absolute differences.

    Raises:
        FormulaError: if a composition is empty or holds an element that is not on the scale.
    """
    places = scale_positions()[compositions.numbers]
    if (places < 0).any():
        raise FormulaError(f"{symbols()[compositions.numbers[places < 0][0]]} is not on the modified Pettifor scale")
    if (compositions.sizes == 0).any():
        raise FormulaError(f"composition {int((compositions.sizes == 0).argmax()) + 1} is empty")
    shares = np.zeros((len(compositions), len(SCALE)))
    shares[compositions.rows, places] = compositions.fractions
    return np.cumsum(shares, axis=1)[:, :-1]


def element_distances(first: Compositions, second: Compositions) -> NDArray[np.float64]:
    """(n, m) distances of all pairs.

    Raises:
        FormulaError: as ``cumulative_fractions``.
    """
    return cdist(cumulative_fractions(first), cumulative_fractions(second), "cityblock")


def nearest_compositions(
    queries: Compositions, known: Compositions, k: int = 1, *, threads: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k nearest known compositions of each query, exactly.

    The distance is never less than the difference of the mean places on the scale. Both sides are sorted by that mean;
    a block of queries is compared with blocks of known ones outwards from its own place, until the difference alone
    exceeds the k-th distance found. Only blocks are held, so that memory does not grow with the product of the sizes.

    Args:
        queries: n compositions.
        known: at least k compositions.
        k: how many.
        threads: CPU threads.

    Returns:
        (n, k) positions in ``known`` and (n, k) distances, nearest first.

    Raises:
        FormulaError: as ``cumulative_fractions``.
        ValueError: if fewer than k are known.
    """
    if not 1 <= k <= len(known):
        raise ValueError(f"k is {k}; allowed are 1 to the number of known compositions, {len(known)}")
    indices, distances = np.zeros((len(queries), k), dtype=np.int64), np.zeros((len(queries), k))
    mean, query_mean = _mean_place(known), _mean_place(queries)
    order, query_order = np.argsort(mean, kind="stable"), np.argsort(query_mean, kind="stable")
    mean = mean[order]

    def search(begin: int) -> None:
        mine = query_order[begin : begin + QUERY_BLOCK]
        found = _search(queries[mine], query_mean[mine], known, mean, order=order, k=k)
        indices[mine], distances[mine] = found

    blocks = range(0, len(queries), QUERY_BLOCK)
    if threads == 1:
        for begin in blocks:
            search(begin)
    else:
        with ThreadPoolExecutor(threads) as pool:  # the distances are computed without the interpreter's lock
            list(pool.map(search, blocks))
    return indices, distances


def _mean_place(compositions: Compositions) -> NDArray[np.float64]:
    """(n,) mean place of the atoms on the scale."""
    places = scale_positions()[compositions.numbers]
    if (places < 0).any() or (compositions.sizes == 0).any():
        cumulative_fractions(compositions)  # says what is wrong
    return np.bincount(compositions.rows, places * compositions.fractions, minlength=len(compositions)).astype(float)


def _search(
    queries: Compositions,
    query_mean: NDArray[np.float64],
    known: Compositions,
    mean: NDArray[np.float64],
    *,
    order: NDArray[np.int64],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k nearest of one block of queries; ``mean`` is sorted, ``order`` says which composition lies where."""
    mine = cumulative_fractions(queries)
    best = np.full((len(queries), k), np.inf)
    which = np.full((len(queries), k), -1)
    lowest, highest = query_mean.min(), query_mean.max()
    centre = int(np.searchsorted(mean, (lowest + highest) / 2)) // KNOWN_BLOCK
    last = (len(mean) - 1) // KNOWN_BLOCK
    open_side = {-1: True, 1: True}
    for block, side in _outwards(min(centre, last), last):
        if not open_side[side]:
            if not any(open_side.values()):
                break
            continue
        part = slice(block * KNOWN_BLOCK, (block + 1) * KNOWN_BLOCK)
        gap = mean[part][0] - highest if side > 0 else lowest - mean[part][-1]
        if gap > best[:, -1].max() + ROUNDING:
            open_side[side] = False
            continue
        found = cdist(mine, cumulative_fractions(known[order[part]]), "cityblock")
        if found.shape[1] > k:
            chosen = np.argpartition(found, k - 1, axis=1)[:, :k]
            found = np.take_along_axis(found, chosen, axis=1)
        else:
            chosen = np.broadcast_to(np.arange(found.shape[1]), found.shape)
        values = np.concatenate([best, found], axis=1)
        names = np.concatenate([which, order[part][chosen]], axis=1)
        ranked = np.argsort(values, axis=1, kind="stable")[:, :k]
        best, which = np.take_along_axis(values, ranked, axis=1), np.take_along_axis(names, ranked, axis=1)
    return which, best


def _outwards(centre: int, last: int) -> Iterator[tuple[int, int]]:
    """Blocks 0 to ``last`` by their distance from the centre, with the side that they lie on."""
    ring = chain.from_iterable(((centre - step, -1), (centre + step, 1)) for step in count(1))
    yield centre, 1 if centre == 0 else -1
    for block, side in ring:
        if 0 <= block <= last:
            yield block, side
        elif centre - abs(block - centre) < 0 and centre + abs(block - centre) > last:
            return
