"""The picture of the floors, docs/floors.svg, drawn from the tree as it is: `python docs/tools/floors.py`.

Each floor stands on those that it may import; tests/test_imports.py holds that.
"""

import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PICTURE = ROOT / "docs" / "floors.svg"
WIDTH, MARGIN, GAP, LINE, LETTERS = 960, 16, 10, 17, 104
LEFT = 190  # of a floor's name; its files stand to the right of it
COLOURS = {"": "#546e7a", "results": "#00796b", "slurm": "#6a4fb3", "harness": "#1565c0", "variants": "#ad5a00"}


@dataclass(frozen=True)
class Floor:
    """A folder, or some files of one; `files` are names without .py, all of the folder's where none are given."""

    folder: str
    story: str
    files: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        return self.folder.partition("/")[0]

    def list_files(self, taken: frozenset[str]) -> list[str]:
        """Its modules, and after them its folders that are no floors, but for those that another floor of it has."""
        found = sorted(file.stem for file in (ROOT / self.folder).glob("*.py") if file.stem != "__init__")
        floors = {floor.folder for floor in FLOORS}
        inside = sorted(file.parent.relative_to(ROOT) for file in (ROOT / self.folder).glob("*/__init__.py"))
        found += [f"{folder.name}/" for folder in inside if folder.as_posix() not in floors]
        return [name for name in found if (name in self.files if self.files else name not in taken)]


ENTRY_POINTS = ("commands", "model_commands", "train")
# From the top: what stands higher imports what stands lower. `results` and `slurm` don't import each other.
FLOORS = [
    Floor("", "the command line", ("aaebench",)),
    Floor("results", "what came out: commands"),
    Floor("results/show", "tables, figures, report.html"),
    Floor("results/compute", "seeds, comparisons, claims"),
    Floor("results/read", "run folders to rows"),
    Floor("slurm", "many runs"),
    Floor("harness", "entry points of one run", ENTRY_POINTS),
    Floor("harness/models", "trained models"),
    Floor("harness/training", "the loop and its steps"),
    Floor("harness/evaluation", "scores and the posterior"),
    Floor("harness/tracking", "TensorBoard, MLflow, ..."),
    Floor("harness/launch", "processes"),
    Floor("harness/data", "data sets, weights, cache"),
    Floor("harness", "what all floors share"),
    Floor("variants", "what is trained"),
]


def draw() -> str:
    """The picture as SVG: a box a floor, with its folder, its story and its files."""
    boxes, y = [], MARGIN
    for floor in FLOORS:
        shared = frozenset(ENTRY_POINTS) if floor.folder == "harness" and not floor.files else frozenset()
        lines = textwrap.wrap(", ".join(floor.list_files(shared)), LETTERS, break_long_words=False)
        height = max(2, len(lines)) * LINE + 14
        boxes.append(_draw_box(floor, lines, y, height))
        y += height + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y - GAP + MARGIN}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13">\n'
        "<title>The floors of aaebench: each imports only what stands below it</title>\n"
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{"".join(boxes)}</svg>\n'
    )


def _draw_box(floor: Floor, lines: list[str], y: int, height: int) -> str:
    colour = COLOURS[floor.package]
    name = f"{floor.folder}/" if floor.folder else "aaebench.py"
    texts = [
        f'<text x="{MARGIN + 14}" y="{y + 20}" font-weight="600" fill="{colour}">{name}</text>',
        f'<text x="{MARGIN + 14}" y="{y + 37}" font-size="11" fill="#37474f">{escape(floor.story)}</text>',
        *(
            f'<text x="{MARGIN + LEFT}" y="{y + 20 + number * LINE}" fill="#263238">{escape(line)}</text>'
            for number, line in enumerate(lines if floor.folder else [])
        ),
    ]
    return (
        f'<g><rect x="{MARGIN}" y="{y}" width="{WIDTH - 2 * MARGIN}" height="{height}" rx="6" fill="{colour}" '
        f'fill-opacity="0.07" stroke="{colour}"/>\n'
        f'<rect x="{MARGIN}" y="{y}" width="5" height="{height}" rx="2" fill="{colour}"/>\n'
        + "\n".join(texts)
        + "</g>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(draw())
