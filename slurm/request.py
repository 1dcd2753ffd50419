"""What a sweep asks of SLURM: the `slurm:` block of a sweep file, and what sbatch and srun are told of it.

Where the block is silent, what the user or the site has set for sbatch counts (SBATCH_ACCOUNT, SBATCH_PARTITION, ...).
"""

import os
import re
import shlex
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import InputError, unknown

# sbatch options that follow from the sweep and from how submitit starts a job.
RESERVED = {"array", "open-mode", "output", "error", "signal", "job-name", "ntasks", "requeue", "no-requeue"}

# sbatch's variables, and the option of the block, or of its `sbatch`, that each stands for.
SITE = {
    "SBATCH_PARTITION": "partition",
    "SBATCH_ACCOUNT": "account",
    "SBATCH_QOS": "qos",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_TIMELIMIT": "timeout_min",
    "SBATCH_RESERVATION": "sbatch.reservation",
    "SBATCH_EXCLUSIVE": "sbatch.exclusive",
    "SBATCH_EXPORT": "sbatch.export",
    "SBATCH_WCKEY": "sbatch.wckey",
    "SBATCH_MEM_PER_NODE": "sbatch.mem",
    "SBATCH_MEM_PER_CPU": "sbatch.mem-per-cpu",
    "SBATCH_MEM_PER_GPU": "sbatch.mem-per-gpu",
}
MEMORY = {"mem_gb", "sbatch.mem", "sbatch.mem-per-cpu", "sbatch.mem-per-gpu"}  # of which one is enough

Word = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]  # in one line of a script
Amount = Annotated[float, Field(allow_inf_nan=False)]


