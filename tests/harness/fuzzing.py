"""What the fuzz test is made of: a small world of inputs, the commands as the command line has them, the property.

A command ends with a result or with a clear error, and writes nothing but what it is asked to write.
"""

import contextlib
import gzip
import io
import json
import os
import pickle
import shutil
import signal
import socket
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from stat import S_ISDIR
from types import FrameType
from typing import Any, NoReturn, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cyclopts import App
from hypothesis import note
from hypothesis import strategies as st

from aaebench import app
from harness.commands import call
from harness.data.bundle import save_bundle
from harness.data.staging import stage_dataset
from harness.errors import CommandError
from harness.models.export import write_export
from results.compute.looks import LOOKS, Look
from results.read.index import NAME as INDEX
from slurm.submission import Submission
from tests.harness.data.test_staging import idx_bytes, write_images
from tests.harness.test_train import only_folder
from tests.harness.trained import command
from tests.results.runs import write_campaign

SECONDS = 20  # after which a command counts as one that never ends
KEPT_BESIDE = (INDEX, ".lock")  # what says nothing, and may be lost
NOTED = {"run": "config.json"}  # what a command notes that it was asked for, before it finds that it cannot
OUTPUTS = ("runs", "demo", "more-seeds.yaml")  # where commands write that are not told where
# What trains the world's run, and given again resumes it.
RESUME = "run --preset demo --image-size 8 --epochs 1 --batch-size 16 --set max_images=64 --set latent_dim=2"
SWEEP = """\
name: tiny
grid: {variant: [aae, n_iter], seed: [0, 1], data: [{dataset: digits, image_size: 32}]}
fixed: {epochs: 1, preset: demo, options: {sigma: exp}, protocol: PROTOCOL}
exclude: [{variant: n_iter, seed: 1}]
slurm: {partition: gpu, gpus_per_node: 1, timeout_min: 240, setup: [module load cuda], sbatch: {reservation: x}}
"""
CONFIG = "preset: demo\nmax_images: 320\nbatch_size: 16\nbetas: [0.5, 0.999]\noptions: {sigma: exp}\nseed: 3\n"
PROTOCOL = "normalisation: batch\nextractor: domain\nresize: bilinear\nsize: 32\nn_fake: 20\nquantisation: uint8\n"
VARIANT = """\
from dataclasses import dataclass
from variants.aae import AAE

class Mine(AAE):
    @dataclass(frozen=True)
    class Options(AAE.Options):
        strength: float = 0.5
        steps: int = 3
"""


HOSTILE_YAML = [
    *(
        "",
        "\0",
        "\ufeff",
        "{",
        "[",
        "- 1",
        "a: b: c",
        "\t- x",
        "%YAML 9.9\n---\n",
        "--- a\n--- b\n",
        "? [a]\n: 1\n",
        "!!x y",
    ),
    *(
        "seed: 1\nseed: 2\n",
        "seed: &a [*a]\n",
        "a: &a [x]\nb: [*a, *a]\n",
        "seed: !!python/object/apply:os.getpid []\n",
    ),
    *(
        "[" * 5000,
        "{a: " * 5000,
        "- " * 5000,
        "seed: .inf\n",
        "seed: 9" + "0" * 5000,
        "seed: 2026-01-01\n",
        "seed: 1:30\n",
    ),
    *(
        "epochs: 1e9\n",
        "epochs: 1000000000\n",
        "learning_rate: .nan\n",
        'dataset: "\\0"\n',
        'sweep: "\\uD800"\n',
        "1: 2\n",
    ),
    *(
        "options: [1]\n",
        "options: {1: 2}\n",
        "options: {options: {}}\n",
        "eval: {when: {}}\n",
        "preset: [demo]\n",
        "<<: 3\n",
    ),
    *(
        "protocol: [[paper]]\n",
        "protocol: {}\n",
        "protocol: [paper, paper]\n",
        "extractor: x.pt\n",
        "extractor_weights: /\n",
    ),
    *(
        "variant: own:Mine\n",
        "variant: [aae]\n",
        "feature_weights: /dev/zero\n",
        "x" * 2_000_000,
        "a: *nothing\n",
        "a: !!int x",
    ),
    *(
        "grid: {}\n",
        "grid: {seed: []}\n",
        "grid: {a: [{}]}\n",
        "exclude: [3]\n",
        "slurm: []\n",
        "slurm: {sbatch: [x]}\n",
    ),
]


