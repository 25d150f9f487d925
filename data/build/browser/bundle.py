"""Pages of static files in which a model runs: nothing is fetched, nothing can be sent."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from fontTools import subset
from fontTools.ttLib import TTFont
from PIL import Image

from data.build.browser.export import export
from gscam_lib.explorer import controls as c
from gscam_lib.explorer.panel import layout
from gscam_lib.explorer.photos import Photo, choose
from gscam_lib.explorer.pictures import colors
from gscam_lib.explorer.request import About
from gscam_lib.methods import METHODS
from gscam_lib.trace.model import Model, load_model
from gscam_lib.typography import FONT

HERE = Path(__file__).parent
MODELS = ("photo-lite", "mini-rn")
LANGUAGES = ("en", "de", "es")
COMPUTED = ("gscorecam", "scorecam", "gradcam")
PHOTOS = 8  # of each model, at most
LEFT_OUT = {"code", "page"}  # buttons for which there is no Python here
LETTERS = [*range(0x20, 0x7F), *range(0xA0, 0x180), *range(0x370, 0x400), *range(0x400, 0x460)]
POLICY = (
    "default-src 'none'; script-src {scripts} {beside}'unsafe-eval' blob:; worker-src blob:; "
    "connect-src blob: data:; img-src 'self' blob: data:; media-src blob:; font-src data:; "
    "style-src {style}; base-uri 'none'; form-action 'none'"
)
"""What a browser lets the page do: run its own scripts, and send nothing. eval is let in for
WebAssembly in older browsers, and for those who drive the page: it opens no way out."""


def write(out: Path, models: Sequence[str] = MODELS) -> list[Path]:
    """Write index.html with a script for each model, and a page of one file for each.

    out: the folder; models: as in load_model, of towers that `export` takes. Returns the paths.
    """
    out.mkdir(parents=True, exist_ok=True)
    scripts, known = {}, {}
    for what in models:
        model = load_model(what)
        packed = base64.b64encode(gzip.compress(export(model), 9, mtime=0)).decode()
        name = model.name
        scripts[name] = f'(window.gscamModels ??= {{}})["{name}"] = "{packed}";\n'
        known[name] = {**_known(model), "bytes": len(scripts[name])}
    written = [_save(out / "index.html", page(known))]
    for name, script in scripts.items():
        written.append(_save(out / f"{name}.js", script))
        written.append(_save(out / f"{name}.html", page({name: known[name]}, script)))
    written.append(_save(out / "LICENSES.txt", licences()))
    return written


def _save(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def licences() -> str:
    """Of all that is in the pages and not this project's own."""
    ours = (HERE.parents[2] / "LICENSE").read_text(encoding="utf-8")
    theirs = (HERE / "runtime" / "LICENSE").read_text(encoding="utf-8")
    font = Path(mpl.get_data_path()) / "fonts" / "ttf" / "LICENSE_DEJAVU"
    parts = {
        "This project, its models' text towers, mini-rn": ours,
        "TensorFlow.js 4.22.0 (Google), and the image tower of photo-lite": theirs,
        "DejaVu Sans Bold, letters of notes": font.read_text(encoding="utf-8", errors="replace"),
    }
    return "\n\n".join(f"{what}\n{'=' * len(what)}\n\n{text}" for what, text in parts.items())


def page(known: Mapping[str, Any], script: str = "") -> str:
    """The page of models; script: what holds the model, where it does not lie beside the page."""
    ours = "".join(_read(name) for name in ("pool.js", "photos.js", "live.js"))
    live = c.read("view.js") + c.read("maps.js") + ours
    style = c.read("view.css") + _read("live.css").replace("__FONT__", _font())
    content = {
        "models": known,
        "texts": {language: c.texts(language) for language in LANGUAGES},
        "colors": colors(),
    }
    data = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
    policy = POLICY.format(
        scripts=f"{_hash(script)} {_hash(live)}",
        beside="" if script else "'self' ",
        style=_hash(style),
    )
    wasm = (HERE / "runtime" / "tfjs-backend-wasm-simd.wasm").read_bytes()
    filled = {
        "POLICY": policy,
        "STYLE": style,
        "DATA": data,
        "WORKER": worker(),
        "WASM": base64.b64encode(wasm).decode(),
        "MODEL": script,
        "SCRIPT": live,
    }
    for name, text in filled.items():
        if "</script" in text:
            raise ValueError(f"Got </script in {name.lower()}; it would end the page's script.")
    return re.sub(r"__([A-Z]+)__", lambda m: filled[m[1]], _read("live.html"))


