"""Which draws a GAN's critic likes best: what CubicGAN and the GANs of compositions share."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

UNLIKELY = "not among the critic's favourites"


def all_but_favourites(scores: NDArray[np.floating], share: float, drawn: int) -> NDArray[np.int64]:
    """Places of the draws that do not go on; the best scored do, as many as ``share`` of all (Azadi et al., ICLR 2019).

    Args:
        scores: (k,) the critic's, of the draws that are possible; of equal ones the first goes on.
        share: above 0, at most 1.
        drawn: how many were drawn in all; where ``share`` of them is k or more, all go on.
    """
    return np.argsort(-scores, kind="stable")[math.ceil(share * drawn) :]
