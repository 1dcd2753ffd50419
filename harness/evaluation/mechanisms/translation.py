"""What a small move of the image does to its code and to its reconstruction."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.data.sets import TrainingSet
from harness.evaluation.normalisation import batch_sizes, evaluation_mode
from harness.launch.processes import Processes
from harness.protocol import Reading
from harness.seeding import build_generator
from variants import AutoEncoder

DISTANCES = (1, 2, 4)  # px
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))  # rows, columns


def move(x: Tensor, rows: int, columns: int) -> Tensor:
    """Images (B, C, H, W) moved down and to the right by whole pixels, the edge's pixels repeated behind them."""
    height, width = x.shape[2:]
    reach = max(abs(rows), abs(columns))
    padded = pad(x, (reach,) * 4, mode="replicate")
    top, left = reach - rows, reach - columns
    return padded[:, :, top : top + height, left : left + width]


def mean_squared_distance(codes: Tensor) -> float:
    """E |z - z'|^2 over pairs of different codes (N, Z): twice the sum of their variances (n - 1)."""
    return 2 * codes.double().var(dim=0).sum().item()


def measure_translation(
    variant: AutoEncoder, data: TrainingSet, rows: Tensor, reading: Reading, seed: int, processes: Processes
) -> dict[str, float]:
    """For d = 1, 2, 4 px, over images x and the four directions, T moving x by d:

    - `code_shift_<d>px`: E |mu(T x) - mu(x)|^2 over E |mu(x) - mu(x')|^2. 0: the codes do not notice; 1: the moved
      image's code is as far away as another image's. Left out where all codes are equal.
    - `moved_l1_<d>px`: E |G(z_T) - T x| over E |G(z) - x|, z ~ q(z|x), z_T ~ q(z|T x) with the same noise.

    Args: rows: indices (n,) of the images. Every process calls it, and measures its share of the batches.
    """
    names = [(distance, *(distance * step for step in direction)) for distance in DISTANCES for direction in DIRECTIONS]
    batches = rows.split(batch_sizes(len(rows), reading.batch_size))
    nothing = torch.empty(0, variant.latent_dim, device=processes.device)
    codes, table = [nothing], [torch.empty(0, 2 * len(names) + 1, device=processes.device)]
    with evaluation_mode(variant, reading.normalisation):
        for number in processes.share(len(batches)):
            x = data.batch(batches[number], processes.device)
            noise = torch.randn(len(x), variant.latent_dim, generator=build_generator(seed, "moves", number))
            eps = noise.to(processes.device)
            mu, error = _encode(variant, x, eps)
            measured = [error]
            for _, down, right in names:
                moved_mu, moved_error = _encode(variant, move(x, down, right), eps)
                measured += [(moved_mu - mu).square().sum(1), moved_error]
            codes.append(mu)
            table.append(torch.stack(measured, dim=1))
    spread = mean_squared_distance(processes.concatenate(torch.cat(codes)))
    unmoved, *means = processes.concatenate(torch.cat(table)).double().mean(dim=0).tolist()
    shifts: dict[str, float] = {}
    errors: dict[str, float] = {}
    for place, distance in enumerate(DISTANCES):
        own = means[2 * place * len(DIRECTIONS) : 2 * (place + 1) * len(DIRECTIONS)]
        if spread > 0:
            shifts[f"code_shift_{distance}px"] = sum(own[::2]) / len(DIRECTIONS) / spread
        if unmoved > 0:
            errors[f"moved_l1_{distance}px"] = sum(own[1::2]) / len(DIRECTIONS) / unmoved
    return shifts | errors


def _encode(variant: AutoEncoder, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """mu (B, Z), and the mean absolute error (B,) of the reconstruction of mu + sigma * eps."""
    mu, sigma = variant.posterior(x)
    return mu.float(), (variant.decode(mu + sigma * eps) - x).float().abs().flatten(1).mean(dim=1)
