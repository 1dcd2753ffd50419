"""One evaluation: the weights of one epoch under one protocol, from the posterior to the lines that are recorded."""

import math
import time
from collections.abc import Callable, Collection
from typing import cast

from harness.config import Sampler
from harness.data.sets import TrainingSet
from harness.data.staging import load_test_images
from harness.errors import DivergedError, InputError
from harness.evaluation.extractors import build_extractor
from harness.evaluation.images import GeneratedImages, NumberedImages, PreparedImages, Reconstructions
from harness.evaluation.mechanisms.measure import measure_mechanisms
from harness.evaluation.posterior import Posterior, compute_diagnostics, compute_posterior
from harness.evaluation.reference import load_reference
from harness.evaluation.samplers import build_prior, fit_codes
from harness.evaluation.statistics import gather_statistics
from harness.fields import paper_batch_size
from harness.launch.processes import Processes
from harness.protocol import Protocol, Reading
from harness.readings import MECHANISMS, POSTERIOR, Part
from harness.record import Record
from harness.seeding import derive_seed
from harness.timing import Clock, clocking, timed
from variants import AutoEncoder, Variant


class Evaluator:
    """One protocol, bound to a run's data. Building it loads the extractor and computes, or finds, the reference.

    `reading` says all that its scores depend on, `floor` what real images score against real images (on the main
    process; the others score nothing).
    """

    def __init__(
        self, protocol: Protocol, data: TrainingSet, processes: Processes, max_images: int | None = None
    ) -> None:
        """Every process builds one. `max_images` is the run's: a subset of the test split as well.

        Raises: InputError if the extractor's weights or the reference's images are missing.
        """
        self.data, self.processes = data, processes
        name, size = data.name, data.image_shape[1]
        self.extractor = processes.main_first(
            lambda: build_extractor(protocol, processes.device, name, size, data.crop)
        )
        test = processes.main_first(lambda: load_test_images(name, size, max_images, data.crop))
        processes.require_same("test images", test if test is None else test[1]["sha256"])
        test_images = None if test is None else PreparedImages(test[0]["images"])
        train_images, test_sha256 = PreparedImages(data.images), "" if test is None else test[1]["sha256"]
        if protocol.reference == "train":
            images, other, sha256 = train_images, test_images, data.sha256
        elif test_images is not None:
            images, other, sha256 = test_images, train_images, test_sha256
        else:
            raise InputError(
                f"the protocol {protocol.name} scores against the test split, and {name} has none here; "
                f"run: aaebench stage --dataset {name} --image-size {size} --test --from PATH"
            )
        self.reading = Reading(
            name=protocol.name,
            normalisation=protocol.normalisation,
            batch_size=protocol.batch_size or paper_batch_size(size),
            data_sha256=sha256,
            n_real=len(images),
            n_fake=protocol.n_fake or len(images),
            extractor=self.extractor.name,
            extractor_sha256=self.extractor.sha256,
            resize=self.extractor.resizing,
            quantisation=protocol.quantisation,
            reference=protocol.reference,
            autocast=protocol.autocast,
        )
        content = f"{sha256} {data.sha256} {test_sha256}"
        self.reference = load_reference(
            images, other, content, self.extractor, protocol.autocast, self.reading.batch_size, processes
        )

    @property
    def floor(self) -> dict[str, dict[str, float]]:
        return {} if self.reference is None else self.reference.floor

    def evaluate(
        self,
        variant: Variant,
        seed: int,
        parts: Collection[Part],
        after_batch: Callable[[int, int], None] = lambda done, n: None,
    ) -> list[Record]:
        """Measure these parts of a variant, in the order in which they are given; the same lines on every process.

        All of them take one pass over the training images' posterior.

        Args: seed: the run's, from which all codes follow. after_batch: is told how many images of n are done, on every
            process at once; it may raise to end the evaluation.
        Returns: a line for each part, without the epoch: `posterior/<name>`, or `sampler`, `sampling_seed` and
            `eval/<name>`, or `part` and `mechanism/<name>`; each with the seconds that it took, in all and by part of
            the work: `time/<part>_seconds`, the pass over the posterior with the first line.
        Raises: DivergedError if a score is not finite; InputError for the mechanisms of a variant without an encoder.
        """
        fitted = any(sampler in ("gaussian", "gmm") for sampler, _ in parts)
        started = time.perf_counter()
        posterior = None
        lines: list[Record] = []
        with clocking(Clock(self.processes.device)) as clock:
            if fitted or POSTERIOR in parts or MECHANISMS in parts:
                with timed("posterior"):
                    posterior = compute_posterior(variant, self.data, self.reading, seed, self.processes)
            for sampler, sampling_seed in parts:
                if (sampler, sampling_seed) == POSTERIOR:
                    line = describe_posterior(posterior)
                elif (sampler, sampling_seed) == MECHANISMS:
                    line = self._measure_mechanisms(variant, posterior, seed, after_batch)
                else:
                    images = self._build_images(variant, sampler, sampling_seed, seed, posterior)
                    scores = self.score(images, after_batch)
                    line = {"sampler": sampler, "sampling_seed": sampling_seed}
                    line |= {f"eval/{name}": value for name, value in scores.items()}
                now = time.perf_counter()
                lines.append({**line, "time/evaluation_seconds": now - started, **clock.read()})
                started = now
        return lines

    def _measure_mechanisms(
        self, variant: Variant, posterior: Posterior | None, seed: int, after_batch: Callable[[int, int], None]
    ) -> Record:
        if posterior is None or not isinstance(variant, AutoEncoder):
            raise InputError(f"{type(variant).__name__} has no encoder whose mechanisms could be measured")
        values = measure_mechanisms(
            variant, posterior, self.data, self.extractor, self.reading, seed, self.processes, after_batch
        )
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(f"the {name} is {value}")
        return {"part": MECHANISMS[0]} | {f"mechanism/{name}": value for name, value in values.items()}

    def score(
        self, images: NumberedImages, after_batch: Callable[[int, int], None] = lambda done, n: None
    ) -> dict[str, float]:
        """Every score of numbered images against the reference, on every process."""
        statistics = gather_statistics(
            images,
            self.extractor,
            self.processes,
            self.reading.batch_size,
            lambda done: after_batch(done, len(images)),
        )

        def score() -> dict[str, float]:
            assert self.reference is not None
            with timed("scores"):
                return self.reference.score(statistics, self.processes.device)

        return self.processes.on_main(score)

    def _build_images(
        self, variant: Variant, sampler: str, sampling_seed: int, seed: int, posterior: Posterior | None
    ) -> NumberedImages:
        device = self.processes.device
        if sampler == "reconstruction":
            assert isinstance(variant, AutoEncoder)
            return Reconstructions(variant, self.data, self.reading, seed, device)
        codes = build_prior(variant.latent_dim)
        if sampler != "prior":
            assert posterior is not None
            codes = fit_codes(cast("Sampler", sampler), posterior.mu, posterior.sigma, seed)
        own = derive_seed(seed, "samples", sampling_seed) if sampling_seed else seed
        return GeneratedImages(variant, codes, self.reading, own, device)


def describe_posterior(posterior: Posterior | None) -> Record:
    """The diagnostics of a posterior as `posterior/<name>`; of a variant without one, that it has none."""
    if posterior is None:
        return {"posterior/collapse": "no posterior"}
    error = {"posterior/reconstruction_l1": posterior.reconstruction_l1.mean().item()}
    return compute_diagnostics(posterior.mu, posterior.sigma) | error
