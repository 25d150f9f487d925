"""Maintainer's step: fetch the pinned icon packages, check them, render the sprite atlases.

Needs npm and the extra `build`. Run from the repository's root:

    python -m data.build.sprites

Every atlas is a 9 x 9 grid of 128 px RGBA cells in the order of `gscam_lib.scenes.names.NAMES`.
A name that a package draws as something else, or not at all, is left empty and listed as missing.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cairosvg
from PIL import Image

from gscam_lib.scenes.names import NAMES

CELL, COLUMNS, MARGIN = 128, 9, 3
OUT = Path(__file__).resolve().parents[1] / "scenes" / "sprites"


@dataclass(frozen=True)
class Package:
    """One npm package at one version, and what it draws differently from its name."""

    npm: str
    version: str
    sha256: str
    license: str
    attribution: str
    wrong: tuple[str, ...] = ()


PACKAGES = {
    "noto": Package(
        "@iconify-json/noto", "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Apache-2.0", "Noto Emoji, Google Inc.",
    ),
    "twemoji": Package(
        "@iconify-json/twemoji", "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "CC-BY-4.0", "Twemoji, Twitter, Inc. and other contributors",
        wrong=("tennis racket",),  # a ball
    ),
    "fluent-flat": Package(
        "@iconify-json/fluent-emoji-flat", "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT", "Fluent Emoji, Microsoft Corporation",
    ),
    "fluent-3d": Package(
        "@lobehub/fluent-emoji-3d", "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "MIT", "Fluent Emoji 3D, Microsoft Corporation (packaged by LobeHub)",
    ),
}  # fmt: skip

CODE_POINTS = {  # an iPod has none: it is drawn below
    "bicycle": "1f6b2", "car": "1f697", "motorcycle": "1f3cd", "airplane": "2708",
    "bus": "1f68c", "train": "1f686", "truck": "1f69a", "boat": "26f5",
    "traffic light": "1f6a6", "stop sign": "1f6d1", "bird": "1f426", "cat": "1f408",
    "dog": "1f415", "horse": "1f40e", "sheep": "1f411", "cow": "1f404",
    "elephant": "1f418", "bear": "1f43b", "zebra": "1f993", "giraffe": "1f992",
    "backpack": "1f392", "umbrella": "2602", "handbag": "1f45c", "tie": "1f454",
    "suitcase": "1f9f3", "frisbee": "1f94f", "skis": "1f3bf", "soccer ball": "26bd",
    "kite": "1fa81", "skateboard": "1f6f9", "tennis racket": "1f3be", "wine glass": "1f377",
    "cup": "2615", "knife": "1f52a", "spoon": "1f944", "bowl": "1f963",
    "banana": "1f34c", "apple": "1f34e", "sandwich": "1f96a", "orange": "1f34a",
    "broccoli": "1f966", "carrot": "1f955", "hot dog": "1f32d", "pizza": "1f355",
    "donut": "1f369", "cake": "1f382", "chair": "1fa91", "couch": "1f6cb",
    "potted plant": "1fab4", "bed": "1f6cf", "toilet": "1f6bd", "tv": "1f4fa",
    "laptop": "1f4bb", "mouse": "1f5b1", "keyboard": "2328", "cell phone": "1f4f1",
    "book": "1f4d6", "clock": "1f570", "vase": "1f3fa", "scissors": "2702",
    "teddy bear": "1f9f8", "toothbrush": "1faa5", "hat": "1f3a9", "guitar": "1f3b8",
    "camera": "1f4f7", "key": "1f511", "crown": "1f451", "rocket": "1f680",
    "flower": "1f33b", "tree": "1f333", "fish": "1f41f", "butterfly": "1f98b",
    "lemon": "1f34b", "strawberry": "1f353", "bread": "1f35e", "egg": "1f95a",
    "basketball": "1f3c0", "violin": "1f3bb", "shoe": "1f45f", "lamp": "1f4a1",
}  # fmt: skip

# body, screen, wheel, button, corner radius, wheel radius; 3-D gets gradients and a gloss
IPODS = {
    "noto": ("#eceff1", "#455a64", "#b0bec5", "#eceff1", 10, 23),
    "twemoji": ("#CCD6DD", "#55ACEE", "#F5F8FA", "#CCD6DD", 8, 22),
    "fluent-flat": ("#D3D3D3", "#321B41", "#FFFFFF", "#D3D3D3", 14, 25),
    "fluent-3d": ("url(#body)", "url(#screen)", "url(#wheel)", "url(#body)", 13, 25),
}
GRADIENTS = """<defs>
<linearGradient id="body" x1="0" y1="0" x2="1" y2="1"><stop offset="0" stop-color="#fdfcff"/>
<stop offset=".6" stop-color="#d9d6e2"/><stop offset="1" stop-color="#a9a3b8"/></linearGradient>
<linearGradient id="screen" x1="0" y1="0" x2="0" y2="1"><stop offset="0" stop-color="#2d4a7c"/>
<stop offset="1" stop-color="#4fb3f0"/></linearGradient>
<radialGradient id="wheel" cx=".35" cy=".3" r=".9"><stop offset="0" stop-color="#d5d0e4"/>
<stop offset="1" stop-color="#8d86a6"/></radialGradient></defs>"""


def fetch(package: Package, folder: Path) -> Path:
    """Download one package with the npm client and return its unpacked folder."""
    name = subprocess.run(
        ["npm", "pack", "--silent", f"{package.npm}@{package.version}"],
        cwd=folder, check=True, capture_output=True, text=True,
    ).stdout.split()[-1]  # fmt: skip
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    if digest != package.sha256:
        raise ValueError(
            f"{package.npm} {package.version}: sha256 {digest}, pinned "
            f"{package.sha256}: the package changed; look before you pin it anew"
        )
    target = folder / f"{Path(name).stem}-unpacked"
    with tarfile.open(folder / name) as archive:
        archive.extractall(target, filter="data")
    return target / "package"


def ipod_svg(style: str) -> str:
    """Return the SVG of an iPod as the style would draw it."""
    body, screen, wheel, button, radius, ring = IPODS[style]
    gloss = (
        '<path d="M31 12h40L35 92h-4z" fill="#fff" opacity=".28"/>' if style == "fluent-3d" else ""
    )
    edge = 'stroke="#90a4ae" stroke-width="2"' if style.startswith("noto") else ""
    notes = '<path d="M58 24h14v4H62v14h-4z" fill="#fff" opacity=".8"/>'
    marks = "".join(
        f'<circle cx="{64 + dx * (ring - 5)}" cy="{86 + dy * (ring - 5)}" r="2" fill="#78909c"/>'
        for dx, dy in ((0, 1), (0, -1), (1, 0), (-1, 0))
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128">{GRADIENTS}
<rect x="30" y="4" width="68" height="120" rx="{radius}" fill="{body}" {edge}/>
<rect x="38" y="13" width="52" height="40" rx="4" fill="{screen}"/>{notes}
<circle cx="64" cy="86" r="{ring}" fill="{wheel}"/>{marks}
<circle cx="64" cy="86" r="9" fill="{button}"/>{gloss}</svg>"""


