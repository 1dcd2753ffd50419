"""One rank of a run whose ranks share a GPU: `python -m harness.train`, but they communicate over gloo, as NCCL wants a

GPU for each.
"""

import sys

import torch

from harness.commands import main

torch.distributed.init_process_group("gloo")
sys.exit(main())
