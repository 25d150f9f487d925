"""The plan, run: folders of rows by the one runner, and the steps that are no rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import gscam_lib.evaluation.runner as runner
from gscam_lib import scenes
from gscam_lib.datasets import Example, Selection, read_typographic
from gscam_lib.evaluation.folder import claim
from gscam_lib.evaluation.questions import known_examples, search_prompts, with_prompts
from gscam_lib.heatmaps import heatmap
from gscam_lib.model.prompts import fill_all
from gscam_lib.paper.plan import Item, K
from gscam_lib.paper.worlds import IMAGENET, Job, World, jobs
from gscam_lib.paths import DATA, VERSION, whole_file
from gscam_lib.trace import Model
from gscam_lib.typography import TEMPLATE, attack, probabilities

RUNS, STEPS, REASONS = "runs", "steps", "not_run.json"
METHODS_FILE, ITEMS_FILE = "methods.json", "rows.json"
A_CLASS = 200  # photos of train2017 on which a class's prompt is chosen, at most
Say = Callable[[str], None]


def run(
    out: Path,
    world: World,
    items: Sequence[Item],
    *,
    without: Sequence[str] = (),
    fetch: bool = False,
    shard: tuple[int, int] = (0, 1),
    dask: str = "",
    shards: int = 16,
    say: Say = lambda text: None,
) -> dict[str, str]:
    """Compute what rows of the plan ask for, into a folder; returns what could not be run and why.

    A later call goes on where this one ended. without: methods that are left out; fetch: download
    what is missing and free; shard: (i, n), the i-th of n parts of the photos; dask: a scheduler's
    address or "local" runs all shards there. Raises ValueError for a folder of other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    claim(out, {"library": VERSION, "reproduction": world.settings()})
    missing: dict[str, str] = {}
    loaded: dict[str, Model] = {}
    for job in jobs(items, without):
        try:
            _run_job(out, world, job, loaded, fetch, shard, dask, shards, say)
        except (FileNotFoundError, ConnectionError) as error:
            missing |= dict.fromkeys(job.items, _reason(error))
            say(f"{job.name}: not run. {error}")
    for item in items:
        step = {"speed": _speed, "attack": _attack}.get(item.step)
        if step is not None and shard[0] == 0:
            try:
                _once(out / STEPS / f"{item.id}.csv", partial(step, world, loaded), item.id, say)
            except (FileNotFoundError, ConnectionError) as error:
                missing[item.id] = _reason(error)
                say(f"{item.id}: not run. {error}")
        elif item.step == "none":
            missing[item.id] = "; ".join(item.deviations)
    if shard[0] == 0:
        asked = {item.id for item in items}
        _write_json(out / ITEMS_FILE, sorted({*read_json(out / ITEMS_FILE, []), *asked}))
        earlier = read_json(out / REASONS, {})  # of calls that asked for others, too
        _write_json(
            out / REASONS, {k: why for k, why in earlier.items() if k not in asked} | missing
        )
    return missing


def _reason(error: Exception) -> str:
    """Why something was not run, without the paths of this machine: the page travels."""
    return str(error).replace(f"{DATA.parent}/", "")


def read_json(path: Path, absent: Any = None) -> Any:
    """What a file holds, or what stands for one that is not there. Raises FileNotFoundError."""
    if absent is not None and not path.is_file():
        return absent
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, value: Any) -> None:
    with whole_file(path) as file:
        file.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _run_job(
    out: Path, world: World, job: Job, loaded: dict[str, Model], fetch: bool,
    shard: tuple[int, int], dask: str, shards: int, say: Say,
) -> None:  # fmt: skip
    if fetch:
        world.fetch(job.data)
    examples = world.examples(job.data, job.protocol)  # before a network is fetched for nothing
    model = _model(world, job.role, loaded)
    asked = world.asked(model, examples)
    if job.prompts == "searched":
        asked = _searched(out, world, model, asked, fetch, say)
    methods = [world.method(m, job.protocol, model.channels) for m in job.methods]
    slow = world.slow_images if job.data == "coco" or world.slow_images is None else 0
    how: dict[str, Any] = {
        "k": world.ks(model.channels)[K], "measures": job.measures, "preset": job.protocol,
        "limit": world.few if job.few else world.images, "slow_images": slow,
    }  # fmt: skip
    folder = out / RUNS / job.name
    folder.mkdir(parents=True, exist_ok=True)
    _label(folder / METHODS_FILE, dict(zip(job.methods, methods, strict=True)))
    say(f"{job.name}: {len(asked)} pairs, {len(methods)} methods")
    name = world.models[job.role]
    if dask and name.partition("/")[0] != IMAGENET:
        if world.precision != "fp32":
            raise ValueError("--dask loads models in fp32; use --shard for other precisions.")
        runner.evaluate_on_dask(dask, name, asked, methods, folder, shards=shards, **how)
    else:
        runner.evaluate(model, asked, methods, out=folder, shard=shard, progress=world.real, **how)


def _label(path: Path, labels: dict[str, str]) -> None:
    """Keep what the plan's methods are called in a folder's rows, those of earlier calls too."""
    there = read_json(path, {})
    if not labels.items() <= there.items():
        _write_json(path, there | labels)


