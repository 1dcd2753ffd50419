"""How long planning and status of large sweeps take, and what a job costs beside its training."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

from harness.config import RunConfig, build_config
from harness.record import RunFolder
from slurm.overview import build_table, describe_plan
from slurm.plan import build_plan
from slurm.process import RunQueue, plan_run
from slurm.status import read_statuses
from slurm.submit import submit_to_slurm
from slurm.sweep import SHIPPED, Sweep, load_sweep
from tests.harness.test_train import ROOT
from tests.slurm.cluster import wait_for
from tests.slurm.conftest import Sweep as SubmittedSweep
from tests.slurm.pretended import pretend

TEN_THOUSAND = """
grid:
  seed: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
  learning_rate: [1.0e-4, 2.0e-4, 3.0e-4, 4.0e-4, 5.0e-4, 6.0e-4, 7.0e-4, 8.0e-4, 9.0e-4, 1.0e-3]
  variant: [aae, latent_mapping, n_iter, kld_loss, feature, equal_linear, vae, beta_vae, wae_mmd, gan]
  latent_dim: [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
fixed: {preset: demo, epochs: 100}
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sweep, Path]:
    folder = tmp_path_factory.mktemp("large")
    (folder / "large.yaml").write_text(TEN_THOUSAND)
    return folder / "large.yaml", load_sweep(folder / "large.yaml"), folder / "runs"


def test_ten_thousand_runs_are_expanded_hashed_and_planned_in_five_seconds(large: tuple[Path, Sweep, Path]) -> None:
    file, _, out = large
    started = time.perf_counter()
    describe_plan(build_plan(load_sweep(file), out))
    seconds = time.perf_counter() - started
    print(f"\nexpand, hash and plan 10,000 runs: {seconds:.2f} s")
    assert seconds < 5


def test_their_status_is_read_in_five_seconds(large: tuple[Path, Sweep, Path]) -> None:
    """Each folder as a run of 100 epochs with 21 evaluations leaves it, warm in the page cache."""
    _, sweep, out = large
    model = RunFolder(out / "model")
    pretend(model, sweep.configs[0], "done", epoch=100)
    (evaluation,) = model.find_evaluations()
    records = [json.loads(line) for line in (evaluation.path / "records.jsonl").read_text().splitlines()]
    evaluated = "".join(json.dumps(record) + "\n" for record in records if record["epoch"] % 5 == 0)
    losses = {f"loss/{name}": 0.5 for name in ("reconstruction", "discriminator", "adversary")}
    trained = "".join(json.dumps(record | losses) + "\n" for record in model.read_records())
    for config in sweep.configs:
        folder = RunFolder(out / config.run_id)
        place = folder.evaluations / evaluation.protocol_id
        place.mkdir(parents=True)
        folder.config_file.write_text(json.dumps(config.model_dump(mode="json")))
        shutil.copy(model.path / "status.json", folder.path)
        shutil.copy(evaluation.path / "protocol.json", place)
        (place / "records.jsonl").write_text(evaluated)
        (folder.path / "records.jsonl").write_text(trained)
    assert {status.standing for status in read_statuses(sweep, out)} == {"done"}
    started = time.perf_counter()
    build_table(read_statuses(sweep, out))
    seconds = time.perf_counter() - started
    print(f"\nstatus of 10,000 runs: {seconds:.2f} s")
    assert seconds < 5


