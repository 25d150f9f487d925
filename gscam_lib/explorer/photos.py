"""The photos an explorer offers: bundled scenes and photos, files of a folder, uploads."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gscam_lib.datasets.example import Example
from gscam_lib.model.photo import load_photo
from gscam_lib.paths import SCENES

LONGEST = 1024
"""Longer photos are reduced to this many pixels, so that pictures come at once."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"}
PHOTOS = {"astronaut": "an astronaut", "chelsea": "a cat", "coffee": "a cup of coffee"}


@dataclass(frozen=True)
class Photo:
    """A photo to choose. source: Python that loads it; prompt: what to look for at first."""

    name: str
    image: Any
    source: str
    prompt: str = ""
    boxes: tuple[tuple[float, ...], ...] = ()

    def open(self) -> Image.Image:
        """Upright RGB, its longer side at most LONGEST. Raises as `load_photo`."""
        photo = load_photo(self.image() if callable(self.image) else self.image)
        if max(photo.size) > LONGEST:
            photo = photo.copy()
            photo.thumbnail((LONGEST, LONGEST))
        return photo


def choose(images: Any = None, *, photos_first: bool = False) -> dict[str, Photo]:
    """Photos by key.

    images: None for what is bundled; a photo, path, array or Example; a folder; several of these;
    or a mapping from names to them. Raises ValueError where there is none.
    """
    if images is None:
        return bundled(photos_first)
    if isinstance(images, str | Path) and Path(images).is_dir():
        return in_folder(images)
    if isinstance(images, Mapping):
        pairs = [(str(name), image) for name, image in images.items()]
    elif isinstance(images, Sequence) and not isinstance(images, str):
        pairs = [(_name(image, i), image) for i, image in enumerate(images)]
    else:
        pairs = [(_name(images, 0), images)]
    if not pairs:
        raise ValueError("Got no images; expected at least one, or None for the bundled ones.")
    return {f"given-{i}": _photo(name, image) for i, (name, image) in enumerate(pairs)}


def in_folder(folder: str | Path) -> dict[str, Photo]:
    """The photos of a folder, by name. Raises FileNotFoundError where there are none."""
    path = Path(folder).expanduser()
    files = sorted(p for p in path.glob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(
            f"No photos in '{folder}'; expected a folder with {', '.join(sorted(SUFFIXES))} files."
        )
    return {f"file-{p}": _photo(p.name, p) for p in files}


def uploaded(name: str, content: bytes) -> tuple[str, Photo]:
    """An uploaded file as a photo, read at once. Raises ValueError where it is none."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = load_photo(opened)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large: {error}. Scale it down first.") from error
    except (OSError, SyntaxError) as error:
        raise ValueError(
            f"{name} cannot be read as a photo. Expected a complete JPEG, PNG, WebP, TIFF or GIF."
        ) from error
    key = "upload-" + hashlib.sha256(content).hexdigest()[:16]
    return key, Photo(name, image, f"load_photo({name!r})")


def bundled(photos_first: bool) -> dict[str, Photo]:
    """Photos that come with scikit-image, and scenes of the miniature world."""
    from skimage import data

    photos = {
        f"photo-{name}": Photo(
            prompt[2:].strip(),
            lambda name=name: np.ascontiguousarray(getattr(data, name)()),
            f"load_photo(skimage.data.{name}())",
            prompt,
        )
        for name, prompt in PHOTOS.items()
    }
    from gscam_lib.scenes.sets import content

    found = {}
    for kind, count in (("multi", 12), ("typographic", 6), ("biases", 4)):
        if (SCENES / kind / "instances.json").exists():
            found.update(_scenes(kind, count, content(kind)))
    return {**photos, **found} if photos_first else {**found, **photos}


def _scenes(kind: str, count: int, content: Mapping[str, Any]) -> dict[str, Photo]:
    names = {c["id"]: c["name"] for c in content["categories"]}
    found = {}
    for image in content["images"][:count]:
        things = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        seen = list(dict.fromkeys(names[a["category_id"]] for a in things))
        boxes = tuple((x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in things))
        title = f"{kind}: {', '.join(seen[:3])}{', …' if len(seen) > 3 else ''}"
        path = SCENES / kind / "images" / image["file_name"]
        source = f"load_photo(SCENES / '{kind}' / 'images' / '{image['file_name']}')"
        found[f"{kind}-{image['id']}"] = Photo(title, path, source, seen[0] if seen else "", boxes)
    return found


def _photo(name: str, image: Any) -> Photo:
    if isinstance(image, Example):
        boxes = tuple(tuple(map(float, box)) for box in image.boxes)
        return Photo(name, image.image, _source(image.image), image.prompt, boxes)
    return Photo(name, image, _source(image))


def _source(image: Any) -> str:
    return f"load_photo({str(image)!r})" if isinstance(image, str | Path) else "load_photo(image)"


def _name(image: Any, number: int) -> str:
    if isinstance(image, Example):
        return f"{image.category} {image.image_id}"
    return Path(image).name if isinstance(image, str | Path) else f"photo {number + 1}"