class SlurmOptions(BaseModel):
    """One job's resources, and how runs are packed into jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    nodes: int = Field(1, ge=1, le=100_000)
    gpus_per_node: int = Field(1, ge=0, le=1024)
    tasks_per_node: int | None = Field(None, ge=1, le=4096, description="Processes on each node; default: one per GPU")
    cpus_per_task: int = Field(4, ge=1, le=4096)
    mem_gb: Amount | None = Field(None, gt=0, le=1_000_000, description="Per node")
    timeout_min: int = Field(
        240, ge=1, le=10_000_000, description="Time limit of a job; it is requeued until its runs are done"
    )
    array_parallelism: int = Field(256, ge=1, le=1_000_000, description="Jobs that run at the same time")
    min_job_minutes: Amount = Field(
        30, ge=0, le=10_000_000, description="Small runs are packed into jobs that last at least this long"
    )
    runs_at_once: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        1, description="Runs that share a job's GPU at the same time; auto: as its memory and cores allow"
    )
    seeds_at_once: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        "auto", description="Runs that differ in the seed alone and train side by side; auto: on a GPU where it pays"
    )
    signal_delay_s: int | None = Field(None, ge=1, le=65535, description="Warning before the time limit")
    setup: list[str] = Field([], description="Shell commands before the runs, as `module load cuda`")
    launcher: list[Word] = Field([], description="Words before each process's command, as [numactl, --localalloc]")
    container: Word | None = Field(None, description="An Apptainer image in which each process runs")
    python: Word | None = Field(None, description="Its interpreter; default: this one, in a container python3")
    then: Literal["report"] | None = Field(None, description="What a job of its own does when all others have ended")
    sbatch: dict[str, Word | int | Amount | bool | None] = Field({}, description="Any other option of sbatch")

    @model_validator(mode="after")
    def _check(self) -> "SlurmOptions":
        for key in self.sbatch:
            name = key.replace("_", "-")
            if not re.fullmatch(r"[a-z][a-z0-9-]+", name):
                raise ValueError(f"sbatch.{key} is no long option of sbatch, as in `sbatch: {{mail-type: END}}`")
            if name in RESERVED:
                raise ValueError(f"sbatch.{key} is set by the sweep itself")
            if (field := name.replace("-", "_")) in SlurmOptions.model_fields:
                raise ValueError(f"sbatch.{key} belongs into the block itself, as slurm.{field}")
        if any("\0" in line for line in self.setup):
            raise ValueError("setup holds a zero byte, which no script can")
        if self.runs_at_once != 1 and self.world_size > 1:
            raise ValueError("runs_at_once is for runs of one process; here each is shared by several")
        if self.signal_delay_s is not None and self.signal_delay_s >= self.timeout_min * 60:
            raise ValueError(
                f"signal_delay_s = {self.signal_delay_s} leaves nothing of timeout_min = {self.timeout_min}"
            )
        return self

    @property
    def world_size(self) -> int:
        """Processes per run."""
        return self.nodes * self.processes_per_node

    @property
    def processes_per_node(self) -> int:
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def planned_at_once(self) -> int:
        """Runs that share a GPU, as far as it is known before a job has one."""
        return 1 if self.runs_at_once == "auto" else self.runs_at_once

    @property
    def warning_seconds(self) -> int:
        """Between SLURM's warning and the time limit. SLURM warns up to a minute early, so short jobs get less."""
        return self.signal_delay_s or min(120, max(5, self.timeout_min * 60 // 10))


def build_options(block: Any, origin: str) -> SlurmOptions:
    """The block's options, and the site's where it is silent.

    Args: origin: the file that the block is in, beside which a container is sought, and then in the working folder.
    Raises: InputError naming each key that is wrong, with the nearest valid ones, or a container that is not there.
    """
    if not isinstance(block, dict) or not isinstance(block.get("sbatch") or {}, dict):
        raise InputError(f"{origin}: slurm must map options to values, as in `slurm: {{partition: gpu}}`")
    content = {name: value for name, value in block.items() if value is not None}
    content["sbatch"] = {**(block.get("sbatch") or {})}
    for variable, (option, value) in read_site(block).items():
        if option.startswith("sbatch."):
            content["sbatch"][option.removeprefix("sbatch.")] = value or True  # SBATCH_EXCLUSIVE may be empty
        else:
            content[option] = _parse_minutes(variable, value) if option == "timeout_min" else value
    try:
        options = SlurmOptions.model_validate(content)
    except ValidationError as error:
        raise InputError("\n".join(dict.fromkeys(f"{origin}: {_explain(each)}" for each in error.errors()))) from error
    if options.container is None or "://" in options.container:  # a registry's, which Apptainer fetches
        return options
    image = next(
        (each for each in (Path(origin).parent / options.container, Path(options.container)) if each.exists()), None
    )
    if image is None:
        raise InputError(
            f"{origin}: slurm.container = {options.container}: there is no such image; build it with "
            "apptainer build IMAGE.sif containers/aaebench.def"
        )
    return options.model_copy(update={"container": str(image.absolute())})


def read_site(block: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, tuple[str, str]]:
    """What the user or the site has set for sbatch and the block does not: by variable, the option and its value."""
    given = {key for key, value in block.items() if value is not None}
    given |= {f"sbatch.{str(key).replace('_', '-')}" for key in block.get("sbatch") or {}}
    if given & MEMORY:
        given |= MEMORY
    found = {variable: (option, environment[variable]) for variable, option in SITE.items() if variable in environment}
    return {
        variable: (option, value)
        for variable, (option, value) in found.items()
        if option not in given and (value or option == "sbatch.exclusive")
    }


def _parse_minutes(variable: str, text: str) -> int:
    """sbatch's time limits: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S. Raises: InputError."""
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in (*parts, *([days] if dash else []))) or len(parts) > 3:
        raise InputError(f"{variable} = {text} is no time limit, as 240 (minutes), 4:00:00 or 1-12; set timeout_min")
    numbers = [int(part) for part in parts]
    if dash or len(parts) == 3:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    else:
        hours, minutes, seconds = 0, *[*numbers, 0][:2]
    return (int(days or 0) * 24 + hours) * 60 + minutes + (seconds > 0)


def _explain(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"][: 2 if detail["loc"][:1] == ("sbatch",) else 1])
    if detail["type"] == "extra_forbidden":
        return (
            f"{unknown('slurm option', key, SlurmOptions.model_fields)} "
            f"(any other option of sbatch: `sbatch: {{{key}: ...}}`)"
        )
    if detail["type"] == "value_error":
        return f"slurm: {detail['msg'].removeprefix('Value error, ')}"
    if key.startswith("sbatch."):
        return f"slurm.{key} = {detail['input']!r} must be a word, a number, or true, on one line"
    return f"slurm.{key} = {detail['input']!r}: {detail['msg']}"


def build_flags(options: SlurmOptions, *, one_task: bool = False) -> dict[str, str | int | float | bool]:
    """The long options of sbatch and srun for a run, or for one task with a process's share of it."""
    gpus = min(1, options.gpus_per_node) if one_task else options.gpus_per_node
    flags = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "nodes": 1 if one_task else options.nodes,
        "ntasks-per-node": 1 if one_task else options.processes_per_node,
        "gpus-per-node": gpus or None,
        "cpus-per-task": options.cpus_per_task,
        "mem": f"{round(options.mem_gb * 1024)}M" if options.mem_gb else None,
        "time": options.timeout_min,
        **{name.replace("_", "-"): value for name, value in options.sbatch.items()},
    }
    return {name: value for name, value in flags.items() if value is not None and value is not False}


def build_setup(options: SlurmOptions, code: Path) -> list[str]:
    """Shell lines before what runs: the user's, between what they may override and what they may not.

    The threads of the login shell are no setting of the job, whose own cores count unless the user's lines say more.
    """
    cache = os.environ.get("AAEBENCH_CACHE")
    return [
        *([f"export AAEBENCH_CACHE={shlex.quote(str(Path(cache).absolute()))}"] if cache else []),
        "unset OMP_NUM_THREADS MKL_NUM_THREADS",
        *options.setup,
        'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"',  # srun does not heed sbatch's --cpus-per-task by itself
        "export SLURM_EXPORT_ENV=ALL",  # of this script to its tasks, also where sbatch was given --export=NONE
        f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"',
    ]


def build_python(options: SlurmOptions, folders: Collection[Path]) -> list[str]:
    """The words that start Python for a run: this interpreter, behind the launcher and inside the container, if any.

    Args: folders: what has to be seen inside the container, beside what the site shows there.
    """
    if options.container is None:
        return [*options.launcher, options.python or sys.executable]
    seen = sorted({str(folder.absolute()) for folder in folders if folder.exists()})
    return [
        *options.launcher,
        *("apptainer", "exec", *(["--nv"] if options.gpus_per_node else [])),
        *(word for folder in seen for word in ("--bind", folder)),
        *("--env", "PYTHONNOUSERSITE=1"),  # the user's own packages are of another Python
        options.container,
        options.python or "python3",
    ]
