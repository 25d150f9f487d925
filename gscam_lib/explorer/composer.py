"""The attack composer: an object, a word on a note, and what a model makes of both."""

from __future__ import annotations

import html
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets

from gscam_lib.explorer.page import make_page
from gscam_lib.explorer.panel import NARROW, STYLE, group, two_columns
from gscam_lib.explorer.photos import Photo
from gscam_lib.explorer.pictures import draw, png
from gscam_lib.explorer.request import Cancelled, Request, Stop
from gscam_lib.explorer.worker import Worker
from gscam_lib.heatmaps import heatmap
from gscam_lib.scenes import BACKGROUNDS, NAMES, Look, compose
from gscam_lib.trace import Trace
from gscam_lib.trace.model import Model
from gscam_lib.typography import TEMPLATE, probabilities, put_label

FIRST_K = 8  # channels of the map that comes at once
STEP = 8
PICTURE = 300  # of a picture on the screen
SIZE = 224  # pixels of a scene


@dataclass(frozen=True)
class Attack:
    """An object on a background, and a word on a note; the word may be empty.

    width, at: the note's size and centre, as shares of the picture.
    """

    thing: str
    word: str
    width: float = 0.5
    at: tuple[float, float] = (0.5, 0.6)
    background: str = "table"
    scale: float = 0.6
    seed: int = 0


@dataclass(frozen=True)
class Verdict:
    """Probabilities of the candidates, and the photo and two maps as PNG bytes."""

    probabilities: dict[str, float]
    k: int
    photo: bytes = field(repr=False)
    maps: dict[str, bytes] = field(repr=False)


