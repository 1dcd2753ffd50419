"""Checkpoints: written to a fresh folder, renamed when whole; the newest whole one is resumed from."""

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.errors import InputError, unknown
from harness.optimizer import PhasedAdam

logger = logging.getLogger(__name__)
KEPT = 2  # the newest, and one before it in case the newest is damaged
Which = Literal["best", "latest"]


@dataclass
class Progress:
    """How far a run is: whole epochs, steps into the next one, and the sums of that epoch's losses so far.

    Nothing else is needed to resume: all random numbers follow from the seed and the step.
    """

    epoch: int = 0
    step: int = 0
    loss_sums: dict[str, float] = field(default_factory=dict)


def save_checkpoint(folder: Path, progress: Progress, variant: nn.Module, optimizer: PhasedAdam) -> None:
    """Write one checkpoint into `folder` and drop all but the newest ones. Raises: OSError if the disk is full."""
    name = f"epoch-{progress.epoch:06d}-step-{progress.step:06d}"
    temporary, final = folder / f".writing-{name}", folder / name
    for left_by_a_kill in folder.glob(".writing-*"):
        shutil.rmtree(left_by_a_kill)
    temporary.mkdir(parents=True)
    save_file(
        {key: tensor.contiguous() for key, tensor in variant.state_dict().items()}, temporary / "model.safetensors"
    )
    save_file(_optimizer_tensors(variant, optimizer), temporary / "optimizer.safetensors")
    (temporary / "progress.json").write_text(json.dumps(asdict(progress)))
    for path in (*temporary.iterdir(), temporary):
        _flush_to_disk(path)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _flush_to_disk(folder)
    for old in _newest_first(folder)[KEPT:]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path, variant: nn.Module, optimizer: PhasedAdam) -> Progress:
    """Load the newest whole checkpoint into variant and optimiser; a damaged one is passed over with a warning.

    Returns: its progress; that of a fresh start if there is none.
    """
    for path in _newest_first(folder):
        try:
            progress = Progress(**json.loads((path / "progress.json").read_text()))
            weights = load_file(path / "model.safetensors")
            moments = load_file(path / "optimizer.safetensors")
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            logger.warning("checkpoint %s is damaged (%s): trying the one before it", path, error)
            continue
        variant.load_state_dict(weights)
        for name, parameter in variant.named_parameters():
            prefix = f"{name}//"
            optimizer.state[parameter] = {
                key.removeprefix(prefix): tensor.to(parameter.device)
                for key, tensor in moments.items()
                if key.startswith(prefix)
            }
        return progress
    return Progress()


def _optimizer_tensors(variant: nn.Module, optimizer: PhasedAdam) -> dict[str, Tensor]:
    return {
        f"{name}//{key}": tensor
        for name, parameter in variant.named_parameters()
        for key, tensor in optimizer.state[parameter].items()
    }


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*-step-*"), reverse=True)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_checkpoint(checkpoints: Path, which: Which) -> Path:
    """The checkpoint that the link `best` or `latest` in a run's folder of checkpoints leads to.

    A folder without these links was written by older code: both are then the newest checkpoint by name.
    Raises: InputError if there is no such checkpoint.
    """
    if which not in get_args(Which):
        raise InputError(unknown("checkpoint", which, get_args(Which)))
    links = {name: checkpoints / name for name in get_args(Which) if (checkpoints / name).is_symlink()}
    if which in links:
        found = links[which].resolve()
        if not found.is_dir():
            raise InputError(f"{links[which]} leads to {found}, which is not there; try the other of best and latest")
        return found
    newest = next(iter(_newest_first(checkpoints)), None)
    if newest is None:
        raise InputError(f"{checkpoints} holds no checkpoint yet; the run saves one every `checkpoint_every` epochs")
    if which == "best" and links:
        raise InputError(f"no checkpoint in {checkpoints} has been evaluated yet; ask for the latest one")
    return newest.resolve()
