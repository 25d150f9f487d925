"""An audit as one page: what was asked, what was found, with its controls, and what was not."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from gscam_lib.audits.gallery import Gallery
from gscam_lib.audits.looking import CONTROLS
from gscam_lib.audits.outcome import Outcome
from gscam_lib.figures import as_png, charts, environment, save, style
from gscam_lib.figures.decision import ENOUGH
from gscam_lib.methods import title as method_title
from gscam_lib.paths import whole_file

MANY = 60  # rows of a table in the page; the CSV has all
HIDDEN = {"photo", "fills", "words", "p"}  # what other columns say, too
LABEL = 46  # letters of a label in a chart


def write(audit: Outcome, path: Path, photos: bool, blur_faces: bool, beside: bool) -> Path:
    """Write the page, and what stands beside it. Raises ValueError for a path that is no HTML."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"Got {path}; expected a file name that ends in .html.")
    content = contents(audit, photos, blur_faces)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write_text(_page().render(content), encoding="utf-8")
    if beside:
        path.with_suffix(".md").write_text(markdown(content), encoding="utf-8")
        for name, table in audit.tables().items():
            table.to_csv(path.parent / f"{name}.csv", index=False)
        with style():
            for name, (figure, caption) in _figures(audit).items():
                save(figure, name, caption, folder=path.parent)
                plt.close(figure)
    return path


@cache
def _page() -> jinja2.Template:
    text = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True).from_string(text)  # names are never markup


def contents(audit: Outcome, photos: bool, blur_faces: bool) -> dict[str, Any]:
    """All that the page says, as text and tables."""
    gallery = Gallery(audit.collection, audit.seen, blur_faces) if photos else None
    galleries = _galleries(audit, gallery) if gallery else []
    with style():
        drawn = {name: _drawn(*pair) for name, pair in _figures(audit).items()}
    prompts = ", ".join(f"“{p}”" for p in audit.seen.prompts)
    return {
        "title": f"What does {audit.model} look at, asked for {prompts}?",
        "about": about(audit),
        "notes": audit.notes,
        "found": found(audit),
        "undecided": undecided(audit),
        "parts": _parts(audit, drawn),
        "galleries": galleries,
        "faces": _faces(gallery, blur_faces) if gallery else "",
        "methods": methods(audit),
        "again": again(audit),
        "settings": settings(audit),
        "versions": environment(),
    }


def about(audit: Outcome) -> str:
    """One line: how many photos, groups, which method."""
    seen, collection = audit.seen, audit.collection
    columns = ", ".join(collection.columns) or "no groups"
    regions = f"; regions: {', '.join(seen.regions)}" if seen.regions else ""
    method = method_title(seen.asked.methods[0])
    weights = audit.run["model"]["weights"]
    few = len(seen.mapped) < len(seen.names)
    mapped = f" ({len(seen.mapped)} of them mapped and covered)" if few else ""
    return (
        f"{len(seen.names)} photos{mapped}, {len(seen.prompts)} prompts; groups: "
        f"{columns}{regions}. Model: {audit.model}, weights {weights}. Maps: {method}."
    )


# ---------------------------------------------------------------- sentences


def found(audit: Outcome) -> list[str]:
    """What is decided, as sentences, suspects first."""
    lines = []
    for row in _records(audit.suspects, "found"):
        who = "photos with " if row["kind"] == "group" else ""
        does = "score higher by" if who else "adds"
        lines.append(
            f"“{row['prompt']}”: {who}{row['suspect']} {does} {_span(row, 'effect')}, beyond its "
            f"controls ({row['photos']} photos, corrected p {_p(row['p (Holm)'])})."
        )
    for row in _records(audit.groups, "decided"):
        lines.append(
            f"“{row['prompt']}”, {row['measure']}: {row['column']} = {row['group']} less "
            f"{row['other']} is {_span(row, 'difference')}, d = {_number(row['d'])}, corrected p "
            f"{_p(row['p (Holm)'])}."
        )
    return lines


def undecided(audit: Outcome) -> list[str]:
    """What is not decided, and what the photos could have shown."""
    suspects, groups = audit.suspects, audit.groups
    few = int((suspects["photos"] < ENOUGH).sum())
    lines = [
        f"{int((~suspects['found']).sum())} of {len(suspects)} suspects do not beat their controls"
        + (f"; {few} of them are on fewer than {ENOUGH} photos." if few else ".")
    ]
    if len(groups):
        left = groups[~groups["decided"]]
        best = left["detectable d"].min()
        size = f"; the smallest difference these photos could show is d = {best:.2f}" if len(
            left) and np.isfinite(best) else ""  # fmt: skip
        lines.append(f"{len(left)} of {len(groups)} differences between groups are not decided"
                     f"{size}. Not decided is not the same as equal.")  # fmt: skip
    return lines


