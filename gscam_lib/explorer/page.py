"""A self-contained page: gScoreCAM recomputed in the browser from stored numbers."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from gscam_lib.boxes import check_threshold
from gscam_lib.explorer import controls as c
from gscam_lib.explorer.photos import Photo
from gscam_lib.explorer.pictures import colors
from gscam_lib.explorer.request import Request
from gscam_lib.methods import METHODS
from gscam_lib.methods.wording import words
from gscam_lib.model.photo import Geometry
from gscam_lib.trace import Trace

PIXELS = 500_000  # of the photo in a page; larger ones are reduced
FLOATS = 500_000  # activations stored in 32 bits; more are stored in 16


def make_page(
    trace: Trace, request: Request, photo: Photo, *, size: tuple[int, int], model: str
) -> str:
    """The page of a request's prompts on one photo, as HTML that needs no network.

    size: of the photo as it came, in whose pixels boxes are; model: what the page calls it. It
    holds the photo, the activations, and for each prompt the channels in the order of their
    gradients with their scores; scores that are not kept yet are computed, one pass a channel.
    Raises ValueError as `check_page`.
    """
    check_page(request)
    shown = trace.photo
    if shown.width * shown.height > PIXELS:
        share = (PIXELS / (shown.width * shown.height)) ** 0.5
        shown = shown.resize((round(shown.width * share), round(shown.height * share)))
    maps = trace.activations.detach().cpu().float().numpy()
    kind: type[Any] = np.float32 if maps.size <= FLOATS else np.float16
    names = list(dict.fromkeys(request.prompts + request.others))
    shares = dict(zip(names, trace.logits(names).softmax(0).tolist(), strict=True))
    several = len(names) > 1
    geometry = replace(trace.geometry, width=shown.width, height=shown.height)
    down, across = stretch(geometry, *maps.shape[1:])
    k = min(request.k or trace.default_k, len(maps))
    checked = [name for name in ("box", "contour", "truth") if getattr(request, name)]
    groups = [
        [
            c.choice("prompt", list(enumerate(request.prompts)), 0),
            c.slider("k", c.ks(len(maps), k), k),
        ],
        c.drawing(
            "box", "contour", "truth", "beside", opacity=round(request.opacity, 2),
            threshold=request.threshold, on=checked,
        ),
    ]  # fmt: skip
    content = {
        "title": photo.name,
        "photo": _picture(shown),
        "size": list(size),
        "shown": [shown.width, shown.height],
        "model": model,
        "shape": list(maps.shape),
        "bits": 32 if kind is np.float32 else 16,
        "down": _base64(down),
        "across": _base64(across),
        "activations": _base64(maps.astype(kind)),
        "prompts": [
            {**_prompt(trace, prompt), "share": shares[prompt] if several else None}
            for prompt in request.prompts
        ],
        "shares": list(shares.items()) * several,
        "truth": [list(box) for box in photo.boxes],
        "colors": colors(),
        "texts": c.texts(),
        "asked": c.values(groups),
        "controls": groups,
        "off": [] if photo.boxes else ["truth"],
    }
    # "<" cannot close the script early when it is written as an escape; nor can a file's name that
    # is no Unicode break the page.
    data = json.dumps(content).replace("<", "\\u003c")
    page = c.read("page.html").replace("__STYLE__", c.read("view.css"))
    script = c.read("view.js") + c.read("maps.js")
    return page.replace("__VIEW__", script).replace("__DATA__", data)


def check_page(request: Request) -> None:
    """Raise ValueError for what is on the screen and no page can compute."""
    others = [METHODS[m].title for m, _ in request.variants() if m != "gscorecam"]
    if others:
        raise ValueError(
            f"Got {' and '.join(others)} on the screen; a page computes gScoreCAM alone. Choose "
            "gScoreCAM, and no other method to compare with, or save the figure."
        )
    if isinstance(check_threshold(request.threshold), str) and request.threshold != "otsu":
        raise ValueError(
            f"Got threshold={request.threshold!r}; a page takes 'otsu' or a share above 0 and at "
            "most 1. Choose one of these, or save the figure."
        )


def stretch(geometry: Geometry, rows: int, columns: int) -> tuple[Any, Any]:
    """Return what brings a map to the photo, which is separable: (H, rows) and (W, columns)."""
    middle = geometry.height // 2, geometry.width // 2
    down = [
        geometry.to_photo(np.repeat(row[:, None], columns, 1))[:, middle[1]] for row in np.eye(rows)
    ]
    across = [
        geometry.to_photo(np.repeat(row[None], rows, 0))[middle[0]] for row in np.eye(columns)
    ]
    return np.stack(down, 1), np.stack(across, 1)


def _prompt(trace: Trace, prompt: str) -> dict[str, Any]:
    order = trace.ranking(prompt)
    scores = trace.model.scores(trace.masked_embeddings(order), prompt)
    return {
        "text": prompt,
        "logit": trace.logit(prompt),
        "words": words(trace, prompt).table,
        "order": _base64(order.cpu().numpy().astype(np.uint16)),
        "scores": _base64(scores.detach().cpu().numpy().astype(np.float32)),
    }


def _base64(values: np.ndarray[Any, Any]) -> str:
    little = values.astype(values.dtype.newbyteorder("<"))
    return base64.b64encode(np.ascontiguousarray(little).tobytes()).decode()


def _picture(photo: Image.Image) -> str:
    stream = io.BytesIO()
    photo.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
