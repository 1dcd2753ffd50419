"""What is left of a sweep, how runs share jobs, what they cost, and what has changed."""

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from aaebench import app
from harness.commands import call
from harness.config import build_config
from harness.errors import InputError
from harness.record import RunFolder
from slurm.cluster import SlurmJob, expand_job_ids, read_array_size
from slurm.estimate import Timing, estimate_seconds, kind_of, load_timings
from slurm.overview import build_table, describe_plan
from slurm.plan import build_plan, describe_change, find_missing_inputs, pack, require_time_for_epochs
from slurm.request import build_options
from slurm.status import read_statuses
from slurm.submission import Submission, create_folder, load_submissions, submitting
from slurm.sweep import SHIPPED, Sweep, find_sweep, load_sweep
from tests.slurm.pretended import pretend

RUNS = "grid: {seed: [0, 1, 2]}\nfixed: {preset: demo, epochs: 10, eval_every: 5}"


def load(tmp_path: Path, text: str = RUNS) -> Sweep:
    (tmp_path / "tiny.yaml").write_text(f"name: tiny\n{text}")
    return load_sweep(tmp_path / "tiny.yaml")


def test_the_papers_tables_are_180_runs_of_six_variants_on_six_data_settings() -> None:
    sweep = load_sweep(SHIPPED / "paper.yaml")
    assert len({config.run_id for config in sweep.configs}) == 180
    assert len({(config.variant, config.dataset, config.image_size) for config in sweep.configs}) == 36
    assert {(config.protocol[0].name, config.protocol[0].extractor, config.epochs) for config in sweep.configs} == {
        ("paper", "inception", 100)
    }


def test_run_folders_alone_tell_done_running_failed_stale_and_missing(tmp_path: Path) -> None:
    sweep = load(tmp_path, RUNS.replace("[0, 1, 2]", "[0, 1, 2, 3, 4, 5]"))
    done, running, failed, stale, damaged, _ = (RunFolder(tmp_path / "runs" / c.run_id) for c in sweep.configs)
    for folder, config, state in zip(
        (done, running, failed, stale), sweep.configs, ("done", "running", "failed", "running"), strict=False
    ):
        reason = {"reason": "RuntimeError: no"} if state == "failed" else {}
        pretend(folder, config, state, epoch=10 if state == "done" else 2, **reason)
    old = json.loads((stale.path / "status.json").read_text()) | {"updated": time.time() - 7200}
    (stale.path / "status.json").write_text(json.dumps(old))
    damaged.ask_for({})
    (damaged.path / "status.json").write_text("{")
    statuses = read_statuses(sweep, tmp_path / "runs")
    assert [status.standing for status in statuses] == ["done", "running", "failed", "stale", "failed", "missing"]
    assert statuses[1].seconds_left == 8 * 20 + 2 * 7
    assert (statuses[0].fid, statuses[0].epoch) == (10.0, 10)
    assert (statuses[1].fid, statuses[1].images_per_second, statuses[1].epoch) == (18.0, 90.0, 2)
    assert statuses[2].reason == "RuntimeError: no"
    assert statuses[4].reason.startswith("damaged: ")
    assert [config.seed for config in build_plan(sweep, tmp_path / "runs").todo] == [3, 5]


