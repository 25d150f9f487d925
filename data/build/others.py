"""How a bundled model does on drawings by hands that nothing here was trained on.

    python -m data.build.others mini-rn mini-vit [--coco FOLDER]

Four more packages of drawings are fetched (npm is needed, and the extra `build`), measured on and
thrown away: none of their art enters the project. Scenes: each name alone, several things, a word
stuck on a thing; on painted places, photographs of surfaces and smooth colours; the same once more
in the style that is bundled and never trained on. With COCO's photos: its larger objects, cropped.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from statsmodels.stats.proportion import proportion_confint

from data.build.hands import photograph
from data.build.probe import ranks
from data.build.sprites import CODE_POINTS, Package, cell, fetch, iconify_image
from data.build.towers import Towers, read, similarities
from data.build.world import HELD_OUT_FONTS
from gscam_lib.paths import MODELS
from gscam_lib.scenes import NAMES, UNSEEN_STYLE, Look, compose
from gscam_lib.scenes.backgrounds import background
from gscam_lib.scenes.sprites import sprite

RNG = np.random.Generator
SEED, COUNT, SIDE = 77, 160, 224
SURFACES = ("immunohistochemistry", "hubble_deep_field", "retina", "coins", "camera")  # untrained
HANDS = {
    "openmoji": Package(
        "@iconify-json/openmoji", "1.2.29",
        "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        "CC-BY-SA-4.0", "OpenMoji", wrong=("tennis racket",),  # a ball
    ),
    "fxemoji": Package(
        "@iconify-json/fxemoji", "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        "Apache-2.0", "FxEmojis, Mozilla", wrong=("mouse", "keyboard"),  # an animal, a piano
    ),
    "emojione": Package(
        "@iconify-json/emojione", "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        "CC-BY-4.0", "EmojiOne",
    ),
    "emojione-v1": Package(
        "@iconify-json/emojione-v1", "1.2.3",
        "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3",
        "CC-BY-SA-4.0", "EmojiOne 1", wrong=("mouse", "keyboard", "tennis racket"),
    ),
}  # fmt: skip
Drawings = Mapping[str, Sequence[Image.Image]]


@dataclass(frozen=True)
class Shots:
    """Scenes (n, SIDE, SIDE, 3) and the names in each; with a word, it is the last of them."""

    images: NDArray[np.uint8]
    names: tuple[tuple[str, ...], ...]


def _named_alike(folder: Path, slugs: Mapping[str, str]) -> None:
    """Give a package without a table of code points one: its icons that are called as others'."""
    if json.loads((folder / "chars.json").read_text()):
        return
    icons = json.loads((folder / "icons.json").read_text())["icons"]
    known = {key.replace("-", ""): key for key in icons}
    table: dict[str, str] = {}
    for name, code in CODE_POINTS.items():
        slug = slugs.get(code, slugs.get(f"{code}-fe0f", "")).replace("-", "")
        tried = (slug, name.replace(" ", ""), slug.removeprefix("red"), f"{slug}face")
        alike = next((known[key] for key in tried if key in known), None)
        if alike:
            table[code] = alike
    (folder / "chars.json").write_text(json.dumps(table))


