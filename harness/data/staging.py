"""Data sets brought to the cache, checksummed. Afterwards a run needs neither the source nor a network."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from safetensors import SafetensorError

from harness.config import Crop, check_dataset_name
from harness.data.cache import Entry, cache_folder, cached, locked, read_metadata, save_entry
from harness.data.factors import read_description
from harness.data.pixels import BACKGROUND, fit
from harness.data.readers.columns import find_tables, read_tables
from harness.data.readers.formats import IDX_IMAGES, Contents, describe_use, is_image, read_image_files, read_own_idx
from harness.data.readers.lmdb import read_lmdb
from harness.data.readers.numbers import read_arrays
from harness.data.readers.rendered import read_hdf5, read_npz
from harness.data.sets import DATASETS, Reader, TrainingSet
from harness.data.source import (
    EMBEDDED,
    HDF5,
    MissingFileError,
    Source,
    choose_split,
    join_tars,
    list_some,
    open_source,
    shown,
)
from harness.errors import InputError, unknown
from harness.files import temporary_path
from harness.protocol import Split
from harness.seeding import compute_subset
from harness.terminal import console, say

logger = logging.getLogger(__name__)
NAMES_KEPT = 100  # of the files that were passed over, in an entry's metadata


class Prepared(NamedTuple):
    """What a file of the cache's data is: `<name>-<size>px[-center][-test].safetensors`."""

    name: str
    image_size: int
    crop: Crop = "squeeze"
    split: Split = "train"

    @property
    def path(self) -> Path:
        crop = "" if self.crop == "squeeze" else f"-{self.crop}"
        split = "" if self.split == "train" else f"-{self.split}"
        return _data_folder() / f"{self.name}-{self.image_size}px{crop}{split}.safetensors"


def load_training_set(
    name: str, image_size: int, channels: int = 3, max_images: int | None = None, crop: Crop = "squeeze"
) -> TrainingSet:
    """A prepared training set, prepared first where its source is known on this machine.

    Args: max_images: use so many of them, at random, the same ones for everybody.
    Raises: InputError for an unknown or unstaged data set, damaged files, or colour images asked for in one channel.
    """
    tensors, metadata = _prepare_once(Prepared(name, image_size, crop))
    images, labels = tensors["images"], tensors.get("labels")
    factors = read_description(metadata["factors"], tensors["factors"]) if "factors" in tensors else None
    if images.shape[1] > channels:
        raise InputError(f"{name} has colour images; channels = {channels} needs grey ones, set channels = 3")
    n, n_expected = len(images), DATASETS[name].n_train if name in DATASETS else None
    if max_images is not None and max_images < n:
        chosen = compute_subset(n, max_images)
        images, labels = images[chosen], labels[chosen] if labels is not None else None
        factors = factors and factors.select(chosen)
    return TrainingSet(name, images, labels, channels, metadata["sha256"], crop, n, n_expected, factors)


def load_test_images(name: str, image_size: int, max_images: int | None = None, crop: Crop = "squeeze") -> Entry | None:
    """The prepared test split of a data set, `max_images` of it as of the training set.

    Returns: None where there is none, or its files are not on this machine.
    Raises: InputError if it is damaged, and its files are gone.
    """
    wanted = Prepared(name, image_size, crop, "test")
    source = _known_test_source(name)
    if source is None and not wanted.path.exists():
        return None
    try:
        tensors, metadata = cached(wanted.path, partial(_prepare_again, wanted, source))
    except MissingFileError:
        return None
    images = tensors["images"]
    if max_images is not None and max_images < len(images):
        images = images[compute_subset(len(images), max_images)]
    return {"images": images}, metadata


def _prepare_again(wanted: Prepared, source: Path | None) -> Entry:
    if source is None:
        raise InputError(
            f"{wanted.path} is damaged, and the files of the test split are not known; stage it again: "
            f"aaebench stage --dataset {wanted.name} --image-size {wanted.image_size} --test --from PATH"
        )
    return _prepare(wanted, source)


