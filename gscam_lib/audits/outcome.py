"""What an audit found, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from gscam_lib.audits import groups as between
from gscam_lib.audits.crops import Cluster
from gscam_lib.audits.photos import Collection, as_text
from gscam_lib.audits.seen import Seen


@dataclass(frozen=True)
class Outcome:
    """What an audit found.

    suspects: prompt, suspect, kind (region, crops or group), photos, effect (what it adds to the
    prompt's score beyond its controls), low, high, p photos, p words, p (the larger), p (Holm),
    found, fills, words. groups: prompt, measure, column, group, other, photos, other photos,
    difference, low, high, d, p, p (Holm), decided, detectable d, paired. evidence: what covering
    and keeping the hottest window does. crops, skews, power: tables beside them. notes: sentences
    on what was left out or could not be done.
    """

    model: str
    collection: Collection
    seen: Seen
    suspects: pd.DataFrame
    groups: pd.DataFrame
    evidence: pd.DataFrame
    skews: pd.DataFrame
    power: pd.DataFrame
    clusters: Mapping[str, Sequence[Cluster]] = field(repr=False)
    notes: Sequence[str] = ()
    run: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def crops(self) -> pd.DataFrame:
        """Clusters: prompt, suspect, crops (members), photos that have it, share in each group."""
        rows = []
        for prompt, found in self.clusters.items():
            for cluster in found:
                row = {"prompt": prompt, "suspect": cluster.name, "crops": len(cluster.members),
                       "photos": len(cluster.photos)}  # fmt: skip
                rows.append(row | self._shares(cluster))
        return pd.DataFrame(rows)

    def _shares(self, cluster: Cluster) -> dict[str, float]:
        has = np.isin(np.arange(len(self.seen.mapped)), cluster.photos)
        table = self.collection.groups.iloc[self.seen.rows[self.seen.mapped]]
        found = {}
        for column in self.collection.columns:
            values = as_text(table[column])
            for value in sorted(set(values) - {""}):
                found[f"{column} = {value}"] = float(has[values == value].mean())
        return found

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One row for each photo and prompt: its groups, and every measure taken of it."""
        taken = between.measures(self.seen)
        table = self.collection.groups.iloc[self.seen.rows].reset_index(drop=True)
        parts = []
        for prompt in self.seen.prompts:
            mine = {measure: v for (p, measure), v in taken.items() if p == prompt}
            parts.append(pd.DataFrame({"photo": self.seen.names, "prompt": prompt}).join(table)
                         .assign(**mine))  # fmt: skip
        return pd.concat(parts, ignore_index=True)

    @property
    def stability(self) -> pd.DataFrame:
        """Likeness of a prompt's maps to those of a moved photo, random channels, another prompt.

        Pearson's correlation, means over the photos on which it was measured.
        """
        columns = ["photo moved", "random channels", "another prompt"]
        values = self.seen.stable.mean(0) if len(self.seen.stable) else np.full(
            (len(self.seen.prompts), 3), np.nan)  # fmt: skip
        return pd.DataFrame(values, columns=columns).assign(
            prompt=self.seen.prompts, photos=len(self.seen.stable)
        )[["prompt", "photos", *columns]]

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables by name, as `report` writes them to disk."""
        names = ("suspects", "groups", "evidence", "crops", "skews", "power", "stability", "rows")
        return {name: getattr(self, name) for name in names}
