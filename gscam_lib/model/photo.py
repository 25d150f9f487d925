"""Photos of every kind to upright RGB; how a photo and the network's input map to each other."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from gscam_lib.paths import expanded

ImageLike: TypeAlias = "Image.Image | str | os.PathLike[str] | np.ndarray[Any, Any]"
Fit = Literal["squash", "crop", "pad"]
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preprocessing:
    """What a photo goes through before the network sees it; `str` names it in rows.

    size: (rows, columns) of the input; fit: "squash", both sides to the input's; "crop", the
    shorter side to the input's and the middle cut out; "pad", the longer side and the rest filled;
    interpolation: "bicubic" or "bilinear"; mean, std: of each channel in [0, 1]; fill: grey level
    of padding, 0 to 255. As open_clip has it in `preprocess_cfg`.
    """

    size: tuple[int, int]
    fit: Fit = "squash"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    fill: int = 0

    def __str__(self) -> str:
        return f"{self.fit} {self.interpolation} {self.size[0]}x{self.size[1]}"

    def geometry(self, photo: Image.Image) -> Geometry:
        """How this photo and the input map to each other."""
        return Geometry(
            photo.width, photo.height, self.size, self.fit, self.interpolation, self.fill
        )

    def __call__(self, photo: Image.Image) -> np.ndarray[Any, Any]:
        """Bring a photo into the form of the input: (3, rows, columns) float32."""
        pixels = np.asarray(self.geometry(photo).to_input(photo), dtype=np.float32) / 255
        mean, std = (np.asarray(x, dtype=np.float32) for x in (self.mean, self.std))
        return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


PREPROCESS = ("squash", "model", "paper")
"""squash: the whole photo, as the paper does, with the model's own interpolation; model: as the
model was trained; paper: as the released code does in effect, a bilinear squash."""


def preprocessing_of(config: dict[str, Any], how: str | Preprocessing) -> Preprocessing:
    """Return what a model's preprocessing is, or the paper's in its place.

    config: open_clip's `preprocess_cfg`, with at least its size; how: one of PREPROCESS, or a
    Preprocessing, which is taken as it is. Raises ValueError.
    """
    size = config["size"]
    rows, columns = size if isinstance(size, tuple | list) else (size, size)
    if isinstance(how, Preprocessing):
        if how.size != (rows, columns):
            raise ValueError(
                f"Got a preprocessing to {how.size[0]} × {how.size[1]} px; this model takes "
                f"{rows} × {columns}."
            )
        return how
    if how not in PREPROCESS:
        raise ValueError(f"Got preprocess={how!r}; expected one of {', '.join(PREPROCESS)}.")
    given: dict[str, Any] = {}
    for key in ("mean", "std"):
        if (value := config.get(key)) is not None:
            given[key] = tuple(value) if isinstance(value, tuple | list) else (value,) * 3
    interpolation = config.get("interpolation")
    given["interpolation"] = interpolation if interpolation in FILTERS else "bicubic"
    own = Preprocessing((int(rows), int(columns)), **given)
    if how == "paper":
        return replace(own, interpolation="bilinear")
    if how == "squash":
        return own
    fits: dict[str, Fit] = {"squash": "squash", "shortest": "crop", "longest": "pad"}
    fit = fits[config.get("resize_mode") or "shortest"]
    return replace(own, fit=fit, fill=int(config.get("fill_color") or 0))


@dataclass(frozen=True)
class Geometry:
    """How a photo of width × height pixels and the network's input map to each other.

    size: of the input, (rows, columns), or one number for both; fit, interpolation, fill: see
    `Preprocessing`.
    """

    width: int
    height: int
    size: tuple[int, int] | int
    fit: Fit = "squash"
    interpolation: str = "bicubic"
    fill: int = 0

    @property
    def input(self) -> tuple[int, int]:
        """(columns, rows) of the network's input."""
        rows, columns = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        return columns, rows

    @property
    def resized(self) -> tuple[int, int]:
        """(width, height) of the whole photo as the network sees it, before it is cut or filled."""
        columns, rows = self.input
        if self.fit == "squash":
            return columns, rows
        if self.fit == "crop" and columns == rows:  # rounded as torchvision's Resize does
            short = min(self.width, self.height)
            return int(columns * self.width / short), int(rows * self.height / short)
        pick = max if self.fit == "pad" else min
        ratio = pick(self.width / columns, self.height / rows)
        return max(1, round(self.width / ratio)), max(1, round(self.height / ratio))

    @property
    def placed(self) -> tuple[int, int, int, int]:
        """Where the whole photo lies in the input: (x0, y0, x1, y1), beyond it where it is cut."""
        x0, y0 = (
            (inside - whole) // 2 if whole < inside else -round((whole - inside) / 2)
            for inside, whole in zip(self.input, self.resized, strict=True)
        )
        return x0, y0, x0 + self.resized[0], y0 + self.resized[1]

    @property
    def seen(self) -> tuple[float, float, float, float]:
        """The part of the photo that the network sees: (x0, y0, x1, y1) in the photo's pixels."""
        (x0, y0, x1, y1), (columns, rows) = self.placed, self.input
        across, down = self.width / self.resized[0], self.height / self.resized[1]
        return (
            -x0 * across if x0 < 0 else 0.0,
            -y0 * down if y0 < 0 else 0.0,
            (columns - x0) * across if x1 > columns else float(self.width),
            (rows - y0) * down if y1 > rows else float(self.height),
        )

    def to_input(self, photo: Image.Image) -> Image.Image:
        """Bring a photo to the input's size, with antialiasing: (columns, rows) RGB."""
        x0, y0, x1, y1 = self.placed
        columns, rows = self.input
        inside = (min(x1, columns) - max(x0, 0), min(y1, rows) - max(y0, 0))
        small = photo.resize(inside, FILTERS[self.interpolation], box=self.seen)
        if inside == (columns, rows):
            return small
        canvas = Image.new(photo.mode, (columns, rows), (self.fill,) * len(photo.getbands()))
        canvas.paste(small, (max(x0, 0), max(y0, 0)))
        return canvas

    def to_photo(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Bring a (h, w) map of the input to the photo: (height, width) float32, bilinear.

        Its cells cover the input evenly, with half-pixel centres. What was cut off was not seen and
        is 0; what was filled is left out.
        """
        if self.fit == "squash":
            small = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
            whole = small.resize((self.width, self.height), Image.Resampling.BILINEAR)
            return np.asarray(whole, dtype=np.float32)
        rows, columns = values.shape
        across, down = columns / self.input[0], rows / self.input[1]
        x0, y0, x1, y1 = self.placed
        # Where the photo's edges lie in cells; beyond the map its last cells go on.
        left, top, right, bottom = -x0 * across, -y0 * down, x1 * across, y1 * down
        beyond = [max(0, math.ceil(x)) for x in (top, bottom - rows, left, right - columns)]
        padded = np.pad(np.asarray(values, np.float32), (beyond[:2], beyond[2:]), mode="edge")
        box = (beyond[2] - left, beyond[0] - top, beyond[2] + right, beyond[0] + bottom)
        cells = Image.fromarray(np.ascontiguousarray(padded))
        full = np.asarray(
            cells.resize((self.width, self.height), Image.Resampling.BILINEAR, box=box), np.float32
        )
        first, above, last, below = self.seen
        if (first, above, last, below) == (0, 0, self.width, self.height):
            return full
        full = full.copy()
        x, y = np.arange(self.width) + 0.5, np.arange(self.height) + 0.5
        full[:, (x < first) | (x > last)] = 0
        full[(y < above) | (y > below)] = 0
        return full


def photo_hash(photo: Image.Image) -> str:
    """Return SHA-256 of a photo's size and pixels, in 16 hexadecimal digits, strip by strip."""
    digest = hashlib.sha256(f"{photo.size}".encode())
    for top in range(0, photo.height, 256):
        strip = photo.crop((0, top, photo.width, min(top + 256, photo.height)))
        digest.update(strip.tobytes())
    return digest.hexdigest()[:16]


def load_photo(image: ImageLike, *, turn: bool = True) -> Image.Image:
    """Read a photo as upright 8-bit RGB, whatever form it comes in.

    image: a PIL image, a path, or a (H, W, 3) uint8 array. EXIF rotation is applied, unless turn is
    False (pixels as stored, as gScoreCAM's release reads them; TIFFs are always turned, by Pillow
    itself); transparency is laid on white; grey of up to 16 bit is scaled to 8, with a warning
    where its values fill fewer bits than they are stored in. Raises FileNotFoundError, and
    ValueError for what is no photo, cannot be decoded, or has values (floating-point, negative,
    above 16 bit) that do not say what is black and white.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(
                f"Got an array of shape {image.shape} and dtype {image.dtype}; expected a photo of "
                "shape (H, W, 3) and dtype uint8. Convert with (255 * x).astype('uint8') or pass "
                "a PIL image or a path."
            )
        return Image.fromarray(image)
    if isinstance(image, str | os.PathLike):
        return _read_photo(expanded(image), turn)
    if isinstance(image, Image.Image):
        return _to_rgb(image, turn, getattr(image, "filename", "") or "The image")
    raise ValueError(
        f"Got {type(image).__name__} as image; expected a PIL image, a path or a (H, W, 3) uint8 "
        "array."
    )


@contextlib.contextmanager
def decoding(name: Any) -> Iterator[None]:
    """Whatever goes wrong while a photo is decoded becomes a ValueError that names it."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large: {error}. Scale it down first.") from error
    except Exception as error:  # a damaged file can break its decoder in any way
        why = (
            ""
            if isinstance(error, UnidentifiedImageError)
            else f" ({error or type(error).__name__})"
        )
        raise ValueError(
            f"{name} cannot be read as a photo{why}. Expected a complete JPEG, PNG, WebP, TIFF or "
            "GIF file."
        ) from error


