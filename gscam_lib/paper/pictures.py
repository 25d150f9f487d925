"""The figures of the paper's kinds, drawn from a run's rows and networks.

The same panels in the same order as the paper's, with whatever weights and data the run had, which
every caption names. Maps are computed again for the few photos that are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from gscam_lib import figures, scenes
from gscam_lib.boxes import Heatmap, heatmap_to_box
from gscam_lib.datasets import Example, read_typographic
from gscam_lib.datasets.placement import placed
from gscam_lib.evaluation import report
from gscam_lib.evaluation.measures import PRESETS
from gscam_lib.evaluation.metrics import best_iou
from gscam_lib.figures import charts
from gscam_lib.heatmaps import heatmap
from gscam_lib.methods import METHODS, title
from gscam_lib.model.prompts import with_article
from gscam_lib.paper.channels import sheet
from gscam_lib.paper.plan import KS, Item, K
from gscam_lib.paper.values import Outcome, rows_of
from gscam_lib.paper.worlds import World
from gscam_lib.trace import Model, Trace
from gscam_lib.typography import TEMPLATE, probabilities

PROTOCOL = "paper"  # by which figures are drawn
SUFFIX = " Drawn from rows of the released code's protocol."


@dataclass
class Studio:
    """What figures are drawn of; networks and data are loaded when the first figure asks."""

    outcome: Outcome
    world: World
    _models: dict[str, Model] = field(default_factory=dict)
    _examples: Sequence[Example] | None = None
    _traces: dict[tuple[str, str], Trace] = field(default_factory=dict)

    def model(self, role: str) -> Model:
        """The network of a role."""
        if role not in self._models:
            self._models[role] = self.world.load(role)
        return self._models[role]

    def example(self, position: int) -> Example:
        """The pair of COCO's place at which a row's `example` points, its truth as measured."""
        if self._examples is None:
            self._examples = self.world.asked(
                self.model("rn"), self.world.examples("coco", PROTOCOL)
            )
        return placed(self._examples[position])

    def heat(self, example: Example, method: str) -> Heatmap:
        """A method's map of a pair, as the rows have it."""
        name = method.partition(":")[0]
        role = "rn" if self.model("rn").tower in METHODS[name].towers else "vit"
        model, key = self.model(role), (role, str(example.image))
        if key not in self._traces:  # its masked copies serve every k and method
            self._traces = {k: t for k, t in self._traces.items() if k[1] == key[1]}
            preprocess = PRESETS[PROTOCOL].preprocess
            self._traces[key] = model.trace(example.image, preprocess=preprocess)
        trace = self._traces[key]
        asked = self.world.method(method, PROTOCOL, model.channels)
        bare, _, k = asked.partition(":k=")
        if name == "gscorecam":  # k beside the name: titles then say it once
            return heatmap(
                trace, example.prompt, bare, k=int(k or self.world.ks(model.channels)[K])
            )
        return heatmap(trace, example.prompt, asked)


def draw(folder: Path, outcome: Outcome, world: World, items: Sequence[Item]) -> list[Path]:
    """Draw the figures of rows of the plan that have rows; those that are there stay.

    Returns the PNG files; a row without what its figure needs has none.
    """
    studio, drawn = Studio(outcome, world), []
    for item in items:
        make = FIGURES.get(item.id)
        png = folder / f"{item.id}.png"
        if make is None or png.is_file():
            continue
        with figures.style():
            made = make(studio, item)
            if made is not None:
                figure, caption = made
                drawn.append(
                    figures.save(figure, item.id, caption + _weights(world), folder=folder)
                )
                plt.close(figure)
    return drawn


Made = tuple[Figure, str] | None


def _weights(world: World) -> str:
    names = ", ".join(dict.fromkeys([world.models["rn"], world.models["vit"]]))
    return f" Weights: {names}. {SUFFIX.strip()}"


# ---------------------------------------------------------------- charts of rows


