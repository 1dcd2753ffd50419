"""progress.json of a checkpoint: how far the run was, and the checksum of each file and of what it says itself."""

import hashlib
import json
from pathlib import Path
from typing import Any

from harness.files import hash_file

MANIFEST = "progress.json"


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Write it beside the files of a checkpoint, which are all there by now."""
    content = content | {"sha256": {file.name: hash_file(file) for file in sorted(path.iterdir())}}
    (path / MANIFEST).write_text(json.dumps(content | {"checksum": _hash(content)}, indent=2))


def read_manifest(path: Path) -> dict[str, Any]:
    """What progress.json of one checkpoint says. Raises: OSError or ValueError unless its files are as written."""
    content = json.loads((path / MANIFEST).read_text())
    if not isinstance(content, dict) or not {"epoch", "step", "loss_sums"} <= content.keys():
        raise ValueError(f"{MANIFEST} does not say how far the run was")
    if content.pop("checksum", None) not in (None, _hash(content)):  # None: written by older code
        raise ValueError(f"{MANIFEST} is not as it was written")
    for name, digest in content.get("sha256", {}).items():
        if hash_file(path / name) != digest:
            raise ValueError(f"{name} is not as it was written")
    return content


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