def _model(world: World, role: str, loaded: dict[str, Model]) -> Model:
    """The network of a role; the last that was used is kept, they are large."""
    key = f"{world.models[role]} {world.layer if role == 'rn' else ''}"
    if key not in loaded:
        if world.name == "real":
            loaded.clear()
        loaded[key] = world.load(role)
    return loaded[key]


def _searched(
    out: Path, world: World, model: Model, asked: Sequence[Example], fetch: bool, say: Say
) -> Sequence[Example]:
    """The pairs with each class's prompt of highest mean logit on other photos, found once."""

    def search() -> pd.DataFrame:
        if fetch:
            world.fetch("train")
        train = known_examples(model, world.examples("train", "clean"))
        most = A_CLASS if world.images is None else world.images
        return search_prompts(
            model, _some_of_each(train, classes, most), {c: fill_all(p) for c, p in classes.items()}
        )

    classes = {e.category: e.prompt for e in asked}
    table = _once(out / STEPS / "prompts.csv", search, "prompts", say)
    found = dict(table[table["chosen"]][["category", "prompt"]].to_numpy())
    return with_prompts(asked, classes | found)


def _some_of_each(examples: Sequence[Example], classes: dict[str, str], most: int) -> Selection:
    """At most so many photos of each class, drawn with seed 0, photo by photo."""
    of: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        if example.category in classes:
            of.setdefault(example.category, []).append(i)
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(of[c])[:most] for c in sorted(of)]
    return Selection(examples, np.sort(np.concatenate(drawn) if drawn else np.zeros(0, int)))


# ---------------------------------------------------------------- steps that are no rows


def _once(path: Path, make: Callable[[], pd.DataFrame], what: str, say: Say) -> pd.DataFrame:
    """A table that is computed once and kept, whole or not at all."""
    if not path.is_file():
        say(f"{what}: …")
        table = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            table.to_csv(file, index=False)
    return pd.read_csv(path, keep_default_na=False)


def _speed(world: World, loaded: dict[str, Model]) -> pd.DataFrame:
    """Seconds and passes of one map, on new traces, so that nothing is shared."""
    from gscam_lib.paper.costs import forward_passes
    from gscam_lib.paper.plan import ITEMS

    model = _model(world, "rn", loaded)
    examples = list(world.asked(model, world.examples("coco", "clean"))[:2])
    if world.slow_images == 0:  # a map of ScoreCAM is too dear here
        return pd.DataFrame(columns=["image_id", "method", "passes", "seconds"])
    rows = []
    for example in examples[: 1 if world.images else 2]:
        for method in next(i for i in ITEMS if i.step == "speed").methods:
            asked = world.method(method, "clean", model.channels)
            k = world.ks(model.channels)[K] if method == "gscorecam" else None
            trace, start = model.trace(example.image), time.perf_counter()
            heatmap(trace, example.prompt, asked, k=k)
            seconds = time.perf_counter() - start
            count = k or forward_passes(asked, model.channels)
            rows.append((example.image_id, method, count + 1, seconds))
    return pd.DataFrame(rows, columns=["image_id", "method", "passes", "seconds"])


def _attack(world: World, loaded: dict[str, Model]) -> pd.DataFrame:
    """What the network says of photos on which a word is written, and of their blank ones."""
    model = _model(world, "rn", loaded)
    if world.name != "bundled":
        root, _ = world.places.get("typographic", (None, None))
        if root is None:
            raise FileNotFoundError(
                "No typographic photos: give a folder with an index.csv (file, object, "
                "written_text) as --root typographic=FOLDER, such as those of Goh et al. 2021."
            )
        photos = read_typographic(root)
        names = dict.fromkeys([*(e.category for e in photos), *(e.word for e in photos if e.word)])
        return attack(model.trace, blank_and_named(photos, world.images), candidates=list(names))
    rows = []
    for pair in scenes.pairs("typographic")[: world.images]:
        for written, file in ((pair.cue, pair.with_cue), ("", pair.without_cue)):
            share = probabilities(model.trace(file), [pair.asked, pair.cue], template=TEMPLATE)
            top = max(share, key=share.__getitem__)
            rows.append({
                "image_id": file.stem, "object": pair.asked, "word": written, "top": top,
                "p_object": share[pair.asked], "p_word": share[pair.cue] if written else 0.0,
                "object_found": top == pair.asked, "word_read": bool(written) and top == pair.cue,
                "word_beats_object": bool(written) and share[pair.cue] > share[pair.asked],
            })  # fmt: skip
    return pd.DataFrame(rows)


def blank_and_named(photos: Sequence[Example], most: int | None) -> list[Example]:
    """All photos; or of the first so many objects the blank one and one with another's name."""
    if most is None:
        return list(photos)
    blank = {e.category: e for e in photos if not e.word}
    named = {e.category: e for e in reversed(photos) if e.word and e.word != e.category}
    both = [name for name in blank if name in named]
    return [e for name in both[:most] for e in (blank[name], named[name])]
