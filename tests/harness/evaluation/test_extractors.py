"""Extractors and resizing, beside clean-fid's own and torchvision's."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from PIL import Image
from torch import Tensor, nn

from harness.errors import InputError
from harness.evaluation import extractors
from harness.evaluation.extractors import Extractor
from harness.evaluation.parity import check_against_clean_fid
from harness.evaluation.resize import resize_to
from harness.files import hash_file
from harness.protocol import Protocol, load_protocol

CPU = torch.device("cpu")
CLEAN = load_protocol("clean")
IMAGES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build_extractor(
    name: str, protocol: Protocol, device: torch.device, weights: Path | None = None, dataset: str = "", size: int = 32
) -> Extractor:
    """The extractor of a protocol that names this one and its weights."""
    named = protocol.model_copy(update={"extractor": name, "extractor_weights": weights})
    return extractors.build_extractor(named, device, dataset, size)


def save_script(network: nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(path)  # pyright: ignore[reportAttributeAccessIssue]
    return path


def photograph(size: tuple[int, int]) -> np.ndarray:
    from sklearn.datasets import load_sample_image  # noqa: PLC0415 (slow to import)

    picture = Image.fromarray(load_sample_image("flower.jpg"))
    return np.array(picture.resize((size[1], size[0]), Image.Resampling.LANCZOS))


class TestResize:
    @pytest.mark.parametrize("content", ["random", "photograph"])
    @pytest.mark.parametrize("size", [(28, 28), (32, 32), (64, 64), (178, 218), (400, 350)])
    def test_clean_equals_clean_fids_resizer(self, size: tuple[int, int], content: str) -> None:
        random = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        pixels = random if content == "random" else photograph(size)
        expected = build_resizer("clean")(pixels)
        ours = resize_to(torch.from_numpy(pixels).permute(2, 0, 1)[None], 299, "clean")[0].permute(1, 2, 0).numpy()
        assert np.abs(ours - expected).max() < 2e-3

    def test_bilinear_equals_clean_fids_plain_pytorch_resizer(self) -> None:
        pixels = photograph((64, 48))
        expected = build_resizer("legacy_pytorch")(pixels)
        ours = resize_to(torch.from_numpy(pixels).permute(2, 0, 1)[None], 299, "bilinear")[0].permute(1, 2, 0).numpy()
        assert np.abs(ours - expected).max() < 2e-3

    def test_images_of_the_right_size_stay_as_they_are(self) -> None:
        for how in ("clean", "bilinear", "antialiased", "none"):
            assert torch.equal(resize_to(IMAGES, 32, how), IMAGES.float())


class TestInception:
    def test_features_are_those_of_clean_fids_wrapper(self, inception_file: Path) -> None:
        theirs = InceptionV3W(str(inception_file.parent), download=False)
        resized = np.stack([build_resizer("clean")(image.permute(1, 2, 0).numpy()) for image in IMAGES])
        expected = theirs(torch.from_numpy(resized).permute(0, 3, 1, 2))
        features, _ = build_extractor("inception", CLEAN, CPU, inception_file)(IMAGES)
        assert ((features - expected).abs().max() / expected.abs().max()).item() < 1e-3

    def test_what_is_staged_is_checked_against_clean_fids_own_code(
        self, inception_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert re.fullmatch(
            r"checked against clean-fid: resized pixels differ by \S+ grey levels, features by \S+ of the largest",
            check_against_clean_fid(inception_file),
        )
        monkeypatch.setattr(
            "harness.evaluation.parity.resize_to", lambda images, *_: resize_to(images, 299, "bilinear")
        )
        with pytest.raises(InputError, match="scores would not be clean-fid's"):
            check_against_clean_fid(inception_file)

    def test_class_probabilities_come_with_the_same_forward_pass(self, inception_file: Path) -> None:
        extractor = build_extractor("inception", CLEAN, CPU, inception_file)
        _, probabilities = extractor(IMAGES)
        network = torch.jit.load(inception_file)
        torch.testing.assert_close(probabilities, network(resize_to(IMAGES, 299, "clean"), no_output_bias=True))
        assert (extractor.n_features, extractor.n_classes) == (2048, 1008)

    def test_grey_images_are_resized_once_and_count_as_three_equal_channels(self, inception_file: Path) -> None:
        extractor = build_extractor("inception", CLEAN, CPU, inception_file)
        torch.testing.assert_close(extractor(IMAGES[:, :1])[0], extractor(IMAGES[:, :1].expand(-1, 3, -1, -1))[0])

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "text.pt").write_text("no TorchScript")
        with pytest.raises(InputError, match="no TorchScript"):
            build_extractor("inception", CLEAN, CPU, tmp_path / "text.pt")
        with pytest.raises(InputError, match="not clean-fid's Inception"):
            build_extractor("inception", CLEAN, CPU, save_script(nn.Linear(2, 2), tmp_path / "linear.pt"))

    def test_autocast_changes_features_slightly_and_only_where_it_is_asked_for(self, inception_file: Path) -> None:
        autocast = Protocol.model_validate({**CLEAN.model_dump(), "name": "fast", "autocast": "bf16"})
        exact, _ = build_extractor("inception", CLEAN, CPU, inception_file)(IMAGES)
        fast, _ = build_extractor("inception", autocast, CPU, inception_file)(IMAGES)
        assert exact.dtype == fast.dtype == torch.float32
        assert 0 < (exact - fast).abs().max() < 0.05 * exact.abs().max()

    def test_tf32_rounds_within_the_forward_pass_and_not_after_it(
        self, inception_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        protocol = Protocol.model_validate({**CLEAN.model_dump(), "name": "fast", "autocast": "tf32"})
        with pytest.raises(InputError, match="autocast = 'tf32' needs an NVIDIA GPU"):
            build_extractor("inception", protocol, CPU, inception_file)
        monkeypatch.setattr(extractors, "check_precision", lambda *_: None)  # as on such a GPU
        extractor = build_extractor("inception", protocol, CPU, inception_file)
        forward, seen = extractor._extract, []

        def note(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
            seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return forward(pixels)

        extractor._extract = note
        extractor(IMAGES)
        assert set(seen) == {(True, True)}
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32


class MeanColour(nn.Module):
    """A user's network: features of pixels in [0, 255]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class OneRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(0, 2, 3))[None]


