"""Forward passes that are captured: the same features, once a shape, or the plain call and a word about it."""

import logging

import pytest
import torch
from torch import Tensor

from harness.evaluation import extractors, repeated
from harness.evaluation.extractors import build_extractor
from harness.evaluation.repeated import MOST_SHAPES, PLAIN_CALLS, Repeated
from harness.protocol import load_protocol
from tests.captures import PretendedCaptures

CPU = torch.device("cpu")
CALLS = PLAIN_CALLS + 3


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> PretendedCaptures:
    return PretendedCaptures(monkeypatch)


def draw(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def extract(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    return pixels.mean(dim=(2, 3)), None


def test_a_shape_that_comes_again_is_captured_once_and_its_features_stay_the_same(captures: PretendedCaptures) -> None:
    call, made = Repeated(extract, "it"), []
    for seed in range(CALLS):
        made.append(call(draw(5, seed))[0])
    assert (captures.captured, captures.launched) == (1, CALLS - PLAIN_CALLS)
    for seed, features in enumerate(made):  # also after later launches, which write to one place
        assert torch.equal(features, extract(draw(5, seed))[0])


def test_each_shape_has_a_graph_and_no_more_than_a_handful_are_kept(captures: PretendedCaptures) -> None:
    call = Repeated(extract, "it")
    for n in range(1, MOST_SHAPES + 3):
        for seed in range(CALLS):
            assert torch.equal(call(draw(n, seed))[0], extract(draw(n, seed))[0])
    assert captures.captured == len(call.captured) == MOST_SHAPES


def test_probabilities_are_copied_out_too(captures: PretendedCaptures) -> None:
    call = Repeated(lambda pixels: (pixels.mean(dim=(2, 3)), pixels.amax(dim=(2, 3))), "it")
    made = [call(draw(5, seed))[1] for seed in range(CALLS)]
    for seed, probabilities in enumerate(made):
        assert probabilities is not None
        assert torch.equal(probabilities, draw(5, seed).amax(dim=(2, 3)))


def test_what_cannot_be_captured_is_called_as_it_is_with_one_warning(
    captures: PretendedCaptures, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    captures.refuse = refuse
    call = Repeated(extract, "the extractor")
    with caplog.at_level(logging.WARNING):
        for n in (5, 6):
            for seed in range(CALLS):
                assert torch.equal(call(draw(n, seed))[0], extract(draw(n, seed))[0])
    (message,) = caplog.messages
    assert "the extractor cannot be captured (operation not permitted when stream is capturing)" in message


def test_a_graph_of_other_features_is_not_used(captures: PretendedCaptures, caplog: pytest.LogCaptureFixture) -> None:
    """As of a network whose features depend on how often it was called."""
    calls = 0

    def drifting(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        nonlocal calls
        calls += 1
        return pixels.mean(dim=(2, 3)) * (1 + 1e-3 * calls), None

    call = Repeated(drifting, "it")
    with caplog.at_level(logging.WARNING):
        for _ in range(CALLS):
            call(draw(5))
    (message,) = caplog.messages
    assert "it cannot be captured (its features differ by 0.001)" in message
    assert captures.captured == 1
    assert not call.captured


def test_what_the_network_raises_is_raised(captures: PretendedCaptures) -> None:
    def fail(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        raise RuntimeError("wrong shape")

    call = Repeated(fail, "it")
    for _ in range(CALLS):
        with pytest.raises(RuntimeError, match="wrong shape"):
            call(draw(5))


def test_large_batches_are_not_captured(captures: PretendedCaptures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated, "MOST_VALUES", draw(5).numel() - 1)
    call = Repeated(extract, "it")
    for _ in range(CALLS):
        call(draw(5))
    assert captures.captured == 0


def test_an_extractors_features_are_the_same_captured(captures: PretendedCaptures) -> None:
    """Images of another size than the network's: the resize before it is not part of the graph."""
    protocol = load_protocol("clean", extractor="domain")
    plain, captured = (build_extractor(protocol, CPU, "digits", 8) for _ in range(2))
    plain._forward = plain._extract_precisely  # pyright: ignore[reportAttributeAccessIssue]
    for seed in range(CALLS):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=generator)
        for found, expected in zip(captured(images), plain(images), strict=True):
            assert torch.equal(found, expected)
    assert captures.captured == 1


def test_precision_is_part_of_what_is_captured(captures: PretendedCaptures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors, "check_precision", lambda *_: None)  # as on a GPU that has it
    protocol = load_protocol("clean", extractor="domain").model_copy(update={"autocast": "tf32"})
    extractor, seen = build_extractor(protocol, CPU, "digits", 8), []
    network = extractor._extract

    def note(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return network(pixels)

    extractor._extract = note
    for _ in range(CALLS):
        extractor(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    assert captures.captured == 1
    assert set(seen) == {(True, True)}
    assert not torch.backends.cuda.matmul.allow_tf32
