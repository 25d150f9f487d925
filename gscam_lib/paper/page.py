"""The plan and the outcome as pages: Markdown, made from the plan and from rows alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from gscam_lib.datasets.downloads import SOURCES
from gscam_lib.evaluation.published import TAGS
from gscam_lib.figures.decision import ENOUGH
from gscam_lib.methods import title
from gscam_lib.paper import costs
from gscam_lib.paper.plan import CITE, ITEMS, SETTINGS, Expected, Item, K, expected
from gscam_lib.paper.values import Outcome, published_for, verdict
from gscam_lib.paper.worlds import PROTOCOLS, World

MADE_OF = "## What the numbers are of"
SHOWN = {"paper": "released code's protocol", "clean": "clean protocol"}


def _table(lines: Sequence[dict[str, Any]]) -> str:
    frame = pd.DataFrame(lines).fillna("–").astype(str).replace(r"\|", "∣", regex=True)
    return str(frame.to_markdown(index=False, disable_numparse=True))


# ---------------------------------------------------------------- the plan


def plan_page(world: World, items: Sequence[Item] = ITEMS, without: Sequence[str] = ()) -> str:
    """What would be run: rows, costs, settings, data, expected values, deviations.

    without: methods that are left out.
    """
    everything = costs.total(items, without)
    whole = ", ".join(f"{hours:,.0f} h in {p}" for p, hours in costs.hours(everything).items())
    parts = [
        "# The plan to reproduce the paper",
        f"{CITE}. One row for each table, figure and number; the paper's own numbers of tables and "
        "figures are not among what may be quoted, so rows have ours. Every row is run by the "
        "released code's protocol and by the clean one; where a value was never published, only "
        "ours will stand.",
        f"All rows together: {everything:,} passes through the image tower, on one {costs.CARD} "
        f"{whole}, by the copies a second that figures/gpu.md measured on RN50x16 with random "
        "weights. Rows share what they compute: a row's passes are those of the row alone. RISE's "
        "8,000 masks are most of it; `--without rise` leaves them out.",
        "## Rows",
        _table([_plan_row(item, world, without) for item in items]),
        "## Settings: the released code, the paper's text, ours",
        _table([
            dict(zip(("what", "released code [C]", "the paper's text", "clean"), s, strict=True))
            for s in SETTINGS
        ]),
        "## Expected values",
        _table([_expected_row(i, e) for i in items for e in expected(i)]
               or [{"row": "none of these rows has a published value"}]),
        "; ".join(f"[{tag}] {meaning}" for tag, meaning in TAGS.items()) + ". Reproduced is what "
        "comes within the tolerance on all photos with the paper's weights.",
        "## Networks", _table([_network_row(role, world) for role in world.models]),
        "## Data", _table([_data_row(role, world) for role in world.sets]),
        "## Deviations and what the paper's text has otherwise", _deviations(items),
        "## On more than one machine",
        "`gscam reproduce --out DIR --shard 3/16` does the fourth of sixteen parts, from an array "
        "job of SLURM `--shard $SLURM_ARRAY_TASK_ID/16`; `--dask tcp://…` runs all parts there. "
        "When all are done, the same command without --shard writes the page. A run that was "
        "stopped goes on where it ended.",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _plan_row(item: Item, world: World, without: Sequence[str]) -> dict[str, Any]:
    passes = costs.passes_of(item, without)
    hours = costs.hours(passes)
    roles = [*(item.networks or (("rn",) if item.step != "none" else ()))]
    roles += ["vit"] if item.vit else []
    methods = [m for m in dict.fromkeys([*item.methods, *item.vit])
               if m.partition(":")[0] not in without]  # fmt: skip
    data = [world.sets[item.data]] if item.data in world.sets else ["–"]
    data += [f"{world.sets['train']} (prompts)"] if item.prompts == "searched" else []
    flag = "--bundled " if world.name == "bundled" else ""
    return {
        "row": f"{item.number} {item.id}", "": item.kind, "what": item.what,
        "networks": ", ".join(world.models[r] for r in roles) or "–", "data": ", ".join(data),
        "methods": ", ".join(methods) or "–",
        "k": _ks(item), "measures": ", ".join(item.statistics) or "–",
        "expected": _expected_cell(item),
        "download": " + ".join(_gigabytes(item, world)) or "–",
        "passes": f"{passes:,}",
        f"h on an {costs.CARD}": " / ".join(f"{h:.2g} {p}" for p, h in hours.items()),
        "command": f"`gscam reproduce {flag}--only {item.id} --out DIR`"
        if item.step != "none" else "not run",
    }  # fmt: skip


def _ks(item: Item) -> str:
    """The k that a row asks for, the paper's own numbers."""
    asked = [m.rpartition(":k=")[2] if ":k=" in m else str(K) for m in item.methods
             if m.startswith("gscorecam")]  # fmt: skip
    return ", ".join(dict.fromkeys([*asked, *(["all"] if "scorecam" in item.methods else [])])) or (
        "–"
    )


