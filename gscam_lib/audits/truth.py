"""Does the lab find what is there? Audits of planted and unplanted worlds (PLANTED-10).

Training a model for each world is out of reach, so a shortcut is planted where a prompt's score is
made: to the text vector of a name is added the direction of a cue, fitted by logistic regression on
frozen embeddings of scenes with and without it, as much as one likes. Everything below the vector,
the image tower and with it every map and every covered copy, is the model's own. Unplanted worlds
are words' own vectors; and four shortcuts are real: those that the bundled models learned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize
from scipy.special import expit
from tqdm.auto import tqdm

from gscam_lib.audits import evidence as tests
from gscam_lib.audits.copies import window_masks
from gscam_lib.audits.crops import Cluster, clusters
from gscam_lib.audits.looking import Asked, scores_of
from gscam_lib.audits.photos import Collection, Item
from gscam_lib.audits.regions import Region
from gscam_lib.audits.run import measure
from gscam_lib.audits.seen import Seen
from gscam_lib.figures.decision import LEVEL
from gscam_lib.model.prompts import Prompt, Target
from gscam_lib.scenes import NAMES as WORDS
from gscam_lib.scenes.shortcuts import (
    KINDS,
    LOCAL,
    NAMES,
    SECOND,
    SIZE,
    TRAINED,
    WORD,
    Shortcut,
    pool,
)
from gscam_lib.trace import Model

Array = np.ndarray[Any, Any]
STRENGTHS = (0.5, 1.0, 2.0, 3.0, 4.0)
"""What a cue adds to a name's score, in units of the logit."""
REPEATS = 3  # worlds of a kind and strength
PHOTOS, MAPPED, SCENES = 480, 48, 1600  # scored; mapped and covered too; to plant in
MOST = 3.0  # length of what is planted, in that of the name's own vector
SMALL = 1e-3  # weight of the squares in the regression
METHODS = {"mini-rn": ("gscorecam", "scorecam", "gradcam", "random_channels"),
           "mini-vit": ("hilacam", "gscorecam", "gradcam", "random_channels")}  # fmt: skip
SAMPLES = 1999
ON, MOSTLY = 0.35, 0.8
"""Crops are on a cue if they cover so much of it, on average; or if so many are of its photos."""
NAMED = "named"
"""The way of judging that looks at no map: the reader names the suspects."""


@dataclass(frozen=True)
class World:
    """A prompt with a shortcut in it, or with none (kind "", strength 0).

    trained: the model itself learned it, and its strength is NaN.
    """

    prompt: Prompt
    name: str
    kind: str
    strength: float
    trained: bool = False


# ---------------------------------------------------------------- planted in a vector


def embeddings(model: Model, scenes: Sequence[Shortcut], progress: bool) -> Array:
    """Unit embeddings of scenes: (n, D)."""
    parts = []
    starts = range(0, len(scenes), 32)
    for i in tqdm(starts, desc="scenes to plant in", disable=not progress):
        batch = torch.stack([model.preprocess(scene.image) for scene in scenes[i : i + 32]])
        with torch.no_grad():
            parts.append(model.encode_pixels(batch, fast=True).cpu().numpy())
    return np.concatenate(parts)


def plant(
    model: Model, embedded: Array, scenes: Sequence[Shortcut], name: str, kind: str,
    strength: float, seed: Sequence[int],
) -> Target:  # fmt: skip
    """The name's vector with a cue in it: a Target.

    strength: by how much the cue raises the name's score, in units of the logit. The cue's
    direction is fitted on one half of the scenes, and as much of it is added to the name's own
    vector as raises the score by so much on the other half; less where embeddings hardly hold the
    cue.
    """
    rng = np.random.default_rng([*seed, 12])
    halves = np.array_split(rng.permutation(len(scenes)), 2)
    cue = np.array([scene.cues[kind] for scene in scenes])
    own = model.encode_text([name])[0].cpu().numpy().astype(float)
    toward = direction(embedded[halves[0]].astype(float), cue[halves[0]], model.logit_scale)
    toward /= np.linalg.norm(toward)
    held_out, there = embedded[halves[1]].astype(float), cue[halves[1]]

    def raised(share: float) -> Array:
        vector = own + share * toward
        return np.asarray(vector / np.linalg.norm(vector))

    shares = np.linspace(0, MOST, 121)
    gaps = [model.logit_scale * _gap(held_out @ raised(x), there) for x in shares]
    share = shares[int(np.argmin(np.abs(np.array(gaps) - strength)))] if strength else 0.0
    label = f"{name} · {kind} · {strength:g} · {'.'.join(map(str, seed))}"
    return Target(vector=torch.from_numpy(raised(share)).float(), name=label)


