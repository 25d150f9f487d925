"""Example: one question about one photo, with its true answer."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gscam_lib.boxes import BoxLike


@dataclass(frozen=True, eq=False)
class Example:
    """A photo, a prompt, and where the named thing is.

    image: a path or PIL image; boxes: (x0, y0, x1, y1) half-open pixels, one per instance; mask:
    (H, W) bool of all instances together, None where the data set has none; source: the data set;
    word: what is written on the photo, None where the data set does not say.
    """

    image: Path | Image.Image
    prompt: str
    boxes: tuple[BoxLike, ...]
    category: str
    image_id: str
    source: str
    mask: np.ndarray[Any, Any] | None = None
    word: str | None = None

    def asked(self, prompt: str) -> Example:
        """Return the same question with another prompt."""
        other = copy.copy(self)  # not replace(): a mask that is decoded when asked for stays so
        object.__setattr__(other, "prompt", prompt)
        return other