def test_earlier_records_say_what_a_run_costs(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    pretend(RunFolder(tmp_path / "runs" / sweep.configs[0].run_id), sweep.configs[0], "done", epoch=10)
    plan = build_plan(sweep, tmp_path / "runs")
    assert [config.seed for config in plan.todo] == [1, 2]
    assert set(plan.seconds.values()) == {10 + 10 * 20 + 3 * 7}
    assert "estimate: 0.13 GPU-hours (earlier runs)" in describe_plan(plan)
    assert load_timings(tmp_path / "runs", "tiny", {kind_of(sweep.configs[0].model_dump(mode="json"))}, 2) == {}


def test_a_time_limit_too_short_for_one_epoch_is_refused(tmp_path: Path) -> None:
    sweep = load(tmp_path, f"{RUNS}\nslurm: {{timeout_min: 1, signal_delay_s: 40}}")
    pretend(RunFolder(tmp_path / "runs" / sweep.configs[0].run_id), sweep.configs[0], "done", epoch=10)
    with pytest.raises(InputError, match=r"timeout_min = 1 is too short for one epoch of .* set it to 2 or more"):
        require_time_for_epochs(build_plan(sweep, tmp_path / "runs"))


@pytest.mark.parametrize(
    ("minutes", "at_once", "sizes"),
    [(0, 1, [1] * 7), (5, 1, [1] * 7), (15, 1, [3, 4]), (20, 2, [7]), (15, 2, [7]), (7, 2, [3, 4]), (1000, 1, [7])],
)
def test_no_job_is_shorter_than_the_minimum_unless_all_are(minutes: float, at_once: int, sizes: list[int]) -> None:
    configs = [build_config({"seed": seed}) for seed in range(7)]
    seconds = {config.run_id: 300.0 for config in configs}
    jobs = pack(configs, seconds, minutes * 60, at_once)
    assert [len(job) for job in jobs] == sizes
    assert [config for job in jobs for config in job] == configs
    assert all(sum(300 / at_once for _ in job) >= minutes * 60 for job in jobs) or len(jobs) == 1


def test_a_run_that_cannot_be_estimated_has_a_job_of_its_own() -> None:
    configs = [build_config({"seed": seed}) for seed in range(3)]
    assert [len(job) for job in pack(configs, {}, 1800, 1)] == [1, 1, 1]


def test_seconds_of_a_run_count_its_first_and_last_evaluation() -> None:
    config = build_config({"epochs": 7, "eval_every": 5})
    assert estimate_seconds(config, Timing(2, 3, "probe")) == 10 + 7 * 2 + 3 * 3


def test_a_changed_sweep_is_told_apart_with_what_would_be_run_anew(tmp_path: Path) -> None:
    before = load(tmp_path)
    run_ids = [config.run_id for config in before.configs]
    Submission(create_folder(tmp_path / "runs", "tiny"), "tiny", "slurm", before.content, run_ids).save()
    assert describe_change(load(tmp_path, f"{RUNS}\nslurm: {{timeout_min: 5}}"), tmp_path / "runs") == ""
    change = describe_change(load(tmp_path, RUNS.replace("[0, 1, 2]", "[0, 1, 2, 3]")), tmp_path / "runs")
    assert (
        "grid.seed was [0, 1, 2], is [0, 1, 2, 3]. 1 runs are new and would be run, 3 stay, 0 are no longer" in change
    )
    change = describe_change(load(tmp_path, RUNS.replace("epochs: 10", "latent_dim: 3, epochs: 10")), tmp_path / "runs")
    assert "fixed.latent_dim was absent, is 3. 3 runs are new" in change


def test_more_epochs_are_the_same_runs_trained_on(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    for config in sweep.configs:
        pretend(RunFolder(tmp_path / "runs" / config.run_id), config, "done", epoch=10)
    assert build_plan(sweep, tmp_path / "runs").todo == []
    longer = load(tmp_path, RUNS.replace("epochs: 10", "epochs: 11"))
    assert describe_change(longer, tmp_path / "runs") == ""
    (first, *_) = read_statuses(longer, tmp_path / "runs")
    assert (first.standing, first.epoch) == ("stale", 10)
    assert "fewer epochs or evaluations than the sweep asks for" in first.reason
    assert len(build_plan(longer, tmp_path / "runs").todo) == 3


def test_a_run_that_lacks_a_protocol_that_is_asked_for_is_not_done(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    for config in sweep.configs:
        pretend(RunFolder(tmp_path / "runs" / config.run_id), config, "done", epoch=10)
    both = load(tmp_path, RUNS.replace("epochs: 10", "protocol: [paper, clean], epochs: 10"))
    assert {status.standing for status in read_statuses(both, tmp_path / "runs")} == {"stale"}


def test_inputs_that_are_not_staged_are_named_once(empty_cache: Path) -> None:
    configs = [build_config({"dataset": "cifar10", "seed": seed}) for seed in range(3)]
    lines = find_missing_inputs(configs)
    assert lines[0] == "cifar10 at 32 px is not staged; run: aaebench stage --dataset cifar10 --image-size 32"
    assert "aaebench stage --inception" in lines[1]
    assert find_missing_inputs([build_config({"extractor": "domain"})]) == []


def test_two_submissions_at_once_wait_for_one_another_and_leave_nothing_behind(tmp_path: Path) -> None:
    again = pytest.raises(InputError, match="another process is submitting the sweep tiny")
    with submitting(tmp_path / "runs", "tiny"), again, submitting(tmp_path / "runs", "tiny"):
        raise AssertionError("both hold the sweep")
    assert not (tmp_path / "runs").exists()


def test_submissions_of_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    assert len({create_folder(tmp_path, "tiny") for _ in range(3)}) == 3
    assert load_submissions(tmp_path, "tiny") == []
    (tmp_path / "sweeps/tiny/x").mkdir()
    (tmp_path / "sweeps/tiny/x/submission.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        load_submissions(tmp_path, "tiny")


@pytest.mark.parametrize(
    ("name", "ids"),
    [("12", ["12"]), ("12_3", ["12_3"]), ("12_[1,3-4%2]", ["12_1", "12_3", "12_4"]), ("12_[0-1]", ["12_0", "12_1"])],
)
def test_slurms_names_for_parts_of_arrays(name: str, ids: list[str]) -> None:
    assert expand_job_ids(name) == ids


def test_a_preempted_or_requeued_job_is_not_over() -> None:
    assert SlurmJob("REQUEUED", "").alive
    assert SlurmJob("PENDING", "BeginTime").waiting
    assert not SlurmJob("NODE_FAIL", "").alive


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"partion": "gpu"}, "unknown slurm option 'partion'; did you mean partition or python?"),
        ({"reservation": "x"}, "any other option of sbatch: `sbatch: {reservation: ...}`"),
        ({"nodes": 0}, "slurm.nodes = 0"),
        ({"sbatch": {"array": "0-3"}}, "sbatch.array is set by the sweep itself"),
        ({"sbatch": {"mem-gb": 3}}, "belongs into the block itself, as slurm.mem_gb"),
        ({"nodes": 2, "runs_at_once": 2}, "runs_at_once is for runs of one process"),
        ([], "slurm must map options to values"),
    ],
)
def test_a_bad_slurm_block_is_explained(block: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        build_options(block, "tiny.yaml")
    assert message in str(error.value)


def test_a_batch_that_the_tasks_cannot_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size = 128 cannot be shared equally by 3 processes"):
        load(tmp_path, f"{RUNS}\nslurm: {{nodes: 3}}")


def test_shipped_sweeps_go_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_sweep(Path("paper.yaml")) == find_sweep(Path("paper")) == SHIPPED / "paper.yaml"
    with pytest.raises(InputError, match=r"unknown shipped sweep 'papr'; did you mean paper\?"):
        find_sweep(Path("papr"))
    (tmp_path / "paper.yaml").touch()
    assert find_sweep(Path("paper.yaml")) == Path("paper.yaml")


class TestTable:
    """What `sweep status` shows of four cells of two runs, one of which is under way."""

    @pytest.fixture
    def sweep(self, tmp_path: Path) -> Sweep:
        grid = "grid: {variant: [aae, latent_mapping], learning_rate: [0.000123456789, 1.0e-3], seed: [0, 1]}"
        sweep = load(tmp_path, f"{grid}\nfixed: {{preset: demo, epochs: 10}}")
        for number, config in enumerate(sweep.configs):
            folder = RunFolder(tmp_path / "runs" / config.run_id)
            pretend(folder, config, *(("running", 2) if number == 0 else ("done", 10)))
        return sweep

    @pytest.fixture
    def table(self, sweep: Sweep, tmp_path: Path) -> Table:
        return build_table(read_statuses(sweep, tmp_path / "runs"))

    def test_the_fid_is_that_of_finished_runs_of_one_cell(self, table: Table) -> None:
        """The run under way has 18, after two epochs; those that are done 10, after ten."""
        *cells, everything = table.columns[-1].cells
        assert table.columns[-1].header == "last FID"
        assert cells == ["10.00"] * 4
        assert everything == "", "different variants have no FID in common"

    def test_what_another_network_sees_has_its_name(self, tmp_path: Path) -> None:
        sweep = load(tmp_path, "grid: {seed: [0, 1]}\nfixed: {extractor: efficientnet_lite0}")
        assert build_table(read_statuses(sweep, tmp_path)).columns[-1].header == "last FID (EfficientNet-Lite0)"

    def test_standings_that_no_run_has_take_no_room(self, table: Table) -> None:
        assert [str(column.header) for column in table.columns][3:5] == ["done", "running"]

    @pytest.mark.parametrize("width", [60, 80, 140, None])
    def test_numbers_are_never_cut(
        self,
        width: int | None,
        sweep: Sweep,
        table: Table,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """None is a pipe."""
        for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
            monkeypatch.setenv(name, "0" if width is None else "1")
        monkeypatch.setenv("COLUMNS", str(width or 60))
        call(
            lambda: app(
                ["sweep", "status", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "runs")],
                result_action="return_value",
            )
        )
        printed = capfd.readouterr().out
        lines = re.sub(r"\x1b\[[\d;]*m", "", printed).splitlines()
        for column in table.columns[2:]:
            for cell in filter(None, column.cells):
                whole = re.compile(rf"(?<![\w.]){re.escape(str(cell))}(?![\w.])")
                assert any(whole.search(line) for line in lines), f"{cell} of {column.header} in\n{printed}"
        assert "…" not in printed
        if width is not None:
            assert max(map(len, lines)) <= width


@pytest.mark.parametrize(("setting", "size"), [("0", 1), ("1", 1), ("1001", 1001)])
def test_a_cluster_without_arrays_takes_jobs_one_by_one(
    setting: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = subprocess.CompletedProcess([], 0, f"MaxArraySize            = {setting}\nMaxJobCount    = 9\n", "")
    monkeypatch.setattr("slurm.cluster.ask", lambda *command: answer)
    assert read_array_size() == size
