"""What stands for the paper's networks and data: the real ones, or what is bundled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import open_clip
import torch

from gscam_lib.datasets import Example, downloads
from gscam_lib.evaluation.questions import known_examples, open_dataset
from gscam_lib.methods import METHODS
from gscam_lib.paper.plan import KS, Item, K
from gscam_lib.trace import Model, load_model

PROTOCOLS = ("paper", "clean")
"""Presets of `evaluate`: the released code's protocol, and ours."""
IMAGENET = "imagenet-resnet50"


@dataclass(frozen=True)
class World:
    """Networks and data sets by their roles in the plan, and how much of them is looked at.

    models: role -> name, as `load_model` takes it; sets: role -> data set, as `evaluate` takes it;
    images: at most so many of each set; slow_images: for methods with a pass for each channel or
    mask, which then see COCO alone; masks, groups: of RISE and Group-CAM, None for their own; k: in
    the place of the paper's 300, whose other k change with it; few: photos of what is slow to
    measure; layer: of the ResNet; places: role -> (root, annotations) of a reader's own copy;
    device, precision: of `load_model`.
    """

    name: str
    models: Mapping[str, str]
    sets: Mapping[str, str]
    images: int | None = None
    slow_images: int | None = None
    masks: int | None = None
    groups: int | None = None
    layer: str | None = None
    k: int = K
    few: int = 200
    places: Mapping[str, tuple[Path, Path | None]] = field(default_factory=dict)
    device: str | None = None
    precision: str = "fp32"

    @property
    def real(self) -> bool:
        """Whether what comes out may stand beside the paper's values: its weights and data."""
        return self.name == "real" and not any(m.endswith("/random") for m in self.models.values())

    def settings(self) -> dict[str, Any]:
        """What decides the numbers, as JSON."""
        return {
            "world": self.name, "models": dict(self.models), "sets": dict(self.sets),
            "images": self.images, "slow_images": self.slow_images, "masks": self.masks,
            "groups": self.groups, "layer": self.layer,
            "k": self.k, "few": self.few, "precision": self.precision,
            "own": sorted(self.places),
        }  # fmt: skip

    def ks(self, channels: int) -> dict[int, int]:
        """The paper's k -> the k that stands for it in a network of so many channels."""
        return {k: max(1, min(channels, round(k * self.k / K))) for k in (K, *KS)}

    def method(self, method: str, protocol: str, channels: int) -> str:
        """A method of the plan as `evaluate` is asked for it: k scaled, options as released."""
        name, *options = method.split(":")
        kept = [o for o in options if not o.startswith("k=")]
        for option in options:
            if option.startswith("k="):
                kept.append(f"k={self.ks(channels)[int(option[2:])]}")
        if name == "rise" and self.masks is not None:
            kept.append(f"masks={self.masks}")
        if name == "groupcam" and self.groups is not None:
            kept.append(f"groups={self.groups}")
        if protocol == "paper" and METHODS[name].as_released:
            kept.insert(0, "as_released")
        return ":".join([name, *kept])

    def load(self, role: str) -> Model:
        """The network of a role. Raises ValueError and FileNotFoundError as `load_model`."""
        name = self.models[role]
        how: dict[str, Any] = {"device": self.device, "precision": self.precision}
        if name.partition("/")[0] == IMAGENET:
            model = load_model(imagenet_network(pretrained=not name.endswith("/random")), **how)
            model.name = name
            return model
        with torch.random.fork_rng(enabled=name.endswith("/random")):
            torch.manual_seed(0)  # random weights are the same at every start
            return load_model(name, layer=self.layer if role == "rn" else None, **how)

    def examples(self, role: str, protocol: str) -> Sequence[Example]:
        """The data set of a role; ImageNet's names are those of the protocol.

        Raises ValueError and FileNotFoundError where it is not here.
        """
        name, names = self.sets[role], None
        if role == "imagenet-v2" and protocol == "paper":
            names = release_names()
        root, annotations = self.places.get(role, (None, None))
        return open_dataset(name, root, annotations, class_names=names)

    def asked(self, model: Model, examples: Sequence[Example]) -> Sequence[Example]:
        """The pairs whose class a network knows, of the first images that have one."""
        most = examples if self.images is None else _first(model, examples, self.images)
        return known_examples(model, most)

    def fetch(self, role: str) -> None:
        """Download the data set of a role if it can be and is not here."""
        name = self.sets[role]
        known = role not in self.places and name in downloads.SOURCES
        if known and not downloads.SOURCES[name].by_hand:
            downloads.download(name)


def _first(model: Model, examples: Sequence[Example], most: int) -> Sequence[Example]:
    """All pairs of the first so many images of which the network knows a class."""
    kept: list[Example] = []
    images: set[str] = set()
    for image, pairs in groupby(examples, key=lambda e: e.image_id):
        mine = list(pairs)
        if known_examples(model, mine):
            kept += mine
            images.add(image)
        if len(images) == most:
            break
    return kept


