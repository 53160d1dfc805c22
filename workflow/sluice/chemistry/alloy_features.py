"""Engineered features of alloys: averages, mismatches and mixing quantities of their elements.

The eight published ones (Zeng, Khan, Post 2024, arXiv 2409.06740) are computed as their authors do; the further ones
are spreads and extremes of the same element properties and pair enthalpies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice.chemistry.compositions import parse_formula, symbols
from sluice.errors import BadDataError

GAS_CONSTANT = 8.314  # J/(mol K), to the authors' digits
# Keys of the authors' table of elements, in the order of ``AlloyElements.properties``, with our names and units.
PROPERTIES = {
    "k": "bulk_modulus_gpa",
    "vm": "molar_volume_cm3_per_mol",
    "tm": "melting_temperature_k",
    "vac": "valence_electrons",
    "ar": "atomic_radius_pm",
    "chi": "electronegativity",
}
PUBLISHED = (
    "bulk_modulus_gpa",
    "molar_volume_cm3_per_mol",
    "melting_temperature_k",
    "valence_electrons",
    "radius_mismatch_percent",
    "electronegativity_mismatch",
    "mixing_entropy_j_per_mol_k",
    "mixing_enthalpy_kj_per_mol",
)
PUBLISHED_COLUMNS = ("k", "vm", "tm", "vac", "delta", "delta_chi", "delta_s_mix", "delta_h_mix")
_SPREADS = tuple(f"{name}_{what}" for name in PROPERTIES.values() for what in ("std", "min", "max", "range"))
_PAIRS = (
    "lowest_pair_enthalpy_kj_per_mol",
    "highest_pair_enthalpy_kj_per_mol",
    "pair_enthalpy_spread_kj_per_mol",
    "log_omega",
    "number_of_elements",
    "largest_fraction",
)
EXTENDED = (*PUBLISHED, *_SPREADS, *_PAIRS)
FEATURE_SETS = {"published": PUBLISHED, "extended": EXTENDED}
# kJ/mol: keeps Ω = T_m ΔS/|ΔH| (Yang and Zhang 2012) finite for ideal mixtures.
_SMALLEST_ENTHALPY = 0.05


@dataclass(frozen=True)
class AlloyElements:
    """Properties of elements and enthalpies of their pairs.

    Attributes:
        symbols: the elements.
        properties: (n, 6) in the order and units of ``PROPERTIES``.
        pair_enthalpy: (n, n) mixing enthalpy of each pair at equal parts in kJ/mol, NaN where it is not known.
    """

    symbols: tuple[str, ...]
    properties: NDArray[np.float64]
    pair_enthalpy: NDArray[np.float64]

    @classmethod
    def from_tables(cls, elements: Mapping[str, Mapping[str, float]], pairs: Mapping[str, float]) -> AlloyElements:
        """From the authors' tables: properties by symbol, enthalpies by ``A,B`` in alphabetical order.

        Raises:
            BadDataError: if a property is missing or a pair names an element without properties.
        """
        symbols = tuple(sorted(elements))
        try:
            properties = np.array([[float(elements[s][key]) for key in PROPERTIES] for s in symbols])
            position = {s: k for k, s in enumerate(symbols)}
            enthalpy = np.full((len(symbols), len(symbols)), np.nan)
            np.fill_diagonal(enthalpy, 0.0)
            for pair, value in pairs.items():
                i, j = (position[s] for s in pair.split(","))
                enthalpy[i, j] = enthalpy[j, i] = float(value)
        except (KeyError, ValueError, TypeError) as error:
            raise BadDataError(f"tables of element properties: {error!r} is missing or no number") from error
        return cls(symbols, properties, enthalpy)

    def plain(self) -> dict[str, Any]:
        """As plain values, for a model file."""
        pairs = [
            [a, b, float(self.pair_enthalpy[i, j])]
            for (i, a), (j, b) in combinations(enumerate(self.symbols), 2)
            if np.isfinite(self.pair_enthalpy[i, j])
        ]
        return {"symbols": list(self.symbols), "properties": self.properties.tolist(), "pairs": pairs}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> AlloyElements:
        """The other way round."""
        keys = list(PROPERTIES)
        elements = {
            s: dict(zip(keys, row, strict=True)) for s, row in zip(values["symbols"], values["properties"], strict=True)
        }
        return cls.from_tables(elements, {f"{a},{b}": v for a, b, v in values["pairs"]})

    def with_recovered_pairs(self, fractions: NDArray[np.float64], enthalpy: NDArray[np.float64]) -> AlloyElements:
        """Fill unknown pairs from alloys whose mixing enthalpy is known: 4 Σ c_i c_j H_ij is linear in them.

        Only pairs that the alloys determine uniquely are filled.

        Args:
            fractions: (m, n) of this table's elements.
            enthalpy: (m,) kJ/mol.
        """
        i, j = np.triu_indices(len(self.symbols), k=1)
        products = 4 * fractions[:, i] * fractions[:, j]
        unknown = np.isnan(self.pair_enthalpy[i, j])
        known = np.where(unknown, 0.0, self.pair_enthalpy[i, j])
        occurring = unknown & (products > 0).any(0)
        rows = (products[:, occurring] > 0).any(1)
        if not rows.any():
            return self
        matrix, rest = products[np.ix_(rows, occurring)], enthalpy[rows] - products[rows] @ known
        _, singular, right = np.linalg.svd(matrix, full_matrices=True)
        rank = int((singular > 1e-9 * singular[0]).sum())
        determined = np.abs(right[rank:]).max(axis=0, initial=0.0) < 1e-9
        solution = np.linalg.lstsq(matrix, rest, rcond=None)[0]
        filled = self.pair_enthalpy.copy()
        where = np.flatnonzero(occurring)[determined]
        filled[i[where], j[where]] = filled[j[where], i[where]] = solution[determined]
        return AlloyElements(self.symbols, self.properties, filled)

    def with_estimated_pairs(self) -> AlloyElements:
        """Fill what is still unknown from pairs in which one element is replaced by similar ones.

        ASSUME: H(A, B) is near the mean of H(A, C) over elements C like B, and the other way round, weighted by
        exp(−d²) of the distance in standardized properties.
        """
        known = np.isfinite(self.pair_enthalpy) & ~np.eye(len(self.symbols), dtype=bool)
        scaled = (self.properties - self.properties.mean(0)) / self.properties.std(0).clip(min=1e-9)
        weight = np.exp(-((scaled[:, None] - scaled[None]) ** 2).sum(-1))
        values = np.where(known, self.pair_enthalpy, 0.0)
        # Over C: w(B, C) H(A, C), and the same with A and B exchanged.
        total, norm = values @ weight.T, known.astype(float) @ weight.T
        estimate = (total + total.T) / np.maximum(norm + norm.T, 1e-300)
        return AlloyElements(
            self.symbols, self.properties, np.where(np.isnan(self.pair_enthalpy), estimate, self.pair_enthalpy)
        )

    def fractions(self, alloys: Iterable[Mapping[str, float]]) -> NDArray[np.float64]:
        """(n, elements) fractions of alloys given by symbol; elements outside the table are an error of the caller."""
        position = {s: k for k, s in enumerate(self.symbols)}
        rows = []
        for alloy in alloys:
            row = np.zeros(len(self.symbols))
            for symbol, amount in alloy.items():
                row[position[symbol]] = amount
            rows.append(row)
        return np.array(rows).reshape(len(rows), len(self.symbols))


def parse_alloy(formula: str) -> dict[str, float]:
    """Element fractions of a formula such as ``Al0.5CoCrFeNi``.

    Raises:
        FormulaError: with the reason, if it is no formula of elements.
    """
    amounts = {symbols()[z]: amount for z, amount in parse_formula(formula).items() if amount > 0}
    total = sum(amounts.values())
    return {symbol: amount / total for symbol, amount in amounts.items()}


def why_not(alloy: Mapping[str, float], elements: AlloyElements) -> str:
    """Why an alloy's features cannot be computed; empty if they can."""
    position = {s: k for k, s in enumerate(elements.symbols)}
    if strange := sorted(set(alloy) - set(position)):
        return f"no properties of {', '.join(strange)}"
    unknown = [
        f"{a}-{b}"
        for a, b in combinations(sorted(alloy), 2)
        if np.isnan(elements.pair_enthalpy[position[a], position[b]])
    ]
    return f"no mixing enthalpy of {', '.join(unknown)}" if unknown else ""


