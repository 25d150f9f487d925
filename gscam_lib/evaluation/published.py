"""What the paper published, each value with the tag that says how far to trust it."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

TAGS = {
    "P": "published, as printed",
    "C": "read from the authors' released code",
    "D": "derived from a released plot file",
}
PAPER = "Chen et al. 2022, COCO val2017, RN50x16 (HilaCAM: ViT-B/32)"


def _published() -> pd.DataFrame:
    bins = ("1–3", "4–6", "7–9")
    means = {
        "gscorecam": (0.350, 0.279, 0.248), "scorecam": (0.357, 0.276, 0.241),
        "gradcam": (0.241, 0.179, 0.166), "hilacam": (0.310, 0.212, 0.165),
    }  # fmt: skip
    medians = {
        "gscorecam": (0.345, 0.210, 0.145), "scorecam": (0.339, 0.188, 0.117),
        "gradcam": (0.193, 0.100, 0.070), "hilacam": (0.273, 0.122, 0.061),
    }  # fmt: skip
    pairs = dict(zip(bins, (1150, 2790, 874), strict=True))
    rows = [
        (kind, method, b, pairs[b] if tag == "D" else None, value, tag)
        for kind, found, tag in (("mean IoU", means, "D"), ("median IoU", medians, "P"))
        for method, row in found.items()
        for b, value in zip(bins, row, strict=True)
    ]
    rows.append(("hits", "gscorecam", "all", None, 0.2083, "C"))
    return pd.DataFrame(rows, columns=["statistic", "method", "group", "pairs", "value", "tag"])


PUBLISHED = _published()
"""Published values: statistic, method, group ("all" or classes in the image), pairs, value, tag."""


def published(groups: Iterable[str]) -> pd.DataFrame:
    """Published values of these groups in the form of this library's tables.

    A line for each method, group and tag; `origin` spells the tag out. Other settings than ours:
    other weights, the whole of COCO, the released code's IoU.
    """
    chosen = PUBLISHED[PUBLISHED["group"].isin(list(groups))]
    if chosen.empty:
        return pd.DataFrame(columns=["origin", "method", "group"])
    wide = chosen.pivot_table(
        index=["tag", "method", "group"], columns="statistic", values="value", sort=False
    )
    pairs = chosen.groupby(["tag", "method", "group"])["pairs"].max()
    wide = wide.join(pairs).reset_index()
    origins = [f"{PAPER}: {TAGS[tag]} [{tag}]" for tag in wide.pop("tag")]
    wide.insert(0, "origin", origins)
    return wide.rename_axis(columns=None)
