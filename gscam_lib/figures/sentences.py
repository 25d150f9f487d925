"""Which words made a score: a sentence as a line of words, coloured by what each adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.text import Annotation

from gscam_lib.figures.letters import readable
from gscam_lib.figures.looks import GREY, HUES, OURS

if TYPE_CHECKING:
    from gscam_lib.methods.wording import Words

FOR, AGAINST = OURS, HUES[0]
DEEPEST = 0.6  # of a colour at most: black letters keep 7 : 1 on it
SIZE, NUMBERS, PAD = 13.0, 8.5, 3.5  # points, of letters and around them
GAP, ROW = 10.0, 42.0  # between words, and from line to line


def words(
    found: Words | Sequence[Words],
    *,
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Sentences as lines of words: orange where a word speaks for the score, blue where against.

    Under each word stands its value. found: what `gs.words` gives, or several, one below the other;
    the colours of each method have one scale, whose deepest is its largest value. labels: what
    stands before each; by default the method and the logit. Lines that are longer than the axes are
    broken. Raises ValueError where labels and sentences differ in number.
    """
    rows = list(found) if isinstance(found, Sequence) else [found]
    names = [_label(row) for row in rows] if labels is None else list(labels)
    if len(names) != len(rows):
        raise ValueError(f"Got {len(names)} labels for {len(rows)} sentences.")
    alone = ax is None
    ax = plt.figure(figsize=(8, 2)).add_axes((0, 0, 1, 1)) if ax is None else ax
    figure: Any = ax.figure
    ax.set_axis_off()
    most: dict[str, float] = {}
    for row in rows:
        most[row.method] = max(most.get(row.method, 0), *abs(row.values), 1e-12)
    texts = [_texts(row, most[row.method], ax) for row in rows]
    heads = [_text(name, ax, fontsize=10, color="#222222", va="center") for name in names]
    readable(figure)  # fonts first: they decide how wide words are
    indent = max(map(_width, heads), default=0) + GAP
    y = -SIZE
    for head, line in zip(heads, texts, strict=True):
        head.xyann = (0, y)
        y = _place(line, indent, y, ax) - ROW
    if alone:
        figure.set_figheight((6 - y - SIZE) / 72)
    return ax


def _label(row: Words) -> str:
    return f"{row.title}, logit " + f"{row.logit:.1f}".replace("-", "−")


def _signed(value: float) -> str:
    text = f"{value:+.2f}".replace("-", "−")
    return text if float(f"{value:.2f}") else text[1:]


def _texts(row: Words, most: float, ax: Axes) -> list[tuple[Annotation, Annotation]]:
    """A word and its value, each coloured and still to be placed."""
    made = []
    for word, value in row.table:
        share = DEEPEST * abs(value) / most
        color = [1 - share * (1 - c) for c in to_rgb(FOR if value > 0 else AGAINST)]
        box = {"boxstyle": f"round,pad={PAD / SIZE}", "fc": color, "ec": "none"}
        made.append((
            _text(word, ax, fontsize=SIZE, color="#000000", va="center", ha="center", bbox=box),
            _text(_signed(value), ax, fontsize=NUMBERS, color=GREY, va="center", ha="center"),
        ))  # fmt: skip
    return made


def _text(text: str, ax: Axes, **look: Any) -> Annotation:
    """Text whose place is in points from the upper left corner of the axes."""
    return ax.annotate(
        text, (0, 1), (0, 0), "axes fraction", "offset points", annotation_clip=False,
        parse_math=False, **look,
    )  # fmt: skip


def _width(text: Annotation) -> float:
    """In points."""
    return text.get_window_extent().width / text.figure.dpi * 72


def _place(line: list[tuple[Annotation, Annotation]], indent: float, y: float, ax: Axes) -> float:
    """Put the words of a sentence side by side, broken where the axes end; gives the last y."""
    room = ax.get_window_extent().width / ax.figure.dpi * 72
    x = indent
    for word, number in line:
        wide = max(_width(word) + 2 * PAD, _width(number))
        if x > indent and x + wide > room:
            x, y = indent, y - ROW
        word.xyann, number.xyann = (x + wide / 2, y), (x + wide / 2, y - 17)
        x += wide + GAP / 2
    return y
