"""Evaluation: what stands around the extractor's forward pass, the resize, the Frechet distance, the peak of memory."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from cleanfid.fid import frechet_distance as cleanfid_frechet_distance
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor, nn

from harness.config import build_config
from harness.evaluation.extractors import build_extractor
from harness.evaluation.images import GeneratedImages
from harness.evaluation.reference import build_reference
from harness.evaluation.resize import resize_to
from harness.evaluation.samplers import build_prior
from harness.evaluation.scores import frechet_distance, frechet_distance_of_few, matrix_square_root
from harness.evaluation.statistics import GROUPS, KEPT, FeatureSums, ImageStatistics, Moments
from harness.protocol import load_protocol
from harness.train import prepare

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent.parent


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


class InceptionSized(nn.Module):
    """torchvision's Inception-v3 up to its pooled features, with the parts of clean-fid's file."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import inception_v3  # noqa: PLC0415 (slow to import)

        network = inception_v3(weights=None, init_weights=False, aux_logits=False)
        kept = [layer for name, layer in network.named_children() if name not in ("dropout", "fc")]
        self.layers, self.output = nn.Sequential(*kept), nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.layers((x - 128) / 128).flatten(1)).softmax(1)


def save_inception_sized(path: Path) -> Path:
    """With clean-fid's interface, and random weights."""
    torch.manual_seed(0)
    with torch.no_grad():
        torch.jit.script(InceptionSized().eval()).save(path)  # pyright: ignore[reportAttributeAccessIssue]
    return path


@pytest.fixture(scope="module")
def inception_sized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inception_sized(tmp_path_factory.mktemp("weights") / "inception.pt")


def test_an_evaluation_is_nearly_all_forward_pass(inception_sized: Path) -> None:
    fields = {"extractor": "inception", "extractor_weights": inception_sized, "max_images": 384, "batch_size": 64}
    engine, _, (evaluator,) = prepare(build_config(fields))
    variant, spent = engine.variant, 0.0
    forward = evaluator.extractor._extract

    def timed(pixels: Tensor) -> Any:
        nonlocal spent
        started = time.perf_counter()
        result = forward(pixels)
        spent += time.perf_counter() - started
        return result

    evaluator.extractor._extract = timed
    images = GeneratedImages(variant, build_prior(variant.latent_dim), evaluator.reading, 0, CPU)
    whole = seconds(lambda: evaluator.score(images))
    around = (whole - spent) / whole
    print(f"\naround the forward pass of 384 images: {100 * around:.1f} % of an evaluation of {whole:.1f} s")
    assert around <= 0.10

    # Of 384 images a few scores are cheaper, or none: these are the whole of them, of as few images as have them all.
    n = 12 * 2048
    reference, fake = build_reference(draw_statistics(n, 0), CPU), draw_statistics(n, 1)
    scoring = seconds(lambda: reference.score(fake, CPU))
    share = scoring / (scoring + spent / 384 * n)
    print(f"every score of {n} images: {scoring:.1f} s, {100 * share:.1f} % beside their forward pass")
    assert around + share <= 0.10