class Begun(CommandError):
    """A command has read all that it was given, and begins the work that the fuzz test leaves out."""

    exit_status = 0


def begin(*_: object, **__: object) -> NoReturn:
    raise Begun("begun")


def leave_out_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, programs and networks: what takes long, and has tests of its own."""

    def refuse(*_: object) -> NoReturn:
        raise OSError("the fuzz test has no network")

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("time.sleep", lambda seconds: begin() if seconds >= 1 else None)
    for name in (
        "harness.training.loop.Training.train",
        "harness.data.staging._download",
        "harness.evaluation.classifier.load_classifier",
        "harness.training.evaluations.RunEvaluations.evaluate",
        "results.commands.analyse",
        "results.compare.compare",
        "results.extend.analyse",
        "slurm.doctor.run_doctor",
        "slurm.evaluations.submit_evaluations",
        "slurm.estimate.probe_kinds",
        "slurm.local.run_locally",
        "slurm.memory.measure_demand",
        "slurm.submit.submit_locally",
    ):
        monkeypatch.setattr(name, begin)


@dataclass
class World:
    """A folder with one of everything that is read, made again when a command has changed it.

    `here` is the working folder, in which commands write; `inputs` what they are given.
    """

    root: Path
    pristine: Path
    found: dict[Path, tuple[int, int]] = field(default_factory=dict, repr=False)

    @property
    def here(self) -> Path:
        return self.root / "here"

    @property
    def inputs(self) -> Path:
        return self.root / "inputs"

    def restore(self) -> None:
        """As it was made, but for the working folder's place."""
        if self.found and self.look() == self.found:
            return
        for folder in (self.inputs, self.here):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.pristine, self.inputs, symlinks=True)
        os.mkfifo(self.inputs / "pipe")
        self.here.mkdir()
        os.chdir(self.here)
        self.found = self.look()

    def look(self) -> dict[Path, tuple[int, int]]:
        """Of each file, when it was changed, and its size; folders are only there."""
        found = {path: path.lstat() for path in self.root.rglob("*")}
        return {path: (0, 0) if S_ISDIR(s.st_mode) else (s.st_mtime_ns, s.st_size) for path, s in found.items()}

    def changed(self) -> set[Path]:
        now = self.look()
        return {path for path in self.found.keys() | now.keys() if self.found.get(path) != now.get(path)}

    @contextlib.contextmanager
    def replacing(self, file: Path, content: bytes) -> Iterator[None]:
        """The world with another content of one of its inputs, named as it is in `pristine`."""
        self.restore()
        path = self.inputs / file.relative_to(self.pristine)
        before = self.found[path]
        path.write_bytes(content)
        self.found = self.look()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # where it is no file any more, all is made anew
                shutil.copy2(file, path)
            self.found[path] = before


def write_layouts(pristine: Path, images: Path, pixels: np.ndarray) -> None:
    """Data as people have it: arrays, tables of rows, labels beside four images."""
    np.save(pristine / "floats.npy", (pixels / 255).astype(np.float32))
    rows = pa.table(
        {"image": [{"bytes": file.read_bytes()} for file in sorted(images.iterdir())], "label": [0, 1, 0, 1]}
    )
    pq.write_table(rows, pristine / "rows.parquet")
    with pa.ipc.new_stream(pristine / "rows.arrow", rows.schema) as stream:
        stream.write_table(rows)
    listed = shutil.copytree(images, pristine / "listed")
    (listed / "metadata.csv").write_text("file_name,label\n000.png,cat\n001.png,dog\n")
    sampled = shutil.copytree(images, pristine / "sampled")
    for file in images.iterdir():
        (sampled / f"{file.stem}.json").write_text('{"label": 3}')


