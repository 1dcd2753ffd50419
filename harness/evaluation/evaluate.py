"""Scores of a variant under a protocol: every process generates and featurises its share of the images."""

import dataclasses
import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from harness.cache import Entry, cache_folder, cached
from harness.config import RunConfig, Sampler
from harness.data import TrainingSet
from harness.engine import Engine
from harness.errors import DivergedError
from harness.evaluation.extractors import build_extractor
from harness.evaluation.protocol import PROTOCOLS, STATISTICS_VERSION, Protocol, evaluation_batch_size
from harness.evaluation.scores import frechet_distance, inception_score, matrix_square_root
from harness.evaluation.statistics import FeatureSums
from harness.normalisation import batch_sizes, evaluation_mode
from harness.samplers import CodeDistribution
from harness.seeding import build_generator
from harness.terminal import console


class Evaluator:
    """Scores against one reference. Building it loads the extractor and computes, or finds, the reference's statistics.

    Raises: InputError if the extractor's weights are missing.
    """

    def __init__(self, config: RunConfig, data: TrainingSet, engine: Engine) -> None:
        self.engine, self.data, self.seed = engine, data, config.seed
        with engine.accelerator.main_process_first():
            self.extractor = build_extractor(config, engine.device)
        self.protocol = Protocol(
            name=config.protocol,
            normalisation=PROTOCOLS[config.protocol],
            batch_size=evaluation_batch_size(config.image_size),
            data_sha256=data.sha256,
            n_real=len(data),
            n_fake=config.n_fake or len(data),
            extractor=self.extractor.name,
            extractor_sha256=self.extractor.sha256,
            resize=self.extractor.resize,
        )
        reference = (data.sha256, len(data), self.extractor.sha256, self.extractor.resize, STATISTICS_VERSION)
        key = hashlib.sha256(repr(reference).encode()).hexdigest()[:16]
        path = cache_folder() / "statistics" / f"{data.name}-{self.extractor.name}-{key}.safetensors"
        with engine.accelerator.main_process_first():
            self.reference, _ = cached(path, self._compute_reference)

    def _compute_reference(self) -> Entry:
        sums = self._zeros()
        with console.status(f"reference statistics of {self.data.name}"):
            for images in self.data.images.split(self.protocol.batch_size):
                self._add(sums, images)
        mean, covariance = (tensor.cpu() for tensor in sums.moments())
        return {"mean": mean, "covariance": covariance, "square_root": matrix_square_root(covariance)}, {}

    def evaluate(
        self, sampler: Sampler, codes: CodeDistribution, after_batch: Callable[[], None] = lambda: None
    ) -> dict[str, object]:
        """FID and Inception Score of decoded codes, with the protocol that they belong to.

        `after_batch` is called after each batch of images, which can take seconds: it may raise to end the evaluation.
        Returns: `eval/<name>` values for the prior's codes, `eval.<sampler>/<name>` for others.
        Raises: DivergedError if a score is not finite.
        """
        sums = self._zeros()
        batches = batch_sizes(self.protocol.n_fake, self.protocol.batch_size)
        with evaluation_mode(self.engine.variant, self.protocol.normalisation):
            for number in range(self.engine.rank, len(batches), self.engine.num_processes):
                self._add(sums, self._generate(codes, number, batches[number]))
                after_batch()
        sums = FeatureSums(*(self.engine.sum(tensor) for tensor in sums.tensors()))
        mean, covariance = (tensor.cpu() for tensor in sums.moments())
        reference = (self.reference[name] for name in ("mean", "covariance", "square_root"))
        scores = {
            "fid": frechet_distance(mean, covariance, *reference),
            "inception_score": inception_score(sums.n, sums.probabilities, sums.negative_entropy),
        }
        for name, score in scores.items():
            if not math.isfinite(score):
                raise DivergedError(f"the {name} of {sampler} samples is {score}")
        protocol = dataclasses.asdict(self.protocol)
        provenance = {
            "protocol": protocol["name"],
            "protocol_id": self.protocol.id,
            "sampler": sampler,
            **{name: protocol[name] for name in ("extractor", "n_real", "n_fake")},
        }
        prefix = "eval" if sampler == "prior" else f"eval.{sampler}"
        return {f"{prefix}/{name}": value for name, value in {**scores, **provenance}.items()}

    def _generate(self, codes: CodeDistribution, number: int, n: int) -> Tensor:
        """Batch `number` of the generated images: its codes follow from the seed and the number, whoever makes it."""
        generator = build_generator(self.seed, "evaluation", number)
        return quantise(self.engine.variant.decode(codes.draw(n, generator).to(self.engine.device)))

    def _zeros(self) -> FeatureSums:
        return FeatureSums.zeros(self.extractor.n_features, self.extractor.n_classes, self.engine.device)

    def _add(self, sums: FeatureSums, images: Tensor) -> None:
        sums.add(*self.extractor(images.to(self.engine.device)))


def quantise(x: Tensor) -> Tensor:
    """[-1, 1] to uint8, rounded: what a saved PNG would hold. Raises: DivergedError for an image that is not finite."""
    if not x.isfinite().all():
        raise DivergedError("the decoder's images are not finite")
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
