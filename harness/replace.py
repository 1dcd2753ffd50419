"""A folder written beside its place and renamed when whole, so that nobody ever sees half of it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from harness.cache import remove_leftovers
from harness.errors import InputError


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new, empty folder that takes the place of `folder` when the body is done; after an error nothing is left of it.

    What is there is renamed aside first, so for an instant there is neither; the caller makes sure that it may go.
    Raises: InputError if it cannot be written, as on a full disk.
    """
    final = folder.resolve()
    prefix = f".writing-{final.name}-"
    new, old = (final.with_name(f"{prefix}{os.getpid()}{suffix}") for suffix in ("", "-old"))
    lacking: list[Path] = []
    try:
        lacking += [parent for parent in final.parents if not parent.exists()]
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(final.parent, prefix)
        new.mkdir()
        yield new
        if final.exists():
            final.rename(old)
        try:
            new.rename(final)
        except BaseException:
            if old.exists():
                old.rename(final)
            raise
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {folder}: {error}; free some space, or choose another with --out") from error
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):  # the first that is not empty: something was written there
            for parent in lacking:
                parent.rmdir()
