"""The bias lab: from a folder of photos to evidence."""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from tqdm.auto import tqdm

from gscam_lib.audits import evidence as tests
from gscam_lib.audits import groups as between
from gscam_lib.audits.copies import FILLS, WINDOWS
from gscam_lib.audits.cost import cost
from gscam_lib.audits.crops import clusters
from gscam_lib.audits.files import some
from gscam_lib.audits.looking import BYTES, Asked, look
from gscam_lib.audits.outcome import Outcome
from gscam_lib.audits.photos import Collection, Item, Photos, Table, as_text, collect
from gscam_lib.audits.regions import FACES
from gscam_lib.audits.report import write
from gscam_lib.audits.seen import Seen, read
from gscam_lib.evaluation.jobs import check_count
from gscam_lib.evaluation.rows import Rows
from gscam_lib.evaluation.runner import identity
from gscam_lib.figures.decision import ENOUGH
from gscam_lib.heatmaps import check_method
from gscam_lib.methods import METHODS, read_method
from gscam_lib.methods.method import check_k
from gscam_lib.model.prompts import (
    Prompt,
    Target,
    UnknownPromptWarning,
    as_target,
    check_prompts,
    label,
)
from gscam_lib.paths import MODELS, VERSION, expanded
from gscam_lib.trace import Model, load_model

SCHEMA = pa.schema(
    {
        **dict.fromkeys(("question", "photo", "error"), pa.string()),
        "seconds": pa.float64(),
        **dict.fromkeys(("width", "height"), pa.int64()),
        "regions": pa.list_(pa.string()),
        **dict.fromkeys(BYTES, pa.binary()),
    }
)
"""One row for each photo; what depends on groups is made from rows, so groups may change."""
WORDS, NAMED = 40, 300  # control words; words that clusters are named from, with large models
FEW, MANY = 4999, 50_000  # samples of a test: more where many tests are corrected together


class Audit(Outcome):
    """What an audit found; `report(path)` writes it as one page. Its tables: see `Outcome`."""

    def report(
        self, path: Path | str, *, photos: bool = False, blur_faces: bool = False,
        beside: bool = False,
    ) -> Path:  # fmt: skip
        """Write one HTML file that needs no network; returns its path.

        photos: put crops and maps of photos in it; without, it shows none. blur_faces: first blur
        the faces that scikit-image's cascade finds, which are not all. beside: also write
        report.md, the tables as CSV and the figures as PNG and PDF into the file's folder.
        """
        return write(self, expanded(path), photos, blur_faces, beside)


