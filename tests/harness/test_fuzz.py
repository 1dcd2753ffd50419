"""Whatever is given, a command ends with a result or a clear error, and writes nothing but what it is asked to write.

Every command and option is taken from the command line itself, every kind of file is damaged as a disk, an editor or a
stranger would. AAEBENCH_FUZZ_SEED chooses the cases (a number, or `random`; 0 unless it is set), AAEBENCH_FUZZ_CASES
multiplies their number. A failure names the seed, and the command line that failed.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from harness.config import RunConfig, build_config
from harness.errors import InputError
from harness.schema import check_object
from harness.settings import parse_yaml
from tests.harness.fuzzing import (
    HOSTILE_YAML,
    JUNK,
    RESUME,
    World,
    altered,
    build_world,
    command_lines,
    damaged,
    execute,
    leave_out_work,
    list_commands,
)

GIVEN = os.environ.get("AAEBENCH_FUZZ_SEED", "0")
SEED = secrets.randbelow(2**32) if GIVEN == "random" else int(GIVEN)
MORE = int(os.environ.get("AAEBENCH_FUZZ_CASES", "1"))
COMMANDS = dict(list_commands())

CHECKPOINT = "run/checkpoints/epoch-000001-step-000000"
LOADED = [
    "export @run --out out",
    "sample @run -n 2 --out out",
    f"{RESUME} --out @runs",
    f"{RESUME.replace('epochs 1', 'epochs 2')} --out @runs",
]
OF_A_RUN = [*LOADED, "show @run", "evaluate @run --protocol @protocol.yaml"]
# What scores any images with weights that are there.
SCORE = "score --extractor domain-digits --real @images --fake @images"
STAGE = "stage --image-size 8 --dataset new"
# Every kind of file that is read, as the world has it, and what reads it: `@name` is one of the world's inputs.
READ: dict[str, list[str]] = {
    "sweep.yaml": ["sweep plan @sweep.yaml --executor local", "sweep status @sweep.yaml", "doctor @sweep.yaml"],
    "config.yaml": ["run --config @config.yaml"],
    "config.json": ["run --config @config.json"],
    "protocol.yaml": ["run --preset demo --protocol @protocol.yaml", f"{SCORE} --protocol @protocol.yaml"],
    "own.py": ["run --preset demo --variant own:Mine", "run --preset demo --variant own:Mine --set options.steps=2"],
    "slurm.yaml": ["evaluate @run --protocol @protocol.yaml --slurm @slurm.yaml --executor slurm"],
    "run/config.json": OF_A_RUN,
    "run/status.json": OF_A_RUN,
    "run/environment.json": OF_A_RUN,
    "run/records.jsonl": OF_A_RUN,
    "run/evaluations/*/protocol.json": OF_A_RUN,
    "run/evaluations/*/records.jsonl": OF_A_RUN,
    f"{CHECKPOINT}/progress.json": LOADED,
    f"{CHECKPOINT}/model.safetensors": LOADED,
    f"{CHECKPOINT}/optimizer.safetensors": LOADED[-1:],
    "export/config.json": ["sample @export -n 2 --out out", "show @export"],
    "export/model.safetensors": ["sample @export -n 2 --out out"],
    "swept/sweeps/tiny/*/submission.json": [
        "sweep status @sweep.yaml --out @swept",
        "sweep cancel @sweep.yaml --out @swept",
        "sweep plan @sweep.yaml --out @swept",
    ],
    "campaign/looks.jsonl": ["collect @campaign --out out", "sweep extend @campaign --at-most 9 --out out.yaml"],
    "campaign/.aaebench-index.arrow": ["collect @campaign --out out"],
    "collected/collection.json": [
        "sweep extend @collected --at-most 9 --out out.yaml",
        "collect @campaign --out @collected",
        "compare @collected @campaign",
    ],
    "collected/runs.parquet": ["compare @collected @campaign"],
    "bundle.tar": ["stage --from-bundle @bundle.tar", "stage --bundle @bundle.tar"],
    "images.tar": [f"{STAGE} --from @images.tar", f"{SCORE} --real @images.tar"],
    "images.tar.gz": [f"{STAGE} --from @images.tar.gz", f"{SCORE} --fake @images.tar.gz"],
    "images.zip": [f"{STAGE} --from @images.zip", f"{SCORE} --fake @images.zip"],
    "images/000.png": [f"{STAGE} --from @images", SCORE],
    "images.npz": [f"{SCORE} --fake @images.npz"],
    "packed.npz": [f"{SCORE} --fake @packed.npz", f"{SCORE} --fake @packed.npz:images", f"{STAGE} --from @packed.npz"],
    "floats.npy": [f"{STAGE} --from @floats.npy"],
    "rows.parquet": [f"{STAGE} --from @rows.parquet"],
    "rows.arrow": [f"{STAGE} --from @rows.arrow"],
    "listed/metadata.csv": [f"{STAGE} --from @listed"],
    "sampled/001.json": [f"{STAGE} --from @sampled"],
    "statistics.npz": [f"{SCORE} --real @statistics.npz"],
    "idx/train-images-idx3-ubyte": [f"{STAGE} --from @idx", "stage --dataset mnist --image-size 8 --from @idx"],
    "idx-gz/train-labels-idx1-ubyte.gz": [f"{STAGE} --from @idx-gz"],
    "cifar/data_batch_1": ["stage --dataset cifar10 --image-size 8 --from @cifar"],
    "cifar-bin/data_batch_1.bin": ["stage --dataset cifar10 --image-size 8 --from @cifar-bin"],
    "domain-digits.safetensors": [f"{SCORE} --extractor @domain-digits.safetensors"],
    "features.pt": [f"{SCORE} --extractor @features.pt"],
}
SCORE_OPTIONS = ("--extractor", "--real", "--fake")


def fuzz(cases: int) -> Callable[[Any], Any]:
    """So many cases of a test, which follow from the seed, and which a failure is told with."""

    def decorate(test: Any) -> Any:
        quickly = settings(
            max_examples=cases * MORE,
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        )
        return seed(SEED)(quickly(test))

    return decorate


@pytest.fixture(scope="module")
def module_patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, module_patch: pytest.MonkeyPatch) -> World:
    root = tmp_path_factory.mktemp("fuzz")
    module_patch.setenv("AAEBENCH_CACHE", str(root / "cache"))
    module_patch.setenv("COLUMNS", "200")
    world = build_world(root)
    leave_out_work(module_patch)
    module_patch.chdir(root)
    module_patch.syspath_prepend(world.inputs)
    return world


@pytest.fixture(autouse=True)
def told() -> None:
    print(f"AAEBENCH_FUZZ_SEED={SEED}")


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_any_command_line(path: tuple[str, ...], world: World) -> None:
    @fuzz(cases=40)
    @given(command_lines(path, COMMANDS[path]))
    def check(line: list[str]) -> None:
        note(f"AAEBENCH_FUZZ_SEED={SEED}")
        execute(world, *line)

    check()


FIELD = st.sampled_from(
    [*RunConfig.model_fields, "preset", "options.sigma", "options.n", "options.weight", "epoch", ""]
)
VALUE = st.sampled_from(
    [*JUNK, "gan", "n_iter", "kld_loss", "demo", "clean", ["paper", "clean"], "bf16", "exp", "x.pt"]
)
NUMBER = st.integers(-(2**70), 2**70) | st.floats() | st.integers(0, 200)


@fuzz(cases=1500)
@given(st.dictionaries(FIELD, VALUE | NUMBER, min_size=1, max_size=3))
def test_any_value_of_any_field(fields: dict[str, Any]) -> None:
    """It is refused in a line for each field, or makes a run that whoever reads run folders accepts."""
    note(f"AAEBENCH_FUZZ_SEED={SEED}")
    try:
        config = build_config(fields)
    except InputError as error:
        assert len(str(error)) < 1000 * len(fields)  # noqa: PT017 (a result is as good)
        return
    assert config.run_id
    check_object("config", config.model_dump(mode="json"))
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def contents(file: Path) -> st.SearchStrategy[bytes]:
    """What becomes of a file's content: bytes that a disk has lost, and values that somebody has changed."""
    content = file.read_bytes()
    strategies = [damaged(content)]
    if file.suffix in (".yaml", ".json"):
        strategies.append(altered(parse_yaml(content.decode())).map(lambda made: json.dumps(made).encode()))
    if file.suffix == ".yaml":
        strategies.append(st.sampled_from(HOSTILE_YAML).map(str.encode))
        strategies.append(
            st.tuples(st.sampled_from(HOSTILE_YAML), st.integers(0, 1)).map(lambda h: content + h[0].encode())
        )
    if file.suffix == ".jsonl":
        first, *others = content.splitlines(keepends=True)
        strategies.append(
            altered(json.loads(first)).map(lambda made: json.dumps(made).encode() + b"\n" + b"".join(others))
        )
    if file.name == "progress.json":  # which says its own checksum
        known = {name: value for name, value in json.loads(content).items() if name != "checksum"}
        strategies.append(altered(known).map(sign))
    return st.one_of(strategies)


