"""The workbook: class notebooks with blanks, the index of figures, a static site.

    python notebooks/build.py class       # notebooks/class_*.ipynb from the notebooks with blanks
    python notebooks/build.py index       # figures/README.md: figure, notebook, cell, the paper's
    python notebooks/build.py lessons OUT # plan, quiz, handout, slides and key of three lessons
    python notebooks/build.py site OUT    # one folder of HTML that needs no server

Needs nbformat and nbconvert, which come with JupyterLab.
"""

from __future__ import annotations

import ast
import html
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # as a script, too
from notebooks import classes, teach

if TYPE_CHECKING:
    from gscam_lib.explorer.panel import Explorer

ROOT = Path(__file__).resolve().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
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


def notebooks(folder: Path = ROOT / "notebooks") -> list[Path]:
    """The numbered notebooks of the series, in order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


# ---------------------------------------------------------------- index of figures


def saved_figures(path: Path) -> Iterator[tuple[str, int]]:
    """Names of the figures that a notebook saves, with the number of their code cell, from 1."""
    import nbformat

    cells = nbformat.read(path, as_version=4).cells  # type: ignore[no-untyped-call]
    code = [c.source for c in cells if c.cell_type == "code"]
    for number, source in enumerate(code, 1):
        plain = "\n".join(s for s in source.splitlines() if not s.lstrip().startswith(("%", "!")))
        for node in ast.walk(ast.parse(plain)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "gs.figures.save":
                yield str(ast.literal_eval(node.args[1])), number


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


# ---------------------------------------------------------------- the site


def _two_prompts() -> Explorer:
    from skimage import data

    from gscam_lib.explorer import explore

    photo = {"Eileen Collins, NASA": data.astronaut()}
    return explore("photo-lite", photo, prompts=["a space shuttle", "a helmet"])


def _first_scene() -> Explorer:
    from gscam_lib import scenes
    from gscam_lib.explorer import explore

    example = next(iter(scenes.load("multi")))
    return explore("mini-rn", {"first scene of multi": example}, prompts=[example.prompt])


def _apple_with_note() -> Explorer:
    from gscam_lib import scenes
    from gscam_lib.explorer import explore
    from gscam_lib.typography import put_label

    look = scenes.Look(style=scenes.UNSEEN_STYLE, scale=(0.6, 0.7), max_angle=8, paper=True)
    scene = scenes.compose(["apple"], background="table", seed=5, look=look)
    photo = {"an apple with a note": put_label(scene.image, "iPod")}
    return explore("mini-rn", photo, prompts=["an apple", "an iPod", "a table"])


LIVE: Mapping[str, Callable[[], Explorer]] = {
    "00_first_look": _two_prompts,
    "02_effect_of_k": _first_scene,
    "03_typographic_attacks": _apple_with_note,
}
"""Notebooks whose page has a live one beside it, in which k, prompt and threshold still move."""

LEAD = (
    "One photo, two questions, two maps. The notebooks tell, step by step, how such maps are made, "
    "what they are worth, and when not to believe them. Behind each “live” is a page in which the "
    "maps are computed anew while you move the sliders; nothing here needs a network."
)
NO_ALT = 'alt="No description has been provided for this image"'  # nbconvert's words
BAR = '<p style="margin:1rem 2rem;font:16px system-ui,sans-serif">{links}</p>'
FRAME = '<iframe src="{name}" title="live" style="width:100%;height:46rem;border:0"></iframe>'
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 17px/1.55 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem;
color: #222 }} a {{ color: #0072B2 }} li {{ margin: .6rem 0 }} img {{ max-width: 100% }}
span {{ color: #666 }} li::marker {{ color: #888 }}
</style></head><body>{body}</body></html>
"""


