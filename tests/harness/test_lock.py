"""Who trains in a run folder: the answer is the same however many ask at once."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.lock import is_owned, owned
from harness.record import RunFolder
from tests.harness.trained import command


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


def test_in_a_groups_folder_a_run_is_the_groups(tmp_path: Path) -> None:
    """As in the folder that a lab shares, whatever the umask of whoever trains."""
    runs = tmp_path / "runs"
    runs.mkdir()
    runs.chmod(0o2770)
    before = os.umask(0o077)
    try:
        options = ["--preset", "demo", "--epochs", "1", "--set", "max_images=256", "--set", "keep_weights=evaluations"]
        assert command("run", *options, "--out", str(runs)) == 0
        assert command("collect", str(runs), "--out", str(runs / "tables")) == 0
    finally:
        os.umask(before)
    made = {path: stat.S_IMODE(path.lstat().st_mode) for path in runs.rglob("*") if not path.is_symlink()}
    closed = [
        path for path, mode in made.items() if mode & 0o060 != 0o060 or (path.is_dir() and not mode & stat.S_ISGID)
    ]
    assert len(made) > 20
    assert not closed