class Overflow(nn.Module):
    """Features of bright images are infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 / (x.amin(dim=(2, 3)) < 200)


class Standardised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(x, 8).flatten(1)
        return x / x.std(dim=1, keepdim=True)


class MeanColourAndLogits(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = x.mean(dim=(2, 3))
        return features, features[:, :2]


class TestTorchScript:
    def test_any_network_of_pixels_makes_features(self, tmp_path: Path) -> None:
        extractor = build_extractor("torchscript", CLEAN, CPU, save_script(MeanColour(), tmp_path / "colour.pt"))
        features, probabilities = extractor(torch.full((2, 3, 40, 50), 200, dtype=torch.uint8))
        torch.testing.assert_close(features, torch.full((2, 3), 200.0))
        assert probabilities.shape == (2, 0)
        assert extractor.resizing == "clean, 299 px"

    def test_logits_become_probabilities(self, tmp_path: Path) -> None:
        path = save_script(MeanColourAndLogits(), tmp_path / "colour.pt")
        _, probabilities = build_extractor("torchscript", CLEAN, CPU, path)(IMAGES)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(4))

    def test_a_network_of_something_else_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not turn images of 299 px into features"):
            build_extractor("torchscript", CLEAN, CPU, save_script(nn.Linear(7, 2), tmp_path / "linear.pt"))

    def test_features_have_a_row_for_each_image(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"features of shape \(1, 3\) of two images"):
            build_extractor("torchscript", CLEAN, CPU, save_script(OneRow(), tmp_path / "one.pt"))

    def test_features_that_are_not_finite_are_refused(self, tmp_path: Path) -> None:
        extractor = build_extractor("torchscript", CLEAN, CPU, save_script(Overflow(), tmp_path / "overflow.pt"))
        with pytest.raises(InputError, match="features that are not finite"):
            extractor(torch.full((2, 3, 32, 32), 250, dtype=torch.uint8))

    def test_a_network_that_makes_nothing_of_blank_images_is_taken(self, tmp_path: Path) -> None:
        """It divides by each image's standard deviation."""
        path = save_script(Standardised(), tmp_path / "standardised.pt")
        assert build_extractor("torchscript", CLEAN, CPU, path).n_features == 192

    def test_images_that_it_cannot_take_are_refused(self, inception_file: Path) -> None:
        definition = Protocol.model_validate({**CLEAN.model_dump(), "name": "raw", "resize": "none"})
        extractor = build_extractor("inception", definition, CPU, inception_file)
        with pytest.raises(InputError, match="cannot take images of 8 x 8 px"):
            extractor(IMAGES[:, :, :8, :8])

    def test_the_protocol_may_pin_the_weights(self, inception_file: Path) -> None:
        digest = hash_file(inception_file)
        pinned = {**CLEAN.model_dump(), "name": "pinned", "extractor_sha256": digest}
        build_extractor("inception", Protocol.model_validate(pinned), CPU, inception_file)
        pinned["extractor_sha256"] = "0" * 64
        with pytest.raises(InputError, match=f"have SHA-256 {digest}, where the protocol pinned wants 0000"):
            build_extractor("inception", Protocol.model_validate(pinned), CPU, inception_file)

    def test_the_protocol_may_say_how_images_reach_it(self, tmp_path: Path) -> None:
        definition = Protocol.model_validate({**CLEAN.model_dump(), "name": "small", "size": 16, "resize": "bilinear"})
        path = save_script(MeanColour(), tmp_path / "colour.pt")
        assert build_extractor("torchscript", definition, CPU, path).resizing == "bilinear, 16 px"


class TestTorchvision:
    def test_probabilities_are_torchvisions_on_images_in_minus_one_to_one(self, tmp_path: Path) -> None:
        from torchvision.models import inception_v3  # noqa: PLC0415 (slow to import)

        torch.manual_seed(0)
        theirs = inception_v3(weights=None, init_weights=False, transform_input=False).eval()
        weights = tmp_path / "inception_v3.pth"
        torch.save(theirs.state_dict(), weights)
        x = nn.functional.interpolate(IMAGES / 127.5 - 1, (299, 299), mode="bilinear", align_corners=False)
        extractor = build_extractor("torchvision", load_protocol("published"), CPU, weights)
        features, probabilities = extractor(IMAGES)
        with torch.no_grad():
            torch.testing.assert_close(probabilities, theirs(x).softmax(1), rtol=1e-3, atol=1e-6)
        assert features.shape == (4, 2048)
        assert extractor.resizing == "bilinear, 299 px"

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
        with pytest.raises(InputError, match="not torchvision's Inception-v3"):
            build_extractor("torchvision", load_protocol("published"), CPU, tmp_path / "other.pth")