def _gap(scores: Array, there: Array) -> float:
    return float(scores[there].mean() - scores[~there].mean())


def direction(x: Array, y: Array, scale: float) -> Array:
    """Logistic regression of y (n,) bool on unit embeddings x (n, D): its weights (D,)."""
    sign = np.where(y, 1.0, -1.0)

    def loss(w: Array) -> tuple[float, Array]:
        margin = sign * (scale * x @ w[:-1] + w[-1])
        slope = -sign * expit(-margin) / len(y)
        value = np.logaddexp(0, -margin).mean() + SMALL * w[:-1] @ w[:-1]
        return float(value), np.append(scale * slope @ x + 2 * SMALL * w[:-1], slope.sum())

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B",
                     options={"maxiter": 300})  # fmt: skip
    return np.asarray(found.x[:-1])


def worlds(
    model: Model, embedded: Array, scenes: Sequence[Shortcut], repeats: int = REPEATS
) -> list[World]:
    """Planted worlds of all kinds and strengths, unplanted ones, and those learned in training.

    Names take turns. Unplanted: the vectors of words that are no controls, just as they are.
    """
    found = []
    for k, kind in enumerate(KINDS):
        for s, strength in enumerate(STRENGTHS):
            for r in range(repeats):
                name = NAMES[(k + 3 * r + s) % 12]  # not those with a shortcut of their own
                target = plant(model, embedded, scenes, name, kind, strength, (k, s, r))
                found.append(World(target, name, kind, strength))
    found += [World(word, word, "", 0.0) for word in (*NAMES[:12], *_words()[1::2])]
    return found + [World(name, name, kind, np.nan, True) for kind, name in TRAINED.items()]


def _words() -> list[str]:
    """Names of the miniature world that no scene here shows, says or has a shortcut for."""
    return [word for word in WORDS if word not in (*NAMES, WORD, SECOND)]


# ---------------------------------------------------------------- the lab on all of them