def methods(audit: Outcome) -> list[str]:
    """How it was done, and what it cannot show."""
    asked = audit.seen.asked
    fills = ", ".join(asked.fills)
    return [
        "The hottest region is the window with the highest mean heat, of 29 that cover the photo, "
        "each 12 % of its area (squares, lying and standing ones). It is covered "
        f"({fills}; where there are several, their mean counts and all must agree in sign), and "
        "cut out alone. Controls are all windows that share nothing with it, and the coldest one. "
        f"A named region is held against the same shape at up to {CONTROLS} other places.",
        "A suspect is found if what it adds to the score lies above its controls twice: over "
        "photos (95 % interval of 2,000 or more bootstrap samples, sign or group permutation test) "
        f"and over words (the same suspect and {len(asked.controls)} other prompts, Student's t "
        "for a new observation). The larger p counts, corrected for all suspects (Holm).",
        "Crops: the hottest windows, embedded by the same model, in clusters (average linkage, "
        "cosine). A photo has what a cluster shows if its likest window is about as near as the "
        "members are; its own map is not looked at for that. A cluster may well be the thing "
        "itself: look at its crops before you call it a shortcut.",
        "Differences between groups: bootstrap and permutation over photos (within pairs, and over "
        "units, where the table names them), Holm over all rows; d is the difference over the "
        "deviation of all photos. A groups' difference is about these photos: what else differs "
        "between the groups is not held fixed unless photos are paired.",
        "No text or face detector is bundled: text is found by its effect alone, as crops, and "
        "“faces” are what a frontal cascade takes for one. A score says what captions on the web "
        "said beside such pictures, and never what a person is; no number here shows that a model "
        "is fair.",
    ]


def again(audit: Outcome) -> str:
    """Python that runs the audit again, as far as it is written down."""
    asked, seen = audit.run["audit"], audit.seen
    maps = f"maps={len(seen.mapped)}, " if len(seen.mapped) < len(seen.names) else ""
    return (
        "import gscam_lib as gs\n\n"
        f"a = gs.audit({audit.model!r}, PHOTOS, {audit.seen.prompts!r}, GROUPS,\n"
        f"             method={asked['methods'][0]!r}, fills={asked['fills']!r}, "
        f"{maps}out=FOLDER)\n"
        "a.report('report.html')"
    )


def settings(audit: Outcome) -> str:
    """All that rows of the audit share, one thing a line."""
    lines = [f"library: {audit.run['library']}"]
    for part in ("model", "audit"):
        lines += [f"{key}: {json.dumps(value, ensure_ascii=False)}"
                  for key, value in audit.run[part].items()]  # fmt: skip
    return "\n".join(lines)


def _faces(gallery: Gallery, blur: bool) -> str:
    if not blur:
        return "Photos are shown as they are: see that the people in them agree."
    with_faces = sum(share > 0 for share in gallery.faces.values())
    return (
        f"What a frontal cascade takes for a face is blurred, in {with_faces} of "
        f"{len(gallery.faces)} photos shown. It misses turned and small faces: look before you "
        "pass this page on."
    )


def _galleries(audit: Outcome, gallery: Gallery) -> list[tuple[str, list[tuple[str, list[Any]]]]]:
    found = []
    for p, prompt in enumerate(audit.seen.prompts):
        found.append((f"“{prompt}”: highest scores, with maps", gallery.highest(p)))
        rows = [(c.name, gallery.crops(c)) for c in audit.clusters[prompt]]
        if rows:
            found.append((f"“{prompt}”: crops that recur", rows))
    return found


# ---------------------------------------------------------------- tables and charts