def write_site(
    out: Path,
    folder: Path = ROOT / "notebooks",
    *,
    live: Mapping[str, Callable[[], Explorer]] | None = None,
) -> Path:
    """Write the executed notebooks as one folder of HTML pages; returns the first page.

    Pages hold their pictures, link to each other, and load nothing from any network; none needs a
    server. live: notebook -> its explorer, exported as a page in which maps are still computed, and
    shown where the notebook has a widget; None takes LIVE. Raises FileNotFoundError without
    notebooks.
    """
    paths = notebooks(folder)
    if not paths:
        raise FileNotFoundError(f"No notebooks in {folder}; expected 00_….ipynb and so on.")
    out.mkdir(parents=True, exist_ok=True)
    makers = LIVE if live is None else live
    items = []
    for path in paths:
        name = f"{path.stem}_live.html" if path.stem in makers else ""
        if name:
            makers[path.stem]().export_html(out / name)
        title, lead = _head(path)
        (out / f"{path.stem}.html").write_text(_as_page(path, title, name), encoding="utf-8")
        also = f' · <a href="{name}">live</a>' if name else ""
        items.append(
            f'<li><a href="{path.stem}.html">{title}</a>{also}<br><span>{lead}</span></li>'
        )
    title = "What does CLIP look at? A workbook on gScoreCAM"
    cover = "first_look_astronaut.png"
    if (folder.parent / "figures" / cover).is_file():
        shutil.copy(folder.parent / "figures" / cover, out / cover)
    body = f'<h1>{title}</h1><p><img src="{cover}" alt="Heatmaps of two prompts on one photo"></p>'
    index = out / "index.html"
    body += f"<p>{LEAD}</p><ol start='0'>{''.join(items)}</ol>"
    page = PAGE.format(title=title, body=body)
    index.write_text(page, encoding="utf-8")
    return index


def _as_page(path: Path, title: str, live: str) -> str:
    """A notebook as one HTML page; its widgets are the live page, where there is one."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    captions, shown = _captions(path), []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        for output in cell.outputs:
            if live and WIDGET in output.get("data", {}):
                output["data"] = {"text/html": FRAME.format(name=live)}
            if "image/png" in output.get("data", {}):
                shown.append(html.escape(captions.get(number, "a figure")))
    exporter = HTMLExporter(template_name="lab")  # type: ignore[no-untyped-call]
    body, _ = exporter.from_notebook_node(notebook)
    for alt in shown:  # for those who hear the page
        body = body.replace(NO_ALT, f'alt="{alt}"', 1)
    body = _offline(re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', body))
    links = '<a href="index.html" style="color:#0072B2">← all notebooks</a>'
    if live:
        text = "live: move k, prompt and threshold yourself"
        links += f' · <a href="{live}" style="color:#0072B2">{text}</a>'
    body = re.sub(r"(<body[^>]*>)", rf"\1{BAR.format(links=links)}", body, count=1)
    return re.sub(r"<title>.*?</title>", f"<title>{html.escape(title)}</title>", body, count=1)


def _captions(path: Path) -> dict[int, str]:
    """Captions of the figures that a notebook saves, by the number of their code cell."""
    found = {}
    for name, number in saved_figures(path):
        png = path.parents[1] / "figures" / f"{name}.png"
        if png.is_file():
            with Image.open(png) as opened:
                found[number] = str(opened.info.get("Description", ""))
    return found


def _offline(page: str) -> str:
    """The page without scripts and styles that a browser would fetch from elsewhere."""
    page = re.sub(r'<script[^>]*\ssrc="https?://[^"]*"[^>]*>\s*</script>', "", page)
    page = re.sub(r'<link[^>]*href="https?://[^"]*"[^>]*>', "", page)
    for library in ("mathjax", "requirejs", "mermaid"):
        pattern = (
            rf"<script(?:(?!</script>).)*?https?://[^\"']*{library}(?:(?!</script>).)*</script>"
        )
        page = re.sub(pattern, "", page, flags=re.S | re.I)
    return page


def _head(path: Path) -> tuple[str, str]:
    """Title and first sentence of a notebook."""
    import nbformat

    first = nbformat.read(path, as_version=4).cells[0].source  # type: ignore[no-untyped-call]
    title, _, rest = first.lstrip("# ").partition("\n")
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", rest).replace("*", "").replace("`", "").strip()
    return title.strip(), html.escape(re.split(r"(?<=[.?!])\s", plain)[0])


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
            write_site(Path(out))
        case other:
            raise ValueError(f"Got {other}; expected class, index, lessons OUT, or site OUT.")


if __name__ == "__main__":
    main(sys.argv[1:])
