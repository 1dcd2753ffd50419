"""All mechanisms of a trained variant, from its posterior, its decoder and the extractor."""

from collections.abc import Callable

import torch
from torch import Tensor

from harness.data.sets import TrainingSet
from harness.evaluation.extractors import Extractor
from harness.evaluation.mechanisms.disentanglement import (
    dci_disentanglement,
    factorvae_score,
    mutual_information_gap,
    probe_accuracy,
    total_correlation,
    varying,
)
from harness.evaluation.mechanisms.prior_match import maximum_mean_discrepancy, mmd_floor
from harness.evaluation.mechanisms.smoothness import measure_path_length
from harness.evaluation.mechanisms.translation import measure_translation
from harness.evaluation.normalisation import evaluation_mode
from harness.evaluation.posterior import Posterior, aggregate_covariance
from harness.launch.processes import Processes
from harness.protocol import Reading
from harness.seeding import build_generator, compute_subset, derive_seed
from variants import AutoEncoder

MOST_IMAGES = 10_000  # whose codes are looked at, a random subset, the same one for all runs
MOVED_IMAGES = 2_000  # each of which is moved in 12 ways


def measure_mechanisms(
    variant: AutoEncoder,
    posterior: Posterior,
    data: TrainingSet,
    extractor: Extractor,
    reading: Reading,
    seed: int,
    processes: Processes,
    after_batch: Callable[[int, int], None] = lambda done, n: None,
) -> dict[str, float]:
    """Every mechanism that the data allow, by the names of harness/measures.py, on every process.

    Factors are asked about where two or more vary; a linear probe where there are labels and no factors. What is said
    of codes is of mu, but for mmd and total_correlation, which are of z ~ q(z|x); and again of the mapped codes, as
    `mapped_<name>`, where the variant maps codes before it decodes them.
    """
    rows = compute_subset(len(data), MOST_IMAGES)
    noise = torch.randn(posterior.mu.shape, generator=build_generator(seed, "mechanisms"), dtype=torch.float64)
    z = posterior.mu + posterior.sigma * noise
    with evaluation_mode(variant, reading.normalisation):
        mapped_mu, mapped_z = (_map(variant, codes, processes.device) for codes in (posterior.mu[rows], z[rows]))
    values = measure_translation(variant, data, compute_subset(len(data), MOVED_IMAGES), reading, seed, processes)
    values["path_length"] = measure_path_length(variant, extractor, reading, seed, processes, after_batch)

    def compare_codes() -> dict[str, float]:
        found = {
            "mmd": maximum_mean_discrepancy(z[rows]),
            "mmd_floor": mmd_floor(len(rows), z.shape[1]),
            "total_correlation": total_correlation(aggregate_covariance(posterior.mu, posterior.sigma)),
            **describe_codes(posterior.mu[rows], data, rows, seed),
        }
        if mapped_mu is not None and mapped_z is not None:
            mapped = {"total_correlation": total_correlation(torch.cov(mapped_z.T).reshape(2 * z.shape[1:]))}
            mapped |= describe_codes(mapped_mu, data, rows, seed)
            found |= {f"mapped_{name}": value for name, value in mapped.items()}
        return found

    return processes.on_main(compare_codes) | values


def _map(variant: AutoEncoder, codes: Tensor, device: torch.device) -> Tensor | None:
    """The mapped codes, float64 on the CPU; None of a variant that maps none."""
    given = codes.float().to(device)
    mapped = variant.map_codes(given)
    return None if mapped is given else mapped.double().cpu()


def describe_codes(codes: Tensor, data: TrainingSet, rows: Tensor, seed: int) -> dict[str, float]:
    """What codes (n, Z) of the images `rows` (n,) know: mig, dci and factorvae, or probe_accuracy, or nothing."""
    own = derive_seed(seed, "mechanisms", 1)
    if data.factors is not None:
        factors = varying(data.factors.numbers[rows])
        if factors.shape[1] < 2:
            return {}
        return {
            "mig": mutual_information_gap(codes, factors),
            "dci": dci_disentanglement(codes, factors, own),
            "factorvae": factorvae_score(codes, factors, torch.Generator().manual_seed(own)),
        }
    if data.labels is None or len(rows) < 5:
        return {}
    return {"probe_accuracy": probe_accuracy(codes, data.labels[rows], own)}
