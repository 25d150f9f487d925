"""Every architecture of open_clip × every method, shrunken; and hot places in every preprocessing.

python tests/bench/towers.py                    # writes figures/table_towers.md, in some minutes
python tests/bench/towers.py OUT.md NAME…       # some architectures, to a file of one's own

A cell holds a mark where the method gives a finite map, checked as far as that goes without a truth
(see tests/zoo.py), a dash where it says that it does not apply.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import open_clip
import torch
import zoo
from test_photo import PHOTOS, hot_place

import gscam_lib as gs
from gscam_lib.model.network import TOWERS

TABLE = Path(__file__).resolve().parents[2] / "figures" / "table_towers.md"
Row = tuple[str, str, tuple[bool, ...]]


@dataclass
class Found:
    """rows: kind of tower, layer, which methods give a map -> architectures."""

    methods: list[str]
    rows: dict[Row, list[str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    declined: set[str] = field(default_factory=set)
    flat: int = 0

    def look(self, name: str) -> None:
        """Trace one architecture, hold it against itself untouched, and ask every method."""
        try:
            model = zoo.small(name)
            trace = model.trace(zoo.photo())
        except ValueError as error:
            self.refused[name] = str(error)
            return
        self.wrong += [f"{name}: {fault}" for fault in zoo.faults(model, trace)]
        said = zoo.outcomes(model, trace, self.methods)
        works = tuple(words in ("works", "flat") for words in said.values())
        for method, words in said.items():
            applies = model.tower in gs.METHODS[method].towers
            if words not in ("works", "flat") and (applies or "is defined for" not in words):
                self.wrong.append(f"{name}, {method}: {words}")
        self.flat += sum(words == "flat" for words in said.values())
        layer = "".join("N" if c.isdigit() else c for c in model.layer.name).replace("NN", "N")
        self.rows.setdefault((model.tower, layer, works), []).append(name)

    def page(self) -> str:
        """All of it in Markdown."""
        traced = sum(map(len, self.rows.values()))
        cells = sum(len(names) * len(works) for (*_, works), names in self.rows.items())
        marks = sum(len(names) * sum(works) for (*_, works), names in self.rows.items())
        lines = [
            "# Towers and methods\n",
            f"{traced + len(self.refused)} architectures (all of open_clip "
            f"{open_clip.__version__}, and forms that its code makes) at little depth and width, "
            f"with random weights; {traced} are traced and held against the untouched network: "
            "activations, gradients, logit, masked copies, and where in the map a change of the "
            f"photo shows. {len(self.rows)} families × {len(self.methods)} methods. ● gives a "
            "finite map, – says in one sentence that it does not apply. Of "
            f"{cells:,} architectures × methods {marks:,} give a map and {cells - marks:,} do not "
            f"apply; {self.flat} maps are flat, as random weights can make them, and say so. "
            "`python tests/bench/towers.py` writes this page.\n",
            f"| architectures | tower | layer | {' | '.join(f'`{m}`' for m in self.methods)} |",
            "| --- " * (3 + len(self.methods)) + "|",
        ]
        for (tower, layer, works), names in sorted(self.rows.items()):
            row = " | ".join("●" if w else "–" for w in works)
            lines.append(f"| {', '.join(names)} | {tower} | `{layer}` | {row} |")
        lines += ["", *(f"- {name}: {what}" for name, what in TOWERS.items()), ""]
        lines += ["## Refused\n", *listed([f"{n}: {why}" for n, why in self.refused.items()])]
        lines += ["## Wrong\n", *listed(self.wrong), *hot_places()]
        return "\n".join(lines)


def listed(lines: list[str]) -> list[str]:
    return [*(f"- {line}" for line in lines or ["nothing"]), ""]


def hot_places() -> list[str]:
    """How far from its place a hot disc comes back, by preprocessing and photo."""
    ways = {
        "squash, the model's filter": ("squash", "bicubic"),
        "squash, bilinear (paper)": ("squash", "bilinear"),
        "shorter side, centre crop": ("crop", "bicubic"),
        "longer side, padding": ("pad", "bicubic"),
    }
    sizes = [f"{name}, {width} × {height}" for name, (width, height) in PHOTOS.items()]
    lines = [
        "## A hot place, there and back\n",
        "A disc in the photo, through the preprocessing to the input, averaged to cells of 2 × 2 "
        "px, and back to the photo: distance of the map's middle of mass from the disc's, "
        "horizontally and vertically, in pixels of the photo's own size; in brackets a cell in "
        "those pixels.\n",
        f"| preprocessing | input | {' | '.join(sizes)} |",
        "| --- " * (2 + len(sizes)) + "|",
    ]
    for name, (fit, interpolation) in ways.items():
        for size in ((224, 224), (64, 96)):
            row = []
            for kind, (width, height) in PHOTOS.items():
                distance, cell = hot_place(kind, fit, size, interpolation)
                scale = max(1, 1600 // max(width, height))  # hot_place draws on a larger photo
                (x, y), (w, h) = ([v / scale for v in pair] for pair in (distance, cell))
                row.append(f"{x:.3f}, {y:.3f} ({w:.3g} × {h:.3g})")
            lines.append(f"| {name} | {size[0]} × {size[1]} | {' | '.join(row)} |")
    return [*lines, ""]


def main(target: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = Found(list(gs.METHODS))
    for count, name in enumerate(names):
        start = time.monotonic()
        found.look(name)
        print(f"{count + 1}/{len(names)} {name}: {time.monotonic() - start:.1f} s", flush=True)
    target.write_text(found.page())
    print(f"{target}: {len(found.wrong)} wrong, {len(found.refused)} refused")


if __name__ == "__main__":
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else TABLE,
        sys.argv[2:] or [*open_clip.list_models(), *zoo.CONFIGS],
    )
