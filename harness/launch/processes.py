"""The processes of one launch: which one this is, and what they do together. Accelerate starts them."""

import atexit
import gc
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object
from torch import Tensor

from harness.compat import forget_accelerator, spare_lookups
from harness.errors import InputError, PeerLostError
from harness.launch.launcher import build_deepspeed_plugin, check_launch, uses_deepspeed
from harness.precision import Precision, allow_tf32_everywhere, check_precision

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)  # for one process to wait for another, which may be preparing data; NCCL's own is 10


@atexit.register
def leave_process_group() -> None:
    """Destroy the process group while Python still runs, whatever ends the process.

    A gloo worker (c10d::ProcessGroupGloo::runLoop) drops the tensors of its last operation after everyone has gone on,
    at its leisure on a busy machine. Tensors have Python objects; a thread that asks for the interpreter's lock while
    Python shuts down is unwound, and a worker that is unwound calls abort. Destroying the group waits for its workers,
    unless something still refers to it: an uncaught exception's frames do.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for name in ("last_value", "last_traceback"):
            sys.__dict__.pop(name, None)
        gc.collect()
        torch.distributed.destroy_process_group()


def build_accelerator(
    precision: Precision = "no", gradient_accumulation: int = 1, gradient_clipping: float | None = None
) -> Accelerator:
    """Raises: InputError if the launcher asked for what this run or machine does not do, or did less than asked."""
    check_precision(precision)
    allow_tf32_everywhere(False)  # what is scored before the first step is float32 too
    torch.backends.cudnn.deterministic = True  # some of its gradients of convolutions differ from call to call
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1")
    on_gpu = torch.cuda.is_available() and not wants_cpu
    check_launch(precision, gradient_accumulation, gradient_clipping, torch.cuda.device_count() if on_gpu else 0)
    plugin = build_deepspeed_plugin(gradient_accumulation, gradient_clipping) if uses_deepspeed() else None
    if plugin is not None and precision == "fp16":
        raise InputError(
            "mixed_precision = 'fp16' under DeepSpeed would cast the weights themselves, and measure in fp16; "
            "use bf16, or launch without --use_deepspeed"
        )
    # Without the backend's name every rank under DeepSpeed on CPUs believes that it is alone.
    backend = {"backend": "gloo"} if plugin is not None and not on_gpu else {}
    forget_accelerator()
    spare_lookups()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*deepspeed_plugin", UserWarning)
        accelerator = Accelerator(
            device_placement=False,
            cpu=not on_gpu and plugin is None,
            # For its GradScaler; what is cast, and when, is harness.precision's.
            mixed_precision="fp16" if precision == "fp16" else "no",
            gradient_accumulation_steps=gradient_accumulation,
            deepspeed_plugin=plugin,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT, **backend)],
        )
    if plugin is not None and accelerator.state.deepspeed_plugin is None:
        raise InputError("DeepSpeed was asked for and Accelerate did not start it; unset ACCELERATE_USE_CPU")
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != world_size:
        raise InputError(
            f"{world_size} processes were launched, but each trains alone; on CPUs launch with "
            f"ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {world_size} --num_machines 1"
        )
    accelerator.wait_for_everyone()  # one that ends at once, on bad input, would break the others' connections
    return accelerator


class Processes:
    """The launch's processes, from where one of them stands. With a single one nothing is communicated."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.rank, self.num_processes = accelerator.process_index, accelerator.num_processes
        self.device = accelerator.device
        self.is_main_process = accelerator.is_main_process

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, true on every process if it is true on one: for decisions that all must take at the same step."""
        if self.num_processes == 1:
            return flags
        return tuple(count > 0 for count in self.sum(torch.tensor(flags, device=self.device, dtype=torch.int)).tolist())

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

    @contextmanager
    def raising_together(self) -> Iterator[None]:
        """What a process raises in the body, all of them raise: none waits for one that has ended."""
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            if self.num_processes == 1:
                raise
            error = raised
        if self.agree(error is not None)[0]:
            shared = gather_object([as_others_can_read(error) if error is not None else None])
            raise next(first for first in shared if first is not None) from error

    def main_first(self, compute: Callable[[], T]) -> T:
        """Every process computes, the main one before the others, who then find in the cache what it left there.

        Raises: on every process, what one of them raised.
        """
        computed: list[T] = []
        self.on_main(lambda: computed.append(compute()))
        with self.raising_together():
            if not computed:
                computed.append(compute())
        return computed[0]

    def on_main(self, compute: Callable[[], T]) -> T:
        """What the main process computes, on every process. Raises: on every process, what it raised."""
        if self.num_processes == 1:
            return compute()
        outcome: list[object] = [None, None]
        if self.is_main_process:
            try:
                outcome[0] = compute()
            except Exception as error:  # whatever it is, the others wait for it
                outcome[1] = as_others_can_read(error)
        value, error = broadcast_object_list(outcome)
        if isinstance(error, BaseException):
            raise error
        return cast(T, value)

    def require_same(self, what: str, value: object) -> None:
        """Raises: InputError, on every process, unless all of them have the same."""
        main = self.on_main(lambda: value)
        with self.raising_together():
            if value != main:
                raise InputError(
                    f"process {self.rank} has the {what} {value} and process 0 {main}; give every node the same "
                    "command and the same data"
                )


def as_others_can_read(error: Exception) -> Exception:
    """The error, or what it says where it does not survive being sent: others would wait for it in vain."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a class of its own raises when it is pickled, or made again from its arguments
        said = RuntimeError(f"{type(error).__name__}: {error}")
        said.__cause__ = error
        return said
    return error


@contextmanager
def explaining_lost_peers() -> Iterator[None]:
    """Raises: PeerLostError where communication fails, as it does when another process is killed."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or any(n in str(error) for n in ("gloo", "NCCL"))
        rank, num_processes = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        if num_processes == "1" or not lost:
            raise
        raise PeerLostError(
            f"rank {rank} of {num_processes} has lost another process of this run, which was killed or failed "
            f"({str(error).splitlines()[0]}); run the same command again to resume"
        ) from error
