"""What changes how a step computes: accumulation, clipping, averages, optimisers, compilation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.config import build_config
from harness.errors import InputError
from harness.launch.processes import Processes, build_accelerator
from harness.train import prepare
from harness.training.engine import Engine
from harness.training.stepping import WARM_UP_STEPS, CapturedStep, Piece, Step, choose_way
from tests.captures import PretendedCaptures
from tests.engines import build_engine
from tests.variants.test_every_variant import build_default
from variants import VARIANTS
from variants.aae import AAE

B = 32
OPTIONS: list[dict[str, Any]] = [
    {"gradient_clipping": 0.1},
    {"gradient_accumulation": 4},
    {"ema_decay": 0.9},
    {"optimizer": "adamw"},
]
FUSED: Any = {"lr": 1e-3, "fused": True}


@pytest.fixture
def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(B, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(4)]


def train(engine: Engine, batches: list[Tensor]) -> Tensor:
    return torch.stack([torch.stack(list(engine.step(x, step).values())) for step, x in enumerate(batches)])


class WaitsForDevice(TorchDispatchMode):
    """Raises where a tensor's value is read by the host, whoever asks for it: on a GPU it would wait there."""

    READS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in self.READS:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


class TestAStepReadsNothingBack:
    def test_the_mode_notices(self) -> None:
        with WaitsForDevice(), pytest.raises(AssertionError, match="waits for the device"):
            torch.ones(()).item()

    @pytest.mark.parametrize("architecture", ["mlp", "conv"])
    @pytest.mark.parametrize("name", VARIANTS)
    def test_of_any_variant(self, name: str, architecture: Any, batches: list[Tensor]) -> None:
        engine = build_engine(build_default(name, architecture))
        x = batches[0][:4]
        engine.step(x, 0)
        with WaitsForDevice():
            engine.step(x, 1)

    @pytest.mark.parametrize("fields", [*OPTIONS, {"mixed_precision": "bf16"}], ids=str)
    def test_with_any_option(self, fields: dict[str, Any], batches: list[Tensor]) -> None:
        engine = build_engine(build_default("aae", "mlp"), **fields)
        engine.step(batches[0], 0)
        with WaitsForDevice():
            engine.step(batches[1], 1)


class TestGradientAccumulation:
    @pytest.mark.parametrize("parts", [2, 4])
    def test_changes_nothing_without_batch_normalisation(self, parts: int, batches: list[Tensor]) -> None:
        """Codes and dropout masks are the images' own, whatever the parts: the losses agree."""
        whole = train(build_engine(build_default("equal_linear", "mlp")), batches)
        found = train(build_engine(build_default("equal_linear", "mlp"), gradient_accumulation=parts), batches)
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)

    def test_normalises_each_part_by_itself(self, batches: list[Tensor]) -> None:
        whole = train(build_engine(build_default("aae", "mlp")), batches)
        found = train(build_engine(build_default("aae", "mlp"), gradient_accumulation=4), batches)
        assert not torch.allclose(found, whole, rtol=1e-5)
        torch.testing.assert_close(found, whole, rtol=0.1, atol=0.1)

    def test_parts_that_do_not_divide_the_batch_are_refused(self) -> None:
        fields = {"dataset": "digits", "extractor": "domain", "batch_size": 32, "gradient_accumulation": 3}
        with pytest.raises(InputError, match="in 3 parts each; set it to a multiple of 3"):
            prepare(build_config(fields))


class TestGradientClipping:
    def first_moments(self, engine: Engine, x: Tensor) -> dict[str, Tensor]:
        """After one step they are a tenth of each phase's gradient."""
        engine.step(x, 0)
        moments = engine.optimizer_tensors()
        return {
            phase: torch.stack([m.norm() for key, m in moments.items() if key.endswith(f"{phase}/exp_avg")]).norm() * 10
            for phase in engine.phases
        }

    def test_bounds_the_norm_of_each_phases_gradient(self, batches: list[Tensor]) -> None:
        norms = self.first_moments(build_engine(build_default("aae", "mlp")), batches[0])
        bound = 0.5 * min(norm.item() for norm in norms.values())
        clipped = self.first_moments(build_engine(build_default("aae", "mlp"), gradient_clipping=bound), batches[0])
        for norm in clipped.values():
            assert norm.item() == pytest.approx(bound, rel=1e-3)

    def test_leaves_smaller_gradients_alone(self, batches: list[Tensor]) -> None:
        free = train(build_engine(build_default("aae", "mlp")), batches)
        assert torch.equal(train(build_engine(build_default("aae", "mlp"), gradient_clipping=1e6), batches), free)


