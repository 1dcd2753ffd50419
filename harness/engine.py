"""Training steps on one process or many: the only file that knows how the run is distributed.

Accelerate wraps one container (the variant) and one optimiser. The wrapper runs `variant(phase, x)`, so one code path
serves a single process and DistributedDataParallel.
"""

import os
import warnings

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast, gather_object
from torch import Tensor

from harness.errors import InputError
from harness.optimizer import PhasedAdam
from harness.seeding import GlobalNoise, derive_seed
from variants import Phase, Variant


def build_accelerator(mixed_precision: str) -> Accelerator:
    """Raises: InputError if the launcher asked for what this run does not do: other processes, other precision."""
    on_gpu = torch.cuda.is_available()
    if mixed_precision == "fp16" and not on_gpu:
        raise InputError("mixed_precision = 'fp16' needs a GPU; on a CPU use 'bf16' or 'no'")
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", mixed_precision):
        raise InputError(
            f"accelerate launch was given --mixed_precision {asked}, the run {mixed_precision!r}; the precision is "
            f"part of a run's identity, so give it to the run: --mixed-precision {asked}"
        )
    accelerator = Accelerator(
        cpu=not on_gpu,
        mixed_precision=mixed_precision,
        kwargs_handlers=[
            # A phase uses part of the container. Each rank keeps its own BatchNorm statistics, as the published
            # procedure on one device has one batch's: synchronised buffers would also break a forward pass that two
            # phases share.
            DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
        ],
    )
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != world_size:
        raise InputError(
            f"{world_size} processes were launched, but each trains alone; on CPUs launch with "
            f"ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {world_size} --num_machines 1"
        )
    return accelerator


class Engine:
    """One variant under training. `step` runs its phases in order on one share of a global batch."""

    def __init__(self, accelerator: Accelerator, variant: Variant, learning_rate: float, seed: int) -> None:
        self.accelerator = accelerator
        self.rank, self.num_processes = accelerator.process_index, accelerator.num_processes
        self.device = accelerator.device
        self.is_main_process = accelerator.is_main_process
        self.seed = seed
        self.variant = variant
        self.noise = GlobalNoise(seed, self.rank, self.num_processes, self.device)
        variant.noise = self.noise
        variant.to(self.device)
        self.phases = variant.phases()
        updates = {
            name: [p for module in phase.updates for p in module.parameters()] for name, phase in self.phases.items()
        }
        self.optimizer = PhasedAdam(updates, learning_rate)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "`broadcast_buffers` is deprecated", FutureWarning
            )  # Accelerate passes it
            self._container, self._stepper = accelerator.prepare(variant, self.optimizer)
        self._trains = {name: {id(p) for p in parameters} for name, parameters in updates.items()}

    def step(self, x: Tensor, step: int) -> dict[str, Tensor]:
        """Every phase on images (B / num_processes, C, S, S). Returns: each phase's loss, () float32, on the device.

        `step` counts from the start of the run; all randomness of the step follows from it.
        """
        self.noise.start_step(step)
        torch.manual_seed(derive_seed(self.seed, "dropout", step, self.rank))
        losses = {}
        for name, phase in self.phases.items():
            repeats = [self._update(name, phase, x) for _ in range(phase.repeats)]
            losses[name] = repeats[0] if phase.repeats == 1 else torch.stack(repeats).mean()
        return losses

    def _update(self, name: str, phase: Phase, x: Tensor) -> Tensor:
        trained = self._trains[name]
        for parameter in self.variant.parameters():
            parameter.requires_grad_(id(parameter) in trained)
            parameter.grad = None
        self.optimizer.phase = name
        loss = self._container(name, x)
        self.accelerator.backward(loss)
        self._stepper.step()
        self.variant.after_update(phase.updates)
        return loss.detach()

    def agree(self, flag: bool) -> bool:
        """True on every process if it is true on one: for decisions that all must take at the same step."""
        if self.num_processes == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)).item() > 0)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over the processes, on each of them."""
        if self.num_processes == 1:
            return tensor
        total = self.accelerator.reduce(tensor, "sum")
        assert isinstance(total, Tensor)
        return total

    def concatenate(self, tensor: Tensor) -> Tensor:
        """The processes' (n_i, ...) tensors as one on the CPU, in order of rank, on each of them."""
        return torch.cat(gather_object([tensor.cpu()])) if self.num_processes > 1 else tensor.cpu()

    def share(self, n: int) -> range:
        """This rank's part of 0 ... n - 1: contiguous, exact, in order of rank."""
        return range(self.rank * n // self.num_processes, (self.rank + 1) * n // self.num_processes)

    def synchronise_buffers(self) -> None:
        """Give every process the main process's BatchNorm statistics, which are those that a checkpoint keeps."""
        if self.num_processes > 1:
            for buffer in self.variant.buffers():
                buffer.copy_(broadcast(buffer))  # pyright: ignore[reportArgumentType]