def test_the_forward_pass_against_clean_fids_own(inception_sized: Path) -> None:
    """The same images of 299 px through clean-fid's wrapper of the same weights, on two threads, by turns."""
    file = inception_sized.with_name("inception-2015-12-05.pt")
    shutil.copy(inception_sized, file)
    theirs = InceptionV3W(str(file.parent), download=False)
    ours = build_extractor(load_protocol("clean", extractor_weights=file), CPU)
    images = torch.randint(0, 256, (8, 3, 299, 299), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with torch.no_grad():
        difference = (ours(images)[0] - theirs(images.float())).abs().max() / theirs(images.float()).abs().max()
        ratio = ratio_of_times(lambda: theirs(images.float()), lambda: ours(images))
    torch.set_num_threads(threads)
    print(f"\nimages a second over clean-fid's own forward pass: {ratio:.2f} times, features within {difference:.1g}")
    assert difference < 1e-5
    assert ratio >= 1.6


def ratio_of_times(first: Callable[[], Any], second: Callable[[], Any], turns: int = 6) -> float:
    """How many times as long the first takes: the median of turns, one after the other."""
    return median(seconds(first) / seconds(second) for _ in range(turns))


def draw_statistics(n: int, seed: int) -> ImageStatistics:
    features = torch.randn(n, 2048, generator=torch.Generator().manual_seed(seed))
    groups = [FeatureSums.zeros(2048, CPU) for _ in range(GROUPS)]
    for number, sums in enumerate(groups):
        sums.add(features[number::GROUPS])
    return ImageStatistics(groups, torch.zeros(10, 1010), features[:KEPT])


@pytest.mark.parametrize("channels", [3, 1])
def test_the_resize_against_clean_fids_image_by_image(channels: int) -> None:
    images = torch.randint(0, 256, (512, channels, 32, 32), dtype=torch.uint8)
    resizer, threads = build_resizer("clean"), torch.get_num_threads()
    torch.set_num_threads(1)  # as many as clean-fid's has
    arrays = [image.expand(3, -1, -1).permute(1, 2, 0).numpy() for image in images]

    def resize_parts() -> None:
        for part in images.split(8):  # as the extractor does
            resize_to(part, 299, "clean")

    turns = [(seconds(lambda: [resizer(array) for array in arrays]), seconds(resize_parts)) for _ in range(9)]
    torch.set_num_threads(threads)
    ratio = float(np.median([theirs / ours for theirs, ours in turns[1:]]))
    print(f"\nclean-fid's resize / ours, {channels} channels: {ratio:.1f}")
    assert ratio >= 3.5


def moments_of(features: Tensor) -> Moments:
    sums = FeatureSums.zeros(features.shape[1], CPU)
    sums.add(features)
    return sums.moments()


def test_the_frechet_distance_against_clean_fids() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(2048, 2048) / 2048**0.5
    features = torch.randn(3000, 2048) @ mixing + 0.1
    real, fake = moments_of(torch.randn(5000, 2048)), moments_of(features)
    root = matrix_square_root(real.covariance)
    arrays = [tensor.numpy() for m in (fake, real) for tensor in (m.mean, m.covariance)]
    theirs: list[float] = []
    ours: list[float] = []
    fast = seconds(lambda: ours.append(frechet_distance(real, fake, root)))
    slow = seconds(lambda: theirs.append(float(cleanfid_frechet_distance(*arrays))))  # pyright: ignore
    few, few_moments = features[:500], moments_of(features[:500])
    by_gram: list[float] = []
    gram = seconds(lambda: by_gram.append(frechet_distance_of_few(real, few, root)))
    whole = seconds(lambda: by_gram.append(frechet_distance(real, few_moments, root)))
    print(f"\nclean-fid's Frechet distance / ours, 2048 features: {slow / fast:.1f} ({slow:.1f} s, {fast:.1f} s)")
    print(f"500 images: by the covariance / by the Gram matrix: {whole / gram:.1f}")
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert by_gram[0] == pytest.approx(by_gram[1], rel=1e-6)
    assert slow / fast >= 6
    assert whole / gram >= 2


MEASURE_PEAK = """
import json, resource, sys, torch
from harness.config import build_config
from harness.evaluation.extractors import build_extractor
from harness.evaluation.images import GeneratedImages
from harness.evaluation.samplers import build_prior
from harness.protocol import load_protocol
from harness.train import prepare
n = int(sys.argv[1])
engine, _, (evaluator,) = prepare(build_config({"extractor": "domain", "n_fake": n, "protocol": "clean"}))
variant = engine.variant
images = GeneratedImages(variant, build_prior(10), evaluator.reading, 0, torch.device("cpu"))
evaluator.score(images)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
"""


def test_sixty_thousand_images_need_no_more_memory_than_ten_thousand() -> None:
    """Ten thousand are as many as have their features kept."""
    peaks = {}
    for n in (10_000, 60_000):
        command = [sys.executable, "-c", MEASURE_PEAK, str(n)]
        peaks[n] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
    print(f"\npeak of an evaluation: {peaks[10_000]:.0f} MB for 10,000 images, {peaks[60_000]:.0f} MB for 60,000")
    assert peaks[60_000] - peaks[10_000] < 50
