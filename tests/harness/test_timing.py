"""Where the time of a run goes: what the records say, what a trace shows, what a report tells."""

import json
import time
from pathlib import Path

import pytest
import torch

from harness.record import PARTS_OF_AN_EVALUATION, RunFolder, find_run_folders
from harness.timing import Clock, clocking, timed
from results.compute.analysis import analyse
from results.read.collect import collect
from results.show.report_tables import build_time_table
from tests.harness.trained import command
from tests.results.runs import evaluation, write_run

SHORT = (
    "run",
    "--preset",
    "demo",
    "--epochs",
    "2",
    "--set",
    "max_images=600",
    "--set",
    "eval_every=2",
    "--batch-size",
    "64",
)
CPU = torch.device("cpu")


class TestClock:
    def test_parts_add_up_until_they_are_read(self) -> None:
        with clocking(Clock(CPU)) as clock:
            for _ in range(2):
                with timed("codes"):
                    time.sleep(0.01)
        seconds = clock.read()
        assert list(seconds) == ["time/codes_seconds"]
        assert 0.02 <= seconds["time/codes_seconds"] < 0.5
        assert clock.read() == {}

    def test_of_a_part_within_another_the_outer_one_counts(self) -> None:
        with clocking(Clock(CPU)) as clock, timed("data"), timed("forward"):
            pass
        assert list(clock.read()) == ["time/data_seconds"]

    def test_an_inner_clock_takes_what_is_timed_within_it(self) -> None:
        with clocking(Clock(CPU)) as outer, clocking(Clock(CPU)) as inner, timed("forward"):
            pass
        assert (list(outer.read()), list(inner.read())) == ([], ["time/forward_seconds"])

    def test_an_error_within_a_part_leaves_the_clock_usable(self) -> None:
        with clocking(Clock(CPU)) as clock:
            with pytest.raises(ValueError, match="no"), timed("codes"):
                raise ValueError("no")
            with timed("decode"):
                pass
        assert "time/decode_seconds" in clock.read()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("timed")
    assert command(*SHORT, "--profile", "--out", str(out)) == 0
    (folder,) = find_run_folders(out)
    return folder


def test_records_say_where_the_time_of_a_run_went(run: RunFolder) -> None:
    first, *_, last = run.read_records()
    assert first["time/startup_seconds"] > 0
    assert first["time/data_seconds"] > 0
    assert last["time/epoch_seconds"] > 0
    assert not {f"time/{part}_seconds" for part in PARTS_OF_AN_EVALUATION} & {*first, *last}


def test_an_evaluations_parts_are_most_of_it(run: RunFolder) -> None:
    (evaluation,) = run.find_evaluations()
    lines = evaluation.read()
    for line in lines:
        parts = {
            part: line[f"time/{part}_seconds"] for part in PARTS_OF_AN_EVALUATION if f"time/{part}_seconds" in line
        }
        assert sum(parts.values()) <= line["time/evaluation_seconds"]
        if "sampler" in line:
            assert {"codes", "decode", "resize", "forward", "statistics", "scores"} <= {*parts}
            assert sum(parts.values()) > 0.5 * line["time/evaluation_seconds"]
    assert "time/posterior_seconds" in lines[0], "one pass over the training set, which all parts share"


def test_the_profile_is_a_trace_of_five_steps_and_an_evaluation(run: RunFolder) -> None:
    events = json.loads((run.path / "profile.json").read_text())["traceEvents"]
    annotated = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert {"posterior", "codes", "decode", "resize", "forward", "statistics", "scores"} <= {*annotated}
    steps = [name for name in annotated if name.startswith("Optimizer.step")]
    assert len(steps) == 3 * 5, "three phases in each of the last five of nine steps"


def test_a_finished_run_has_nothing_to_profile(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    (run.path / "profile.json").rename(run.path / "kept.json")
    assert command(*SHORT, "--profile", "--out", str(run.path.parent)) == 0
    assert "nothing to profile" in capsys.readouterr().err
    assert not (run.path / "profile.json").exists()
    (run.path / "kept.json").rename(run.path / "profile.json")


def test_the_report_tells_the_seconds_of_each_cell(run: RunFolder) -> None:
    analysis = analyse(collect(run.path.parent))
    table = build_time_table(analysis)
    assert table is not None
    titles = [column["name"] for column in table.columns]
    assert titles[:7] == ["variant", "data set", "epochs", "runs", "startup", "data", "training"]
    assert titles[titles.index("evaluation") + 1 :] == [*PARTS_OF_AN_EVALUATION], "what follows it is part of it"
    (row,) = table.rows
    shown = dict(zip(titles, (cell.order for cell in row.cells), strict=True))
    (evaluation,) = run.find_evaluations()
    expected = sum(line["time/evaluation_seconds"] for line in evaluation.read())
    assert shown["evaluation"] == pytest.approx(expected)


def test_runs_of_an_earlier_day_have_no_such_table(tmp_path: Path) -> None:
    write_run(tmp_path, "run", {10: evaluation(5.0)})
    assert build_time_table(analyse(collect(tmp_path))) is None
