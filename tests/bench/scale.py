"""A run of a million rows: seconds and memory of planning, resuming, merging and reporting.

    python tests/bench/scale.py [--rows 1000000] [--points 3]

The data set is made up, in COCO's form: two methods on half as many questions, three in an image.
All rows but a hundredth are written as a run that was stopped would have left them; a tiny CLIP
with random weights does the rest. Each step runs in a process of its own, whose peak memory counts.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.bench.page import write_section

METHODS = ("center", "sobel")
CLASSES, IN_IMAGE, WIDTH, HEIGHT, PART = 80, 3, 64, 48, 50_000
STEPS = ("plan", "resume", "merge", "report")


def make(folder: Path, rows: int) -> None:
    """Write instances.json, the photos of the last hundredth, and the parts of a stopped run."""
    rng = np.random.default_rng(0)
    questions = rows // len(METHODS)
    images = -(-questions // IN_IMAGE)
    about = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT}
             for i in range(images)]  # fmt: skip
    least = np.array([0, 0, 20, 10])
    corners = rng.integers(0, 20, (questions, 4)) + least
    annotations = [
        {"id": n, "image_id": n // IN_IMAGE, "category_id": int(c), "bbox": box, "iscrowd": 0,
         "area": box[2] * box[3]}
        for n, (c, box) in enumerate(
            zip((np.arange(questions) * 7) % CLASSES, corners.tolist(), strict=True)
        )
    ]  # fmt: skip
    categories = [{"id": i, "name": f"thing {i}"} for i in range(CLASSES)]
    content = {"images": about, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / "images").mkdir()
    for i in range(images - max(1, images // 100), images):
        Image.new("RGB", (WIDTH, HEIGHT), (i % 256, 99, 9)).save(folder / "images" / f"{i}.png")


def stop(folder: Path) -> None:
    """The parts of a run that was stopped when all but a hundredth of its images were done."""
    from gscam_lib.evaluation.measures import PRESETS
    from gscam_lib.evaluation.questions import tabulate
    from gscam_lib.evaluation.rows import RUN, SCHEMA, Rows
    from gscam_lib.evaluation.runner import manifest

    model, table = tiny(), tabulate(data(folder))
    rows = Rows(folder / "run", manifest(model, PRESETS["clean"]), table)
    images = table["image"].to_numpy()
    done = table.filter(pa.array(images < images.max() + 1 - max(1, (images.max() + 1) // 100)))
    rng, stamp = np.random.default_rng(1), json.dumps(rows.run, sort_keys=True).encode()
    for number, method in enumerate(METHODS):
        for start in range(0, len(done), PART):
            part = done.slice(start, PART)
            iou = rng.random(len(part)) * (0.8 + 0.1 * number)
            n = len(part)
            columns: dict[str, Any] = {
                "example": part["position"], **{c: part[c] for c in (
                    "question", "source", "image_id", "category", "prompt")},
                "method": [method] * n, "iou": iou, "hit": iou >= 0.5, "pointing": iou > 0.3,
                "energy": iou / 2, "logit": iou, "seconds": np.full(n, 0.1), "place": [number] * n,
                "width": [WIDTH] * n, "height": [HEIGHT] * n, "model": [model.name] * n,
                "preset": ["clean"] * n, "measures": ["localization"] * n,
                "mask": ["48x64:" + "a3_3a3000000000000000000" * 4] * n,
            }  # fmt: skip
            arrays = [
                columns[f.name].combine_chunks().cast(f.type)
                if isinstance(columns.get(f.name), pa.ChunkedArray)
                else pa.array(columns.get(f.name, [None] * n), f.type)
                for f in SCHEMA
            ]
            made = pa.Table.from_arrays(arrays, schema=SCHEMA).replace_schema_metadata({RUN: stamp})
            pq.write_table(made, folder / "run" / f"part-{number}{start:09d}.parquet")


def data(folder: Path) -> Any:
    import gscam_lib as gs

    return gs.CocoDataset(folder / "images", folder / "instances.json")


def tiny() -> Any:
    """A CLIP of a few thousand random weights."""
    import open_clip
    import torch

    import gscam_lib as gs

    torch.manual_seed(0)
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
    network = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text).eval()
    return gs.Model(network, open_clip.SimpleTokenizer(), name="tiny")


def step(name: str, folder: Path) -> int:
    """Run one step; returns how many rows or questions came out."""
    import gscam_lib as gs
    from gscam_lib.evaluation import report
    from gscam_lib.evaluation.questions import tabulate
    from gscam_lib.evaluation.rows import write_merged

    if name == "plan":
        return len(tabulate(data(folder)))
    if name == "resume":
        return len(gs.evaluate(tiny(), data(folder), METHODS, out=folder / "run"))
    if name == "merge":
        return write_merged(folder / "run", folder / "rows.parquet")
    text = report.report(report.read(folder / "run"))
    return text.count("\n")


def measured(name: str, folder: Path) -> tuple[float, float, int]:
    """Seconds, peak memory (GB) and result of one step in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--step", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")
    seconds, gigabytes, count = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds, gigabytes, count


def main(
    rows: Annotated[int, typer.Option(help="In the largest run.")] = 1_000_000,
    points: Annotated[int, typer.Option(help="Sizes, each half of the next.")] = 3,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
    step_: Annotated[str, typer.Option("--step", hidden=True)] = "",
) -> None:
    """Measure, and write the section of the benchmark page."""
    if folder is not None:
        start = time.perf_counter()
        count = stop(folder) or 0 if step_ == "stop" else step(step_, folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps([time.perf_counter() - start, peak, count]))
        return
    found: list[dict[str, Any]] = []
    for size in [rows // 2**i for i in reversed(range(points))]:
        with tempfile.TemporaryDirectory() as place:
            make(Path(place), size)
            measured("stop", Path(place))
            for name in STEPS:
                seconds, gigabytes, _ = measured(name, Path(place))
                found.append({"rows": size, "step": name, "s": seconds, "GB": gigabytes})
                print(found[-1], flush=True)
    lines = [
        "## A run of many rows", "",
        "`python tests/bench/scale.py`: a data set made up in COCO's form, two methods, a tiny "
        f"CLIP with random weights, {os.cpu_count()} cores. plan: read and tabulate the questions; "
        "resume: go on where all but a hundredth is done, and give the rows back; merge: one "
        "Parquet file; report: all tables. Start of Python and imports are in the seconds and in "
        "the peak memory. Asked for: under 2 GB and 120 s at a million rows, growing linearly.", "",
        "| rows | " + " | ".join(f"{s}, s | {s}, GB" for s in STEPS) + " |",
        "|---" * (1 + 2 * len(STEPS)) + "|",
    ]  # fmt: skip
    for size in dict.fromkeys(f["rows"] for f in found):
        mine = [f for f in found if f["rows"] == size]
        cells = " | ".join(f"{f['s']:.0f} | {f['GB']:.2f}" for f in mine)
        lines.append(f"| {size:,} | {cells} |")
    write_section("scale", "\n".join(lines) + "\n", found)


if __name__ == "__main__":
    typer.run(main)