def build_world(root: Path) -> World:
    """Everything that is read, small, whole and of this version."""
    pristine = root / "pristine"
    pristine.mkdir()
    assert command(*RESUME.split(), "--out", str(pristine / "runs")) == 0
    (pristine / "run").symlink_to(only_folder(pristine / "runs").path.relative_to(pristine))
    write_campaign(pristine / "campaign", {"aae": [30.0, 31.0], "n_iter": [20.0, 21.0]})
    write_export(pristine / "run", "latest", pristine / "export")
    images = write_images(pristine / "images", n=4)
    with tarfile.open(pristine / "images.tar", "w") as tar, tarfile.open(pristine / "images.tar.gz", "w:gz") as packed:
        for file in sorted(images.iterdir()):
            tar.add(file, f"faces/{file.name}")
            packed.add(file, f"faces/{file.name}")
    with zipfile.ZipFile(pristine / "images.zip", "w") as archive:
        for file in sorted(images.iterdir()):
            archive.write(file, f"faces/{file.name}")
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(pristine / "images.npz", pixels)
    np.savez_compressed(pristine / "packed.npz", images=pixels, labels=np.arange(12))
    write_layouts(pristine, images, pixels)
    np.savez(pristine / "statistics.npz", mu=np.zeros(128), sigma=np.eye(128))
    for folder, compress in (("idx", False), ("idx-gz", True)):
        (pristine / folder).mkdir()
        for name, array in (("images-idx3", pixels[..., 0]), ("labels-idx1", np.arange(12, dtype=np.uint8) % 10)):
            content = idx_bytes(array)
            suffix = ".gz" if compress else ""
            path = pristine / folder / f"train-{name}-ubyte{suffix}"
            path.write_bytes(gzip.compress(content) if compress else content)
    (pristine / "cifar").mkdir()
    batch = {b"data": random.integers(0, 256, (4, 3072), dtype=np.uint8), b"labels": [0, 1, 2, 3]}
    for number in range(1, 6):
        (pristine / "cifar" / f"data_batch_{number}").write_bytes(pickle.dumps(batch, protocol=2))
    submission = pristine / "swept" / "sweeps" / "tiny" / "20260101-000000" / "submission.json"
    submission.parent.mkdir(parents=True)
    Submission(submission.parent, "tiny", "local", {}, ["a", "b"], jobs={"local": ["a"]}).save()
    look = Look("2026-01-01T00:00:00", 9, {'["n_iter"]': {"n": 2, "level": 0.01, "verdict": "undecided"}})
    (pristine / "campaign" / LOOKS).write_text(json.dumps(asdict(look)) + "\n")
    assert command("collect", str(pristine / "campaign"), "--out", str(pristine / "collected")) == 0
    (pristine / "cifar-bin").mkdir()
    for number in range(1, 6):
        records = np.concatenate([np.arange(4, dtype=np.uint8)[:, None], batch[b"data"]], axis=1)
        (pristine / "cifar-bin" / f"data_batch_{number}.bin").write_bytes(records.tobytes())
    torch.jit.script(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4))).save(
        pristine / "features.pt"
    )
    stage_dataset("mine", 8, images)
    save_bundle(pristine / "bundle.tar")
    for name, content in {
        "protocol.yaml": PROTOCOL,
        "config.yaml": CONFIG,
        "config.json": json.dumps({"preset": "demo", "batch_size": 16, "options": {"sigma": "exp"}}),
        "sweep.yaml": SWEEP.replace("PROTOCOL", "protocol.yaml"),
        "slurm.yaml": "slurm: {partition: gpu, cpus_per_task: 2, sbatch: {mail-type: END}}\n",
        "own.py": VARIANT,
        "empty": "",
        "junk": "\0\1\2\3" * 100,
    }.items():
        (pristine / name).write_text(content)
    shutil.copy(Path("harness/evaluation/weights/domain-digits.safetensors").absolute(), pristine)
    (pristine / "nowhere").symlink_to("no-such-file")
    (pristine / "loop").symlink_to("loop")
    world = World(root / "world", pristine.resolve())
    world.root.mkdir()
    return world


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    error: str


