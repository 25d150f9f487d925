"""Other hands: sprites redrawn, bent and lit, backdrops and photographs' faults, for training.

Three packages of drawings teach a tower their strokes and colours along with the things. Here each
sprite is redrawn at random before it is shown (inked, posterized, recoloured, rounded, textured,
sketched, pixelated, painted), bent, and put on backdrops that are no painted place; a scene then
gets the light, noise, blur and compression that photographs have.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from data.build.paint import variant
from gscam_lib.scenes.backgrounds import background
from gscam_lib.scenes.names import NAMES, STYLES

RNG = np.random.Generator
Floats = NDArray[np.floating[Any]]
Redraw = Callable[[Image.Image, RNG], Image.Image]
REDRAWINGS, VARIANTS = 64, 16  # of every sprite: by other hands; by `paint`, to begin with
SURFACES = ("brick", "grass", "gravel", "page", "moon")


@cache
def photograph(name: str) -> Image.Image:
    """Return one of the photographs of `skimage.data`, 256 x 256 RGB."""
    image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    return image.resize((256, 256), Image.Resampling.LANCZOS)


def _surface(rng: RNG, side: float, out: int) -> Floats:
    """Return a random square of a photographed surface, grey (out, out)."""
    picture = photograph(SURFACES[int(rng.integers(len(SURFACES)))])
    left, top = rng.uniform(0, 256 - side, 2)
    crop = picture.resize((out, out), box=(left, top, left + side, top + side)).convert("L")
    return np.asarray(crop, np.float32)


@cache
def _noise(number: int) -> Floats:
    """Return a field (128, 128) whose amplitudes fall as 1 / f, as photographs' do; unit spread."""
    rng = np.random.default_rng([3, number])
    y, x = np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128), indexing="ij")
    slope = rng.uniform(0.8, 1.5)
    weight = 1 / np.maximum(np.hypot(x, y), 1 / 128) ** slope
    field = np.fft.ifft2(weight * np.fft.fft2(rng.normal(size=(128, 128)))).real
    result: Floats = ((field - field.mean()) / field.std()).astype(np.float32)
    return result


def _split(image: Image.Image) -> tuple[Floats, Image.Image]:
    """Return colour (H, W, 3) on grey, and alpha."""
    flat = Image.new("RGB", image.size, (150, 150, 150))
    alpha = image.getchannel("A")
    flat.paste(image, mask=alpha)
    return np.asarray(flat, np.float32), alpha


def _joined(rgb: NDArray[np.floating], alpha: Image.Image) -> Image.Image:
    image = Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
    image.putalpha(alpha)
    return image


def _few_colours(rgb: Floats, count: int) -> tuple[NDArray[np.uint8], Floats]:
    """Return which of `count` colours every pixel is nearest to (H, W), and the colours."""
    small = Image.fromarray(rgb.astype(np.uint8)).quantize(count, Image.Quantize.FASTOCTREE)
    palette = np.asarray(small.getpalette(), np.float32)[: 3 * 256].reshape(-1, 3)
    return np.asarray(small), palette


def _posterized(image: Image.Image, rng: RNG) -> Image.Image:
    """Simplify: few flat colours, each a little off."""
    rgb, alpha = _split(image.filter(ImageFilter.MedianFilter(int(rng.choice([3, 5, 7])))))
    index, palette = _few_colours(rgb, int(rng.integers(4, 9)))
    palette = palette + rng.normal(0, rng.uniform(4, 28), palette.shape)
    return _joined(palette[index], image.getchannel("A") if rng.random() < 0.5 else alpha)


def _recoloured(image: Image.Image, rng: RNG) -> Image.Image:
    """Paint every colour of the drawing anew."""
    rgb, alpha = _split(image)
    index, palette = _few_colours(rgb, int(rng.integers(8, 20)))
    grey = palette.mean(1, keepdims=True)
    tint = rng.uniform(0, 255, palette.shape)
    share = rng.uniform(0.25, 1.0)
    tinted = grey + (tint - tint.mean(1, keepdims=True)) * rng.uniform(0.3, 1.0)
    new = palette + share * (tinted - palette)
    return _joined(rgb + (new - palette)[index], alpha)


