"""The convolutional architecture: DCGAN's stages, their equalised counterparts, and that they learn photographs."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn.functional import l1_loss
from torch.nn.modules.batchnorm import _BatchNorm

from harness.evaluation.normalisation import evaluation_mode
from tests.engines import build_engine
from variants import VARIANTS, build
from variants.aae import AAE
from variants.layers import EQUALISED, EqualConvolution, Equalised, EqualTransposedConvolution, Layers
from variants.networks_conv import IMAGE_SIZES

Z = 10


def build_conv(name: str, image_shape: tuple[int, int, int] = (3, 32, 32), **options: Any) -> Any:
    torch.manual_seed(0)
    return build(name, VARIANTS[name].Options(**options), image_shape, Z, "conv")


def channels_of(network: nn.Module) -> list[int]:
    return [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_stages_halve_the_side_to_4_to_7_px_and_back(image_size: int, channels: int) -> None:
    with torch.device("meta"):
        aae = build_conv("aae", (channels, image_size, image_size))
        gan = build_conv("gan", (channels, image_size, image_size))
        x, z = torch.empty(4, channels, image_size, image_size), torch.empty(4, Z)
        smallest = aae.encoder.body[:-1](x).shape[-1]
        assert 4 <= smallest <= 7
        assert smallest == gan.discriminator.features(x, 5).shape[-1]
        assert [tuple(head.shape) for head in aae.encoder(x)] == [(4, Z), (4, Z)]
        assert aae.decode(z).shape == x.shape
        assert gan.discriminator(x).shape == (4, 1)


def test_widths_are_dcgans() -> None:
    with torch.device("meta"):
        aae, gan = build_conv("aae", (3, 128, 128)), build_conv("gan", (3, 128, 128))
    assert channels_of(aae.encoder) == channels_of(gan.discriminator) == [64, 128, 256, 512, 512]
    assert channels_of(aae.decoder) == channels_of(gan.generator) == [512, 256, 128, 64, 3]


def test_first_convolution_last_convolution_and_discriminator_are_not_normalised() -> None:
    aae, gan = build_conv("aae"), build_conv("gan")
    norms = [[m.num_features for m in part.modules() if isinstance(m, nn.BatchNorm2d)] for part in aae.children()]
    assert norms == [[128, 256], [256, 128, 64], []]
    assert not [m for m in gan.discriminator.modules() if isinstance(m, _BatchNorm)]


def test_plain_convolutions_start_as_dcgans() -> None:
    variant = build_conv("vae_gan")
    layers = [m for m in variant.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(layers) == 9
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert layer.bias is not None
        assert not layer.bias.any()


@pytest.mark.parametrize("image_size", [32, 64, 128])
def test_mu_and_sigma_start_at_the_mlps_scale_whatever_the_image_size(image_size: int) -> None:
    shape = (3, image_size, image_size)
    x = torch.rand(16, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    torch.manual_seed(0)
    mlp = AAE(shape, Z, AAE.Options())
    for head, reference in zip(build_conv("aae", shape).encoder(x), mlp.encoder(x), strict=True):
        assert 0.5 < head.std() / reference.std() < 2


@pytest.mark.parametrize("image_size", [16, 31, 50, 72, 160])
def test_a_side_that_does_not_halve_is_refused(image_size: int) -> None:
    for name in ("aae", "gan"):
        with pytest.raises(ValueError, match="32, 40, 48, 56, 64, 80, 96, 112 or 128 px"):
            build_conv(name, (3, image_size, image_size))


def test_vae_gans_feature_error_sums_over_whole_maps() -> None:
    variant = build_conv("vae_gan", layer=2)
    x, x_hat = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    h, h_hat = (variant.discriminator.hidden[1](variant.discriminator.hidden[0](images)) for images in (x, x_hat))
    assert h.shape == (4, 128, 8, 8)
    torch.testing.assert_close(variant.feature_error(x_hat, x), (h - h_hat).square().sum() / 4 / 2)


class TestEqualised:
    @pytest.mark.parametrize(("name", "options"), [("equal_linear", {}), ("combined", {"equal_linear": True})])
    def test_encoder_and_decoder_have_no_norm_and_standard_normal_weights(self, name: str, options: Any) -> None:
        variant = build_conv(name, **options)
        for network in (variant.encoder, variant.decoder):
            plain = nn.Linear | nn.Conv2d | nn.ConvTranspose2d | _BatchNorm
            assert not [m for m in network.modules() if isinstance(m, plain)]
            for layer in (m for m in network.modules() if isinstance(m, Equalised)):
                assert layer.weight.std().item() == pytest.approx(1, abs=0.05)

    @pytest.mark.parametrize("layer", [EqualConvolution(48, 128), EqualTransposedConvolution(48, 128)])
    def test_gamma_keeps_unit_variance(self, layer: nn.Module) -> None:
        """Away from the border, where padding takes the place of inputs."""
        x = torch.randn(8, 48, 16, 16, generator=torch.Generator().manual_seed(1))
        assert layer(x)[:, :, 1:-1, 1:-1].var().item() == pytest.approx(1, abs=0.05)

    def test_gamma_scales_weight_and_bias_of_a_convolution(self) -> None:
        layer, plain = EqualConvolution(5, 7), nn.Conv2d(5, 7, 4, 2, 1)
        nn.init.normal_(layer.bias)
        gamma = 1 / (5 * 4 * 4) ** 0.5
        plain.load_state_dict({"weight": gamma * layer.weight, "bias": gamma * layer.bias})
        x = torch.randn(2, 5, 8, 8)
        torch.testing.assert_close(layer(x), plain(x))


def test_a_users_subclass_states_its_networks_and_layers_once_for_both_architectures() -> None:
    class Calm(AAE):
        def build_networks(self, options: Any) -> None:
            super().build_networks(options)
            self.scale = nn.Parameter(torch.ones(()))

        def layers(self, options: Any) -> Layers:
            return EQUALISED

    for architecture in ("mlp", "conv"):
        variant = Calm((3, 32, 32), Z, Calm.Options(), architecture)
        assert "scale" in variant.state_dict()
        assert not [m for m in variant.modules() if isinstance(m, _BatchNorm)]


def crops(n: int) -> Tensor:
    """n crops of scikit-learn's two photographs, reduced to 32 px: (n, 3, 32, 32) in [-1, 1]."""
    random, photographs = np.random.default_rng(0), load_sample_images().images
    images = []
    for number in range(n):
        photograph = photographs[number % 2]
        top, left = random.integers(0, photograph.shape[0] - 128), random.integers(0, photograph.shape[1] - 128)
        images.append(torch.from_numpy(photograph[top : top + 128, left : left + 128].copy()).permute(2, 0, 1))
    return nn.functional.avg_pool2d(torch.stack(images).float(), 4) / 127.5 - 1


# Adam's steps are as long for weights from N(0, 1) as for those from N(0, 0.02^2): equalised layers need longer ones.
@pytest.mark.parametrize(("name", "learning_rate"), [("aae", 1e-3), ("vae", 1e-3), ("equal_linear", 1e-2)])
def test_reconstructions_of_photographs_improve(name: str, learning_rate: float) -> None:
    engine, x = build_engine(build_conv(name), learning_rate=learning_rate), crops(64)
    variant: Any = engine.variant

    def reconstruction_l1() -> float:
        with evaluation_mode(variant, "batch"):
            return l1_loss(variant.decode(variant.posterior(x)[0]), x).item()

    before = reconstruction_l1()
    for step in range(40):
        engine.step(x[8 * step % 64 :][:8], step)
    assert reconstruction_l1() < 0.8 * before
