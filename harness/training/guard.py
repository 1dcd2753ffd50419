"""Who may train in a run folder: the run that it belongs to, on the data it was begun with, for no fewer epochs."""

from contextlib import suppress

from harness.config import RunConfig
from harness.data.staging import read_data_checksum
from harness.errors import InputError
from harness.fields import FIELDS
from harness.protocol import Protocol
from harness.readings import find_evaluation, read_run
from harness.record import RunFolder
from harness.schema import check_records
from harness.training.checkpoint import find_weights


def check_folder(folder: RunFolder, config: RunConfig) -> None:
    """Raises: InputError if the folder is damaged, is another run's, was trained on other data, or for longer than

    asked, and not evaluated where the asked budget ends.
    """
    try:
        if not folder.config_file.exists():
            return
        stored, _, environment = read_run(folder)
        records = folder.read_records()
        check_records(records)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder.path} is damaged ({error}); remove the folder to start this run anew") from error
    wanted = config.model_dump(mode="json")
    of_training = [name for name, field in FIELDS.items() if field.changes == "training" and name in wanted]
    there = {name: stored.get(name, FIELDS[name].default_among(stored)) for name in of_training}
    different = [name for name in of_training if there[name] != wanted[name]]
    if different:
        details = "; ".join(f"{name} is {there[name]!r} there, {wanted[name]!r} here" for name in different)
        raise InputError(
            f"{folder.config_file} describes another run ({details}); was it edited, or its folder renamed?"
        )
    data_sha256 = read_data_checksum(config.dataset, config.image_size, config.crop)
    if data_sha256 is not None and environment.get("data_sha256", data_sha256) != data_sha256:
        raise InputError(
            f"{folder.path} was trained on other data than {config.dataset} is now; "
            "stage what it was trained on, or remove the folder to start this run anew"
        )
    trained = records[-1]["epoch"] if records else 0
    if trained > config.epochs:
        for protocol in config.protocol:
            _require_measurable(folder, config, protocol, trained)


def _require_measurable(folder: RunFolder, config: RunConfig, protocol: Protocol, trained: int) -> None:
    """A shorter budget than the run has reads what was measured where it ends, or measures the weights kept there."""
    epochs, kept = config.epochs, find_weights(folder)
    found = find_evaluation(folder, protocol, config.image_size)
    evaluated = {line["epoch"] for line in found.read()} if found is not None else set()
    if epochs not in evaluated and epochs not in kept:
        there = ", ".join(str(epoch) for epoch in sorted(evaluated | {*kept})) or "none"
        raise InputError(
            f"{folder.path} has been trained for {trained} epochs, and after {epochs} it was not evaluated under "
            f"{protocol.name}, nor were its weights kept (of epochs {there} they were); ask for one of those with "
            f"--epochs, or for more than {trained} to train on"
        )


def create_folder(folder: RunFolder, config: RunConfig) -> None:
    """Make the run's folder, or add to what is asked of it. Raises: InputError if it cannot be written."""
    try:
        folder.ask_for(config.model_dump(mode="json"))
    except OSError as error:
        for path in (folder.samples, folder.checkpoints, folder.path):
            with suppress(OSError):  # of a folder that is not empty
                path.rmdir()
        raise InputError(f"cannot write the run folder {folder.path}: {error}; choose another with --out") from error
