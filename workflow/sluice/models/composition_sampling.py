"""Drawing compositions by the million from WGAN or MatGAN: each batch from a seed of its own, flat in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sluice.chemistry.charge_neutrality import charge_rule
from sluice.chemistry.composition_keys import composition_keys, is_in
from sluice.chemistry.compositions import Compositions
from sluice.models.devices import pick_device
from sluice.models.favourites import UNLIKELY, all_but_favourites
from sluice.models.wgan import CompositionGan
from sluice.step import report_progress

BATCH = 4096
JUDGED = 512  # compositions that the critic sees at once
THRESHOLD = 0.5  # from which an entry of the matrix is a one
MAX_ELEMENTS = 8  # as MatGAN's authors filter
EMPTY, TWO_COUNTS, ONE_ELEMENT, TOO_MANY = "empty", "two counts for one element", "one element", "too many elements"
REASONS = (EMPTY, TWO_COUNTS, ONE_ELEMENT, TOO_MANY, UNLIKELY)
Decoding = Literal["threshold", "sampled"]
BUCKETS = 64
RECORD = np.dtype([("key", "u8"), ("flags", "u1")])
NOVEL, NEUTRAL, ORDERED = 1, 2, 4


@dataclass(frozen=True)
class Draw:
    """One batch of draws.

    Attributes:
        compositions: of those that are one and go on, in order.
        reason: (n,) why a draw does not, its place in ``REASONS`` from 1 on; 0 for those that do.
    """

    compositions: Compositions
    reason: NDArray[np.int64]

    @property
    def rejected(self) -> dict[str, int]:
        """How many do not go on, by reason."""
        counts = np.bincount(self.reason, minlength=len(REASONS) + 1)[1:]
        return dict(zip(REASONS, counts.tolist(), strict=True))


def decode_matrices(values: NDArray[np.float32], numbers: NDArray[np.int64], threshold: float = THRESHOLD) -> Draw:
    """Compositions of the matrices that hold one, as drawn (Fe2O2 stays Fe2O2), and why the others hold none.

    Args:
        values: (n, elements, counts) entries.
        numbers: (elements,) atomic number of each row, ascending.
        threshold: from which an entry is a one.
    """
    ones = values >= threshold
    each = ones.sum(axis=2)  # counts that an element has
    elements = (each > 0).sum(axis=1)
    reason = np.select([elements == 0, (each > 1).any(axis=1), elements == 1, elements > MAX_ELEMENTS], [1, 2, 3, 4], 0)
    good = reason == 0
    return Draw(_from_amounts(np.where(ones.any(axis=2), ones.argmax(axis=2) + 1, 0)[good], numbers), reason)


def sampled_matrices(values: NDArray[np.float32], chance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Matrices of zeros and ones drawn from matrices of probabilities, at most one count for each element.

    The sum over counts × vectors that the WGAN's critic judges is linear in the matrix, so that its mean over these
    draws is what the critic saw (as long as an element's probabilities do not add up to more than one).

    Args:
        values: (n, elements, counts) probabilities.
        chance: (n, elements) even random numbers between 0 and 1.
    """
    reached = np.cumsum(values / np.maximum(1.0, values.sum(axis=2, keepdims=True)), axis=2)
    before = np.concatenate([np.zeros_like(reached[..., :1]), reached[..., :-1]], axis=2)
    return ((before <= chance[..., None]) & (chance[..., None] < reached)).astype(np.float32)


def _from_amounts(amounts: NDArray[np.int64], numbers: NDArray[np.int64]) -> Compositions:
    """Compositions of (n, elements) counts."""
    rows, places = np.nonzero(amounts)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(amounts)))]).astype(np.int64)
    return Compositions(offsets, numbers[places].astype(np.uint8), amounts[rows, places].astype(np.float64))


class CompositionSampler:
    """Draws from a trained network.

    Args:
        network: WGAN or MatGAN; put into evaluation mode on the device.
        threshold: from which an entry of the matrix is a one.
        decoding: ``threshold``, or ``sampled`` with the entries as probabilities (``sampled_matrices``).
        critic_share: as many compositions of every batch go on as this share of its draws, the critic's favourites;
            all of them where fewer draws are one.
        allowed: atomic numbers; the critic chooses among compositions of these elements only, the others go on
            unjudged; None: all.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    def __init__(
        self,
        network: CompositionGan,
        *,
        threshold: float = THRESHOLD,
        decoding: Decoding = "threshold",
        critic_share: float = 1.0,
        allowed: NDArray[np.int64] | None = None,
        device: str = "auto",
    ) -> None:
        self.device = pick_device(device)
        self.network = network.to(self.device).eval()
        self.numbers, self.threshold, self.decoding = network.encoding.numbers, threshold, decoding
        self.critic_share, self.allowed = critic_share, self.numbers if allowed is None else allowed

    def draw(self, n: int, seed: int, first: int = 0) -> Iterator[Draw]:
        """Batches of ``n`` draws in all; a whole batch k depends on ``seed`` and ``first`` + k only.

        A short last one holds the first draws of the whole one; its favourites are the best of those.
        """
        for batch, start in enumerate(range(0, n, BATCH)):
            size = min(BATCH, n - start)
            random = np.random.default_rng([seed, first + batch, 23])
            noise = random.standard_normal((BATCH, self.network.generator.noise_size), dtype=np.float32)[:size]
            with torch.inference_mode():
                values = self.network.generator(torch.from_numpy(noise).to(self.device)).float().cpu().numpy()
            if self.decoding == "sampled":
                values = sampled_matrices(values, random.random((BATCH, len(self.numbers)), dtype=np.float32)[:size])
            found = decode_matrices(values, self.numbers, self.threshold)
            yield self._favourites(found) if self.critic_share < 1 else found

    def _favourites(self, found: Draw) -> Draw:
        """The critic's favourites; it judges the compositions in the smallest integers, as it learned them."""
        judged = np.flatnonzero(~strangers(found.compositions, self.allowed))
        matrices = torch.from_numpy(self.network.encoding.encode(found.compositions[judged]).astype(np.float32))
        with torch.inference_mode():
            scores = [self.network.critic(part.to(self.device)).float().cpu() for part in matrices.split(JUDGED)]
        going_on = np.ones(len(found.compositions), dtype=bool)
        going_on[judged[all_but_favourites(torch.cat(scores).numpy(), self.critic_share, len(found.reason))]] = False
        reason = found.reason.copy()
        reason[np.flatnonzero(found.reason == 0)[~going_on]] = REASONS.index(UNLIKELY) + 1
        return Draw(found.compositions[np.flatnonzero(going_on)], reason)


