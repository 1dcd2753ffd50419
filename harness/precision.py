"""The precision in which a run trains. What is measured stays in float32 and float64 whatever it is.

Weights, gradients, moments, losses, posterior and scores are float32 or wider always. `bf16` and `fp16` cast inside the
forward pass of a training step (torch.autocast), `tf32` rounds what products of float32 matrices and convolutions take,
forwards and backwards. The contexts are our own and not Accelerate's, which under DeepSpeed would cast the weights and
BatchNorm's statistics themselves, and so make other numbers of the same run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from harness.errors import InputError

Precision = Literal["no", "tf32", "bf16", "fp16"]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: Precision, field: str = "mixed_precision") -> None:
    """Raises: InputError for a precision that this machine does not have, named as the field that asks for it."""
    if precision == "fp16" and not torch.cuda.is_available():
        raise InputError(f"{field} = 'fp16' needs a GPU; on a CPU use 'bf16' or 'no'")
    if precision == "tf32" and not (torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8):
        raise InputError(f"{field} = 'tf32' needs an NVIDIA GPU of 2020 or later (Ampere); here use 'no'")


@contextmanager
def casting(precision: Precision, device: torch.device) -> Iterator[None]:
    """For a forward pass: `bf16` and `fp16` cast inside, and backward passes follow suit by themselves."""
    with torch.autocast(device.type, _AUTOCAST.get(precision), enabled=precision in _AUTOCAST):
        yield


@contextmanager
def rounding_products(precision: Precision) -> Iterator[None]:
    """For a forward and its backward pass: `tf32` rounds inside, and nothing does after it."""
    allow_tf32_everywhere(precision == "tf32")
    try:
        yield
    finally:
        allow_tf32_everywhere(False)


def allow_tf32_everywhere(allowed: bool) -> None:
    """For products of matrices and convolutions; PyTorch's own default allows it for the latter."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
