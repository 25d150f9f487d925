"""What else could guess the scores of masked copies: python tests/bench/priors.py [--models …]

Each way takes the place of a part of `methods/anytime.py`, on copies that a cache keeps scored.
Agreement is with the full map, as in tests/bench/anytime.py, on the photos that calibrate the band:
what is chosen here may then be measured on others.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pandas as pd
import torch
import typer
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor
from torch.nn import functional as F

from gscam_lib import scenes
from gscam_lib.heatmaps import _heatmap, heatmap, several
from gscam_lib.methods import anytime
from gscam_lib.trace.model import load_model
from gscam_lib.trace.tails import cell_masks
from gscam_lib.trace.trace import Trace
from tests.bench.anytime import agreement, known_examples, photos
from tests.bench.page import FIGURES, write_section

SHARES = (0.1, 0.2)
Way = Callable[[], AbstractContextManager[Any]]


def smaller(trace: Trace, channels: Tensor) -> Tensor:
    """Embeddings of the copies in half the rows and columns, a quarter of a pass each."""

    def embed() -> Tensor:
        parts = [_small(trace, part) for part in channels.split(trace.batch_size)]
        return F.normalize(torch.cat(parts).float(), dim=-1)

    with torch.no_grad(), trace.model.running():
        found: Tensor = trace.keep(("smaller", *channels.tolist()), embed)
        return found


def _small(trace: Trace, channels: Tensor) -> Tensor:
    visual: Any = trace.model.network.visual
    copies = trace.pixels * trace.masks(channels)[:, None]
    if trace.model.tower == "vit":  # the patches' tokens, where they stand, two by two
        tokens, rows = visual._embeds(copies), trace.vit.grid[0]
        places = tokens[:, 1:].mT.unflatten(2, (rows, -1))
        tokens = torch.cat([tokens[:, :1], F.avg_pool2d(places, 2).flatten(2).mT], 1)
        return torch.as_tensor(visual._pool(visual.transformer(tokens))[0] @ visual.proj)
    maps = visual.stem(F.avg_pool2d(copies, 2))
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        maps = stage(maps)
    size = trace.activations.shape[-2:]
    return torch.as_tensor(visual.attnpool(F.interpolate(maps, size=size, mode="bilinear")))


def with_kernel(more: Callable[[Tensor, Tensor], Tensor]) -> Way:
    """Something of drafts' embeddings (n, D) and scores (n,) added to the kernel over masks."""
    plain = anytime._State.__init__

    def begin(self: Any, trace: Trace, questions: Any) -> None:
        plain(self, trace, questions)
        draft = anytime.drafts(trace, torch.tensor(self.channels))
        if draft is not None:
            self.kernel = self.kernel + more(draft.double(), self.draft[0])
            self.paths = self.noise[:, : len(draft)] @ anytime._root(self.kernel).T

    return lambda: patch.object(anytime._State, "__init__", begin)


def slope(embeddings: Tensor, scores: Tensor) -> Tensor:
    """Drafts may stretch scores: score = (1 ± 1) · draft."""
    unit = (scores - scores.mean()) / scores.std(correction=0).clamp_min(1e-12)
    return torch.outer(unit, unit)


def linear(embeddings: Tensor, scores: Tensor) -> Tensor:
    """What a draft is wrong by is linear in its embedding."""
    centred = embeddings - embeddings.mean(0)
    products = centred @ centred.T
    return products / products.diagonal().mean()


def near(embeddings: Tensor, scores: Tensor) -> Tensor:
    """What drafts are wrong by is alike where their embeddings are."""
    products = linear(embeddings, scores)
    own = products.diagonal()
    return 3 * (-(own[:, None] + own[None] - 2 * products) / 2).exp()


WAYS: dict[str, Way] = {
    "as it is": nullcontext,
    "half the resolution as draft (+ k/4 passes)":
        lambda: patch.object(anytime, "drafts", smaller),
    "drafts' slope learned": with_kernel(slope),
    "linear in the draft's embedding": with_kernel(linear),
    "kernel over drafts' embeddings": with_kernel(near),
    "a copy at a time": lambda: patch.multiple(anytime, STEP=1, ROUNDS=10_000),
}  # fmt: skip


