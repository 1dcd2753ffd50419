"""Training steps on one process or many: the only file that knows plain training, data parallelism and DeepSpeed.

Accelerate wraps one optimiser, and under DeepSpeed one container, the variant. `variant(phase, x)` is what runs, so one
code path serves them all; what is saved of the optimiser differs, as ZeRO splits it over the processes.

Data parallelism is one all-reduce a phase, of the gradients that the phase makes. PyTorch's DistributedDataParallel
would send those of E, G and D in each phase, many of them zeros, and wait for the device to learn which: in a trial two
processes had 0.81 of one's throughput on the same cores with it, and 0.93 so (held to 0.85 by
tests/benchmarks/test_processes_and_memory.py). After its first step it would also sum in another order.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from harness.compat import refresh_master_weights
from harness.config import RunConfig
from harness.errors import InputError
from harness.launch.processes import Processes
from harness.precision import rounding_products
from harness.seeding import GlobalNoise, derive_seed
from harness.training.averages import MovingAverage
from harness.training.context import TrainingContext
from harness.training.optimizer import PhasedAdam
from harness.training.stepping import CapturedStep, Losses, Piece, Step, choose_way, compile_if_asked
from variants import Variant
from variants.context import Features

Way = Literal["eager", "graph", "compiled"]  # in which steps are run, see stepping.py


class Engine:
    """One variant under training on the processes. `step` runs its phases in order on one share of a global batch.

    `features` is the network for a variant that needs one: see variants.context.
    """

    def __init__(
        self, processes: Processes, variant: Variant, config: RunConfig, features: Features | None = None
    ) -> None:
        self.processes, self.config, self.variant = processes, config, variant
        self.zero_stage = _zero_stage(processes.accelerator)
        self.noise = GlobalNoise(
            config.seed,
            self.processes.rank,
            self.processes.num_processes,
            self.processes.device,
            parts=config.gradient_accumulation,
        )
        self._reduces = processes.num_processes > 1 and self.zero_stage is None  # gradients, over the processes
        variant.use(TrainingContext(self.noise, config.mixed_precision, features))
        if config.sync_batchnorm and self.processes.num_processes > 1:
            self._synchronise_batchnorm()
        variant.to(self.processes.device)
        self._parameters = list(variant.parameters())
        self.phases = variant.phases()
        self._updates = {
            name: list(dict.fromkeys(p for module in phase.updates for p in module.parameters()))
            for name, phase in self.phases.items()
        }
        decoupled = config.optimizer == "adamw"
        self.optimizer = PhasedAdam(
            self._updates, config.learning_rate, config.betas, config.weight_decay, decoupled=decoupled
        )
        self._share(self._parameters)  # a user's own variant may have drawn others on each process
        self.synchronise_buffers()
        self._container, self._stepper = self._wrap()
        self._trained: str | None = None  # the phase whose parameters, and no others, require gradients
        self.average = None if config.ema_decay is None else self._build_average(config.ema_decay)
        modules = (module for phase in self.phases.values() for module in phase.updates)
        compiled = compile_if_asked(config, processes, modules)
        way = choose_way(config, processes, self.zero_stage)
        self.way: Way = "compiled" if compiled else way
        self._step = self._build_step()
        if way == "graph":
            whole = processes.num_processes == 1 or torch.distributed.get_backend() == "nccl"
            self._run: Callable[[Tensor], Losses] = CapturedStep(self._step, whole=whole, must=config.step == "graph")
        else:
            self._run = self._step

    def step(self, x: Tensor, step: int) -> Losses:
        """Every phase on images (B / num_processes, C, S, S). Returns: each phase's loss, () float32, on the device.

        `step` counts from the start of the run; all randomness of the step follows from it.
        """
        self.noise.start_step(step)
        self._seed_global_state(derive_seed(self.config.seed, "step", step, self.processes.rank))
        with rounding_products(self.config.mixed_precision):
            return self._run(x)

    def _seed_global_state(self, seed: int) -> None:
        """What a user's own variant draws follows from the step too. (torch.manual_seed would take 1 % of the step.)"""
        torch.default_generator.manual_seed(seed)
        if self.processes.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _build_step(self) -> Step:
        """A step without its seeding. Nothing in it waits for the device, but under ZeRO, so it can be captured."""
        pieces: list[Piece] = []
        for name, phase in self.phases.items():
            for _ in range(phase.repeats):
                pieces.append(Piece(partial(self._compute_gradients, name)))
                if self._reduces:
                    pieces.append(Piece(self._sum_gradients, communicates=True))
                pieces.append(Piece(partial(self._apply_gradients, name)))
        pieces.append(Piece(self._end))
        return Step(self._begin, pieces, lambda: self._losses, self._forget, [self.noise.generator])

    def _begin(self, x: Tensor) -> None:
        accumulation = self.config.gradient_accumulation
        self._parts = x.chunk(accumulation) if accumulation > 1 else (x,)
        self._repeats: dict[str, list[Tensor]] = {name: [] for name in self.phases}
        self._forget()  # what was computed of other images that lay in the same tensor

    def _end(self) -> None:
        if self.average is not None:
            self.average.update()
        self._losses = {name: _mean(repeats) for name, repeats in self._repeats.items()}

    def _forget(self) -> None:
        self.variant.after_update(tuple(self.variant.children()))

    def _compute_gradients(self, name: str) -> None:
        """Of one phase, of this process's images; with several processes they lie in `_gradients`, one after another.

        On all processes a phase has to reach the same parameters.
        """
        self._freeze_others(name)
        self.optimizer.phase = name
        self.noise.start_update()
        losses = []
        for part, x in enumerate(self._parts):
            self.noise.start_part(part)
            with self.processes.accelerator.accumulate(self._container):
                loss = self._container(name, x)
                self.processes.accelerator.backward(loss)
            losses.append(loss.detach())
        self._repeats[name].append(_mean(losses))
        if self._reduces:
            reached = [p.grad.flatten() for p in self._updates[name] if p.grad is not None]
            self._gradients = torch.cat(reached).div_(self.processes.num_processes)

    def _sum_gradients(self) -> None:
        torch.distributed.all_reduce(self._gradients)

    def _apply_gradients(self, name: str) -> None:
        reached = [p for p in self._updates[name] if p.grad is not None]
        if self._reduces:
            parts = self._gradients.split([p.numel() for p in reached])
            for parameter, part in zip(reached, parts, strict=True):
                parameter.grad = part.view_as(parameter)
        self.update(name)

    def update(self, name: str) -> None:
        """Clip the gradients that a phase's parameters have, and let the optimiser use them."""
        if self.config.gradient_clipping is not None and self.zero_stage is None:
            self.processes.accelerator.clip_grad_norm_(self._updates[name], self.config.gradient_clipping)
        self._stepper.step()
        self.variant.after_update(self.phases[name].updates)

    def _freeze_others(self, name: str) -> None:
        """Let a phase reach its own parameters alone, which have no gradients yet."""
        before = self._parameters if self._trained is None else self._updates[self._trained]
        if self._trained != name:
            for parameter in before:
                parameter.requires_grad_(False)
            for parameter in self._updates[name]:
                parameter.requires_grad_(True)
        for parameter in before:
            parameter.grad = None
        self._trained = name

    def synchronise_buffers(self) -> None:
        """Give every process the main process's BatchNorm statistics, which are those that a checkpoint keeps."""
        self._share(self.variant.buffers())

    @torch.no_grad()
    def _share(self, tensors: Iterable[Tensor]) -> None:
        """The main process's, on every process."""
        if self.processes.num_processes > 1:
            for tensor in tensors:
                tensor.copy_(broadcast(tensor))  # pyright: ignore[reportArgumentType]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, decoding uses the moving averages, where the run keeps them, and nothing is compiled anew."""
        with ExitStack() as stack:
            if self.average is not None:
                stack.enter_context(self.average.applied())
            if self.way == "compiled":
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield

    @property
    def optimizer_file(self) -> str | None:
        """Where this process's optimiser state belongs in a checkpoint; None where another process writes it all."""
        if self.zero_stage is not None:
            return f"optimizer-{self.processes.rank}-of-{self.processes.num_processes}.safetensors"
        return "optimizer.safetensors" if self.processes.is_main_process else None

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The moments of each parameter, `<parameter>//<phase>/<moment>`; under ZeRO, of this process's partitions."""
        return {
            f"{name}//{key}": tensor
            for name, parameter in self._optimised().items()
            for key, tensor in self.optimizer.state[parameter].items()
        }

    def load_tensors(
        self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor], averages: Mapping[str, Tensor] | None
    ) -> None:
        """Go on from what `state_dict`, `optimizer_tensors` and the moving averages were."""
        self.variant.load_state_dict(weights)
        if self.zero_stage is not None:
            refresh_master_weights(self._container)
        for name, parameter in self._optimised().items():
            prefix = f"{name}//"
            self.optimizer.state[parameter] = {
                key.removeprefix(prefix): tensor.to(parameter.device)
                for key, tensor in moments.items()
                if key.startswith(prefix)
            }
        if self.average is not None and averages is not None:
            self.average.load(averages)

    def _optimised(self) -> dict[str, Tensor]:
        """What the optimiser updates, by name: the parameters, or this process's partition of each group of them."""
        if self.zero_stage is None:
            return dict(self.variant.named_parameters())
        return {f"group{i}": group["params"][0] for i, group in enumerate(self.optimizer.param_groups)}

    def _build_average(self, decay: float) -> MovingAverage:
        decoding = {id(p) for module in self.variant.decoding_modules() for p in module.parameters()}
        parameters = {name: p for name, p in self.variant.named_parameters() if id(p) in decoding}
        return MovingAverage(parameters, decay)

    def _wrap(self) -> tuple[Any, Any]:
        """What runs the variant, and what steps the optimiser."""
        if self.zero_stage is None:
            return self.variant, self.processes.accelerator.prepare(self.optimizer)
        return self.processes.accelerator.prepare(self.variant, self.optimizer)

    def _synchronise_batchnorm(self) -> None:
        if self.processes.device.type != "cuda":
            raise InputError(
                "sync_batchnorm = true needs GPUs: on CPUs BatchNorm sees each process's own share of a batch; "
                "train on one process, or leave it off"
            )
        nn.SyncBatchNorm.convert_sync_batchnorm(self.variant)


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return losses[0] if len(losses) == 1 else torch.stack([*losses]).mean()


def _zero_stage(accelerator: Accelerator) -> int | None:
    plugin = accelerator.state.deepspeed_plugin
    return None if plugin is None else plugin.zero_stage