def _expected_cell(item: Item) -> str:
    found = expected(item)
    if len(found) == 1:
        return f"{found[0].statistic} {found[0].value:.4g} ± {found[0].tolerance:g}"
    return f"{len(found)} values, below" if found else "not available"


def _gigabytes(item: Item, world: World) -> list[str]:
    """Downloads of a row, on a world with a network."""
    sets = [world.sets[item.data]] if item.data in world.sets else []
    sets += [world.sets["train"]] if item.prompts == "searched" else []
    sizes = [(name, costs.gigabytes(name)) for name in sets]
    return [f"{size:.1f} GB ({disk:.1f} on disk)" for _, (size, disk) in sizes if size]


def _expected_row(item: Item, found: Expected) -> dict[str, Any]:
    return {
        "row": item.id, "statistic": found.statistic, "method": title(found.method),
        "group": found.group, "published": f"{found.value:.4g} [{found.tag}]",
        "tolerance": f"± {found.tolerance:g}",
    }  # fmt: skip


def _network_row(role: str, world: World) -> dict[str, Any]:
    size = f"{costs.WEIGHTS[role] / 1e6:.0f} MB, about" if world.name == "real" else "bundled"
    check = "open_clip's own, and weights_sha in run.json" if world.name == "real" else "run.json"
    licence = {"imagenet": "BSD-3 (torchvision)"}.get(role, "MIT (OpenAI)")
    return {"role": role, "name": world.models[role], "download": size, "checksum": check,
            "licence": licence if world.name == "real" else "data/README.md"}  # fmt: skip


def _data_row(role: str, world: World) -> dict[str, Any]:
    name = world.sets[role]
    if name not in SOURCES:
        own = role == "typographic" and world.name == "real"
        how = "by hand: photos of Goh et al. 2021, CC BY 4.0, --root typographic=FOLDER"
        return {"role": role, "data": name, "download": how if own else "bundled",
                "licence": "CC BY 4.0" if own else "data/README.md"}  # fmt: skip
    source = SOURCES[name]
    size, disk = costs.gigabytes(name)
    sums = [f"{a.name} {a.sha256[:12] if a.sha256 else 'kept at first sight'}…"
            for a in source.archives]  # fmt: skip
    return {
        "role": role, "data": name, "photos": costs.PHOTOS.get(role, "–"),
        "download": f"{size:.1f} GB" if source.archives else source.by_hand.format(folder="DIR"),
        "disk": f"{disk:.1f} GB" if source.archives else "–",
        "licence": source.terms, "SHA-256": ", ".join(sums) or "–",
    }  # fmt: skip


def _deviations(items: Iterable[Item]) -> str:
    lines = []
    for item in items:
        notes = [f"text: {item.text}"] if item.text else []
        lines += [f"- **{item.id}**: {note}." for note in (*notes, *item.deviations)]
    return "\n".join(lines)


# ---------------------------------------------------------------- what came out


