"""Checkpoints: written to a fresh folder by all processes, renamed when whole; the newest whole one is resumed from.

checkpoints/epoch-EEEEEE-step-SSSSSS/
  model.safetensors       weights and buffers of the variant
  optimizer.safetensors   the moments of each phase; under ZeRO optimizer-<rank>-of-<processes>.safetensors
  ema.safetensors         moving averages of the decoder's weights, where the run keeps them
  progress.json           how far the run was, and the checksum of each file
checkpoints/latest, best  links to the newest one, and to the one of the lowest FID
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.cache import hash_file
from harness.engine import Engine
from harness.errors import InputError, StorageError, unknown

logger = logging.getLogger(__name__)
Which = Literal["best", "latest"]


@dataclass
class Progress:
    """How far a run is: whole epochs, steps into the next one, and the sums of that epoch's losses so far.

    No random state is needed to resume: all random numbers, of every rank, follow from the seed and the step.
    """

    epoch: int = 0
    step: int = 0
    loss_sums: dict[str, float] = field(default_factory=dict)


def save_checkpoint(folder: Path, progress: Progress, engine: Engine, keep: int = 2, *, best: bool = False) -> None:
    """Write one checkpoint into `folder`, point `latest` (and `best`) to it, drop all but the newest and the best.

    Every process calls it. Raises: on every process, StorageError if one cannot write; what was there before still is.
    """
    engine.synchronise_buffers()
    final = folder / f"epoch-{progress.epoch:06d}-step-{progress.step:06d}"
    temporary = folder / f".writing-{final.name}"
    try:
        with _storing(final, engine):
            if engine.is_main_process:
                _make_room(folder)
                temporary.mkdir(parents=True)
                _save_tensors(engine.variant.state_dict(), temporary / "model.safetensors")
                if engine.average is not None:
                    _save_tensors(engine.average.averages, temporary / "ema.safetensors")
        with _storing(final, engine):
            if engine.optimizer_file is not None:
                _save_tensors(engine.optimizer_tensors(), temporary / engine.optimizer_file)
        with _storing(final, engine):
            if engine.is_main_process:
                _finish(temporary, final, progress, engine)
                _point(folder / "latest", final.name)
                if best:
                    _point(folder / "best", final.name)
                _drop_old(folder, keep)
    except StorageError:
        if engine.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)  # a full disk has other uses for the space
        raise


def load_checkpoint(folder: Path, engine: Engine) -> Progress:
    """Load the newest whole checkpoint into the engine; a damaged one is passed over with a warning.

    Returns: its progress; that of a fresh start if there is none.
    Raises: InputError if it was saved by processes among which this launch cannot share it.
    """
    path = engine.on_main(lambda: _find_whole(folder))
    if path is None:
        return Progress()
    with engine.raising_together():
        saved = read_manifest(path)
        _check_sharing(path, saved, engine)
        averages = path / "ema.safetensors"
        engine.load_tensors(
            load_file(path / "model.safetensors"),
            load_file(path / (engine.optimizer_file or "optimizer.safetensors")),
            load_file(averages) if averages.exists() else None,
        )
        scaler = engine.accelerator.scaler
        if scaler is not None and saved.get("grad_scaler"):
            scaler.load_state_dict(saved["grad_scaler"])
    return Progress(saved["epoch"], saved["step"], saved["loss_sums"])


def read_manifest(path: Path) -> dict[str, Any]:
    """What progress.json of one checkpoint says. Raises: OSError or ValueError unless its files are as written."""
    saved = json.loads((path / "progress.json").read_text())
    if not isinstance(saved, dict) or not {"epoch", "step", "loss_sums"} <= saved.keys():
        raise ValueError("progress.json does not say how far the run was")
    for name, digest in saved.get("sha256", {}).items():
        if hash_file(path / name) != digest:
            raise ValueError(f"{name} is not as it was written")
    return saved


@contextmanager
def _storing(final: Path, engine: Engine) -> Iterator[None]:
    """One step of a save, at whose end the processes meet. Raises: StorageError on all of them, if one cannot write."""
    with engine.raising_together():
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise StorageError(f"cannot write the checkpoint {final}: {error}") from error


def _check_sharing(path: Path, saved: dict[str, Any], engine: Engine) -> None:
    """Raises: InputError, saying what differs, unless the optimiser's state can be loaded as it was saved."""
    then, now = saved.get("sharing"), _describe_sharing(engine)
    if then == now:
        return
    described = [
        "one state for all processes, without DeepSpeed"
        if each is None
        else f"ZeRO stage {each['zero_stage']} on {each['num_processes']} processes"
        for each in (then, now)
    ]
    raise InputError(
        f"{path} was saved with {described[0]}, this launch is {described[1]}: ZeRO splits the optimiser's state over "
        "its processes and cannot split it anew; resume it as it was launched, or remove the run folder to start anew"
    )


def _describe_sharing(engine: Engine) -> dict[str, int] | None:
    """Among whom the optimiser's state is split; None if it is not."""
    if engine.zero_stage is None:
        return None
    return {"zero_stage": engine.zero_stage, "num_processes": engine.num_processes}


def _find_whole(folder: Path) -> Path | None:
    for path in _newest_first(folder):
        try:
            read_manifest(path)
        except (OSError, ValueError) as error:
            logger.warning("checkpoint %s is damaged (%s): trying the one before it", path, error)
            continue
        return path
    return None


def _make_room(folder: Path) -> None:
    for left_by_a_kill in folder.glob(".writing-*"):
        shutil.rmtree(left_by_a_kill)


def _finish(temporary: Path, final: Path, progress: Progress, engine: Engine) -> None:
    scaler = engine.accelerator.scaler
    manifest = {
        **asdict(progress),
        "sharing": _describe_sharing(engine),
        "grad_scaler": None if scaler is None else scaler.state_dict(),
        "sha256": {file.name: hash_file(file) for file in sorted(temporary.iterdir())},
    }
    (temporary / "progress.json").write_text(json.dumps(manifest, indent=2))
    for path in (temporary / "progress.json", temporary):
        _flush_to_disk(path)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _flush_to_disk(final.parent)


def _point(link: Path, name: str) -> None:
    temporary = link.with_name(f".{link.name}")
    with suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(name)
    temporary.replace(link)


def _drop_old(folder: Path, keep: int) -> None:
    best = (folder / "best").resolve().name
    for old in _newest_first(folder)[keep:]:
        if old.name != best:
            shutil.rmtree(old)


def _save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
    _flush_to_disk(file)


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
