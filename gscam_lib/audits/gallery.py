"""Pictures of a report: crops and maps of photos, only where the reader asks for them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from gscam_lib.audits.copies import cut, windows
from gscam_lib.audits.crops import Cluster
from gscam_lib.audits.photos import Collection, as_text
from gscam_lib.audits.regions import find_faces
from gscam_lib.audits.seen import Seen
from gscam_lib.figures import overlay
from gscam_lib.model.photo import load_photo

SIDE, QUALITY = 200, 80
SHOWN = 6  # pictures of a row


@dataclass(frozen=True)
class Picture:
    """A picture in a page: its data, what it is called, and a line below it."""

    data: str
    name: str
    below: str


class Gallery:
    """Photos of an audit as small pictures; blur_faces: blur what looks like a face first.

    faces: photo -> how many pixels of it were blurred, in shares, of all that were opened.
    """

    def __init__(self, collection: Collection, seen: Seen, blur_faces: bool) -> None:
        self.collection, self.seen, self.blur_faces = collection, seen, blur_faces
        self.faces: dict[str, float] = {}
        self._opened: dict[int, Image.Image] = {}

    def highest(self, prompt: int) -> list[tuple[str, list[Picture]]]:
        """For each group, or for all photos, those of highest score with their maps."""
        rows = []
        for title, photos in self._groups():
            scores = self.seen.scores[self.seen.mapped[photos], prompt]
            order = photos[np.argsort(-scores, kind="stable")][:SHOWN]
            rows.append((title, [self._map(int(i), prompt) for i in order]))
        return rows

    def crops(self, cluster: Cluster) -> list[Picture]:
        """Crops of a cluster."""
        boxes = windows()
        return [
            Picture(_jpeg(cut(self._open(int(i)), boxes[w])), self._name(int(i)), "")
            for i, w in zip(cluster.members[:SHOWN], cluster.hottest[:SHOWN], strict=True)
        ]

    def _groups(self) -> list[tuple[str, Any]]:
        everyone = np.arange(len(self.seen.mapped))
        found = []
        for column in self.collection.columns:
            values = as_text(self.collection.groups[column].iloc[self._rows])
            names = sorted({v for v in values.tolist() if v})
            found += [(f"{column} = {name}", np.flatnonzero(values == name)) for name in names]
        return found or [("all photos", everyone)]

    def _map(self, i: int, prompt: int) -> Picture:
        photo = self._open(i)
        small = Image.fromarray(self.seen.maps[i, 0, prompt])
        values = np.asarray(small.resize(photo.size, Image.Resampling.BILINEAR)).clip(0, 1)
        picture = Image.fromarray(overlay(np.asarray(photo), values))
        score = f"{self.seen.scores[self.seen.mapped[i], prompt]:.2f}".replace("-", "−")
        return Picture(_jpeg(picture), self._name(i), f"score {score}")

    @property
    def _rows(self) -> Any:
        return self.seen.rows[self.seen.mapped]

    def _name(self, i: int) -> str:
        return str(self.seen.names[int(self.seen.mapped[i])])

    def _open(self, i: int) -> Image.Image:
        if i not in self._opened:
            photo = load_photo(self.collection.items[int(self._rows[i])].image)
            if self.blur_faces:
                photo = self._without_faces(photo, self._name(i))
            photo = photo.copy()
            photo.thumbnail((2 * SIDE, 2 * SIDE))
            self._opened[i] = photo
        return self._opened[i]

    def _without_faces(self, photo: Image.Image, name: str) -> Image.Image:
        mask = find_faces(photo)
        self.faces[name] = float(mask.mean())
        blurred = photo.filter(ImageFilter.GaussianBlur(max(photo.size) / 25))
        return Image.composite(blurred, photo, Image.fromarray(mask).convert("L"))


def _jpeg(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