def _inked(image: Image.Image, rng: RNG) -> Image.Image:
    """Draw dark lines where colours meet and around the whole, over pale or flat colours."""
    rgb, alpha = _split(image)
    index, palette = _few_colours(rgb, int(rng.integers(4, 8)))
    fill = palette[index] if rng.random() < 0.75 else np.full_like(rgb, rng.uniform(200, 255))
    fill = fill + (255 - fill) * rng.uniform(0, 0.4)
    grey = Image.fromarray(rgb.mean(2).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))
    steps = np.asarray(grey, np.float32)
    slope = np.hypot(*np.gradient(steps))
    line = Image.fromarray(((slope > rng.uniform(6, 16)) * 255).astype(np.uint8))
    line = line.filter(ImageFilter.MedianFilter(3))
    width = int(rng.choice([1, 3, 5]))
    grown = alpha.filter(ImageFilter.MaxFilter(width)) if width > 1 else alpha
    rim = ImageChops.difference(grown, alpha.filter(ImageFilter.MinFilter(3)))
    dark = np.asarray(ImageChops.lighter(line, rim), np.float32)[..., None] / 255
    ink = rng.uniform(0, 70, 3)
    return _joined(fill * (1 - dark) + ink * dark, grown)


def _stickered(image: Image.Image, rng: RNG) -> Image.Image:
    """Put a rim of one colour around the drawing."""
    rgb, alpha = _split(image)
    grown = alpha.filter(ImageFilter.MaxFilter(int(rng.choice([5, 7, 9]))))
    share = np.asarray(alpha, np.float32)[..., None] / 255
    rim = rng.uniform(215, 255, 3) if rng.random() < 0.6 else rng.uniform(0, 60, 3)
    return _joined(rgb * share + rim * (1 - share), grown)


def _sketched(image: Image.Image, rng: RNG) -> Image.Image:
    """Draw in grey or sepia, by pencil strokes."""
    rgb, alpha = _split(image)
    grey = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    soft = np.asarray(Image.fromarray(grey.astype(np.uint8)).filter(ImageFilter.GaussianBlur(4)),
                      np.float32)  # fmt: skip
    dodged = np.clip(255 * (grey + 8) / (soft + 8), 0, 255)
    tone = rng.uniform(0.2, 0.8)
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]]
    angle, step = rng.uniform(0, np.pi), rng.uniform(0.5, 1.4)
    hatch = 18 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * step)
    shade = tone * grey + (1 - tone) * dodged + hatch * (1 - grey / 255) * rng.uniform(0, 2)
    sepia = 1 + rng.uniform(-0.15, 0.15, 3)
    return _joined(shade[..., None] * sepia, alpha)


def _textured(image: Image.Image, rng: RNG) -> Image.Image:
    """Give the surface the grain of a photograph or of 1 / f noise."""
    rgb, alpha = _split(image)
    side = rgb.shape[0]
    if rng.random() < 0.5:
        grain = np.resize(_noise(int(rng.integers(64))), (side, side))
    else:
        crop = _surface(rng, side, side)
        grain = (crop - crop.mean()) / (crop.std() + 1)
    return _joined(rgb * (1 + rng.uniform(0.06, 0.3) * grain[..., None]), alpha)


def _coarse(image: Image.Image, rng: RNG) -> Image.Image:
    """Keep few pixels: as large squares, or smeared."""
    few = int(rng.integers(20, 56))
    back = Image.Resampling.NEAREST if rng.random() < 0.4 else Image.Resampling.BICUBIC
    return image.resize((few, few), Image.Resampling.BOX).resize(image.size, back)


