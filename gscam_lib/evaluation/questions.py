"""What is asked: the examples a model knows, their prompts, and a table of all questions.

A question is an example as a row: who it is about, what is asked, and a fingerprint of its photo
and truth, so that rows of another photo or another truth are never taken for its answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import open_clip
import pandas as pd
import pyarrow as pa

from gscam_lib import datasets, scenes
from gscam_lib.datasets import Example, Selection, downloads
from gscam_lib.model.network import Network
from gscam_lib.model.photo import load_photo
from gscam_lib.model.prompts import best_prompt, fill, fill_all
from gscam_lib.paths import expanded

CHUNK = 20_000  # examples made into columns at once
SCHEMA = pa.schema(
    [("position", pa.int64()), ("question", pa.string())]
    + [(name, pa.string()) for name in ("source", "image_id", "category", "prompt", "photo")]
    + [("area", pa.float64())]
)


def tabulate(dataset: Iterable[Example]) -> pa.Table:
    """The questions of a data set as a table, in its order.

    Columns: position, question (the fingerprint), source, image_id, category, prompt, photo,
    area (of the largest true box, in pixels), image (a number for each photo, in the order in which
    they first come), classes (how many the image has in the whole data set, asked or not). Raises
    ValueError where text cannot be stored, and for a question that comes twice.
    """
    questions = _columns(dataset)
    whole = dataset
    while isinstance(whole, Selection):
        whole = whole.dataset
    everything = questions if whole is dataset else _columns(whole)
    with duckdb.connect() as db:
        db.register("questions", questions)
        db.register("everything", everything)
        twice = db.sql(
            "SELECT list(position), any_value(image_id), any_value(prompt) FROM questions "
            "GROUP BY question HAVING count(*) > 1 LIMIT 1"
        ).fetchall()
        if twice:
            places, image, prompt = twice[0]
            raise ValueError(
                f"The examples {', '.join(map(str, sorted(places)[:5]))} ask the same of one photo "
                f"({prompt!r} of image {image}, with the same truth); expected each question once."
            )
        return db.sql(
            "WITH counted AS (SELECT source, image_id, count(DISTINCT category) AS classes "
            "FROM everything GROUP BY ALL), "
            "first AS (SELECT *, min(position) OVER (PARTITION BY source, image_id, photo) AS begin"
            " FROM questions) "
            "SELECT * EXCLUDE (begin), dense_rank() OVER (ORDER BY begin) - 1 AS image "
            "FROM first JOIN counted USING (source, image_id) ORDER BY position"
        ).to_arrow_table()


def _columns(dataset: Iterable[Example]) -> pa.Table:
    """The examples as columns, a chunk at a time: a million of them are never held at once."""
    batches, examples, start = [], _with_photos(dataset), 0
    while chunk := list(islice(examples, CHUNK)):
        rows = [_row(start + i, *pair) for i, pair in enumerate(chunk)]
        columns = zip(*rows, strict=True)
        arrays = [_array(c, f) for c, f in zip(columns, SCHEMA, strict=True)]
        batches.append(pa.record_batch(arrays, schema=SCHEMA))
        start += len(chunk)
    return pa.Table.from_batches(batches, SCHEMA)


def _with_photos(dataset: Iterable[Example]) -> Iterator[tuple[Example, Any]]:
    """Examples with what tells their photo: read once for questions that follow each other."""
    last: Any = None
    photo: Any = None
    for example in dataset:
        file = (example.image, example.file) if isinstance(example.image, str | Path) else None
        if file is None or file != last:
            last, photo = file, example.photo
        yield example, photo


def _row(position: int, example: Example, photo: Any) -> tuple[Any, ...]:
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in example.boxes]
    about = (example.source, example.image_id, example.category, example.prompt)
    name = photo.hex() if isinstance(photo, bytes) else "{}, {} bytes, {}".format(*photo)
    question = example.fingerprint(photo).hex()
    return (position, question, *map(str, about), name, max(areas, default=0.0))


def _array(values: Sequence[Any], field: pa.Field) -> pa.Array:
    try:
        return pa.array(values, field.type)
    except (UnicodeEncodeError, pa.ArrowInvalid) as error:
        bad = next((v for v in values if isinstance(v, str) and not _is_text(v)), values)
        raise ValueError(
            f"The {field.name} {bad!r:.80} cannot be stored as text ({error}); expected Unicode "
            "without lone surrogates. Rename the file or correct the list."
        ) from error


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---------------------------------------------------------------- which examples, which prompts


def open_dataset(
    name: str,
    root: Path | None = None,
    annotations: Path | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> Sequence[Example]:
    """A bundled set, one that was downloaded, or a form of data set with its places.

    name: of `scenes.SETS`, of `downloads.SOURCES`, or one of `datasets.FORMS` with root (and
    annotations); class_names: of ImageNet, None for open_clip's. Raises ValueError and
    FileNotFoundError.
    """
    if name in scenes.SETS and root is None:
        return scenes.load(name)
    names = class_names
    form = name
    if name in downloads.SOURCES:
        if root is None and annotations is None:
            form, root, annotations = downloads.find(name, downloads.FOLDER)
        else:
            form = downloads.SOURCES[name].form
        if name.startswith("imagenet") and names is None:
            names = open_clip.IMAGENET_CLASSNAMES
    if root is None or (annotations is None and form != "typographic"):
        raise ValueError(
            f"The data set '{name}' needs --root and --annotations. Those that need neither: "
            f"bundled {', '.join(scenes.SETS)}; after `gscam download`, "
            f"{', '.join(downloads.SOURCES)}."
        )
    where = None if annotations is None else expanded(annotations)
    return datasets.read(form, expanded(root), where, class_names=names)


def asked_by(
    model: Network,
    dataset: Sequence[Example],
    *,
    template: str = "{}",
    search: bool | Sequence[Example] = False,
) -> Sequence[Example]:
    """The examples whose class the model knows, with their prompts in the form that is wanted.

    template: see `prompts.fill`; search: take each class's prompt of highest mean logit instead, on
    these photos, or on those of the examples given here (the release searched on COCO's train2017);
    a class that they do not have keeps its bare name. Raises ValueError.
    """
    known = known_examples(model, dataset)
    bare = {e.category: e.prompt for e in known}
    if search is not False:
        on = known if search is True else [e for e in search if e.category in bare]
        table = search_prompts(model, on, {c: fill_all(p) for c, p in bare.items()})
        found = dict(table[table["chosen"]][["category", "prompt"]].to_numpy())
        return with_prompts(known, bare | found)
    prompts = {category: fill(template, prompt) for category, prompt in bare.items()}
    return known if template == "{}" else known_examples(model, with_prompts(known, prompts))


def known_examples(model: Network, dataset: Iterable[Example]) -> Sequence[Example]:
    """The examples whose prompt a model with a closed vocabulary knows; all for other models."""
    examples = dataset if isinstance(dataset, Sequence) else list(dataset)
    if model.vocabulary is None:
        return examples
    known: dict[str, bool] = {}
    kept = []
    for i, example in enumerate(examples):
        if example.prompt not in known:
            known[example.prompt] = bool(example.prompt.strip()) and (
                model.knows(example.prompt).known
            )
        if known[example.prompt]:
            kept.append(i)
    return Selection(examples, np.asarray(kept, np.int64))


def with_prompts(dataset: Iterable[Example], prompts: Mapping[str, str]) -> Sequence[Example]:
    """The examples with other prompts: category -> prompt. Raises ValueError if one is missing."""
    examples = dataset if isinstance(dataset, Sequence) else list(dataset)
    missing = sorted({e.category for e in examples} - set(prompts))
    if missing:
        raise ValueError(f"Got no prompt for the categories {', '.join(missing)}.")
    return Selection(examples, range(len(examples)), [prompts[e.category] for e in examples])


def search_prompts(
    model: Network, dataset: Iterable[Example], candidates: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Mean logit of each candidate prompt over the images of its class; the highest is chosen.

    candidates: category -> prompts, such as those of `prompts.fill_all`. Columns: category, prompt,
    logit, images (those that can be read), chosen. The paper searched on COCO train2017: search on
    other photos than those that are evaluated. Chen et al., gScoreCAM, ACCV 2022. Raises ValueError
    for a category without candidates.
    """
    logits: dict[str, list[np.ndarray[Any, Any]]] = {}
    seen: tuple[Any, Any] = (None, None)
    for example in dataset:
        texts = candidates.get(example.category)
        if not texts:
            raise ValueError(f"Got no candidate prompts for the category {example.category!r}.")
        found = logits.setdefault(example.category, [])
        if seen[0] is None or (seen[0] is not example.image and seen[0] != example.image):
            try:
                pixels = model.preprocess(load_photo(example.image))[None]
                seen = example.image, model.encode_pixels(pixels).detach()
            except (OSError, ValueError):  # counted where the photo is evaluated
                seen = example.image, None
        if seen[1] is not None:
            found.append(
                (model.logit_scale * seen[1] @ model.encode_text(texts).T)[0].cpu().numpy()
            )
    rows = []
    for category, per_image in logits.items():
        blank = [np.full(len(candidates[category]), np.nan)]  # where no photo can be read
        means = np.mean(per_image or blank, axis=0)
        chosen = best_prompt(candidates[category], per_image or blank)
        for prompt, mean in zip(candidates[category], means, strict=True):
            rows.append((category, prompt, float(mean), len(per_image), prompt == chosen))
    return pd.DataFrame(rows, columns=["category", "prompt", "logit", "images", "chosen"])
