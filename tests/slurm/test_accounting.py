"""Status by sacct, on a real slurmdbd and MariaDB, when the controller has forgotten the jobs."""

from collections.abc import Callable

from slurm.cluster import read_jobs
from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.conftest import Sweep


def test_sacct_knows_how_a_job_ended_that_squeue_has_forgotten(
    accounting_cluster: Cluster, build_sweep: Callable[[Cluster], Sweep]
) -> None:
    sweep = build_sweep(accounting_cluster)
    sweep.write({"seed": [0, 1]}, {"sbatch": {"hold": True}})
    sweep.submit()
    job_ids = [run["job"] for run in sweep.status()]
    assert sweep.states() == ["pending", "pending"]
    assert sweep.command("cancel")[1] == "cancelled 2 jobs\n"
    wait_for(lambda: not sweep.queue(), 180, "the controller forgets the jobs")
    known = read_jobs(job_ids)
    assert known is not None
    assert [known[job_id].state for job_id in job_ids] == ["CANCELLED", "CANCELLED"]
    # They never started: nothing but the accounts can say that nothing works on them.
    assert {run["reason"] for run in sweep.status()} == {"its job ended CANCELLED"}
    assert sweep.states() == ["stale", "stale"]
