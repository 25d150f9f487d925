"""Typographic attacks: a written word on a photo, and what it does to a model's answers.

Goh et al., Multimodal Neurons in Artificial Neural Networks, Distill 2021; the candidates and the
sentence are theirs. Probabilities are a softmax over the candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl  # for its fonts, the same on every machine
import numpy as np
import pandas as pd
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from gscam_lib.datasets.example import Example
from gscam_lib.model.photo import ImageLike, load_photo
from gscam_lib.trace import Trace

TEMPLATE = "a photo of a {}."
FONT = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
FONT_SIZE = 96  # of the note before it is scaled to the photo
Tracer = Callable[[Any], Trace]


def put_label(
    image: ImageLike,
    word: str,
    *,
    at: tuple[float, float] = (0.5, 0.6),
    width: float = 0.5,
    ink: str = "black",
    paper: str | None = "white",
) -> Image.Image:
    """A copy of a photo with a word written on a note: upright RGB of the photo's size.

    at: the note's centre as shares of width and height; width: the note's, as a share of the
    photo's; paper: colour of the note, None for bare letters. Raises ValueError for an empty word,
    for letters that the font does not have, and for what is no share from 0 to 1.
    """
    if not word.strip():
        raise ValueError("Got an empty word; expected what the note should say.")
    glyphs = FT2Font(str(FONT))
    if missing := [c for c in word if not glyphs.get_char_index(ord(c))]:
        raise ValueError(
            f"Got the word {word!r}; the font {FONT.stem} has no sign for {', '.join(missing)} and "
            "would draw an empty box."
        )
    _check_place(at, width)
    photo = load_photo(image).copy()
    font = ImageFont.truetype(str(FONT), FONT_SIZE)
    left, top, right, bottom = font.getbbox(word)
    pad = FONT_SIZE // 3
    note = Image.new(
        "RGBA", (int(right - left) + 2 * pad, int(bottom - top) + 2 * pad), paper or (0, 0, 0, 0)
    )
    ImageDraw.Draw(note).text((pad - left, pad - top), word, font=font, fill=ink)
    wide = max(1, round(width * photo.width))
    note = note.resize((wide, max(1, round(wide * note.height / note.width))))
    corner = (round(at[0] * photo.width - wide / 2), round(at[1] * photo.height - note.height / 2))
    photo.paste(note, corner, note)
    return photo


def _check_place(at: tuple[float, float], width: float) -> None:
    try:
        x, y = at
        good = 0 < width <= 1 and 0 <= x <= 1 and 0 <= y <= 1
    except (TypeError, ValueError):  # not two, or no numbers
        good = False
    if not good:
        raise ValueError(
            f"Got at={at!r} and width={width!r}; expected shares of the photo from 0 to 1: at as "
            "(across, down), such as (0.5, 0.6), and a width above 0."
        )


def probabilities(
    trace: Trace, candidates: Sequence[str], *, template: str = TEMPLATE
) -> dict[str, float]:
    """The softmax of a photo's logits over candidate names, each put in a template.

    Raises ValueError for fewer than two candidates or names that occur twice, and for a template in
    which no name goes.
    """
    several = not isinstance(candidates, str)
    if not several or len(candidates) < 2 or len(set(candidates)) != len(candidates):
        raise ValueError(
            f"Got {candidates if not several else list(candidates)!r}; expected two or more "
            "different names."
        )
    if "{}" not in template:
        raise ValueError(f"Got the template {template!r}; expected {{}} where the name goes.")
    logits = trace.logits([template.format(name) for name in candidates])
    return dict(zip(candidates, logits.softmax(0).tolist(), strict=True))


def attack(
    tracer: Tracer,
    examples: Iterable[Example],
    *,
    candidates: Sequence[str] | None = None,
    template: str = TEMPLATE,
    alter: Callable[[Trace, Example], Any] | None = None,
) -> pd.DataFrame:
    """What a model says of photos on which a word is written: one row for each photo.

    tracer: `model.trace`; examples: with `category` the object and `word` what is written ("" or
    None: nothing); candidates: names to choose from, None takes all objects and all words; alter:
    gives a photo to look at instead, from the trace and the example (a defence).
    Columns: image_id, object, word, top (the likeliest name), p_object, p_word, object_found,
    word_read (top is the word and not the object), word_beats_object.
    """
    examples = list(examples)
    things, words = [e.category for e in examples], [e.word for e in examples if e.word]
    names = list(dict.fromkeys([*things, *words])) if candidates is None else list(candidates)
    rows = []
    for example in examples:
        trace = tracer(example.image)
        if alter is not None:
            trace = tracer(alter(trace, example))
        share = probabilities(trace, names, template=template)
        thing, word = share.get(example.category, 0.0), share.get(example.word or "", 0.0)
        top = max(share, key=share.__getitem__)
        attacked = bool(example.word) and example.word != example.category
        rows.append(
            {
                "image_id": example.image_id,
                "object": example.category,
                "word": example.word or "",
                "top": top,
                "p_object": thing,
                "p_word": word,
                "object_found": top == example.category,
                "word_read": attacked and top == example.word,
                "word_beats_object": attacked and word > thing,
            }
        )
    return pd.DataFrame(rows)


def cover(photo: np.ndarray[Any, Any], values: np.ndarray[Any, Any], *, threshold: float = 0.5
          ) -> np.ndarray[Any, Any]:  # fmt: skip
    """Cover the hot part of a photo with its mean colour: (H, W, 3) uint8.

    values: (H, W) heatmap in [0, 1]; covered is what lies at or above the threshold. Raises
    ValueError where photo and heatmap have different sizes.
    """
    if values.shape != photo.shape[:2]:
        raise ValueError(f"Got a heatmap of {values.shape} on a photo of {photo.shape[:2]} pixels.")
    covered = photo.copy()
    covered[values >= threshold] = photo.reshape(-1, 3).mean(0).round().astype(np.uint8)
    return covered
