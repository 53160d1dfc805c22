"""Applying a trained model to crystals.

A score is the probability of lying below the model's threshold for a classifier (higher: more likely stable), the
predicted value for a regressor.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sluice.crystals import Crystals
from sluice.models.cgcnn import CGCNN
from sluice.models.devices import pick_device
from sluice.models.graphs import build_graphs, usable
from sluice.models.modelfile import Model, ModelError, load_model

__all__ = ["Model", "ModelError", "load_model", "score_crystals"]

CHUNK = 2000  # crystals whose graphs are held at a time
ATOMS_PER_BATCH = 4096


def score_crystals(model: Model, crystals: Crystals, device: str = "auto") -> NDArray[np.float64]:
    """(n,) score of each crystal; NaN for those without a usable cell.

    A crystal's score does not depend on the others beside it, except for rounding.

    Raises:
        ModelError: if the model does not take crystals.
    """
    network = model.network
    if not isinstance(network, CGCNN):
        raise ModelError(f"{model.path}: a {model.kind} model gives no scores; give a screener")
    where = pick_device(device)
    network = network.to(where).eval()
    scores = np.full(len(crystals), np.nan)
    for start in range(0, len(crystals), CHUNK):
        part = crystals[start : start + CHUNK]
        good = np.flatnonzero(usable(part))
        if len(good) == 0:
            continue
        graphs = build_graphs(part[good], neighbours=network.neighbours, cutoff=network.cutoff)
        batch_of = np.cumsum(part.n_atoms[good]) // ATOMS_PER_BATCH
        values = []
        with torch.inference_mode():
            for number in np.unique(batch_of):
                output = network(graphs.batch(np.flatnonzero(batch_of == number), where))
                values.append((torch.sigmoid(output) if model.task == "classification" else output).double().cpu())
        scores[start + good] = torch.cat(values).numpy()
    return scores
