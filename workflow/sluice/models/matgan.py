"""MatGAN (Dan et al., npj Comput. Mater. 6, 84, 2020): a Wasserstein GAN of deconvolutions and convolutions.

Sizes as in the authors' code: a fully connected layer to 6144 = 6 × 4 × 256 and seven deconvolutions to 85 × 8; seven
convolutions and a fully connected layer back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad

from sluice.chemistry.encodings import ELEMENTS_85, MAX_COUNT
from sluice.models.wgan import CompositionGan, CompositionGenerator, Layer, narrowed

LAYERS = (
    Layer(128, 5, (True, True)),
    Layer(128, 3, (False, False)),
    Layer(64, 3, (True, False)),
    Layer(64, 3, (False, False)),
    Layer(32, 3, (True, False)),
    Layer(32, 3, (False, False)),
    Layer(1, 3, (True, False)),
)
CHANNELS = 256
# Channels, kernel, stride of the critic's convolutions.
CONVOLUTIONS = (
    (32, 3, (1, 1)),
    (32, 3, (2, 1)),
    (64, 3, (1, 1)),
    (64, 3, (2, 1)),
    (128, 3, (1, 1)),
    (128, 3, (2, 1)),
    (256, 5, (2, 2)),
)
SLOPE = 0.2  # of the leaky ReLU


class MatganCritic(nn.Module):
    """Convolutions and a fully connected layer.

    Args:
        shape: elements × counts.
        norm: whether all convolutions but the first are followed by batch normalization, as published. A gradient
            penalty is meant for critics without it (Gulrajani et al., NeurIPS 2017): it couples the rows of a batch.
        width: share of the published channels.
    """

    def __init__(self, shape: tuple[int, int], *, norm: bool, width: float = 1.0) -> None:
        super().__init__()
        before, size = 1, shape
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        self.paddings: list[tuple[int, int, int, int]] = []
        for k, (published, kernel, stride) in enumerate(CONVOLUTIONS):
            channels = narrowed(published, width)
            self.layers.append(nn.Conv2d(before, channels, kernel, stride=stride))
            self.norms.append(nn.BatchNorm2d(channels) if norm and k > 0 else nn.Identity())
            after = (-(-size[0] // stride[0]), -(-size[1] // stride[1]))
            rows, columns = (max(0, (b - 1) * s + kernel - a) for a, b, s in zip(size, after, stride, strict=True))
            # TensorFlow's "same": the odd one at the end.
            self.paddings.append((columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            before, size = channels, after
        self.output = nn.Linear(before * size[0] * size[1], 1)

    def forward(self, matrices: Tensor) -> Tensor:
        """(B, elements, counts) → (B,)."""
        x = matrices[:, None]
        for layer, norm, padding in zip(self.layers, self.norms, self.paddings, strict=True):
            x = leaky_relu(norm(layer(pad(x, padding))), SLOPE)
        return self.output(torch.flatten(x, 1)).squeeze(1)


class Matgan(CompositionGan):
    """Generator and critic of Dan et al.

    Args:
        elements: rows of the matrices.
        max_count: columns of the matrices.
        noise_size: length of the noise.
        critic_norm: whether the critic has batch normalization.
        width: share of the published channels.
    """

    def __init__(
        self,
        *,
        elements: Sequence[str] = ELEMENTS_85,
        max_count: int = MAX_COUNT,
        noise_size: int = 128,
        critic_norm: bool = True,
        width: float = 1.0,
    ) -> None:
        super().__init__(elements, max_count)
        self.generator = CompositionGenerator(
            LAYERS, noise_size=noise_size, channels=CHANNELS, shape=self.shape, crop_first=False, width=width
        )
        self.critic = MatganCritic(self.shape, norm=critic_norm, width=width)
