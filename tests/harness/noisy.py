"""A user's own variant that draws from torch's global random state, and other weights on each rank.

One rank gets SIGTERM at a step of the test's.
"""

import os
import signal
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout, l1_loss

from variants.aae import AAE


class Noisy(AAE):
    """Denoise images of Gaussian noise, with dropout in the code."""

    steps = 0

    def build_networks(self, options: Any) -> None:
        super().build_networks(options)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.01 * int(os.environ.get("RANK", "0")))

    def reconstruction_loss(self, x: Tensor) -> Tensor:
        Noisy.steps += 1
        if os.environ.get("STOP_AT") == str(Noisy.steps) and os.environ.get("RANK", "1") == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        z = self.encode(x + 0.1 * torch.randn_like(x))
        return l1_loss(self.decode(dropout(z, 0.2)), x)


class Waits(AAE):
    """Its loss asks the device for a number."""

    def reconstruction_loss(self, x: Tensor) -> Tensor:
        loss = super().reconstruction_loss(x)
        return loss if loss.item() > 0 else 2 * loss
