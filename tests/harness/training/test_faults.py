"""A run that is stopped in any way ends as one that was not. Real processes, killed and signalled."""

import signal
from pathlib import Path

import pytest
from filelock import FileLock

from tests.harness.faults import EIGHT_EPOCHS, family, kill_at_epoch, own_tracebacks, train_pair, wait_for
from tests.harness.launch.test_processes import finish, launch, wait_until_not_running
from tests.harness.test_train import (
    PATIENCE,
    SHORT,
    RunFolder,
    assert_same_run,
    only_folder,
    run,
    start,
    wait_for_epoch,
)


class TestKills:
    @pytest.mark.parametrize("epoch", [1, 5])
    def test_a_killed_run_resumes_bit_identically(self, tmp_path: Path, uninterrupted: RunFolder, epoch: int) -> None:
        arguments = (*EIGHT_EPOCHS, "--set", "checkpoint_every=2")
        folder = kill_at_epoch(start(tmp_path, *arguments), tmp_path, epoch)
        assert folder.read_status()["state"] == "running"
        assert run(tmp_path, *arguments) == 0
        assert_same_run(folder, uninterrupted)
        assert folder.read_status()["interruptions"] == 1

    def test_a_last_line_that_was_cut_short_is_written_again(self, tmp_path: Path, uninterrupted: RunFolder) -> None:
        arguments = (*EIGHT_EPOCHS, "--set", "checkpoint_every=2")
        folder = kill_at_epoch(start(tmp_path, *arguments), tmp_path, 3)
        with (folder.path / "records.jsonl").open("a") as file:
            file.write('{"epoch": 4, "loss/rec')
        assert run(tmp_path, *arguments) == 0
        assert_same_run(folder, uninterrupted)

    def test_records_that_a_disk_lost_are_trained_again(
        self, tmp_path: Path, uninterrupted: RunFolder, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The newest checkpoint is of an epoch whose line is cut: the one before it is whole in both."""
        arguments = (*EIGHT_EPOCHS, "--set", "checkpoint_every=1")
        folder = kill_at_epoch(start(tmp_path, *arguments), tmp_path, 5)
        newest = max(folder.checkpoints.glob("epoch-*")).name
        content = (folder.path / "records.jsonl").read_text()
        cut = content.index(f'{{"epoch": {int(newest[6:12])}') + 40
        (folder.path / "records.jsonl").write_text(content[:cut])
        assert run(tmp_path, *arguments) == 0
        assert f"{newest} cannot be used (records.jsonl ends at epoch" in caplog.text
        assert_same_run(folder, uninterrupted)

    def test_a_killed_launcher_leaves_no_room_for_a_second_launch(self, tmp_path: Path) -> None:
        """Its ranks are still training. When they are gone too, the same command goes on."""
        process = launch(tmp_path, 2, "-m", "harness.train", *SHORT, "--epochs", "500")
        wait_for_epoch(tmp_path, 0)
        launcher, *ranks = family(process)
        launcher.kill()
        try:
            assert run(tmp_path, *SHORT, "--epochs", "500") == 2
        finally:
            for rank in ranks:
                rank.kill()
            process.communicate(timeout=PATIENCE)
        FileLock(only_folder(tmp_path).path / ".lock").acquire(timeout=PATIENCE)

    def test_a_run_without_any_records_starts_anew(
        self, tmp_path: Path, uninterrupted: RunFolder, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A kill cut the first line of all, and there is a checkpoint of the steps after it."""
        arguments = (*EIGHT_EPOCHS, "--set", "checkpoint_every=1")
        folder = kill_at_epoch(start(tmp_path, *arguments), tmp_path, 2)
        (folder.path / "records.jsonl").write_text('{"epoch": 0, "images_')
        assert run(tmp_path, *arguments) == 0
        assert "starting anew" in caplog.text
        assert_same_run(folder, uninterrupted)


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_saves_at_the_next_step(
        self, tmp_path: Path, uninterrupted: RunFolder, number: signal.Signals
    ) -> None:
        arguments = (*EIGHT_EPOCHS, "--set", "checkpoint_every=100")
        process = start(tmp_path, *arguments)
        wait_for_epoch(tmp_path, 3)
        process.send_signal(number)
        message = process.communicate()[1]
        assert process.returncode == 128 + number
        assert "run the same command again to resume" in message
        folder = only_folder(tmp_path)
        status = folder.read_status()
        assert (status["state"], status["interruptions"]) == ("queued", 1)
        assert number.name in status["reason"]
        assert list(folder.checkpoints.glob("epoch-*"))
        assert run(tmp_path, *arguments) == 0
        assert_same_run(folder, uninterrupted)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_two_processes_save_together(
        self, tmp_path: Path, uninterrupted_pair: RunFolder, number: signal.Signals
    ) -> None:
        """SIGTERM reaches launcher and ranks, and the ranks again from the launcher, as where SLURM ends a job."""
        process = train_pair(tmp_path, "--set", "checkpoint_every=100")
        wait_for_epoch(tmp_path, 3)
        for member in family(process) if number == signal.SIGTERM else [process]:
            member.send_signal(number)
        stderr = process.communicate(timeout=PATIENCE)[1]
        folder = only_folder(tmp_path)
        wait_until_not_running(folder)
        status = folder.read_status()
        assert (status["state"], status["reason"]) == ("queued", f"interrupted by {number.name}")
        assert 3 <= status["epoch"] < 8
        assert stderr.count(f"aaebench: {number.name}: saved; run the same command again to resume") == 1
        if number == signal.SIGTERM:  # once is enough
            finish(train_pair(tmp_path, "--set", "checkpoint_every=100"))
            assert_same_run(folder, uninterrupted_pair)

    @pytest.mark.parametrize("n", [1, 2])
    def test_a_signal_during_an_evaluation_does_not_wait_for_its_end(self, tmp_path: Path, n: int) -> None:
        """It comes after the first batch that is scored at the end of an epoch, on two processes to the second one."""
        (tmp_path / "signalled.py").write_text(
            "import os, signal, sys\n"
            "from harness.commands import main\n"
            "from harness.training.loop import Training\n"
            "after_batch = Training.after_batch\n"
            "def signalled(self, done, n):\n"
            f"    if self.folder.read_records() and os.environ.get('RANK', '0') == '{n - 1}':\n"
            "        os.kill(os.getpid(), signal.SIGTERM)\n"
            "    after_batch(self, done, n)\n"
            "Training.after_batch = signalled\n"
            "sys.exit(main())\n"
        )
        arguments = (*SHORT, "--epochs", "1")
        process = launch(tmp_path / "stopped", n, str(tmp_path / "signalled.py"), *arguments)
        assert "SIGTERM: saved; run the same command again to resume" in process.communicate(timeout=PATIENCE)[1]
        folder = only_folder(tmp_path / "stopped")
        assert folder.read_status()["state"] == "queued"
        assert [record["epoch"] for record in folder.read_records()] == [0]
        assert [path.name for path in folder.checkpoints.glob("epoch-*")] == ["epoch-000000-step-000020"]
        if n == 1:
            for out in ("stopped", "whole"):
                finish(launch(tmp_path / out, n, "-m", "harness.train", *arguments))
            assert_same_run(folder, only_folder(tmp_path / "whole"))
            assert "time/epoch_seconds" not in folder.read_records()[1], "the launch that scored it trained no step"


class TestTwoLaunches:
    """The second refuses, the first is unharmed."""

    def test_of_one_process(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        process = start(tmp_path, *SHORT, "--epochs", "500")
        wait_for_epoch(tmp_path, 0)
        assert run(tmp_path, *SHORT, "--epochs", "500") == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line == f"aaebench: {only_folder(tmp_path).path} is being trained by another process"
        self.assert_goes_on_and_stop(process, tmp_path)

    def test_of_two_processes(self, tmp_path: Path) -> None:
        arguments = ("-m", "harness.train", *SHORT, "--epochs", "500")
        first = launch(tmp_path, 2, *arguments)
        wait_for_epoch(tmp_path, 0)
        second = launch(tmp_path, 2, *arguments)
        stderr = second.communicate(timeout=PATIENCE)[1]
        assert second.returncode != 0
        assert stderr.count("is being trained by another process") == 1
        assert stderr.count("exitcode  : 2") >= 1, "what the launcher says of its ranks"
        assert own_tracebacks(stderr) == 0
        self.assert_goes_on_and_stop(first, tmp_path)

    def assert_goes_on_and_stop(self, process: object, out: Path) -> None:
        folder = only_folder(out)
        wait_for_epoch(out, len(folder.read_records()))
        assert folder.read_status()["state"] == "running"
        launcher, *_ = family(process)
        launcher.terminate()
        wait_for(lambda: folder.read_status()["state"] == "queued", PATIENCE, "the first saved")
        process.communicate(timeout=PATIENCE)  # pyright: ignore[reportAttributeAccessIssue]
