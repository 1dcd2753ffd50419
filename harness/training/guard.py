"""Who may train in a run folder: the run that it belongs to, on the data it was begun with."""

from contextlib import suppress

from harness.config import NOT_IN_RUN_ID, RunConfig
from harness.data.staging import read_data_checksum
from harness.errors import InputError
from harness.record import ADDED_FIELDS, RunFolder


def check_folder(folder: RunFolder, config: RunConfig) -> None:
    """Raises: InputError if the folder is damaged, is another run's, or was trained on other data."""
    try:
        if not folder.config_file.exists():
            return
        folder.read_status()
        folder.read_records()
        stored, environment = folder.read_config(), folder.read_environment()
    except (OSError, ValueError) as error:
        raise InputError(f"{folder.path} is damaged ({error}); remove the folder to start this run anew") from error
    wanted = config.model_dump(mode="json", exclude=NOT_IN_RUN_ID)
    stored = ADDED_FIELDS | stored
    differing = sorted(key for key in {*wanted, *stored} - NOT_IN_RUN_ID if stored.get(key) != wanted.get(key))
    if differing:
        details = "; ".join(f"{key} is {stored.get(key)!r} there, {wanted.get(key)!r} here" for key in differing)
        raise InputError(
            f"{folder.config_file} describes another run ({details}); was it edited, or its folder renamed?"
        )
    data_sha256 = read_data_checksum(config.dataset, config.image_size)
    if data_sha256 is not None and environment.get("data_sha256", data_sha256) != data_sha256:
        raise InputError(
            f"{folder.path} was trained on other data than {config.dataset} is now; "
            "stage what it was trained on, or remove the folder to start this run anew"
        )


def create_folder(folder: RunFolder, config: RunConfig) -> None:
    try:
        folder.create(config.model_dump(mode="json"))
    except OSError as error:
        for path in (folder.samples, folder.checkpoints, folder.path):
            with suppress(OSError):  # of a folder that is not empty
                path.rmdir()
        raise InputError(f"cannot write the run folder {folder.path}: {error}; choose another with --out") from error
