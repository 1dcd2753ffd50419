"""The cluster of tests/slurm, for the benchmarks of sweeps."""

from tests.slurm.conftest import build_sweep, cluster, sweep

__all__ = ["build_sweep", "cluster", "sweep"]
