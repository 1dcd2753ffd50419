"""Many runs: sweeps, and where they run."""