class ComposerEngine:
    """Judges attacks with one model. Safe to call from several threads."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.lock = threading.RLock()
        self._last: tuple[Attack, Trace] | None = None

    def judge(self, attack: Attack, others: Sequence[str], k: int) -> Verdict:
        """What the model says: the probabilities, and gScoreCAM of both names with k channels.

        others: further names to choose from. Raises ValueError for names that are not drawn.
        """
        with self.lock:
            trace = self._trace(attack)
            word = attack.word.strip()
            names = list(dict.fromkeys(n for n in (attack.thing, word, *others) if n))
            shares = probabilities(trace, names, template=TEMPLATE)
            plain = trace.photo.resize((PICTURE, PICTURE))
            maps = {}
            for name in dict.fromkeys(n for n in (attack.thing, word) if n):
                heat = heatmap(trace, TEMPLATE.format(name), k=min(k, len(trace.activations)))
                maps[name] = png(draw(trace.image, heat.values, side=PICTURE))
            return Verdict(shares, k, png(plain), maps)

    def page(self, attack: Attack) -> str:
        """A self-contained page of this attack, in which k, threshold and both names move."""
        names = dict.fromkeys(n for n in (attack.thing, attack.word.strip()) if n)
        with self.lock:
            trace = self._trace(attack)
            request = Request("attack", tuple(TEMPLATE.format(name) for name in names))
            return make_page(trace, request, Photo(" with a note: ".join(names), None, ""))

    def _trace(self, attack: Attack) -> Trace:
        if self._last is None or self._last[0] != attack:
            look = Look(scale=(attack.scale, attack.scale), max_angle=8)
            scene = compose(
                [attack.thing], background=attack.background, seed=attack.seed, size=SIZE, look=look
            )
            photo = scene.image
            if attack.word.strip():
                photo = put_label(photo, attack.word.strip(), at=attack.at, width=attack.width)
            self._last = (attack, self.model.trace(photo))
        return self._last[1]


class AttackComposer(widgets.VBox):  # type: ignore[misc]
    """An object, a note with a word, and what a model makes of both while they are moved.

    `value`: the attack and the probabilities; `last_error`: what went wrong last, or None.
    """

    value = traitlets.Dict(help="The attack and the probabilities, as plain data.")
    last_error = traitlets.Any(None, allow_none=True)

    def __init__(self, engine: ComposerEngine) -> None:
        self._engine = engine
        self._worker = Worker(self._failed)

        def control(kind: type[Any], **options: Any) -> Any:
            return kind(layout=widgets.Layout(width="auto"), style=NARROW, **options)

        def share(name: str, value: float, low: float = 0.0) -> Any:
            return control(
                widgets.FloatSlider, value=value, min=low, max=1, step=0.02, description=name
            )

        self.thing = control(
            widgets.Dropdown, options=sorted(NAMES), value="apple", description="Object"
        )
        self.background = control(
            widgets.Dropdown, options=list(BACKGROUNDS), description="Background",
        )  # fmt: skip
        self.scale = share("Its size", 0.6, 0.2)
        self.word = control(
            widgets.Text, value="iPod", description="Note says", continuous_update=False
        )
        self.width, self.x, self.y = share("Note size", 0.5, 0.1), share("Across", 0.5), share(
            "Down", 0.6
        )  # fmt: skip
        self.others = control(
            widgets.Text, value="pizza; book; laptop", description="Others",
            continuous_update=False,
        )  # fmt: skip
        self.message, self.state, self.bars = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.pictures = [
            widgets.Image(format="png", layout=widgets.Layout(width="100%", max_width="300px"))
            for _ in range(3)
        ]
        self.captions = [widgets.HTML() for _ in range(3)]
        super().__init__([widgets.HTML(STYLE), self._layout()])
        self.add_class("gscam-explorer")
        for each in self._controls():
            each.observe(lambda _: self.refresh(), "value")
        self.refresh()

    def _controls(self) -> list[Any]:
        return [
            self.thing, self.background, self.scale, self.word, self.width, self.x, self.y,
            self.others,
        ]  # fmt: skip

    def _layout(self) -> widgets.Widget:
        groups = [
            group(self.thing, self.background, self.scale),
            group(self.word, self.width, self.x, self.y),
            group(self.others),
        ]
        pairs = zip(self.captions, self.pictures, strict=True)
        columns = f"repeat(3, minmax(0, {PICTURE}px))"
        maps = widgets.GridBox(
            [widgets.VBox(list(pair)) for pair in pairs],
            layout=widgets.Layout(grid_template_columns=columns, grid_gap="14px"),
        )
        maps.add_class("gscam-stage")
        return two_columns(groups, [self.message, maps, self.bars, self.state])

    def attack(self) -> Attack:
        """What the controls describe."""
        return Attack(
            self.thing.value, self.word.value, self.width.value, (self.x.value, self.y.value),
            self.background.value, self.scale.value,
        )  # fmt: skip

    def refresh(self) -> None:
        """Judge what the controls describe; the maps sharpen, and the newest attack wins."""
        attack = self.attack()
        others = [name.strip() for name in self.others.value.split(";")]

        def job(stop: Stop) -> None:
            most, k = self._engine.model.default_k, FIRST_K
            while True:
                verdict = self._engine.judge(attack, others, min(k, most))
                if stop():
                    raise Cancelled
                self._show(attack, verdict)
                if k >= most:
                    return
                k += STEP

        self._worker.submit(job)

    def export_html(self, path: str | Path) -> Path:
        """Write this attack as one page without a kernel; see `Explorer.export_html`."""
        target = Path(path)
        target.write_text(self._engine.page(self.attack()), encoding="utf-8")
        return target

    def wait(self, timeout: float | None = 60) -> bool:
        """Wait until the newest attack is judged; False if that takes longer than `timeout`."""
        return self._worker.wait(timeout)

    def close(self) -> None:
        """Stop the work and leave the page."""
        self._worker.cancel()
        super().close()

    def _failed(self, error: BaseException) -> None:
        self.last_error = f"{type(error).__name__}: {error}"
        text = html.escape(str(error))
        self.message.value = f'<div class="gscam-error" role="alert">{text}</div>'

    def _show(self, attack: Attack, verdict: Verdict) -> None:
        self.last_error, self.message.value = None, ""
        contents = [verdict.photo, *verdict.maps.values()]
        titles = ["what the model sees", *(f"map of “{name}”" for name in verdict.maps)]
        for i, (picture, caption) in enumerate(zip(self.pictures, self.captions, strict=True)):
            there = i < len(contents)
            picture.layout.visibility = "visible" if there else "hidden"
            picture.value = contents[i] if there else b""
            caption.value = f"<b>{html.escape(titles[i])}</b>" if there else ""
        shares = verdict.probabilities
        top = max(shares, key=shares.__getitem__)
        self.bars.value = _bars(shares)
        said = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        self.state.value = (
            f'<p class="gscam-state" role="status" aria-live="polite">The model says '
            f"“{html.escape(top)}”: {html.escape(said)}. Maps: gScoreCAM, k = {verdict.k}.</p>"
        )
        self.value = {
            "object": attack.thing,
            "word": attack.word,
            "width": attack.width,
            "at": list(attack.at),
            "k": verdict.k,
            "probabilities": shares,
            "top": top,
        }


def _bars(shares: dict[str, float]) -> str:
    rows = "".join(
        f'<div style="display:grid;grid-template-columns:96px 1fr 44px;gap:8px;line-height:1.7">'
        f'<span style="text-align:right">{html.escape(name)}</span><span style="background:#eceff3;'
        f'align-self:center;height:14px"><span style="display:block;height:14px;'
        f'width:{100 * share:.1f}%;background:#7a1fa2"></span></span><span>{share:.0%}</span></div>'
        for name, share in shares.items()
    )
    return f'<div aria-hidden="true" style="margin-top:10px">{rows}</div>'