def drawings() -> Drawings:
    """Fetch the packages; return every name's drawings, 128 x 128 RGBA, one by each hand."""
    found: dict[str, list[Image.Image]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {key: fetch(hand, Path(temporary)) for key, hand in HANDS.items()}
        slugs = json.loads((folders["openmoji"] / "chars.json").read_text())
        for key, folder in folders.items():
            _named_alike(folder, slugs)
            for name in CODE_POINTS:
                image = None if name in HANDS[key].wrong else iconify_image(folder, name)
                if image is not None:
                    found.setdefault(name, []).append(cell(image))
    return found


def _backdrop(kind: str, size: int, rng: RNG) -> Image.Image:
    draw = rng.random()
    if draw < 0.35:
        return background(kind, size, rng)
    if draw < 0.7:
        side, picture = rng.uniform(70, 240), photograph(str(rng.choice(SURFACES)))
        left, top = rng.uniform(0, 256 - side, 2)
        crop = picture.resize((size, size), box=(left, top, left + side, top + side))
        return crop.filter(ImageFilter.GaussianBlur(rng.uniform(0, 3)))
    few = int(rng.integers(2, 7))
    colours = Image.fromarray(rng.integers(0, 256, (few, few, 3), dtype=np.uint8))
    return colours.resize((size, size), Image.Resampling.BICUBIC)


def _paint(by_name: Drawings, name: str, style: str, rng: RNG) -> Image.Image:
    hands = by_name[name]
    return hands[int(rng.integers(len(hands)))]


def sets(by_name: Drawings) -> dict[str, Shots]:
    """Compose the scenes: "alone", "several" and "word"; the same drawings give the same ones."""
    rng, names = np.random.default_rng(SEED), [name for name in NAMES if name in by_name]
    look = Look(paint=partial(_paint, by_name), backdrop=_backdrop, min_visible=0.3,
                fonts=HELD_OUT_FONTS)  # fmt: skip
    pairs = [rng.choice(names, 2, replace=False).tolist() for _ in range(COUNT)]
    crowds = [rng.choice(names, 3 + i % 4, replace=False).tolist() for i in range(COUNT)]
    return {
        "alone": _shots([([name], []) for name in names * 3], look),
        "several": _shots([(crowd, []) for crowd in crowds], look),
        "word": _shots([([thing], [word]) for thing, word in pairs], look),
    }


def _shots(plan: Sequence[tuple[list[str], list[str]]], look: Look) -> Shots:
    scenes = [compose(things, labels=words, seed=[SEED, i], size=SIDE, look=look)
              for i, (things, words) in enumerate(plan)]  # fmt: skip
    return Shots(
        np.stack([np.asarray(scene.image) for scene in scenes]),
        tuple((*things, *words) for things, words in plan),
    )


def photos(folder: Path, least: int = 80) -> Shots:
    """Crop COCO's objects of at least so many pixels, with a tenth of margin, one a row.

    Errors: FileNotFoundError where the folder has no instances*.json.
    """
    found = next(iter(sorted(folder.rglob("instances*.json"))), None)
    if found is None:
        raise FileNotFoundError(f"no instances*.json under {folder.name}: give COCO's folder")
    content = json.loads(found.read_text())
    called = {c["id"]: c["name"].replace("sports ball", "soccer ball")
              for c in content["categories"]}  # fmt: skip
    files = {image["id"]: image["file_name"] for image in content["images"]}
    where = {path.name: path for path in folder.rglob("*.jpg")}
    crops, names = [], []
    for row in content["annotations"]:
        name, (x, y, w, h) = called[row["category_id"]], row["bbox"]
        if name not in NAMES or row.get("iscrowd") or min(w, h) < least:
            continue
        image, m = Image.open(where[files[row["image_id"]]]).convert("RGB"), 0.1 * max(w, h)
        box = (
            max(0, x - m),
            max(0, y - m),
            min(image.width, x + w + m),
            min(image.height, y + h + m),
        )
        crops.append(np.asarray(image.crop(box).resize((SIDE, SIDE))))
        names.append((name,))
    return Shots(np.stack(crops), tuple(names))


def _places(towers: Towers, shots: Shots) -> list[NDArray[np.int64]]:
    """Return, scene by scene, the place of each of its names among all."""
    side = (towers.size, towers.size)
    images = np.stack([np.asarray(Image.fromarray(i).resize(side, Image.Resampling.BICUBIC))
                       for i in shots.images])  # fmt: skip
    rows = ranks(similarities(towers, images, NAMES))
    return [row[[NAMES.index(name) for name in names]]
            for row, names in zip(rows, shots.names, strict=True)]  # fmt: skip


def rates(towers: Towers, made: Mapping[str, Shots]) -> dict[str, tuple[float, int]]:
    """Return each rate and the number of scenes it is of."""
    out: dict[str, tuple[float, int]] = {}

    def add(name: str, found: Any) -> None:
        out[name] = float(np.mean(found)), len(found)

    for key in made.keys() & {"alone", "photos"}:
        add(f"top-1, {key}", [place[0] == 0 for place in _places(towers, made[key])])
    if "several" in made:
        shares = [np.mean(place < len(place)) for place in _places(towers, made["several"])]
        add("recall at n, several", shares)
    if "word" in made:
        places = _places(towers, made["word"])
        add("word beats object", [word < thing for thing, word in places])
        add("both in the top 3", [max(place) < 3 for place in places])
    return out


def table(models: Sequence[str], coco: Path | None = None) -> str:
    """Return as Markdown what each model does on other hands' scenes, with 95 % intervals (Wilson).

    models: bundled names or folders; coco: a folder of COCO's photos, whose larger objects are
    cropped. Errors: those of `photos` and of fetching.
    """
    groups = {
        "other hands": sets(drawings()),
        "unseen style, these backdrops": sets({n: [sprite(n, UNSEEN_STYLE)] for n in NAMES}),
    }
    if coco:
        groups["crops of COCO's photographs"] = {"photos": photos(coco)}
    lines = ["| model | scenes | measure | value | 95 % interval | n |", f"|{'---|' * 6}"]
    for model in models:
        towers = read(MODELS / model if (MODELS / model).is_dir() else Path(model))
        for group, made in groups.items():
            for rate, (value, n) in rates(towers, made).items():
                low, high = proportion_confint(value * n, n, method="wilson")
                span = f"{low:.1%} … {high:.1%}"
                lines.append(
                    f"| {Path(model).name} | {group} | {rate} | {value:.1%} | {span} | {n} |"
                )
    return "\n".join(lines)


def main(
    models: Annotated[list[str], typer.Argument(help="bundled models, or their folders")],
    coco: Annotated[Path | None, typer.Option(help="a folder of COCO's photos")] = None,
) -> None:
    """Print what each model does on other hands' scenes."""
    typer.echo(table(models, coco))


if __name__ == "__main__":
    typer.run(main)
