"""The WGAN of Hu et al., Symmetry 12, 1889 (2020): compositions as matrices, and vectors of the elements in its critic.

A composition is a matrix of zeros and ones, elements × counts. The generator is printed with a fully connected layer to
5 × 4 × 256 and a first deconvolution, (5, 5) with stride (2, 2), to 11 × 8; yet "same" padding turns 5 rows into 10.
The two agree if that layer crops two of its 2·(5 - 1) + 5 = 13 rows, one at each end, instead of three (its columns it
crops as "same" does, 4 to 8); the layers behind it then give the printed 22, 43 and 85 rows exactly. MatGAN, whose code
these layers come from, starts from 6 × 4, where "same" padding gives 11.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from sluice.chemistry.compositions import MAX_Z
from sluice.chemistry.encodings import ELEMENTS_85, MAX_COUNT, ElementEmbedding, OneHotCounts
from sluice.models.heads import Head


@dataclass(frozen=True)
class Layer:
    """A deconvolution.

    Attributes:
        channels: of its output.
        kernel: rows and columns.
        halves: whether its input has half the rows, and half the columns, of its output.
    """

    channels: int
    kernel: int
    halves: tuple[bool, bool]


LAYERS = (
    Layer(128, 5, (True, True)),
    Layer(64, 3, (True, False)),
    Layer(32, 3, (True, False)),
    Layer(1, 3, (True, False)),
)
CHANNELS = 256  # behind the fully connected layer


def sizes_before(layers: Sequence[Layer], rows: int, columns: int) -> list[tuple[int, int]]:
    """Rows and columns of every layer's input and, last, of the output; halves are rounded up."""
    sizes = [(rows, columns)]
    for layer in reversed(layers):
        rows, columns = (-(-size // 2) if half else size for size, half in zip(sizes[0], layer.halves, strict=True))
        sizes.insert(0, (rows, columns))
    return sizes


def deconvolution(
    channels: tuple[int, int], layer: Layer, size_in: tuple[int, int], size: tuple[int, int]
) -> nn.ConvTranspose2d:
    """A deconvolution that turns ``size_in`` into ``size``; what is too much is cropped evenly at both ends."""
    stride = (1 + layer.halves[0], 1 + layer.halves[1])
    crop = [(a - 1) * s + layer.kernel - b for a, b, s in zip(size_in, size, stride, strict=True)]
    padding = [-(-c // 2) for c in crop]
    extra = [2 * p - c for p, c in zip(padding, crop, strict=True)]
    return nn.ConvTranspose2d(
        *channels,
        layer.kernel,
        stride=stride,
        padding=(padding[0], padding[1]),
        output_padding=(extra[0], extra[1]),
    )


def narrowed(channels: int, width: float) -> int:
    """A share of the published channels, at least one."""
    return max(1, round(width * channels))


class CompositionGenerator(nn.Module):
    """Noise → fully connected layer → deconvolutions → matrix of probabilities.

    # ASSUME: torch's usual initial weights; the papers state none (MatGAN's code draws all from N(0, 1)).

    Args:
        layers: deconvolutions, the last one without batch normalization.
        noise_size: length of the noise.
        channels: behind the fully connected layer.
        shape: elements × counts.
        crop_first: whether the first layer's input has its half of the rows rounded down.
        width: share of the channels to have, but for the last layer's one.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        noise_size: int,
        channels: int,
        shape: tuple[int, int],
        crop_first: bool,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.noise_size = noise_size
        channels = narrowed(channels, width)
        layers = [*(replace(layer, channels=narrowed(layer.channels, width)) for layer in layers[:-1]), layers[-1]]
        sizes = sizes_before(layers, *shape)
        if crop_first:
            sizes[0] = (max(1, sizes[1][0] // 2), sizes[0][1])
        self.start = (channels, *sizes[0])
        self.dense = nn.Linear(noise_size, math.prod(self.start))
        self.dense_norm = nn.BatchNorm1d(math.prod(self.start))
        widths = [channels, *(layer.channels for layer in layers)]
        self.layers = nn.ModuleList(
            deconvolution((a, layer.channels), layer, before, after)
            for a, layer, before, after in zip(widths[:-1], layers, sizes[:-1], sizes[1:], strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(layer.channels) for layer in layers[:-1])

    def forward(self, noise: Tensor) -> Tensor:
        """(B, noise_size) → (B, elements, counts), each between 0 and 1."""
        x = torch.relu(self.dense_norm(self.dense(noise))).reshape(-1, *self.start)  # (B, 256, 5, 4)
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        return torch.sigmoid(self.layers[-1](x)).squeeze(1)


class WganCritic(nn.Module):
    """Score of a matrix X through vectors of the elements.

    T = E·W with E the elements' one-hot vectors, so that T = W; C = Σ over counts of (Xᵀ T) ⊙ A with the rows of A
    1 … 8, which is the sum over the elements of count × vector; score = FC(C).

    Args:
        shape: elements × counts.
        embedding_size: length d of the vectors.
        widths: of the hidden layers behind C.
    """

    steps: Tensor

    def __init__(self, shape: tuple[int, int], *, embedding_size: int, widths: Sequence[int]) -> None:
        super().__init__()
        elements, counts = shape
        self.embedding = nn.Parameter(torch.randn(elements, embedding_size) / math.sqrt(embedding_size))
        self.register_buffer("steps", torch.arange(1, counts + 1, dtype=torch.float32)[:, None], persistent=False)
        self.head = Head(embedding_size, tuple(widths))

    def forward(self, matrices: Tensor) -> Tensor:
        """(B, elements, counts) → (B,)."""
        vectors = matrices.mT @ self.embedding  # (B, counts, d)
        return self.head((vectors * self.steps).sum(dim=1)).squeeze(1)


class CompositionGan(nn.Module):
    """A generator and a critic of matrices, elements × counts.

    Attributes:
        encoding: what turns compositions into matrices and back.
        generator: noise → matrices.
        critic: matrices → scores.
    """

    generator: CompositionGenerator
    critic: nn.Module

    def __init__(self, elements: Sequence[str], max_count: int) -> None:
        super().__init__()
        self.encoding = OneHotCounts(elements, max_count)

    @property
    def shape(self) -> tuple[int, int]:
        """Elements × counts."""
        return self.encoding.shape[0], self.encoding.shape[1]


class Wgan(CompositionGan):
    """Generator and critic of Hu et al.

    Args:
        elements: rows of the matrices.
        max_count: columns of the matrices.
        noise_size: length of the noise.
        embedding_size: length of the critic's vectors of the elements.
        critic_widths: hidden layers of the critic behind their sum.
        width: share of the generator's published channels.
    """

    def __init__(
        self,
        *,
        elements: Sequence[str] = ELEMENTS_85,
        max_count: int = MAX_COUNT,
        noise_size: int = 128,
        embedding_size: int = 128,
        critic_widths: Sequence[int] = (128,),
        width: float = 1.0,
    ) -> None:
        super().__init__(elements, max_count)
        self.generator = CompositionGenerator(
            LAYERS, noise_size=noise_size, channels=CHANNELS, shape=self.shape, crop_first=True, width=width
        )
        self.critic: WganCritic = WganCritic(self.shape, embedding_size=embedding_size, widths=critic_widths)

    def element_encoding(self, by: str = "fractions") -> ElementEmbedding:
        """T as an encoding of compositions: the sum of the elements' vectors, each times its share or its count."""
        table = np.full((MAX_Z + 1, self.critic.embedding.shape[1]), np.nan, dtype=np.float32)
        table[self.encoding.numbers] = self.critic.embedding.detach().float().cpu().numpy()
        return ElementEmbedding(table, by)
