"""Files of photos: which of a folder count, which are passed over and why, which are copies."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gscam_lib.datasets import Example
from gscam_lib.datasets.tables import PHOTOS

UNREAD = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw",
          ".raf", ".orf", ".rw2"}  # fmt: skip
"""Photos that not every Pillow opens."""
FORKS = "__MACOSX", "._"
"""What macOS puts into archives beside each file: a folder, and the beginning of a name."""
TABLES = "suspects.csv", "rows.csv"
"""Tables that a report leaves beside its figures."""
PASSED = {
    "unread": ("in formats that not every computer opens", " Save them as JPEG or PNG."),
    "links": ("links to folders, or to nothing", " Give those folders, or copy their photos."),
    "figures": ("figures of an audit's report", ""),
    "closed": ("folders that cannot be opened", " See who may read them."),
}


def in_folder(folder: Path) -> tuple[list[Path], list[str]]:
    """The photos of a folder and its sub-folders, sorted, and notes on what is passed over.

    Links to folders are not followed. What macOS adds to archives is nobody's photo and no note.
    """
    found: dict[str, list[Path]] = defaultdict(list)

    def closed(error: OSError) -> None:
        found["closed"].append(Path(str(error.filename)))

    for where, folders, names in os.walk(folder, onerror=closed):
        found["links"] += [Path(where, n) for n in folders if Path(where, n).is_symlink()]
        folders[:] = [n for n in folders if n != FORKS[0]]
        for name in names:
            found[_kind(Path(where, name), names)].append(Path(where, name))
    home = readable(folder.absolute().name or str(folder))
    notes = []
    for kind, (what, action) in PASSED.items():
        names = [readable(p.relative_to(folder).as_posix()) for p in sorted(found[kind])]
        if names:
            notes.append(f"{len(names)} passed over in {home}, {what}: {some(names)}.{action}")
    return sorted(found["photo"]), notes


def _kind(path: Path, beside: Sequence[str]) -> str:
    """Photo, or why it is passed over, of a file among others; "" for what never was a photo."""
    kind = path.suffix.lower()
    if path.name.startswith(FORKS[1]) or kind not in PHOTOS | UNREAD:
        return ""
    if kind in UNREAD:
        return "unread"
    if not path.is_file():
        return "links"
    drawn = f"{path.stem}.pdf" in beside and all(table in beside for table in TABLES)
    return "figures" if drawn else "photo"


def readable(name: str) -> str:
    """A file's name as text that can be written: bytes that are no UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def some(names: Sequence[str], count: int = 3) -> str:
    """The first names, quoted, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(repr(str(n)) for n in names[:count]) + more


def match(called: Iterable[str], photos: Mapping[str, Any], what: str) -> dict[str, str]:
    """Which photo each name in a file means: the one of that name, else the only one like it.

    photos: name -> what it is read from. Names are alike where one ends in all of the other: 0.jpg
    may be a/0.jpg, and b/0.jpg may not. Names without photo are left out. Raises ValueError where
    a name may be several photos, or a photo has several names; what: the file, for the message.
    """
    called, last = list(called), defaultdict(list)
    for name, image in photos.items():
        last[PurePosixPath(name).name].append((name, image))
    found: dict[str, str] = {}
    for given in called:
        near = [n for n, image in last[PurePosixPath(given).name] if _alike(given, n, image)]
        if given in photos:
            near = [given]
        if len(near) > 1:
            raise ValueError(
                f"{what}: '{given}' may be {some(near)}. Write names with their folders."
            )
        if near:
            found[given] = near[0]
    exact = {given for given in called if given in photos}
    found = {g: name for g, name in found.items() if g in exact or name not in exact}
    twice = [name for name, count in Counter(found.values()).items() if count > 1]
    if twice:
        both = [given for given, name in found.items() if name == twice[0]]
        raise ValueError(f"{what}: {some(both)} may all be '{twice[0]}'. Use names that differ.")
    return found


def _alike(given: str, name: str, image: Any) -> bool:
    """Whether a file's name for a photo ends as the photo's path does, all folders included."""
    a, b = PurePosixPath(given).parts, PurePosixPath(name).parts
    whole = Path(os.path.abspath(image)).parts if isinstance(image, str | Path) else b
    return whole[-len(a) :] == a or (len(b) > 1 and a[-len(b) :] == b)


def copies(photos: Iterable[tuple[str, Any]]) -> list[list[str]]:
    """Photos, each a name and what it is read from, that are the same to the byte: their names."""
    lengths: dict[Any, list[tuple[str, Any]]] = defaultdict(list)
    for name, image in photos:
        lengths[_length(image)].append((name, image))
    same: dict[Any, list[str]] = defaultdict(list)
    for length, alike in lengths.items():
        for name, image in alike if len(alike) > 1 else ():  # others need not be read
            same[length, _digest(image)].append(name)
    return [names for names in same.values() if len(names) > 1]


def _length(image: Any) -> Any:
    return os.path.getsize(image) if isinstance(image, str | Path) else None


def _digest(image: Any) -> bytes | tuple[str, int, str]:
    if not isinstance(image, str | Path):
        return Example(image, "", (), "", "", "audit").photo
    with open(image, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