def test_the_papers_180_runs_take_a_handful_of_sbatch_calls(
    sweep: SubmittedSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = shutil.which("sbatch")
    (tmp_path / "bin").mkdir()
    script = f'#!/bin/bash\necho call >> "{tmp_path}/calls"\nexec {sbatch} --hold "$@"\n'
    (tmp_path / "bin/sbatch").write_text(script)
    (tmp_path / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    started = time.perf_counter()
    submit_to_slurm(build_plan(load_sweep(SHIPPED / "paper.yaml"), sweep.out), sweep.out)
    seconds = time.perf_counter() - started
    calls = len((tmp_path / "calls").read_text().split())
    print(f"\n180 runs: {calls} sbatch calls, {seconds:.2f} s with the snapshot")
    sweep.cluster.output("scancel", "--user", "root" if os.geteuid() == 0 else str(os.geteuid()))
    assert calls <= 5


def test_a_job_costs_little_more_than_importing_torch_and_loading_the_data(
    sweep: SubmittedSweep, tmp_path: Path
) -> None:
    """From the start of the task to the first pass through the variant, against what cannot be done without."""
    (tmp_path / "clocked.py").write_text(
        "import os, time\nfrom pathlib import Path\nfrom variants.aae import AAE\n\n\nclass Clocked(AAE):\n"
        "    def encode(self, x):\n"
        f"        file = Path('{tmp_path}/first')\n"
        "        if not file.exists():\n            file.write_text(str(time.time()))\n"
        "        return super().encode(x)\n"
    )
    code = (
        "import torch\nfrom harness.data.staging import load_training_set\n"
        "load_training_set('digits', 32, 3, 320).to(torch.device('cpu'))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ours, bare = [], []
    for seed in range(3):
        for _ in range(2):
            started = time.time()
            subprocess.run([sys.executable, "-c", code], env=environment, check=True)
            bare.append(time.time() - started)
        (tmp_path / "first").unlink(missing_ok=True)
        setup = ["export OMP_NUM_THREADS=1", f"date +%s.%N > {tmp_path}/task"]
        sweep.write({"seed": [seed], "variant": ["clocked:Clocked"]}, {"setup": setup}, epochs=1)
        sweep.submit("--changed")
        wait_for((tmp_path / "first").exists, 60, "the first pass")
        sweep.wait_until_done()
        ours.append(float((tmp_path / "first").read_text()) - float((tmp_path / "task").read_text()))
    print(f"\ntask start to first pass {median(ours):.2f} s, import torch and load the data {median(bare):.2f} s")
    print(f"ratio {median(ours) / median(bare):.2f}")
    assert median(ours) / median(bare) <= 1.2


def test_short_runs_in_a_worker_take_half_the_time_of_processes_of_their_own(tmp_path: Path) -> None:
    """Eight runs one after another: in one worker, and each by a command of its own."""
    fields = {"preset": "demo", "max_images": 320, "batch_size": 32, "epochs": 2, "eval_every": 2}
    configs = [build_config(fields, {"seed": seed}) for seed in range(8)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(out: Path, queued: list[list[RunConfig]]) -> float:
        started = time.perf_counter()
        for each in queued:
            queue = RunQueue([plan_run(config, out) for config in each], out, 1, environment)
            queue.wait()
            assert not any(outcome.exit_status for outcome in queue.outcomes)
        return time.perf_counter() - started

    run(tmp_path / "first", [configs[:1]])  # which prepares the data
    alone = run(tmp_path / "alone", [[config] for config in configs])
    together = run(tmp_path / "worker", [configs])
    print(f"\n8 runs: {together:.1f} s in a worker, {alone:.1f} s in processes of their own, {together / alone:.2f}")
    assert together / alone < 0.5


def test_a_warned_job_is_training_again_within_half_a_minute(sweep: SubmittedSweep) -> None:
    """From SLURM's warning to the next epoch, without the two minutes for which SLURM holds a requeued job."""
    sweep.write({"seed": [0]}, epochs=200)
    sweep.submit()
    folder = sweep.wait_for_epoch(5)
    started = time.time()
    sweep.cluster.output("scancel", "--signal=USR2", sweep.job_id())
    wait_for(lambda: folder.read_status()["state"] == "queued", 60, "the run saved")
    saved, epoch = time.time(), folder.read_status()["epoch"]
    wait_for(lambda: "BeginTime" in sweep.queue("%r"), 60, "the job is requeued")
    requeued = time.time()
    sweep.wait_until(lambda: folder.read_status().get("epoch", 0) > epoch, 60, "the next epoch")
    resumed = time.time()
    sweep.command("cancel")
    print(f"\nsaved after {saved - started:.1f} s, requeued after {requeued - started:.1f} s,")
    print(f"next epoch {resumed - requeued:.1f} s after that (four of them the test's own wait)")
    assert resumed - started < 60