def audit(
    model: Model | str,
    photos: Photos,
    prompts: Sequence[str] | str,
    groups: Table | None = None,
    *,
    contrasts: Mapping[str, str | Sequence[str]] | Sequence[Sequence[str]] = (),
    regions: Any = None,
    out: Path | str | None = None,
    method: str = "gscorecam",
    fills: Sequence[str] = ("mean", "blur"),
    controls: int | Sequence[Prompt] = WORDS,
    vocabulary: Sequence[str] | None = None,
    maps: int | None = None,
    stability: int = 16,
    retry: bool = False,
    progress: bool | Callable[[int, int], None] = False,
) -> Audit:
    """Look at what a model looks at, on many photos, and test what explains its scores.

    model: a Model or what `load_model` takes; photos: a folder (sub-folders are groups too), a
    list, a table with a column "file" (CSV, Parquet, DataFrame), or a COCO JSON; prompts: what is
    looked for; groups: a table with a column "file" and any number of others; "pair" tells which
    two photos belong together, "unit" which are of one person or place. contrasts: pairs of a
    prompt and what it is held against, as further prompts. regions: parts of photos by name, see
    `regions.read_regions`. out: a folder that keeps what was measured: a later call with the same
    model, prompts and settings goes on where this one ended, also with other groups.

    method: of the maps, with options; fills: what covers a part, some of mean, blur, inpaint;
    controls: how many words of the vocabulary, or which prompts, suspects are held against;
    vocabulary: words for controls and for naming crops (None: the model's own, or a bundled list);
    maps: on how many photos maps and covers are made, evenly spread (None: all); scores are of all;
    stability: photos on which maps are compared with those of moved photos and random channels;
    retry: do photos that failed again; progress: say what it costs and show a bar, or call a
    function with the photos done and all. Prompts that a bundled model does not know (people are
    among them) are left out with an UnknownPromptWarning. Raises ValueError and FileNotFoundError.
    """
    model = load_model(model) if isinstance(model, str) else model
    _check_out(out)
    collection = collect(photos, groups, regions)
    asked, notes = _asked(
        model, prompts, contrasts, method, fills, controls, vocabulary, stability, maps,
        len(collection.items),
    )  # fmt: skip
    seen, run = measure(model, collection.items, asked, out, retry=retry, progress=progress)
    failed = [f"{name}: {error}" for name, error in seen.failed.items()]
    if not seen.names:
        raise ValueError(f"No photo could be measured; the first failed with: {failed[0]}")
    notes += [*collection.notes, *failed, *_empty(collection.items, seen)]
    if len(seen.names) < ENOUGH:
        notes.append(f"{len(seen.names)} photos decide nothing: it takes {ENOUGH} at least.")
    notes += [
        f"Column “{column}” has fewer than two groups, so nothing is compared in it."
        for column in collection.columns
        if next(between.sides(as_text(collection.groups[column])), None) is None
    ]
    words = _words(model, vocabulary)
    if vocabulary is None and not model.bundled:
        words = [str(word) for word in _spread(np.array(words), NAMED)]
    vectors = model.encode_text(words).cpu().numpy() if words else None
    return conclude(model, collection, seen, run, notes, words, vectors)


def conclude(
    model: Model, collection: Collection, seen: Seen, run: Mapping[str, Any], notes: Sequence[str],
    words: Sequence[str], vectors: Any,
) -> Audit:  # fmt: skip
    """All tables of what was measured."""
    found = {
        prompt: clusters(seen, p, words=words, vectors=vectors)
        for p, prompt in enumerate(seen.prompts)
    }
    taken = between.measures(seen)
    columns = [as_text(collection.groups[c]) for c in collection.columns]
    many = sum(1 for values in columns for _ in between.sides(values))
    samples = int(np.clip(60 * max(len(taken) * many, 40), FEW, MANY))
    rows = [
        row
        for p, prompt in enumerate(seen.prompts)
        for row in tests.suspects(seen, p, collection, found[prompt], samples=FEW)
    ]
    return Audit(
        model.name, collection, seen, tests.decide(rows),
        between.compare(taken, collection, seen.rows, samples=samples),
        tests.evidence(seen, collection), between.skews(seen, collection),
        between.power(collection, max(1, len(taken) * many)), found, list(notes), run,
    )  # fmt: skip


# ---------------------------------------------------------------- what is asked


def _asked(
    model: Model, prompts: Any, contrasts: Any, method: str, fills: Sequence[str], controls: Any,
    vocabulary: Sequence[str] | None, stability: int, maps: int | None, count: int,
) -> tuple[Asked, list[str]]:  # fmt: skip
    given = check_prompts([prompts] if isinstance(prompts, str | Target) else list(prompts))
    asked = list(dict.fromkeys([*given, *_contrasts(contrasts)]))
    _check(asked, fills, controls, vocabulary, stability, maps)
    _check_method(model, method)
    notes, known = [], []
    for prompt in asked:
        if model.knows(prompt).known:
            known.append(prompt)
            continue
        notes.append(
            f"{model.name} was never taught “{label(prompt)}”, so it is left out: its scores would "
            "mean nothing. For people and their work, use a CLIP trained on the web, such as "
            "--model RN50x16-quickgelu/openai (its weights are downloaded)."
        )
        warnings.warn(notes[-1], UnknownPromptWarning, stacklevel=3)
    if not known:
        raise ValueError(" ".join(notes))
    if isinstance(controls, Integral):
        words = _control_words(model, known, int(controls), vocabulary)
    else:
        words = check_prompts(controls)
    mapped = _spread(np.arange(count), count if maps is None else maps)
    stable = frozenset(_spread(mapped, stability).tolist())
    return Asked(known, words, [method], list(fills), stable, frozenset(mapped.tolist())), notes


