"""Work for a GPU, recorded once as a CUDA graph and launched as a whole ever after: its host is spared every kernel.

What is recorded must not wait for the device, and must find its tensors where they were: inputs are copied to where the
recorded ones lay, outputs lie where the recording put them. The kernels are the same, and so are the numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def warm_up(function: Callable[[], T]) -> T:
    """Call a function on a stream of its own, as capturing asks for before it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = function()
    torch.cuda.current_stream().wait_stream(stream)
    return result


def capture(
    function: Callable[[], T], generators: Sequence[torch.Generator] = (), pool: Any = None
) -> tuple[Callable[[], None], T]:
    """Record what a function launches, without running it.

    Args: generators: those that it draws from, besides the device's default one; each launch draws from where they
        stand. pool: see `make_pool`; by default memory of its own.
    Returns: what launches it, and the function's result, whose tensors every launch writes anew.
    Raises: RuntimeError for what cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    drawn_from = (*generators, torch.cuda.default_generators[torch.cuda.current_device()])
    states = [generator.get_state() for generator in drawn_from]
    try:
        with torch.cuda.graph(graph, pool=pool):
            result = function()
    except RuntimeError:
        for generator, state in zip(drawn_from, states, strict=True):
            # Left in the midst of a capture, it would refuse to draw: it gets a state of its own again, as it was.
            fresh = torch.Generator(generator.device)
            fresh.set_state(state)
            generator.graphsafe_set_state(fresh.graphsafe_get_state())
        raise
    return graph.replay, result


def can_capture(device: torch.device) -> bool:
    return device.type == "cuda"


def make_pool() -> Any:
    """Memory for graphs that are launched in the order of their recording."""
    return torch.cuda.graph_pool_handle()