def result_page(outcome: Outcome, numbers: pd.DataFrame, said: pd.DataFrame) -> str:
    """Published, the released code's protocol, the clean one, difference, verdict, row by row.

    numbers, said: `values` and `claims` of the outcome.
    """
    parts = ["# The paper, run again", _head(outcome), _count(outcome, numbers)]
    if len(said):
        parts += ["## What it claims [P]", _claims_table(said),
                  "Differences are of the best IoU, paired over questions, intervals over images; "
                  "“holds” needs an interval without 0 and p < .05 after correction for all "
                  "claims; “localizes like” one within ± 0.01; five photos at least."]  # fmt: skip
    for item in ITEMS:
        mine = numbers[numbers["item"] == item.id]
        reason = outcome.missing.get(item.id)
        if mine.empty and reason is None and item.id not in outcome.items:
            continue
        parts.append(f"## {item.number} {item.id}: {item.what}")
        if len(mine):
            parts += [_photos(item, mine), _table(_result_rows(outcome, item, mine))]
        if reason is not None:
            parts.append(f"Not run: {reason.rstrip('.')}.")
        elif mine.empty:
            parts.append("Not run: nothing was left to ask (`--without`, `--slow-images`).")
        elif item.deviations or item.text:
            parts.append(_deviations([item]))
    parts.append("; ".join(f"[{tag}] {meaning}" for tag, meaning in TAGS.items()) + ".")
    if outcome.rows:
        parts += [MADE_OF, _made_of(outcome)]
    return "\n\n".join(parts) + "\n"


def _head(outcome: Outcome) -> str:
    settings = outcome.settings
    used = ", ".join(dict.fromkeys(settings["models"].values()))
    text = f"Networks: {used}. Data: {', '.join(dict.fromkeys(settings['sets'].values()))}. "
    if not outcome.comparable:
        random = any(m.endswith("/random") for m in settings["models"].values())
        kind = "random: every number is of chance" if random else "not the paper's"
        text += (f"**The weights are {kind}.** What is published stands beside them to show the "
                 "form of the page and is not compared.")  # fmt: skip
    if not outcome.whole:
        text += f" Part of the work: photos of each set, at most: {settings['images'] or 'all'}."
    if settings["k"] != K:
        text += (f" k = {settings['k']} stands in the place of {K}, the other k in proportion: a "
                 "row that says k = 900 had three times it.")  # fmt: skip
    if settings["slow_images"] is not None:
        text += (" Photos for methods with a pass for each channel or mask (ScoreCAM, RISE): "
                 f"{settings['slow_images']}, of COCO alone.")  # fmt: skip
    for name, what in (("masks", "RISE's masks"), ("groups", "Group-CAM's groups")):
        if settings[name] is not None:
            text += f" {what}: {settings[name]}."
    if settings.get("own"):
        text += f" Own copies, which may be a part, of: {', '.join(settings['own'])}."
    if settings["layer"]:
        text += f" The ResNet's maps are of {settings['layer']}, for speed."
    return text + " Intervals are of 95 %, over images; none of fewer than five."


def _photos(item: Item, mine: pd.DataFrame) -> str:
    """How much was asked of a row, what was left out, and the command for the paper's networks."""
    keys = ["statistic", "model", "method", "protocol"]
    text = f"Pairs: {int(mine.groupby(keys, dropna=False)['pairs'].sum().max())}"
    if set(mine["group"]) == {"all"}:
        text += f", images: {int(mine['images'].max())}"
    errors = int(mine["errors"].max())
    text += f", at most{f'; {errors} rows with an error count as misses' if errors else ''}."
    absent = [title(m) for m in (*item.methods, *item.vit) if m not in set(mine["method"])]
    if absent and item.step == "rows":
        text += f" Left out: {', '.join(absent)} (`--without`, `--slow-images`)."
    return f"{text} On the paper's networks: `gscam reproduce --only {item.id} --out DIR`."