def worker() -> str:
    """The worker's source: TensorFlow.js, and what it is used for."""
    names = ["tf-core.min.js", "tf-backend-wasm.min.js", "tf-backend-webgpu.min.js"]
    theirs = [_read(f"runtime/{name}") for name in names]
    return ";\n".join([*theirs, *map(_read, ("photo.js", "network.js", "text.js", "worker.js"))])


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a policy names a script or style that stands in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# ---------------------------------------------------------------- what is known of a model


def _known(model: Model) -> dict[str, Any]:
    """Controls and photos of a model, as `view.js` and `live.js` take them."""
    photos = choose(None, drawn=model.name.startswith("mini"))
    offered = {key: _photo(key, photo) for key, photo in _some(photos).items()}
    prompts = {key: tuple(p for p in photo.prompts if model.knows(p).known)[:2]
               for key, photo in photos.items()}  # fmt: skip
    about = About(
        model.name,
        model.channels,
        model.default_k,
        {key: photo["name"] for key, photo in offered.items()},
        {name: METHODS[name].title for name in COMPUTED},
        ("gscorecam",),
        prompts,
        frozenset(),
        colors(),
    )
    begin = next(iter(offered))
    first = {"photo": begin, "method": "gscorecam", "k": model.default_k,
             "prompts": "; ".join(prompts[begin])}  # fmt: skip
    (chosen, _, prompted), method, drawn, buttons, hidden = layout(about, first, False)
    taken = c.control("file", "choose"), c.control("button", "camera")  # nothing is uploaded
    return {
        "channels": model.channels,
        "default_k": model.default_k,
        "photos": [{**photo, "prompts": prompts[key]} for key, photo in offered.items()],
        "controls": [
            [c.choice("model", [], model.name), chosen, *taken, prompted],
            [c.control("text", "word", ""), c.percent("width", 0.5, 10),
             c.percent("x", 0.5), c.percent("y", 0.6)],
            method,
            drawn,
            [b for b in buttons if b["name"] not in LEFT_OUT],
            [control for control in hidden if control["name"] == "channel"],
        ],
    }  # fmt: skip


def _some(photos: Mapping[str, Photo]) -> dict[str, Photo]:
    """A few of each kind, in their order: so many that there is room for three kinds."""
    kinds = [key.split("-")[0] for key in photos]
    most = PHOTOS if len(set(kinds)) == 1 else -(-PHOTOS // 3)
    few = [key for i, key in enumerate(photos) if kinds[:i].count(kinds[i]) < most]
    return {key: photos[key] for key in few[:PHOTOS]}


def _photo(key: str, photo: Photo) -> dict[str, Any]:
    """A photo as a file in base64: what it came as, or a JPEG."""
    if isinstance(photo.image, Path):
        content = photo.image.read_bytes()
    else:
        stream = io.BytesIO()
        photo.open().convert("RGB").save(stream, "JPEG", quality=90)
        content = stream.getvalue()
    with Image.open(io.BytesIO(content)) as opened:
        kind = Image.MIME[opened.format or "JPEG"]
    return {
        "key": key,
        "name": photo.name,
        "boxes": [list(box) for box in photo.boxes],
        "file": f"data:{kind};base64,{base64.b64encode(content).decode()}",
    }


def _font() -> str:
    """The letters of notes as WOFF in base64: the library's font, Latin, Greek and Cyrillic."""
    options = subset.Options(
        flavor="woff",
        layout_features=["kern"],
        notdef_outline=True,
        drop_tables=["FFTM", *subset.Options().drop_tables],
    )
    font = TTFont(FONT)
    picked = subset.Subsetter(options)
    picked.populate(unicodes=LETTERS)
    picked.subset(font)
    stream = io.BytesIO()
    font.flavor = "woff"
    font.save(stream, reorderTables=True)
    return base64.b64encode(stream.getvalue()).decode()
