"""The lessons: plan, quiz, handout, slides and key, as pages that need no server and no network.

    python notebooks/build.py lessons OUT

A lesson is a file in lessons/: a head in YAML (title, notebook, presets, what is written on the
handout, quiz) and its plan in Markdown. All else is taken from the notebooks as they are: the words
and the four steps from notebook 0, slides from figures and text, the key from marked lines.
"""

from __future__ import annotations

import base64
import html
import io
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import nbformat
import numpy as np
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from notebooks import classes

FOLDER = Path(__file__).resolve().parent
LESSONS = FOLDER / "lessons"
APP, LIVE = "http://localhost:8866/", "../live/index.html"
LIVE_METHODS = ("gscorecam", "scorecam", "gradcam")
PICTURE = "first_look_network"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>{style}</style></head><body class="{kind}">{body}</body></html>
"""
KEYS = """<script>
addEventListener("keydown", event => {
  const step = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 }[event.key];
  if (!step || event.target.closest("summary, a")) return;
  event.preventDefault();
  const slides = [...document.querySelectorAll("section")];
  const now = slides.findIndex(s => s.getBoundingClientRect().bottom > innerHeight / 2);
  slides[Math.min(Math.max(now + step, 0), slides.length - 1)].scrollIntoView();
});
</script>"""


@dataclass(frozen=True)
class Lesson:
    """A lesson: its number and name, what its head says, its plan in Markdown."""

    number: int
    name: str
    head: dict[str, Any]
    plan: str

    @property
    def title(self) -> str:
        """The title, with the number."""
        return f"Lesson {self.number}. {self.head['title']}"


def lessons(folder: Path = LESSONS) -> list[Lesson]:
    """The lessons, in order."""
    found = []
    for path in sorted(folder.glob("[0-9]_*.md")):
        _, head, plan = path.read_text(encoding="utf-8").split("---\n", 2)
        found.append(Lesson(int(path.name[0]), path.stem, yaml.safe_load(head), plan))
    return found


def teacher(stem: str) -> Any:
    """A notebook of the series, by the name of its file."""
    return nbformat.read(FOLDER / f"{stem}.ipynb", as_version=4)  # type: ignore[no-untyped-call]


def markdown(text: str) -> str:
    """Markdown as HTML; wide tables scroll, and links to notebooks lead to their chapters."""
    text = re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](../book/\1.html)", text)
    made = MarkdownIt("commonmark").enable("table").render(text)
    return made.replace("<table>", '<div class="scroll"><table>').replace(
        "</table>", "</table></div>"
    )


def page(title: str, body: str, kind: str = "") -> str:
    """A whole page, with its style inside."""
    style = (LESSONS / "style.css").read_text(encoding="utf-8")
    return PAGE.format(title=html.escape(title), style=style, body=body, kind=kind)


def picture(data: str, alt: str) -> str:
    """A PNG (base64) with what it shows in words."""
    return f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(alt)}"></figure>'


def _figure(name: str) -> str:
    path = FOLDER.parent / "figures" / f"{name}.png"
    with Image.open(path) as opened:
        caption = str(opened.info.get("Description", name))
    return picture(base64.b64encode(path.read_bytes()).decode(), caption)


def astronaut() -> Image.Image:
    """Eileen Collins, by NASA."""
    from skimage import data

    return Image.fromarray(data.astronaut())


def apple_with_note() -> Image.Image:
    """A drawn apple on a table, with a note that says iPod."""
    from gscam_lib import scenes
    from gscam_lib.typography import put_label

    look = scenes.Look(style=scenes.UNSEEN_STYLE, scale=(0.6, 0.7), max_angle=8, paper=True)
    scene = scenes.compose(["apple"], background="table", seed=5, look=look)
    return Image.fromarray(np.asarray(put_label(scene.image, "iPod")))


PHOTOS: Mapping[str, Callable[[], Image.Image]] = {
    "astronaut": astronaut, "apple with note": apple_with_note,
}  # fmt: skip
"""What a lesson may name as `draw_on`."""


# ---------------------------------------------------------------- plan and quiz


def plan(lesson: Lesson) -> str:
    """The teacher's page: links, presets, blanks, and the plan as it is written."""
    head = lesson.head
    links = {
        "index.html": "all lessons", f"{lesson.name}_handout.pdf": "handout",
        f"{lesson.name}_slides.html": "slides", f"{lesson.name}_quiz.html": "quiz",
        f"class_{head['notebook']}.ipynb": "notebook with blanks",
        f"class_{head['notebook']}_14.ipynb": "for 14-year-olds",
        "key.html": "key", "room.html": "the room",
    }  # fmt: skip
    nav = " · ".join(f'<a href="{to}">{text}</a>' for to, text in links.items())
    told = classes.sheet()[head["notebook"]]
    blanks = "".join(
        f"<li><details><summary><code>{name}</code></summary>{markdown(entry['hint'])}</details></li>"
        for name, entry in told.items()
    )
    presets = "".join(f"<li>{preset['say']}: {_links(preset['query'])}</li>"
                      for preset in head["presets"])  # fmt: skip
    body = (
        f"<nav>{nav}</nav><main><h1>{lesson.title}</h1><p>45 minutes. Notebook: <code>"
        f"{head['notebook']}</code>, of which the slides are made.</p>{markdown(lesson.plan)}"
        f"<h2>Opens as prepared</h2><ul>{presets}</ul>"
        f"<h2>Blanks and their hints</h2><ul>{blanks}</ul></main>"
    )
    return page(lesson.title, body)


