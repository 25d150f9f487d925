"""The plan: one row for each table and figure of the paper, and what each asks for.

Numbers of rows are ours: the paper's own are not among what may be quoted. So is every published
value from `evaluation.published`; where there is none, "not available" stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gscam_lib.evaluation.published import PUBLISHED

CITE = "Chen et al., gScoreCAM: What Objects Is CLIP Looking At?, ACCV 2022"
K = 300
KS = (300, 900, 1500, 2400)
CHANNELS = 3072
BINS = ("1–3", "4–6", "7–9")

CAMS = ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "eigencam", "groupcam")
CONTROLS = ("random_channels", "center")
TABLE = ("gscorecam", "scorecam", *CAMS, "rise", *CONTROLS)
SWEEP = ("gscorecam", *(f"gscorecam:k={k}" for k in KS[1:]), "scorecam", "rise")
RANKINGS = ("gscorecam", *(f"gscorecam:ranking={r}" for r in ("mean_abs", "max_abs", "variance")))
WEIGHTINGS = ("gscorecam", "gscorecam:weighting=softmax_chosen", "gscorecam:weighting=uniform")


@dataclass(frozen=True)
class Item:
    """A table, figure or number of the paper.

    step: what makes it: "rows" (the runner), "speed", "attack" or "none"; data: the role of its
    data set; methods, vit: what is asked of the ResNet and of the ViT, and networks further
    ResNets by role; measures: beside localization; statistics: columns of its table; group: "all",
    "classes" or "size"; prompts: "bare" or "searched"; figure: the workbook's figures of the same
    kind; text: what the paper's text has otherwise than its released code; deviations: what is
    otherwise here than in both.
    """

    id: str
    kind: str
    what: str
    data: str
    step: str = "rows"
    methods: tuple[str, ...] = ()
    vit: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    group: str = "all"
    prompts: str = "bare"
    figure: tuple[str, ...] = ()
    text: str = ""
    deviations: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """Its place in the plan, from 1; the paper's own numbers may not be quoted."""
        return [item.id for item in ITEMS].index(self.id) + 1


@dataclass(frozen=True)
class Expected:
    """A published value, how far it may be trusted, and how near is reproduced."""

    statistic: str
    method: str
    group: str
    value: float
    tag: str
    tolerance: float


TOLERANCE = {"hits": 0.002, "mean IoU": 0.01, "median IoU": 0.01}
"""hits: .2 of a percentage point, a tenth of what the paper's margins are; IoU: the published
values have three digits, and which pairs they are of is not known."""


def expected(item: Item) -> list[Expected]:
    """What was published of a row's statistics, on these data and networks."""
    if item.id not in ("coco-hits", "coco-classes"):
        return []
    groups = BINS if item.group == "classes" else ("all",)
    rows = PUBLISHED[PUBLISHED["statistic"].isin(item.statistics) & PUBLISHED["group"].isin(groups)]
    return [
        Expected(r.statistic, r.method, r.group, float(r.value), r.tag, TOLERANCE[r.statistic])
        for r in rows.itertuples()
    ]


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper as a paired difference of two methods on one data set.

    margin: 0 says that the first is better; above 0 that they are as good to so much.
    """

    what: str
    first: str
    second: str
    data: str = "coco"
    column: str = "iou"
    margin: float = 0.0


CLAIMS = (
    Claim("It localizes like ScoreCAM", "gscorecam", "scorecam", margin=0.01),
    *(Claim(f"It beats {title} by far", "gscorecam", method)
      for title, method in (("HilaCAM", "hilacam"), ("RISE", "rise"), ("Grad-CAM", "gradcam"))),
    *(Claim("… and in parts of objects", "gscorecam", method, "partimagenet")
      for method in ("gradcam", "hilacam")),
    *(Claim("… and in ImageNet-v2", "gscorecam", method, "imagenet-v2")
      for method in ("gradcam", "hilacam")),
)  # fmt: skip
"""The paper's claims [P], each to be decided by a paired interval over images."""

_META = "the release's list of pairs is lost: pairs are made anew from the data set's own file"
_SIZE = "the release boxes maps at the photo's size, the protocol of MaxBoxAcc at 224 × 224; ours "
_SIZE += "are brought to the photo's size first"

