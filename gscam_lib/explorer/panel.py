"""The explorer: which controls it has, and what they ask an engine for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gscam_lib.explorer import controls as c
from gscam_lib.explorer.live import Live
from gscam_lib.explorer.request import About, Request

if TYPE_CHECKING:
    from gscam_lib.explorer.engine import Engine
    from gscam_lib.explorer.server import RemoteEngine

UPLOAD_LIMIT = 10_000_000
"""Bytes of the largest file that may be uploaded."""
QUALITY = [(0.05, "1 pass in 20"), (0.1, "1 in 10"), (0.2, "1 in 5"), (0.3, "3 in 10"),
           (0.5, "half"), (1, "every pass")]  # fmt: skip
COMPARE = [("none", ""), ("method", ""), ("k", "")]


def split_prompts(typed: str) -> tuple[str, ...]:
    """Prompts out of what was typed: separated by semicolons or new lines, each once."""
    parts = [part.strip() for part in typed.replace("\n", ";").split(";")]
    return tuple(dict.fromkeys(part for part in parts if part))


class Explorer(Live):
    """Live heatmaps. `value`: the state; `last_error`: what went wrong last, None if nothing did.

    engine: answers requests, here or in another process; prompts: the first to look for; preset:
    the photo (its name), method and k to begin with, as text; what is not there is said above the
    maps; folders: opens a folder of this machine, None where readers may not;
    upload_limit: bytes.
    """

    def __init__(
        self,
        engine: Engine | RemoteEngine,
        *,
        prompts: str | Sequence[str] | None = None,
        preset: Mapping[str, str] | None = None,
        folders: Callable[[str], dict[str, str]] | None = None,
        upload_limit: int = UPLOAD_LIMIT,
    ) -> None:
        self._folders, self._upload_limit = folders, upload_limit
        self._about = about = engine.about()
        self._typed = prompts is not None
        first, missing = _begin(about, preset or {})
        self.greeting = [f"There is no {what} here." for what in missing]
        known = about.prompts[first["photo"]]
        first["prompts"] = prompts if isinstance(prompts, str) else "; ".join(prompts or known)
        look = {"colors": list(about.colors), "upload": upload_limit, "search": True}
        super().__init__(engine, layout(about, first, folders is not None), look)

    def buttons(self) -> dict[str, Callable[..., None]]:
        """What each button does."""
        return {**super().buttons(), "upload": self._upload}

    def changed(self, names: set[str]) -> None:
        """Answer what has changed: a photo brings its prompts, unless some were typed."""
        if "folder" in names:
            folder = str(self.asked["folder"]).strip()
            if self._folders is not None and folder:
                self._offer(self._folders(folder))
            return
        self._typed = self._typed or "prompts" in names
        if "photo" in names:
            known = self._about.prompts.get(self.asked["photo"])
            brought = {"prompts": "; ".join(known)} if known and not self._typed else {}
            self.asked = {**self.asked, **brought, "channel": None}
        super().changed(names)

    def _upload(self, name: str, content: bytes) -> None:
        if not isinstance(content, bytes | bytearray | memoryview):
            raise ValueError(f"Got {type(content).__name__}; expected the bytes of a photo's file.")
        if len(content) > self._upload_limit:
            raise ValueError(
                f"{name} has {len(content) / 1e6:.1f} MB; at most "
                f"{self._upload_limit / 1e6:g} MB may be uploaded."
            )
        self._offer({self._engine.add(name, content): Path(name).name})

    def _offer(self, photos: dict[str, str]) -> None:
        """Put photos on top of the list, each with a name of its own, and choose the first."""
        groups = [[dict(control) for control in group] for group in self.controls]
        listed = groups[0][0]
        old = [option for option in listed["options"] if option[0] not in photos]
        new = c.numbered(photos, {name for _, name in old})
        listed["options"] = [*map(list, new.items()), *old]
        self.controls = groups
        self.move(photo=next(iter(new)))

    def request(self) -> Request:
        """What the controls ask for. Raises ValueError where they ask for nothing."""
        asked, ranked = dict(self.asked), self._about.ranked
        other = asked["compare"] == "method" and asked["other_method"] in ranked
        hidden = {
            "k": not (asked["method"] in ranked or other),
            "other_method": asked["compare"] != "method",
            "other_k": asked["compare"] != "k" or asked["method"] not in ranked,
            "quality": not {
                m
                for m, shown in (
                    (asked["method"], True),
                    (asked["other_method"], asked["compare"] == "method"),
                )
                if shown
            }
            & set(self._about.scored),
            "truth": asked["photo"] not in self._about.boxed,
        }
        self.off = [name for name, hide in hidden.items() if hide]  # they say nothing now
        if hidden["k"]:
            asked["k"] = None
        asked["prompts"] = split_prompts(str(asked["prompts"]))
        return Request(**{k: v for k, v in asked.items() if k not in ("beside", "folder")})


def _begin(about: About, preset: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """What photo, method and k begin with, and what of the preset is not there."""
    choices: dict[str, dict[str, Any]] = {
        "photo": {name: key for key, name in about.photos.items()},
        "method": {name: name for name in about.methods},
        "k": {str(k): k for k in range(1, about.channels + 1)},
    }
    first = {"photo": next(iter(about.photos)), "method": next(iter(about.methods)),
             "k": about.default_k}  # fmt: skip
    known = {name: value for name, value in preset.items() if value in choices[name]}
    first |= {name: choices[name][value] for name, value in known.items()}
    return first, [f"{name} “{preset[name]}”" for name in preset if name not in known]


def layout(about: About, first: dict[str, Any], folders: bool) -> list[list[c.Control]]:
    """What there is to choose, group by group, as it first stands; the photo comes first."""
    steps = c.ks(about.channels, about.default_k, first["k"])
    methods = list(about.methods.items())
    other = "gradcam" if "gradcam" in about.methods else methods[-1][0]
    quality = [c.slider("quality", QUALITY, 1)] if about.scored else []
    folder = [c.control("text", "folder", "")] if folders else []
    return [
        [
            c.choice("photo", list(about.photos.items()), first["photo"]),
            *folder,
            c.control("file", "upload"),
            c.control("text", "prompts", first["prompts"]),
        ],
        [
            c.choice("method", methods, first["method"]),
            *quality,
            c.slider("k", steps, first["k"]),
            c.choice("compare", COMPARE, "none"),
            c.choice("other_method", methods, other),
            c.slider("other_k", steps, 1),
        ],
        c.drawing("box", "contour", "truth", "beside"),
        [
            c.control("button", "code"),
            c.control("button", "figure"),
            c.control("button", "page"),
        ],
        c.CHANNEL,
    ]