def benchmark(
    model: Model, methods: Sequence[str] = (), *, out: Path | str | None = None,
    repeats: int = REPEATS, progress: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Audit all worlds: a row for each world and each way, see `judge`.

    methods: of the maps (none: those of the tables here); out: a folder that keeps what was
    measured, so that a killed run goes on. One audit asks for all worlds at once: they differ in
    the prompt's vector alone, so every photo is covered and cut once for all of them.
    """
    methods = list(methods or METHODS.get(model.name, ("gscorecam", "gradcam", "random_channels")))
    planting = pool(SCENES, 1)
    embedded = embeddings(model, planting, progress)
    asked = worlds(model, embedded, planting, repeats)
    shown = [*pool(MAPPED, 2), *pool(PHOTOS - MAPPED, 3)]
    first = frozenset(range(MAPPED))
    collection = _collection(shown)
    question = Asked(
        [w.prompt for w in asked], _words()[::2], methods, ["mean"], frozenset(), first
    )
    seen, _ = measure(model, collection.items, question, out, progress=progress)
    fresh = scores_of(model, question.all, torch.from_numpy(embedded))
    rows = []
    for i, world in enumerate(tqdm(asked, desc="worlds", disable=not progress)):
        real = borne_out(fresh[:, [i, *seen.controls]], planting)
        rows += list(judge(seen, i, world, shown, collection, real))
    return pd.DataFrame(rows).assign(model=model.name)


def _collection(shown: Sequence[Shortcut]) -> Collection:
    items = [
        Item(f"{i:03d}", scene.image, {cue: _region(mask) for cue, mask in scene.regions.items()})
        for i, scene in enumerate(shown)
    ]
    table = pd.DataFrame([scene.cues for scene in shown], index=[item.name for item in items])
    ground = np.where(table["court"], "court", np.where(table["sea"], "sea", "other"))
    table = table.drop(columns=["court", "sea"]).map(lambda there: "yes" if there else "no")
    return Collection(items, table.assign(ground=ground))


def _region(mask: Array) -> Region:
    return Region(lambda photo: mask, hashlib.sha256(mask.tobytes()).hexdigest())


def borne_out(scores: Array, scenes: Sequence[Shortcut]) -> set[str]:
    """Cues, and grounds, that on these scenes raise the first score more than the others (p < .05).

    scores: (scenes, Q), of a prompt and the control words. "no …": its absence does.
    """
    there = {kind: np.array([scene.cues[kind] for scene in scenes]) for kind in KINDS}
    there["other"] = ~(there["court"] | there["sea"])
    controls, found = np.arange(1, scores.shape[1]), set()
    for cue, has in there.items():
        gaps = scores[has].mean(0) - scores[~has].mean(0)
        for name, effects in ((cue, gaps), (f"no {cue}", -gaps)):
            if tests.among(effects, 0, controls) < LEVEL:
                found.add(name)
    return found


def judge(
    seen: Seen, i: int, world: World, shown: Sequence[Shortcut], collection: Collection,
    real: Set[str],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """What the lab says of one world: named suspects, then those that each method's maps suggest.

    right: the planted cue is found; wrong: how many other suspects are (crops of the thing itself
    count for neither); real: how many of these are borne out on other scenes, see `borne_out`;
    asked: how many were tested. Each way is corrected for its own suspects.
    """
    one = _of(seen, i)
    about = {"kind": world.kind, "strength": world.strength, "name": world.name,
             "trained": world.trained, "controls": len(one.controls),
             **_pull(one, world, shown)}  # fmt: skip
    named = tests.decide(tests.suspects(one, 0, collection, samples=SAMPLES))
    cues = [_cue(row["suspect"], row["kind"]) for row in named.to_dict("records")]
    said = [cue for found, cue in zip(named["found"], cues, strict=True) if found]
    others = [cue for cue in said if cue != world.kind]
    yield about | {
        "way": NAMED, "right": world.kind in said, "wrong": len(others), "asked": len(cues),
        "real": sum(cue in real for cue in others),
    }  # fmt: skip
    for m, method in enumerate(seen.asked.methods):
        found = clusters(one, 0, m)
        rows = tests.decide(tests.of_crops(one, 0, collection, found, SAMPLES))
        sure = [_what(c, shown, world) for c, yes in zip(found, rows["found"], strict=True) if yes]
        strange = [of for of in sure if world.kind not in of and "thing" not in of]
        yield about | {
            "way": method, "right": any(world.kind in of for of in sure), "wrong": len(strange),
            "asked": len(found), "real": sum(bool(of & real) for of in strange),
        }  # fmt: skip


def _pull(one: Seen, world: World, shown: Sequence[Shortcut]) -> dict[str, float]:
    """What the cue adds on the audited scenes without the name's thing.

    pull: to the name's score; others, spread: to those of the control words, mean and deviation.
    """
    if not world.kind:
        return dict.fromkeys(("pull", "others", "spread"), 0.0)
    absent = np.array([scene.name != world.name for scene in shown])
    cue = np.array([scene.cues[world.kind] for scene in shown])[absent]
    scores = one.scores[absent]
    own, *others = scores[cue].mean(0) - scores[~cue].mean(0)
    return {"pull": float(own), "others": float(np.mean(others)),
            "spread": float(np.std(others, ddof=1))}  # fmt: skip


def _of(seen: Seen, i: int) -> Seen:
    """One world's share of what was measured."""
    columns = [i, *seen.controls]
    asked = replace(seen.asked, prompts=[seen.asked.prompts[i]])
    regions = {
        name: replace(r, cover=r.cover[..., columns], control=r.control[..., columns])
        for name, r in seen.regions.items()
    }
    return replace(
        seen, asked=asked, scores=seen.scores[:, columns], cover=seen.cover[..., columns],
        alone=seen.alone[..., columns], maps=seen.maps[:, :, i : i + 1], regions=regions,
    )  # fmt: skip


def _cue(suspect: str, kind: str) -> str:
    """The cue that a suspect means; "" for a cue's absence."""
    if kind == "region":
        return suspect
    column, _, value = suspect.partition(" = ")
    return value if column == "ground" else column if value == "yes" else f"no {column}"


def _what(cluster: Cluster, shown: Sequence[Shortcut], world: World) -> set[str]:
    """What a cluster's crops show: cues, and "thing"."""
    masks = window_masks(SIZE, SIZE)
    scenes = [shown[i] for i in cluster.members]
    crops = [masks[w] for w in cluster.hottest]
    found = set()
    for cue in LOCAL:
        on = [
            (crop & s.regions[cue]).sum() / s.regions[cue].sum() if cue in s.regions else 0.0
            for crop, s in zip(crops, scenes, strict=True)
        ]
        if np.mean(on) >= ON:
            found.add(cue)
    for cue in KINDS:
        if cue not in LOCAL and np.mean([s.cues[cue] for s in scenes]) >= MOSTLY:
            found.add(cue)
    if np.mean([s.name == world.name for s in scenes]) >= 0.5:
        found.add("thing")
    return found
