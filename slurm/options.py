"""What a sweep asks of SLURM: the `slurm:` block of a sweep file."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import InputError, unknown

# sbatch options that follow from the sweep and from how submitit starts a job.
RESERVED = {"array", "open_mode", "output", "error", "signal", "job_name", "ntasks", "requeue", "no_requeue"}


class SlurmOptions(BaseModel):
    """One job's resources, and how runs are packed into jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: int = Field(1, ge=1)
    gpus_per_node: int = Field(1, ge=0)
    tasks_per_node: int | None = Field(None, ge=1, description="Processes on each node; default: one per GPU")
    cpus_per_task: int = Field(4, ge=1)
    mem_gb: float | None = Field(None, gt=0, description="Per node")
    timeout_min: int = Field(240, ge=1, description="Time limit of a job; it is requeued until its runs are done")
    array_parallelism: int = Field(256, ge=1, description="Jobs that run at the same time")
    min_job_minutes: float = Field(30, ge=0, description="Small runs are packed into jobs that last at least this long")
    runs_at_once: int = Field(1, ge=1, description="Runs that share a job's GPU at the same time")
    signal_delay_s: int | None = Field(None, ge=1, description="Warning before the time limit")
    setup: list[str] = Field([], description="Shell commands before the runs, as `module load cuda`")
    sbatch: dict[str, Any] = Field({}, description="Any other option of sbatch")

    @model_validator(mode="after")
    def _check(self) -> "SlurmOptions":
        fields = set(SlurmOptions.model_fields)
        for key in self.sbatch:
            name = key.replace("-", "_")
            if name in RESERVED:
                raise ValueError(f"sbatch.{key} is set by the sweep itself")
            if name in fields:
                raise ValueError(f"sbatch.{key} belongs into the block itself, as slurm.{name}")
        if self.runs_at_once > 1 and self.world_size > 1:
            raise ValueError("runs_at_once is for runs of one process; here each is shared by several")
        return self

    @property
    def world_size(self) -> int:
        """Processes per run."""
        return self.nodes * self.processes_per_node

    @property
    def processes_per_node(self) -> int:
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def warning_seconds(self) -> int:
        """Between SLURM's warning and the time limit. SLURM warns up to a minute early, so short jobs get less."""
        return self.signal_delay_s or min(120, max(5, self.timeout_min * 60 // 10))


def build_options(block: Any, origin: str) -> SlurmOptions:
    """Raises: InputError naming each key that is wrong, with the nearest valid ones."""
    if not isinstance(block, dict):
        raise InputError(f"{origin}: slurm must map options to values, as in `slurm: {{partition: gpu}}`")
    try:
        return SlurmOptions.model_validate(block)
    except ValidationError as error:
        raise InputError("\n".join(f"{origin}: {_explain(detail)}" for detail in error.errors())) from error


def _explain(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return (
            f"{unknown('slurm option', key, SlurmOptions.model_fields)} "
            f"(any other option of sbatch: `sbatch: {{{key}: ...}}`)"
        )
    if detail["type"] == "value_error":
        return f"slurm: {detail['msg'].removeprefix('Value error, ')}"
    return f"slurm.{key} = {detail['input']!r}: {detail['msg']}"
