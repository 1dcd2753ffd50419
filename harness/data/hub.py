"""Data sets of the Hugging Face hub, by its own library, as the Parquet files that everybody else's are."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.data.cache import cache_folder, locked
from harness.errors import InputError
from harness.files import make_folder, temporary_path


def fetch_hub(repository: str) -> Path:
    """A folder of the cache with a Parquet file for each split, downloaded unless it is there.

    Args: repository: `owner/name`, or whatever else datasets.load_dataset takes.
    Raises: InputError if the library is not installed, or cannot load that.
    """
    if find_spec("datasets") is None:
        raise InputError("--hub needs the library datasets; run: pip install 'aaebench[hub]'")
    folder = cache_folder() / "downloads" / f"hub-{repository.strip('/').replace('/', '--')}"
    temporary = temporary_path(folder)
    with locked(folder):
        if folder.is_dir():
            return folder
        import datasets  # noqa: PLC0415 (an extra, and slow to import)

        try:
            splits: Any = datasets.load_dataset(repository)
            make_folder(temporary)
            for split, rows in splits.items():
                rows.to_parquet(temporary / f"{split}.parquet")
            temporary.replace(folder)
        except Exception as error:  # what a download or a stranger's data meets is open-ended
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"cannot load {repository} from the hub: {reason}; without internet bring its Parquet files, and run: "
                "aaebench stage --dataset NAME --from FOLDER"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
