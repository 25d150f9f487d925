"""The workbook as a site, by Sphinx (theme furo, notebooks by MyST-NB) from pages/conf.py.

    python notebooks/build.py site OUT

Chapters, search, contents of a page, dark mode and print come from there; here the notebooks are
made ready: code folded, figures with their captions as words for those who hear the page, widgets
as live pages. The site needs no server and fetches nothing.
"""

from __future__ import annotations

import ast
import html
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from PIL import Image

from notebooks import teach

if TYPE_CHECKING:
    from gscam_lib.explorer.panel import Explorer

FOLDER = Path(__file__).resolve().parent
PAGES, FIGURES = FOLDER / "pages", FOLDER.parent / "figures"
WIDGET = "application/vnd.jupyter.widget-view+json"
FRAME = '<iframe src="{name}" title="Live: move k, prompt and threshold yourself"></iframe>'


def _two_prompts() -> Explorer:
    from gscam_lib.explorer import explore

    photo = {"Eileen Collins, NASA": teach.astronaut()}
    return explore("photo-lite", photo, prompts=["a space shuttle", "a helmet"])


def _first_scene() -> Explorer:
    from gscam_lib import scenes
    from gscam_lib.explorer import explore

    example = next(iter(scenes.load("multi")))
    return explore("mini-rn", {"first scene of multi": example}, prompts=[example.prompt])


def _apple_with_note() -> Explorer:
    from gscam_lib.explorer import explore

    photo = {"an apple with a note": teach.apple_with_note()}
    return explore("mini-rn", photo, prompts=["an apple", "an iPod", "a table"])


LIVE: Mapping[str, Callable[[], Explorer]] = {
    "00_first_look": _two_prompts,
    "02_effect_of_k": _first_scene,
    "03_typographic_attacks": _apple_with_note,
}
"""Notebooks whose page has a live one beside it, in which k, prompt and threshold still move."""

# ---------------------------------------------------------------- chapters


def notebooks(folder: Path = FOLDER) -> list[Path]:
    """The numbered notebooks of the series, in order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def saved_figures(path: Path) -> Iterator[tuple[str, int]]:
    """Names of the figures that a notebook saves, with the number of their code cell, from 1."""
    cells = nbformat.read(path, as_version=4).cells  # type: ignore[no-untyped-call]
    code = [c.source for c in cells if c.cell_type == "code"]
    for number, source in enumerate(code, 1):
        plain = "\n".join(s for s in source.splitlines() if not s.lstrip().startswith(("%", "!")))
        for node in ast.walk(ast.parse(plain)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "gs.figures.save":
                yield str(ast.literal_eval(node.args[1])), number


def chapter(path: Path, live: str = "") -> Any:
    """A notebook as the site shows it: code folded, no plumbing, alt texts, widgets as live pages.

    Code stays open where a heading says “By hand”. live: the file of its live page, if it has one.
    """
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    captions = {number: caption(name) for name, number in saved_figures(path)}
    number, headings = 0, {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":  # what lies outside the notebooks is not on the site
            cell.source = re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", cell.source)
            headings |= dict(re.findall(r"^(##?) (.+)", cell.source, re.M))
            continue
        number += 1
        if not any(text.startswith("By hand") for text in headings.values()):
            cell.metadata.tags = [*cell.metadata.get("tags", []), "hide-input"]
        if captions.get(number):
            cell.metadata.mystnb = {"image": {"alt": captions[number]}}
        for output in cell.outputs:
            if WIDGET in output.get("data", {}):
                output["data"] = {"text/html": FRAME.format(name=live)} if live else {}
    notebook.cells = [c for c in notebook.cells if "google.colab" not in c.source]
    return notebook


def caption(name: str) -> str:
    """What a shipped figure says of itself; nothing where there is none."""
    png = FIGURES / f"{name}.png"
    if not png.is_file():
        return ""
    with Image.open(png) as opened:
        return str(opened.info.get("Description", ""))


def head(path: Path) -> tuple[str, str]:
    """Title and first sentence of a notebook."""
    first = nbformat.read(path, as_version=4).cells[0].source  # type: ignore[no-untyped-call]
    title, _, rest = first.lstrip("# ").partition("\n")
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", rest).replace("*", "").replace("`", "").strip()
    return title.strip(), html.escape(re.split(r"(?<=[.?!])\s", plain)[0])


def cover(paths: list[Path], lives: Mapping[str, str]) -> str:
    """The first page: pages/index.md with the captions of its figures and the chapters put in."""
    items = []
    for path in paths:
        title, lead = head(path)
        also = f' · <a href="{lives[path.stem]}">live</a>' if path.stem in lives else ""
        items.append(f'<li><a href="{path.stem}.html">{title}</a>{also}<br>{lead}</li>')
    text = (PAGES / "index.md").read_text(encoding="utf-8")
    text = re.sub(r"@(first_look_\w+)@", lambda found: caption(found[1]), text)
    text = text.replace("@chapters@", f"<ol class='chapters' start='0'>{''.join(items)}</ol>")
    return text.replace("@list@", "\n".join(path.stem for path in paths))


def write(
    out: Path,
    folder: Path = FOLDER,
    *,
    live: Mapping[str, Callable[[], Explorer]] | None = None,
) -> Path:
    """Write the executed notebooks as one folder of pages; returns the first.

    live: notebook -> its explorer, exported as a page in which maps are still computed, and shown
    where the notebook has a widget; None takes LIVE. Raises FileNotFoundError without notebooks,
    and CalledProcessError with Sphinx's words where it finds fault.
    """
    paths = notebooks(folder)
    if not paths:
        raise FileNotFoundError(f"No notebooks in {folder}; expected 00_….ipynb and so on.")
    makers = LIVE if live is None else live
    lives = {path.stem: f"{path.stem}_live.html" for path in paths if path.stem in makers}
    with tempfile.TemporaryDirectory() as made:
        source = Path(made) / "source"
        shutil.copytree(PAGES, source)
        for path in paths:
            notebook = chapter(path, lives.get(path.stem, ""))
            nbformat.write(notebook, source / path.name)  # type: ignore[no-untyped-call]
        for png in FIGURES.glob("first_look_*.png"):
            shutil.copy(png, source)
        (source / "index.md").write_text(cover(paths, lives), encoding="utf-8")
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "-d", f"{made}/trees"]
        site = Path(made) / "site"  # MyST-NB leaves a folder beside it
        subprocess.run([*command, str(source), str(site)], check=True)
        shutil.copytree(site, out, dirs_exist_ok=True)
    for stem, name in lives.items():
        makers[stem]().export_html(out / name)
    return out / "index.html"