def clustered(scores: Tensor, masks: Tensor, budget: int) -> Tensor:
    """Each cluster of masks (Ward's) takes the score of the mask nearest to its mean."""
    flat = masks.flatten(1).cpu().double().numpy()
    of = fcluster(linkage(flat, "ward"), budget, "maxclust")
    found = scores.clone()
    for cluster in np.unique(of):
        own = np.flatnonzero(of == cluster)
        away = ((flat[own] - flat[own].mean(0)) ** 2).sum(1)
        found[own] = scores[own[away.argmin()]]
    return found


def oracle(scores: Tensor, masks: Tensor, budget: int) -> Tensor:
    """The highest scores are known by a miracle, and of the others their mean."""
    order = scores.argsort(descending=True)
    found = scores.clone()
    found[order[budget:]] = scores[order[budget:]].mean()
    return found


SCORED = {"clusters of masks": clustered, "the highest scores known (an oracle)": oracle}


def rows(trace: Trace, questions: list[Any]) -> Iterator[dict[str, Any]]:
    """Agreement of each question's map at both budgets, by every way."""
    k = trace.default_k
    for example, full in zip(questions, several(trace, [e.prompt for e in questions]), strict=True):
        asked = anytime.Question(example.prompt, trace.ranking(example.prompt)[:k])
        embedded = trace.masked_embeddings(asked.channels)
        scores = trace.model.scores(embedded, asked.prompt).detach()
        for share in SHARES:
            budget = max(1, round(share * k))
            made = {}
            for name, way in WAYS.items():
                with way():
                    made[name] = heatmap(trace, example.prompt, budget=budget)
            for name, guess in SCORED.items():
                guessed = guess(scores, cell_masks(trace, asked.channels), budget)
                found = (anytime.weigh(trace, asked, guessed), budget, None)
                made[name] = _heatmap([trace], example.prompt, "gscorecam", {}, [found])
            for name, heat in made.items():
                yield {"way": name, "share": share, "k": k, **agreement(heat, full, example)}


def table(data: pd.DataFrame) -> str:
    """The section of the page."""
    models = list(data["model"].unique())
    asked = {m: data[(data["model"] == m) & (data["way"] == "as it is")] for m in models}
    counts = ", ".join(f"{m} {len(d) // len(SHARES)} (k = {d['k'].iloc[0]})"
                       for m, d in asked.items())  # fmt: skip
    lines = [
        "## Other guesses of scores\n",
        "What could stand in the place of the near-exact map's guess, on questions that calibrate "
        f"its band ({counts}): correlation and IoU of boxes with the full map, means, at a share "
        "of the passes. Nothing of this is in the library but the first line. "
        "`python tests/bench/priors.py` writes this.\n",
        "| way | " + " | ".join(f"{m}, {s:.0%}" for m in models for s in SHARES) + " |",
        "|---|" + "---|" * len(models) * len(SHARES),
    ]
    means = data.groupby(["way", "model", "share"])[["correlation", "iou"]].mean()
    for way in (*WAYS, *SCORED):
        found = [means.loc[(way, m, s)] for m in models for s in SHARES]
        cells = " | ".join(f"{v['correlation']:.3f}, {v['iou']:.3f}" for v in found)
        lines.append(f"| {way} | {cells} |")
    return "\n".join(lines)


def main(
    models: Annotated[str, typer.Option(help="separated by commas")] = "mini-rn,mini-vit",
    count: Annotated[int, typer.Option("--photos", help="of `multi`")] = 24,
    cache: Annotated[Path | None, typer.Option(help="keeps scored copies")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder")] = FIGURES,
) -> None:
    """Measure what else could guess."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kept: list[dict[str, Any]] = []
    for name in models.split(","):
        model = load_model(name, device="cpu")
        examples = known_examples(model, scenes.load("multi"))
        for questions in photos(model, "multi", examples, count, calibrate=True):
            trace = model.trace(questions[0].image, cache=cache)
            kept += [{"model": name, **row} for row in rows(trace, questions)]
            print(f"\r{name}: {len(kept)} rows", end="", file=sys.stderr, flush=True)
    text = table(pd.DataFrame(kept))
    write_section("priors", text, out=out)
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
