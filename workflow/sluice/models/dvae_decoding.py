"""Inverse design with a disentangled VAE: from wanted target properties and a latent position to an alloy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sluice.models.dvae import DisentangledVAE
from sluice.models.modelfile import Model, ModelError

LEAST_FRACTION = 0.01  # elements below it are left out


def network_of(model: Model) -> DisentangledVAE:
    """The network of a disentangled VAE's file, in evaluation mode.

    Raises:
        ModelError: if the file holds another kind of model.
    """
    if not isinstance(model.network, DisentangledVAE):
        raise ModelError(f"{model.path}: a {model.kind} model cannot decode alloys; give the file of a dvae")
    return model.network.eval()


def decode_alloys(
    network: DisentangledVAE, labels: Mapping[str, float], positions: ArrayLike, member: int = 0
) -> NDArray[np.int64]:
    """Alloys with wanted target properties at positions of the latent plane.

    Args:
        network: trained, e.g. ``network_of(load_model(path))``.
        labels: wanted label of each of ``network.targets`` by name: 1 has the property, 0 has it not; what lies
            between is a probability.
        positions: (B, Z) or (Z,) latent positions; the prior is normal around 0 with ``network.prior_scale``.
        member: whose decoder is asked. Each member has a latent plane of its own.

    Returns:
        (B, N) at.% of ``network.elements`` in whole numbers that sum to 100; elements below 1 % are left out.

    Raises:
        ValueError: if a target has no label or a label no target, a label is not between 0 and 1, a position has
            another length than Z or is not finite, or there is no such member.
    """
    if set(labels) != set(network.targets):
        raise ValueError(
            f"labels for {', '.join(sorted(labels)) or 'nothing'}; the network's targets are"
            f" {', '.join(network.targets)}: give each of them one label"
        )
    wanted = np.array([labels[name] for name in network.targets], dtype=np.float32)
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise ValueError(f"labels must lie between 0 and 1, not {dict(labels)}")
    z = np.atleast_2d(np.asarray(positions, dtype=np.float32))
    if z.ndim != 2 or z.shape[1] != network.latent_size or not np.isfinite(z).all():
        raise ValueError(f"latent positions must be {network.latent_size} finite numbers each, not of shape {z.shape}")
    if not 0 <= member < network.members:
        raise ValueError(f"member {member}: the network has members 0 to {network.members - 1}")
    device = network.flat.device
    with torch.inference_mode():
        y = torch.from_numpy(wanted).to(device).expand(len(z), -1)
        fractions = network.propose(torch.from_numpy(z).to(device), y, member).double().cpu().numpy()
    return whole_percent(np.where(fractions >= LEAST_FRACTION, fractions, 0.0))


def whole_percent(amounts: NDArray[np.float64]) -> NDArray[np.int64]:
    """(B, N) whole per cent that sum to 100, by the method of the largest remainder; what is 0 stays 0.

    Args:
        amounts: (B, N) of any scale, not negative, each row with a positive sum.
    """
    percent = 100 * amounts / amounts.sum(1, keepdims=True)
    whole = np.floor(percent).astype(np.int64)
    order = np.argsort(whole - percent, axis=1, kind="stable")  # the largest remainder first
    rank = np.argsort(order, axis=1, kind="stable")
    return whole + (rank < 100 - whole.sum(1, keepdims=True))


def formula_of(percent: NDArray[np.int64], elements: Sequence[str]) -> str:
    """``Al20Co20…`` from whole per cent, the largest first."""
    order = np.argsort(-percent, kind="stable")
    return "".join(f"{elements[k]}{percent[k]}" for k in order if percent[k] > 0)