def strangers(compositions: Compositions, allowed: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether a composition has an element that is not among these atomic numbers."""
    outside = ~np.isin(compositions.numbers, allowed)
    return np.bincount(compositions.rows, outside, minlength=len(compositions)) > 0


@dataclass(frozen=True)
class Census:
    """What a number of draws holds.

    Attributes:
        drawn: draws.
        rejected: draws that are no composition or that the sampler left out, by reason.
        decoded: the others; ``novel`` those of them not among the known, ``neutral`` those that charges can
            balance, ``ordered`` those that they can with cations less electronegative than anions, ``valid_novel`` both
            ordered and novel.
        distinct: different compositions; the same of them alone.
        recovered: share of the held-out compositions that were drawn; NaN without any.
    """

    drawn: int
    rejected: dict[str, int]
    decoded: int
    novel: int
    neutral: int
    ordered: int
    valid_novel: int
    distinct: int
    distinct_novel: int
    distinct_neutral: int
    distinct_ordered: int
    distinct_valid_novel: int
    recovered: float

    def shares(self) -> dict[str, float]:
        """All of it as shares of the decoded draws, of the different ones, or of all draws."""
        decoded, distinct, drawn = max(1, self.decoded), max(1, self.distinct), max(1, self.drawn)
        names = ("novel", "neutral", "ordered", "valid_novel")
        return {
            "decodable": self.decoded / drawn,
            **{f"rejected_{name.replace(' ', '_')}": count / drawn for name, count in self.rejected.items()},
            "unique": self.distinct / decoded,
            "recovered": self.recovered,
            **{name: getattr(self, name) / decoded for name in names},
            **{f"distinct_{name}": getattr(self, f"distinct_{name}") / distinct for name in names},
        }


def take_census(
    sampler: CompositionSampler,
    n: int,
    seed: int,
    *,
    known: NDArray[np.uint64],
    held_out: NDArray[np.uint64],
    table: str,
    scratch: Path,
) -> Census:
    """Draw and count; keys wait in files, so that memory does not grow with ``n``.

    Args:
        sampler: what draws.
        n: number of draws.
        seed: of the draws.
        known: keys of the known compositions.
        held_out: keys of compositions to be found again.
        table: of oxidation states, see ``charge_rule``.
        scratch: folder of this function's own, emptied first and removed in the end.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    known, held_out = np.unique(known), np.unique(held_out)
    seen = np.zeros(len(held_out), dtype=bool)
    rule = charge_rule(table)
    rejected = dict.fromkeys(REASONS, 0)
    totals, drawn = np.zeros(5, np.int64), 0
    for draw in sampler.draw(n, seed):
        for name, count in draw.rejected.items():
            rejected[name] += count
        records = np.zeros(len(draw.compositions), RECORD)
        records["key"] = composition_keys(draw.compositions)
        neutral = rule.neutral(draw.compositions)
        ordered = rule.ordered(draw.compositions)
        records["flags"] = NOVEL * ~is_in(records["key"], known) + NEUTRAL * neutral + ORDERED * ordered
        totals += _tally(records["flags"])
        seen[np.searchsorted(held_out, records["key"][is_in(records["key"], held_out)])] = True
        _spool(records, scratch)
        drawn += len(draw.reason)
        report_progress(drawn, n, "compositions", "drawing")
    distinct = np.zeros(5, np.int64)
    for path in sorted(scratch.glob("bucket_*")):
        records = np.fromfile(path, RECORD)
        _, first = np.unique(records["key"], return_index=True)
        distinct += _tally(records["flags"][first])
    shutil.rmtree(scratch, ignore_errors=True)
    recovered = float(seen.mean()) if len(seen) else float("nan")
    names = ("decoded", "novel", "neutral", "ordered", "valid_novel")
    different = ("distinct", *(f"distinct_{name}" for name in names[1:]))
    counts = dict(zip((*names, *different), [*totals.tolist(), *distinct.tolist()], strict=True))
    return Census(drawn=drawn, rejected=rejected, recovered=recovered, **counts)


def _tally(flags: NDArray[np.uint8]) -> NDArray[np.int64]:
    both = NOVEL | ORDERED
    counts = [(flags & flag > 0).sum() for flag in (NOVEL, NEUTRAL, ORDERED)]
    return np.array([len(flags), *counts, (flags & both == both).sum()], np.int64)


def _spool(records: NDArray[np.void], scratch: Path) -> None:
    bucket = records["key"] % np.uint64(BUCKETS)
    for number in np.unique(bucket).tolist():
        with (scratch / f"bucket_{number:02d}").open("ab") as handle:
            handle.write(records[bucket == number].tobytes())
