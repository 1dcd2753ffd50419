"""A user's own variant that draws from torch's global random state; one rank gets SIGTERM at a step of the test's."""

import os
import signal

import torch
from torch import Tensor
from torch.nn.functional import dropout, l1_loss

from variants.aae import AAE


class Noisy(AAE):
    """Denoise images of Gaussian noise, with dropout in the code."""

    steps = 0

    def reconstruction_loss(self, x: Tensor) -> Tensor:
        Noisy.steps += 1
        if os.environ.get("STOP_AT") == str(Noisy.steps) and os.environ.get("RANK", "1") == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        z = self.encode(x + 0.1 * torch.randn_like(x))
        return l1_loss(self.decode(dropout(z, 0.2)), x)