def _check(
    asked: Sequence[Prompt], fills: Any, controls: Any, vocabulary: Any, stability: Any, maps: Any
) -> None:
    """Raise ValueError for what would fail, or mean something else, once photos are measured."""
    if not asked:
        raise ValueError("Got no prompts; expected at least one, such as 'a dog'.")
    called = Counter(label(prompt).strip() for prompt in asked)
    if twice := [name for name, count in called.items() if count > 1]:
        raise ValueError(f"Got several prompts called {some(twice)}; expected one of each name.")
    known = isinstance(fills, list | tuple) and all(fill in FILLS for fill in fills)
    if not known or not len(fills) or len(set(fills)) < len(fills):
        raise ValueError(f"Got fills={fills!r}; expected some of {', '.join(FILLS)}, each once.")
    if isinstance(vocabulary, str) or not isinstance(vocabulary, Iterable | None):
        raise ValueError(f"Got vocabulary={vocabulary!r:.60}; expected a list of words.")
    if isinstance(vocabulary, Sequence):
        check_prompts(vocabulary)
    if isinstance(controls, str) or not isinstance(controls, Iterable):
        check_count("controls", controls, 0, "or a list of prompts")
    check_count("stability", stability, 0, "of photos")
    if maps is not None:
        check_count("maps", maps, 1, "of photos, or None for all")


def _check_method(model: Model, method: str) -> None:
    check_method(method)
    name, options = read_method(method)
    METHODS[name].check_tower(model)
    if options.get("k") is not None:  # how many channels there are, any picture tells
        check_k(options["k"], len(model.trace(Image.new("RGB", (8, 8))).activations))


def _check_out(out: Path | str | None) -> None:
    """Raise ValueError where a file is in the place of the folder, or of one above it."""
    for path in [] if out is None else [p := expanded(out), *p.parents]:
        if path.is_file():
            raise ValueError(f"{path} is a file; expected a folder, for what is measured.")


def _spread(positions: Any, count: int) -> Any:
    """So many of the positions, evenly spread."""
    chosen = np.linspace(0, len(positions) - 1, min(count, len(positions)))
    return positions[np.unique(chosen.round().astype(int))]


def _contrasts(given: Any) -> list[Target]:
    pairs = list(given.items()) if isinstance(given, Mapping) else list(given)
    for pair in pairs:
        if isinstance(pair, str) or len(pair) < 2:
            raise ValueError(
                f"Got the contrast {pair!r}; expected a prompt and what it is held against, such "
                "as ('a dog', 'a cat'), or 'a dog/a cat' on the command line."
            )
    return [
        Target(p, against=rest[0] if isinstance(rest[0], list | tuple) else tuple(rest))
        for p, *rest in pairs
    ]


def _words(model: Model, vocabulary: Sequence[str] | None) -> list[str]:
    """A vocabulary: the reader's, the model's own, or for an open model that of a bundled one."""
    if vocabulary is not None:
        return check_prompts(list(vocabulary))  # type: ignore[return-value]
    if model.vocabulary is not None:
        return [word for word in model.vocabulary if model.knows(word).known]
    file = MODELS / "photo-lite" / "vocabulary.json"
    if not file.is_file():
        return []
    named = json.loads(file.read_text(encoding="utf-8"))
    return list(named["names"] if isinstance(named, dict) else named)


