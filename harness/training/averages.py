"""Exponential moving averages of the weights that decoding uses."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """theta_ema <- decay * theta_ema + (1 - decay) * theta after every training step, from the initial weights on.

    BatchNorm's running statistics are not averaged: they are averages already.

    Args: parameters: by their names in the variant's state_dict.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._step = get_ema_multi_avg_fn(decay)
        self.parameters = dict(parameters)
        self.averages = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def update(self) -> None:
        self._step([*self.averages.values()], [*self.parameters.values()], None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the averages are the parameters' values: copied, as under ZeRO parameters are views of a buffer."""
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._write(self.averages)
        try:
            yield
        finally:
            self._write(kept)

    def load(self, averages: Mapping[str, Tensor]) -> None:
        for name, average in self.averages.items():
            average.copy_(averages[name])

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
