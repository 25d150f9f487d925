"""The sheet of single channels by gradient, networks side by side."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from gscam_lib.datasets import Example
from gscam_lib.figures import show_photo
from gscam_lib.trace import Model

SHOWN = 10


def sheet(networks: Sequence[Model], example: Example) -> Figure:
    """Three rows for each network: channels of highest, middle and lowest mean gradient.

    example: its prompt and photo; each map is min-maxed, as masks of gScoreCAM are.
    """
    figure, axes = plt.subplots(
        3 * len(networks), SHOWN + 1, figsize=(13, 1.35 * 3 * len(networks)), layout="constrained"
    )
    for n, model in enumerate(networks):
        trace = model.trace(example.image)
        order = trace.ranking(example.prompt).cpu().numpy()
        middle = len(order) // 2 - SHOWN // 2
        groups = {"highest": order[:SHOWN], "middle": order[middle : middle + SHOWN],
                  "lowest": order[-SHOWN:]}  # fmt: skip
        for row, (name, channels) in zip(axes[3 * n : 3 * n + 3], groups.items(), strict=True):
            show_photo(trace.image, ax=row[0]).set_title(f"{model.name}\n{name}", fontsize=8)
            for ax, mask in zip(row[1:], trace.masks(np.array(channels).tolist()), strict=True):
                ax.imshow(mask.cpu().numpy(), vmin=0, vmax=1)
                ax.set_axis_off()
    return figure
