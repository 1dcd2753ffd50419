"""report.html: one file with everything in it, made from an analysis by the template in page/."""

import io
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from harness.files import write_text
from results.compute.analysis import FILES, Analysis
from results.read.schema import SCHEMA_VERSION
from results.show.budget_table import INTRO as BUDGETS_INTRO
from results.show.budget_table import build_tuned_table
from results.show.epochs import build_grids
from results.show.figures import Drawing, draw_all, encode_picture, save_figure
from results.show.figures.page import fit_to_pages
from results.show.report_tables import (
    build_across_table,
    build_collapse_tables,
    build_comparison_table,
    build_cost_tables,
    build_dose_table,
    build_failure_table,
    build_paper_table,
    build_protocol_tables,
    build_run_tables,
    build_spread_table,
    build_time_table,
    say_once,
)
from results.show.sentences import describe
from results.show.write import Output

SECTIONS = [
    ("summary", "Summary"),
    ("tables", "Tables"),
    ("baseline", "Against the AAE"),
    ("budgets", "Equal budgets"),
    ("claims", "Claims"),
    ("collapse", "Collapse"),
    ("dose", "Dose and response"),
    ("samples", "Samples"),
    ("figures", "Figures"),
    ("runs", "Runs"),
    ("failures", "Failures"),
    ("provenance", "Provenance"),
    ("files", "Files"),
]
DECIDED = ["better", "worse", "different", "equivalent"]  # verdicts; the rest of the comparisons is folded away
BASELINE_INTRO = """
Each variant minus the AAE of its setting: better, worse, equivalent (inside a margin, 10 % of the AAE's mean unless
--margin says otherwise: two one-sided tests) or undecided. Tested on the measure's scale (log, logit or linear), with
variances that borrow from all comparable cells, seed by seed only where the seeds' scores go together; p after
Holm's correction over the measure's comparisons in the setting. More seeds: what would decide it with a chance of 0.8,
if the difference seen is the true one (a rough number). One seed has no interval and no p; neither have equal copies.
"""
COLLAPSE_INTRO = """
Variance collapse is sigma going to 0: less than 5 % of the codes' variance is noise, a plain autoencoder is left.
Posterior collapse is the reverse: more than 95 % is noise, and codes say nothing about the image. FID of posterior
samples, beside that of prior samples, shows what of it the decoder causes and what the mismatch of prior and aggregated
posterior. Units: sigma and mu as the encoder gives them, KL in nats.
"""

DOSE_INTRO = """
Does the collapse harm the samples? A dose is one number in which runs of otherwise equal settings differ, at three
levels or more: the strength of a remedy that holds sigma up, the learning rate, the dimensions of the code. What it
does to sigma is the noise share; the response is read against that. FID beyond reconstructions' is what prior samples
have beyond posterior samples: the mismatch of the two. The figures of each dose are below, among the others.
"""


def write_report(analysis: Analysis, output: Output, refresh: float | None = None) -> None:
    """Write figures/ and report.html. Raises: OSError.

    Args: refresh: seconds after which an open page loads itself anew; None for a page that stays, whose figures are
        written for papers too.
    """
    drawings = draw_all(analysis.collection, analysis.frames)
    pictures = [_save(drawing, output, for_papers=refresh is None) for drawing in drawings]
    write_text(output.place("report.html"), _render(analysis, pictures, refresh))


