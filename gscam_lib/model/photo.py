"""Photos of every kind to upright RGB; how a photo and the network's input map to each other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps

ImageLike: TypeAlias = "Image.Image | str | os.PathLike[str] | np.ndarray[Any, Any]"


@dataclass(frozen=True)
class Geometry:
    """How a photo of width × height pixels and the network's size × size input map to each other.

    The photo is squashed, not cropped, so the inverse is a plain resize.
    """

    width: int
    height: int
    size: int

    def squash(self, photo: Image.Image) -> Image.Image:
        """Resize a photo to (size, size), bicubic with antialiasing, as CLIP was trained."""
        return photo.resize((self.size, self.size), Image.Resampling.BICUBIC)

    def unsquash(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Resize a (h, w) map to (height, width) float32, bilinear with half-pixel centres."""
        small = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
        full = small.resize((self.width, self.height), Image.Resampling.BILINEAR)
        return np.asarray(full, dtype=np.float32)


def load_photo(image: ImageLike) -> Image.Image:
    """Read a photo as upright 8-bit RGB, whatever form it comes in.

    image: a PIL image, a path, or a (H, W, 3) uint8 array. EXIF rotation is applied, transparency
    is laid on white, 16-bit grey is scaled to 8 bit. Raises FileNotFoundError or ValueError.
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
        return _read_photo(Path(image))
    if isinstance(image, Image.Image):
        return _to_rgb(image)
    raise ValueError(
        f"Got {type(image).__name__} as image; expected a PIL image, a path or a (H, W, 3) uint8 "
        "array."
    )


def _read_photo(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"No photo at {path}. Check the path (relative to {Path.cwd()}).")
    try:
        with Image.open(path) as opened:
            return _to_rgb(opened)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: {error}. Scale it down first.") from error
    except (OSError, SyntaxError) as error:
        raise ValueError(
            f"{path} cannot be read as a photo ({error}). Expected a complete JPEG, PNG, WebP, "
            "TIFF or GIF file."
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise ValueError(f"Got an empty image of {image.width} × {image.height} pixels.")
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise ValueError(
            "Got a floating-point image; convert it to 8 bit so that its range is known."
        )
    if upright.mode.startswith("I"):  # 16-bit grey; PIL's own conversion would clip it to white
        grey = np.asarray(upright).astype(np.float64)
        scale = 257.0 if upright.mode != "I" or grey.max() > 255 else 1.0
        return Image.fromarray((grey / scale).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return upright.convert("RGB")
