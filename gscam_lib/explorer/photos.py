"""The photos an explorer offers: bundled scenes and photos, files of a folder, uploads."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from gscam_lib.datasets.example import Example
from gscam_lib.datasets.placement import header, placed
from gscam_lib.datasets.tables import PHOTOS as SUFFIXES
from gscam_lib.evaluation.measures import check_truth
from gscam_lib.explorer.controls import numbered
from gscam_lib.model.photo import decoding, load_photo
from gscam_lib.paths import SCENES, expanded

if TYPE_CHECKING:
    from gscam_lib.trace import Trace

LONGEST = 1024
"""Maps are drawn on at most this many pixels, and uploads are kept so, that all comes at once."""
MOST_PIXELS = 50_000_000
"""Of an upload; more are refused by the file's header, before anything is decoded."""
LONGEST_NAME = 80
PHOTOS = {
    "astronaut": ("a space shuttle", "a helmet", "a face"),
    "chelsea": ("a cat", "a dog"),
    "coffee": ("a cup of coffee", "a spoon", "a plate"),
    "rocket": ("a rocket", "a tower", "a cloud"),
}
NAMES = {"astronaut": "Eileen Collins", "chelsea": "a cat", "coffee": "a cup", "rocket": "a rocket"}


@dataclass(frozen=True)
class Photo:
    """A photo to choose. source: Python that loads it; prompts: what to look for at first.

    boxes: true ones, in pixels of the photo as it came; size: how large that was, where what is
    kept is smaller.
    """

    name: str
    image: Any
    source: str
    prompts: tuple[str, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    size: tuple[int, int] | None = None

    def open(self) -> Image.Image:
        """Upright RGB. Raises ValueError by the photo's name: readers may not know its path."""
        try:
            return load_photo(self.image() if callable(self.image) else self.image)
        except FileNotFoundError as error:
            raise ValueError(f"{self.name} is no longer there; choose another photo.") from error
        except ValueError as error:
            raise ValueError(
                f"{self.name} cannot be read as a photo. Expected a complete JPEG, PNG, WebP, TIFF "
                "or GIF."
            ) from error


@dataclass(frozen=True)
class Seen:
    """A traced photo. size: of the photo as it came; the trace's maps are drawn on less."""

    trace: Trace
    size: tuple[int, int]

    def in_photo(self, box: Sequence[int] | None) -> tuple[int, int, int, int] | None:
        """A box of the trace's pixels in those of the photo as it came, none of it left out."""
        if box is None:
            return None
        (w, h), (width, height) = self.trace.photo.size, self.size
        x0, y0, x1, y1 = box
        return x0 * width // w, y0 * height // h, -(-x1 * width // w), -(-y1 * height // h)

    def on_trace(self, box: Sequence[float]) -> tuple[float, ...]:
        """A box of the photo as it came in the pixels of the trace."""
        shares = (self.trace.photo.width / self.size[0], self.trace.photo.height / self.size[1])
        return tuple(v * shares[i % 2] for i, v in enumerate(box))


def choose(images: Any = None, *, drawn: bool = False) -> dict[str, Photo]:
    """Photos by key, each with a name of its own.

    images: None for what is bundled; a photo, path, array or Example; a folder; several of these;
    or a mapping from names to them. drawn: whether the model knows drawings: those come first then,
    and are left out otherwise. True boxes are those of the photo as it is seen. Raises ValueError
    where there is none, for what is no photo and for truth that is not of its photo, and
    FileNotFoundError.
    """
    if images is None:
        return unique(bundled(drawn))
    if isinstance(images, Mapping):
        pairs = [(str(name), image) for name, image in images.items()]
    elif isinstance(images, Sequence) and not isinstance(images, str):
        pairs = [(_name(image, i), image) for i, image in enumerate(images)]
    else:
        pairs = [(_name(images, 0), images)]
    if not pairs:
        raise ValueError("Got no images; expected at least one, or None for the bundled ones.")
    found: dict[str, Photo] = {}
    for i, (name, image) in enumerate(pairs):
        if isinstance(image, str | Path) and os.path.isdir(expanded(image)):
            found |= in_folder(image)
        else:
            found[f"given-{i}"] = _given(name, image)
    return unique(found)


def in_folder(folder: str | Path) -> dict[str, Photo]:
    """The photos of a folder, by name. Raises FileNotFoundError where there are none."""
    path = expanded(folder)
    files = sorted(p for p in path.glob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(
            f"No photos in '{folder}'; expected a folder with {', '.join(sorted(SUFFIXES))} files."
        )
    mark = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]  # keys tell no path
    return {f"file-{mark}-{i}": _photo(p.name, p) for i, p in enumerate(files)}


def unique(photos: dict[str, Photo], taken: Iterable[str] = ()) -> dict[str, Photo]:
    """The same photos; names that occur twice, or are taken, get a number."""
    names = numbered({key: photo.name for key, photo in photos.items()}, taken)
    return {key: replace(photo, name=names[key]) for key, photo in photos.items()}


def uploaded(name: str, content: bytes) -> tuple[str, Photo]:
    """An uploaded file as a photo of at most LONGEST pixels. Raises ValueError where it is none."""
    name = Path(name.replace("\\", "/")).name[:LONGEST_NAME] or "upload"
    with decoding(name):
        opened = Image.open(io.BytesIO(content))
        width, height = opened.size
        opened.draft("RGB", (LONGEST, LONGEST))  # a JPEG is decoded no larger than needed
        drafted, opened.filename = opened.size, name
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{name} has {width:,} × {height:,} pixels; expected at most {MOST_PIXELS / 1e6:g} "
            "million. Scale it down first."
        )
    image = load_photo(opened)
    turned = image.size != drafted
    image.thumbnail((LONGEST, LONGEST))
    key = "upload-" + hashlib.sha256(content).hexdigest()[:16]
    size = (height, width) if turned else (width, height)
    return key, Photo(name, image, f"load_photo({name!r})", size=size)


