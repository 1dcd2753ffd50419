"""Many runs: sweeps, and where they run.

sweep     a file: its grid of runs, and           request   what they ask of SLURM
plan      what is left to do,                     estimate  how long that takes
submit    to SLURM's queue (cluster asks it)      local     or to this machine, each through
          a submission: its folder, and in it     snapshot  a copy of the code
job       the supervisor inside a SLURM job       process   runs as processes, some at a time
worker    a process of many runs                  memory    how many of them share a GPU
seeds     which runs train side by side in one
status    how far a sweep is                      overview  what a person sees of all this
evaluations  finished runs scored again in jobs           report    of what a sweep has trained
doctor    what would make jobs fail               commands  aaebench sweep, doctor, evaluate
"""

from typing import Literal

Executor = Literal["slurm", "local"]
AtOnce = int | Literal["auto"]  # runs that share a GPU, or the cores; or seeds in one process
