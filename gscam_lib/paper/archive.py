"""One file of a run: rows, versions, hashes, figures, page; and whether its tables are its rows'.

A zip whose manifest.json names every member with its SHA-256. Rows are Parquet, described by a
Croissant (croissant.json). An archive is read as data alone: nothing in it is run, no member is
written anywhere but in a temporary folder that is deleted, and sizes are bounded.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import platform
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from gscam_lib.evaluation import report
from gscam_lib.evaluation.folder import MANIFEST, read_manifest
from gscam_lib.evaluation.rows import read_rows, write_merged
from gscam_lib.paper.croissant import describe
from gscam_lib.paper.publish import FIGURES, PAGE, TABLES, from_rows
from gscam_lib.paper.run import ITEMS_FILE, METHODS_FILE, REASONS, RUNS, STEPS
from gscam_lib.paper.values import outcome_of, read_outcome
from gscam_lib.paths import VERSION, whole_file

MEMBERS, MOST, EACH = 20_000, 64 << 30, 16 << 30  # members, bytes of all, bytes of one
RATIO = 200  # of a member's size to what it takes in the file: beyond it is a bomb
FORM = 1
DATE = (1980, 1, 1, 0, 0, 0)  # the same run is the same bytes
PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "numpy", "pillow", "scikit-image",
            "pandas", "pyarrow", "duckdb")  # fmt: skip


class ArchiveError(ValueError):
    """A file that is no archive of a run, or one that must not be read."""


# ---------------------------------------------------------------- packing


def pack(run: Path, out: Path) -> Path:
    """Write a run's archive; returns its path.

    run: a folder of `gscam reproduce`, or of `gscam evaluate`. The tables and the page are made
    from the rows now, so that they agree. Raises FileNotFoundError and ValueError.
    """
    if not (run / MANIFEST).is_file():
        raise FileNotFoundError(f"No {MANIFEST} in {run}; expected a folder of rows.")
    reproduction = "reproduction" in read_manifest(run)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (_pack_reproduction if reproduction else _pack_evaluation)(run, folder)
        for figure in sorted((run / FIGURES).glob("*.p[nd][gf]")):
            _put(folder / FIGURES / figure.name, figure.read_bytes())
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        about = {"gscam_lib": VERSION, "python": platform.python_version(), **versions}
        _put(folder / "versions.json", _json(about))
        _put(folder / "croissant.json", _json(describe(folder, run.resolve().name)))
        kind = "reproduction" if reproduction else "evaluation"
        return _zip(folder, out, kind)


def _pack_reproduction(run: Path, folder: Path) -> None:
    outcome = read_outcome(run)
    if not outcome.rows and not outcome.steps:
        raise FileNotFoundError(f"No rows in {run}; run `gscam reproduce --out {run}` first.")
    for name in outcome.rows:
        _pack_rows(run / RUNS / name, folder, name)
        _put(folder / RUNS / name / METHODS_FILE, (run / RUNS / name / METHODS_FILE).read_bytes())
    for name in (MANIFEST, REASONS, ITEMS_FILE, "plan.md"):
        if (run / name).is_file():
            _put(folder / name, (run / name).read_bytes())
    for step in sorted((run / STEPS).glob("*.csv")):
        _put(folder / STEPS / step.name, step.read_bytes())
    for name, content in from_rows(outcome).items():
        _put(folder / name, content)


def _pack_evaluation(run: Path, folder: Path) -> None:
    _pack_rows(run, folder, "rows")
    for name, content in _evaluation_tables(read_rows(run)).items():
        _put(folder / name, content)


def _pack_rows(run: Path, folder: Path, name: str) -> None:
    target = folder / "rows" / f"{name}.parquet"
    target.parent.mkdir(exist_ok=True)
    write_merged(run, target)
    _put(folder / RUNS / name / MANIFEST, (run / MANIFEST).read_bytes())


def _evaluation_tables(rows: pd.DataFrame) -> dict[str, bytes]:
    return {
        f"{TABLES}/table.csv": report.summarize(rows).to_csv(index=False).encode(),
        f"{TABLES}/tests.csv": report.paired_tests(rows).to_csv(index=False).encode(),
        PAGE: report.report(rows).encode(),
    }


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _zip(folder: Path, out: Path, kind: str) -> Path:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [p.relative_to(folder).as_posix() for p in files]
    sums = {name: _sha256(path.open("rb")) for name, path in zip(names, files, strict=True)}
    _put(folder / "manifest.json", _json({"form": FORM, "kind": kind, "sha256": sums}))
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ["manifest.json", *names]:
            stored = zipfile.ZipInfo(name, DATE)
            stored.compress_type = zipfile.ZIP_DEFLATED
            stored.external_attr = 0o644 << 16
            archive.writestr(stored, (folder / name).read_bytes())
    return out


def _sha256(file: Any) -> str:
    with file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- checking


@dataclass
class Checked:
    """What an archive holds, and every difference of its tables from its rows."""

    lines: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def check(file: Path) -> Checked:
    """Compute an archive's tables and page again from its rows, and say where they differ.

    Raises FileNotFoundError, and ArchiveError for what is no archive of a run or must not be read:
    names that leave the folder, links, members that are far larger than the file.
    """
    if not file.is_file():
        raise FileNotFoundError(f"No file at {file}.")
    found = Checked()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        manifest = _unpack(file, folder)
        found.differences += _sums(folder, manifest["sha256"])
        try:
            made = _again(folder, manifest["kind"], found)
        except ArchiveError:
            raise
        except Exception as error:  # whatever a changed file brings about
            raise ArchiveError(
                f"{file}: its rows cannot be read ({type(error).__name__}: {error})."
            ) from error
        for name, content in made.items():
            path = folder / name
            if not path.is_file():
                found.differences.append(f"{name}: not in the archive")
            elif name.endswith(".csv"):
                found.differences += _differences(name, path.read_bytes(), content)
            else:
                found.differences += _lines_apart(name, path.read_bytes(), content)
    return found


def _unpack(file: Path, folder: Path) -> dict[str, Any]:
    """All members into a folder, checked before a byte is written; returns the manifest."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _refuse(file, members)
            for member in members:
                target = folder / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("xb") as written:
                    _copy(file, member, source, written)
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except ArchiveError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ArchiveError(f"{file} is no archive of `gscam pack` ({error}).") from error
    good = isinstance(manifest, dict) and isinstance(manifest.get("sha256"), dict)
    if not good or manifest.get("kind") not in ("reproduction", "evaluation"):
        raise ArchiveError(f"{file} has no manifest of a run.")
    if manifest.get("form") != FORM:
        raise ArchiveError(f"{file} is of form {manifest.get('form')}; this reads {FORM}.")
    return dict(manifest)