def _links(query: Mapping[str, str]) -> str:
    """Where a preset opens: on the live page, where that has the method, and in the app."""
    served = urlencode({name: value for name, value in query.items() if name != "model"})
    app = f'<a href="{APP}?{served}">app</a> with <code>--model {query["model"]}</code>'
    if query.get("method", "gscorecam") not in LIVE_METHODS:
        return app
    return f'<a href="{LIVE}?{urlencode(query)}">live page</a>, or the {app}'


def quiz(lesson: Lesson) -> str:
    """Ten questions on paper, without answers."""
    items = []
    for one in lesson.head["quiz"]:
        choices = "".join(f"<li>□ {html.escape(c)}</li>" for c in one.get("choices", ()))
        below = (
            f"<ul style='list-style:none'>{choices}</ul>" if choices else '<p class="write"></p>'
        )
        items.append(f"<li>{html.escape(one['ask'])}{below}</li>")
    body = (
        f"<main><h1>Quiz: {lesson.head['title']}</h1><p>Name:</p><ol>{''.join(items)}</ol></main>"
    )
    return page(f"Quiz {lesson.number}", body)


# ---------------------------------------------------------------- handout


def words() -> dict[str, str]:
    """The words that notebook 0 explains, with their meaning."""
    text = "\n".join(c.source for c in teacher("00_first_look").cells if c.cell_type == "markdown")
    table = text.partition("**A dozen words**")[2].partition("\n\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", table, re.M)
    return dict(rows[1:])  # below the heads


def steps() -> list[str]:
    """The four steps of the method, as notebook 0 says them."""
    text = "\n".join(c.source for c in teacher("00_first_look").cells if c.cell_type == "markdown")
    found = re.search(r"Four steps: (.+?)\.", text)
    if not found:
        raise ValueError("Notebook 0 has no sentence “Four steps: …” for the handout.")
    return [s.removeprefix("and ") for s in re.split(r",\s+(?=turn|let|and add)", found[1])]


def handout(lesson: Lesson) -> str:
    """One page for pupils: CLIP in one picture, the four steps, the words, what to write today."""
    inline = MarkdownIt("commonmark").renderInline
    listed = "".join(f"<li>{inline(s[0].upper() + s[1:])}.</li>" for s in steps())
    meant = "".join(
        f"<div><dt>{inline(w)}</dt>: <dd>{inline(m)}</dd></div>" for w, m in words().items()
    )
    lines = "".join(f"<p>{t}</p><p class='write'></p>" for t in lesson.head["today"])
    body = (
        f"<h1>{lesson.head['title']}</h1>{_figure(PICTURE)}<h2>Four steps</h2><ol>{listed}</ol>"
        f"<h2>A dozen words</h2><dl>{meant}</dl><h2>Today</h2>{_to_draw_on(lesson)}{lines}"
    )
    return page(lesson.title, body, "sheet")


def _to_draw_on(lesson: Lesson) -> str:
    """The lesson's photo, faint, once for each prompt; nothing where it has none."""
    if "draw" not in lesson.head:
        return ""
    grey = PHOTOS[lesson.head["draw_on"]]().convert("L").resize((300, 300))
    stream = io.BytesIO()
    Image.blend(grey, Image.new("L", grey.size, 255), 0.45).save(stream, "JPEG", quality=80)
    source = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
    image = f'<img src="{source}" alt="The photo, to draw on">'
    frames = "".join(
        f"<figure>{image}<figcaption>“{prompt}”</figcaption></figure>"
        for prompt in lesson.head["draw"]
    )
    return (f"<p>Before you look: where will the map of each be hot? Draw it.</p>"
            f'<div class="draw">{frames}</div>')  # fmt: skip


