"""A whole cache as one tar file: data, weights and statistics for a cluster without internet."""

import io
import json
import shutil
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from harness.data.cache import cache_folder
from harness.data.source import exists
from harness.errors import InputError
from harness.files import hash_file, make_folder, remove_leftovers, replacing_file, share
from harness.terminal import track

FOLDERS = ("data", "weights", "statistics")
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 2**26  # bytes, which are read at once


def save_bundle(out: Path) -> Path:
    """Write everything staged to a tar file, with the checksum of each file. Raises: InputError if there is nothing."""
    files = [file for folder in FOLDERS for file in sorted((cache_folder() / folder).glob("[!.]*")) if file.is_file()]
    if out.exists() and not _is_bundle(out):
        raise InputError(f"{out} is there and no bundle; name another file, or remove it")
    if not files:
        raise InputError(f"nothing is staged in {cache_folder()}; stage something first: aaebench stage --dataset NAME")
    names = {file.relative_to(cache_folder()).as_posix(): file for file in files}
    remove_leftovers(out.parent, f"{out.name}-")
    try:
        with replacing_file(out) as temporary, tarfile.open(temporary, "w") as tar:
            manifest = json.dumps({name: hash_file(file) for name, file in names.items()}, indent=1).encode()
            entry = tarfile.TarInfo(MANIFEST)
            entry.size = len(manifest)
            tar.addfile(entry, io.BytesIO(manifest))
            for name, file in track(names.items(), "bundling"):
                tar.add(file, name)
    except OSError as error:
        raise InputError(f"cannot write the bundle {out}: {error}") from error
    return out


def load_bundle(bundle: Path) -> list[Path]:
    """Bring a bundle's files to the cache. All are verified before the first is put in its place.

    Returns: the files. Raises: InputError if the bundle is damaged or is none; the cache is then as it was.
    """
    try:
        if not exists(bundle) or not bundle.is_file():
            raise ValueError("it is no file")
        with tarfile.open(bundle, "r:") as tar, ExitStack() as stack:
            manifest = _read_manifest(tar)
            make_folder(cache_folder())
            _require_room(tar, manifest)
            remove_leftovers(cache_folder(), "bundle-")
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".writing-bundle-"))
            for name, digest in track(manifest.items(), "reading the bundle"):
                _extract(tar, name, Path(folder) / name)
                if hash_file(Path(folder) / name) != digest:
                    raise InputError(f"{bundle} is damaged: {name} does not match its checksum; copy it again")
            placed = []
            for name in manifest:
                path = cache_folder() / name
                make_folder(path.parent)
                placed.append((Path(folder) / name).replace(path))
                share(path)
            return placed
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError) as error:
        raise InputError(f"{bundle} is no whole bundle of `aaebench stage --bundle`: {error}") from error


def _is_bundle(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:") as tar:
            first = tar.next() if path.is_file() else None
        return first is not None and first.name == MANIFEST
    except (OSError, tarfile.TarError):
        return False


def _require_room(tar: tarfile.TarFile, manifest: dict[str, str]) -> None:
    """Raises: InputError if what the bundle would write does not fit on the disk, ValueError for a sparse file."""
    members = [tar.getmember(name) for name in manifest]
    if any(member.issparse() or not member.isreg() for member in members):
        raise ValueError("it holds something else than plain files")
    size, free = sum(member.size for member in members), shutil.disk_usage(cache_folder()).free
    if size > free:
        raise InputError(f"the bundle holds {size:,} bytes, and {cache_folder()} has {free:,} free; free some space")


def _read_manifest(tar: tarfile.TarFile) -> dict[str, str]:
    entry = tar.getmember(MANIFEST)
    if entry.issparse() or entry.size > LARGEST_MANIFEST:
        raise ValueError(f"its {MANIFEST} has {entry.size:,} bytes")
    file = tar.extractfile(entry)
    manifest = json.loads(file.read()) if file else None
    if not isinstance(manifest, dict) or not manifest:
        raise ValueError(f"its {MANIFEST} holds no table of files")
    for name in manifest:
        path = PurePosixPath(name)
        if len(path.parts) != 2 or path.parts[0] not in FOLDERS or path.name.startswith("."):
            raise ValueError(f"{name} does not belong into a cache")
    return manifest


def _extract(tar: tarfile.TarFile, name: str, target: Path) -> None:
    source = tar.extractfile(name)
    if source is None:
        raise ValueError(f"{name} is no file")
    make_folder(target.parent)
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file)
