"""Whatever a launcher was told, a run either trains as asked or ends at once and says what would be right."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.errors import InputError
from harness.launch.launcher import build_deepspeed_plugin, check_launch
from harness.launch.processes import build_accelerator
from tests.harness.launch.test_processes import ACCELERATE, ROOT, finish, launch
from tests.harness.test_train import PATIENCE, SHORT, assert_same_run, only_folder
from tests.slurm.cluster import free_ports

TRAIN = ("-m", "harness.train", *SHORT, "--epochs", "1")


def run_command(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=given, check=False, timeout=PATIENCE)


class TestFewerProcessesThanAskedFor:
    """`accelerate launch` on CPUs starts one process and says nothing, where it was asked for two."""

    def test_by_the_option_cpu(self, tmp_path: Path) -> None:
        out = ("--out", str(tmp_path / "runs"))
        result = run_command(ACCELERATE, "launch", "--cpu", "--num_processes", "2", *TRAIN, *out)
        assert result.returncode != 0
        assert result.stderr.count("was asked for several processes and started one") == 1
        assert not (tmp_path / "runs").exists()

    def test_by_a_configuration_file(self, tmp_path: Path) -> None:
        settings = {"distributed_type": "MULTI_CPU", "num_processes": 2, "num_machines": 1, "use_cpu": True}
        (tmp_path / "cpu.yaml").write_text(yaml.safe_dump(settings | {"compute_environment": "LOCAL_MACHINE"}))
        out = ("--out", str(tmp_path / "runs"))
        result = run_command(ACCELERATE, "launch", "--config_file", str(tmp_path / "cpu.yaml"), *TRAIN, *out)
        assert result.returncode != 0
        assert "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu" in result.stderr
        assert not (tmp_path / "runs").exists()

    def test_one_process_that_was_asked_for_is_no_trap(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        check_launch("no", 1, None, n_gpus=0)

    def test_ranks_that_would_each_train_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(InputError, match="each would train alone; launch with accelerate launch"):
            build_accelerator()

    @pytest.mark.parametrize("variable", ["SLURM_STEP_NUM_TASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"])
    def test_tasks_without_a_rendezvous(self, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """srun -n 2 aaebench run, mpirun -n 2 aaebench run."""
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        monkeypatch.setenv(variable, "2")
        with pytest.raises(InputError, match=f"{variable} = 2 .* each would train the same run alone"):
            build_accelerator()

    @pytest.mark.parametrize("variable", ["SLURM_STEP_NUM_TASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"])
    def test_a_single_task_and_tasks_that_meet_are_no_trap(
        self, variable: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        monkeypatch.setenv(variable, "1")
        check_launch("no", 1, None, n_gpus=0)
        monkeypatch.setenv(variable, "2")
        for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
            monkeypatch.setenv(name, value)
        check_launch("no", 1, None, n_gpus=0)


class TestMoreProcessesThanGPUs:
    def test_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        with pytest.raises(InputError, match="4 processes were launched on this node, which has 2 GPUs"):
            check_launch("no", 1, None, n_gpus=2)

    def test_on_cpus_their_number_is_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        check_launch("no", 1, None, n_gpus=0)


@pytest.mark.parametrize(
    ("variable", "value", "field"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", "mixed_precision=bf16"),
        ("ACCELERATE_GRADIENT_CLIPPING", "1.0", "gradient_clipping=1.0"),
        ("ACCELERATE_GRADIENT_CLIPPING", "1", "gradient_clipping=1"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "gradient_accumulation=4"),
    ],
)
def test_what_is_part_of_a_runs_identity_is_given_to_the_run(
    variable: str, value: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=f"give it to the run: --set {field}"):
        check_launch("no", 1, None, n_gpus=0)
    check_launch("bf16", 4, 1.0, n_gpus=0)


class TestDeepSpeed:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What these tests set is gone after them."""
        for name in ("DS_ACCELERATOR", "TORCH_EXTENSIONS_DIR"):
            monkeypatch.setenv(name, os.environ.get(name, "cpu"))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"zero_optimization": {"stage": 3}}, "stage 3 splits the parameters themselves"),
            ({"zero_optimization": {"stage": 0}}, "stage 0 splits nothing"),
            ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}, "offloading needs"),
            ({"zero_optimization": {"stage": 2, "offload_param": "cpu"}}, "offloading needs"),
            ({"zero_optimization": True}, 'zero_optimization is true; it is a mapping, as {"stage": 2}'),
            ({"gradient_clipping": 0.5}, "has gradient_clipping; .*that is the run's gradient_clipping"),
            ({"gradient_accumulation_steps": 4}, "that is the run's gradient_accumulation"),
            ({"prescale_gradients": True}, "has prescale_gradients; .*no run's identity"),
            ({"optimizer": {"type": "Adam"}}, "optimizer, learning_rate, betas and weight_decay"),
            ({"bf16": {"enabled": True}}, "the run's mixed_precision"),
            ({"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}, "the run's mixed_precision"),
        ],
    )
    def test_what_it_cannot_do_or_the_run_says_is_refused(
        self, settings: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "zero.json").write_text(json.dumps(settings))
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "zero.json"))
        with pytest.raises(InputError, match=message):
            build_deepspeed_plugin(1, None)

    @pytest.mark.parametrize("content", ["{", "[]", None])
    def test_a_configuration_that_is_none(
        self, content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if content is not None:
            (tmp_path / "zero.json").write_text(content)
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "zero.json"))
        with pytest.raises(InputError, match=r"zero\.json"):
            build_deepspeed_plugin(1, None)

    def test_a_configuration_of_ones_own_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        own = {"zero_optimization": {"stage": 1, "reduce_bucket_size": 12345}, "bf16": {"enabled": "auto"}}
        (tmp_path / "zero.json").write_text(json.dumps(own))
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "zero.json"))
        found = build_deepspeed_plugin(2, 0.5).deepspeed_config
        assert found["zero_optimization"]["reduce_bucket_size"] == 12345
        assert (found["gradient_accumulation_steps"], found["gradient_clipping"]) == (2, 0.5)

    def test_nothing_is_clipped_unless_the_run_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Accelerate's plugin alone clips gradients at 1."""
        assert build_deepspeed_plugin(1, None).deepspeed_config["gradient_clipping"] == 0.0

    def test_elsewhere_than_on_linux(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "system", lambda: "Darwin")
        with pytest.raises(InputError, match="DeepSpeed needs Linux, this is Darwin"):
            build_deepspeed_plugin(1, None)

    @pytest.mark.parametrize("package", ["deepspeed", "transformers"])
    def test_without_its_packages(self, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from importlib.util import find_spec  # noqa: PLC0415

        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else find_spec(name))
        with pytest.raises(InputError, match=f"python -m pip install {package}"):
            build_deepspeed_plugin(1, None)


