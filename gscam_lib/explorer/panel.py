"""The explorer as people see it: core ipywidgets around an engine."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets

from gscam_lib.explorer.pictures import png as as_png
from gscam_lib.explorer.pictures import sheet
from gscam_lib.explorer.request import (
    About,
    Answer,
    Answers,
    Cancelled,
    Finding,
    Request,
    Stop,
    side_of,
)
from gscam_lib.explorer.worker import Worker

UPLOAD_LIMIT = 10_000_000
"""Bytes of the largest file that may be uploaded."""
WIDE = {"width": "100%"}
NARROW = {"description_width": "76px"}
STYLE = """<style>
.gscam-explorer { font-size: 14px; }
.gscam-explorer .gscam-card { background: var(--jp-layout-color2, #f4f5f7); padding: 12px 14px;
  border: 1px solid var(--jp-border-color2, #dfe3e8); border-radius: 8px; overflow: hidden; }
.gscam-explorer .gscam-group { padding: 8px 0; overflow: hidden; }
.gscam-explorer .gscam-group:first-child { padding-top: 0; }
.gscam-explorer .gscam-group:last-child { padding-bottom: 0; }
.gscam-explorer .gscam-group + .gscam-group { border-top: 1px solid
  var(--jp-border-color2, #dfe3e8); }
.gscam-explorer .widget-readout { width: 84px; min-width: 84px; text-align: right;
  padding: 0 6px 0 0; margin: 0; overflow: visible; }
.gscam-explorer .gscam-card .jupyter-button { padding: 0 4px; border-radius: 4px;
  background-color: var(--jp-layout-color0, #fff);
  border: 1px solid var(--jp-border-color1, #bdbdbd); box-shadow: none; }
.gscam-explorer .gscam-card .jupyter-button.mod-active { background-color: #6a1b9a; color: #fff;
  border-color: #6a1b9a; }
.gscam-explorer .gscam-card .jupyter-button:disabled { opacity: .45; }
.gscam-explorer .gscam-error { background: #fdecea; color: #8a1f11; border-left: 4px solid #c62828;
  padding: 8px 12px; line-height: 1.4; margin-bottom: 10px; }
.gscam-explorer .gscam-note { color: #6b4e00; background: #fff6db; border-left: 4px solid #e0a800;
  padding: 8px 12px; line-height: 1.4; margin-bottom: 10px; }
.gscam-explorer .gscam-state, .gscam-explorer .gscam-doing { line-height: 1.5; margin: 6px 0 0;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.gscam-explorer .gscam-doing { margin: 2px 0 0; }
.gscam-explorer .gscam-caption { line-height: 1.4; overflow-wrap: anywhere; margin-bottom: 4px; }
.gscam-explorer .gscam-stage img { border-radius: 4px; }
.gscam-explorer button.gscam-channel { width: 84px; height: 84px; margin: 0; padding: 0 0 4px;
  display: flex; align-items: flex-end; justify-content: center; border-radius: 4px;
  background: #15121c center / cover no-repeat; color: #fff; font: 600 12px/1 sans-serif; }
.gscam-explorer button.gscam-channel.mod-info { box-shadow: 0 0 0 3px #00a9c2; }
.gscam-explorer button:focus-visible, .gscam-explorer input:focus-visible,
.gscam-explorer .noUi-handle:focus-visible,
.gscam-explorer select:focus-visible { outline: 3px solid #7a1fa2; outline-offset: 1px; }
</style>"""


def steps_of_k(channels: int, *extra: int) -> list[int]:
    """Numbers of channels on a slider, 1 to C, evenly spaced in their logarithm."""
    found = {round(channels ** (i / 80)) for i in range(81)} | {channels, *extra}
    return sorted(k for k in found if 1 <= k <= channels)


def split_prompts(text: str) -> tuple[str, ...]:
    """Prompts out of what was typed: separated by semicolons or new lines, each once."""
    parts = [part.strip() for part in text.replace("\n", ";").split(";")]
    return tuple(dict.fromkeys(part for part in parts if part))


class Explorer(widgets.VBox):  # type: ignore[misc]
    """Live heatmaps. `value`: the state; `last_error`: what went wrong last, None if nothing did.

    engine: answers requests, here or in another process; prompts: the first to look for; folders:
    whether folders of this machine may be opened; upload_limit: bytes.
    """

    value = traitlets.Dict(help="What is asked and what was found, as plain data.")
    last_error = traitlets.Any(None, allow_none=True)

    def __init__(
        self,
        engine: Answers,
        *,
        prompts: str | Sequence[str] | None = None,
        folders: Callable[[str], dict[str, str]] | None = None,
        upload_limit: int = UPLOAD_LIMIT,
    ) -> None:
        self._engine, self._folders, self._upload_limit = engine, folders, upload_limit
        self._about = engine.about()
        self._answer: Answer | None = None
        self._channel: int | None = None
        self._quiet = False
        self._worker = Worker(self._failed)
        self._typed = prompts is not None
        first = [prompts] if isinstance(prompts, str) else list(prompts or ())
        self._make_controls(self._about, first)
        self._make_stage()
        super().__init__([widgets.HTML(STYLE), self._layout()])
        self.add_class("gscam-explorer")
        self._listen()
        self.refresh()

    # ------------------------------------------------------------ what there is

    def _make_controls(self, about: About, prompts: list[str]) -> None:
        key = next(iter(about.photos))
        text = "; ".join(prompts) or about.prompts.get(key) or "a photo"
        methods = [(title, name) for name, title in about.methods.items()]
        ks = steps_of_k(about.channels, about.default_k)

        def control(kind: type[Any], **options: Any) -> Any:
            return kind(layout=widgets.Layout(width="auto"), style=NARROW, **options)

        photos = [(name, key) for key, name in about.photos.items()]
        self.photo = control(widgets.Dropdown, options=photos, description="Photo")
        self.folder = control(
            widgets.Text, placeholder="a folder of photos", description="Folder",
            continuous_update=False,
        )  # fmt: skip
        self.upload = widgets.FileUpload(
            accept="image/*", description="Upload a photo", layout=widgets.Layout(width="auto")
        )
        self.prompts = control(
            widgets.Text, value=text, description="Prompts", placeholder="an apple; a cup",
            continuous_update=False, tooltip="Several prompts are separated by semicolons",
        )  # fmt: skip
        self.method = control(widgets.Dropdown, options=methods, description="Method")
        self.k = control(
            widgets.SelectionSlider, options=_numbered(ks, about.channels), value=about.default_k,
            description="Channels k", continuous_update=True,
        )  # fmt: skip
        self.compare = control(
            widgets.Dropdown, description="Compare",
            options=[("one map", "none"), ("with a method", "method"), ("with another k", "k")],
        )  # fmt: skip
        other = [m for m in methods if m[1] != self.method.value] or methods
        self.other_method = control(
            widgets.Dropdown, options=other, description="Other",
            value="gradcam" if "gradcam" in about.methods else other[0][1],
        )  # fmt: skip
        self.other_k = control(
            widgets.SelectionSlider, options=_numbered(ks, about.channels), value=ks[0],
            description="Other k",
        )  # fmt: skip
        self.opacity = control(
            widgets.FloatSlider,
            value=0.75,
            min=0,
            max=1,
            step=0.01,
            description="Opacity",
            readout_format=".0%",
        )
        shares = [("Otsu", 0.0), *((f"{i / 100:.2f}", i / 100) for i in range(1, 101))]
        self.threshold = control(
            widgets.SelectionSlider, options=shares, value=0.0, description="Box above",
            tooltip="What is in the box: above this share of the map's height, or Otsu's threshold",
        )  # fmt: skip
        toggle = {"layout": widgets.Layout(width="auto", flex="1 1 0")}
        self.box = widgets.ToggleButton(value=True, description="Box", **toggle)
        self.contour = widgets.ToggleButton(description="Contour", **toggle)
        self.truth = widgets.ToggleButton(description="True boxes", **toggle)
        self.cancel_button = widgets.Button(
            description="Cancel", disabled=True, layout=widgets.Layout(width="100px")
        )
        self.code_button = widgets.Button(description="Copy as code", **toggle)
        self.save_button = widgets.Button(description="Save figure", **toggle)
        self.page_button = widgets.Button(description="Save page", **toggle)

    def _make_stage(self) -> None:
        self.pictures: list[widgets.Image] = []
        self.captions: list[widgets.HTML] = []
        self.stage = widgets.GridBox()
        self.stage.add_class("gscam-stage")
        self.progress = widgets.IntProgress(
            0, 0, 1, layout=widgets.Layout(width="auto", flex="1 1 0", visibility="hidden")
        )
        self.doing = widgets.HTML()
        self.message = widgets.HTML()
        self.state = widgets.HTML()
        self.ranked = widgets.HTML()
        self.faces = widgets.HTML()  # a style sheet: buttons of this explorer -> thumbnails
        self.strip = widgets.GridBox(
            layout=widgets.Layout(
                grid_template_columns="repeat(auto-fill, 84px)", grid_gap="8px", margin="4px"
            )
        )
        self.mask = widgets.Image(format="png", layout=widgets.Layout(max_width="300px", **WIDE))
        self.mask_note = widgets.HTML()
        self.mask_box = widgets.VBox([], layout=widgets.Layout(margin="10px 0 0 0", **WIDE))
        self.output = widgets.VBox([], layout=widgets.Layout(margin="10px 0 0 0", **WIDE))

    def _layout(self) -> widgets.Widget:
        source = [self.photo, *([self.folder] if self._folders else []), self.upload]
        self._other = widgets.VBox([], layout=widgets.Layout(**WIDE))
        toggles = _row(self.box, self.contour, self.truth)
        takes = _row(self.code_button, self.save_button, self.page_button)
        groups = [
            group(*source, self.prompts),
            group(self.method, self.k, self.compare, self._other),
            group(self.opacity, self.threshold, toggles),
            group(takes),
            group(_row(self.cancel_button, self.progress), self.doing),
        ]
        # Text fills the width that the maps take, and does not add to it.
        below = {"width": "0", "min_width": "100%"}
        self.state.layout = widgets.Layout(**below)
        maps = widgets.VBox(
            [self.stage, self.state], layout=widgets.Layout(flex="0 1 auto", margin="0 20px 10px 0")
        )
        channels = widgets.VBox(
            [self.ranked, self.faces, self.strip, self.mask_box],
            layout=widgets.Layout(flex="1 1 272px", min_width="0"),
        )
        seen = widgets.HBox([maps, channels], layout=widgets.Layout(flex_flow="row wrap", **WIDE))
        return two_columns(groups, [self.message, self.output, seen])

    def _listen(self) -> None:
        shown = (
            self.prompts, self.method, self.k, self.compare, self.other_method, self.other_k,
            self.opacity, self.threshold, self.box, self.contour, self.truth,
        )  # fmt: skip
        for control in shown:
            control.observe(self._changed, "value")
        self.photo.observe(self._photo_chosen, "value")
        self.folder.observe(self._folder_typed, "value")
        self.upload.observe(self._uploaded, "value")
        self.cancel_button.on_click(lambda _: self.cancel())
        self.code_button.on_click(lambda _: self._guard(self._show_code))
        self.save_button.on_click(lambda _: self._guard(self._show_figure))
        self.page_button.on_click(lambda _: self._page_wanted())

    # ------------------------------------------------------------ what the reader does

    def _changed(self, change: Any) -> None:
        if not self._quiet:
            self.refresh()

    def _photo_chosen(self, change: Any) -> None:
        if self._quiet:
            return
        prompt = self._about.prompts.get(change["new"])
        self._channel = None
        if prompt and not self._typed:
            self._set(self.prompts, value=prompt)
        self.refresh()

    def _folder_typed(self, change: Any) -> None:
        def opened() -> None:
            if self._folders is None or not change["new"].strip():
                return
            self._offer(self._folders(change["new"].strip()))

        self._guard(opened)

    def _uploaded(self, change: Any) -> None:
        def take() -> None:
            for file in change["new"]:
                content = bytes(file["content"])
                if len(content) > self._upload_limit:
                    raise ValueError(
                        f"{file['name']} has {len(content) / 1e6:.1f} MB; at most "
                        f"{self._upload_limit / 1e6:g} MB may be uploaded."
                    )
                self._offer({self._engine.add(file["name"], content): file["name"]})

        if change["new"]:
            self._guard(take)

    def _offer(self, photos: dict[str, str]) -> None:
        """Put photos on top of the list and choose the first."""
        old = [(name, key) for name, key in self.photo.options if key not in photos]
        self._set(self.photo, options=[(name, key) for key, name in photos.items()] + old)
        self._channel = None
        self._set(self.photo, value=next(iter(photos)))
        self.refresh()

    def _set(self, control: Any, **values: Any) -> None:
        """Set a control without asking the engine."""
        self._quiet = True
        try:
            for name, value in values.items():
                setattr(control, name, value)
        finally:
            self._quiet = False

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # shown to the reader
            self._failed(error)

    def request(self) -> Request:
        """What the controls ask for. Raises ValueError where they ask for nothing."""
        return Request(
            self.photo.value,
            split_prompts(self.prompts.value),
            self.method.value,
            self.k.value if self.method.value in self._about.ranked else None,
            self.compare.value,
            self.other_method.value,
            self.other_k.value,
            self.opacity.value,
            self.threshold.value or "otsu",
            self.box.value,
            self.contour.value,
            self.truth.value,
            self._channel,
        )

    # ------------------------------------------------------------ work

    def refresh(self) -> None:
        """Ask for what the controls say; what was asked before is given up."""
        self._typed = self._typed or self.prompts.value not in self._about.prompts.values()
        self._fold()
        self._put_out()  # what is there is of what was on the screen before
        if self.last_error is not None:
            self.message.value = ""
        try:
            request = self.request()
        except ValueError as error:
            self._worker.cancel()
            self._failed(error)
            return

        def job(stop: Stop) -> None:
            try:
                answer = self._engine.run(request, stop, self._reporter(stop, request.maps))
                self._show(request, answer, stop)
            finally:
                self._ended(stop)

        self._worker.submit(job)

    def cancel(self) -> None:
        """Stop the work under way; what has been scored is kept."""
        self._worker.cancel()
        self._idle()
        self._say("Cancelled; what has been scored is kept.")

    def wait(self, timeout: float | None = 60) -> bool:
        """Wait until the newest request is answered; False if that takes longer than `timeout`."""
        return self._worker.wait(timeout)

    def _reporter(self, stop: Stop, count: int) -> Callable[[int, int, Answer | None], None]:
        def report(done: int, total: int, early: Answer | None) -> None:
            if stop():
                raise Cancelled
            self.cancel_button.disabled = False
            self.progress.max = max(total, done, 1)
            self.progress.value = done if total else 0
            self.progress.layout.visibility = "visible"
            of = f" of at most {total}" if total else ""
            self._say(f"{done}{of} forward passes")
            if early is not None:
                self._draw(early, count)

        return report

    def _ended(self, stop: Stop) -> None:
        if not stop():
            self._idle()

    def _idle(self) -> None:
        self.cancel_button.disabled = True
        self.progress.layout.visibility = "hidden"
        self.doing.value = ""

    def _say(self, text: str) -> None:
        self.doing.value = f'<p class="gscam-doing">{text}</p>'

    def _failed(self, error: BaseException) -> None:
        self.last_error = f"{type(error).__name__}: {error}"
        text = html.escape(str(error) or type(error).__name__)
        self.message.value = f'<div class="gscam-error" role="alert">{text}</div>'

    # ------------------------------------------------------------ what the reader sees

    def _fold(self) -> None:
        ranked = self._about.ranked
        wanted = {"method": (self.other_method,), "k": (self.other_k,), "none": ()}
        children = wanted[self.compare.value]
        if self._other.children != children:
            self._other.children = children
        either = self.method.value in ranked or (
            self.compare.value == "method" and self.other_method.value in ranked
        )
        self.k.disabled = not either
        self.other_k.disabled = self.method.value not in ranked
        self.truth.disabled = self.photo.value not in self._about.boxed

    def _show(self, request: Request, answer: Answer, stop: Stop) -> None:
        if stop():
            raise Cancelled
        self._answer = answer
        self.last_error = None
        notes = "".join(f'<div class="gscam-note">{html.escape(w)}</div>' for w in answer.warnings)
        self.message.value = notes
        self._draw(answer, len(answer.findings))
        text = html.escape(answer.text())
        self.state.value = f'<p class="gscam-state" role="status" aria-live="polite">{text}</p>'
        self._show_channels(answer)
        self.value = {**_plain(request), **answer.facts()}

    def _draw(self, answer: Answer, count: int) -> None:
        """Show what is there of `count` maps; those that are not there yet stay as they were."""
        self._panels(count)
        with self.hold_sync():
            parts = zip(answer.findings, self.pictures, self.captions, strict=False)
            for finding, picture, caption in parts:
                picture.value, picture.layout.visibility = finding.png, "visible"
                caption.value = _caption(finding)

    def _panels(self, count: int) -> None:
        if len(self.pictures) == count:
            return
        for panel in self.stage.children:
            discard(panel)
        width = side_of(count)
        self.pictures = [
            widgets.Image(
                format="png",
                layout=widgets.Layout(max_width=f"{width}px", visibility="hidden", **WIDE),
            )
            for _ in range(count)
        ]
        self.captions = [widgets.HTML() for _ in range(count)]
        pairs = zip(self.captions, self.pictures, strict=True)
        columns = min(count, 3) if count != 4 else 2
        self.stage.layout.grid_template_columns = f"repeat({columns}, minmax(0, {width}px))"
        self.stage.layout.grid_gap = "14px"
        self.stage.children = [widgets.VBox(list(pair)) for pair in pairs]

    def _show_channels(self, answer: Answer) -> None:
        if not self.strip.children:
            self.strip.children = [self._thumbnail(i) for i, _ in enumerate(answer.channels)]
        self.ranked.value = (
            '<div class="gscam-caption"><b>Channels by mean gradient</b><br>'
            f"for “{html.escape(answer.findings[0].prompt)}”, the highest first</div>"
        )
        self.faces.value = _faces(f"gscam-{self.model_id}", answer.thumbnails)
        for button, channel in zip(self.strip.children, answer.channels, strict=True):
            button.description = str(channel)
            button.tooltip = f"Show the mask of channel {channel}"
            button.button_style = "info" if channel == self._channel else ""
        if answer.mask is None:
            self.mask_box.children = ()
            return
        self.mask.value = answer.mask
        self.mask_note.value = (
            f'<div class="gscam-caption"><b>Mask of channel {self._channel}</b><br>'
            "what it leaves of the photo</div>"
        )
        if not self.mask_box.children:
            self.mask_box.children = (self.mask_note, self.mask)

    def _thumbnail(self, place: int) -> widgets.Button:
        button = widgets.Button()
        button.add_class("gscam-channel")
        button.add_class(f"gscam-{self.model_id}-{place}")
        button.on_click(lambda b: self.choose_channel(int(b.description)))
        return button

    def choose_channel(self, channel: int | None) -> None:
        """Show one channel's mask; the same again, or None, puts it away."""
        self._channel = None if channel == self._channel else channel
        self.refresh()

    # ------------------------------------------------------------ what the reader takes away

    def code(self) -> str:
        """The Python that makes what is on the screen."""
        return self._engine.code(self.request())

    def figure(self) -> bytes:
        """What is on the screen as one PNG. Raises ValueError before there is anything."""
        if self._answer is None:
            raise ValueError("There is no map yet; wait until the first one is there.")
        found = self._answer.findings
        titled = [(f"“{f.prompt}”\n{f.caption}", f.png) for f in found]
        return as_png(sheet(titled, min(len(found), 3)))

    def save_figure(self, path: str | Path) -> Path:
        """Write what is on the screen as a PNG."""
        target = Path(path)
        target.write_bytes(self.figure())
        return target

    def export_html(self, path: str | Path) -> Path:
        """Write one self-contained page in which k, threshold, prompt and opacity still move.

        It needs no kernel and no network. Every channel is scored for it, once.
        """
        target = Path(path)
        page = self._engine.page(self.request(), lambda: False, lambda *_: None)
        target.write_text(page, encoding="utf-8")
        return target

    def _show_code(self) -> None:
        code = self.code()
        area = widgets.Textarea(
            code, layout=widgets.Layout(width="auto", height=f"{20 * code.count(chr(10)) + 50}px")
        )
        copy = widgets.HTML(_copy_button(code))
        self._put_out(copy, area)

    def _show_figure(self) -> None:
        self._put_out(widgets.HTML(_link("explorer.png", "image/png", self.figure())))

    def _put_out(self, *children: widgets.Widget) -> None:
        gone, self.output.children = self.output.children, children
        for widget in gone:
            discard(widget)

    def _page_wanted(self) -> None:
        def job(stop: Stop) -> None:
            try:
                page = self._engine.page(self.request(), stop, self._reporter(stop, 1))
                link = _link("explorer.html", "text/html", page.encode())
                self._put_out(widgets.HTML(link))
            finally:
                self._ended(stop)

        self._worker.submit(job)

    def close(self) -> None:
        """Stop the work and leave the page."""
        self._worker.cancel()
        super().close()


def discard(widget: widgets.Widget) -> None:
    """Close a widget and all it is made of: ipywidgets keeps each one until it is closed."""
    for child in getattr(widget, "children", ()):
        discard(child)
    for part in (widget.layout, getattr(widget, "style", None)):
        if part is not None:
            part.close()
    widget.close()


def _row(*children: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(children, layout=widgets.Layout(align_items="center", **WIDE))


def group(*children: widgets.Widget) -> widgets.VBox:
    """Controls that belong together."""
    box = widgets.VBox(children, layout=widgets.Layout(**WIDE))
    box.add_class("gscam-group")
    return box


def two_columns(groups: Sequence[widgets.Widget], seen: Sequence[widgets.Widget]) -> widgets.Widget:
    """Controls on a card on the left, what they show on the right."""
    card = widgets.VBox(groups, layout=widgets.Layout(width="340px", min_width="340px"))
    card.add_class("gscam-card")
    left = widgets.VBox([card], layout=widgets.Layout(padding="0 20px 0 0"))
    right = widgets.VBox(seen, layout=widgets.Layout(flex="1 1 0", min_width="0"))
    return widgets.HBox([left, right], layout=widgets.Layout(**WIDE))


def _faces(name: str, pictures: Sequence[bytes]) -> str:
    shade = "linear-gradient(transparent 65%, #000c)"
    rules = (
        f".gscam-explorer button.{name}-{i} {{ background-image: {shade}, "
        f"url(data:image/png;base64,{base64.b64encode(content).decode()}); }}"
        for i, content in enumerate(pictures)
    )
    return f"<style>{''.join(rules)}</style>"


def _numbered(ks: Sequence[int], channels: int) -> list[tuple[str, int]]:
    return [(f"{k} of {channels}", k) for k in ks]


def _caption(f: Finding) -> str:
    share = "" if f.probability is None else f" · {f.probability:.0%}"
    flat = " · flat" if f.flat else ""
    return (
        f'<div class="gscam-caption"><b>“{html.escape(f.prompt)}”</b>{share}{flat}'
        f"<br>{html.escape(f.caption)} · logit {f.logit:.2f}</div>"
    )


def _plain(request: Request) -> dict[str, Any]:
    state = {name: getattr(request, name) for name in request.__dataclass_fields__}
    return {**state, "prompts": list(request.prompts)}


def _link(name: str, kind: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    size = f"{len(content) / 1e6:.1f} MB" if len(content) > 1e5 else f"{len(content) / 1e3:.0f} kB"
    return f'<a download="{name}" href="data:{kind};base64,{data}">Download {name}</a> ({size})'


def _copy_button(code: str) -> str:
    text = base64.b64encode(code.encode()).decode()
    act = (
        "navigator.clipboard.writeText(new TextDecoder().decode(Uint8Array.from("
        f"atob('{text}'), c => c.charCodeAt(0)))).then(() => {{ this.textContent = 'Copied'; }})"
    )
    return f'<button class="jupyter-button" onclick="{act}">Copy to the clipboard</button>'