def to_pdf(source: Path, target: Path) -> bool:
    """Print a page with Chromium; False where there is none (a browser's own print does it)."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        return False
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
               f"--print-to-pdf={target}", source.resolve().as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    return done.returncode == 0 and target.is_file()


# ---------------------------------------------------------------- slides


def slides(lesson: Lesson) -> str:
    """A deck made from the notebook: what is asked, the figure, what to notice; then the quiz."""
    notebook = teacher(lesson.head["notebook"])
    found = [f"<h1>{lesson.head['title']}</h1><p class='keys'>→ and ← turn the pages</p>",
             f"<h2>CLIP in one picture</h2>{_figure(PICTURE)}"]  # fmt: skip
    for part in classes.sections(notebook):
        if part and part[0].source.startswith("## Exercises"):
            break
        found += _slides_of(part)
    for n, one in enumerate(lesson.head["quiz"], 1):
        choices = "".join(f"<li>{html.escape(c)}</li>" for c in one.get("choices", ()))
        answer = f"<p>{html.escape(one['answer'])}</p>"
        answer = f"<details><summary>Answer</summary>{answer}</details>"
        found.append(f"<h2>{n}. {html.escape(one['ask'])}</h2><ul>{choices}</ul>{answer}")
    body = "".join(f'<section tabindex="-1">{slide}</section>' for slide in found)
    return page(lesson.title, f"<main>{body}</main>{KEYS}", "deck")


def _slides_of(part: Sequence[Any]) -> Iterator[str]:
    """Slides of a section: each text, and each figure with what the cell said."""
    left = [c for c in part if classes.BEYOND not in c.metadata.get("tags", [])]
    if any(c.cell_type == "code" for c in part) and not any(c.cell_type == "code" for c in left):
        return
    title = ""
    for cell in left:
        if cell.cell_type == "markdown":
            text = classes.IN_CLASS.sub("", cell.source)
            if text.startswith(("# ", "## ")):
                heading, _, text = text.partition("\n")
                title = MarkdownIt().renderInline(heading.lstrip("# "))
            if text.strip():
                yield f'<h2>{title}</h2><div class="long">{markdown(text)}</div>'
            continue
        shown = [o.get("data", {}) for o in cell.outputs]
        said = "".join(markdown(d["text/markdown"]) for d in shown if "text/markdown" in d)
        tables = [d["text/html"] for d in shown if "<table" in d.get("text/html", "")]
        drawn = [picture(d["image/png"], f"Figure: {title}") for d in shown if "image/png" in d]
        if drawn or tables:
            yield (f'<h2>{title}</h2>{"".join(drawn + tables)}<div class="long said">{said}</div>')


# ---------------------------------------------------------------- key, and all of it


def key() -> str:
    """The teacher's page of answers: blanks, what is folded in the notebooks, quizzes."""
    body = ['<nav><a href="index.html">all lessons</a></nav><main><h1>Key, for teachers</h1>']
    for lesson in lessons():
        answers = "".join(f"<li>{html.escape(q['answer'])}</li>" for q in lesson.head["quiz"])
        body.append(f"<h2>Quiz {lesson.number}: {lesson.head['title']}</h2><ol>{answers}</ol>")
    for stem in classes.sheet():
        notebook = teacher(stem)
        rows = "".join(
            f"<tr><td><code>{name}</code></td><td><code>{html.escape(answer)}</code></td></tr>"
            for (name, _), answer in classes.key(notebook).items()
        )
        folded = "".join(map(markdown, classes.solutions(notebook)))
        body.append(
            f"<h2>class_{stem}</h2><div class='scroll'><table>{rows}</table></div>"
            f"<h3>What the whole notebook has folded</h3>{folded}"
        )
    return page("Key", "".join(body) + "</main>")


def write(out: Path) -> Path:
    """Write all pages of all lessons into a folder; returns its index.

    Handouts become PDFs where a Chromium is there, and are pages to print from a browser elsewhere.
    """
    out.mkdir(parents=True, exist_ok=True)
    items = []
    for lesson in lessons():
        made = {"": plan(lesson), "_quiz": quiz(lesson), "_slides": slides(lesson),
                "_handout": handout(lesson)}  # fmt: skip
        printed = to_pdf(_put(out, f"{lesson.name}_handout", made["_handout"]),
                         out / f"{lesson.name}_handout.pdf")  # fmt: skip
        if not printed:
            made[""] = made[""].replace("_handout.pdf", "_handout.html")
        for ending, text in made.items():
            _put(out, lesson.name + ending, text)
        _notebooks(lesson, out)
        link = f'<a href="{lesson.name}.html">{lesson.head["title"]}</a>'
        items.append(f"<li>{link}<br>{lesson.head['lead']}</li>")
    _put(out, "key", key())
    room = markdown((LESSONS / "room.md").read_text(encoding="utf-8"))
    back = '<nav><a href="index.html">all lessons</a></nav>'
    _put(out, "room", page("The room", f"{back}<main><h1>The room</h1>{room}</main>"))
    index = (LESSONS / "index.md").read_text(encoding="utf-8")
    body = markdown(index).replace("@lessons@", f"<ol>{''.join(items)}</ol>")
    return _put(out, "index", page("Three lessons", f"<main>{body}</main>"))


def _notebooks(lesson: Lesson, out: Path) -> None:
    """The lesson's class notebook, and one with the blanks for 14-year-olds alone."""
    stem, young = lesson.head["notebook"], lesson.head["young"]
    shutil.copy(FOLDER / f"class_{stem}.ipynb", out)
    told = {name: entry for name, entry in classes.sheet()[stem].items() if name in young}
    made = classes.with_blanks(classes.fewer(teacher(stem), young), stem, told)
    nbformat.write(made, out / f"class_{stem}_14.ipynb")  # type: ignore[no-untyped-call]


def _put(out: Path, name: str, text: str) -> Path:
    target = out / f"{name}.html"
    target.write_text(text, encoding="utf-8")
    return target
