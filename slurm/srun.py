"""A command inside a job, waited for: for probes and checks, which are short."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from harness.errors import InputError
from slurm.options import SlurmOptions


def run_in_job(options: SlurmOptions, module: str, *arguments: str, text: str = "", all_tasks: bool = False) -> str:
    """What `python -m <module>` prints in a job with the sweep's options: in one task, or in all of a run.

    Raises: InputError with SLURM's or the module's own last words if it fails.
    """
    asked = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "nodes": options.nodes if all_tasks else 1,
        "ntasks-per-node": options.processes_per_node if all_tasks else 1,
        "gpus-per-node": (options.gpus_per_node if all_tasks else min(1, options.gpus_per_node)) or None,
        "cpus-per-task": options.cpus_per_task,
        "mem": f"{round(options.mem_gb * 1024)}M" if options.mem_gb else None,
        "time": options.timeout_min,
        **options.sbatch,
    }
    flags = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in asked.items()
        if value is not None and value is not False
    ]
    code = shlex.quote(str(Path(__file__).parent.parent))
    python = shlex.join([sys.executable, "-m", module, *arguments])
    lines = [*options.setup, f'export PYTHONPATH={code}"${{PYTHONPATH:+:$PYTHONPATH}}"', f"exec {python}"]
    command = ["srun", "--quiet", *flags, "bash", "-c", "\n".join(lines)]
    answer = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=dict(os.environ))
    if answer.returncode:
        said = [line for line in answer.stderr.splitlines() if line.strip()]
        raise InputError(f"the job failed: {(said or ['no message'])[0].removeprefix('srun: error: ')}")
    return answer.stdout
