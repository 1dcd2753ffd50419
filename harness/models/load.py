"""A trained variant, loaded from a checkpoint of a run or from an export of one."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.errors import InputError
from harness.protocol import ProtocolDefinition, load_definition
from harness.record import RunFolder
from harness.training.checkpoint import Which, find_checkpoint
from harness.training.manifest import read_manifest
from variants import Variant, build, load_variant

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
    """A variant with the weights of one state of a run, the run's configuration, and how the run scores it."""

    variant: Variant
    config: dict[str, Any]
    protocol: ProtocolDefinition
    origin: Origin


def load_trained(path: Path, which: Which, device: str | torch.device = "cpu") -> Trained:
    """A variant in eval mode, its parameters without gradients, from a run folder or an export (which holds one state).

    torch's global random state stays as it is. Modules that an export leaves out are missing, not freshly initialised.
    Raises: InputError if there is no run or export, or no such checkpoint, or if it is damaged.
    """
    config = _read_config(path)
    if EXPORT in config:
        weights, origin = _read_export(path, config[EXPORT])
    else:
        weights, origin = _read_newest(path, which)
    try:
        variant = _build(config)
        protocol = ProtocolDefinition.model_validate(load_definition(config["protocol"]))
    except (KeyError, TypeError, ValueError, ImportError) as error:
        raise InputError(
            f"{path / 'config.json'} does not say how to build the variant ({error!r}); is it of another version, or "
            "is the variant your own, which is found from the folder that holds its package?"
        ) from error
    try:
        _set_weights(variant, weights)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the weights of {path} do not fit its configuration: {error}") from error
    variant.to(device).eval().requires_grad_(False)
    variant.noise = partial(torch.randn, device=device)
    return Trained(variant, config, protocol, origin)


def names_to_keep(variant: Variant) -> set[str]:
    """Names in the variant's state_dict of all that encoding and decoding need, BatchNorm's buffers included."""
    kept = {*variant.decoding_modules(), *(m for name, m in variant.named_children() if name == "encoder")}
    prefixes = tuple(f"{name}." if name else "" for name, module in variant.named_modules() if module in kept)
    return {name for name in variant.state_dict() if name.startswith(prefixes) or "." not in name}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return RunFolder(path).read_config()
    except (FileNotFoundError, NotADirectoryError) as error:
        runs = sorted(file.parent for file in path.glob("*/config.json"))
        hint = f"name one that it holds, as {runs[0]}" if runs else "name one, as runs/aae-digits-32px-seed0-..."
        raise InputError(f"{path} is no run folder and no export; {hint}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the configuration in {path}: {error}") from error


def _read_newest(path: Path, which: Which) -> tuple[Weights, Origin]:
    """What `_read_checkpoint` reads. A run under way may replace a checkpoint while it is being read."""
    checkpoints = RunFolder(path).checkpoints
    while True:
        checkpoint = find_checkpoint(checkpoints, which)
        try:
            return _read_checkpoint(checkpoint, path.resolve().name)
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            if not checkpoint.exists() and find_checkpoint(checkpoints, which) != checkpoint:
                continue
            raise InputError(
                f"the checkpoint {checkpoint} is damaged ({error}); ask for the other of best and latest, or give the "
                "run's command again, which goes on from the one before"
            ) from error


def _read_checkpoint(checkpoint: Path, run_id: str) -> tuple[Weights, Origin]:
    progress = read_manifest(checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    averages = checkpoint / "ema.safetensors"
    averaged = averages.exists()
    if averaged:
        weights |= load_file(averages)
    return weights, Origin(run_id, checkpoint.name, int(progress["epoch"]), int(progress["step"]), averaged)


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
