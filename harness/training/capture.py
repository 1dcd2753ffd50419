"""A training step with less work for the host: compiled modules, and on a single GPU one CUDA graph for a whole step.

The paper's networks are so small that a GPU waits for kernel launches; a graph launches all phases at once. A step can
be captured because nothing in it waits for the device: random generators are seeded before it, Adam's step counts lie
on the device, losses are read when they are logged.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from harness import capture

logger = logging.getLogger(__name__)
WARM_UP_STEPS = 3  # eager, as part of the training: they compile, and make the moments and the allocator's pools
MAX_COMPILED = 64  # of one function: a module in each phase, trained and frozen


def find_compiler(device: torch.device) -> str | None:
    """The compiler by which torch.compile makes kernels for a device, as it looks for one; None if there is none."""
    variable, usual = ("CC", ("gcc", "clang")) if device.type == "cuda" else ("CXX", ("g++",))
    named = os.environ.get(variable, "")
    return next((found for name in ((named,) if named else usual) if (found := shutil.which(name))), None)


def can_compile(device: torch.device) -> bool:
    """Whether there is what compiling needs; a warning, once, says so if there is not."""
    if find_compiler(device) is None:
        language = "C" if device.type == "cuda" else "C++"
        logger.warning("compile = true needs a %s compiler, and this machine has none: going on uncompiled", language)
        return False
    return True


def compile_modules(modules: Iterable[nn.Module]) -> None:
    """Compile each module in place; its parameters keep their names."""
    import torch.compiler.config as compiler  # noqa: PLC0415 (imports the compiler, a second that other runs are spared)

    compiler.recompile_limit = max(compiler.recompile_limit, MAX_COMPILED)
    for module in dict.fromkeys(modules):
        module.compile(dynamic=False)


class CapturedStep:
    """Calls `step` for the first batches, then captures it once and replays the graph.

    Args: step: images (B, C, S, S) to named losses, (); all batches have one shape. generators: those that it draws
        from, besides the device's default one.
    """

    def __init__(self, step: Callable[[Tensor], dict[str, Tensor]], generators: Sequence[torch.Generator]) -> None:
        self.step, self.generators = step, generators
        self.calls = 0
        self.launch: Callable[[], None] | None = None

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """The losses lie where the next call writes its own: read them before."""
        self.calls += 1
        if self.calls <= WARM_UP_STEPS:
            return capture.warm_up(lambda: self.step(x))
        if self.launch is None:
            self.x = x.clone()
            self.launch, self.losses = capture.capture(lambda: self.step(self.x), self.generators)
        self.x.copy_(x)
        self.launch()
        return self.losses
