"""The page in which the models run: what is loaded, the first map of a dropped photo, the slider.

make live && python tests/bench/live.py [FOLDER]
"""

from __future__ import annotations

import base64
import gzip
import io
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, from anywhere

from PIL import Image
from skimage import data

from tests.bench.page import write_section
from tests.bench.timing import machine
from tests.chromium import launched

FOLDER = Path(__file__).resolve().parents[2] / "build" / "live"

DROP = """async url => {
const blob = await (await fetch(url)).blob(), files = new DataTransfer();
files.items.add(new File([blob], "dropped.png", { type: "image/png" }));
const start = performance.now();
document.dispatchEvent(new DragEvent("drop", { dataTransfer: files }));
const found = {};
while (!found.whole) {
  await new Promise(done => requestAnimationFrame(done));
  const last = window.gscam.last;
  if (last.photo !== "dropped.png") continue;
  found.first ??= [performance.now() - start, last.k];
  if (last.k === __K__) found.whole = performance.now() - start;
}
return found; }"""
NEXT = """() => new Promise(done => {
const look = () => window.gscam.last !== window.before ? done(performance.now() - window.start)
  : requestAnimationFrame(look);
look(); })"""
BEFORE = "() => { window.before = window.gscam.last; window.start = performance.now(); }"


def measure(folder: Path, model: str, k: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds to the first map of the page and of a dropped photo, milliseconds of the slider."""
    stream = io.BytesIO()
    Image.fromarray(data.chelsea()).save(stream, "PNG")
    photo = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    rows = []
    for _ in range(rounds):
        with launched() as browser:
            page = browser.new_page()
            page.goto((folder / "index.html").as_uri() + f"?model={model}&prompt=a cat")
            page.wait_for_function("() => window.gscam.last", timeout=120_000)
            opened = page.evaluate("performance.now()") / 1e3
            page.wait_for_function(f"() => window.gscam.last.k === {k}", timeout=120_000)
            found = page.evaluate(DROP.replace("__K__", str(k)), photo)
            slider = page.get_by_label("Channels k", exact=True).first
            times = []
            for _ in range(10):
                page.evaluate(BEFORE)
                slider.press("ArrowLeft")
                times.append(page.evaluate(NEXT))
            rows.append({"model": model, "open_s": opened, "first_s": found["first"][0] / 1e3,
                         "first_k": found["first"][1], "whole_s": found["whole"] / 1e3,
                         "slider_ms": statistics.median(times)})  # fmt: skip
    return rows


def main(arguments: Sequence[str]) -> None:
    """Measure what lies in a folder, print the section and write it."""
    folder = Path(arguments[0] if arguments else FOLDER).resolve()
    files = sorted(path for path in folder.iterdir() if path.suffix in (".html", ".js"))
    load = os.getloadavg()[0]
    rows = [measure(folder, model, k, 3) for model, k in (("photo-lite", 125), ("mini-rn", 100))]
    lines = ["## The page in which the models run", "", machine(), "",
             f"Headless Chromium, no graphics card, page opened from disk, prompt “a cat”, a photo "
             f"of 451 × 300 pixels dropped; medians of 3; load {load:.1f} at the start. "
             "`make live`, then `python tests/bench/live.py`.", "",
             "| model | page opened → a map | photo dropped → a map | → all k channels | slider |",
             "|---|---|---|---|---|"]  # fmt: skip
    for group in rows:
        mid = {
            key: statistics.median(row[key] for row in group) for key in group[0] if key != "model"
        }
        lines.append(
            f"| {group[0]['model']} | {mid['open_s']:.1f} s | {mid['first_s']:.2f} s "
            f"(k = {mid['first_k']:.0f}) | {mid['whole_s']:.1f} s | {mid['slider_ms']:.0f} ms |"
        )
    lines += ["", "| file | MB | MB, as a server packs it |", "|---|---|---|"]
    for path in files:
        packed = len(gzip.compress(path.read_bytes(), 6))
        lines.append(f"| {path.name} | {path.stat().st_size / 1e6:.2f} | {packed / 1e6:.2f} |")
    text = "\n".join(lines)
    write_section("live", text, {"rows": rows, "load": load})
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
