"""One container and one optimiser train as three networks with three Adams would."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.seeding import GlobalNoise
from harness.training.context import TrainingContext
from harness.training.optimizer import PhasedAdam
from tests.engines import build_engine
from variants.aae import AAE

SHAPE, Z, B = (3, 32, 32), 10, 32
CPU = torch.device("cpu")


def build_aae() -> AAE:
    torch.manual_seed(0)
    return AAE(SHAPE, Z, AAE.Options())


@pytest.fixture
def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(B, *SHAPE, generator=generator) * 2 - 1 for _ in range(5)]


def train_by_hand(aae: AAE, batches: list[Tensor], seed: int) -> list[list[float]]:
    """The published procedure: three Adams, two of them over the encoder, each phase encoding for itself."""
    encoder, decoder, discriminator = aae.encoder, aae.decoder, aae.discriminator
    adam_ae = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3, fused=True)
    adam_d = torch.optim.Adam(discriminator.parameters(), lr=1e-3, fused=True)
    adam_e = torch.optim.Adam(encoder.parameters(), lr=1e-3, fused=True)
    noise = GlobalNoise(seed, 0, 1, CPU)
    aae.use(TrainingContext(noise, "no"))  # its dropout
    bce = F.binary_cross_entropy_with_logits
    history = []
    for step, x in enumerate(batches):
        noise.start_step(step)

        def encode(x: Tensor) -> Tensor:
            mu, sigma = encoder(x)
            return mu + sigma * noise(B, Z)

        noise.start_update()
        reconstruction = F.l1_loss(decoder(encode(x)), x)
        adam_ae.zero_grad()
        reconstruction.backward()
        adam_ae.step()

        noise.start_update()
        z = encode(x).detach()
        real, fake = discriminator(noise(B, Z)), discriminator(z)
        d_loss = bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
        adam_d.zero_grad()
        d_loss.backward()
        adam_d.step()

        noise.start_update()
        fooled = discriminator(encode(x))
        adversary = bce(fooled, torch.ones_like(fooled))
        adam_e.zero_grad()
        adversary.backward()
        adam_e.step()
        history.append([reconstruction.item(), d_loss.item(), adversary.item()])
    return history


def test_equals_three_hand_written_adams_to_the_bit(batches: list[Tensor]) -> None:
    aae = build_aae()
    by_hand = copy.deepcopy(aae)
    engine = build_engine(aae, seed=7)
    losses = [list(engine.step(x, step).values()) for step, x in enumerate(batches)]
    expected = train_by_hand(by_hand, batches, seed=7)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-6, atol=0)
    for (name, ours), theirs in zip(aae.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=lambda m, name=name: f"{name}: {m}")


def test_the_encoder_has_two_sets_of_moments(batches: list[Tensor]) -> None:
    engine = build_engine(build_aae())
    engine.step(batches[0], 0)
    assert isinstance(engine.variant, AAE)
    state = engine.optimizer.state[next(engine.variant.encoder.parameters())]
    assert {key.split("/")[0] for key in state} == {"reconstruction", "adversary"}
    assert not torch.equal(state["reconstruction/exp_avg"], state["adversary/exp_avg"])
    state = engine.optimizer.state[next(engine.variant.discriminator.parameters())]
    assert {key.split("/")[0] for key in state} == {"discriminator"}


def test_phased_adam_is_adam_for_one_phase() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    phased = PhasedAdam({"only": list(ours.parameters())}, learning_rate=0.01)
    adam = torch.optim.Adam(theirs.parameters(), lr=0.01)
    for _ in range(10):
        x = torch.randn(4, 5)
        for layer, optimizer in ((ours, phased), (theirs, adam)):
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-6, atol=1e-7)