class TestTorchrun:
    """torchrun, without a word to Accelerate: the same processes, the same run."""

    def test_on_one_node(self, tmp_path: Path) -> None:
        torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone")
        result = run_command(*torchrun, *TRAIN, "--out", str(tmp_path / "torchrun"))
        assert result.returncode == 0, result.stderr
        finish(launch(tmp_path / "accelerate", 2, *TRAIN))
        assert_same_run(only_folder(tmp_path / "torchrun"), only_folder(tmp_path / "accelerate"))

    def test_on_two_nodes(self, tmp_path: Path) -> None:
        """Two agents, each with one process, that meet at an address as those of two machines do."""
        torchrun = (sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1")
        torchrun += ("--master_addr", "127.0.0.1")
        nodes = [
            subprocess.Popen(
                [*torchrun, "--master_port", str(port), "--node_rank", str(node), *TRAIN, "--out", str(tmp_path)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            for port in free_ports(1)
            for node in range(2)
        ]
        outputs = [node.communicate(timeout=PATIENCE) for node in nodes]
        assert [node.returncode for node in nodes] == [0, 0], outputs
        folder = only_folder(tmp_path)
        assert folder.read_environment()["num_processes"] == 2
        assert [stdout.splitlines()[-1:] for stdout, _ in outputs] == [[str(folder.path)], []]