def _refuse(file: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [m.filename for m in members]
    bad = [n for n in names if not _stays(n)]
    if bad:
        raise ArchiveError(f"{file} would write outside its folder: {bad[0]!r}. It is not read.")
    if len(names) > MEMBERS or len({n.lower() for n in names}) < len(names):
        raise ArchiveError(f"{file} has too many members, or two of one name. It is not read.")
    if any((m.external_attr >> 16) & 0o170000 not in (0, 0o100000) for m in members):
        raise ArchiveError(f"{file} has a member that is a link or no plain file. It is not read.")
    large = [m for m in members if m.file_size > max(1 << 20, RATIO * m.compress_size)]
    sizes = [m.file_size for m in members]
    if large or max(sizes, default=0) > EACH or sum(sizes) > MOST:
        raise ArchiveError(f"{file} has members that are far larger than it is. It is not read.")


def _stays(name: str) -> bool:
    """Whether a member's name stays below the folder, on every system."""
    path = PurePosixPath(name)
    plain = not any(c in name for c in "\\:\0") and not name.endswith("/")
    return bool(plain and name and not path.is_absolute() and ".." not in path.parts)


def _copy(file: Path, member: zipfile.ZipInfo, source: Any, written: Any) -> None:
    """A member's bytes, and not one more than it says."""
    left = member.file_size
    while chunk := source.read(1 << 20):
        left -= len(chunk)
        if left < 0:
            raise ArchiveError(f"{file}: {member.filename} is larger than it says.")
        written.write(chunk)


def _sums(folder: Path, sums: Mapping[str, str]) -> list[str]:
    there = {
        p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()
    }  # fmt: skip
    there.pop("manifest.json", None)
    found = [f"{n}: in the manifest, not in the archive" for n in sorted(set(sums) - set(there))]
    found += [f"{n}: in the archive, not in the manifest" for n in sorted(set(there) - set(sums))]
    return found + [
        f"{n}: its SHA-256 is not the manifest's"
        for n in sorted(set(sums) & set(there))
        if _sha256(there[n].open("rb")) != sums[n]
    ]


def _again(folder: Path, kind: str, found: Checked) -> dict[str, bytes]:
    """Tables and page from the rows of an unpacked archive."""
    rows = {p.stem: pd.read_parquet(p) for p in sorted((folder / "rows").glob("*.parquet"))}
    for name, frame in rows.items():
        model = read_manifest(folder / RUNS / name).get("model", {})
        found.lines.append(
            f"{name}: {len(frame)} rows, {model.get('name')} of weights {model.get('weights')}"
        )
        named = set(frame["model"]) - {model.get("name")}
        if named:
            found.differences.append(f"{name}: rows of {', '.join(map(str, named))}")
    frames = {name: _typed(frame) for name, frame in rows.items()}
    if kind == "evaluation":
        return _evaluation_tables(frames["rows"])
    return from_rows(outcome_of(folder, frames))


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows as `read_rows` has them: columns of measures not taken are not there."""
    frame = frame.drop(columns=[c for c in frame if frame[c].isna().all() and c != "error"])
    frame["error"] = frame["error"].astype(object).where(frame["error"].notna(), None)
    return frame


def _differences(name: str, stored: bytes, made: bytes) -> list[str]:
    """Cells of a table that are not what the rows say, numbers up to rounding."""
    tables = []
    for content in (stored, made):
        text = io.StringIO(content.decode("utf-8", "replace"))
        try:
            tables.append(pd.read_csv(text, keep_default_na=False) if content.strip() else _EMPTY)
        except ValueError as error:  # the parser's, of what is no table
            return [f"{name}: cannot be read as a table ({error})"]
    a, b = tables
    if list(a) != list(b) or len(a) != len(b):
        return [f"{name}: {len(a)} lines of {len(a.columns)} columns, from the rows {len(b)} of "
                f"{len(b.columns)}"]  # fmt: skip
    keys = [c for c in ("item", "claim", "protocol", "method", "group", "statistic") if c in b]
    found = []
    for column in a:
        for i, (x, y) in enumerate(zip(a[column], b[column], strict=True)):
            if not _same(x, y):
                where = ", ".join(str(b[k].iloc[i]) for k in keys)
                found.append(f"{name}, {where}: {column} is {x}, from the rows {y}")
    return found


_EMPTY = pd.DataFrame()


def _same(x: Any, y: Any) -> bool:
    try:
        return bool(np.isclose(float(x), float(y), rtol=1e-9, atol=1e-12, equal_nan=True))
    except (TypeError, ValueError):
        return str(x) == str(y)


def _lines_apart(name: str, stored: bytes, made: bytes) -> list[str]:
    a, b = (c.decode("utf-8", "replace").splitlines() for c in (stored, made))
    if len(a) != len(b):
        return [f"{name}: {len(a)} lines, from the rows {len(b)}"]
    return [f"{name}, line {i}: {x.strip()[:160]!r}, from the rows {y.strip()[:160]!r}"
            for i, (x, y) in enumerate(zip(a, b, strict=True), 1) if x != y]  # fmt: skip
