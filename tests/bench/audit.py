"""The bias lab on many photos: seconds, memory, and what two kills cost.

    python tests/bench/audit.py [--photos 500] [--method gradcam] [--folder FOLDER]

`gscam audit` runs twice in processes of its own: once undisturbed, and once killed (SIGKILL) when a
third and two thirds of the photos are on disk, and started again. Both must hold the same rows.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from PIL import Image, ImageOps

from gscam_lib.scenes.shortcuts import pool
from tests.bench.page import write_section

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
MODEL, PROMPTS = "photo-lite", ("a laptop", "a mug", "a pizza", "a dog")
SIDE, LOOK = 640, 0.5  # of larger photos; seconds between two looks at a process
Photo = tuple[dict[str, str], Path | Image.Image, bool]
"""Its row of groups.csv but for the file, the photo, and whether it is to be mirrored."""


# ---------------------------------------------------------------- photos


def make(folder: Path, count: int) -> str:
    """Write photos and groups.csv into a folder; returns what the photos are.

    Columns: file, source, note (is something written on a note in it?), unit: the photo that a
    mirrored copy was made from, for two copies are not two photos.
    """
    originals = _shared() or _drawn(count)
    several = [*originals, *((row, image, True) for row, image, _ in originals)]
    rows = []
    for row, image, mirrored in islice(several, count):
        name = f"{row['source']}/{row['unit']}{' mirrored' if mirrored else ''}.jpg"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(image) if isinstance(image, Path) else image as opened:
            photo = opened.convert("RGB")
        photo.thumbnail((SIDE, SIDE))
        (ImageOps.mirror(photo) if mirrored else photo).save(path, quality=92)
        rows.append({**row, "file": name})
    with (folder / "groups.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "source", "note", "unit"])
        writer.writeheader()
        writer.writerows(rows)
    kinds = [r["source"] for r in rows[: len(originals)]]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"{counts}; {max(0, len(rows) - len(originals))} of them again, mirrored"


def _shared() -> list[Photo]:
    """Photos of ../shared/data, where it is there: MS-COCO's, and things with and without notes."""
    if not SHARED.is_dir():
        return []
    found: list[Photo] = [
        ({"source": "MS-COCO", "note": "", "unit": path.stem}, path, False)
        for path in sorted((SHARED / "coco" / "images").glob("*.jpg"))
    ]
    distill = SHARED / "typographic" / "distill"
    with (distill / "index.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            about = {"source": "Distill", "note": "yes" if row["written_text"] else "no"}
            path = distill / row["file"]
            found.append(({**about, "unit": f"{path.parent.name} {path.stem}"}, path, False))
    return found


def _drawn(count: int) -> list[Photo]:
    """Scenes of PLANTED-10: there is no photo beside this checkout."""
    return [
        ({"source": "drawn", "note": "yes" if scene.cues["word"] else "no", "unit": f"{i:03d}"},
         scene.image, False)
        for i, scene in enumerate(pool(-(-count // 2), 4))
    ]  # fmt: skip


# ---------------------------------------------------------------- runs


def start(photos: Path, method: str, maps: int, out: Path) -> subprocess.Popen[str]:
    """`gscam audit` in a process of its own; what it says goes to a file beside its folder."""
    command = [sys.executable, "-m", "gscam_lib.cli", "audit", str(photos / "groups.csv"),
               *PROMPTS, "--model", MODEL, "--method", method, "--maps", str(maps),
               "--out", str(out), "--show-photos"]  # fmt: skip
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    with out.with_suffix(".log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(command, env=environment, text=True, stdout=log, stderr=log)


def on_disk(out: Path) -> int:
    """How many rows a run has written."""
    parts = (out / "measured").glob("part-*.parquet")
    return sum(pq.read_metadata(part).num_rows for part in parts)


def follow(process: subprocess.Popen[str], out: Path, until: int | None) -> dict[str, Any]:
    """Wait for a run's end, or kill it (SIGKILL) once so many rows are on disk.

    Returns seconds in all, seconds until the last photo was on disk, GB at most, and rows on disk.
    """
    begun, peak, rows, measured = time.perf_counter(), 0.0, on_disk(out), 0.0
    while process.poll() is None:
        peak = max(peak, _peak(process.pid))
        now = on_disk(out)
        if now > rows:
            rows, measured = now, time.perf_counter() - begun
        if until is not None and rows >= until:
            process.kill()
            process.wait()
            break
        time.sleep(LOOK)
    if until is None and process.returncode:
        raise RuntimeError(f"gscam audit failed; see {out.with_suffix('.log')}.")
    return {"seconds": time.perf_counter() - begun, "measured": measured, "GB": peak,
            "rows": on_disk(out)}  # fmt: skip


def _peak(pid: int) -> float:
    """The most memory that a process has held so far, in GB; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1e6 if found else 0.0


def rows_of(out: Path) -> pa.Table:
    """All rows that a run has on disk, in the order of questions, without their seconds."""
    parts = sorted((out / "measured").glob("part-*.parquet"))
    whole = pa.concat_tables([pq.read_table(part).replace_schema_metadata() for part in parts])
    return whole.drop_columns("seconds").sort_by("question")


def compared(one: Path, other: Path) -> dict[str, Any]:
    """What the rows and the tables of two runs have in common."""
    a, b = rows_of(one), rows_of(other)
    twice = len(b) - len(set(b["question"].to_pylist()))
    lost = len(set(a["question"].to_pylist()) - set(b["question"].to_pylist()))
    tables = sorted(path.name for path in one.glob("*.csv"))
    same = [name for name in tables if (one / name).read_bytes() == (other / name).read_bytes()]
    return {"lost": lost, "twice": twice, "equal": a.equals(b), "tables": len(tables),
            "same": len(same)}  # fmt: skip


def section(about: str, runs: list[dict[str, Any]], found: dict[str, Any]) -> str:
    """The section of the page; about: what was asked of which photos."""
    lines = [
        "## The bias lab on many photos", "",
        f"`python tests/bench/audit.py`: `gscam audit` with {MODEL} and {len(PROMPTS)} prompts on "
        f"{about} One undisturbed run; one killed (SIGKILL) twice and started again. Seconds are "
        "from the start of Python to the report's last file; measured: until the last photo was "
        f"on disk. Load of the machine meanwhile, {os.cpu_count()} cores: {found['load']}. "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}.", "",
        "| run | photos on disk at its end | seconds | measured | peak memory, GB |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    names = ["undisturbed", "killed at a third", "resumed, killed at two thirds", "resumed"]
    lines += [
        f"| {name} | {run['rows']} | {run['seconds']:.0f} | {run['measured']:.0f} | "
        f"{run['GB']:.2f} |"
        for name, run in zip(names, runs, strict=True)
    ]
    lines += ["", f"Said before it started: {found['said']}", "",
              f"Rows lost: {found['lost']}; there twice: {found['twice']}; rows of both runs equal "
              f"byte for byte, seconds aside: {'yes' if found['equal'] else '**no**'}; tables "
              f"beside the report equal: {found['same']} of {found['tables']}."]  # fmt: skip
    return "\n".join(lines)


def main(
    photos: Annotated[int, typer.Option(help="How many.")] = 500,
    maps: Annotated[int | None, typer.Option(help="On how many of them; all by default.")] = None,
    method: Annotated[str, typer.Option(help="Of the maps.")] = "gradcam",
    folder: Annotated[Path | None, typer.Option(help="Kept; else a temporary one.")] = None,
) -> None:
    """Measure, and write the section of the benchmark page."""
    with tempfile.TemporaryDirectory() as place:
        root = folder or Path(place)
        kinds = make(root / "photos", photos)
        count = len(list((root / "photos").rglob("*.jpg")))
        mapped, runs = min(maps or count, count), []
        for name, until in (("whole", None), ("killed", count // 3), ("killed", 2 * count // 3),
                            ("killed", None)):  # fmt: skip
            out = root / name
            runs.append(follow(start(root / "photos", method, mapped, out), out, until))
            runs[-1]["load"] = os.getloadavg()[1]
            print(name, runs[-1], flush=True)
        found = compared(root / "whole", root / "killed") | {"said": _said(root / "whole.log")}
        loads = [run["load"] for run in runs]
        found["load"] = f"{min(loads):.1f} to {max(loads):.1f}"
    about = (f"{count} photos ({kinds}), all of them scored; {mapped} mapped by {method}, their 29 "
             "windows covered two ways and cut out.")  # fmt: skip
    write_section("audit", section(about, runs, found), {"runs": runs, "compared": found})


def _said(log: Path) -> str:
    """What a run said that it would cost."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return next((line.strip() for line in lines if "control words" in line), "nothing")


if __name__ == "__main__":
    typer.run(main)
