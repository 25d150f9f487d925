"""Sprites repainted, so that a tower trained on flat drawings knows a rounded one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from gscam_lib.scenes.names import NAMES, STYLES
from gscam_lib.scenes.sprites import sprite

HUE_BASIS = np.array([[0.299, 0.587, 0.114]] * 3, np.float32)


def painted(variants: int) -> Callable[[str, str, np.random.Generator], Image.Image]:
    """Return a `Look.paint` that draws every sprite as it is or in one of so many variants."""

    def paint(name: str, style: str, rng: np.random.Generator) -> Image.Image:
        return variant(name, style, int(rng.integers(variants + 1)))

    return paint


def _rotate_hue(rgb: NDArray[np.float32], angle: float, saturation: float) -> NDArray[np.float32]:
    """Turn the hue by `angle` radians about the grey axis, and scale the saturation."""
    cos, sin = np.cos(angle), np.sin(angle)
    spin = np.array([[-0.299, -0.587, -0.114]] * 3, np.float32) + np.eye(
        3, dtype=np.float32
    )  # colour without its grey
    turn = np.array(
        [[0.168, 0.330, -0.497], [-0.328, 0.035, 0.292], [1.250, -1.050, -0.203]], np.float32
    )
    matrix = HUE_BASIS + saturation * (cos * spin + sin * turn)
    turned: NDArray[np.float32] = rgb @ matrix.T
    return turned


def _relief(alpha: NDArray[np.float32], rgb: NDArray[np.float32], rng: np.random.Generator
            ) -> NDArray[np.float32]:  # fmt: skip
    """Shade the flat drawing as if it were rounded: light from a random side, and a gloss."""
    height = Image.fromarray((alpha * 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(rng.uniform(4, 14))
    )
    slope_y, slope_x = np.gradient(np.asarray(height, np.float32) / 255)
    angle = rng.uniform(-np.pi, np.pi)
    light = (slope_x * np.cos(angle) + slope_y * np.sin(angle)) * rng.uniform(4, 18)
    ramp = np.linspace(-1, 1, alpha.shape[0], dtype=np.float32)
    light = light + rng.uniform(-0.25, 0.25) * ramp[:, None] + rng.uniform(-0.2, 0.2) * ramp
    shaded = rgb * (1 + np.clip(light, -0.6, 0.2)[..., None])
    gloss = np.clip(light - rng.uniform(0.05, 0.4), 0, 0.7)[..., None] * rng.uniform(0, 1)
    result: NDArray[np.float32] = shaded + gloss * (255 - shaded)
    return result


@cache
def variant(name: str, style: str, number: int) -> Image.Image:
    """Return the sprite repainted: hue, contrast, softness and relief drawn from `number`.

    Number 0 is the drawing as it is. Higher numbers imitate other hands, so that a tower trained
    on flat drawings knows a rounded one.
    """
    image = sprite(name, style)
    if number == 0:
        return image
    rng = np.random.default_rng([number, NAMES.index(name), STYLES.index(style)])
    if rng.random() < 0.25:  # outlines and small marks go
        image = _soften(image, rng)
    pixels = np.asarray(image, np.float32)
    rgb, alpha = pixels[..., :3], pixels[..., 3] / np.float32(255)
    draw = rng.random()
    hue = rng.normal(0, 0.15) if draw < 0.85 else rng.uniform(-np.pi, np.pi)
    rgb = _rotate_hue(rgb, hue, 0.0 if draw > 0.97 else rng.uniform(0.7, 1.3))
    if rng.random() < 0.6:
        rgb = _relief(alpha, rgb, rng)
    rgb = (rgb - 128) * rng.uniform(0.75, 1.2) + 128 + rng.uniform(-20, 20)
    painted = np.dstack([np.clip(rgb, 0, 255), pixels[..., 3]]).astype(np.uint8)
    return Image.fromarray(painted)


def _soften(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    alpha = image.getchannel("A")
    flat = Image.new("RGB", image.size, (128, 128, 128))
    flat.paste(image, mask=alpha)
    softened = flat.filter(ImageFilter.MedianFilter(int(rng.choice([3, 5, 7]))))
    softened.putalpha(alpha)
    return softened
