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
MEASURED = ("shift", "error", "moved error")  # of each image and move


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

    Images and moved images are encoded in one batch: the statistics of a batch that is moved as a whole would take away
    what the move does to all its codes alike.

    Args: rows: indices (n,) of the images. Every process calls it, and measures its share of the batches.
    """
    moves = [(distance * down, distance * right) for distance in DISTANCES for down, right in DIRECTIONS]
    batches = rows.split(batch_sizes(len(rows), reading.batch_size))
    codes = [torch.empty(0, variant.latent_dim, device=processes.device)]
    table = [torch.empty(0, len(moves), len(MEASURED), device=processes.device)]
    with evaluation_mode(variant, reading.normalisation):
        for number in processes.share(len(batches)):
            x = data.batch(batches[number], processes.device)
            noise = torch.randn(len(x), variant.latent_dim, generator=build_generator(seed, "moves", number))
            eps = noise.to(processes.device)
            codes.append(variant.posterior(x)[0].float())
            table.append(torch.stack([_compare(variant, x, move(x, *by), eps) for by in moves], dim=1))
    spread = mean_squared_distance(processes.concatenate(torch.cat(codes)))
    means = processes.concatenate(torch.cat(table)).double().mean(dim=0)
    shifts: dict[str, float] = {}
    errors: dict[str, float] = {}
    for distance, own in zip(DISTANCES, means.split(len(DIRECTIONS)), strict=True):
        shift, unmoved, moved = own.mean(dim=0).tolist()
        if spread > 0:
            shifts[f"code_shift_{distance}px"] = shift / spread
        if unmoved > 0:
            errors[f"moved_l1_{distance}px"] = moved / unmoved
    return shifts | errors


def _compare(variant: AutoEncoder, x: Tensor, moved: Tensor, eps: Tensor) -> Tensor:
    """What `MEASURED` names, of each image (B, 3): |mu(T x) - mu(x)|^2, and the mean absolute errors of the
    reconstructions of mu + sigma * eps, of the image and of the moved one.
    """
    both = torch.cat([x, moved])
    mu, sigma = variant.posterior(both)
    reconstructed = variant.decode(mu + sigma * eps.repeat(2, 1))
    still, after = mu.float().chunk(2)
    errors = (reconstructed - both).float().abs().flatten(1).mean(dim=1)
    return torch.stack([(after - still).square().sum(dim=1), *errors.chunk(2)], dim=1)