def stage_dataset(
    name: str, image_size: int, source: Path | None = None, split: Split = "train", crop: Crop = "squeeze"
) -> Path:
    """Prepare a data set from `source`, else from where it is known to be, else from torchvision's download.

    A new name makes a data set of any folder or archive of images, or of idx files; a source named here replaces what
    was staged before. The published data sets bring their test split with them; for others it is a source of its own,
    `split="test"`.
    Returns: the cache entry's path. Raises: InputError if the source is missing or damaged, or the cache cannot be
        written to; nothing is then changed.
    """
    try:
        check_dataset_name(name)
    except ValueError as error:
        raise InputError(str(error)) from error
    if source is not None and name in DATASETS and DATASETS[name].embedded:
        raise InputError(f"{name} is embedded and needs no --from; give other images another name")
    wanted = Prepared(name, image_size, crop, split)
    if split == "test" and source is None:
        raise InputError(
            f"the test split of {name} needs its files: aaebench stage --dataset {name} --test --from PATH"
        )
    if source is not None:
        entry = _prepare(wanted, source)
        with locked(wanted.path):
            save_entry(wanted.path, *entry)
        if split == "train" and name in DATASETS and DATASETS[name].read_test is not None:
            wanted._replace(split="test").path.unlink(missing_ok=True)  # it came from the source before this one
    else:
        if not wanted.path.exists() and name in DATASETS and not _is_embedded(name) and known_source(name) is None:
            _download(name)
        if not wanted.path.exists():
            _require_source(wanted)
            with locked(wanted.path):  # which says so where nothing can be kept
                pass
        _prepare_once(wanted)
    load_test_images(name, image_size, crop=crop)
    return wanted.path


def _prepare_once(wanted: Prepared) -> Entry:
    if not wanted.path.exists():
        _require_source(wanted)  # before a lock file is written
    return cached(wanted.path, lambda: _prepare(wanted, _require_source(wanted)))


def _is_embedded(name: str) -> bool:
    return name in DATASETS and DATASETS[name].embedded


def _require_source(wanted: Prepared) -> Path | None:
    name, source = wanted.name, known_source(wanted.name)
    if source is not None or _is_embedded(name):
        return source
    if name not in known_datasets():
        raise InputError(
            f"{unknown('data set', name, known_datasets())}; "
            f"any folder of images becomes one: aaebench stage --dataset {name} --from FOLDER"
        )
    crop = "" if wanted.crop == "squeeze" else f" --crop {wanted.crop}"
    raise InputError(
        f"{name} at {wanted.image_size} px is not staged on this machine; "
        f"run: aaebench stage --dataset {name} --image-size {wanted.image_size}{crop} [--from PATH]"
    )


def _prepare(wanted: Prepared, source: Path | None) -> Entry:
    """Read a source; say what of it is not used, and where a published data set is not whole."""
    name, image_size, crop, split = wanted
    opened = open_source(source) if source else EMBEDDED
    with console.status(f"preparing {name} at {image_size} px"):
        contents = _choose_reader(wanted, opened)(opened, image_size, crop)
        tensors = {"images": fit(contents.images, image_size, crop).contiguous()}
    if contents.labels is not None:
        tensors["labels"] = contents.labels
    n, metadata = len(contents.images), {"name": name, "crop": crop, "split": split, "transparency": BACKGROUND}
    if contents.factors is not None:
        tensors["factors"] = contents.factors.numbers
        metadata["factors"] = contents.factors.describe()
        sizes = ", ".join(f"{factor.name} {len(factor.values)}" for factor in contents.factors.factors)
        say(f"{name}: factors {sizes}")
    metadata["source"] = shown(source.absolute()) if source else "embedded"
    metadata |= {"n_used": str(n), "n_passed_over": str(len(contents.passed_over))}
    if contents.passed_over:
        metadata["passed_over"] = json.dumps(contents.passed_over[:NAMES_KEPT])
        say(describe_use(opened.path, n, contents.passed_over))
    if contents.classes:
        metadata["classes"] = json.dumps(contents.classes)
        classes = f"{name}: {len(contents.classes)} classes: {list_some(contents.classes)}"
        say(classes)
    expected = DATASETS[name].n_train if split == "train" and name in DATASETS else None
    expected = DATASETS[name].n_test if split == "test" and name in DATASETS else expected
    if expected is not None:
        metadata |= {"n_expected": str(expected), "whole": str(n == expected).lower()}
    if expected not in (None, n):
        logger.warning(
            "%s is NOT WHOLE: %s holds %s images of its %s split, which has %s as published. Scores on it are not "
            "those on %s, and tables mark them; you can stage it under a name of its own",
            *(name, shown(source), f"{n:,}", "training" if split == "train" else "test", f"{expected:,}", name),
        )
    return tensors, metadata


