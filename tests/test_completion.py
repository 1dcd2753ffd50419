"""What the shells themselves complete with the scripts that `aaebench completion` prints."""

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from aaebench import app
from tests.conftest import require

SECONDS = 20


def write_script(shell: str, path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    app(["completion", shell], result_action="return_value")
    path.write_text(capsys.readouterr().out)
    return path


def test_bash_completes_commands_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = write_script("bash", tmp_path / "aaebench", capsys)
    ask = "; ".join(
        f"COMP_WORDS=({line}) COMP_CWORD={len(line.split()) - 1}; COMPREPLY=(); _aaebench; echo ${{COMPREPLY[@]}}"
        for line in ("aaebench sweep re", "aaebench run --mixed", "aaebench stage --crop ce")
    )
    answer = subprocess.run(["bash", "-c", f". {script}; {ask}"], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["retry", "--mixed-precision", "center"]


def test_fish_completes_commands_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require(shutil.which("fish") is not None, "fish is not installed: apt-get install fish")
    script = write_script("fish", tmp_path / "aaebench.fish", capsys)
    ask = f"source {script}; complete -C 'aaebench sweep ret'; complete -C 'aaebench run --mixed'"
    answer = subprocess.run(["fish", "--no-config", "-c", ask], capture_output=True, text=True, check=True)
    assert [line.split("\t")[0] for line in answer.stdout.splitlines()] == ["retry", "--mixed-precision"]


def test_zsh_completes_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through its line editor, as it completes nothing without one: a key is pressed in a terminal."""
    require(shutil.which("zsh") is not None, "zsh is not installed: apt-get install zsh")
    write_script("zsh", tmp_path / "_cyclopts_aaebench", capsys)
    ours, its = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"],
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        env=os.environ | {"TERM": "dumb", "HOME": str(tmp_path)},
    )
    try:
        os.write(ours, f"fpath=({tmp_path} $fpath); autoload -U compinit; compinit -u -D; echo rea''dy\n".encode())
        read_until(ours, "ready\r\n")
        os.write(ours, b"aaebench compare --thr\t")
        read_until(ours, "--threshold")
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)
        os.close(its)


def read_until(terminal: int, text: str) -> None:
    """Raises: AssertionError with what the terminal showed instead."""
    shown, deadline = "", time.monotonic() + SECONDS
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"not {text!r}, but {shown!r}"
        shown += os.read(terminal, 4096).decode(errors="replace")
