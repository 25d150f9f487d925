"""Compose a scene: sprites and labels on a painted background, with exact boxes and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from gscam_lib.scenes.backgrounds import BACKGROUNDS
from gscam_lib.scenes.backgrounds import background as paint_background
from gscam_lib.scenes.labels import FONTS, label_patch
from gscam_lib.scenes.names import TRAINING_STYLES, check_name
from gscam_lib.scenes.sprites import has_sprite, sprite

Box = tuple[int, int, int, int]
RNG = np.random.Generator


@dataclass(frozen=True)
class Pose:
    """How a drawing lies in its scene: scaled, flipped, turned, trimmed, put somewhere."""

    shape: tuple[int, int]
    flip: bool
    angle: float
    trim: Box | None = None
    corner: tuple[int, int] = (0, 0)

    def apply(self, image: Image.Image, resample: Image.Resampling) -> Image.Image:
        """Return a sprite-sized image (the sprite, or what belongs to it) in this pose."""
        if self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = image.resize(self.shape, resample)
        return image.rotate(self.angle, resample, expand=True).crop(self.trim)


@dataclass(frozen=True)
class SceneObject:
    """An object: its name, the box of its visible pixels (half-open), and their mask (H, W)."""

    name: str
    box: Box
    mask: NDArray[np.bool_] = field(repr=False)
    visible: float  # share of the whole drawing that can be seen
    style: str
    pose: Pose = field(repr=False)

    @property
    def area(self) -> int:
        """Visible pixels."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class SceneLabel:
    """A written label: what it says, and the half-open box of its visible pixels."""

    text: str
    box: Box


@dataclass(frozen=True)
class Scene:
    """A composed image and the whole truth about it.

    rng: the generator as drawing left it, for who goes on from there (captions in training do).
    """

    image: Image.Image
    objects: tuple[SceneObject, ...]
    labels: tuple[SceneLabel, ...]
    background: str
    rng: RNG = field(repr=False, compare=False)


def as_drawn(name: str, style: str, rng: RNG) -> Image.Image:
    """Return the sprite as it is: the usual `Look.paint`."""
    return sprite(name, style)


@dataclass(frozen=True)
class Look:
    """How a scene is drawn; the defaults suit a page of a notebook.

    style: one of STYLES, or None for a random training style per object.
    paint: gives the sprite of a name in a style (training repaints them); backdrop: the picture
    (size, size) of a kind of place.
    scale: longest side of an object as a share of the image; None: by the number of objects.
    label_width: share of the image's width; labels_on: labels stick to objects.
    """

    style: str | None = None
    paint: Callable[[str, str, RNG], Image.Image] = as_drawn
    backdrop: Callable[[str, int, RNG], Image.Image] = paint_background
    scale: tuple[float, float] | None = None
    label_width: tuple[float, float] = (0.35, 0.7)
    labels_on: bool = True
    fonts: tuple[str, ...] = FONTS
    paper: bool | None = None
    min_visible: float = 0.35
    max_angle: float = 25.0
    shadow: float = 0.8  # share of objects that cast a shadow


@dataclass(frozen=True)
class _Piece:
    patch: Image.Image
    left: int
    top: int

    @property
    def box(self) -> Box:
        return self.left, self.top, self.left + self.patch.width, self.top + self.patch.height


