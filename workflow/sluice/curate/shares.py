"""Seeded choices among formulas that do not depend on the order of anything."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def shuffle(formulas: Iterable[str], seed: int, purpose: str) -> list[str]:
    """The different formulas in an order that only the seed and the purpose decide."""

    def rank(formula: str) -> tuple[bytes, str]:
        return hashlib.blake2b(f"{seed}|{purpose}|{formula}".encode(), digest_size=16).digest(), formula

    return sorted(set(formulas), key=rank)
