"""The layers that encoder and decoder are built of, in two sets: plain, and equalised without normalisation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.context import InContext

Layer = Callable[[int, int], nn.Module]
Norm = Callable[[int], nn.Module]

# Every convolution is DCGAN's: it halves the side, or doubles it where it is transposed.
KERNEL, STRIDE, PADDING = 4, 2, 1


@dataclass(frozen=True)
class Layers:
    """Factories: of layers by the numbers of their inputs and outputs (features, or channels), of norms by the former.

    `linear` and `norm_1d` act on (B, D). `convolution` maps (B, C, S, S) to (B, C', S / 2, S / 2),
    `transposed_convolution` to (B, C', 2 S, 2 S), and `norm_2d` acts on (B, C, S, S).
    """

    linear: Layer
    convolution: Layer
    transposed_convolution: Layer
    norm_1d: Norm
    norm_2d: Norm


class Equalised(nn.Module):
    """A layer that scales its weight and bias by gamma = 1 / sqrt(D_in), weights from N(0, 1) (paper, section 5.4).

    D_in is the number of inputs that an output sums over: inputs of unit variance give outputs of unit variance.
    """

    def __init__(self, shape: tuple[int, ...], outputs: int, d_in: int) -> None:
        super().__init__()
        self.gamma = d_in**-0.5
        self.weight = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros(outputs))


class Dropout(InContext, nn.Dropout):
    """Dropout (Srivastava et al. 2014) whose masks are the context's."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        if not self.training:
            return input
        mask = self.context.mask(len(input), input.shape[1], 1 - self.p)
        return input * (mask / (1 - self.p)).to(input.dtype)


class EqualLinear(Equalised):
    """y = x (gamma A)^T + gamma b (paper, section 5.4)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__((out_features, in_features), out_features, in_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D_in) -> (B, D_out)."""
        return F.linear(x, self.gamma * self.weight, self.gamma * self.bias)


class EqualConvolution(Equalised):
    """EqualLinear's counterpart on maps: D_in = C k^2."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__((out_channels, channels, KERNEL, KERNEL), out_channels, channels * KERNEL**2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, C', S / 2, S / 2)."""
        return F.conv2d(x, self.gamma * self.weight, self.gamma * self.bias, STRIDE, PADDING)


class EqualTransposedConvolution(Equalised):
    """EqualLinear's counterpart that doubles the side: of the k^2 taps each pixel receives (k / stride)^2."""

    def __init__(self, channels: int, out_channels: int) -> None:
        d_in = channels * (KERNEL // STRIDE) ** 2
        super().__init__((channels, out_channels, KERNEL, KERNEL), out_channels, d_in)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, C', 2 S, 2 S)."""
        return F.conv_transpose2d(x, self.gamma * self.weight, self.gamma * self.bias, STRIDE, PADDING)


def leaky_relu() -> nn.Module:
    # In place: the activations are large, and no layer before it needs its own output for the backward pass.
    return nn.LeakyReLU(0.2, inplace=True)


def convolution(channels: int, out_channels: int) -> nn.Module:
    return _initialised(nn.Conv2d(channels, out_channels, KERNEL, STRIDE, PADDING))


def transposed_convolution(channels: int, out_channels: int) -> nn.Module:
    return _initialised(nn.ConvTranspose2d(channels, out_channels, KERNEL, STRIDE, PADDING))


def _initialised(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    """Weights from N(0, 0.02^2) (Radford et al. 2016, section 4)."""
    nn.init.normal_(layer.weight, std=0.02)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


PLAIN = Layers(nn.Linear, convolution, transposed_convolution, nn.BatchNorm1d, nn.BatchNorm2d)
EQUALISED = Layers(EqualLinear, EqualConvolution, EqualTransposedConvolution, nn.Identity, nn.Identity)
