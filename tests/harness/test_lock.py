"""Who trains in a run folder: the answer is the same however many ask at once."""

import fcntl
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.lock import is_owned, owned
from harness.record import RunFolder


def test_a_folder_is_owned_while_its_owner_holds_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not is_owned(folder)
    with owned(folder):
        assert is_owned(folder)
        with pytest.raises(InputError, match="is being trained by another process"), owned(folder):
            pass
    assert not is_owned(folder)


def test_whoever_asks_at_the_same_time_is_no_owner(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with owned(folder):
        pass
    with (tmp_path / ".lock").open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not is_owned(folder)
