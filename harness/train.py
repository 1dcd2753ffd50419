"""`accelerate launch -m harness.train`, and `train` for a script of one's own."""

import sys

from harness.training.loop import prepare, train

__all__ = ["prepare", "train"]

if __name__ == "__main__":
    from harness.commands import main

    sys.exit(main())
