"""Disentangled semi-supervised variational autoencoder of alloys (Zeng, Khan, Post 2024, arXiv 2409.06740).

    p(z) = N(0, s² I)        latent position
    p(y) = Bernoulli(p)      target properties, e.g. single-phase or not
    p(x | y, z) = Multinomial(softmax of an MLP)          x: composition
    q(y | e) = Bernoulli(MLP)                             e: engineered features, which nothing else sees
    q(z | x, y) = Normal(MLP)

Several members that differ in their seed are held and trained together: every weight has a leading axis of members, so
that one batched product does the work of as many small ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import torch
from torch import nn
from torch.nn import functional

MOST_TARGETS = 4  # unlabelled rows sum over all 2^targets labels


def _terms(total: torch.Tensor, bound: torch.Tensor, label: torch.Tensor, rows: int) -> dict[str, torch.Tensor]:
    """What ``objective`` returns of (S,) totals over so many rows, (S, L) bounds and likelihoods of labelled ones."""
    n_l = max(1, bound.shape[1])
    # Per row, so that batches of other sizes step alike.
    return {
        "loss": -total / rows,
        "elbo": bound.detach().sum(1) / n_l,
        "label_log_likelihood": label.detach().sum(1) / n_l,
    }


def _sizes(inputs: int, hidden: Sequence[int], outputs: int) -> list[tuple[int, int]]:
    return list(pairwise((inputs, *hidden, outputs)))


class DisentangledVAE(nn.Module):
    """Members with equal architecture and priors.

    Args:
        elements: symbols of the composition's components, in order.
        features: names of the engineered features, in order.
        targets: names of the binary target properties; the output is the probability of each.
        members: how many networks are held.
        hidden: widths of the hidden layers of the three MLPs.
        latent_size: length of z.
        prior_target: p of each target's Bernoulli prior.
        prior_scale: standard deviation s of z's prior.
        total_count: number of draws that a composition counts for in the multinomial; 100: per cent.
        dropout: share of the label head's hidden units left out in training.
        bins: how many intervals the label head sees each feature in, beside the feature itself: 0 leaves it at that.
            Piecewise linear encoding (Gorishniy, Rubachev, Babenko 2022, arXiv 2203.05556) lets a network put edges
            where trees would.
    """

    feature_mean: torch.Tensor
    feature_std: torch.Tensor
    edges: torch.Tensor
    prior_target: torch.Tensor
    labels: torch.Tensor

    def __init__(
        self,
        elements: Sequence[str],
        features: Sequence[str],
        *,
        targets: Sequence[str] = ("single_phase",),
        members: int = 1,
        hidden: Sequence[int] = (100, 100),
        latent_size: int = 2,
        prior_target: Sequence[float] = (0.5,),
        prior_scale: float = 1.0,
        total_count: float = 100.0,
        dropout: float = 0.0,
        bins: int = 0,
    ) -> None:
        super().__init__()
        if not 1 <= len(targets) <= MOST_TARGETS or len(prior_target) != len(targets):
            raise ValueError(
                f"1 to {MOST_TARGETS} targets, each with its prior; got {len(targets)}, {len(prior_target)}"
            )
        self.elements, self.features, self.targets = tuple(elements), tuple(features), tuple(targets)
        self.members, self.latent_size = members, latent_size
        self.prior_scale, self.total_count, self.dropout, self.bins = prior_scale, total_count, dropout, bins
        n_x, n_y, n_z = len(elements), len(targets), latent_size
        self.layers = {
            "label": _sizes(len(features) * (1 + bins), hidden, n_y),
            "encoder": _sizes(n_x + n_y, hidden, 2 * n_z),
            "decoder": _sizes(n_z + n_y, hidden, n_x),
        }
        shapes = [(i, o) for sizes in self.layers.values() for i, o in sizes]
        self._splits = [n for i, o in shapes for n in (i * o, o)]
        self.flat = nn.Parameter(torch.zeros(members, sum(self._splits)))
        self.register_buffer("feature_mean", torch.zeros(len(features)))
        self.register_buffer("feature_std", torch.ones(len(features)))
        self.register_buffer("edges", torch.linspace(-1, 1, bins + 1).repeat(len(features), 1))  # (F, bins + 1)
        self.register_buffer("prior_target", torch.tensor(list(prior_target), dtype=torch.float32))
        self.register_buffer("labels", torch.tensor(list(product((0.0, 1.0), repeat=n_y))))  # (2^T, T)

    def initialize(self, seeds: Sequence[int], std: float | None) -> None:
        """Draw each member's weights from its own seed.

        Args:
            seeds: one for each member.
            std: standard deviation of hidden weights and biases (the authors' 0.001); None: of He, with zero biases.
        """
        with torch.no_grad():
            for member, seed in enumerate(seeds):
                generator = torch.Generator().manual_seed(seed)
                parts = []
                for name, sizes in self.layers.items():
                    for k, (i, o) in enumerate(sizes):
                        weight, bias = torch.empty(i, o), torch.zeros(o)
                        if k == len(sizes) - 1:  # torch's default for a linear layer
                            bound = 1 / math.sqrt(i)
                            weight.uniform_(-bound, bound, generator=generator)
                            bias.uniform_(-bound, bound, generator=generator)
                        elif std is None:
                            weight.normal_(0, math.sqrt(2 / i), generator=generator)
                            if name == "encoder" and k == 0:  # its inputs are per cent
                                weight *= 10 / self.total_count
                        else:
                            weight.normal_(0, std, generator=generator)
                            bias.normal_(0, std, generator=generator)
                        parts += [weight.flatten(), bias]
                self.flat[member] = torch.cat(parts).to(self.flat)

    def weights(self) -> dict[str, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Weights (S, in, out) and biases (S, 1, out) of each layer of the three MLPs."""
        pieces = iter(torch.split(self.flat, self._splits, dim=1))
        found = {}
        for name, sizes in self.layers.items():
            found[name] = [(next(pieces).view(-1, i, o), next(pieces).view(-1, 1, o)) for i, o in sizes]
        return found

    def _mlp(
        self, layers: list[tuple[torch.Tensor, torch.Tensor]], h: torch.Tensor, dropout: float = 0.0
    ) -> torch.Tensor:
        for k, (weight, bias) in enumerate(layers):
            if k:
                h = functional.softplus(h)
                if dropout and self.training:
                    h = functional.dropout(h, dropout)
            h = torch.baddbmm(bias, h, weight)  # (S, B, out)
        return h

    def fit_features(self, e: torch.Tensor) -> None:
        """Take scale and intervals (quantiles) of the engineered features from training rows, (n, F) in own units."""
        self.feature_mean.copy_(e.mean(0))
        self.feature_std.copy_(e.std(0, correction=0).clamp(min=1e-9))
        shares = torch.linspace(0, 1, self.bins + 1, dtype=e.dtype)
        self.edges.copy_(torch.quantile(e, shares, dim=0).T)

    def encode_features(self, e: torch.Tensor) -> torch.Tensor:
        """(n, F (1 + bins)) what the label head sees of engineered features (n, F) in their own units.

        The scaled feature, then for each interval −1 below it, 1 above it and a straight line within.
        """
        scaled = (e - self.feature_mean) / self.feature_std
        if not self.bins:
            return scaled
        low, width = self.edges[:, :-1], self.edges.diff(dim=1)
        # An interval without width, where many rows have one value, is a step.
        inside = ((e[..., None] - low) / width.clamp(min=1e-6 * self.feature_std[:, None])).clamp(0, 1)
        return torch.cat([scaled, (2 * inside - 1).flatten(-2)], dim=-1)

    def label_logits(self, e: torch.Tensor, weights: Mapping[str, Any] | None = None) -> torch.Tensor:
        """(S, B, T) logits of q(y | e).

        Args:
            e: (S or 1, B, ·) engineered features as of ``encode_features``.
            weights: of ``weights()``, if at hand.
        """
        e = e.expand(self.members, -1, -1)
        return self._mlp((weights or self.weights())["label"], e, self.dropout)

    def encode(
        self, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, Any] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and logarithm of the standard deviation of q(z | x, y), (S, B, Z) each; x as fractions, y (S, B, T)."""
        inputs = torch.cat([x * self.total_count, y], dim=-1)
        mean, log_std = self._mlp((weights or self.weights())["encoder"], inputs).chunk(2, dim=-1)
        return mean, log_std

    def decode(self, z: torch.Tensor, y: torch.Tensor, weights: Mapping[str, Any] | None = None) -> torch.Tensor:
        """(S, B, N) logarithms of the element fractions at latent positions z (S, B, Z) and labels y (S, B, T)."""
        return functional.log_softmax(self._mlp((weights or self.weights())["decoder"], torch.cat([z, y], -1)), dim=-1)

    def elbo(self, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, Any]) -> torch.Tensor:
        """(S, B) evidence lower bound of labelled rows: log p(x|y,z) + log p(y) − KL(q(z|x,y) ‖ p(z)), one draw of z.

        The multinomial coefficient, which no weight changes, is left out; the divergence is the closed form.
        """
        mean, log_std = self.encode(x, y, weights)
        z = mean + log_std.exp() * torch.randn_like(mean)
        likelihood = self.total_count * (x * self.decode(z, y, weights)).sum(-1)
        scale = math.log(self.prior_scale)
        variance = (2 * (log_std - scale)).exp() + (mean / self.prior_scale) ** 2
        divergence = 0.5 * (variance - 1).sum(-1) - (log_std - scale).sum(-1)
        prior = (y * self.prior_target.log() + (1 - y) * (1 - self.prior_target).log()).sum(-1)
        return likelihood + prior - divergence

    def objective(
        self,
        labelled: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        unlabelled: tuple[torch.Tensor, torch.Tensor],
        aux: float,
        *,
        partly: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Negative objective of each member, (S,), as ``loss``, with its terms.

        ASSUME: over the unknown labels of unlabelled rows the bound is summed exactly (Kingma et al. 2014) instead of
        drawn; expectation and optimum are the same, the gradient has less noise.

        Args:
            labelled: x (S, L, N), e (S, L, ·) as of ``encode_features``, y (S, L, T).
            unlabelled: x (S, U, N), e (S, U, ·).
            aux: weight of the label likelihood.
            partly: whether labels of labelled rows may be missing (NaN): the bound is summed over those, too.
        """
        weights = self.weights()
        (x, e, y), (xu, eu) = labelled, unlabelled
        n_l, n_u, n_c = x.shape[1], xu.shape[1], len(self.labels)
        logits = self.label_logits(torch.cat([e, eu], dim=1), weights)
        if partly:
            known = torch.cat([y, y.new_full((*xu.shape[:2], y.shape[-1]), math.nan)], 1)
            bound, label = self._over_missing(torch.cat([x, xu], 1), logits, known, weights)
            return _terms(bound.sum(1) + aux * label.sum(1), bound[:, :n_l], label[:, :n_l], n_l + n_u)
        label = -functional.binary_cross_entropy_with_logits(logits[:, :n_l], y, reduction="none").sum(-1)
        choices = (
            self.labels[:, None, :].expand(n_c, n_u, -1).reshape(1, n_c * n_u, y.shape[-1]).expand(self.members, -1, -1)
        )
        bound = self.elbo(torch.cat([x, xu.repeat(1, n_c, 1)], 1), torch.cat([y, choices], 1), weights)
        total = bound[:, :n_l].sum(1) + aux * label.sum(1)
        if n_u:
            logit = logits[:, n_l:].repeat(1, n_c, 1)
            log_q = -functional.binary_cross_entropy_with_logits(logit, choices, reduction="none").sum(-1)
            total = total + (log_q.exp() * (bound[:, n_l:] - log_q)).sum(1)
        return _terms(total, bound[:, :n_l], label, n_l + n_u)

    def _over_missing(
        self, x: torch.Tensor, logits: torch.Tensor, y: torch.Tensor, weights: Mapping[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(S, B) bound of rows whose labels y (S, B, T) may be missing, and log-likelihood of those that are known.

        The bound is summed over all labels that agree with the known ones, as over those of unlabelled rows.
        """
        shape = (len(self.labels), *y.shape)  # (2^T, S, B, T)
        choices, known = self.labels[:, None, None].expand(shape), ~y.isnan()
        agrees = ((choices == y) | ~known).all(-1)  # (2^T, S, B)
        log_of = -functional.binary_cross_entropy_with_logits(logits.expand(shape), choices, reduction="none")
        log_q = log_of.masked_fill(known, 0.0).sum(-1)
        labels = choices.transpose(0, 1).reshape(y.shape[0], -1, y.shape[-1])
        bound = self.elbo(x.repeat(1, shape[0], 1), labels, weights).view(-1, shape[0], shape[2]).transpose(0, 1)
        label = -functional.binary_cross_entropy_with_logits(logits, y.nan_to_num(), reduction="none")
        return (agrees * log_q.exp() * (bound - log_q)).sum(0), label.masked_fill(~known, 0.0).sum(-1)

    def probabilities(self, e: torch.Tensor) -> torch.Tensor:
        """(S, B, T) probability of each target by each member; e (B, F) unscaled."""
        return torch.sigmoid(self.label_logits(self.encode_features(e)[None]))

    def propose(self, z: torch.Tensor, y: torch.Tensor, member: int) -> torch.Tensor:
        """(B, N) element fractions at latent positions z (B, Z) with wanted labels y (B, T), by one member."""
        z, y = (value[None].expand(self.members, -1, -1) for value in (z, y))
        return self.decode(z, y)[member].exp()

    def only(self, member: int) -> dict[str, torch.Tensor]:
        """State of a network that holds this member alone."""
        return {**self.state_dict(), "flat": self.flat.detach()[member : member + 1].clone()}
