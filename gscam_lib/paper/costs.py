"""What the plan costs: passes through the image tower, GPU hours, downloads, disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gscam_lib.datasets.downloads import SOURCES
from gscam_lib.methods import METHODS
from gscam_lib.paper.plan import CHANNELS, ITEMS, Item, K
from gscam_lib.paper.worlds import Job, jobs

CARD = "NVIDIA H200"
SPEED = {"fp32": 202.1, "tf32": 828.4, "bf16": 1202.9}
"""Masked copies a second of RN50x16 with random weights on CARD, of figures/gpu.md; other networks
are counted as if they were as large."""
BACKWARD = 2  # forward passes that a backward pass is worth
PHOTOS = {"coco": 4952, "imagenet-v2": 10_000, "partimagenet": 4590, "typographic": 227}
PROMPTS = {"coco": 3, "imagenet-v2": 1, "partimagenet": 3, "typographic": 1}
"""Classes in a photo, about: the runs count them."""
WEIGHTS = {"rn": 630_000_000, "vit": 338_000_000, "rn50": 244_000_000, "imagenet": 98_000_000}
"""Bytes of a network's published weights, about."""


def forward_passes(method: str, channels: int = CHANNELS) -> int:
    """Forward passes of one map by what METHODS says of its cost, the trace's own left out.

    method: as `read_method` takes it; channels: C.
    """
    name, *options = method.split(":")
    known = {"C": channels, "k": K, "L": 12}
    cost, *rest = METHODS[name].forward.split(", ")
    for definition in [*rest, *options]:
        symbol, _, value = (part.strip() for part in definition.partition("="))
        if value.isdigit():
            known[{"masks": "N", "groups": "G"}.get(symbol, symbol)] = int(value)
    return max(0, round(sum(_term(term, known) for term in cost.split(" + "))) - 1)


def _term(term: str, known: Mapping[str, int]) -> float:
    """A product such as "N C" or "C / 8"."""
    value, divide = 1.0, False
    for word in term.split():
        number = known[word] if word in known else 1 if word == "/" else int(word)
        value = value / number if divide else value * number
        divide = word == "/"
    return value


def passes(job: Job) -> int:
    """Passes of a folder of rows, a photo's masked copies made once for all that ask for them.

    Copies that a channel masks, and RISE's, serve every prompt; Group-CAM's do not.
    """
    photos = 200 if job.few else PHOTOS[job.data]
    prompts = PROMPTS[job.data]
    names = {m: m.partition(":")[0] for m in job.methods}
    masked = 0
    for method, name in names.items():
        if name in ("gscorecam", "random_channels") and "uniform" not in method:
            k = forward_passes(method)
            masked = max(masked, min(CHANNELS, k * prompts))
        elif name == "scorecam":
            masked = CHANNELS
    shared = max((forward_passes(m) for m, name in names.items() if name == "rise"), default=0)
    single = sum(
        forward_passes(m) for m, name in names.items()
        if name not in ("gscorecam", "random_channels", "scorecam", "rise")
    )  # fmt: skip
    backward = BACKWARD * any(METHODS[name].backward != "0" for name in names.values())
    return photos * (1 + masked + shared + prompts * (single + backward))


def passes_of(item: Item, without: Sequence[str] = ()) -> int:
    """Passes of a row of the plan if it were run alone."""
    if item.step == "attack":
        return PHOTOS["typographic"]
    if item.step == "speed":
        return 8 * sum(1 + forward_passes(m) for m in item.methods)
    return sum(map(passes, jobs([item], without)))


def hours(count: int) -> dict[str, float]:
    """GPU hours of so many passes on CARD, by precision."""
    return {precision: count / speed / 3600 for precision, speed in SPEED.items()}


def total(items: Sequence[Item] = ITEMS, without: Sequence[str] = ()) -> int:
    """Passes of all rows together: what several ask for is computed once."""
    rest = [i for i in items if i.step in ("attack", "speed")]
    return sum(map(passes, jobs(items, without))) + sum(map(passes_of, rest))


def gigabytes(name: str) -> tuple[float, float]:
    """What a data set's download has, and what it needs on the disk; 0 where it is by hand."""
    archives = SOURCES[name].archives if name in SOURCES else ()
    size = sum(a.size for a in archives)
    return size / 1e9, sum(a.unpacked or a.size for a in archives) / 1e9 + size / 1e9
