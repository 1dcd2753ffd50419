"""Evaluation on a GPU: no batch waits for it, captured features are the plain ones, and how long it takes.

`make gpu` runs it; a machine without a GPU has none of this to show.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.config import build_config
from harness.evaluation.evaluate import Evaluator
from harness.evaluation.extractors import Extractor, build_extractor
from harness.evaluation.images import GeneratedImages, NumberedImages, PreparedImages, Reconstructions
from harness.evaluation.mechanisms.smoothness import PathImages
from harness.evaluation.reference import build_reference
from harness.evaluation.repeated import MOST_VALUES, PLAIN_CALLS
from harness.evaluation.samplers import build_prior, fit_codes
from harness.evaluation.statistics import gather_statistics
from harness.protocol import load_protocol
from harness.train import prepare
from tests.benchmarks.test_evaluation_speed import save_inception_sized

N = 60_000
SECONDS = 0.25  # of an evaluation of N images in the domain extractor, all scores included
SHARE = 0.97  # of the bare forward pass's images a second, in an Inception-sized network


@pytest.fixture(autouse=True)
def device() -> torch.device:
    if not torch.cuda.is_available():
        pytest.fail("these tests need an NVIDIA GPU, and torch sees none")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="module")
def inception_sized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inception_sized(tmp_path_factory.mktemp("weights") / "inception.pt")


def prepare_run(**fields: Any) -> tuple[Any, Any, Evaluator]:
    base = {"dataset": "digits", "extractor": "domain"}
    engine, data, (evaluator,) = prepare(build_config({**base, **fields}))
    return engine.variant, data, evaluator


def draw_images(n: int, device: torch.device, channels: int = 1, size: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, device=device, generator=generator)


def seconds(function: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - started


class Watched(NumberedImages):
    """Others' images; from the first on, whatever waits for the device is an error."""

    def __init__(self, images: NumberedImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def parts(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        torch.cuda.set_sync_debug_mode("error")
        yield from self.images.parts(first, last)


@pytest.mark.parametrize("kind", ["prepared", "prior", "gmm", "reconstruction", "paths"])
def test_no_batch_waits_for_the_device(kind: str, device: torch.device) -> None:
    variant, data, evaluator = prepare_run(n_fake=1024)
    mu = torch.randn(500, variant.latent_dim, dtype=torch.float64)

    def build() -> NumberedImages:
        prior, reading = build_prior(variant.latent_dim), evaluator.reading
        return {
            "prepared": lambda: PreparedImages(data.images),
            "prior": lambda: GeneratedImages(variant, prior, reading, 0, device),
            "gmm": lambda: GeneratedImages(variant, fit_codes("gmm", mu, mu.abs(), 0), reading, 0, device),
            "reconstruction": lambda: Reconstructions(variant, data, reading, 0, device),
            "paths": lambda: PathImages(variant, reading, 0, device, paths=512),
        }[kind]()

    def stop_watching(done: int) -> None:
        if done == len(images):
            torch.cuda.set_sync_debug_mode("default")

    gather_statistics(build(), evaluator.extractor, evaluator.processes, 128)  # what is made once: graphs, workspaces
    images = Watched(build())
    try:
        gather_statistics(images, evaluator.extractor, evaluator.processes, 128, stop_watching)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert evaluator.extractor._forward.captured, "the domain extractor's passes are captured"


def assert_captured_as_plain(extractor: Extractor, batches: list[Tensor]) -> None:
    found = [extractor(images) for images in batches]
    assert len(extractor._forward.captured) == 1
    extractor._forward = extractor._extract_precisely  # pyright: ignore[reportAttributeAccessIssue]
    for images, (features, probabilities) in zip(batches, found, strict=True):
        plain, plain_probabilities = extractor(images)
        torch.testing.assert_close(features, plain, rtol=1e-6, atol=1e-6 * plain.abs().max().item())
        torch.testing.assert_close(probabilities, plain_probabilities, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["no", "tf32", "bf16", "fp16"])
def test_captured_features_of_the_domain_extractor_are_the_plain_ones(precision: str, device: torch.device) -> None:
    protocol = load_protocol("clean", extractor="domain").model_copy(update={"autocast": precision})
    extractor = build_extractor(protocol, device, "digits")
    assert_captured_as_plain(extractor, [draw_images(1024, device, seed=seed) for seed in range(PLAIN_CALLS + 4)])


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_captured_features_of_an_inception_are_the_plain_ones(
    precision: str, device: torch.device, inception_sized: Path
) -> None:
    """Of batches that are small enough for a graph to pay."""
    protocol = load_protocol("clean", extractor_weights=inception_sized).model_copy(update={"autocast": precision})
    extractor = build_extractor(protocol, device)
    n = MOST_VALUES // (3 * 299**2)
    assert_captured_as_plain(extractor, [draw_images(n, device, 3, seed=seed) for seed in range(PLAIN_CALLS + 4)])


def test_scores_on_the_gpu_are_those_of_the_cpu(device: torch.device) -> None:
    variant, _, evaluator = prepare_run(n_fake=2000)
    images = GeneratedImages(variant, build_prior(variant.latent_dim), evaluator.reading, 0, device)
    statistics = gather_statistics(images, evaluator.extractor, evaluator.processes, 1024)
    assert evaluator.reference is not None
    found, expected = (evaluator.reference.score(statistics, place) for place in (device, torch.device("cpu")))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_sixty_thousand_images_in_the_domain_extractor(
    device: torch.device, capsys: pytest.CaptureFixture[str]
) -> None:
    """With every score, against 60,000 other images; the best of three, after one that captures."""
    variant, _, evaluator = prepare_run(n_fake=N)
    real = gather_statistics(PreparedImages(draw_images(N, device)), evaluator.extractor, evaluator.processes, 1024)
    evaluator.reference = build_reference(real, device)
    evaluator.evaluate(variant, 0, [("prior", 0)])
    took = []
    for _ in range(3):
        took.append(seconds(lambda: evaluator.evaluate(variant, 0, [("prior", 0)])))
    (line,) = evaluator.evaluate(variant, 0, [("prior", 0)])
    parts = {name: value for name, value in line.items() if name.startswith("time/")}
    with capsys.disabled():
        print(f"\n{N:,} images in the domain extractor, all scores: {', '.join(f'{s:.3f}' for s in took)} s")
        print("".join(f"  {name} {value:.3f}\n" for name, value in parts.items()))
    assert {"eval/fid", "eval/fid_infinity", "eval/kid", "eval/precision", "eval/inception_score_10"} <= line.keys()
    assert min(took) < SECONDS


def test_an_evaluation_in_an_inception_is_nearly_its_bare_forward_pass(
    inception_sized: Path, device: torch.device, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bare pass is that of the network as it comes, in batches of 256 images of 299 px that lie on the GPU."""
    n, batch = 8192, 256
    variant, _, evaluator = prepare_run(extractor="inception", extractor_weights=inception_sized, n_fake=n)
    images = GeneratedImages(variant, build_prior(variant.latent_dim), evaluator.reading, 0, device)
    pixels = torch.rand(batch, 3, 299, 299, device=device) * 255
    plain, folded = torch.jit.load(inception_sized, map_location=device).eval(), evaluator.extractor._extract

    def forward(network: Callable[[Tensor], Any]) -> float:
        with torch.no_grad():
            for _ in range(4):
                network(pixels)
            return n / min(seconds(lambda: [network(pixels) for _ in range(n // batch)]) for _ in range(2))

    bare, quicker = forward(lambda x: plain.layers((x - 128) / 128)), forward(folded)
    evaluator.score(images)
    whole = n / min(seconds(lambda: evaluator.score(images)) for _ in range(2))
    with capsys.disabled():
        print(
            f"\nan Inception-sized network, images/s: evaluation {whole:,.0f}, bare forward {bare:,.0f} as it comes, "
            f"{quicker:,.0f} folded: {whole / bare:.2f} and {whole / quicker:.2f} of them"
        )
    assert whole >= SHARE * bare
