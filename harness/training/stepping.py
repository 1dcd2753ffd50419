"""How a training step runs: kernel by kernel, as CUDA graphs, or with its modules compiled.

The paper's networks are so small that a GPU waits for its host to launch kernels: eager, a step of the AAE took 11.4 ms
on an H200, and its kernels 1.7. A graph launches them all at once, and they are the same kernels. A step can be
captured because nothing in it waits for the device: random generators are seeded before it, Adam's step counts lie on
the device, losses are read when they are logged.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from harness import capture
from harness.config import RunConfig
from harness.errors import InputError
from harness.kept import is_first_time
from harness.launch.processes import Processes

logger = logging.getLogger(__name__)
WARM_UP_STEPS = 3  # eager, as part of the training: they compile, and make the moments and the allocator's pools
MAX_COMPILED = 64  # of one function: a module in each phase, trained and frozen

Losses = dict[str, Tensor]  # each phase's, () float32 on the device


@dataclass(frozen=True)
class Piece:
    """A part of a step. One that communicates is an all-reduce over the processes."""

    run: Callable[[], None]
    communicates: bool = False


@dataclass(frozen=True)
class Step:
    """A step in pieces, which run in their order.

    `begin` takes images (B, C, S, S), `losses` says what the pieces made of them. `forget` drops what a piece has left
    for others to use again. `generators` are those that the pieces draw from, besides the device's default one.
    """

    begin: Callable[[Tensor], None]
    pieces: Sequence[Piece]
    losses: Callable[[], Losses]
    forget: Callable[[], None]
    generators: Sequence[torch.Generator] = ()

    def __call__(self, x: Tensor) -> Losses:
        self.begin(x)
        for piece in self.pieces:
            piece.run()
        return self.losses()


def choose_way(config: RunConfig, processes: Processes, zero_stage: int | None) -> Literal["eager", "graph"]:
    """Whether the steps of a run are captured, once they are warm. Raises: InputError for a graph that cannot be."""
    obstacle = _find_obstacle(config, processes, zero_stage)
    if config.step == "graph" and obstacle is not None:
        raise InputError(f"step = graph: {obstacle}; use step = auto, which captures where it can")
    if config.step == "eager" or obstacle is not None:
        return "eager"
    if config.step == "auto" and ":" in config.variant:
        if is_first_time(("runs eagerly", config.variant)):
            logger.warning(
                "%s runs eagerly, as a graph would leave out what its Python code does between kernels; "
                "if its losses follow from tensors alone, step = graph is quicker",
                config.variant,
            )
        return "eager"
    return "graph"


def _find_obstacle(config: RunConfig, processes: Processes, zero_stage: int | None) -> str | None:
    if not capture.can_capture(processes.device):
        return "a CUDA graph needs a GPU"
    if zero_stage is not None:
        return "DeepSpeed waits for the device within a step"
    if config.sync_batchnorm and processes.num_processes > 1:
        return "sync_batchnorm waits for the other GPUs within a step"
    return None


def compile_if_asked(config: RunConfig, processes: Processes, modules: Iterable[nn.Module]) -> bool:
    """Compile modules where the run asks for it and the machine can. Returns: whether it was done."""
    if config.step != "compiled" or not can_compile(processes.device):
        return False
    compile_modules(modules)
    return True


def find_compiler(device: torch.device) -> str | None:
    """The compiler by which torch.compile makes kernels for a device, as it looks for one; None if there is none."""
    variable, usual = ("CC", ("gcc", "clang")) if device.type == "cuda" else ("CXX", ("g++",))
    named = os.environ.get(variable, "")
    return next((found for name in ((named,) if named else usual) if (found := shutil.which(name))), None)


def can_compile(device: torch.device) -> bool:
    """Whether there is what compiling needs; a warning, once, says so if there is not."""
    if find_compiler(device) is None:
        language = "C" if device.type == "cuda" else "C++"
        logger.warning("step = compiled needs a %s compiler, and this machine has none: going on uncompiled", language)
        return False
    return True


def compile_modules(modules: Iterable[nn.Module]) -> None:
    """Compile each module in place; its parameters keep their names."""
    import torch.compiler.config as compiler  # noqa: PLC0415 (imports the compiler, a second that other runs are spared)

    compiler.recompile_limit = max(compiler.recompile_limit, MAX_COMPILED)
    for module in dict.fromkeys(modules):
        module.compile(dynamic=False)


class CapturedStep:
    """Runs a step eagerly for the first batches, then captures it once and replays it. All batches have one shape.

    It is captured whole, all-reduces included, where the processes communicate by NCCL; else, or where that fails, in
    graphs between the all-reduces. What cannot be captured at all runs eagerly, and a warning says why, once.

    Args: must: raise instead.
    """

    def __init__(self, step: Step, *, whole: bool = True, must: bool = False) -> None:
        self.step, self.whole, self.must = step, whole, must
        self.calls = 0
        self._launches: list[Callable[[], None]] | None = None
        self._warned = False

    def __call__(self, x: Tensor) -> Losses:
        """The losses lie where the next call writes its own: read them before.

        Raises: InputError, if it must, for a step that cannot be captured.
        """
        self.calls += 1
        if self.calls <= WARM_UP_STEPS:
            return capture.warm_up(lambda: self.step(x))
        if self._launches is None:
            self._x = x.clone()
            self._launches = self._capture()
        else:
            self._x.copy_(x)
            self.step.begin(self._x)  # for what runs eagerly
            for launch in self._launches:
                launch()
        return self.step.losses()

    def _capture(self) -> list[Callable[[], None]]:
        """Capture the step while it runs. Returns: what runs it again."""
        pool = capture.make_pool()
        groups = [[*self.step.pieces]] if self.whole else _between_communication(self.step.pieces)
        launches: list[Callable[[], None]] = []
        self.step.begin(self._x)
        while groups:
            group = groups.pop(0)

            def run(group: list[Piece] = group) -> None:
                for piece in group:
                    piece.run()

            launch = run
            if not any(piece.communicates for piece in group) or len(group) > 1:
                try:
                    launch, _ = capture.capture(run, self.step.generators, pool)
                except RuntimeError as error:
                    self.step.forget()  # what was captured, and so never computed
                    if len(group) > 1 and any(piece.communicates for piece in group):
                        groups = _between_communication(group)
                        continue
                    self._refuse(error)
            launches.append(launch)
            launch()
        return launches

    def _refuse(self, error: RuntimeError) -> None:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if self.must:
            raise InputError(f"step = graph: the step cannot be captured ({reason}); use step = auto") from error
        if not self._warned:
            logger.warning("the step cannot be captured as a CUDA graph (%s): it runs eagerly", reason)
            self._warned = True


def _between_communication(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The pieces in groups: one of each that communicates, and the others between them together."""
    groups: list[list[Piece]] = []
    for piece in pieces:
        if groups and not piece.communicates and not groups[-1][0].communicates:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups
