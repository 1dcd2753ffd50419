"""Nothing in an evaluation's batches asks the device for a number: what would is counted, on a CPU."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.config import build_config
from harness.errors import DivergedError, InputError
from harness.evaluation.evaluate import Evaluator
from harness.evaluation.images import GeneratedImages, NumberedImages, PreparedImages, Reconstructions, draw_codes
from harness.evaluation.mechanisms.smoothness import PathImages
from harness.evaluation.samplers import CodeDistribution, build_prior, fit_codes
from harness.evaluation.statistics import ImageStatistics, gather_statistics
from harness.seeding import build_generator
from harness.train import prepare
from tests.harness.launch.test_processes import finish, launch

CPU = torch.device("cpu")
WAITING = {
    "aten._local_scalar_dense",  # .item(), `if tensor`, int(tensor)
    "aten.equal",
    "aten.is_nonzero",
    "aten.masked_select",
    "aten.nonzero",
    "aten.unique",
    "aten._unique2",
    "aten.unique_dim",
}


class Waiting(TorchDispatchMode):
    """Counts the operations that would wait for a GPU, those that a mask hides included."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket)
        masks = name.startswith("aten.index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for index in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else [])
        )
        if name in WAITING or masks:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module", params=["aae", "vae_gan"])
def prepared(request: pytest.FixtureRequest) -> tuple[Any, Any, Evaluator]:
    fields = {"dataset": "digits", "extractor": "domain", "max_images": 600, "n_fake": 600, "variant": request.param}
    engine, data, (evaluator,) = prepare(build_config({**fields, "batch_size": 64}))
    return engine.variant, data, evaluator


def kinds_of_images(prepared: tuple[Any, Any, Evaluator]) -> Iterator[NumberedImages]:
    variant, data, evaluator = prepared
    mu = torch.randn(300, variant.latent_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    yield PreparedImages(data.images)
    yield GeneratedImages(variant, build_prior(variant.latent_dim), evaluator.reading, 0, CPU)
    yield GeneratedImages(variant, fit_codes("gmm", mu, mu.abs(), 0), evaluator.reading, 0, CPU)
    yield Reconstructions(variant, data, evaluator.reading, 0, CPU)
    yield PathImages(variant, evaluator.reading, 0, CPU, paths=300)


def test_the_counter_sees_what_waits() -> None:
    x = torch.arange(4.0)
    with Waiting() as waiting:
        if x.isfinite().all():
            x[x > 1].sum().item()
    assert waiting.counts == {"aten._local_scalar_dense": 2, "aten.index": 1}


def count_waiting(images: NumberedImages, evaluator: Evaluator) -> tuple[list[int], Counter[str]]:
    """How often a pass in batches of 50 had waited after each of them; what for, in the end."""
    within: list[int] = []
    with Waiting() as waiting:
        gather_statistics(
            images, evaluator.extractor, evaluator.processes, 50, lambda _: within.append(waiting.counts.total())
        )
    return within, waiting.counts


def test_no_batch_waits_for_the_device(prepared: tuple[Any, Any, Evaluator]) -> None:
    """Whatever the images, from the first batch to the last: all that is asked is asked after it."""
    for images in kinds_of_images(prepared):
        within, counts = count_waiting(images, prepared[2])
        assert within == [0] * 12, (type(images).__name__, counts)
        assert counts.keys() == {"aten._local_scalar_dense"}
        assert 1 <= counts.total() <= 2, "whether images and features were finite"


def by_masks(images: NumberedImages, evaluator: Evaluator, batch_size: int) -> ImageStatistics:
    """The statistics as masks make them: those of release 0.1."""
    n, batches = len(images), []
    for first in range(0, n, batch_size):
        ((numbers, pixels),) = images.parts(first, min(first + batch_size, n))
        batches.append((numbers, *evaluator.extractor(pixels)))
    statistics = gather_statistics(images, evaluator.extractor, evaluator.processes, batch_size)
    for remainder, sums in enumerate(statistics.groups):
        features, outer = torch.zeros_like(sums.features), torch.zeros_like(sums.outer)
        for numbers, made, _ in batches:
            members = made[numbers % len(statistics.groups) == remainder].double()
            features += members.sum(0)
            outer += members.T @ members
        assert torch.equal(sums.features, features)
        assert torch.equal(sums.outer, outer)
    assert torch.equal(statistics.features, torch.cat([made for _, made, _ in batches]))
    return statistics


def test_statistics_are_those_that_masks_make_bit_for_bit(prepared: tuple[Any, Any, Evaluator]) -> None:
    for images in kinds_of_images(prepared):
        assert by_masks(images, prepared[2], 50).n == len(images)


class Shuffled(NumberedImages):
    """Images whose numbers come in any order and in parts, as those of files do."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def parts(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        numbers = torch.arange(first, last).flip(0)
        for part in (numbers[::2], numbers[1::2]):
            yield part, self.images[part]


def test_the_order_within_a_batch_makes_no_difference(prepared: tuple[Any, Any, Evaluator]) -> None:
    _, data, evaluator = prepared
    images, extractor = data.images[:600], evaluator.extractor
    shuffled = gather_statistics(Shuffled(images), extractor, evaluator.processes, 64)
    whole = extractor(images)[0]
    torch.testing.assert_close(shuffled.features, whole)
    for remainder, sums in enumerate(shuffled.groups):
        assert int(sums.n) == 300
        torch.testing.assert_close(sums.features, whole[remainder::2].double().sum(0))


class TestWhatIsNotFinite:
    @pytest.mark.parametrize("broken", [0, 5, 11])
    def test_a_diverged_decoder_ends_the_evaluation_after_its_last_batch_and_before_any_score(
        self, prepared: tuple[Any, Any, Evaluator], broken: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        variant, _, evaluator = prepared
        decode, calls, done = variant.decode, 0, []

        def diverge(z: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return decode(z) * (float("nan") if calls == broken + 1 else 1)

        monkeypatch.setattr(variant, "decode", diverge)
        monkeypatch.setattr(type(evaluator.reference), "score", lambda *_: pytest.fail("it was scored"))
        reading = replace(evaluator.reading, batch_size=50)
        monkeypatch.setattr(evaluator, "reading", reading)
        images = GeneratedImages(variant, build_prior(variant.latent_dim), reading, 0, CPU)
        with pytest.raises(DivergedError, match=r"^the decoder's images are not finite$"):
            evaluator.score(images, lambda number, _: done.append(number))
        assert done[-1] == len(images)

    def test_features_that_are_not_finite_are_refused_as_well(
        self, prepared: tuple[Any, Any, Evaluator], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, data, evaluator = prepared
        extract = evaluator.extractor._extract
        monkeypatch.setattr(
            evaluator.extractor, "_extract", lambda pixels: (extract(pixels)[0] / 0, extract(pixels)[1])
        )
        with pytest.raises(InputError, match="the extractor domain makes features that are not finite"):
            evaluator.score(PreparedImages(data.images))

    def test_outside_of_an_evaluation_they_are_refused_at_once(self, prepared: tuple[Any, Any, Evaluator]) -> None:
        extractor = prepared[2].extractor
        with pytest.raises(InputError, match="makes features that are not finite"):
            extractor(torch.full((2, 1, 8, 8), float("nan")))


BROKEN_ON_ONE = """
import torch
from harness.config import build_config
from harness.errors import DivergedError
from harness.evaluation.images import GeneratedImages
from harness.evaluation.samplers import build_prior
from harness.train import prepare
engine, _, (evaluator,) = prepare(
    build_config({"dataset": "digits", "extractor": "domain", "max_images": 128, "batch_size": 64, "n_fake": 2100})
)
variant, processes = engine.variant, evaluator.processes
decode, done = variant.decode, []
variant.decode = lambda z: decode(z) * (float("nan") if processes.rank == 1 else 1)
images = GeneratedImages(variant, build_prior(variant.latent_dim), evaluator.reading, 0, torch.device("cpu"))
try:
    evaluator.score(images, lambda number, n: done.append((number, n)))
except DivergedError as error:
    print(f"rank {processes.rank} after {done[-1]}: {error}", flush=True)
"""


def test_what_one_process_found_all_raise_after_the_last_batch(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(BROKEN_ON_ONE, encoding="utf-8")
    said = finish(launch(None, 2, str(script)))
    for rank in (0, 1):
        assert f"rank {rank} after (2100, 2100): the decoder's images are not finite" in said


class TestCodes:
    def gmm(self) -> CodeDistribution:
        mu = torch.randn(500, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        return fit_codes("gmm", mu, mu.abs(), 0)

    def test_a_code_is_its_blocks_draw_whatever_the_piece_it_is_drawn_in(self) -> None:
        for codes in (build_prior(6), self.gmm()):
            blocks = [codes.draw(256, build_generator(3, "evaluation", block)) for block in range(8)]
            assert torch.equal(draw_codes(codes, 3, "evaluation", 0, 2048), torch.cat(blocks))
            assert torch.equal(draw_codes(codes, 3, "evaluation", 700, 1900), torch.cat(blocks)[700:1900])

    def test_images_are_the_same_in_any_batch_and_on_any_process(
        self, prepared: tuple[Any, Any, Evaluator], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process asks for every other batch, and codes are drawn anew where they were not drawn ahead."""
        variant, _, evaluator = prepared
        reading = replace(evaluator.reading, normalisation="running", batch_size=50)

        def build() -> GeneratedImages:
            return GeneratedImages(variant, build_prior(variant.latent_dim), reading, 0, CPU)

        codes = draw_codes(build_prior(variant.latent_dim), 0, "evaluation", 0, 600)
        for ahead in (2**16, 128, 1):
            monkeypatch.setattr("harness.evaluation.images.AHEAD", ahead)
            for rank in (0, 1):
                images = build()
                for first in range(50 * rank, 600, 100):
                    assert torch.equal(images.codes(first, first + 50), codes[first : first + 50])
