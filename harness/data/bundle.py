"""A whole cache as one tar file: data, weights and statistics for a cluster without internet."""

import io
import json
import shutil
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from rich.progress import track

from harness.data.cache import cache_folder
from harness.errors import InputError
from harness.files import hash_file, remove_leftovers, replacing_file
from harness.terminal import console

FOLDERS = ("data", "weights", "statistics")
MANIFEST = "manifest.json"


def save_bundle(out: Path) -> Path:
    """Write everything staged to a tar file, with the checksum of each file. Raises: InputError if there is nothing."""
    files = [file for folder in FOLDERS for file in sorted((cache_folder() / folder).glob("[!.]*")) if file.is_file()]
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
            for name, file in track(names.items(), "bundling", console=console):
                tar.add(file, name)
    except OSError as error:
        raise InputError(f"cannot write the bundle {out}: {error}") from error
    return out


def load_bundle(bundle: Path) -> list[Path]:
    """Bring a bundle's files to the cache. All are verified before the first is put in its place.

    Returns: the files. Raises: InputError if the bundle is damaged or is none; the cache is then as it was.
    """
    try:
        with tarfile.open(bundle) as tar, ExitStack() as stack:
            manifest = _read_manifest(tar)
            cache_folder().mkdir(parents=True, exist_ok=True)
            remove_leftovers(cache_folder(), "bundle-")
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".writing-bundle-"))
            for name, digest in track(manifest.items(), "reading the bundle", console=console):
                _extract(tar, name, Path(folder) / name)
                if hash_file(Path(folder) / name) != digest:
                    raise InputError(f"{bundle} is damaged: {name} does not match its checksum; copy it again")
            placed = []
            for name in manifest:
                path = cache_folder() / name
                path.parent.mkdir(exist_ok=True)
                placed.append((Path(folder) / name).replace(path))
            return placed
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError) as error:
        raise InputError(f"{bundle} is no whole bundle of `aaebench stage --bundle`: {error}") from error


def _read_manifest(tar: tarfile.TarFile) -> dict[str, str]:
    file = tar.extractfile(MANIFEST)
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
    target.parent.mkdir(exist_ok=True)
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file)
