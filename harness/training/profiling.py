"""A trace of where a training step and an evaluation spend their time, for chrome://tracing and ui.perfetto.dev."""

from pathlib import Path

from torch.profiler import profile

from harness.files import replacing_file

STEPS = 5  # the last of an epoch: set-up, capturing and compiling lie in the first


class Profile:
    """Of the first evaluation of trained weights and the STEPS before it, one trace.

    Within it stand, beside PyTorch's operators and kernels, the parts of the work under the names of the records.
    """

    def __init__(self, file: Path, *, enabled: bool) -> None:
        self.file, self.waiting = file, enabled
        self.running: profile | None = None

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        if self.running is not None:  # interrupted: half a trace is none
            self.running.stop()
            self.running = None

    def before_step(self, step: int, steps: int, *, evaluated: bool) -> None:
        """Before a step of an epoch of `steps`, whether or not an evaluation follows the epoch."""
        if self.waiting and evaluated and step >= steps - STEPS:
            self.waiting, self.running = False, profile()
            self.running.start()

    def after_evaluation(self) -> None:
        if self.running is None:
            return
        self.running.stop()
        trace, self.running = self.running, None
        with replacing_file(self.file) as temporary:
            trace.export_chrome_trace(str(temporary))
