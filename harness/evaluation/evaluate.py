"""Scores of a run: what the decoder makes of codes, against the run's reference, under its protocol."""

from collections.abc import Callable

from harness.config import RunConfig
from harness.data.sets import TrainingSet
from harness.data.staging import load_test_images
from harness.errors import InputError
from harness.evaluation.extractors import build_extractor
from harness.evaluation.images import NumberedImages, PreparedImages
from harness.evaluation.reference import load_reference
from harness.evaluation.statistics import gather_statistics
from harness.launch.processes import Processes
from harness.protocol import Protocol, evaluation_batch_size


class Evaluator:
    """Scores against one reference. Building it loads the extractor and computes, or finds, the reference's statistics.

    Raises: InputError if the extractor's weights or the reference's images are missing.
    """

    def __init__(self, config: RunConfig, data: TrainingSet, engine: Processes) -> None:
        self.engine = engine
        definition = config.protocol
        self.extractor = engine.main_first(
            lambda: build_extractor(
                config.extractor, definition, engine.device, config.extractor_weights, config.dataset, config.image_size
            )
        )
        test = engine.main_first(lambda: load_test_images(config.dataset, config.image_size))
        engine.require_same("test images", test if test is None else test[1]["sha256"])
        test_images = None if test is None else PreparedImages(test[0]["images"][: config.max_images])
        train_images, test_sha256 = PreparedImages(data.images), "" if test is None else test[1]["sha256"]
        if definition.reference == "train":
            images, other, sha256 = train_images, test_images, data.sha256
        elif test_images is not None:
            images, other, sha256 = test_images, train_images, test_sha256
        else:
            raise InputError(
                f"the protocol {definition.name} scores against the test split, and {config.dataset} has none here; "
                f"run: aaebench stage --dataset {config.dataset} --image-size {config.image_size} --test --from PATH"
            )
        content = f"{sha256} {data.sha256} {test_sha256}"
        batch_size = definition.batch_size or evaluation_batch_size(config.image_size)
        self.protocol = Protocol(
            name=definition.name,
            normalisation=definition.normalisation,
            batch_size=batch_size,
            data_sha256=sha256,
            n_real=len(images),
            n_fake=config.n_fake or len(images),
            extractor=self.extractor.name,
            extractor_sha256=self.extractor.sha256,
            resize=self.extractor.resizing,
            quantisation=definition.quantisation,
            reference=definition.reference,
            autocast=definition.autocast,
        )
        self.reference = load_reference(images, other, content, self.extractor, definition.autocast, batch_size, engine)

    def evaluate(
        self,
        sampler: str,
        images: NumberedImages,
        after_batch: Callable[[int], None] = lambda done: None,
        sampling_seed: int = 0,
    ) -> dict[str, object]:
        """Every score of n images, with the protocol that they belong to.

        `after_batch` is told how many images are done, on every process at once: it may raise to end the evaluation.
        Returns: `eval/<name>` values for the prior's codes, `eval.<sampler>/<name>` for others; of another sampling
            seed, which repeats the evaluation with other codes, `eval.<sampler>-<seed>/<name>`.
        Raises: DivergedError if a score is not finite.
        """
        statistics = gather_statistics(images, self.extractor, self.engine, self.protocol.batch_size, after_batch)

        def score() -> dict[str, float]:
            assert self.reference is not None
            return self.reference.score(statistics, self.engine.device)

        scores = self.engine.on_main(score)
        group = "eval" if sampler == "prior" and not sampling_seed else f"eval.{sampler}"
        provenance: dict[str, object] = {
            "protocol": self.protocol.name,
            "protocol_id": self.protocol.id,
            "sampler": sampler,
            "extractor": self.protocol.extractor,
            "n_real": self.protocol.n_real,
            "n_fake": self.protocol.n_fake,
        }
        if sampling_seed:
            group, provenance["sampling_seed"] = f"{group}-{sampling_seed}", sampling_seed
        return {f"{group}/{name}": value for name, value in {**scores, **provenance}.items()}

    def floor(self) -> dict[str, object]:
        """The noise floor as `floor.<which>/<name>` values, on the main process; {} on the others."""
        floor = {} if self.reference is None else self.reference.floor
        return {f"floor.{which}/{name}": value for which, scores in floor.items() for name, value in scores.items()}
