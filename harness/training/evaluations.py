"""The evaluations of one run while it trains: which parts of them are there, and the others made."""

import math
from collections.abc import Callable, Sequence

from harness.config import RunConfig
from harness.evaluation.evaluate import Evaluator
from harness.readings import Part, list_parts, read_epoch
from harness.record import Record, RunFolder, key_of
from harness.training.recorder import Recorder
from variants import AutoEncoder, Variant

AfterBatch = Callable[[int, int], None]  # told how many images of how many are done; may raise


class RunEvaluations:
    """Every process calls it at the same places; the main one reads and writes the run's folder."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        evaluators: Sequence[Evaluator],
        recorder: Recorder,
        after_batch: AfterBatch = lambda done, n: None,
    ) -> None:
        self.config, self.folder, self.evaluators, self.recorder = config, folder, evaluators, recorder
        self.after_batch = after_batch

    def evaluate(self, variant: Variant, epoch: int, images_seen: int, *, last: bool) -> Record:
        """Measure what is not measured yet of the weights that the variant has, those of `epoch`.

        Returns: what the first protocol says of this epoch, as `readings.read_epoch`.
        """
        for evaluator in self.evaluators:
            missing = self._find_missing(evaluator, variant, epoch, last=last)
            if missing:
                lines = evaluator.evaluate(variant, self.config.seed, missing, self.after_batch)
                place = {"epoch": epoch, "images_seen": images_seen}
                self.recorder.record_evaluation(
                    evaluator.reading, evaluator.floor, [{**place, **line} for line in lines]
                )
        first = self.evaluators[0].reading.id
        return self.recorder.processes.on_main(lambda: read_epoch(self.folder, first, epoch))

    def lacks(self, variant: Variant, epoch: int, *, last: bool) -> bool:
        """Whether anything of an epoch is not measured yet."""
        return any(self._find_missing(evaluator, variant, epoch, last=last) for evaluator in self.evaluators)

    def read_best_fid(self, through_epoch: int) -> float:
        """The lowest FID so far of prior samples of trained weights, under the first protocol; infinite before one."""

        def read() -> float:
            lines = self.folder.evaluation(self.evaluators[0].reading.id).read()
            own = (line for line in lines if key_of(line)[1:] == ("prior", 0) and 0 < line["epoch"] <= through_epoch)
            return min((line["eval/fid"] for line in own), default=math.inf)

        return self.recorder.processes.on_main(read)

    def _find_missing(self, evaluator: Evaluator, variant: Variant, epoch: int, *, last: bool) -> list[Part]:
        wanted = list_parts(
            self.config.samplers,
            self.config.sampling_seeds,
            reconstructions=last and isinstance(variant, AutoEncoder),
            mechanisms=last and self.config.mechanisms,
        )

        def find() -> list[Part]:
            there = {key_of(line) for line in self.folder.evaluation(evaluator.reading.id).read()}
            return [part for part in wanted if (epoch, *part) not in there]

        return self.recorder.processes.on_main(find)