def _control_words(
    model: Model, prompts: Sequence[Prompt], count: int, vocabulary: Sequence[str] | None
) -> list[Prompt]:
    """Words that share none with the prompts, always the same ones."""
    said = {w for p in prompts for s in as_target(p).prompts for w in s.lower().split()}
    words = dict.fromkeys(_words(model, vocabulary))
    free = [word for word in words if not said & set(word.lower().split())]
    chosen = np.random.default_rng(0).permutation(len(free))[:count]
    return [free[i] for i in sorted(chosen)]


# ---------------------------------------------------------------- measured, and kept


def measure(
    model: Model, items: Sequence[Item], asked: Asked, out: Path | str | None, *,
    retry: bool = False, progress: bool | Callable[[int, int], None] = False,
) -> tuple[Seen, dict[str, Any]]:  # fmt: skip
    """Look at every photo that has not been looked at, and read all; a killed run goes on later.

    A photo that fails is a row with its error. Raises ValueError for a folder of another run.
    """
    questions = [_question(item, i in asked.stable, asked.maps(i)) for i, item in enumerate(items)]
    run = manifest(model, asked)
    order = {question: i for i, question in enumerate(questions)}
    if len(order) < len(items):
        raise ValueError("Two of the photos are the same file under one name; give each once.")
    rows = Rows(out, run, pa.table({"question": questions}), SCHEMA)
    done = rows.by_question()
    ready = {
        question
        for question, error in zip(done["question"].to_pylist(), done["error"].to_pylist(),
                                   strict=True)
        if error is None or not retry
    }  # fmt: skip
    left = [i for i, question in enumerate(questions) if question not in ready]
    shown = progress is True
    tell = progress if callable(progress) else None
    if shown and left:
        tqdm.write(cost(model, asked, items, left))
    bar = tqdm(desc=model.name, total=len(items), initial=len(items) - len(left),
               disable=not shown, unit="photo")  # fmt: skip
    with bar, rows:
        for n, i in enumerate(left, 1):
            rows.add(_row(model, items[i], i, questions[i], asked))
            bar.update()
            if tell:
                tell(len(items) - len(left) + n, len(items))
    return read(rows.by_question(), asked, order, [item.name for item in items]), run


def _empty(items: Sequence[Item], seen: Seen) -> list[str]:
    """Notes on regions that have no pixel on photos they were given for; faces may well not."""
    without: dict[str, list[str]] = defaultdict(list)
    has = {n: set(seen.rows[seen.mapped[r.photos]].tolist()) for n, r in seen.regions.items()}
    for i in seen.rows[seen.mapped].tolist():
        for name, region in items[i].regions.items():
            if i not in has.get(name, ()) and region.fingerprint != FACES:
                without[name].append(items[i].name)
    return [
        f"The region “{name}” has no pixel in what the model sees of {len(names)} photos, where it "
        f"is left out: {some(names)}."
        for name, names in without.items()
    ]


def _row(model: Model, item: Item, i: int, question: str, asked: Asked) -> dict[str, Any]:
    row: dict[str, Any] = {"question": question, "photo": item.name, "error": None}
    start = time.perf_counter()
    try:
        return row | look(model, item, i, asked)
    except Exception as error:  # a broken photo, no memory: a row, not the end
        return row | {"error": f"{type(error).__name__}: {error}",
                      "seconds": time.perf_counter() - start}  # fmt: skip


def _question(item: Item, stable: bool, mapped: bool) -> str:
    return blake2b(repr((item.fingerprint, stable, mapped)).encode(), digest_size=16).hexdigest()


def manifest(model: Model, asked: Asked) -> dict[str, Any]:
    """What all rows of an audit share; a folder with another manifest is refused."""
    return {
        "library": VERSION,
        "model": identity(model),
        "audit": {
            "prompts": [_identity(p) for p in asked.prompts],
            "controls": [_identity(p) for p in asked.controls],
            "methods": list(asked.methods),
            "fills": list(asked.fills),
            "windows": WINDOWS,
        },
    }


def _identity(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return " | ".join([*prompt.prompts, *(f"against {a}" for a in prompt.against), prompt.identity])
