"""The workbook: class notebooks with blanks, the index of figures, a static site.

    python notebooks/build.py class       # notebooks/class_*.ipynb from the notebooks with blanks
    python notebooks/build.py index       # figures/README.md: figure, notebook, cell, the paper's
    python notebooks/build.py lessons OUT # plan, quiz, handout, slides and key of three lessons
    python notebooks/build.py site OUT    # one folder of HTML that needs no server

Needs nbformat and nbconvert, which come with JupyterLab.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # as a script, too
from gscam_lib.paper.plan import ITEMS, Item, figures_of_the_paper
from notebooks import book, classes, teach
from notebooks.book import notebooks, saved_figures

ROOT = Path(__file__).resolve().parents[1]
PAPER = figures_of_the_paper()  # name -> rows of the plan to reproduce the paper
AT_FULL_SIZE = (
    "--random --images 2 --slow-images 0 --k 1 --without groupcam --no-download --out DIR"
)
MAKERS = {"bench": "`make bench`", "explorer_": "tests/test_browser.py"}  # figures of no notebook


def write_index(figures: Path = ROOT / "figures", folder: Path = ROOT / "notebooks") -> Path:
    """Write figures/README.md: a table of figures with notebook, cell and the paper's figure.

    Captions are those inside the PNG files; tables that commands wrote (*.md) are listed last.
    Returns the README's path.
    """
    home = {name: (path, n) for path in notebooks(folder) for name, n in saved_figures(path)}
    order = {name: place for place, name in enumerate(home)}
    pngs = sorted(figures.glob("*.png"), key=lambda p: (order.get(p.stem, len(order)), p.stem))
    table = ["| figure | notebook | code cell | in the paper |", "|---|---|---|---|"]
    captions = []
    for png in pngs:
        with Image.open(png) as opened:
            caption = opened.info.get("Description", "")
        where, cell = next((w for start, w in MAKERS.items() if png.stem.startswith(start)), ""), ""
        if png.stem in home:
            path, number = home[png.stem]
            where, cell = f"[{path.stem}](../notebooks/{path.name})", str(number)
        table.append(
            f"| [{png.stem}](#{png.stem}) | {where} | {cell} | {PAPER.get(png.stem, '')} |"
        )
        captions.append(f"## {png.stem}\n![{png.stem}]({png.name})\n\n{caption}")
    note = (
        "Made by the notebooks (`make figures`); each is there as PDF too. The last column names "
        "what the paper shows of the same kind, by its row in [the gallery](paper.md); the weights "
        "and the data are others, so the figures illustrate and do not reproduce it."
    )
    index = figures / "README.md"
    tables = [f"- [{path.stem}]({path.name})" for path in sorted(figures.glob("*.md"))
              if path != index]  # fmt: skip
    if tables:
        captions.append("## Tables, by commands\n" + "\n".join(tables))
    text = "\n\n".join(["# Figures", note, "\n".join(table), *captions])
    index.write_text(text + "\n", encoding="utf-8")
    return index


def write_gallery(figures: Path = ROOT / "figures", folder: Path = ROOT / "notebooks") -> Path:
    """Write figures/paper.md: the paper's figures and tables in order, ours of the same kind.

    Beside the workbook's figures, with the cell that made each, stand those of figures/reproduced,
    where a run with the paper's weights has put them. Returns the page's path.
    """
    home = {name: (path, n) for path in notebooks(folder) for name, n in saved_figures(path)}
    there = {name: place for name, place in home.items() if (figures / f"{name}.png").is_file()}
    note = (
        "One row for each table and figure of the paper, in the order of `gscam reproduce "
        "--dry-run`; the paper's own numbers may not be quoted, so rows have ours. Left: the same "
        "kind on bundled weights and scenes, by the notebooks. Right: by `gscam reproduce` on the "
        "paper's weights and data, whose figures go to figures/reproduced. That the path runs at "
        "full size shows [a run of RN50x16 with random weights](reproduce_random.md) on two photos "
        f"of COCO, made so small because a CPU had to do it: `gscam reproduce {AT_FULL_SIZE}`, "
        "with `--root` and `--annotations` of one's own copies; its numbers are of chance."
    )
    parts = ["# The paper's figures, with ours of the same kind", note]
    for item in ITEMS:
        text = item.what[:1].upper() + item.what[1:]
        rows = _gallery_rows(item, there, figures)
        parts += [f"## {item.number} {item.id}", f"{text} ({item.kind}).", rows]
    page = figures / "paper.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def _gallery_rows(item: Item, there: Mapping[str, tuple[Path, int]], figures: Path) -> str:
    """A row of the plan as a table of two pictures, or what is to be done for them."""
    shown = [name for name in item.figure if name in there]
    if item.step == "none":
        return f"Not run: {'; '.join(item.deviations)}."
    left = "<br>".join(
        f"![{name}]({name}.png)<br>[{there[name][0].stem}](../notebooks/{there[name][0].name}), "
        f"code cell {there[name][1]}" for name in shown
    ) or "no figure of this kind in the workbook"  # fmt: skip
    real = figures / "reproduced" / f"{item.id}.png"
    makes = "prints" if item.kind == "number" else "draws"
    right = f"`gscam reproduce --only {item.id} --out DIR` {makes} it"
    if real.is_file():
        right = f"![{item.id}](reproduced/{real.name})"
    return f"| bundled weights | the paper's weights |\n|---|---|\n| {left} | {right} |"


def main(arguments: Sequence[str]) -> None:
    """Run one of: class, index, class index, lessons OUT, site OUT; ValueError for others."""
    match list(arguments):
        case ["class", *rest]:
            classes.write()
            if rest:
                main(rest)
        case ["lessons", out]:
            teach.write(Path(out))
        case ["index"]:
            write_gallery()
            write_index()
        case ["site", out]:
            book.write(Path(out))
        case other:
            raise ValueError(f"Got {other}; expected class, index, lessons OUT, or site OUT.")


if __name__ == "__main__":
    main(sys.argv[1:])