def _painted(image: Image.Image, rng: RNG) -> Image.Image:
    """Brush: soft patches with an uneven tone."""
    rgb, alpha = _split(image.filter(ImageFilter.ModeFilter(int(rng.choice([5, 7, 9])))))
    tone = np.resize(_noise(int(rng.integers(64))), rgb.shape[:2])[..., None]
    return _joined(rgb + tone * rng.uniform(6, 26) + rng.normal(0, 8, 3), alpha)


def _lit(image: Image.Image, rng: RNG) -> Image.Image:
    """Round the whole drawing and light it by a coloured lamp, with a gloss."""
    rgb, alpha = _split(image)
    soft = alpha.filter(ImageFilter.GaussianBlur(rng.uniform(5, 16)))
    grey = Image.fromarray(rgb.mean(2).astype(np.uint8)).filter(ImageFilter.GaussianBlur(3))
    height = (np.asarray(soft, np.float32) + rng.uniform(0, 0.5) * np.asarray(grey)) / 255
    down, right = np.gradient(height)
    angle = rng.uniform(-np.pi, np.pi)
    light = (right * np.cos(angle) + down * np.sin(angle)) * rng.uniform(6, 26)
    lamp = 1 + rng.uniform(-0.2, 0.2, 3)
    shade = 1 + np.clip(light, -0.65, 0.35)[..., None] * lamp
    gloss = np.clip(light - rng.uniform(0.1, 0.4), 0, 0.8)[..., None] * rng.uniform(0, 1)
    return _joined(rgb * shade * rng.uniform(0.75, 1.1) + gloss * (255 - rgb), alpha)


def _as_it_is(image: Image.Image, rng: RNG) -> Image.Image:
    return image


REDRAWN: Mapping[Redraw, float] = MappingProxyType(
    {
        _as_it_is: 3, _posterized: 2, _recoloured: 2.5, _inked: 3, _stickered: 1, _sketched: 1.2,
        _textured: 1.5, _coarse: 1, _painted: 1.5, _lit: 3,
    }
)  # fmt: skip
_HANDS = tuple(REDRAWN)
_ODDS = np.array(list(REDRAWN.values())) / sum(REDRAWN.values())