def alloy_features(
    fractions: NDArray[np.float64], elements: AlloyElements, names: Sequence[str] = PUBLISHED
) -> NDArray[np.float64]:
    """(n, features) engineered features; NaN where a pair enthalpy is not known.

    With fractions c, k, v_m, T_m, valence are Σ c p; δ = 100 √Σ c (1 − r/r̄)²; δχ = √Σ c (χ − χ̄)²;
    ΔS = −R Σ c ln(c + ε); ΔH = 4 Σ_{i<j} c_i c_j H_ij.

    Args:
        fractions: (n, elements), rows summing to one.
        elements: their properties.
        names: which features, of ``EXTENDED``.
    """
    found: dict[str, NDArray[np.float64]] = {}
    mean = fractions @ elements.properties  # (n, 6)
    there = fractions > 0
    keys = list(PROPERTIES.values())
    for k, name in enumerate(keys):
        values = elements.properties[:, k]
        found[name] = mean[:, k]
        found[f"{name}_std"] = np.sqrt((fractions * (values - mean[:, [k]]) ** 2).sum(1))
        found[f"{name}_min"] = np.where(there, values, np.inf).min(1)
        found[f"{name}_max"] = np.where(there, values, -np.inf).max(1)
        found[f"{name}_range"] = found[f"{name}_max"] - found[f"{name}_min"]
    found["radius_mismatch_percent"] = 100 * found["atomic_radius_pm_std"] / found["atomic_radius_pm"]
    found["electronegativity_mismatch"] = found["electronegativity_std"]
    logarithm = np.log(fractions + np.finfo(np.float32).eps)
    found["mixing_entropy_j_per_mol_k"] = -GAS_CONSTANT * np.where(there, fractions * logarithm, 0.0).sum(1)
    found |= _pair_features(fractions, elements)
    heat = np.maximum(np.abs(found["mixing_enthalpy_kj_per_mol"]), _SMALLEST_ENTHALPY) * 1000
    omega = found["melting_temperature_k"] * np.maximum(found["mixing_entropy_j_per_mol_k"], 1e-3) / heat
    found["log_omega"] = np.log(omega)
    found["number_of_elements"] = there.sum(1).astype(float)
    found["largest_fraction"] = fractions.max(1)
    return np.stack([found[name] for name in names], axis=1)


def _pair_features(fractions: NDArray[np.float64], elements: AlloyElements) -> dict[str, NDArray[np.float64]]:
    total, low, high, spread = (np.zeros(len(fractions)) for _ in range(4))
    for n, row in enumerate(fractions):
        at = np.flatnonzero(row > 0)
        i, j = (at[k] for k in np.triu_indices(len(at), k=1))
        if len(i) == 0:  # an element alone
            continue
        pair, weight = elements.pair_enthalpy[i, j], row[i] * row[j]
        total[n] = 4 * (weight * pair).sum()
        low[n], high[n] = pair.min(), pair.max()
        average = (weight * pair).sum() / weight.sum()
        spread[n] = np.sqrt((weight * (pair - average) ** 2).sum() / weight.sum())
    return {
        "mixing_enthalpy_kj_per_mol": total,
        "lowest_pair_enthalpy_kj_per_mol": low,
        "highest_pair_enthalpy_kj_per_mol": high,
        "pair_enthalpy_spread_kj_per_mol": spread,
    }
