"""`accelerate launch -m slurm.world_size`: how many processes train together under a launcher's set-up."""

import os
from typing import cast

from harness.launch.processes import build_accelerator
from harness.precision import Precision

if __name__ == "__main__":
    accelerator = build_accelerator(cast(Precision, os.environ.get("ACCELERATE_MIXED_PRECISION", "no")))
    if accelerator.is_main_process:
        print(f"num_processes={accelerator.num_processes}")
