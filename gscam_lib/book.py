"""The workbook: class notebooks with blanks, the index of figures, a static site.

    python -m gscam_lib.book class       # notebooks/class_*.ipynb from the notebooks with blanks
    python -m gscam_lib.book index       # figures/README.md: figure, notebook, cell, the paper's
    python -m gscam_lib.book site OUT    # one folder of HTML that needs no server

Needs nbformat and nbconvert, which come with JupyterLab.
"""

from __future__ import annotations

import ast
import html
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
BLANK = re.compile(r"^(?P<name>\s*[\w\[\], .]+? = )(?P<answer>.+?)(?P<task>  # ✎ .+)$", re.M)
PAPER = {
    "channels_sheet": "channels ordered by gradient",
    "channels_rankings": "ways to rank channels (values not available)",
    "channels_noise": "channels of CLIP against an ImageNet network (values not available)",
    "k_strip": "maps from few channels to ScoreCAM to RISE",
    "typographic_apple": "the typographic attack: probabilities",
    "typographic_maps": "the typographic attack: apple, iPod, background",
    "objects_grid": "COCO scenes × methods with boxes",
    "objects_by_number": "mean IoU by classes in the image",
    "table_hits": "the tables of zero-shot localization",
    "bias_suspects": "the baggage sign and the tennis court",
}


# ---------------------------------------------------------------- class notebooks


def with_blanks(notebook: Any) -> Any:
    """A copy of a notebook for class: lines marked `# ✎ task` lose what is right of the `=`.

    Outputs are taken out. Raises ValueError where no line is marked.
    """
    import nbformat

    copy = nbformat.from_dict(notebook)  # type: ignore[no-untyped-call]
    count = 0
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.source, found = BLANK.subn(r"\g<name>...\g<task>", cell.source)
            cell.outputs, cell.execution_count = [], None
            count += found
    if not count:
        raise ValueError("Got a notebook without blanks; mark lines as `name = …  # ✎ task`.")
    return copy


def filled(notebook: Any, teacher: Any) -> Any:
    """A class notebook with every blank that is still `...` filled from the teacher's notebook."""
    import nbformat

    copy = nbformat.from_dict(notebook)  # type: ignore[no-untyped-call]
    lines = "\n".join(c.source for c in teacher.cells if c.cell_type == "code")
    answers = {(m["name"], m["task"]): m["answer"] for m in BLANK.finditer(lines)}
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.source = BLANK.sub(
                lambda m: (
                    m["name"] + answers[m["name"], m["task"]] + m["task"]
                    if m["answer"] == "..."
                    else m[0]
                ),
                cell.source,
            )
    return copy


def write_class_notebooks(folder: Path = ROOT / "notebooks") -> list[Path]:
    """Write class_NAME.ipynb beside every notebook with marked lines; returns their paths."""
    import nbformat

    written = []
    for path in notebooks(folder):
        notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        if any(BLANK.search(c.source) for c in notebook.cells if c.cell_type == "code"):
            target = path.with_name(f"class_{path.name}")
            nbformat.write(with_blanks(notebook), target)  # type: ignore[no-untyped-call]
            written.append(target)
    return written


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

    Captions are those inside the PNG files. Returns the README's path.
    """
    home = {name: (path, n) for path in notebooks(folder) for name, n in saved_figures(path)}
    order = {name: place for place, name in enumerate(home)}
    pngs = sorted(figures.glob("*.png"), key=lambda p: (order.get(p.stem, len(order)), p.stem))
    table = ["| figure | notebook | code cell | in the paper |", "|---|---|---|---|"]
    captions = []
    for png in pngs:
        with Image.open(png) as opened:
            caption = opened.info.get("Description", "")
        where, cell = "", ""
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
    text = "\n\n".join(["# Figures", note, "\n".join(table), *captions])
    index.write_text(text + "\n", encoding="utf-8")
    return index


# ---------------------------------------------------------------- the site

BACK = '<p style="margin:1rem 2rem"><a href="index.html">← all notebooks</a></p>'
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 17px/1.55 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem;
color: #222 }} a {{ color: #0072B2 }} li {{ margin: .6rem 0 }} img {{ max-width: 100% }}
p.lead {{ color: #555 }} span {{ color: #666 }}
</style></head><body>{body}</body></html>
"""


def write_site(out: Path, folder: Path = ROOT / "notebooks") -> Path:
    """Write the executed notebooks as one folder of HTML pages; returns the first page.

    Pages hold their pictures, link to each other, and load nothing from any network, formulas
    excepted (the notebooks have none). Needs no server. Raises FileNotFoundError without notebooks.
    """
    from nbconvert import HTMLExporter

    paths = notebooks(folder)
    if not paths:
        raise FileNotFoundError(f"No notebooks in {folder}; expected 00_….ipynb and so on.")
    out.mkdir(parents=True, exist_ok=True)
    exporter = HTMLExporter(template_name="lab")  # type: ignore[no-untyped-call]
    items = []
    for path in paths:
        body, _ = exporter.from_filename(str(path))
        body = _offline(re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', body))
        title, lead = _head(path)
        body = re.sub(r"(<body[^>]*>)", rf"\1{BACK}", body, count=1)
        body = re.sub(r"<title>.*?</title>", f"<title>{html.escape(title)}</title>", body, count=1)
        (out / f"{path.stem}.html").write_text(body, encoding="utf-8")
        items.append(f'<li><a href="{path.stem}.html">{title}</a><br><span>{lead}</span></li>')
    title = "What does CLIP look at? A workbook on gScoreCAM"
    cover = "first_look_astronaut.png"
    if (folder.parent / "figures" / cover).is_file():
        shutil.copy(folder.parent / "figures" / cover, out / cover)
    body = f'<h1>{title}</h1><p><img src="{cover}" alt="Heatmaps of two prompts on one photo"></p>'
    index = out / "index.html"
    page = PAGE.format(title=title, body=f"{body}<ol start='0'>{''.join(items)}</ol>")
    index.write_text(page, encoding="utf-8")
    return index


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
    """Run one of: class, index, site OUT. Raises ValueError for anything else."""
    match list(arguments):
        case ["class"]:
            write_class_notebooks()
        case ["index"]:
            write_index()
        case ["site", out]:
            write_site(Path(out))
        case other:
            raise ValueError(f"Got {other}; expected class, index, or site OUT.")


if __name__ == "__main__":
    main(sys.argv[1:])