def _chart(studio: Studio, item: Item) -> Made:
    """Methods by the first statistic of a row."""
    rows = rows_of(studio.outcome, item, PROTOCOL)
    if rows.empty:
        return None
    table = report.summarize(rows)
    column = item.statistics[0].replace("total variation", "total_variation")
    if column not in table:
        return None
    figure, ax = plt.subplots(figsize=(7, 0.32 * len(table) + 1.2), layout="constrained")
    names = {m: title(m) for m in table["method"]}
    charts.ranking(table, column, titles=names, ax=ax)
    return figure, f"{item.what}: {item.statistics[0]} by method."


def _groups(studio: Studio, item: Item) -> Made:
    """Methods by a row's statistic in groups of classes or sizes; published values hollow."""
    rows = rows_of(studio.outcome, item, PROTOCOL)
    if rows.empty:
        return None
    by = report.by_classes if item.group == "classes" else report.by_size
    table = by(rows)
    columns = [name for name in item.statistics if name in table]
    figure, axes = plt.subplots(
        len(columns), 1, figsize=(8, 2.9 * len(columns)), layout="constrained", squeeze=False
    )
    for ax, column in zip(axes[:, 0], columns, strict=True):
        charts.by_group(table, column, titles={m: title(m) for m in table["method"]}, ax=ax)
    return figure, f"{item.what}; hollow: published."


# ---------------------------------------------------------------- maps


def _strip(studio: Studio, item: Item) -> Made:
    """One pair: k = 300, 900, 1500, 2400, all, and RISE."""
    rows = rows_of(studio.outcome, item, PROTOCOL)
    if rows.empty:
        return None
    there = set(rows["method"])
    methods = ["gscorecam", *(f"gscorecam:k={k}" for k in KS), "scorecam", "rise"]
    methods = [m for m in methods if m in there]
    full = rows[rows["method"] == methods[-1]]
    example = studio.example(int(full.iloc[0]["example"]))
    heats = [studio.heat(example, m) for m in methods]
    heads = [f"k = {h.k}" if h.k else title(m) for m, h in zip(methods, heats, strict=True)]
    photo = studio.model("rn").trace(example.image).image
    figure = figures.panels(photo, heats, [heatmap_to_box(h) for h in heats], titles=heads)
    return figure, f"“{example.prompt}” with more and more channels, and by RISE; boxes by Otsu."


def _wide(studio: Studio, item: Item) -> pd.DataFrame:
    """IoU of each pair (rows) by each method (columns), pairs that all methods answered."""
    rows = rows_of(studio.outcome, item, PROTOCOL)
    if rows.empty:
        return rows
    return rows.pivot_table(index="example", columns="method", values="iou").dropna()


