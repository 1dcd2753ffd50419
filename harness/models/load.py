"""A trained variant, loaded from a checkpoint of a run or from an export of one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.errors import InputError
from harness.protocol import Protocol, read_protocol
from harness.readings import find_evaluation
from harness.record import RunFolder, key_of
from harness.schema import check_object
from harness.training.checkpoint import Which, find_checkpoint, find_weights, names_to_keep, read_manifest, read_weights
from variants import Variant, build, load_variant
from variants.context import Context

EXPORT = "export"  # the key by which an export's config.json says where it comes from
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Origin:
    """Which state of which run: `step` steps after `epoch` epochs; whether decoding uses averaged weights."""

    run_id: str
    checkpoint: str
    epoch: int
    step: int
    averaged: bool


@dataclass(frozen=True)
class Trained:
    """A variant with the weights of one state of a run, the run's configuration, and its first protocol."""

    variant: Variant
    config: dict[str, Any]
    protocol: Protocol
    origin: Origin


def require_trust(path: Path, config: dict[str, Any], trust_code: bool) -> None:
    """A configuration may be a stranger's, and name any module: of a variant that is not ours, code is imported.

    Raises: InputError unless the variant is ours, or its code is trusted and does not lie in the folder itself.
    """
    name = str(config.get("variant"))
    if ":" not in name:
        return
    if not trust_code:
        raise InputError(
            f"{path} is of the variant {name}, code of its author's, which is run only on --trust-code "
            "(trust_code=True); read it first"
        )
    if Path.cwd().resolve().is_relative_to(path.resolve()):
        raise InputError(
            f"{name} would be imported from {path} itself; start from the folder that holds your own package"
        )


def load_trained(
    path: Path, which: Which | int, device: str | torch.device = "cpu", trust_code: bool = False
) -> Trained:
    """A variant in eval mode, its parameters without gradients, from a run folder or an export (which holds one state).

    Args: which: best, the state of the lowest FID under the run's first protocol; latest; or an epoch whose weights the
        run has kept. trust_code: whether a variant may be imported that is not ours.
    torch's global random state stays as it is. Modules that an export leaves out are missing, not freshly initialised.
    Raises: InputError if there is no run or export, or no such checkpoint, or if it is damaged.
    """
    config = _read_config(path)
    require_trust(path, config, trust_code)
    try:
        check_object("config", {"sweep": "", **config})  # which an export has not
    except ValueError as error:
        raise InputError(f"{path} is damaged, or of another version: {error}") from error
    if EXPORT in config:
        weights, origin = _read_export(path, config[EXPORT])
    else:
        weights, origin = _read_newest(RunFolder(path), which)
    try:
        variant = _build(config)
        protocol = read_protocol(config["protocol"][0])
    except (LookupError, TypeError, ValueError, ImportError) as error:
        raise InputError(
            f"{path / 'config.json'} does not say how to build the variant ({type(error).__name__}: {error}); "
            "is it of another version, or is the variant your own, which is found from the folder that holds it?"
        ) from error
    try:
        _set_weights(variant, weights)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the weights of {path} do not fit its configuration: {error}") from error
    variant.to(device).eval().requires_grad_(False)
    variant.use(Context(device))
    return Trained(variant, config, protocol, origin)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return RunFolder(path).read_config()
    except (FileNotFoundError, NotADirectoryError) as error:
        runs = sorted(file.parent for file in path.glob("*/config.json"))
        hint = f"name one that it holds, as {runs[0]}" if runs else "name one, as runs/aae-digits-32px-seed0-..."
        raise InputError(f"{path} is no run folder and no export; {hint}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the configuration in {path}: {error}") from error


def _read_newest(folder: RunFolder, which: Which | int) -> tuple[Weights, Origin]:
    """The state that `which` names. A run under way may replace a checkpoint while it is being read."""
    while True:
        path = _find_state(folder, which)
        try:
            return read_weights(path), _describe(path, folder.path.resolve().name)
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            if not path.exists() and _find_state(folder, which) != path:
                continue
            raise InputError(
                f"the checkpoint {path} is damaged ({error}); ask for the other of best and latest, or give the "
                "run's command again, which goes on from the one before"
            ) from error


def _find_state(folder: RunFolder, which: Which | int) -> Path:
    """Raises: InputError if there is no such state."""
    kept = find_weights(folder)
    if isinstance(which, int):
        if which not in kept:
            there = ", ".join(map(str, sorted(kept))) or "none"
            raise InputError(f"{folder.path} has not kept the weights of epoch {which}; of these it has: {there}")
        return kept[which]
    if which == "best" and not (folder.checkpoints / "best").is_symlink() and (epoch := _find_best(folder, kept)):
        return kept[epoch]
    return find_checkpoint(folder.checkpoints, which)


def _find_best(folder: RunFolder, kept: dict[int, Path]) -> int | None:
    """The epoch of the lowest FID among those kept, where evaluations came after the training and no link says it."""
    config = folder.read_config()
    evaluation = find_evaluation(folder, read_protocol(config["protocol"][0]), config["image_size"])
    lines = evaluation.read() if evaluation is not None else []
    scored = [line for line in lines if key_of(line)[1:] == ("prior", 0) and line["epoch"] in kept and line["epoch"]]
    return min(scored, key=lambda line: line["eval/fid"])["epoch"] if scored else None


def _describe(path: Path, run_id: str) -> Origin:
    if path.is_file():
        return Origin(run_id, path.stem, int(path.stem.split("-")[1]), 0, averaged=False)
    progress = read_manifest(path)
    return Origin(run_id, path.name, int(progress["epoch"]), int(progress["step"]), (path / "ema.safetensors").exists())


def _read_export(path: Path, origin: Any) -> tuple[Weights, Origin]:
    try:
        return load_file(path / "model.safetensors"), Origin(**origin)
    except (OSError, TypeError, SafetensorError) as error:
        raise InputError(f"the export {path} is damaged ({error}); export its run again") from error


def _build(config: dict[str, Any]) -> Variant:
    name, size = config["variant"], config["image_size"]
    options = load_variant(name).Options(**config["options"])
    shape = (config["channels"], size, size)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return build(name, options, shape, config["latent_dim"], config["architecture"])


def _set_weights(variant: Variant, weights: Weights) -> None:
    """Raises: RuntimeError for shapes, ValueError for names that are not the variant's."""
    differing = variant.load_state_dict(weights, strict=False)
    lacking = set(differing.missing_keys)
    if differing.unexpected_keys or lacking & names_to_keep(variant):
        names = [*differing.unexpected_keys, *sorted(lacking & names_to_keep(variant))]
        raise ValueError(f"{names[0]} is only in one of them")
    for name, module in [*variant.named_children()]:
        own = _names(name, module)
        if own and own <= lacking:
            delattr(variant, name)


def _names(prefix: str, module: nn.Module) -> set[str]:
    return {f"{prefix}.{name}" for name in module.state_dict()}