def execute(world: World, *arguments: str) -> Outcome:
    """Run a command line in this process, and hold it to the property. Raises: AssertionError if it does not hold."""
    world.restore()
    sys.modules.pop("own", None)  # of the case before
    note(f"aaebench {' '.join(map(repr, arguments))}")
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), _ending_in_time(arguments):
        try:
            status = call(lambda: app([*arguments], result_action="return_value"))
        except SystemExit as ended:  # of the command line's own reader
            status = ended.code
    assert status in (0, 1, 2), f"{arguments} ended with {status}: {error.getvalue()}"
    assert "Traceback" not in error.getvalue()
    assert "[Errno" not in error.getvalue() or status == 2, f"{arguments}: {error.getvalue()}"
    changed = world.changed()
    changed = {path for path in changed if path.name not in KEPT_BESIDE}
    if status == 2:
        assert error.getvalue().strip(), f"{arguments} says nothing"
        changed = {path for path in changed if path.name != NOTED.get(arguments[0])}
        assert not changed, f"{arguments} wrote {changed}: {error.getvalue()}"
    named = [
        Path(os.path.realpath(world.here / name.replace("\0", "")))
        for name in (*(each.rpartition("=")[2] for each in arguments), *OUTPUTS)
    ]
    strange = [path for path in changed if not any(_belongs(path, to) for to in named)]
    strange = [path for path in strange if not path.relative_to(world.root).parts[1].startswith(("aae-", "run-"))]
    assert not strange, f"{arguments} wrote {strange}"
    return Outcome(status, out.getvalue(), error.getvalue())


def _belongs(path: Path, to: Path) -> bool:
    """A command writes below what it is given, a picture or a module beside it, and an index of run folders."""
    beside = [to.with_name(name) for name in (f"{to.name}.png", f"{to.name}.py", f"test_{to.name}.py")]
    return path.is_relative_to(to) or path in (*beside, *to.parents)


@contextlib.contextmanager
def _ending_in_time(arguments: Sequence[str]) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise AssertionError(f"{arguments} did not end within {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Option:
    """An option of a command, or what it takes without a name, as RUN."""

    name: str
    kind: Any
    required: bool


def list_commands(of: App = app, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Option]]]:
    """Every command of the command line, as it is: new ones and their new options are fuzzed from then on."""
    names = [name for name in of if not name.startswith("-")]
    for name in names:
        yield from list_commands(of[name], (*path, name))
    if not names:
        arguments = of.assemble_argument_collection()
        yield path, [Option(each.names[-1], each.hint, bool(each.required)) for each in arguments]


