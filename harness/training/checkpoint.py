"""Checkpoints: written to a fresh folder, renamed when whole; the newest whole one is resumed from.

checkpoints/epoch-EEEEEE-step-SSSSSS/
  model.safetensors       weights and buffers of the variant
  optimizer.safetensors   the moments of each phase; under ZeRO optimizer-<rank>-of-<processes>.safetensors
  ema.safetensors         moving averages of the decoder's weights, where the run keeps them
  progress.json           how far the run was, and the checksum of each file
checkpoints/latest, best  links to the newest one, and to the one of the lowest FID
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import TypedDict

from harness.data.cache import compute_sha256, read_entry
from harness.errors import InputError, StorageError, unknown
from harness.files import flush_to_disk, hash_file, make_folder, replacing_file, save_tensors, write_text
from harness.record import RunFolder
from harness.schema import Count, Positive
from harness.settings import parse_json
from harness.training.engine import Engine
from variants import Variant

logger = logging.getLogger(__name__)
Which = Literal["best", "latest"]
MANIFEST = "progress.json"  # of a checkpoint: how far the run was, and the checksum of each file and of itself


class _Sharing(TypedDict):
    zero_stage: Count
    num_processes: Positive


@with_config(ConfigDict(strict=True))
class _Manifest(TypedDict):
    """progress.json: a stranger may have written it, as other files of a run folder."""

    epoch: Count
    step: Count
    loss_sums: dict[str, Annotated[list[float], Field(min_length=1)]]
    best: bool
    sharing: _Sharing | None
    grad_scaler: dict[str, Any] | None
    sha256: dict[str, str]


_MANIFEST = TypeAdapter(_Manifest)


@dataclass
class Progress:
    """How far a run is: whole epochs, steps into the next one, and the sums of that epoch's losses so far.

    No random state is needed to resume: all random numbers, of every rank, follow from the seed and the step.
    `loss_sums` are each process's own: added to those of the steps to come, they round as if nothing had been saved.
    """

    epoch: int = 0
    step: int = 0
    loss_sums: dict[str, list[float]] = field(default_factory=dict)

    def loss_sum(self, name: str, rank: int, num_processes: int) -> float:
        """What one process goes on from: its own sum; the mean, if other processes than now have trained."""
        each = self.loss_sums.get(name, [0.0])
        return each[rank] if len(each) == num_processes else math.fsum(each) / len(each)


def save_checkpoint(folder: Path, progress: Progress, engine: Engine, keep: int = 2, *, best: bool = False) -> None:
    """Write one checkpoint into `folder`, point `latest` (and `best`) to it, drop all but the newest and the best.

    Every process calls it. Raises: on every process, StorageError if one cannot write; what was there before still is.
    """
    engine.synchronise_buffers()
    final = folder / f"epoch-{progress.epoch:06d}-step-{progress.step:06d}"
    temporary = folder / f".writing-{final.name}"
    try:
        with engine.processes.raising_together(), _storing(final):
            if engine.processes.is_main_process:
                _make_room(folder)
                make_folder(temporary)
                save_tensors(temporary / "model.safetensors", engine.variant.state_dict())
                if engine.average is not None:
                    save_tensors(temporary / "ema.safetensors", engine.average.averages)
        with engine.processes.raising_together(), _storing(final):
            if engine.optimizer_file is not None:
                save_tensors(temporary / engine.optimizer_file, engine.optimizer_tensors())
        with engine.processes.raising_together(), _storing(final):
            if engine.processes.is_main_process:
                manifest = {**asdict(progress), "best": best, **_describe_optimizer(engine)}
                _finish(temporary, final, manifest)
                _point_to(final, best=best)
                _drop_old(final, keep)
    except StorageError:
        if engine.processes.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)  # a full disk has other uses for the space
        raise


def load_checkpoint(folder: Path, engine: Engine, recorded: int | None = None) -> Progress:
    """Load the newest whole checkpoint into the engine; a damaged one is passed over with a warning.

    So is one of a later epoch than `recorded`, whose records are lost: they are trained again.
    Returns: its progress; that of a fresh start if there is none.
    Raises: InputError if it was saved by processes among which this launch cannot share it.
    """
    path = engine.processes.on_main(lambda: _find_whole(folder, recorded))
    if path is None:
        return Progress()
    with engine.processes.raising_together():
        saved = read_manifest(path)
        _check_sharing(path, saved, engine)
        averages = path / "ema.safetensors"
        try:
            engine.load_tensors(
                load_file(path / "model.safetensors"),
                load_file(path / (engine.optimizer_file or "optimizer.safetensors")),
                load_file(averages) if averages.exists() else None,
            )
            scaler = engine.processes.accelerator.scaler
            if scaler is not None and saved.get("grad_scaler"):
                scaler.load_state_dict(saved["grad_scaler"])
        except (OSError, LookupError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
            raise InputError(
                f"the checkpoint {path} is as it was written, but not this run's "
                f"({' '.join(str(error).split()):.300}); remove it to go on from the one before"
            ) from error
        if engine.processes.is_main_process:
            with _storing(path):
                _make_room(folder)
                _point_to(path, best=saved["best"])
    return Progress(saved["epoch"], saved["step"], saved["loss_sums"])


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Write progress.json beside the files of a checkpoint, which are all there by now."""
    content = content | {"sha256": {file.name: hash_file(file) for file in sorted(path.iterdir())}}
    write_text(path / MANIFEST, json.dumps(content | {"checksum": _hash(content)}, indent=2))