def _parts(audit: Outcome, drawn: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    texts = {
        "suspects": ("Suspects", "What each suspect adds to the score beyond its controls; bold: "
                     "found."),
        "evidence": ("Does the map show what counts?", "The hottest window of each photo, covered "
                     "and alone, against equally large windows elsewhere."),
        "groups": ("Between groups", "Differences of means over photos; bold: decided."),
        "skews": ("Who is at the top?", "Skew at k: the log of a group's share among the k highest "
                  "scores over its share of all; 0 is parity."),
        "crops": ("Crops that recur", "Clusters of hottest crops, and the share of each group's "
                  "photos that have one."),
        "stability": ("How stable are the maps?", "Correlation with maps of the photo moved a "
                      "little (want near 1), of random channels and another prompt (want less)."),
        "power": ("What so many photos can show", "Computed before anything was measured: the "
                  "smallest d that is decided in four cases of five, and photos a group, or pairs, "
                  "needed."),
    }  # fmt: skip
    parts = []
    for name, (title, text) in texts.items():
        table = audit.tables()[name]
        if not len(table):
            continue
        chart, alt = drawn.get(name, ("", ""))
        mark = {"suspects": "found", "groups": "decided", "evidence": "decided"}.get(name, "")
        order = table.sort_values(mark, ascending=False, kind="stable") if mark else table
        more = f" The first {MANY} of {len(order)} rows." if len(order) > MANY else ""
        columns = [c for c in order if c not in HIDDEN]
        rows = [
            {"yes": bool(mark and row[mark]), "cells": [_cell(c, row[c]) for c in columns]}
            for row in order.head(MANY).to_dict("records")
        ]
        parts.append({"id": name, "title": title, "text": text + more, "chart": chart, "alt": alt,
                      "columns": columns, "rows": rows})  # fmt: skip
    return parts


def _figures(audit: Outcome) -> dict[str, tuple[Any, str]]:
    """Charts by name, each with its caption."""
    made = {}
    suspects = audit.suspects.dropna(subset=["low"])
    if len(suspects):
        shown = suspects.sort_values("effect", ascending=False).head(24)
        labels = [f"{r.prompt}: {r.suspect}" for r in shown.itertuples()]
        made["suspects"] = _intervals(shown, labels, "effect", "found",
                                      "what it adds to the score, beyond its controls")  # fmt: skip
    scores = audit.groups[audit.groups["measure"] == "score"].dropna(subset=["low"]).head(24)
    if len(scores):
        labels = [f"{r.prompt}: {r.column} = {r.group} − {r.other}" for r in scores.itertuples()]
        made["groups"] = _intervals(scores, labels, "difference", "decided",
                                    "difference of scores between groups")  # fmt: skip
    return made


def _intervals(
    table: pd.DataFrame, labels: Sequence[str], column: str, mark: str, axis: str
) -> tuple[Any, str]:
    short = [t if len(t) <= LABEL else t[: LABEL - 1] + "…" for t in labels]
    unique = [f"{t} ({i})" if short.count(t) > 1 else t for i, t in enumerate(short, 1)]
    figure, ax = plt.subplots(figsize=(8.6, 0.34 * len(table) + 0.9), layout="constrained")
    grey = [name for name, yes in zip(unique, table[mark], strict=True) if not yes]
    charts.intervals(unique, table[column], table["low"], table["high"], grey=grey,
                     images=table["photos"].tolist(), ax=ax)  # fmt: skip
    charts.reference(0, ax=ax)
    ax.set_xlabel(axis)
    sure = int(table[mark].sum())
    return figure, (
        f"{axis.capitalize()}: means and 95 % intervals over photos; {sure} of {len(table)} are "
        f"{mark}, the others grey."
    )


def _drawn(figure: Any, caption: str) -> tuple[str, str]:
    data = base64.b64encode(as_png(figure, caption)).decode()
    plt.close(figure)
    return f"data:image/png;base64,{data}", caption


def _cell(column: str, value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return "–"
    if isinstance(value, float | np.floating):
        return _p(float(value)) if column.startswith("p") else _number(float(value))
    return str(value)


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−") if np.isfinite(value) else "–"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"


def _span(row: Mapping[str, Any], column: str) -> str:
    return f"{_number(row[column])} [{_number(row['low'])}, {_number(row['high'])}]"


def _records(table: pd.DataFrame, mark: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table[table[mark].astype(bool)].to_dict("records")
    return rows


def markdown(content: Mapping[str, Any]) -> str:
    """The same as Markdown, without pictures."""
    lines = [f"# {_plain(content['title'])}", _plain(content["about"])]
    lines += [f"> {_plain(note)}" for note in content["notes"]]
    for title, key in (("What was found", "found"), ("What was not decided", "undecided")):
        said = [f"- {_plain(line)}" for line in content[key]] or ["- Nothing."]
        lines += [f"## {title}", "\n".join(said)]
    for part in content["parts"]:
        frame = pd.DataFrame([r["cells"] for r in part["rows"]], columns=part["columns"])
        table = frame.map(_plain).rename(columns=_plain)
        table = table.to_markdown(index=False, disable_numparse=True)
        lines += [f"## {part['title']}", part["text"], table]
    code = f"```\n{content['again']}\n\n{content['settings']}\n```"
    lines += ["## Methods", *content["methods"], code]
    return "\n\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is: names may hold anything."""
    return "".join(f"\\{c}" if c in "\\`*_|<>[]&#~!" else " " if c == "\n" else c for c in text)