def release_names() -> list[str]:
    """ImageNet's class names as the release has them: the common list, by torchvision.

    296 of them differ from open_clip's, capitals aside; those that torchvision made unique may
    differ from the release's.
    """
    from torchvision.models import ResNet50_Weights  # its list, no weights

    return [str(name) for name in ResNet50_Weights.IMAGENET1K_V1.meta["categories"]]


def imagenet_network(*, pretrained: bool) -> Any:
    """timm's ResNet-50 of ImageNet in the place of a CLIP's image tower; its text tower is random.

    Raises FileNotFoundError where its weights are not here and cannot be fetched.
    """
    vision = {"timm_model_name": "resnet50.tv_in1k", "timm_model_pretrained": pretrained,
              "timm_pool": "avg", "timm_proj": "", "image_size": 224}  # fmt: skip
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            network = open_clip.CLIP(embed_dim=2048, vision_cfg=vision, text_cfg=text)
        except Exception as error:  # whatever the hub raises
            raise FileNotFoundError(
                f"The weights of timm's resnet50.tv_in1k are not here and could not be fetched "
                f"({type(error).__name__}); run this once where there is a network."
            ) from error
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocess = {"size": (224, 224), "mean": mean, "std": std, "interpolation": "bilinear"}
    network.visual.preprocess_cfg = preprocess
    return network.eval()


REAL = World(
    "real",
    {"rn": "RN50x16-quickgelu/openai", "vit": "ViT-B-32-quickgelu/openai",
     "rn50": "RN50-quickgelu/openai", "imagenet": IMAGENET},
    {"coco": "coco-val2017", "imagenet-v2": "imagenet-v2", "partimagenet": "partimagenet",
     "train": "coco-train2017", "typographic": "typographic"},
)  # fmt: skip
"""The paper's networks and data."""

BUNDLED = World(
    "bundled",
    {"rn": "mini-rn", "vit": "mini-vit", "rn50": "mini-rn", "imagenet": "photo-lite"},
    {"coco": "multi", "imagenet-v2": "single", "partimagenet": "parts", "train": "biases",
     "typographic": "typographic"},
    images=1, slow_images=1, masks=16, groups=8, layer="layer1", k=6, few=1,
)  # fmt: skip
"""What is bundled, at a size for a test: at a layer of 128 channels, with k = 6 for 300."""


def with_models(
    world: World,
    model: str | None = None,
    vit: str | None = None,
    *,
    random: bool = False,
    **changes: Any,
) -> World:
    """A world with other networks in the place of RN50x16 and ViT-B/32, and what else is given.

    random: random weights in all of open_clip's, to try the path at full size.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    models = dict(world.models)
    if random:
        models = {role: f"{name.partition('/')[0]}/random" for role, name in models.items()}
    models |= {role: name for role, name in (("rn", model), ("vit", vit)) if name is not None}
    layer = None if model is not None else world.layer  # it is of the bundled network
    return replace(world, models=models, layer=layer, **given)


# ---------------------------------------------------------------- what is to be run


@dataclass(frozen=True)
class Job:
    """One folder of rows: a network, a data set, a protocol, and all that rows of the plan ask."""

    role: str
    data: str
    protocol: str
    prompts: str
    methods: tuple[str, ...]
    measures: tuple[str, ...]
    items: tuple[str, ...]
    few: bool = False

    @property
    def name(self) -> str:
        """Of the folder."""
        parts = [self.data, self.role, self.protocol]
        return "_".join(parts + [self.prompts] * (self.prompts != "bare") + ["few"] * self.few)


def jobs(items: Sequence[Item], without: Sequence[str] = ()) -> list[Job]:
    """The folders that rows of the plan ask for; each network sees each photo once for all of them.

    without: methods, by name, that are left out.
    """
    found: dict[tuple[str, str, str, str, bool], list[tuple[Item, tuple[str, ...]]]] = {}
    for item in items:
        if item.step != "rows":
            continue
        roles = dict.fromkeys(item.networks or ("rn",), item.methods)
        roles |= {"vit": item.vit} if item.vit else {}
        for role, methods in roles.items():
            left = tuple(m for m in methods if m.partition(":")[0] not in without)
            for protocol in PROTOCOLS if not item.networks else PROTOCOLS[1:]:
                key = (role, item.data, protocol, item.prompts, "channels" in item.measures)
                found.setdefault(key, []).append((item, left))
    return [
        Job(
            role, data, protocol, prompts,
            tuple(dict.fromkeys(m for _, methods in asked for m in methods)),
            tuple(dict.fromkeys(["localization", *(m for i, _ in asked for m in i.measures)])),
            tuple(item.id for item, _ in asked), few,
        )
        for (role, data, protocol, prompts, few), asked in found.items()
    ]  # fmt: skip
