"""What must be finite: asked at once, or, while batches pass, after the last, as an answer waits for the device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

# What has been found of each error that may be raised: (), true as long as all was finite.
_found: ContextVar[dict[tuple[type[Exception], str], Tensor] | None] = ContextVar("found", default=None)


def require_finite(x: Tensor, error: type[Exception], message: str) -> None:
    """Raises: the error for a tensor that is not finite; within `asking_later` when it is asked for, not here."""
    finite, found = x.isfinite().all(), _found.get()
    if found is not None:
        earlier = found.get((error, message))
        found[error, message] = finite if earlier is None else earlier & finite
    elif not finite:
        raise error(message)


@contextmanager
def asking_later() -> Iterator[Callable[[], None]]:
    """Nothing that is required within waits for the device. Yields: what asks, and raises the first error of all."""
    found: dict[tuple[type[Exception], str], Tensor] = {}

    def ask() -> None:
        for (error, message), finite in found.items():
            if not finite:
                raise error(message)

    token = _found.set(found)
    try:
        yield ask
    finally:
        _found.reset(token)
