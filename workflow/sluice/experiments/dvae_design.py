"""Inverse design with a disentangled VAE, and what its label head looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from sluice.chemistry.alloy_features import FEATURE_SETS, alloy_features
from sluice.experiments.dvae_data import Alloys
from sluice.models.dvae import DisentangledVAE
from sluice.models.modelfile import Model

if TYPE_CHECKING:
    from sluice.experiments.dvae import DvaeSettings

DRAWS, MOST_DRAWS = 2000, 40_000
IMPORTANCE_REPEATS = 30


@dataclass(frozen=True)
class Proposals:
    """New alloys.

    Attributes:
        table: formula, probability (mean over members), its spread, latent position, nearest known alloy; best first.
        drawn: latent positions that were decoded.
        single_phase: how many of those the label heads call single-phase.
    """

    table: pd.DataFrame
    drawn: int
    single_phase: int


def network_of(model: Model) -> DisentangledVAE:
    """The network of a disentangled VAE's file."""
    network = model.network
    assert isinstance(network, DisentangledVAE)
    return network.eval()


def decode_percent(
    network: DisentangledVAE, z: NDArray[np.float64], member: int, label: float = 1.0
) -> NDArray[np.int64]:
    """(B, N) alloys in whole per cent at latent positions, elements below one per cent left out."""
    with torch.inference_mode():
        y = torch.full((len(z), len(network.targets)), label)
        fractions = network.propose(torch.tensor(z, dtype=torch.float32), y, member).double().numpy()
    percent = np.where(fractions >= 0.01, fractions, 0.0)
    return np.rint(100 * percent / percent.sum(1, keepdims=True)).astype(np.int64)


def probability_of(network: DisentangledVAE, alloys: Alloys, percent: NDArray[np.int64]) -> NDArray[np.float64]:
    """(S, B) single-phase probability by each member, features computed from the composition."""
    everything = np.zeros((len(percent), len(alloys.elements.symbols)))
    everything[:, [alloys.elements.symbols.index(s) for s in alloys.components]] = percent
    everything /= everything.sum(1, keepdims=True)
    features = alloy_features(everything, alloys.elements, network.features)
    with torch.inference_mode():
        return network.probabilities(torch.tensor(features, dtype=torch.float32))[..., 0].double().numpy()


def formula_of(percent: NDArray[np.int64], components: tuple[str, ...]) -> str:
    """``Al20Co20…`` from whole per cent, the largest first."""
    order = np.argsort(-percent, kind="stable")
    return "".join(f"{components[k]}{percent[k]}" for k in order if percent[k] > 0)


def propose_alloys(model: Model, alloys: Alloys, settings: DvaeSettings, seed: int) -> Proposals:
    """Decode latent positions drawn from the prior with the label single-phase; keep what is new and likely.

    An alloy is new if it differs from every known one (of all splits) by at least ``least_distance`` in some element.
    Members take turns, so that no single seed's decoder decides.
    """
    network = network_of(model)
    rng = np.random.default_rng([seed, 5])
    rows: list[dict[str, object]] = []
    seen: set[tuple[int, ...]] = set()
    drawn = called = turn = 0
    while len(rows) < settings.proposals and drawn < MOST_DRAWS:
        z = rng.normal(scale=network.prior_scale, size=(DRAWS, network.latent_size))
        percent = decode_percent(network, z, turn % network.members)
        probability = probability_of(network, alloys, percent)
        mean = probability.mean(0)
        drawn, called, turn = drawn + DRAWS, called + int((mean > 0.5).sum()), turn + 1
        for k in np.flatnonzero(mean >= settings.least_probability):
            key = tuple(percent[k].tolist())
            difference = np.abs(percent[k] / 100 - alloys.fractions).max(1)
            if key in seen or difference.min() < settings.least_distance or (percent[k] > 0).sum() < 2:
                continue
            seen.add(key)
            rows.append(
                {
                    "formula": formula_of(percent[k], alloys.components),
                    "single_phase_probability": mean[k],
                    "spread_over_members": probability[:, k].std(),
                    **{f"z{d + 1}": z[k, d] for d in range(network.latent_size)},
                    "member": (turn - 1) % network.members,
                    "nearest_known": str(alloys.formulas[int(difference.argmin())]),
                    "largest_difference_of_a_fraction": difference.min(),
                }
            )
            if len(rows) % max(1, settings.proposals // network.members) == 0 or len(rows) == settings.proposals:
                break  # the next member's turn
    columns = ["formula", "single_phase_probability", "spread_over_members"]
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*columns, "z1", "z2"])
    return Proposals(table.sort_values("single_phase_probability", ascending=False, ignore_index=True), drawn, called)


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