def _choose_reader(wanted: Prepared, source: Source) -> Reader:
    """The published format's; for a user's own data that of the first kind of files that is there."""
    split = wanted.split
    if wanted.name in DATASETS:
        dataset = DATASETS[wanted.name]
        return dataset.read if split == "train" else dataset.read_test or read_image_files
    kinds: list[tuple[Callable[[], Any], Reader]] = [
        (lambda: source.find_all("imgs.npy"), read_npz),
        (lambda: any(fnmatch(source.named, pattern) for pattern in HDF5), read_hdf5),
        (lambda: source.path.suffix == ".npz" or fnmatch(source.named, "*.npy"), partial(read_arrays, split=split)),
        (lambda: find_tables(source, split), partial(read_tables, split=split)),
        (lambda: source.find_all("data.mdb"), read_lmdb),
        (lambda: source.find_all(IDX_IMAGES), lambda source, *_: read_own_idx(source, split)),
        (lambda: _find_shards(source), partial(_read_shards, split=split)),
    ]
    return next((reader for is_there, reader in kinds if is_there()), partial(read_image_files, with_labels=True))


def _find_shards(source: Source) -> list[str]:
    """The tars of a folder that has nothing else of images."""
    tars = source.find_all("*.tar") if source.path.is_dir() else []
    return tars if not any(is_image(PurePosixPath(name)) for name in source.names) else []


def _read_shards(source: Source, image_size: int, crop: Crop, split: Split) -> Contents:
    joined = join_tars(source, choose_split(_find_shards(source), split == "test"))
    return read_image_files(joined, image_size, crop, with_labels=True)


def known_datasets() -> set[str]:
    """The names that can be used: the data sets of the paper, the embedded digits, and what was staged here."""
    return {*DATASETS, *(each.name for _, each in _staged() if each.split == "train")}


def known_source(name: str) -> Path | None:
    """Where a data set's files lie: a system package, or what an earlier staging at any size was made from."""
    source = _staged_source(name, "train")
    installed = DATASETS[name].installed_at if name in DATASETS else None
    folders = (installed, _download_folder(name))
    return source or next((folder for folder in folders if folder is not None and folder.is_dir()), None)


def _known_test_source(name: str) -> Path | None:
    """Where the files of the test split lie: where they were staged from, else, of a published set, beside the training
    files. Of a user's own, a training source never is one.
    """
    staged = _staged_source(name, "test")
    comes_along = name in DATASETS and DATASETS[name].read_test is not None
    return staged or (known_source(name) if comes_along else None)


def _staged_source(name: str, split: Split) -> Path | None:
    for path, each in _staged():
        if (each.name, each.split) == (name, split):
            with suppress(OSError, KeyError, SafetensorError):
                source = Path(read_metadata(path)["source"])
                if source.exists():
                    return source
    return None


def _staged() -> Iterator[tuple[Path, Prepared]]:
    """What lies in the cache, in order of name."""
    for path in sorted(_data_folder().glob("[!.]*.safetensors")):
        found = re.fullmatch(r"(.+)-(\d+)px(?:-(center))?(?:-(test))?", path.stem)
        if found is not None:
            name, size, center, test = found.groups()
            yield path, Prepared(name, int(size), "center" if center else "squeeze", "test" if test else "train")


def _data_folder() -> Path:
    return cache_folder() / "data"


def _download_folder(name: str) -> Path:
    return cache_folder() / "downloads" / name


def _download(name: str) -> None:
    download = DATASETS[name].torchvision
    if download is None:
        raise InputError(f"{name} cannot be downloaded; run: aaebench stage --dataset {name} --from FOLDER")
    import torchvision.datasets  # noqa: PLC0415 (slow to import)

    class_name, arguments = download
    folder = _download_folder(name)
    temporary = temporary_path(folder)
    with locked(folder):
        if folder.is_dir():  # another process has been faster
            return
        try:
            getattr(torchvision.datasets, class_name)(temporary, download=True, **arguments)
            temporary.replace(folder)
        except Exception as error:  # torchvision passes on whatever its download met
            raise InputError(
                f"cannot download {name} ({error}); "
                f"bring its files and run: aaebench stage --dataset {name} --from PATH"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def read_data_checksum(name: str, image_size: int, crop: Crop = "squeeze") -> str | None:
    """The SHA-256 of a data set as it is prepared now; None if it is not prepared."""
    with suppress(OSError, SafetensorError):
        return read_metadata(Prepared(name, image_size, crop).path).get("sha256")
    return None
