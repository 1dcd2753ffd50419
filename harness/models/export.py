"""A trained variant on its own: one folder with its weights, what rebuilds it, and a card that says what it is."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.files import replacing_folder, save_tensors, write_json
from harness.models.card import build_card
from harness.models.load import EXPORT, Trained, load_trained
from harness.readings import read_evaluation, read_run
from harness.record import Record, RunFolder
from harness.training.checkpoint import Which, names_to_keep

FILES = {"model.safetensors", "config.json", "README.md"}
OF_THE_MACHINE = ("feature_weights", "sweep", "search")  # paths, and what means nothing elsewhere


def write_export(run: Path, which: Which, out: Path | None = None, trust_code: bool = False) -> Path:
    """Export one state of a run to the folder `out`, `<run id>-export` where it is None. Returns: that folder.

    Raises: InputError if the run has no such state, if `out` holds anything but an export of this run, or if it cannot
        be written.
    """
    trained = load_trained(run, which, trust_code=trust_code)
    if EXPORT in trained.config:
        raise InputError(f"{run} is an export already; copy the folder, or name the run folder")
    folder = out or Path(f"{trained.origin.run_id}-export")
    _require_own(folder, trained.origin.run_id)
    try:
        _, _, environment = read_run(RunFolder(run))
        card = build_card(trained, environment, _find_readings(run, trained), folder.resolve().name)
    except (OSError, ValueError) as error:
        raise InputError(f"{run} is damaged: {error}") from error
    config = {name: value for name, value in trained.config.items() if name not in OF_THE_MACHINE}
    config["protocol"] = [protocol | {"extractor_weights": None} for protocol in config["protocol"]]
    kept = names_to_keep(trained.variant)
    weights = {name: tensor for name, tensor in trained.variant.state_dict().items() if name in kept}
    with replacing_folder(folder) as new:
        save_tensors(new / "model.safetensors", weights, {"format": "pt"})
        write_json(new / "config.json", {**config, EXPORT: asdict(trained.origin)})
        (new / "README.md").write_text(card, encoding="utf-8")
    return folder


def _find_readings(run: Path, trained: Trained) -> list[tuple[dict[str, Any], list[Record]]]:
    """Each evaluation's protocol and its lines of the state's epoch; none for a state within an epoch."""
    if trained.origin.step:
        return []
    found = [read_evaluation(each) for each in RunFolder(run).find_evaluations()]
    own = [(protocol, [line for line in lines if line["epoch"] == trained.origin.epoch]) for protocol, lines in found]
    return [(protocol, lines) for protocol, lines in own if lines]


def _require_own(folder: Path, run_id: str) -> None:
    """Raises: InputError for anything that an export of this run may not replace."""
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return
        origin = RunFolder(folder).read_config()[EXPORT]
        if {file.name for file in folder.iterdir()} <= FILES and origin["run_id"] == run_id:
            return
    except (OSError, ValueError, TypeError, KeyError):
        pass  # it is something else
    raise InputError(f"{folder} exists and is no export of {run_id}; choose another with --out, or remove it first")
