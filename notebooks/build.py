"""The workbook: class notebooks with blanks, the index of figures, a static site.

    python notebooks/build.py class       # notebooks/class_*.ipynb from the notebooks with blanks
    python notebooks/build.py index       # figures/README.md: figure, notebook, cell, the paper's
    python notebooks/build.py lessons OUT # plan, quiz, handout, slides and key of three lessons
    python notebooks/build.py site OUT    # one folder of HTML that needs no server

Needs nbformat and nbconvert, which come with JupyterLab.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # as a script, too
from notebooks import book, classes, teach
from notebooks.book import notebooks, saved_figures

ROOT = Path(__file__).resolve().parents[1]
PAPER = {
    "channels_sheet": "channels ordered by gradient",
    "channels_rankings": "ways to rank channels (values not available)",
    "channels_noise": "channels of CLIP against an ImageNet network (values not available)",
    "k_strip": "maps from few channels to ScoreCAM to RISE",
    "typographic_apple": "the typographic attack: probabilities",
    "typographic_maps": "the typographic attack: apple, iPod, background",
    "objects_grid": "COCO scenes × methods with boxes",
    "k_curve": "localization against k (values not available)",
    "objects_by_number": "mean IoU by classes in the image",
    "table_hits": "the tables of zero-shot localization",
    "every_resnet": "scenes × methods with boxes",
    "bias_suspects": "the baggage sign and the tennis court",
}

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
        "what the paper shows of the same kind; the weights and the data are others, so the "
        "figures illustrate and do not reproduce it."
    )
    index = figures / "README.md"
    tables = [f"- [{path.stem}]({path.name})" for path in sorted(figures.glob("*.md"))
              if path != index]  # fmt: skip
    if tables:
        captions.append("## Tables, by commands\n" + "\n".join(tables))
    text = "\n\n".join(["# Figures", note, "\n".join(table), *captions])
    index.write_text(text + "\n", encoding="utf-8")
    return index


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
            write_index()
        case ["site", out]:
            book.write(Path(out))
        case other:
            raise ValueError(f"Got {other}; expected class, index, lessons OUT, or site OUT.")


if __name__ == "__main__":
    main(sys.argv[1:])