ITEMS: tuple[Item, ...] = (
    Item(
        "coco-hits", "table", "zero-shot localization on COCO val2017: boxes with IoU ≥ 0.5",
        "coco", methods=TABLE, vit=("hilacam",), measures=("total_variation",),
        statistics=("hits", "mean IoU", "median IoU"), figure=("table_hits",),
        text="HilaCAM: all blocks by its equations, the last alone in the code; RISE: 8,000 masks",
        deviations=(_META, "“final ReLU off” (20.86 % [C]) is not run: sums of layer4's output, "
                    "which is never negative, with softmax weights do not change by a ReLU"),
    ),
    Item(
        "coco-classes", "figure", "IoU by the number of classes in the image",
        "coco", methods=("gscorecam", "scorecam", "gradcam"), vit=("hilacam",),
        statistics=("mean IoU", "median IoU"), group="classes", figure=("objects_by_number",),
        deviations=(_META, "the published bins have 1,150, 2,790 and 874 pairs, fewer than the "
                    "data set: which ones is not known", "the release stores the IoU of the first "
                    "true box that is hit, ours is the largest: never lower"),
    ),
    Item(
        "coco-size", "figure", "IoU by the size of the object, five bins", "coco",
        methods=("gscorecam", "scorecam", "gradcam"), vit=("hilacam",),
        statistics=("hits", "mean IoU"), group="size", figure=("table_sizes",),
        deviations=(_META, "the edges of the bins are not known: ours have as many pairs each"),
    ),
    Item(
        "coco-scenes", "figure", "scenes with several objects × methods, with boxes", "coco",
        methods=("gscorecam", "gradcam", "groupcam", "rise"), vit=("hilacam",),
        statistics=("hits",), figure=("objects_grid", "every_resnet"),
        deviations=("which photos are shown is not known: ours are chosen by a rule",),
    ),
    Item(
        "failures", "figure", "the baggage sign and the tennis court: RISE covers both suitcases "
        "and the sign, ScoreCAM racket and court (IoU 0.0), gScoreCAM the racket (IoU .649) [P]",
        "coco", methods=("gscorecam", "scorecam", "rise"), statistics=("hits",),
        figure=("bias_suspects",),
        deviations=("the photos' ids are not known: shown is, of the pairs that ask for a suitcase "
                    "and for a tennis racket, the one with gScoreCAM's widest lead",),
    ),
    Item(
        "imagenet-v2", "table", "MaxBoxAcc on ImageNet-v2", "imagenet-v2",
        methods=("gscorecam", "scorecam", "gradcam", "groupcam", "rise", *CONTROLS),
        vit=("hilacam",), measures=("ious_largest", "ious"),
        statistics=("MaxBoxAcc", "MaxBoxAccV2"), figure=("table_hits",),
        text="class names: 297 of 1,000 differ between open_clip's list and the release's; the "
        "released protocol takes torchvision's, the common list, up to names it made unique",
        deviations=(_SIZE,),
    ),
    Item(
        "partimagenet", "table", "zero-shot localization of parts, PartImageNet's test photos",
        "partimagenet", methods=("gscorecam", "scorecam", "gradcam", "groupcam", "rise", *CONTROLS),
        vit=("hilacam",), statistics=("hits", "mean IoU"), figure=("table_hits",),
        deviations=("the paper's list has 4,590 test photos with 14,260 pairs; the page says how "
                    "many were found",),
    ),
    Item(
        "k-strip", "figure", "maps from k = 300, 900, 1500, 2400 and all channels (ScoreCAM) to "
        "RISE", "coco", methods=SWEEP, statistics=("hits", "mean IoU"),
        figure=("k_strip", "k_curve"),
    ),
    Item(
        "speed", "number", "8 to 10 times faster than ScoreCAM [P]", "coco", "speed",
        methods=("gscorecam", "scorecam", "rise", "gradcam"),
        deviations=("for one prompt a photo; masked copies serve every prompt here, so that "
                    "further prompts cost less",),
    ),
    Item(
        "noise", "table", "total variation of the maps on 10,000 random COCO instances", "coco",
        methods=("gscorecam", "scorecam", *CAMS, "rise"), vit=("hilacam",),
        measures=("total_variation",), statistics=("total variation", "total variation std"),
        figure=("table_hits",),
        deviations=("10,000 pairs of image and class drawn with seed 0; which instances the "
                    "authors drew is not known",),
    ),
    Item(
        "ranking", "table", "what channels are ranked by: mean gradient, mean |gradient|, max "
        "|gradient|, variance", "coco", methods=(*RANKINGS, "random_channels"),
        statistics=("hits", "mean IoU"), figure=("channels_rankings",),
    ),
    Item(
        "weighting", "table", "how channels are weighted: softmax over all, over those chosen, "
        "none", "coco", methods=WEIGHTINGS, statistics=("hits", "mean IoU"),
        deviations=("the authors weighed 50 train2017 photos of each class by the channels' own "
                    "IoU; here the boxes of the maps are judged",),
    ),
    Item(
        "channels", "figure", "single channels by gradient, of CLIP's RN50 against an "
        "ImageNet-trained ResNet-50: noisier, and the top tenth carries the object [P]", "coco",
        networks=("rn50", "imagenet"), methods=("gradcam",), measures=("channels",),
        statistics=("channels top", "channels rest", "channels variation"),
        figure=("channels_sheet", "channels_noise", "channels_rankings"),
        deviations=("IoU-AUC and total variation on a grid of 32 × 32, of 128 channels of the top "
                    "tenth and 128 of the others, on 200 photos; the ImageNet network's channels "
                    "are ranked by the gradient of a random text tower's score: only their "
                    "variation is to be compared",),
    ),
    Item(
        "prompts", "table", "prompt candidates: the one of highest mean logit on train2017",
        "coco", methods=("gscorecam", "gradcam"), statistics=("hits", "mean IoU"),
        prompts="searched",
        deviations=("candidates are seven forms of the name; the release's ten add WordNet's "
                    "synonyms and other templates", "200 photos of train2017 a class at most"),
    ),
    Item(
        "typographic", "figure", "the typographic attack: an apple is called iPod, and there is a "
        "map for apple, iPod and background", "typographic", "attack",
        figure=("typographic_apple", "typographic_maps"),
        deviations=("85.6 % Granny Smith without and 99.7 % iPod with a note [P] are of Goh et "
                    "al. 2021, by another CLIP and prompt",),
    ),
    Item(
        "patches", "figure", "adversarial patches", "none", "none",
        deviations=("neither the patches nor how they were made is available",),
    ),
)  # fmt: skip