def _scenes(studio: Studio, item: Item) -> Made:
    """Pairs × methods: gScoreCAM's widest lead, its median, and its widest loss."""
    wide = _wide(studio, item)
    if len(wide) == 0 or wide.shape[1] < 2:
        return None
    lead = (wide["gscorecam"] - wide.drop(columns="gscorecam").max(axis=1)).sort_values()
    chosen = dict.fromkeys([lead.index[-1], lead.index[len(lead) // 2], lead.index[0]])
    rule = "Pairs chosen by a rule: gScoreCAM's widest lead, its median, its widest loss"
    return _grid(studio, [int(i) for i in chosen], list(wide.columns), rule)


def _failures(studio: Studio, item: Item) -> Made:
    """Of the pairs that ask for a suitcase and for a racket, the widest lead of each."""
    wide = _wide(studio, item)
    if len(wide) == 0 or wide.shape[1] < 2:
        return None
    rows = rows_of(studio.outcome, item, PROTOCOL).drop_duplicates("example").set_index("example")
    lead = wide["gscorecam"] - wide.drop(columns="gscorecam").max(axis=1)
    names = rows.loc[wide.index, "category"]
    chosen = [
        lead[names == n].idxmax() for n in ("suitcase", "tennis racket") if (names == n).any()
    ]
    rule = "of the pairs that ask for a suitcase or a tennis racket, gScoreCAM's widest lead"
    if not chosen:
        chosen, rule = [lead.idxmax()], "no suitcase and no racket there: gScoreCAM's widest lead"
    return _grid(studio, [int(i) for i in chosen], list(wide.columns), f"Shown is, {rule}")


def _grid(
    studio: Studio, positions: list[int], methods: list[str], rule: str
) -> tuple[Figure, str]:
    methods = sorted(methods, key=lambda m: m != "gscorecam")
    examples = [studio.example(i) for i in positions]
    heats = [[studio.heat(e, m) for m in methods] for e in examples]
    boxes = [[heatmap_to_box(h) for h in row] for row in heats]
    ious = [[best_iou(box, e.boxes, inclusive=True) for box in row]
            for e, row in zip(examples, boxes, strict=True)]  # fmt: skip
    photos = [studio.model("rn").trace(e.image).image for e in examples]
    figure = figures.grid(
        list(zip(photos, heats, strict=True)), boxes, [e.boxes for e in examples],
        titles=[title(m) for m in methods], ious=ious,
    )  # fmt: skip
    return figure, f"{rule}. White and dashed: true box; cyan: box by Otsu's threshold."


def _channels(studio: Studio, item: Item) -> Made:
    """The channels of the CLIP and of the ImageNet network, by gradient."""
    rows = rows_of(studio.outcome, item, "clean")
    if rows.empty:
        return None
    example = studio.example(int(rows.iloc[0]["example"]))
    networks = [studio.model(role) for role in item.networks]
    figure = sheet(networks, example)
    return figure, (
        f"Channels by their gradient for “{example.prompt}”, the ten highest, ten of the middle, "
        f"the ten lowest: {' and '.join(m.name for m in networks)}."
    )


def _typographic(studio: Studio, item: Item) -> Made:
    """The bare thing and the labelled one with their probabilities; three maps of the labelled."""
    if item.id not in studio.outcome.steps:
        return None
    if studio.world.name == "bundled":
        pair = scenes.pairs("typographic")[0]
        thing, word, bare, labelled = pair.asked, pair.cue, pair.without_cue, pair.with_cue
    else:
        photos = list(read_typographic(studio.world.places["typographic"][0]))
        blank = {e.category: e for e in photos if not e.word}
        shown = [e for e in photos if e.word and e.word != e.category and e.category in blank]
        if not shown:
            return None
        first = next((e for e in shown if str(e.word).lower() == "ipod"), shown[0])
        thing, word = first.category, str(first.word)
        bare, labelled = Path(str(blank[thing].image)), Path(str(first.image))
    model = studio.model("rn")
    traces = {"nothing written": model.trace(bare), f"“{word}” written": model.trace(labelled)}
    trace = traces[f"“{word}” written"]
    k = studio.world.ks(model.channels)[K]
    asked = [with_article(thing), with_article(word), "a table"]
    heats = [heatmap(trace, prompt, k=k) for prompt in asked]
    figure, axes = plt.subplots(1, 7, figsize=(17, 2.9), layout="constrained")
    for i, (head, each) in enumerate(traces.items()):
        figures.show_photo(each.image, ax=axes[2 * i]).set_title(head, parse_math=False)
        share = probabilities(each, [thing, word], template=TEMPLATE)
        charts.shares(share, colors={thing: "#00A860", word: "#601890"}, ax=axes[2 * i + 1])
    for ax, heat in zip(axes[4:], heats, strict=True):
        figures.show_heatmap(trace.image, heat, box=heatmap_to_box(heat), ax=ax)
    return figure, f"What the model calls {thing}, bare and labelled; its maps of three prompts."


FIGURES: dict[str, Callable[[Studio, Item], Made]] = {
    **dict.fromkeys(("coco-hits", "imagenet-v2", "partimagenet", "noise", "ranking", "weighting",
                     "prompts"), _chart),
    "coco-classes": _groups, "coco-size": _groups, "coco-scenes": _scenes, "failures": _failures,
    "k-strip": _strip, "channels": _channels, "typographic": _typographic,
}  # fmt: skip
"""Row of the plan -> what draws its figure."""
