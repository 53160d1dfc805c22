"""ElemNet (Jha et al., Sci. Rep. 8, 17593, 2018): element fractions through a deep fully connected network."""

from __future__ import annotations

import numpy as np

from sluice.models.heads import Head

# Widths of the hidden layers of the paper's 17-layer network and the share kept by the dropout that ends each block.
WIDTHS = (1024,) * 4 + (512,) * 3 + (256,) * 3 + (128,) * 3 + (64,) * 2 + (32,)
KEPT = {1024: 0.8, 512: 0.9, 256: 0.7, 128: 0.8}
DEPTH = len(WIDTHS) + 1
DEEPEST = 49


def elemnet_widths(depth: int) -> tuple[int, ...]:
    """Widths of the hidden layers of a network of so many layers, the output counted.

    17 are the paper's. Fewer or more keep its shape: hidden layer i has the width at the same place of its sequence.

    Raises:
        ValueError: if the depth is not 2 to 49.
    """
    if not 2 <= depth <= DEEPEST:
        raise ValueError(f"depth is {depth}; allowed are 2 to {DEEPEST}")
    places = np.linspace(0, len(WIDTHS) - 1, depth - 1) if depth > 2 else np.zeros(1)
    return tuple(WIDTHS[int(place)] for place in np.rint(places))


def elemnet(inputs: int, *, depth: int = DEPTH, outputs: int = 1, dropout: float = 1.0, residual: bool = False) -> Head:
    """The network of a depth.

    Args:
        inputs: number of elements.
        depth: number of layers, the output counted.
        outputs: see ``Head``.
        dropout: 1 for the paper's dropout at the end of each block, 0 for none, between for a part of it.
        residual: whether layers are normalized and added to their inputs (as in IRNet, Jha et al., KDD 2019).
    """
    widths = elemnet_widths(depth)
    ends = [width != following for width, following in zip(widths, (*widths[1:], 0), strict=True)]
    shares = [
        dropout * (1 - KEPT[width]) if end and width in KEPT else 0.0 for width, end in zip(widths, ends, strict=True)
    ]
    return Head(inputs, widths, outputs, dropout=shares, residual=residual)
