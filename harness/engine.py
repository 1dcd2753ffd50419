"""Training steps on one process or many: the only file that knows how the run is distributed.

Accelerate wraps one container (the variant) and one optimiser. The wrapper runs `variant(phase, x)`, so one code path
serves a single process and DistributedDataParallel.
"""

import warnings

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor

from harness.optimizer import PhasedAdam
from harness.processes import Processes
from harness.seeding import GlobalNoise, derive_seed
from variants import Phase, Variant


class Engine(Processes):
    """The processes with one variant under training. `step` runs its phases in order on one share of a global batch."""

    def __init__(self, accelerator: Accelerator, variant: Variant, learning_rate: float, seed: int) -> None:
        super().__init__(accelerator)
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
            self._container, self._stepper = accelerator.prepare(
                variant, self.optimizer, device_placement=[False, False]
            )
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

    def synchronise_buffers(self) -> None:
        """Give every process the main process's BatchNorm statistics, which are those that a checkpoint keeps."""
        if self.num_processes > 1:
            for buffer in self.variant.buffers():
                buffer.copy_(broadcast(buffer))  # pyright: ignore[reportArgumentType]