class TestMovingAverages:
    @pytest.fixture
    def engine(self) -> Engine:
        return build_engine(build_default("latent_mapping", "mlp"), ema_decay=0.9)

    def test_are_those_of_decoder_and_mapping(self, engine: Engine) -> None:
        assert engine.average is not None
        assert {name.partition(".")[0] for name in engine.average.averages} == {"decoder", "mapping"}

    def test_follow_their_recursion(self, engine: Engine, batches: list[Tensor]) -> None:
        weight = engine.variant.get_parameter("decoder.body.0.weight")
        expected = weight.detach().clone()
        for step, x in enumerate(batches):
            engine.step(x, step)
            expected = 0.9 * expected + 0.1 * weight.detach()
        assert engine.average is not None
        torch.testing.assert_close(engine.average.averages["decoder.body.0.weight"], expected)

    def test_decode_while_evaluating_and_change_no_training(self, engine: Engine, batches: list[Tensor]) -> None:
        without = build_engine(build_default("latent_mapping", "mlp"))
        assert torch.equal(train(engine, batches), train(without, batches))
        z = torch.randn(8, 10)
        with torch.no_grad():
            raw = engine.variant.eval().decode(z)
            with engine.evaluating():
                averaged = engine.variant.decode(z)
            assert not torch.allclose(averaged, raw)
            assert torch.equal(engine.variant.decode(z), raw)


@pytest.mark.parametrize(
    ("fields", "build"),
    [
        (
            {"optimizer": "adamw", "weight_decay": 0.1},
            lambda p: torch.optim.AdamW(p, **FUSED, weight_decay=0.1),
        ),
        ({"weight_decay": 0.1}, lambda p: torch.optim.Adam(p, **FUSED, weight_decay=0.1)),
        ({"betas": [0.5, 0.99]}, lambda p: torch.optim.Adam(p, **FUSED, betas=(0.5, 0.99))),
    ],
)
def test_optimisers_are_pytorchs(
    fields: dict[str, Any], build: Callable[[Any], torch.optim.Optimizer], batches: list[Tensor]
) -> None:
    ours, theirs = build_default("vae", "mlp"), build_default("vae", "mlp")
    engine, optimizer = build_engine(ours, **fields), build(theirs.parameters())
    theirs.use(ours.context)
    for step, x in enumerate(batches):
        engine.step(x, step)
        engine.noise.start_step(step)
        engine.noise.start_update()
        optimizer.zero_grad()
        theirs("elbo", x).backward()
        optimizer.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_adamws_decay_is_pytorchs_unless_set() -> None:
    assert build_config({"optimizer": "adamw"}).weight_decay == 0.01
    assert build_config({}).weight_decay == 0


