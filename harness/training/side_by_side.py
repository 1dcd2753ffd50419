"""Runs that differ in nothing but the seed, trained as one model: its tensors have a dimension more, the seeds'.

Networks as small as the paper's leave a GPU idle for most of a step. Each seed keeps its own draws, batches,
BatchNorm statistics and moments, and its numbers are those of a run alone, within what float32 rounds.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from harness.precision import Precision, casting, rounding_products
from harness.training.engine import Engine
from harness.training.stepping import CapturedStep, Losses, Piece, Step
from variants import Variant
from variants.context import Context


class SideBySide:
    """Engines of S runs, one step of each at a time.

    The parameters and buffers of each engine's variant become views of tensors (S, ...): whatever an engine does with
    them, as evaluating, saving or loading them, it does as before. Forward and backward passes are computed of all
    seeds at once (torch.vmap); clipping, the optimiser and averages are each engine's own.

    Args: variant: another one of the same kind, whose own weights do not matter.
    """

    def __init__(self, engines: Sequence[Engine], variant: Variant) -> None:
        first = engines[0]
        self.engines, self.config, self.device = engines, first.config, first.processes.device
        self.variant = variant.to(self.device).train()
        self.context = SeedsContext(engines)
        self.variant.use(self.context)
        self.phases = self.variant.phases()
        self._own = [dict(engine.variant.named_parameters()) for engine in engines]
        self.parameters = _stack(self._own)
        for stacked in self.parameters.values():
            stacked.requires_grad_(True)
        self.buffers = _stack([dict(engine.variant.named_buffers()) for engine in engines])
        of = {id(parameter): name for name, parameter in self.variant.named_parameters()}
        self._updates = {
            name: list(dict.fromkeys(of[id(p)] for module in phase.updates for p in module.parameters()))
            for name, phase in self.phases.items()
        }
        self._seeds = torch.arange(len(engines), device=self.device)
        updates = [partial(self._update, name) for name, phase in self.phases.items() for _ in range(phase.repeats)]
        pieces = [Piece(run) for run in (*updates, self._end)]
        generators = [engine.noise.generator for engine in engines]
        step = Step(self._begin, pieces, lambda: self._losses, self._forget, generators)
        self._run: Callable[[Tensor], Losses] = (
            CapturedStep(step, must=self.config.step == "graph") if first.way == "graph" else step
        )

    def step(self, images: Sequence[Tensor], steps: Sequence[int]) -> list[Losses]:
        """A step of each seed, on its own images (B, C, S, S), `steps` counting from the start of each run.

        Returns: of each seed the losses of each phase, () float32, on the device.
        """
        for engine, step in zip(self.engines, steps, strict=True):
            engine.noise.start_step(step)
        with rounding_products(self.config.mixed_precision):
            losses = self._run(torch.stack([*images]))
        return [{name: each[seed] for name, each in losses.items()} for seed in range(len(self.engines))]

    def _begin(self, x: Tensor) -> None:
        """Args: x: (S, B, C, H, W)."""
        self._parts = x.chunk(self.config.gradient_accumulation, dim=1)
        self._repeats: dict[str, list[Tensor]] = {name: [] for name in self.phases}
        self._forget()

    def _forget(self) -> None:
        self.variant.after_update(tuple(self.variant.children()))

    def _update(self, name: str) -> None:
        names, losses = self._updates[name], []
        gradients: list[Tensor | None] = [None] * len(names)
        for engine in self.engines:
            engine.optimizer.phase = name
            engine.noise.start_update()
        for part, x in enumerate(self._parts):
            for engine in self.engines:
                engine.noise.start_part(part)
            loss = self._compute_losses(name, x)
            made = torch.autograd.grad(
                loss.sum() / len(self._parts), [self.parameters[key] for key in names], allow_unused=True
            )
            gradients = [b if a is None else a if b is None else a + b for a, b in zip(gradients, made, strict=True)]
            losses.append(loss.detach())
        self._repeats[name].append(torch.stack(losses).mean(0))
        # Fused Adam takes it that a gradient lies in memory as its parameter does; those of batched products may not.
        gradients = [None if gradient is None else gradient.contiguous() for gradient in gradients]
        for seed, engine in enumerate(self.engines):
            for key, gradient in zip(names, gradients, strict=True):
                self._own[seed][key].grad = None if gradient is None else gradient[seed]
            engine.update(name)
        self.variant.after_update(self.phases[name].updates)

    def _compute_losses(self, name: str, x: Tensor) -> Tensor:
        """Of one phase on images (S, B, C, H, W): (S,)."""

        def compute(
            parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, seed: Tensor, handed: Any
        ) -> tuple[Tensor, tuple[Tensor, ...]]:
            self.context.seed = seed
            self.variant.take_over(x, handed)
            loss = functional_call(self.variant, (parameters, buffers), (name, x))
            return loss, self.variant.hand_over(x)

        handed = self.variant.hand_over(x)
        losses, handed = torch.vmap(compute)(self.parameters, self.buffers, x, self._seeds, handed)
        self.variant.take_over(x, handed)
        return losses

    def _end(self) -> None:
        for engine in self.engines:
            if engine.average is not None:
                engine.average.update()
        self._losses = {name: torch.stack(repeats).mean(0) for name, repeats in self._repeats.items()}


def _stack(of_seeds: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of equal names as one (S, ...), of which they become views."""
    stacks = {}
    for name in of_seeds[0]:
        stacked = torch.stack([tensors[name].detach() for tensors in of_seeds])
        for seed, tensors in enumerate(of_seeds):
            tensors[name].data = stacked[seed]
        stacks[name] = stacked
    return stacks


class SeedsContext(Context):
    """For a variant under torch.vmap: what seed s draws is what its own run would draw."""

    seed: Tensor  # of the run under way, () under vmap

    def __init__(self, engines: Sequence[Engine]) -> None:
        super().__init__(engines[0].processes.device, engines[0].variant.context._features)
        self.engines = engines
        self.precision: Precision = engines[0].config.mixed_precision

    def noise(self, n: int, latent_dim: int) -> Tensor:
        return self._draw(lambda engine: engine.noise(n, latent_dim))

    def mask(self, n: int, width: int, keep: float) -> Tensor:
        return self._draw(lambda engine: engine.noise.mask(n, width, keep))

    def casting(self) -> AbstractContextManager[None]:
        return casting(self.precision, torch.device(self.device or "cpu"))

    def reaching(self, module: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()  # gradients are asked for by name, and nothing is frozen

    def _draw(self, draw: Callable[[Engine], Tensor]) -> Tensor:
        drawn: Any = _OfEachSeed.apply(self.seed, lambda: torch.stack([draw(engine) for engine in self.engines]))
        return drawn


class _OfEachSeed(torch.autograd.Function):
    """Of the number of a seed, under vmap, what belongs to it: `make` makes it for all seeds, (S, ...)."""

    @staticmethod
    def forward(seed: Tensor, make: Callable[[], Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return make()[seed]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: Any, seed: Tensor, make: Callable[[], Tensor]
    ) -> tuple[Tensor, int]:
        return make(), 0