def chosen(only: Iterable[str] = ()) -> tuple[Item, ...]:
    """The rows of these ids, all for none. Raises ValueError for an id that does not exist."""
    wanted = list(only)
    unknown = [name for name in wanted if name not in {item.id for item in ITEMS}]
    if unknown:
        raise ValueError(
            f"No row {', '.join(unknown)} in the plan. There are: {', '.join(i.id for i in ITEMS)}."
        )
    return tuple(item for item in ITEMS if not wanted or item.id in wanted)


def figures_of_the_paper() -> Mapping[str, str]:
    """The workbook's figures that are of the kind of one of the paper's: name -> which."""
    found: dict[str, list[str]] = {}
    for item in ITEMS:
        for name in item.figure:
            found.setdefault(name, []).append(f"{item.number} {item.id}")
    return {name: ", ".join(rows) for name, rows in found.items()}


# ---------------------------------------------------------------- settings

SETTINGS: Sequence[tuple[str, str, str, str]] = (
    ("photo", "pixels as stored, EXIF not applied", "not available", "upright by EXIF"),
    ("input", "the whole photo squashed, in effect bilinear", "not available", "squashed, bicubic"),
    ("prompt", "the bare class name", "the best of several candidates, too", "the bare name"),
    ("layer", "ResNet: output of layer4", "last convolutional layer", "output of layer4"),
    ("channels", "the k = 300 of highest signed mean gradient", "the same", "the same"),
    ("masked photo", "after normalization: what is masked is the mean colour", "not available",
     "the same"),
    ("weights", "softmax over all C; channels not chosen score 0", "a linear combination",
     "the same"),
    ("ViT (HilaCAM)", "the last block", "all blocks (its own equations)", "all blocks"),
    ("box", "8 bits by rounding, Otsu, the region whose rectangle is largest; (0, 0, 1, 1) where "
     "there is none", "not available", "8 bits by cutting, Otsu, the same region; no box, no hit"),
    ("IoU", "the last pixel counts as inside; hit from 0.5 on with any true box", "0.5",
     "half-open boxes; the same hit"),
    ("missing photo", "skipped", "not available", "an error, counts as a miss"),
    ("ImageNet's names", "the common list (torchvision's)", "not available", "open_clip's list"),
)  # fmt: skip
"""What, by the released code [C], by the paper's text, by our clean protocol."""