class TestCompiled:
    def test_modules_train_as_they_do_without(self, batches: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
        """With the tracer and autograd of torch.compile, and without its code generator, which takes a minute."""
        compile_module = nn.Module.compile
        monkeypatch.setattr(nn.Module, "compile", lambda m, **kwargs: compile_module(m, backend="aot_eager", **kwargs))
        plain = train(build_engine(build_default("aae", "mlp")), batches)
        engine = build_engine(build_default("aae", "mlp"), step="compiled")
        assert isinstance(engine.variant, AAE)
        assert engine.variant.encoder._compiled_call_impl is not None
        torch.testing.assert_close(train(engine, batches), plain, rtol=1e-4, atol=1e-5)
        with engine.evaluating():
            assert engine.variant.eval().decode(torch.randn(3, 10)).shape == (3, 3, 32, 32)
        assert all("_orig_mod" not in name for name in engine.variant.state_dict())

    def test_without_a_compiler_training_goes_on_with_one_line(
        self,
        batches: list[Tensor],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
        engine = build_engine(build_default("aae", "mlp"), step="compiled")
        plain = build_engine(build_default("aae", "mlp"))
        torch.testing.assert_close(train(engine, batches[:1]), train(plain, batches[:1]))
        assert engine.way == "eager"
        assert [record.message for record in caplog.records] == [
            "step = compiled needs a C++ compiler, and this machine has none: going on uncompiled"
        ]

    def test_is_not_part_of_a_runs_identity(self) -> None:
        assert build_config({"step": "compiled"}).run_id == build_config({}).run_id


class TestACapturedStep:
    """Which steps are captured, and when, with a stand-in for the graph itself, which needs a GPU (tests/gpu)."""

    @pytest.fixture
    def captures(self, monkeypatch: pytest.MonkeyPatch) -> PretendedCaptures:
        return PretendedCaptures(monkeypatch)

    @pytest.fixture
    def many(self, batches: list[Tensor]) -> list[Tensor]:
        return [*batches, *batches]

    @pytest.mark.parametrize("name", VARIANTS)
    def test_trains_every_variant_to_the_same_bits(
        self, name: str, many: list[Tensor], captures: PretendedCaptures
    ) -> None:
        eager = train(build_engine(build_default(name, "mlp"), step="eager"), many)
        assert captures.captured == 0
        assert torch.equal(train_cloned(build_engine(build_default(name, "mlp")), many), eager)
        assert (captures.captured, captures.launched) == (1, len(many) - WARM_UP_STEPS)

    @pytest.mark.parametrize("fields", [*OPTIONS, {"mixed_precision": "bf16"}], ids=str)
    def test_with_any_option(self, fields: dict[str, Any], many: list[Tensor], captures: PretendedCaptures) -> None:
        eager, captured = (build_engine(build_default("n_iter", "mlp"), step=s, **fields) for s in ("eager", "auto"))
        assert torch.equal(train(eager, many), train_cloned(captured, many))
        assert captures.captured == 1
        if eager.average is not None and captured.average is not None:
            for name, average in eager.average.averages.items():
                assert torch.equal(captured.average.averages[name], average), name

    def test_what_cannot_be_captured_runs_eagerly_and_says_why_once(
        self, many: list[Tensor], captures: PretendedCaptures, caplog: pytest.LogCaptureFixture
    ) -> None:
        captures.refuse = refuse
        found = train(build_engine(build_default("aae", "mlp")), many)
        assert torch.equal(found, train(build_engine(build_default("aae", "mlp"), step="eager"), many))
        assert [record.message for record in caplog.records] == [
            "the step cannot be captured as a CUDA graph (it waits): it runs eagerly"
        ]

    def test_a_graph_that_was_asked_for_and_cannot_be_is_refused(
        self, many: list[Tensor], captures: PretendedCaptures
    ) -> None:
        captures.refuse = refuse
        with pytest.raises(InputError, match=r"cannot be captured \(it waits\); use step = auto"):
            train(build_engine(build_default("aae", "mlp"), step="graph"), many)

    def test_on_a_cpu_there_is_no_graph(self) -> None:
        assert build_engine(build_default("aae", "mlp")).way == "eager"
        with pytest.raises(InputError, match="step = graph: a CUDA graph needs a GPU; use step = auto"):
            build_engine(build_default("aae", "mlp"), step="graph")

    def test_a_variant_of_ones_own_is_captured_where_it_is_asked_for(
        self, captures: PretendedCaptures, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its Python code may count steps, and a graph would not."""
        own, processes = "tests.harness.noisy:Noisy", Processes(build_accelerator())
        assert choose_way(build_config({"variant": own}), processes, None) == "eager"
        assert "step = graph is quicker" in caplog.text
        assert choose_way(build_config({"variant": own, "step": "graph"}), processes, None) == "graph"

    def test_several_processes_that_cannot_communicate_in_a_graph_do_so_between_graphs(
        self, captures: PretendedCaptures
    ) -> None:
        calls: list[str] = []

        def piece(name: str, *, communicates: bool = False) -> Piece:
            return Piece(lambda: calls.append(name), communicates)

        pieces = [piece("a"), piece("sum", communicates=True), piece("b"), piece("c"), piece("sum", communicates=True)]
        step = Step(lambda x: calls.append("begin"), pieces, dict, lambda: calls.append("forget"))
        captured = CapturedStep(step, whole=False)
        for _ in range(WARM_UP_STEPS + 1):
            captured(torch.zeros(1))
        assert calls == ["begin", "a", "sum", "b", "c", "sum"] * (WARM_UP_STEPS + 1)
        assert captures.captured == 2  # a, and b with c
        calls.clear()
        captured(torch.zeros(1))
        assert calls == ["begin", "a", "sum", "b", "c", "sum"]

    def test_where_capturing_the_communication_fails_it_goes_between_the_graphs(
        self, captures: PretendedCaptures, caplog: pytest.LogCaptureFixture
    ) -> None:
        calls: list[str] = []
        pieces = [Piece(lambda: calls.append("a")), Piece(lambda: calls.append("sum"), communicates=True)]
        captured = CapturedStep(Step(lambda x: None, pieces, dict, lambda: calls.append("forget")))
        refusals = [refuse]

        def refuse_once() -> None:
            if refusals:
                refusals.pop()()

        captures.refuse = refuse_once
        for _ in range(WARM_UP_STEPS + 2):
            captured(torch.zeros(1))
        assert calls == ["a", "sum"] * WARM_UP_STEPS + ["forget"] + ["a", "sum"] * 2
        assert captures.captured == 1
        assert not caplog.records


def refuse() -> None:
    raise RuntimeError("it waits\nand waits")


def train_cloned(engine: Engine, batches: list[Tensor]) -> Tensor:
    """Losses that lie where the next step writes its own."""
    return torch.stack([torch.stack(list(engine.step(x, step).values())).clone() for step, x in enumerate(batches)])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gradient_clipping", 0),
        ("gradient_accumulation", 0),
        ("ema_decay", 1),
        ("betas", [0.9, 1]),
        ("weight_decay", -1),
    ],
)
def test_values_that_make_no_sense(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=field):
        build_config({field: value})


def test_synchronised_batch_normalisation_of_several_processes_needs_gpus() -> None:
    processes = Processes(build_accelerator())
    processes.num_processes = 2  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="sync_batchnorm = true needs GPUs"):
        Engine(processes, build_default("aae", "mlp"), build_config({"sync_batchnorm": True}))


def test_synchronised_batch_normalisation_on_one_process_changes_nothing(batches: list[Tensor]) -> None:
    plain = train(build_engine(build_default("aae", "mlp")), batches)
    assert torch.equal(train(build_engine(build_default("aae", "mlp"), sync_batchnorm=True), batches), plain)