def svg_image(svg: str) -> Image.Image:
    """Render an SVG at twice the cell's side."""
    png = cairosvg.svg2png(bytestring=svg.encode(), output_width=256, output_height=256)
    return Image.open(io.BytesIO(png)).convert("RGBA")


def iconify_image(folder: Path, name: str) -> Image.Image | None:
    """Render one object of an Iconify package, or None where the package lacks it."""
    icons = json.loads((folder / "icons.json").read_text())
    characters = json.loads((folder / "chars.json").read_text())
    code = CODE_POINTS[name]
    for candidate in (characters.get(code), characters.get(f"{code}-fe0f")):
        icon = icons["icons"].get(candidate)
        if icon:
            width = icon.get("width", icons.get("width", 16))
            height = icon.get("height", icons.get("height", 16))
            left, top = icon.get("left", 0), icon.get("top", 0)
            return svg_image(
                f'<svg xmlns="http://www.w3.org/2000/svg" '
                f'xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
            )
    return None


def asset_image(folder: Path, name: str) -> Image.Image | None:
    """Read one object of the 3-D package, or None where the package lacks it."""
    for ending in ("", "-fe0f"):
        path = folder / "assets" / f"{CODE_POINTS[name]}{ending}.webp"
        if path.exists():
            return Image.open(path).convert("RGBA")
    return None


def cell(image: Image.Image) -> Image.Image:
    """Trim the empty border and centre the drawing in a cell, longest side to the margin."""
    box = image.getchannel("A").point(lambda a: 255 if a > 12 else 0).getbbox()
    drawing = image.crop(box)
    scale = (CELL - 2 * MARGIN) / max(drawing.size)
    size = max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale))
    drawing = drawing.resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (CELL, CELL))
    canvas.paste(drawing, ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return canvas


def atlas(style: str, folder: Path) -> tuple[Image.Image, list[str]]:
    """Return a style's atlas and the names it lacks."""
    sheet = Image.new("RGBA", (COLUMNS * CELL, COLUMNS * CELL))
    missing = []
    for i, name in enumerate(NAMES):
        if name == "iPod":
            image: Image.Image | None = svg_image(ipod_svg(style))
        elif name in PACKAGES[style].wrong:
            image = None
        else:
            image = (asset_image if style == "fluent-3d" else iconify_image)(folder, name)
        if image is None:
            missing.append(name)
        else:
            sheet.paste(cell(image), (i % COLUMNS * CELL, i // COLUMNS * CELL))
    return sheet, missing


def main() -> None:
    """Write the four atlases and their index."""
    OUT.mkdir(parents=True, exist_ok=True)
    index: dict[str, object] = {"cell": CELL, "columns": COLUMNS, "names": list(NAMES)}
    styles = {}
    with tempfile.TemporaryDirectory() as folder:
        for style, package in PACKAGES.items():
            sheet, missing = atlas(style, fetch(package, Path(folder)))
            sheet.save(OUT / f"{style}.png", optimize=True)
            styles[style] = {
                "package": package.npm, "version": package.version, "sha256": package.sha256,
                "license": package.license, "attribution": package.attribution,
                "missing": missing,
            }  # fmt: skip
            print(f"{style}: {len(NAMES) - len(missing)} sprites, missing {missing}")
    index["styles"] = styles
    (OUT / "index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