NUMBERS = ["1.5", "2.0", "1e3", "1e999", "nan", "inf", ".inf", "-0", "0x10", "017", "1_0", "9" * 400, str(2**53 + 1)]
NUMBERS += [str(2**63), "１", "1 ", "", "none", "true", "1e300", "5e-324", "-1", "0"]
TEXTS = [
    "",
    " ",
    "-",
    "--",
    "x",
    "a" * 5000,
    "é" * 200,
    "\udcff",
    "\0",
    "a\nb",
    "\x1b[31m",
    "../x",
    "$HOME",
    "{",
    "[x]",
]
TEXTS += ["no.such:X", "own:No", "x:", ":", "x.pt", "x.yaml", "no", "/dev/zero"]
SETTINGS = [
    "",
    "=",
    "x",
    "=x",
    "seed=1.0",
    "options=3",
    "options={}",
    "options.n=2",
    "variant=gan",
    "architecture=conv",
]
SETTINGS += ["image_size=", "betas=[0,0]", "protocol=[]", "samplers=[prior, gmm]", "n_fake=2", "eval={when: after}"]
SETTINGS += [
    "variant=own:Mine",
    "a=*x",
    "a=&x [*x]",
    "seed=!!python/name:os.system ",
    "latent_dim=9",
    "options.sigma=exp",
]
SETTINGS += [
    "protocol={name: x}",
    "extractor_weights=/dev/zero",
    'sweep="\\0"',
    "keep_weights=evaluations",
    "max_images=64",
]
PLACES = ["export", "images", "images/000.png", "images.tar", "images.tar.gz", "images.zip", "empty", "images.npz"]
PLACES += ["packed.npz", "packed.npz:images", "packed.npz:no", "statistics.npz", "idx", "idx-gz", "cifar", "bundle.tar"]
PLACES += [
    "idx/train-images-idx3-ubyte",
    "cifar/data_batch_1",
    "protocol.yaml",
    "config.yaml",
    "sweep.yaml",
    "config.json",
]
PLACES += [
    "slurm.yaml",
    "own.py",
    "junk",
    "nowhere",
    "loop",
    "pipe",
    "no/such",
    "domain-digits.safetensors",
    "empty/x",
    "",
]
PLACES += ["run/config.json", "run/checkpoints/latest/model.safetensors", "runs", "run"]
OUTS = ["/dev/null", "/dev/full", "out", "out/deeper", ".", "./out", "out.png", "a" * 300, "o\0t", "../inputs/images"]
OUTS += ["../inputs/empty", "../inputs/empty/x", "../inputs/export", "../inputs/loop", "../inputs/bundle.tar"]
# What options take, by their names: so that commands are refused late as well.
FITTING: dict[str, list[str]] = {
    "RUN": ["../inputs/run", "../inputs/run", "../inputs/export"],
    "RUNS": ["../inputs/runs", "../inputs/campaign"],
    "REPORT": ["../inputs/campaign"],
    "A": ["../inputs/campaign", "../inputs/runs"],
    "B": ["../inputs/campaign", "../inputs/runs"],
    "SWEEP": ["../inputs/sweep.yaml", "demo"],
    "--variant": ["aae", "n_iter", "gan", "own:Mine"],
    "--dataset": ["digits", "mine", "mnist", "faces", "cifar10"],
    "--image-size": ["32", "8"],
    "--batch-size": ["16", "64"],
    "--protocol": ["paper", "clean", "../inputs/protocol.yaml"],
    "--extractor": ["domain", "domain-digits", "inception", "../inputs/domain-digits.safetensors"],
    "--preset": ["demo", "paper"],
    "--config": ["../inputs/config.yaml", "../inputs/config.json"],
    "--set": SETTINGS,
    "--out": OUTS,
    "--bundle": OUTS,
    "--slurm": ["../inputs/slurm.yaml"],
    "--from": [f"../inputs/{name}" for name in ("images", "images.tar", "images.zip", "idx", "idx-gz", "cifar")],
    "--from-bundle": ["../inputs/bundle.tar"],
    "--real": [f"../inputs/{name}" for name in ("images", "images.npz", "statistics.npz")],
    "--fake": [f"../inputs/{name}" for name in ("images", "images.zip", "packed.npz:images")],
}


# Without these, most command lines of a command would be refused for want of weights.
TYPICAL: dict[tuple[str, ...], list[str]] = {
    ("run",): ["--preset", "demo"],
    ("score",): ["--extractor", "domain-digits"],
}


def values(option: Option) -> st.SearchStrategy[str]:
    """What a user may give for an option: mostly what it takes, now and then what no option does."""
    kinds = {option.kind, *get_args(option.kind)}
    choices = {c for kind in kinds for c in (kind, *get_args(kind)) if isinstance(c, str)}
    fitting = [*FITTING.get(option.name, choices)] or (["1", "2", "5"] if {int, float} & kinds else ["x"])
    places = st.sampled_from(PLACES).map(lambda name: f"../inputs/{name}")
    numbers = st.sampled_from(NUMBERS) | st.integers(-3, 200).map(str) | st.floats().map(str)
    strange = numbers if {int, float} & kinds else places if Path in kinds or str in kinds else st.sampled_from(TEXTS)
    return st.one_of(*[st.sampled_from(fitting)] * 8, strange, st.sampled_from(TEXTS))


