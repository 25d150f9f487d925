"""The page of benchmarks: each section writes its own part, and the page is put together.

write_section("scale", "## At scale\\n…", {"rows": …})   # figures/bench/scale.md and .json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).resolve().parents[2] / "figures"
ORDER = ("speed", "plan", "scale", "loading")  # others follow by name


def write_section(name: str, text: str, data: Any = None, *, out: Path = FIGURES) -> str:
    """Write a section of the page and put the page together anew; returns the whole page.

    text: Markdown that begins with a heading of second order; data: what it was made from, kept
    beside it as JSON. Sections that were measured earlier, or elsewhere, stay as they are.
    Errors: ValueError for text without such a heading.
    """
    if not text.startswith("## "):
        raise ValueError(f"Section {name!r} begins with {text[:20]!r}; expected a heading '## …'.")
    parts = out / "bench"
    parts.mkdir(parents=True, exist_ok=True)
    (parts / f"{name}.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    if data is not None:
        (parts / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    place = {part: i for i, part in enumerate(ORDER)}
    files = sorted(parts.glob("*.md"), key=lambda p: (place.get(p.stem, len(ORDER)), p.stem))
    page = "# Benchmarks\n\nMade by `make bench`.\n\n" + "\n".join(
        file.read_text(encoding="utf-8") for file in files
    )
    (out / "bench.md").write_text(page, encoding="utf-8")
    return page


def section_data(name: str, *, out: Path = FIGURES) -> Any:
    """Return what a section was made from last, or None."""
    file = out / "bench" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
