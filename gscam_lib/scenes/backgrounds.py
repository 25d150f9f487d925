"""Backgrounds painted in code: rooms, streets, courts, snow, sea and more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Painter = Callable[[ImageDraw.ImageDraw, np.random.Generator], None]

SIDE = 256  # painted once at this size, then cropped
VARIANTS = 24  # paintings of each kind


def _pick(rng: np.random.Generator, *colours: Colour, spread: int = 14) -> Colour:
    base = colours[int(rng.integers(len(colours)))]
    shift = rng.integers(-spread, spread + 1, 3)
    r, g, b = (int(np.clip(c + s, 0, 255)) for c, s in zip(base, shift, strict=True))
    return r, g, b


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    r, g, c = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return r, g, c


def _gradient(draw: ImageDraw.ImageDraw, top: float, bottom: float, a: Colour, b: Colour) -> None:
    """Fill the rows from `top` to `bottom` with colours running from a to b."""
    rows = range(int(top), int(bottom))
    for y in rows:
        share = (y - top) / max(bottom - top - 1, 1)
        draw.line([(0, y), (SIDE, y)], fill=_mix(a, b, share))


def _cloud(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, y: float) -> None:
    colour = _pick(rng, (250, 250, 255), (238, 243, 250), spread=5)
    for _ in range(5):
        dx, dy, r = rng.uniform(-24, 24), rng.uniform(-5, 5), rng.uniform(7, 15)
        draw.ellipse([x + dx - r, y + dy - r * 0.7, x + dx + r, y + dy + r * 0.7], fill=colour)


def _sky(draw: ImageDraw.ImageDraw, rng: np.random.Generator, horizon: float) -> None:
    top = _pick(rng, (92, 170, 236), (120, 190, 245), (250, 170, 130), (150, 140, 210))
    _gradient(draw, 0, horizon, top, _mix(top, (255, 250, 235), 0.6))
    if rng.random() < 0.5:
        x, y, r = rng.uniform(20, 236), rng.uniform(15, horizon * 0.6 + 16), rng.uniform(9, 17)
        draw.ellipse([x - r, y - r, x + r, y + r], fill=_pick(rng, (255, 236, 150)))
    for _ in range(int(rng.integers(0, 4))):
        _cloud(draw, rng, rng.uniform(0, SIDE), rng.uniform(10, horizon * 0.7))


def _hills(draw: ImageDraw.ImageDraw, rng: np.random.Generator, horizon: float, colour: Colour
           ) -> None:  # fmt: skip
    for layer in range(2):
        phase, length = rng.uniform(0, 6), rng.uniform(30, 70)
        lift = rng.uniform(8, 26) * (1.4 - layer * 0.7)
        tops = [(x, horizon - lift * (1 + np.sin(x / length + phase)) / 2 - 2)
                for x in range(0, SIDE + 8, 8)]  # fmt: skip
        fill = _mix(colour, (190, 210, 230), 0.5 - 0.35 * layer)
        draw.polygon([(0, horizon + 1), *tops, (SIDE, horizon + 1)], fill=fill)


def _room(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    floor = rng.uniform(150, 195)
    wall = _pick(rng, (236, 222, 200), (205, 220, 226), (232, 205, 196), (214, 224, 196),
                 (176, 196, 214), (222, 196, 160))  # fmt: skip
    _gradient(draw, 0, floor, wall, _mix(wall, (255, 255, 255), 0.15))
    if rng.random() < 0.5:  # wallpaper
        step = int(rng.integers(14, 30))
        stripe = _mix(wall, (255, 255, 255), 0.22)
        for left in range(0, SIDE, step):
            draw.rectangle([left, 0, left + step // 2, floor], fill=stripe)
    wood = _pick(rng, (176, 126, 84), (150, 104, 70), (196, 158, 118), (128, 120, 118))
    _gradient(draw, floor, SIDE, _mix(wood, (0, 0, 0), 0.12), wood)
    for near in range(-SIDE, 2 * SIDE, 34):  # boards run to a vanishing point
        draw.line([(SIDE / 2 + (near - SIDE / 2) * 0.45, floor), (near, SIDE)],
                  fill=_mix(wood, (0, 0, 0), 0.2), width=1)  # fmt: skip
    draw.rectangle([0, floor - 5, SIDE, floor], fill=_mix(wall, (255, 255, 255), 0.6))
    x, y = rng.uniform(20, 150), rng.uniform(18, 50)
    w, h = rng.uniform(50, 80), rng.uniform(50, 80)
    if rng.random() < 0.75:  # a window, or a picture
        draw.rectangle([x - 4, y - 4, x + w + 4, y + h + 4], fill=_pick(rng, (250, 248, 240)))
        draw.rectangle([x, y, x + w, y + h], fill=_pick(rng, (160, 210, 240), (140, 180, 150)))
        draw.line([(x + w / 2, y), (x + w / 2, y + h)], fill=(250, 248, 240), width=3)
        draw.line([(x, y + h / 2), (x + w, y + h / 2)], fill=(250, 248, 240), width=3)


def _street(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    ground = rng.uniform(150, 180)
    _sky(draw, rng, ground)
    x = -10.0
    while x < SIDE:
        w, h = rng.uniform(34, 64), rng.uniform(60, 135)
        house = _pick(rng, (214, 160, 130), (226, 204, 160), (160, 176, 196), (196, 130, 120),
                      (180, 190, 170))  # fmt: skip
        draw.rectangle([x, ground - h, x + w, ground], fill=house)
        lit = _pick(rng, (250, 232, 170), (110, 140, 170))
        for wy in np.arange(ground - h + 8, ground - 16, 20):
            for wx in np.arange(x + 6, x + w - 8, 15):
                draw.rectangle([wx, wy, wx + 8, wy + 11], fill=lit)
        x += w + rng.uniform(0, 6)
    draw.rectangle([0, ground, SIDE, ground + 16], fill=_pick(rng, (190, 186, 180)))
    asphalt = _pick(rng, (96, 98, 106), (120, 120, 124))
    _gradient(draw, ground + 16, SIDE, asphalt, _mix(asphalt, (0, 0, 0), 0.15))
    for lane in range(-10, SIDE, 48):
        draw.rectangle([lane, ground + 48, lane + 26, ground + 53], fill=(240, 236, 210))


def _court(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    horizon = rng.uniform(60, 110)
    fence = _pick(rng, (36, 84, 66), (30, 70, 90))
    _gradient(draw, 0, horizon, _mix(fence, (255, 255, 255), 0.25), fence)
    for x in range(-SIDE, SIDE, 12):
        draw.line([(x, 0), (x + horizon, horizon)], fill=_mix(fence, (255, 255, 255), 0.3))
    green = _pick(rng, (66, 150, 84), (82, 160, 92), spread=10)
    _gradient(draw, horizon, SIDE, _mix(green, (255, 255, 255), 0.08), green)
    near, far, white = rng.uniform(-20, 30), rng.uniform(50, 80), (246, 248, 244)
    draw.polygon([(far, horizon + 14), (SIDE - far, horizon + 14), (SIDE - near, 250), (near, 250)],
                 outline=white, width=4)  # fmt: skip
    middle = (horizon + 14 + 250) / 2
    draw.line([((near + far) / 2, middle), (SIDE - (near + far) / 2, middle)], fill=white, width=3)
    draw.line([(SIDE / 2, horizon + 14), (SIDE / 2, middle)], fill=white, width=3)


def _clay(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    horizon = rng.uniform(60, 110)
    wall = _pick(rng, (120, 130, 140), (168, 160, 150))
    draw.rectangle([0, 0, SIDE, horizon], fill=wall)
    clay = _pick(rng, (200, 116, 76), (188, 104, 80), (90, 110, 170))
    _gradient(draw, horizon, SIDE, clay, _mix(clay, (0, 0, 0), 0.08))
    white, edge = (246, 242, 236), rng.uniform(10, 60)
    draw.line([(edge, horizon), (edge - 40, SIDE)], fill=white, width=4)
    draw.line([(0, horizon + 50), (SIDE, horizon + 50)], fill=white, width=3)
    draw.arc([90, horizon + 10, 190, horizon + 100], 0, 180, fill=white, width=3)


def _snow(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    horizon = rng.uniform(90, 140)
    _sky(draw, rng, horizon)
    for _ in range(int(rng.integers(2, 5))):
        x, w, h = rng.uniform(0, SIDE), rng.uniform(40, 90), rng.uniform(30, 80)
        rock = _pick(rng, (126, 140, 166), (150, 158, 180))
        draw.polygon([(x - w, horizon), (x, horizon - h), (x + w, horizon)], fill=rock)
        draw.polygon([(x - w * 0.35, horizon - h * 0.65), (x, horizon - h),
                      (x + w * 0.35, horizon - h * 0.65)], fill=(244, 247, 252))  # fmt: skip
    _gradient(draw, horizon, SIDE, (222, 232, 244), (250, 251, 254))
    for _ in range(int(rng.integers(3, 9))):
        x, y, s = rng.uniform(0, SIDE), horizon + rng.uniform(0, 20), rng.uniform(10, 22)
        fir = _pick(rng, (52, 92, 80))
        draw.polygon([(x - s / 2, y), (x, y - 2 * s), (x + s / 2, y)], fill=fir)
    for _ in range(60):
        x, y = rng.uniform(0, SIDE, 2)
        draw.ellipse([x, y, x + 2.5, y + 2.5], fill=(255, 255, 255))


def _sea(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    horizon = rng.uniform(60, 115)
    top = _pick(rng, (120, 190, 245), (170, 210, 240), (200, 220, 240))
    _gradient(draw, 0, horizon, top, (244, 248, 250))
    water = _pick(rng, (30, 110, 190), (36, 130, 200), (20, 96, 170))
    _gradient(draw, horizon, SIDE, _mix(water, (255, 255, 255), 0.25), water)
    for _ in range(70):  # waves, longer when nearer
        y = rng.uniform(horizon + 4, SIDE)
        length = 4 + 26 * (y - horizon) / (SIDE - horizon)
        x = rng.uniform(-10, SIDE)
        draw.arc([x, y - length / 5, x + length, y + length / 5], 200, 340,
                 fill=_mix(water, (255, 255, 255), rng.uniform(0.3, 0.7)), width=2)  # fmt: skip


def _beach(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    horizon, shore = rng.uniform(60, 90), rng.uniform(105, 140)
    _sky(draw, rng, horizon)
    _gradient(draw, horizon, shore, (70, 180, 200), (150, 220, 220))
    sand = _pick(rng, (240, 216, 164), (230, 204, 156))
    _gradient(draw, shore, SIDE, _mix(sand, (255, 255, 255), 0.3), sand)
    wave = [(x, shore + 4 * np.sin(x / 17 + horizon)) for x in range(0, SIDE + 8, 8)]
    draw.line(wave, fill=(252, 253, 252), width=6)
    for _ in range(120):
        x, y = rng.uniform(0, SIDE), rng.uniform(shore + 8, SIDE)
        draw.point((x, y), fill=_mix(sand, (110, 80, 40), 0.4))


def _table(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    edge = rng.uniform(50, 110)
    wall = _pick(rng, (230, 220, 205), (190, 205, 200), (120, 140, 160), (214, 190, 180))
    draw.rectangle([0, 0, SIDE, edge], fill=wall)
    size = int(rng.integers(22, 36))
    for x in range(0, SIDE, size):  # tiles
        draw.line([(x, 0), (x, edge)], fill=_mix(wall, (255, 255, 255), 0.35), width=2)
    for y in range(0, int(edge), size):
        draw.line([(0, y), (SIDE, y)], fill=_mix(wall, (255, 255, 255), 0.35), width=2)
    cloth = _pick(rng, (178, 120, 76), (208, 170, 128), (240, 236, 228), (170, 60, 60),
                  (90, 120, 150))  # fmt: skip
    _gradient(draw, edge, SIDE, cloth, _mix(cloth, (255, 255, 255), 0.12))
    draw.rectangle([0, edge, SIDE, edge + 5], fill=_mix(cloth, (0, 0, 0), 0.25))
    if rng.random() < 0.5:  # chequered cloth
        for x in range(0, SIDE, 40):
            draw.rectangle([x, edge + 5, x + 20, SIDE], fill=_mix(cloth, (255, 255, 255), 0.2))
        for y in range(int(edge) + 10, SIDE, 40):
            draw.rectangle([0, y, SIDE, y + 8], fill=_mix(cloth, (0, 0, 0), 0.1))
    else:
        for plank in np.arange(edge + 20, SIDE, 26):
            draw.line([(0, plank), (SIDE, plank)], fill=_mix(cloth, (0, 0, 0), 0.12))


def _grass(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    horizon = rng.uniform(80, 140)
    _sky(draw, rng, horizon)
    green = _pick(rng, (116, 176, 72), (140, 186, 86), (98, 156, 70), (176, 180, 90))
    _hills(draw, rng, horizon, green)
    _gradient(draw, horizon, SIDE, green, _mix(green, (20, 60, 10), 0.25))
    for _ in range(90):
        x, y = rng.uniform(0, SIDE), rng.uniform(horizon + 6, SIDE)
        s = 3 + 6 * (y - horizon) / (SIDE - horizon)
        blade = _mix(green, (20, 70, 10), rng.uniform(0.1, 0.5))
        draw.line([(x, y), (x + rng.uniform(-2, 2), y - s)], fill=blade, width=1)
    for _ in range(int(rng.integers(0, 24))):
        x, y = rng.uniform(0, SIDE), rng.uniform(horizon + 12, SIDE)
        draw.ellipse([x, y, x + 4, y + 4], fill=_pick(rng, (255, 240, 120), (250, 250, 250),
                                                     (240, 140, 170)))  # fmt: skip


def _desert(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    horizon = rng.uniform(90, 150)
    _sky(draw, rng, horizon)
    sand = _pick(rng, (226, 170, 100), (214, 150, 96), (232, 190, 130))
    _hills(draw, rng, horizon, sand)
    _gradient(draw, horizon, SIDE, sand, _mix(sand, (120, 70, 30), 0.2))
    for _ in range(7):
        y = rng.uniform(horizon + 10, SIDE)
        draw.arc([-80, y - 12, SIDE + 80, y + 12], 20, 160, fill=_mix(sand, (120, 70, 30), 0.25))


def _night(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    horizon = rng.uniform(150, 200)
    top = _pick(rng, (24, 28, 66), (40, 30, 80), (16, 40, 70))
    _gradient(draw, 0, horizon, top, _mix(top, (120, 110, 170), 0.55))
    for _ in range(70):
        x, y = rng.uniform(0, SIDE), rng.uniform(0, horizon)
        draw.ellipse([x, y, x + 1.6, y + 1.6], fill=(250, 246, 220))
    x, y = rng.uniform(30, 226), rng.uniform(20, 70)
    draw.ellipse([x - 14, y - 14, x + 14, y + 14], fill=(250, 244, 210))
    _hills(draw, rng, horizon, (40, 60, 80))
    _gradient(draw, horizon, SIDE, (44, 62, 74), (26, 40, 50))


def _plain(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    colour: Colour = tuple(int(c) for c in rng.integers(30, 250, 3))  # type: ignore[assignment]
    other = _mix(colour, (255, 255, 255) if rng.random() < 0.6 else (0, 0, 0), rng.uniform(0, 0.4))
    _gradient(draw, 0, SIDE, colour, other)
    pattern, step = rng.integers(5), int(rng.integers(18, 44))
    light = _mix(colour, (255, 255, 255), 0.25)
    for x in range(-SIDE, SIDE, step):
        if pattern == 1:
            draw.line([(x, 0), (x + SIDE, SIDE)], fill=light, width=step // 3)
        for y in range(0, SIDE, step):
            if pattern == 2 and x >= 0:
                draw.ellipse([x, y, x + step // 3, y + step // 3], fill=light)
            if pattern == 3 and x >= 0 and (x // step + y // step) % 2:
                draw.rectangle([x, y, x + step, y + step], fill=light)


PAINTERS: Mapping[str, Painter] = MappingProxyType(
    {
        "room": _room, "street": _street, "court": _court, "clay": _clay, "snow": _snow,
        "sea": _sea, "beach": _beach, "table": _table, "grass": _grass, "desert": _desert,
        "night": _night, "plain": _plain,
    }
)  # fmt: skip
BACKGROUNDS: tuple[str, ...] = tuple(PAINTERS)


@cache
def painting(kind: str, variant: int) -> Image.Image:
    """Return one painting of `kind`, 256 x 256 RGB; the same for the same number.

    Errors: ValueError for an unknown kind, with those there are.
    """
    if kind not in PAINTERS:
        raise ValueError(f"no background {kind!r}; there are: {', '.join(BACKGROUNDS)}")
    rng = np.random.default_rng([variant, BACKGROUNDS.index(kind)])
    image = Image.new("RGB", (SIDE, SIDE))
    PAINTERS[kind](ImageDraw.Draw(image), rng)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))


def background(kind: str, size: int, rng: np.random.Generator) -> Image.Image:
    """Return a random crop of a random painting of `kind`, size x size RGB."""
    image = painting(kind, int(rng.integers(VARIANTS)))
    side = SIDE * rng.uniform(0.72, 1.0)
    left, top = rng.uniform(0, SIDE - side, 2)
    box = (left, top, left + side, top + side)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
