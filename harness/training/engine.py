"""Training steps on one process or many: the only file that knows plain training, data parallelism and DeepSpeed.

Accelerate wraps one optimiser, and under DeepSpeed one container, the variant. `variant(phase, x)` is what runs, so one
code path serves them all; what is saved of the optimiser differs, as ZeRO splits it over the processes.

Data parallelism is one all-reduce a phase, of the gradients that the phase makes. PyTorch's DistributedDataParallel
would send those of E, G and D in each phase, many of them zeros, and wait for the device to learn which: in a trial two
processes had 0.81 of one's throughput on the same cores with it, and 0.93 so (held to 0.85 by
tests/benchmarks/test_processes_and_memory.py). After its first step it would also sum in another order.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

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
from harness.training.capture import CapturedStep, can_compile, compile_modules
from harness.training.context import TrainingContext
from harness.training.optimizer import PhasedAdam
from variants import Phase, Variant
from variants.context import Features


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
        self._trains = {name: {id(p) for p in parameters} for name, parameters in self._updates.items()}
        self.average = None if config.ema_decay is None else self._build_average(config.ema_decay)
        self._captured: CapturedStep | None = None
        self.compiles = config.compile and can_compile(processes.device)
        if self.compiles:
            compile_modules(module for phase in self.phases.values() for module in phase.updates)
        alone = processes.num_processes == 1 and self.zero_stage is None
        if config.compile and alone and processes.device.type == "cuda":
            self._captured = CapturedStep(self._run_phases, [self.noise.generator])

    def step(self, x: Tensor, step: int) -> dict[str, Tensor]:
        """Every phase on images (B / num_processes, C, S, S). Returns: each phase's loss, () float32, on the device.

        `step` counts from the start of the run; all randomness of the step follows from it.
        """
        self.noise.start_step(step)
        self._seed_global_state(derive_seed(self.config.seed, "step", step, self.processes.rank))
        return self._run_phases(x) if self._captured is None else self._captured(x)

    def _seed_global_state(self, seed: int) -> None:
        """What a user's own variant draws follows from the step too. (torch.manual_seed would take 1 % of the step.)"""
        torch.default_generator.manual_seed(seed)
        if self.processes.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _run_phases(self, x: Tensor) -> dict[str, Tensor]:
        """A step without its seeding. Nothing in it waits for the device, but under ZeRO, so it can be captured."""
        parts = x.chunk(self.config.gradient_accumulation) if self.config.gradient_accumulation > 1 else (x,)
        losses = {}
        for name, phase in self.phases.items():
            repeats = [self._update(name, phase, parts) for _ in range(phase.repeats)]
            losses[name] = repeats[0] if phase.repeats == 1 else torch.stack(repeats).mean()
        if self.average is not None:
            self.average.update()
        return losses

    def _update(self, name: str, phase: Phase, parts: tuple[Tensor, ...]) -> Tensor:
        trained = self._trains[name]
        for parameter in self._parameters:
            parameter.requires_grad_(id(parameter) in trained)
            parameter.grad = None
        self.optimizer.phase = name
        self.noise.start_update()
        losses = []
        for part, x in enumerate(parts):
            self.noise.start_part(part)
            with self.processes.accelerator.accumulate(self._container):
                with rounding_products(self.config.mixed_precision):
                    loss = self._container(name, x)
                    self.processes.accelerator.backward(loss)
                if part == len(parts) - 1 and self.zero_stage is None:
                    self._finish_gradients(name)
                self._stepper.step()
            losses.append(loss.detach())
        self.variant.after_update(phase.updates)
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def _finish_gradients(self, name: str) -> None:
        """Average them over the processes, on all of which a phase has to reach the same parameters; clip them."""
        if self.processes.num_processes > 1:
            gradients = [(p, p.grad) for p in self._updates[name] if p.grad is not None]
            averages = torch.cat([gradient.flatten() for _, gradient in gradients]).div_(self.processes.num_processes)
            torch.distributed.all_reduce(averages)
            parts = averages.split([gradient.numel() for _, gradient in gradients])
            for (parameter, gradient), part in zip(gradients, parts, strict=True):
                parameter.grad = part.view_as(gradient)
        if self.config.gradient_clipping is not None:
            self.processes.accelerator.clip_grad_norm_(self._updates[name], self.config.gradient_clipping)

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
            if self.config.compile:
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


def _zero_stage(accelerator: Accelerator) -> int | None:
    plugin = accelerator.state.deepspeed_plugin
    return None if plugin is None else plugin.zero_stage