@st.composite
def command_lines(draw: st.DrawFn, path: tuple[str, ...], options: Sequence[Option]) -> list[str]:
    """What a command needs, and some of its options, in any order; now and then something that it does not know."""
    parts = [TYPICAL[path]] if path in TYPICAL and draw(st.booleans()) else []
    for option in options:
        if draw(st.integers(0, 39)) == 0 if option.required else draw(st.integers(0, 3)) > 0:
            continue
        if bool in {option.kind, *get_args(option.kind)}:
            parts.append([option.name])
        elif option.name.startswith("-"):
            value = draw(values(option))
            parts.append([f"{option.name}={value}"] if draw(st.booleans()) else [option.name, value])
        else:
            parts.append([draw(values(option))])
    if draw(st.integers(0, 39)) == 0:
        parts.append([draw(st.sampled_from(["--no-such", "-x", "--", "--seed", "--help", "--version", "extra"]))])
    return [*path, *(word for part in draw(st.permutations(parts)) for word in part)]


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Bytes with one to three changes: flipped, cut, repeated, put in or zeroed anywhere, above all near the ends."""
    near = min(600, len(content))
    places = st.integers(0, near) | st.integers(0, len(content)) | st.integers(len(content) - near, len(content))
    change = st.tuples(
        st.sampled_from(["flip", "flip", "cut", "insert", "repeat", "zero", "drop"]),
        places,
        st.integers(1, 64),
        st.binary(min_size=1, max_size=8) | st.sampled_from([b"\0", b"\xff\xfe", b"[" * 3000, b"\n", b"9" * 30, b"-"]),
    )
    return st.lists(change, min_size=1, max_size=3).map(lambda changes: _apply(content, changes))


def _apply(content: bytes, changes: Sequence[tuple[str, int, int, bytes]]) -> bytes:
    for kind, place, length, put in changes:
        before, here, after = content[:place], content[place : place + length], content[place + length :]
        if kind == "flip":
            content = before + bytes(byte ^ (put[0] or 1) for byte in here[:1]) + here[1:] + after
        elif kind == "cut":
            content = before
        elif kind == "insert":
            content = before + put + here + after
        else:
            content = before + {"repeat": here + here, "zero": bytes(len(here)), "drop": b""}[kind] + after
    return content


JUNK: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    2**53,
    2**63,
    10**400,
    0.5,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "x",
]
JUNK += [
    "\ud800",
    "\0",
    "a\nb",
    "a" * 5000,
    "../x",
    "/dev/zero",
    "1",
    "no",
    [],
    {},
    [[1]],
    ["x"],
    [None],
    {"x": {"y": 1}},
]
JUNK += [-(2**63) - 1, 1e-320, "2026-01-01", "\x1b[31m", ["prior"] * 100, {"": ""}, 10**9, "own:Mine", "own:No"]


def altered(content: Any) -> st.SearchStrategy[Any]:
    """JSON values with one place replaced by junk, removed, or given another name."""
    places = list(_places(content))
    change = st.tuples(st.sampled_from(["set", "set", "set", "delete", "rename", "add"]), st.sampled_from(places))
    return st.tuples(change, st.sampled_from(JUNK)).map(lambda made: _alter(content, *made[0], made[1]))


def _places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from _places(value, (*path, key))


def _alter(content: Any, kind: str, path: tuple[Any, ...], junk: Any) -> Any:
    content = json.loads(json.dumps(content))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    if kind == "set":
        inner[path[-1]] = junk
    elif kind == "add" and isinstance(inner, list):
        inner.append(junk)
    elif kind == "add":
        inner[junk if isinstance(junk, str) else "added"] = junk
    else:
        value = inner.pop(path[-1])
        if kind == "rename" and isinstance(inner, dict):
            inner[f"{path[-1]}x"] = value
    return content