def _render(analysis: Analysis, pictures: list[dict[str, Any]], refresh: float | None) -> str:
    folder = files("results") / "show" / "page"
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))
    runs = analysis.collection.runs
    datasets, variants = sorted(runs["dataset"].unique()), list(runs["variant"].unique())
    claims = [
        {**row, "parts": row["evidence"].split("; ")} for row in analysis.frames["claims"].to_dict(orient="records")
    ]
    is_decided = analysis.comparisons["verdict"].isin(DECIDED)
    decided = build_comparison_table(analysis.comparisons[is_decided], "comparisons", "Decided")
    undecided = build_comparison_table(analysis.comparisons[~is_decided], "comparisons-undecided", "Undecided")
    grids, unshown_grids = build_grids(analysis.collection)
    listed = [(f"{name}.csv", f"a row for each: {meaning}") for name, (_, meaning) in FILES.items()]
    listed += [(f"tables/{table.stem}.{suffix}", "") for table in analysis.tables for suffix in ("csv", "md", "tex")]
    return template.render(
        title=f"aaebench: {', '.join(datasets) or 'no evaluations yet'}",
        meta=f"written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        refresh=refresh and max(1, round(refresh)),
        style=Markup((folder / "report.css").read_text(encoding="utf-8")),
        script=Markup((folder / "report.js").read_text(encoding="utf-8")),
        sections=SECTIONS,
        datasets=datasets,
        variants=variants,
        sentences=describe(analysis),
        paper_tables=[build_paper_table(table) for table in analysis.tables],
        baseline_intro=BASELINE_INTRO,
        decided=say_once(decided),
        undecided=say_once(undecided),
        across=build_across_table(analysis.frames["across_datasets"]),
        spread=build_spread_table(analysis.frames["spread"], runs["extractor"]),
        budgets_intro=BUDGETS_INTRO,
        tuned=say_once(build_tuned_table(analysis.frames["tuned"])),
        claims=claims,
        claims_tuned=(analysis.frames["claims"]["settings"] == "tuned").any(),
        several_ways=analysis.frames["claims"][["protocol", "extractor"]].drop_duplicates().shape[0] > 1,
        collapse_intro=COLLAPSE_INTRO,
        collapse_tables=[say_once(table) for table in build_collapse_tables(analysis)],
        dose_intro=DOSE_INTRO,
        grids=grids,
        unshown_grids=unshown_grids,
        doses=say_once(build_dose_table(analysis.frames["dose_response"])),
        figures=pictures,
        run_tables=[say_once(table) for table in (*build_run_tables(analysis), build_time_table(analysis)) if table],
        failures=build_failure_table(analysis),
        provenance=describe_provenance(analysis),
        cost_tables=build_cost_tables(analysis),
        protocol_tables=build_protocol_tables(analysis),
        files=listed,
        schema_version=SCHEMA_VERSION,
    )


def describe_provenance(analysis: Analysis) -> list[tuple[str, str]]:
    """Where the numbers come from, as names and values."""
    table, runs = analysis.collection.provenance, analysis.collection.runs
    hours = table[["training_hours", "evaluation_hours", "gpu_hours"]].sum()
    measured = table["energy_kwh"].dropna()
    hardware = table["gpu"].fillna("CPU") + " on " + table["hostname"].fillna("an unknown host")
    processes = table["num_processes"].dropna().astype(int)

    def distinct(values: Any) -> str:
        counts = values.dropna().value_counts()
        return (
            "; ".join(f"{name} ({n} runs)" if len(counts) > 1 else str(name) for name, n in counts.items()) or "unknown"
        )

    started, updated = table["started"].dropna(), table["updated"].dropna()
    return [
        ("commit", distinct(table["git_commit"])),
        ("versions", distinct(table["versions"])),
        ("hardware", distinct(hardware)),
        ("processes a run", distinct(processes)),
        ("from, to", f"{started.min()} to {updated.max()}" if len(started) and len(updated) else "not started"),
        ("hours of training", f"{hours.iloc[0]:.2f}"),
        ("hours of evaluation", f"{hours.iloc[1]:.2f}"),
        ("GPU-hours", f"{hours.iloc[2]:.2f}"),
        ("energy", f"{measured.sum():.3f} kWh in {len(measured)} of {len(table)} runs" if len(measured) else "unknown"),
        ("interruptions", str(int(runs.drop_duplicates("run_id")["interruptions"].sum()))),
        ("protocol ids", ", ".join(sorted(runs["protocol_id"].dropna().unique())) or "none yet"),
        ("also scored under, not shown", ", ".join(analysis.collection.unshown) or "nothing"),
        ("data (SHA-256)", distinct(table["data_sha256"].str[:16])),
        ("sweeps", distinct(runs.drop_duplicates("run_id")["sweep"])),
    ]


def _save(drawing: Drawing, output: Output, for_papers: bool) -> dict[str, Any]:
    """All files of a figure; and for the page the picture itself, and one for narrow screens, as a column prints it."""
    for suffix in ("png", "svg"):
        save_figure(drawing.figure, output.place(f"figures/{drawing.stem}.{suffix}"))
    with Image.open(output.place(f"figures/{drawing.stem}.png")) as picture:
        image = picture.convert("RGB")
    narrow = None
    for name in fit_to_pages(drawing) if for_papers else ():
        save_figure(drawing.figure, output.place(f"figures/{drawing.stem}-{name}.pdf"))
        if name == "column":
            buffer = io.BytesIO()
            drawing.figure.savefig(buffer, format="png", dpi=200)
            with Image.open(buffer) as picture:
                narrow = encode_picture(picture.convert("RGB"))
    size = {"width": image.width, "height": image.height}
    named = {"stem": drawing.stem, "title": drawing.title, "caption": drawing.caption}
    return {**named, "source": encode_picture(image), "narrow": narrow, **size}