def sign(content: Any) -> bytes:
    """A manifest that a stranger has changed, and given the checksum that belongs to it."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps(content | {"checksum": digest} if isinstance(content, dict) else content).encode()


def read_line(line: str) -> list[str]:
    """A command line of READ; of an option that is given twice the later one counts."""
    words, given = [word.replace("@", "../inputs/") for word in line.split()], {}
    for at, word in enumerate(words):
        if word in SCORE_OPTIONS and words[0] == "score":
            given[word] = words[at + 1]
    if words[0] != "score":
        return words
    others = [w for at, w in enumerate(words) if w not in SCORE_OPTIONS and words[at - 1] not in SCORE_OPTIONS]
    return [*others, *(word for pair in given.items() for word in pair)]


@pytest.mark.parametrize("name", READ)
def test_any_content_of_a_file(name: str, world: World) -> None:
    (file,) = world.pristine.glob(name)

    @fuzz(cases=20)
    @given(st.sampled_from(READ[name]), contents(file))
    def check(line: str, content: bytes) -> None:
        note(f"AAEBENCH_FUZZ_SEED={SEED}")
        note(f"{name} holds {content[:2000]!r}")
        with world.replacing(file.resolve(), content):
            execute(world, *read_line(line))

    check()


TENSORS = ("model.safetensors", "optimizer.safetensors")


@fuzz(cases=30)
@given(data=st.data())
def test_any_checkpoint_that_a_stranger_has_signed(data: st.DataObject, world: World) -> None:
    """Weights of which the checksums are right, and nothing else need be."""
    checkpoint = (world.pristine / CHECKPOINT).resolve()
    name = data.draw(st.sampled_from(TENSORS))
    content = data.draw(tensors(checkpoint / name))
    manifest = json.loads((checkpoint / "progress.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    signed = sign({key: value for key, value in manifest.items() if key != "checksum"})
    with world.replacing(checkpoint / name, content), world.replacing(checkpoint / "progress.json", signed):
        execute(world, *read_line(data.draw(st.sampled_from(LOADED))))


def tensors(file: Path) -> st.SearchStrategy[bytes]:
    """A safetensors file that is damaged, or holds other tensors: of other names, shapes, types or values."""
    whole = load_file(file)

    def change(name: str, kind: str) -> bytes:
        made, tensor = dict(whole), whole[name]
        other = {
            "lost": None,
            "empty": tensor[:0] if tensor.ndim else tensor.new_zeros(0),
            "deeper": tensor[None],
            "double": tensor.double(),
            "integer": tensor.long(),
            "NaN": torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor,
        }[kind]
        del made[name]
        return save(
            made
            if other is None
            else {**made, name: other.contiguous()} | ({"more": other.clone()} if kind == "NaN" else {})
        )

    kinds = st.sampled_from(["lost", "empty", "deeper", "double", "integer", "NaN"])
    return st.builds(change, st.sampled_from(sorted(whole)), kinds) | damaged(file.read_bytes())