def read_manifest(path: Path) -> dict[str, Any]:
    """What progress.json of one checkpoint says. Raises: OSError or ValueError unless its files are as written."""
    content = parse_json((path / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.pop("checksum", None) != _hash(content):
        raise ValueError(f"{MANIFEST} is not as it was written")
    try:
        _MANIFEST.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{MANIFEST}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    for name, digest in content["sha256"].items():
        if hash_file(path / name) != digest:
            raise ValueError(f"{name} is not as it was written")
    return content


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextmanager
def _storing(checkpoint: Path) -> Iterator[None]:
    """Raises: StorageError if the disk is full, or fails."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write the checkpoint {checkpoint}: {error.strerror or error}") from error


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
    return {"zero_stage": engine.zero_stage, "num_processes": engine.processes.num_processes}


def _describe_optimizer(engine: Engine) -> dict[str, Any]:
    scaler = engine.processes.accelerator.scaler
    return {"sharing": _describe_sharing(engine), "grad_scaler": None if scaler is None else scaler.state_dict()}


def _find_whole(folder: Path, recorded: int | None) -> Path | None:
    passed_over = False
    for path in _newest_first(folder):
        try:
            saved = read_manifest(path)
            if recorded is not None and saved["epoch"] > recorded:
                raise ValueError(f"records.jsonl ends at epoch {recorded}")
        except (OSError, ValueError) as error:
            logger.warning("checkpoint %s cannot be used (%s): trying the one before it", path, error)
            passed_over = True
            continue
        return path
    if passed_over:
        logger.warning("no checkpoint in %s can be used: starting anew", folder)
    return None


def _make_room(folder: Path) -> None:
    for left_by_a_kill in (*folder.glob(".writing-*"), *folder.glob(".dropping-*")):
        shutil.rmtree(left_by_a_kill)


def _finish(temporary: Path, final: Path, manifest: dict[str, Any]) -> None:
    write_manifest(temporary, manifest)
    for path in (temporary / MANIFEST, temporary):
        flush_to_disk(path)
    if final.exists():
        if _holds(final, read_manifest(temporary)):  # whoever is interrupted twice at a step saves the same again
            shutil.rmtree(temporary)
            return
        _drop(final)
    temporary.rename(final)
    flush_to_disk(final.parent)


def _holds(checkpoint: Path, manifest: dict[str, Any]) -> bool:
    try:
        return read_manifest(checkpoint) == manifest
    except (OSError, ValueError):
        return False


def _point_to(checkpoint: Path, *, best: bool) -> None:
    """Move the links to a checkpoint that is the newest, and maybe the best: a kill may have come before they moved."""
    for name in ("latest", "best")[: 1 + best]:
        link, temporary = checkpoint.with_name(name), checkpoint.with_name(f".{name}")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(checkpoint.name)
        temporary.replace(link)


def _drop_old(newest: Path, keep: int) -> None:
    """All but the newest `keep` and the best. What is beyond the newest was passed over when the run resumed."""
    folder = newest.parent
    best = (folder / "best").resolve().name
    upto = [path for path in _newest_first(folder) if path.name <= newest.name]
    for path in _newest_first(folder):
        if path not in upto[:keep] and path.name != best:
            _drop(path)


def _drop(checkpoint: Path) -> None:
    """Removed under another name, so that a kill leaves no part of it under its own."""
    gone = checkpoint.with_name(f".dropping-{checkpoint.name}")
    checkpoint.rename(gone)
    shutil.rmtree(gone)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*-step-*"), reverse=True)


def names_to_keep(variant: Variant) -> set[str]:
    """Names in the variant's state_dict of all that encoding and decoding need, BatchNorm's buffers included."""
    kept = {*variant.decoding_modules(), *(m for name, m in variant.named_children() if name == "encoder")}
    prefixes = tuple(f"{name}." if name else "" for name, module in variant.named_modules() if module in kept)
    return {name for name in variant.state_dict() if name.startswith(prefixes) or "." not in name}


def save_weights(folder: RunFolder, epoch: int, variant: Variant) -> None:
    """Keep what encoding and decoding need, as the variant has it now, for evaluations to come. Raises: OSError."""
    kept = names_to_keep(variant)
    tensors = {name: tensor.cpu() for name, tensor in variant.state_dict().items() if name in kept}
    path = folder.weights / f"epoch-{epoch:06d}.safetensors"
    make_folder(path.parent)
    with replacing_file(path) as temporary:
        save_tensors(temporary, tensors, {"sha256": compute_sha256(tensors)})


def find_weights(folder: RunFolder) -> dict[int, Path]:
    """Where the weights of whole epochs lie, by epoch: files of `save_weights`, and checkpoints of an epoch's end."""
    checkpoints = {int(path.name.split("-")[1]): path for path in folder.checkpoints.glob("epoch-*-step-000000")}
    files = {int(path.stem.split("-")[1]): path for path in folder.weights.glob("epoch-*.safetensors")}
    return checkpoints | files


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights that a run evaluates: of a checkpoint with the moving averages where it has them, or a kept file.

    Raises: OSError, ValueError or SafetensorError if they are missing or damaged.
    """
    if path.is_file():
        return read_entry(path)[0]
    read_manifest(path)
    averages = path / "ema.safetensors"
    return load_file(path / "model.safetensors") | (load_file(averages) if averages.exists() else {})


def find_checkpoint(checkpoints: Path, which: Which) -> Path:
    """The checkpoint that the link `best` or `latest` in a run's folder of checkpoints leads to.

    Raises: InputError if there is no such checkpoint.
    """
    if which not in get_args(Which):
        raise InputError(unknown("checkpoint", which, get_args(Which)))
    links = {name: checkpoints / name for name in get_args(Which) if (checkpoints / name).is_symlink()}
    if which in links:
        found = links[which].resolve()
        if not found.is_dir():
            found = links[which].resolve()  # a run under way may have moved the link and dropped where it led
        if not found.is_dir():
            raise InputError(f"{links[which]} leads to {found}, which is not there; try the other of best and latest")
        return found
    if not any(_newest_first(checkpoints)):
        raise InputError(f"{checkpoints} holds no checkpoint yet; the run saves one every `checkpoint_every` epochs")
    raise InputError(f"no checkpoint in {checkpoints} has been evaluated yet; ask for the latest one")
