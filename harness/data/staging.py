"""Data sets brought to the cache, checksummed. Afterwards a run needs neither the source nor a network."""

import shutil
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from harness.config import check_dataset_name
from harness.data.cache import Entry, cache_folder, cached, locked, read_metadata, save_entry
from harness.data.formats import EMBEDDED, MissingFileError, open_source, read_image_files, resize
from harness.data.sets import DATASETS, DatasetFormat, TrainingSet
from harness.errors import InputError, unknown
from harness.protocol import Split
from harness.terminal import console


def load_training_set(name: str, image_size: int, channels: int = 3, max_images: int | None = None) -> TrainingSet:
    """A prepared training set, prepared first where its source is known on this machine.

    Raises: InputError for an unknown or unstaged data set, damaged files, or colour images asked for in one channel.
    """
    tensors, metadata = _prepare_once(name, image_size)
    images, labels = tensors["images"], tensors.get("labels")
    if images.shape[1] > channels:
        raise InputError(f"{name} has colour images; channels = {channels} needs grey ones, set channels = 3")
    if max_images is not None:
        images, labels = images[:max_images], labels[:max_images] if labels is not None else None
    return TrainingSet(name, images, labels, channels, metadata["sha256"])


def load_test_images(name: str, image_size: int) -> Entry | None:
    """The prepared test split of a data set; None where there is none, or its files are not on this machine."""
    path, source = _data_path(name, image_size, "test"), known_source(name)
    comes_along = source is not None and name in DATASETS and DATASETS[name].read_test is not None
    if not path.exists() and not comes_along:
        return None
    with suppress(MissingFileError):
        return cached(path, lambda: _prepare(name, image_size, source, "test"))
    return None


def stage_dataset(name: str, image_size: int, source: Path | None = None, split: Split = "train") -> Path:
    """Prepare a data set from `source`, else from where it is known to be, else from torchvision's download.

    A new name makes a data set of any folder or archive of images; a source named here replaces what was staged before.
    The published data sets bring their test split with them; for others it is a source of its own, `split="test"`.
    Returns: the cache entry's path. Raises: InputError if the source is missing or damaged; nothing is then changed.
    """
    try:
        check_dataset_name(name)
    except ValueError as error:
        raise InputError(str(error)) from error
    if source is not None and name in DATASETS and DATASETS[name].embedded:
        raise InputError(f"{name} is embedded and needs no --from; give other images another name")
    path = _data_path(name, image_size, split)
    if split == "test" and source is None:
        raise InputError(
            f"the test split of {name} needs its files: aaebench stage --dataset {name} --test --from PATH"
        )
    if source is not None:
        entry = _prepare(name, image_size, source, split)
        with locked(path):
            save_entry(path, *entry)
        if split == "train" and name in DATASETS and DATASETS[name].read_test is not None:
            _data_path(name, image_size, "test").unlink(missing_ok=True)  # it came from the source before this one
    else:
        if not path.exists() and name in DATASETS and not DATASETS[name].embedded and known_source(name) is None:
            _download(name)
        _prepare_once(name, image_size)
    load_test_images(name, image_size)
    return path


def _prepare_once(name: str, image_size: int) -> Entry:
    path = _data_path(name, image_size)
    if not path.exists():
        _require_source(name, image_size)  # before a lock file is written
    return cached(path, lambda: _prepare(name, image_size, _require_source(name, image_size), "train"))


def _require_source(name: str, image_size: int) -> Path | None:
    source = known_source(name)
    if source is not None or (name in DATASETS and DATASETS[name].embedded):
        return source
    if name not in known_datasets():
        raise InputError(
            f"{unknown('data set', name, known_datasets())}; "
            f"any folder of images becomes one: aaebench stage --dataset {name} --from FOLDER"
        )
    raise InputError(
        f"{name} at {image_size} px is not staged on this machine; "
        f"run: aaebench stage --dataset {name} --image-size {image_size} [--from PATH]"
    )


def _prepare(name: str, image_size: int, source: Path | None, split: Split) -> Entry:
    dataset = DATASETS.get(name, DatasetFormat(read_image_files))
    read = dataset.read if split == "train" else dataset.read_test or read_image_files
    with console.status(f"preparing {name} at {image_size} px"):
        images, labels = read(open_source(source) if source else EMBEDDED, image_size)
        tensors = {"images": resize(images, image_size).contiguous()}
    if labels is not None:
        tensors["labels"] = labels
    return tensors, {"name": name, "source": str(source.absolute()) if source else "embedded"}


def known_datasets() -> set[str]:
    """The names that can be used: the data sets of the paper, the embedded digits, and what was staged here."""
    return {*DATASETS, *(path.stem.rpartition("-")[0] for path in _data_folder().glob("*px.safetensors"))}


def known_source(name: str) -> Path | None:
    """Where a data set's files lie: a system package, or what an earlier staging at any size was made from."""
    for path in sorted(_data_folder().glob(f"{name}-*px.safetensors")):
        with suppress(OSError, KeyError, SafetensorError):
            source = Path(read_metadata(path)["source"])
            if path.stem.rpartition("-")[0] == name and source.exists():
                return source
    installed = DATASETS[name].installed_at if name in DATASETS else None
    folders = (installed, _download_folder(name))
    return next((folder for folder in folders if folder is not None and folder.is_dir()), None)


def _data_folder() -> Path:
    return cache_folder() / "data"


def _download_folder(name: str) -> Path:
    return cache_folder() / "downloads" / name


def _data_path(name: str, image_size: int, split: Split = "train") -> Path:
    return _data_folder() / f"{name}-{image_size}px{'' if split == 'train' else f'-{split}'}.safetensors"


def _download(name: str) -> None:
    download = DATASETS[name].torchvision
    if download is None:
        raise InputError(f"{name} cannot be downloaded; run: aaebench stage --dataset {name} --from FOLDER")
    import torchvision.datasets  # noqa: PLC0415 (slow to import)

    class_name, arguments = download
    folder, temporary = _download_folder(name), _download_folder(f".{name}")
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


def read_data_checksum(name: str, image_size: int) -> str | None:
    """The SHA-256 of a data set as it is prepared now; None if it is not prepared."""
    with suppress(OSError, SafetensorError):
        return read_metadata(_data_path(name, image_size)).get("sha256")
    return None