def _read_photo(path: Path, turn: bool) -> Image.Image:
    if not os.path.isfile(path):  # also where no file can have such a name
        raise FileNotFoundError(f"No photo at {path}. Check the path (relative to {Path.cwd()}).")
    with open(path, "rb") as file:  # by its name Pillow would map a TIFF that is turned, wrongly
        with decoding(path):
            opened = Image.open(file)
        return _to_rgb(opened, turn, path)


def _to_rgb(image: Image.Image, turn: bool, name: Any) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise ValueError(f"Got an empty image of {image.width} × {image.height} pixels.")
    if image.mode == "F":
        raise ValueError(
            "Got a floating-point image; convert it to 8 bit so that its range is known."
        )
    with decoding(name):
        upright = _upright(image, turn)
    if upright.mode.startswith("I"):
        upright = _to_8_bit(upright)
    with decoding(name):
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return upright.convert("RGB")


def _upright(image: Image.Image, turn: bool) -> Image.Image:
    """The decoded image, turned as its EXIF says, or never to be turned."""
    image.load()
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    if turned and turn:
        return ImageOps.exif_transpose(image)
    if turned:  # nobody shall turn it later
        image = image.copy()
        image.info.pop("exif", None)
        image.getexif().clear()
    return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grey of up to 16 bit, by as many bits as its values need; PIL itself would clip it."""
    grey = np.asarray(image)
    lowest, highest = int(grey.min()), int(grey.max())
    if lowest < 0 or highest >= 1 << 16:
        raise ValueError(
            f"Got grey values from {lowest} to {highest}; expected 0 to 65535, as 16 bit hold. "
            "Convert them to 8 bit yourself, so that it is known what is black and what is white: "
            "Image.fromarray(np.interp(x, (black, white), (0, 255)).astype('uint8'))."
        )
    bits = next((b for b in (8, 10, 12, 14) if highest < 1 << b), 16)
    if bits < 16 and not (bits == 8 and image.mode == "I"):
        warnings.warn(
            f"The photo's values end at {highest}, so that its 16-bit grey is read as {bits}-bit. "
            "If it is really that dark, convert it to 8 bit yourself.",
            stacklevel=4,
        )
    scaled = grey.astype(np.float32) * np.float32(255 / ((1 << bits) - 1))
    if (clear := image.info.get("transparency")) is not None:  # a PNG's value that is not seen
        scaled[grey == clear] = 255
    return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8))
