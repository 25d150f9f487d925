"""A self-contained page: gScoreCAM recomputed in the browser from stored numbers."""

from __future__ import annotations

import base64
import io
import json
from importlib.resources import files
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image

from gscam_lib.explorer.photos import Photo
from gscam_lib.explorer.request import Request
from gscam_lib.model.prompts import label
from gscam_lib.trace import Trace

PIXELS = 500_000  # of the photo in a page; larger ones are reduced
FLOATS = 500_000  # activations stored in 32 bits; more are stored in 16


def make_page(trace: Trace, request: Request, photo: Photo) -> str:
    """The page of a request's prompts on one photo, as HTML that needs no network.

    It holds the photo, the activations, and for each prompt the channels in the order of their
    gradients with their scores; scores that are not kept yet are computed, one pass a channel.
    """
    shown = trace.photo.copy()
    if shown.width * shown.height > PIXELS:
        share = (PIXELS / (shown.width * shown.height)) ** 0.5
        shown = shown.resize((round(shown.width * share), round(shown.height * share)))
    maps = trace.activations.detach().cpu().float().numpy()
    kind: type[Any] = np.float32 if maps.size <= FLOATS else np.float16
    scale = (shown.width / trace.photo.width, shown.height / trace.photo.height)
    content = {
        "title": f"{label(request.prompts[0])} · {photo.name}",
        "photo": _picture(shown),
        "size": [shown.width, shown.height],
        "model": trace.model.name,
        "shape": list(maps.shape),
        "bits": 32 if kind is np.float32 else 16,
        "activations": _base64(maps.astype(kind)),
        "prompts": [_prompt(trace, prompt) for prompt in request.prompts],
        "truth": [[v * scale[i % 2] for i, v in enumerate(box)] for box in photo.boxes],
        "colors": (255 * mpl.colormaps["inferno"](range(256))[:, :3]).round(3).ravel().tolist(),
        "k": min(request.k or trace.default_k, len(maps)),
        "opacity": request.opacity,
        "threshold": request.threshold,
    }
    # "<" cannot close the script early when it is written as an escape.
    data = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
    template = files("gscam_lib.explorer").joinpath("page.html").read_text(encoding="utf-8")
    return template.replace("__DATA__", data)


def _prompt(trace: Trace, prompt: str) -> dict[str, Any]:
    order = trace.ranking(prompt)
    scores = trace.model.scores(trace.masked_embeddings(order), prompt)
    return {
        "text": prompt,
        "logit": trace.logit(prompt),
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
