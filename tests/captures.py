"""What a CUDA graph does, done by a CPU: for tests of what is captured, and of when."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

from harness import capture


class PretendedCaptures:
    """Stands in for `harness.capture`: a launch runs what was captured once more, its results into the same tensors.

    A capture itself runs the function, as its results are wanted, and the first launch, which follows at once, does
    not. `refuse` is called before a capture, and may raise as one does.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.captured = 0
        self.launched = 0
        self.refuse: Callable[[], None] = lambda: None
        monkeypatch.setattr(capture, "warm_up", lambda function: function())
        monkeypatch.setattr(capture, "capture", self._capture)
        monkeypatch.setattr(capture, "can_capture", lambda device: True)
        monkeypatch.setattr(capture, "make_pool", lambda: None)

    def _capture(
        self, function: Callable[[], Any], generators: Sequence[torch.Generator] = (), pool: Any = None
    ) -> tuple[Callable[[], None], Any]:
        self.refuse()
        self.captured += 1
        result, first = function(), self.launched

        def launch() -> None:
            self.launched += 1
            if self.launched == first + 1:
                return
            tree_map(lambda to, made: to.copy_(made) if isinstance(to, torch.Tensor) else None, result, function())

        return launch, result