def bundled(drawn: bool) -> dict[str, Photo]:
    """Photos that come with scikit-image; before them scenes of the miniature world if `drawn`."""
    from skimage import data

    photos = {
        f"photo-{name}": Photo(
            NAMES[name],
            lambda name=name: np.ascontiguousarray(getattr(data, name)()),
            f"load_photo(skimage.data.{name}())",
            prompts,
        )
        for name, prompts in PHOTOS.items()
    }
    if not drawn:
        return photos
    from gscam_lib.scenes.sets import content

    scenes = {}
    for kind, count in (("multi", 12), ("typographic", 6), ("biases", 4)):
        if (SCENES / kind / "instances.json").exists():
            scenes.update(_scenes(kind, count, content(kind)))
    return {**scenes, **photos}


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
        found[f"{kind}-{image['id']}"] = Photo(title, path, source, tuple(seen[:2]), boxes)
    return found


def _given(name: str, image: Any) -> Photo:
    """A photo that somebody names: looked at now, so that what is wrong is said at once."""
    if isinstance(image, Example):
        seen = header(image.image).seen
        example = placed(image, seen)
        check_truth(example, seen)
        boxes = tuple(tuple(map(float, box)) for box in example.boxes)
        return replace(_photo(name, image.image), prompts=(image.prompt,), boxes=boxes)
    if isinstance(image, str | Path):
        header(image)
    elif not isinstance(image, Image.Image):
        load_photo(image)
    return _photo(name, image)


def _photo(name: str, image: Any) -> Photo:
    source = f"load_photo({str(image)!r})" if isinstance(image, str | Path) else "load_photo(image)"
    return Photo(name, image, source)


def _name(image: Any, number: int) -> str:
    if isinstance(image, Example):
        return f"{image.category} {image.image_id}"
    return Path(image).name if isinstance(image, str | Path) else f"photo {number + 1}"