def _count(outcome: Outcome, numbers: pd.DataFrame) -> str:
    """How many of the published values were reproduced."""
    ours = numbers[numbers["protocol"] == PROTOCOLS[0]].to_dict("records")
    lines = {(i.id, e): None for i in ITEMS for e in expected(i)}
    lines |= {(i.id, e): line for i in ITEMS for line in ours
              if line["item"] == i.id and (e := published_for(i, line)) is not None}  # fmt: skip
    found = [verdict(outcome, line, e) for (_, e), line in lines.items()]
    counts = ", ".join(f"{found.count(text)} {text}" for text in dict.fromkeys(found))
    return f"**Of {len(found)} published values: {counts}.**"


def _made_of(outcome: Outcome) -> str:
    """Folders of rows: network, weights, data and time, so that it can be said what a number is of.

    The hash of data is of the fingerprints of photos, truths and prompts that were asked.
    """
    lines = []
    for name, rows in outcome.rows.items():
        network = outcome.networks.get(name, {})
        asked = "".join(sorted(set(rows["question"].astype(str))))
        lines.append({
            "rows": name, "network": network.get("name", "–"),
            "hash of weights": network.get("weights", "–"),
            "hash of data": hashlib.sha256(asked.encode()).hexdigest()[:16],
            "images": rows["image_id"].nunique(), "lines": len(rows),
            "seconds of heatmaps": f"{rows['seconds'].sum():.1f}",
        })  # fmt: skip
    return _table(lines)


def _result_rows(outcome: Outcome, item: Item, mine: pd.DataFrame) -> list[dict[str, Any]]:
    lines = []
    keys = ["statistic", "model", "method", "group"]
    for key, part in mine.groupby(keys, sort=False, observed=True):
        by = {row["protocol"]: row for _, row in part.iterrows()}
        about = dict(zip(keys, key, strict=True))
        found = published_for(item, about)
        ours = by.get("paper")
        line = {
            "statistic": about["statistic"], "method": title(about["method"]),
            "weights": about["model"], "group": about["group"],
            "published": "not available" if found is None else f"{found.value:.4g} [{found.tag}]",
            **{SHOWN[p]: _number(by.get(p)) for p in PROTOCOLS},
            "difference": _difference(outcome, ours, found),
            "reproduced": verdict(outcome, ours, found),
        }  # fmt: skip
        lines.append(line)
    if all(line["group"] == "all" for line in lines):
        lines = [{k: v for k, v in line.items() if k != "group"} for line in lines]
    return lines


def _number(row: Any) -> str:
    if row is None or pd.isna(row["value"]):
        return "–"
    form = ".4f" if abs(row["value"]) < 10 else ".1f"
    if pd.isna(row["low"]) or row["images"] < ENOUGH:  # of so few there is no interval
        return f"{row['value']:{form}}"
    return f"{row['value']:{form}} [{row['low']:{form}}, {row['high']:{form}}]"


def _difference(outcome: Outcome, row: Any, found: Expected | None) -> str:
    """Ours by the released code's protocol, less what is published, with ours' interval."""
    if row is None or found is None or not outcome.comparable:
        return "–"
    apart = (float(row[c]) - found.value for c in ("value", "low", "high"))
    return "{:+.4f} [{:+.4f}, {:+.4f}]".format(*apart)


def _claims_table(said: pd.DataFrame) -> str:
    keys = ["claim", "data", "first", "second"]
    lines = []
    for key, part in said.groupby(keys, sort=False):
        claim, data, first, second = key
        line = {"claim": claim, "data": data, "difference": f"{title(first)} − {title(second)}"}
        for _, row in part.iterrows():
            few = row["images"] < ENOUGH
            span = "" if few else f" [{row['low']:+.4f}, {row['high']:+.4f}]"
            line[SHOWN[row["protocol"]]] = (
                f"{row['difference']:+.4f}{span}, images {int(row['images'])}: {row['says']}"
            )
        lines.append(line)
    return _table(lines)
