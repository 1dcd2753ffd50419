"""Run folders as the harness writes them, with chosen numbers."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness.record import RunFolder

NOT_SCORES = ("sampler", "sampling_seed", "protocol", "protocol_id", "extractor", "n_real", "n_fake")
CONFIG = {
    "variant": "aae",
    "options": {"sigma": "linear"},
    "dataset": "digits",
    "image_size": 32,
    "channels": 3,
    "max_images": None,
    "seed": 0,
    "epochs": 10,
    "batch_size": 1024,
    "learning_rate": 1e-4,
    "latent_dim": 10,
    "architecture": "mlp",
    "mixed_precision": "no",
    "eval_every": 5,
    "protocol": [{"name": "paper"}],
    "sweep": "test",
}


def evaluation(fid: float, sigma: float = 0.5, collapse: str = "none", protocol_id: str = "paper-1") -> dict[str, Any]:
    return {
        "eval/fid": fid,
        "eval/inception_score": 4.0,
        "eval/protocol": "paper",
        "eval/protocol_id": protocol_id,
        "eval/extractor": "domain",
        "eval/sampler": "prior",
        "eval/n_real": 100,
        "eval/n_fake": 100,
        "posterior/sigma_mean": sigma,
        "posterior/noise_share": sigma**2,
        "posterior/collapse": collapse,
        "posterior/sigma_mean_per_dim": [sigma / 2, sigma * 2],
        "posterior/kl": 1.0,
        "posterior/reconstruction_l1": 0.25,
    }


def write_run(
    root: Path,
    name: str,
    evaluations: dict[int, dict[str, Any]],
    state: Any = "done",
    status: dict[str, Any] | None = None,
    **config: Any,
) -> RunFolder:
    """`evaluations`: by epoch, `eval/<name>` of prior samples, `eval.<sampler>[-<sampling seed>]/<name>` of others,
    `floor.<which>/<name>`, `posterior/<name>` and `mechanism/<name>`.
    """
    folder = RunFolder(root / name)
    folder.ask_for(CONFIG | config)
    folder.write_environment({"run_id": name, "git_commit": "abc", "num_processes": 1})
    for epoch in range(11):
        losses = {"loss/reconstruction": 1 / (epoch + 1), "time/images_per_second": 1000.0} if epoch else {}
        folder.append_record({"epoch": epoch, "images_seen": 100 * epoch, **losses})
    for epoch, values in evaluations.items():
        write_evaluation(folder, epoch, values)
    folder.write_status(state, **(status or {"epoch": 10, "epochs": 10, "interruptions": 2}))
    return folder


def write_evaluation(folder: RunFolder, epoch: int, values: dict[str, Any]) -> None:
    """What one epoch's weights scored under one protocol."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = value
    said = {name: groups["eval"].pop(name) for name in ("protocol", "protocol_id", "extractor", "n_real", "n_fake")}
    floor = {group.removeprefix("floor."): scores for group, scores in groups.items() if group.startswith("floor.")}
    protocol = {"id": said["protocol_id"], "name": said["protocol"], "normalisation": "batch", "floor": floor}
    evaluation = folder.evaluation(said["protocol_id"])
    evaluation.create({**protocol, **{name: said[name] for name in ("extractor", "n_real", "n_fake")}})
    place = {"epoch": epoch, "images_seen": 100 * epoch}
    lines = [{**place, **{f"posterior/{name}": value for name, value in groups.get("posterior", {}).items()}}]
    if mechanisms := groups.get("mechanism"):
        named = {f"mechanism/{name}": value for name, value in mechanisms.items()}
        lines.append({**place, "part": "mechanisms", **named})
    for group, scores in groups.items():
        if group == "eval" or group.startswith("eval."):
            sampler, _, seed = (group.partition(".")[2] or "prior").partition("-")
            own = {name: value for name, value in scores.items() if name not in NOT_SCORES}
            line = {"sampler": sampler, "sampling_seed": int(seed or 0)}
            lines.append({**place, **line, **{f"eval/{name}": value for name, value in own.items()}})
    evaluation.append(lines)


def score_again(folder: RunFolder, protocol: str, protocol_id: str, **definition: Any) -> None:
    """Another reading of a run, in which everything scores the same."""
    (first,) = folder.find_evaluations()
    other = folder.evaluation(protocol_id)
    other.create({**first.read_protocol(), "id": protocol_id, "name": protocol, **definition})
    other.append(first.read())


def edit_evaluations(folder: Path, pattern: str, replacement: str) -> None:
    """Replace what the lines of a run's evaluations say."""
    for file in folder.glob("evaluations/*/records.jsonl"):
        file.write_text(re.sub(pattern, replacement, file.read_text()))


def trained_on(processes: int, folder: Path) -> None:
    """Say that a run was trained on so many processes."""
    file = folder / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_processes": processes}))


def write_picture(folder: RunFolder, epoch: int) -> None:
    """A sample grid of 64 images of 32 px."""
    pixels = np.random.default_rng(epoch).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder.samples / f"epoch-{epoch:06d}.png")


def histogram(middle: float, low: float, high: float) -> dict[str, list[float] | list[int]]:
    edges = np.linspace(low, high, 65)
    counts = np.exp(-(((edges[:-1] + edges[1:]) / 2 - middle) ** 2) / 0.1) * 1000
    return {"edges": edges.tolist(), "counts": counts.astype(int).tolist()}


def write_campaign(
    root: Path,
    fids: dict[str, list[float]],
    last_epoch: int = 10,
    pictures: bool = False,
    prefix: str = "",
    protocol_id: str = "paper-1",
    **config: Any,
) -> None:
    """For each variant a run per final FID, its seed the place in the list: FID falls from 100 in two evaluations."""
    for variant, finals in fids.items():
        for seed, fid in enumerate(finals):
            evaluations = {}
            for epoch, value in ((0, 100.0 + seed), (last_epoch // 2, (100 + fid) / 2), (last_epoch, fid)):
                sigma = 0.6 - 0.5 * epoch / last_epoch
                evaluations[epoch] = evaluation(value, sigma, protocol_id=protocol_id) | {
                    "posterior/mu_histogram": histogram(0, -4, 4),
                    "posterior/sigma_histogram": histogram(sigma, 0, 2),
                }
            place = f"{config.get('dataset', 'digits')}-{config.get('image_size', 32)}"
            name = f"{prefix}{variant}-{place}-seed{seed}"
            options = config.get("options", {"sigma": "linear"})
            folder = write_run(root, name, evaluations, variant=variant, seed=seed, **(config | {"options": options}))
            for epoch in evaluations if pictures else ():
                write_picture(folder, epoch)