def _overlap(a: Box, b: Box) -> float:
    """Return the share of the smaller box that the two have in common."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(w, 0) * max(h, 0) / max(smaller, 1)


def _drawing(name: str, look: Look, count: int, size: int, rng: RNG
             ) -> tuple[Image.Image, str, Pose]:  # fmt: skip
    """Return the posed sprite, trimmed, its style and its pose."""
    styles = [look.style] if look.style else [s for s in TRAINING_STYLES if has_sprite(name, s)]
    style = styles[int(rng.integers(len(styles)))]
    image = look.paint(name, style, rng)
    low, high = look.scale or (0.5 / count**0.35, min(0.92, 1.15 / count**0.5))
    side = rng.uniform(low, high) * size
    stretch = rng.uniform(-0.14, 0.14)
    shape = (max(8, round(side * (1 + stretch))), max(8, round(side * (1 - stretch))))
    pose = Pose(shape, rng.random() < 0.5, rng.uniform(-look.max_angle, look.max_angle))
    image = pose.apply(image, Image.Resampling.BILINEAR)
    trim = image.getchannel("A").getbbox()
    return image.crop(trim), style, replace(pose, trim=trim)


def _place(patch: Image.Image, taken: Sequence[Box], size: int, rng: RNG) -> _Piece:
    """Put the patch where it hides least of what is there, out of a few random places."""
    tries = 1 if rng.random() < 0.12 else 10
    out_x, out_y = patch.width * 0.06, patch.height * 0.06  # a little may leave the frame
    best, least = (0, 0), np.inf
    for _ in range(tries):
        left = round(rng.uniform(-out_x, max(size - patch.width + out_x, 1 - out_x)))
        top = round(rng.uniform(-out_y, max(size - patch.height + out_y, 1 - out_y)))
        box = (left, top, left + patch.width, top + patch.height)
        cost = sum(_overlap(box, other) for other in taken)
        if cost < least:
            best, least = (left, top), cost
        if least == 0:
            break
    return _Piece(patch, *best)


def _stick(patch: Image.Image, target: Box | None, size: int, rng: RNG) -> _Piece:
    """Stick a label on the lower half of its object, or anywhere in the frame."""
    if target is None:
        left = rng.uniform(0, max(size - patch.width, 1))
        top = rng.uniform(0, max(size - patch.height, 1))
    else:
        left = (target[0] + target[2] - patch.width) / 2 + rng.normal(0, size * 0.05)
        top = target[1] + (target[3] - target[1]) * rng.uniform(0.4, 0.9) - patch.height / 2
    left = np.clip(left, 0, max(size - patch.width, 0))
    top = np.clip(top, 0, max(size - patch.height, 0))
    return _Piece(patch, round(left), round(top))


def _label(text: str, look: Look, size: int, rng: RNG) -> Image.Image:
    patch = label_patch(text, rng, look.fonts, look.paper)
    width = rng.uniform(*look.label_width) * size
    height = min(width * patch.height / patch.width * rng.uniform(0.85, 1.2), size * 0.4)
    patch = patch.resize((max(8, round(width)), max(5, round(height))), Image.Resampling.BILINEAR)
    angle = float(np.clip(rng.normal(0, 6), -14, 14))
    patch = patch.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    return patch.crop(patch.getchannel("A").getbbox())


def _cast_shadow(canvas: Image.Image, piece: _Piece, rng: RNG) -> None:
    alpha = piece.patch.getchannel("A")
    small = alpha.resize((max(1, alpha.width // 4), max(1, alpha.height // 4)))
    soft = small.filter(ImageFilter.BoxBlur(1)).resize(alpha.size, Image.Resampling.BILINEAR)
    strength = rng.uniform(0.2, 0.5)
    dark = soft.point(lambda a: int(a * strength))
    shift = max(1, round(canvas.width * 0.014))
    canvas.paste((20, 20, 40), (piece.left + shift, piece.top + 2 * shift), dark)


def _stamp(canvas: Image.Image, owner: Image.Image, piece: _Piece, number: int) -> int:
    """Paste a piece, claim its pixels in the owner map, and return how many it has in all."""
    alpha = piece.patch.getchannel("A")
    hard = alpha.point(_HARD)
    canvas.paste(piece.patch, (piece.left, piece.top), alpha)
    owner.paste(number, (piece.left, piece.top), hard)
    return int(hard.histogram()[255])


_HARD = [0] * 128 + [255] * 128


def _box(mask: NDArray[np.bool_]) -> Box:
    """Return the half-open box of the True pixels; an empty mask gives (0, 0, 0, 0)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def compose(
    objects: Sequence[str],
    *,
    labels: Sequence[str] = (),
    background: str | None = None,
    seed: int | Sequence[int] = 0,
    size: int = 224,
    look: Look | None = None,
) -> Scene:
    """Compose one scene; the same arguments give the same pixels.

    objects: names out of NAMES, drawn in this order; labels: texts; background: one of
    BACKGROUNDS or None for any. Boxes are half-open pixels (x0, y0, x1, y1) of visible pixels,
    masks are (size, size) and disjoint. Errors: ValueError for unknown names or backgrounds,
    or when the objects cannot all be kept visible.
    """
    for name in objects:
        check_name(name)
    if background is not None and background not in BACKGROUNDS:
        raise ValueError(f"no background {background!r}; there are: {', '.join(BACKGROUNDS)}")
    if size < 32:
        raise ValueError(f"size {size} is too small for a scene; use 32 pixels or more")
    look = look or Look()
    for attempt in range(40):
        rng = np.random.default_rng([attempt, *np.atleast_1d(seed).tolist()])
        scene = _compose(objects, labels, background, rng, size, look)
        if all(thing.visible >= look.min_visible for thing in scene.objects):
            return scene
    raise ValueError(
        f"{len(objects)} objects and {len(labels)} labels left no room to see every object "
        f"({look.min_visible:.0%} of each); use fewer, or a smaller look.scale or min_visible"
    )


def _compose(objects: Sequence[str], labels: Sequence[str], background: str | None, rng: RNG,
             size: int, look: Look) -> Scene:  # fmt: skip
    place = background or BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    canvas = look.backdrop(place, size, rng)
    owner = Image.new("L", (size, size))
    boxes: list[Box] = []
    drawn: list[tuple[str, str, Pose, int]] = []
    for number, name in enumerate(objects, 1):
        patch, style, pose = _drawing(name, look, len(objects), size, rng)
        piece = _place(patch, boxes, size, rng)
        if rng.random() < look.shadow:
            _cast_shadow(canvas, piece, rng)
        whole = _stamp(canvas, owner, piece, number)
        drawn.append((name, style, replace(pose, corner=(piece.left, piece.top)), whole))
        boxes.append(piece.box)
    for number, text in enumerate(labels, len(objects) + 1):
        on = look.labels_on and boxes and rng.random() < 0.85
        target = boxes[(number - 1 - len(objects)) % len(boxes)] if on else None
        piece = _stick(_label(text, look, size, rng), target, size, rng)
        _cast_shadow(canvas, piece, rng)
        _stamp(canvas, owner, piece, number)
    masks = [np.asarray(owner) == i for i in range(1, len(objects) + len(labels) + 1)]
    things = tuple(
        SceneObject(name, _box(mask), mask, float(mask.sum() / max(whole, 1)), style, pose)
        for (name, style, pose, whole), mask in zip(drawn, masks, strict=False)
    )
    written = map(SceneLabel, labels, map(_box, masks[len(objects) :]))
    return Scene(canvas, things, tuple(written), place, rng)
