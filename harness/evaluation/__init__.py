"""Evaluation as an API. Scores are functions of features; `score_images` does it all for two sets of files.

    from harness.evaluation import load_protocol, score_images

    score_images(Path("real"), Path("fake"), load_protocol("clean"), extractor="domain-fashion_mnist")

To score what no file holds, subclass `NumberedImages`, pass it to `gather_statistics`, and that to a `Reference`:

    extractor = build_extractor(load_protocol("clean"), device)
    processes = Processes(build_accelerator("no"))
    reference = build_reference(gather_statistics(real, extractor, processes, batch_size=256), device)
    reference.score(gather_statistics(fake, extractor, processes, batch_size=256), device)

Names are imported when they are used: configurations need the protocols, and not torchvision.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "build_extractor": "harness.evaluation.extractors",
    "NumberedImages": "harness.evaluation.images",
    "compute_manifold_scores": "harness.evaluation.manifold",
    "neighbour_radii": "harness.evaluation.manifold",
    "Protocol": "harness.protocol",
    "Reading": "harness.protocol",
    "load_protocol": "harness.protocol",
    "Reference": "harness.evaluation.reference",
    "build_reference": "harness.evaluation.reference",
    "score_images": "harness.evaluation.score",
    "extrapolate_fid": "harness.evaluation.scores",
    "frechet_distance": "harness.evaluation.scores",
    "inception_score": "harness.evaluation.scores",
    "kernel_distance": "harness.evaluation.scores",
    "Moments": "harness.evaluation.statistics",
    "gather_statistics": "harness.evaluation.statistics",
    "Processes": "harness.launch.processes",
    "build_accelerator": "harness.launch.processes",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"harness.evaluation has no {name}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)