def bent(image: Image.Image, rng: RNG, amount: float = 0.07) -> Image.Image:
    """Bend a square picture: the knots of a 3 x 3 mesh move by up to `amount` of its side."""
    side, cells = image.width, 3
    knots = np.linspace(0, side, cells + 1)
    moved = np.stack(np.meshgrid(knots, knots, indexing="ij"), -1)  # row, column
    moved = moved + rng.uniform(-amount, amount, moved.shape) * side
    tilt = rng.uniform(-amount, amount, 2) * 2
    moved = moved + (moved[..., ::-1] - side / 2) * tilt  # sheared
    mesh = []
    for r in range(cells):
        for c in range(cells):
            box = tuple(round(v) for v in (knots[c], knots[r], knots[c + 1], knots[r + 1]))
            corners = (moved[r, c], moved[r + 1, c], moved[r + 1, c + 1], moved[r, c + 1])
            mesh.append((box, tuple(float(v) for y, x in corners for v in (x, y))))
    return image.transform(image.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


@cache
def by_another(name: str, style: str, number: int) -> Image.Image:
    """Return the sprite as another hand draws it; the same for the same number."""
    rng = np.random.default_rng([11, number, NAMES.index(name), STYLES.index(style)])
    image = variant(name, style, int(rng.integers(VARIANTS)))
    for _ in range(1 if rng.random() < 0.65 else 2):
        image = _HANDS[int(rng.choice(len(_HANDS), p=_ODDS))](image, rng)
    return image


def redrawn(share: float, variants: int) -> Callable[[str, str, RNG], Image.Image]:
    """Return a `Look.paint` that draws a sprite by another hand in `share` of the cases."""

    def paint(name: str, style: str, rng: RNG) -> Image.Image:
        if rng.random() >= share:
            return variant(name, style, int(rng.integers(variants + 1)))
        image = by_another(name, style, int(rng.integers(REDRAWINGS)))
        if rng.random() < 0.7:
            image = bent(image, rng, rng.uniform(0.02, 0.08))
        return _holed(image, rng) if rng.random() < 0.12 else image

    return paint


def _holed(image: Image.Image, rng: RNG) -> Image.Image:
    """Cut a piece out, unless hardly anything is left."""
    left, top, width, height = rng.uniform([10, 10, 20, 20], [90, 90, 50, 50])
    alpha = image.getchannel("A")
    alpha.paste(0, tuple(round(v) for v in (left, top, left + width, top + height)))
    if np.count_nonzero(np.asarray(alpha)) < 600:
        return image
    cut = image.copy()
    cut.putalpha(alpha)
    return cut


def backdrop(kind: str, size: int, rng: RNG) -> Image.Image:
    """Return a `Look.backdrop`: painted places as they are, "plain" in many more ways."""
    if kind != "plain" or rng.random() < 0.2:
        return background(kind, size, rng)
    draw = rng.random()
    if draw < 0.35:  # 1 / f, in colours of its own
        fields = np.stack([_noise(int(n)) for n in rng.integers(64, size=3)], -1)
        common = fields[..., :1]
        mixed = rng.uniform(0.3, 1) * common + rng.uniform(0, 0.8) * fields
        rgb = rng.uniform(40, 215, 3) + mixed * rng.uniform(10, 60)
    elif draw < 0.65:  # a surface, tinted
        grey = _surface(rng, rng.uniform(60, 256), 128)[..., None]
        rgb = grey * rng.uniform(0.4, 1.3, 3) + rng.uniform(-30, 60, 3)
    else:  # shapes
        rgb = np.tile(rng.uniform(0, 255, 3), (128, 128, 1))
        y, x = np.mgrid[:128, :128]
        for _ in range(int(rng.integers(2, 16))):
            cx, cy, a = *rng.uniform(0, 128, 2), rng.uniform(0, np.pi)
            u = (x - cx) * np.cos(a) + (y - cy) * np.sin(a)
            v = (y - cy) * np.cos(a) - (x - cx) * np.sin(a)
            w, h = rng.uniform(6, 70, 2)
            round_one = rng.random() < 0.5
            inside = np.hypot(u / w, v / h) < 1 if round_one else (abs(u) < w) & (abs(v) < h)
            rgb[inside] = rng.uniform(0, 255, 3)
    image = Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
    if rng.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 4)))
    return image.resize((size, size), Image.Resampling.BILINEAR)


def photographed(image: Image.Image, rng: RNG) -> Image.Image:
    """Give a scene what a camera does: light, gamma, blur, noise, compression; each at times."""
    pixels: Floats = np.asarray(image, np.float32)
    if rng.random() < 0.35:  # light falls unevenly
        field = Image.fromarray(rng.uniform(0.55, 1.35, (3, 3)).astype(np.float32))
        light = np.asarray(field.resize(image.size, Image.Resampling.BICUBIC))[..., None]
        pixels = pixels * light
    if rng.random() < 0.3:
        pixels = 255 * (np.clip(pixels, 0, 255) / 255) ** rng.uniform(0.6, 1.6)
    if rng.random() < 0.06:
        pixels = np.repeat(pixels.mean(2, keepdims=True), 3, 2)
    if rng.random() < 0.3:
        grain = rng.normal(0, rng.uniform(2, 16), pixels.shape[:2])[..., None]
        pixels = pixels + grain
    done = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if rng.random() < 0.2:
        done = done.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.3)))
    if rng.random() < 0.3:
        buffer = io.BytesIO()
        done.save(buffer, "JPEG", quality=int(rng.integers(25, 90)))
        done = Image.open(buffer).convert("RGB")
    return done
