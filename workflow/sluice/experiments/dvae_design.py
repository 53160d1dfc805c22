"""Inverse design with a disentangled VAE, and what its label head looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from sluice.chemistry.alloy_features import FEATURE_SETS, alloy_features
from sluice.experiments.dvae_data import TARGET, Alloys
from sluice.models.dvae import DisentangledVAE
from sluice.models.dvae_decoding import decode_alloys, formula_of, network_of
from sluice.models.modelfile import Model

if TYPE_CHECKING:
    from sluice.experiments.dvae import DvaeSettings

DRAWS, MOST_DRAWS = 2000, 40_000
WANTED = {TARGET: 1.0}
ROUNDING = 1e-6  # at.%; what limits written as fractions may be off
IMPORTANCE_REPEATS = 30


@dataclass(frozen=True)
class Proposals:
    """New alloys.

    Attributes:
        table: formula, probability (mean over members), its spread, latent position, nearest known alloy; best first.
        decoded: latent positions that were decoded.
        single_phase: how many of those the label heads call single-phase.
        examined: how many of those were looked at until there were enough proposals.
        rejected: of the examined, how many failed each test, in the order of the tests; each counts for its first.
    """

    table: pd.DataFrame
    decoded: int
    single_phase: int
    examined: int
    rejected: dict[str, int]


def probability_of(network: DisentangledVAE, alloys: Alloys, percent: NDArray[np.int64]) -> NDArray[np.float64]:
    """(S, B) single-phase probability by each member, features computed from the composition."""
    everything = np.zeros((len(percent), len(alloys.elements.symbols)))
    everything[:, [alloys.elements.symbols.index(s) for s in alloys.components]] = percent
    everything /= everything.sum(1, keepdims=True)
    features = alloy_features(everything, alloys.elements, network.features)
    with torch.inference_mode():
        return network.probabilities(torch.tensor(features, dtype=torch.float32))[..., 0].double().numpy()


def within_limits(percent: NDArray[Any], settings: DvaeSettings) -> tuple[NDArray[np.bool_], ...]:
    """Whether alloys, (…, N) in at.%, have enough principal elements, not too many elements, and none in excess."""
    s = settings
    return (
        (percent >= 100 * s.min_share - ROUNDING).sum(-1) >= s.min_elements,
        (percent > 0).sum(-1) <= s.max_elements,
        percent.max(-1) <= 100 * s.max_share + ROUNDING,
    )


class Sieve:
    """The tests of a decoded alloy, and how many failed each."""

    def __init__(self, alloys: Alloys, s: DvaeSettings) -> None:
        self.settings, self.known = s, 100 * alloys.fractions
        self.kept: list[NDArray[np.int64]] = []
        self.least = 100 * s.least_distance - ROUNDING
        alike = f"less than {100 * s.least_distance:g} at.% in every element"
        self.names = (
            f"fewer than {s.min_elements} elements of at least {100 * s.min_share:g} at.%",
            f"more than {s.max_elements} elements",
            f"an element above {100 * s.max_share:g} at.%",
            f"a single-phase probability below {s.least_probability:g}",
            f"{alike} from a known alloy",
            f"{alike} from an earlier proposal",
        )
        self.rejected = dict.fromkeys(self.names, 0)

    def keeps(self, percent: NDArray[np.int64], probability: float) -> bool:
        """Whether an alloy passes; if not, its first failure is counted."""
        s = self.settings
        passed = (
            *within_limits(percent, s),
            probability >= s.least_probability,
            self._differs(percent, self.known),
            not self.kept or self._differs(percent, np.stack(self.kept)),
        )
        failed = next((name for name, good in zip(self.names, passed, strict=True) if not good), None)
        if failed is not None:
            self.rejected[failed] += 1
            return False
        self.kept.append(percent)
        return True

    def _differs(self, percent: NDArray[np.int64], others: NDArray[Any]) -> bool:
        return bool(np.abs(others - percent).max(1).min() >= self.least)


def propose_alloys(model: Model, alloys: Alloys, settings: DvaeSettings, seed: int) -> Proposals:
    """Decode latent positions drawn from the prior with the label single-phase; keep what is new and likely.

    Kept are alloys of many principal elements that differ from every known one (of all splits) and from each other by
    at least ``least_distance`` in some element. Members take turns, so that no single seed's decoder decides.
    """
    network = network_of(model)
    rng = np.random.default_rng([seed, 5])
    rows: list[dict[str, object]] = []
    sieve = Sieve(alloys, settings)
    a_turn = max(1, -(-settings.proposals // network.members))  # proposals of a member before the next one's turn
    decoded = called = examined = turn = 0
    while len(rows) < settings.proposals and decoded < MOST_DRAWS:
        member = turn % network.members
        z = rng.normal(scale=network.prior_scale, size=(DRAWS, network.latent_size))
        percent = decode_alloys(network, WANTED, z, member)
        probability = probability_of(network, alloys, percent)
        mean, enough = probability.mean(0), min(len(rows) + a_turn, settings.proposals)
        decoded, called, turn = decoded + DRAWS, called + int((mean > 0.5).sum()), turn + 1
        for k in range(DRAWS):
            if len(rows) == enough:
                break
            examined += 1
            if sieve.keeps(percent[k], mean[k]):
                rows.append(_proposal(alloys, percent[k], probability[:, k], z[k]) | {"member": member})
    columns = ["formula", "single_phase_probability", "spread_over_members"]
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*columns, "z1", "z2"])
    table = table.sort_values("single_phase_probability", ascending=False, ignore_index=True)
    return Proposals(table, decoded, called, examined, sieve.rejected)


def _proposal(
    alloys: Alloys, percent: NDArray[np.int64], probability: NDArray[np.float64], z: NDArray[np.float64]
) -> dict[str, object]:
    """A row of the table: an alloy, its probability by each member (S,), where it was decoded."""
    difference = np.abs(percent / 100 - alloys.fractions).max(1)
    return {
        "formula": formula_of(percent, alloys.components),
        "single_phase_probability": probability.mean(),
        "spread_over_members": probability.std(),
        **{f"z{d + 1}": value for d, value in enumerate(z)},
        "nearest_known": str(alloys.formulas[int(difference.argmin())]),
        "largest_difference_of_a_fraction": difference.min(),
    }


def permutation_importance(model: Model, alloys: Alloys, feature_set: str, seed: int) -> pd.DataFrame:
    """Loss of the ensemble's test accuracy when one feature is shuffled among the test alloys, largest first."""
    network = network_of(model)
    rows = alloys.rows("test")
    features, truth = alloys.of(feature_set)[rows], alloys.target[rows] > 0.5
    rng = np.random.default_rng([seed, 6])

    def accuracy(values: NDArray[np.float64]) -> float:
        with torch.inference_mode():
            mean = network.probabilities(torch.tensor(values, dtype=torch.float32))[..., 0].mean(0).numpy()
        return float(((mean > 0.5) == truth).mean())

    base = accuracy(features)
    found = []
    for k, name in enumerate(FEATURE_SETS[feature_set]):
        losses = []
        for _ in range(IMPORTANCE_REPEATS):
            shuffled = features.copy()
            shuffled[:, k] = rng.permutation(shuffled[:, k])
            losses.append(base - accuracy(shuffled))
        found.append({"feature": name, "accuracy_lost": np.mean(losses), "spread": np.std(losses, ddof=1)})
    return pd.DataFrame(found).sort_values("accuracy_lost", ascending=False, ignore_index=True)
