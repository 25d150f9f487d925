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
from gscam_lib.explorer.request import About, Answer, Answers, Cancelled, Finding, Request, Stop
from gscam_lib.explorer.worker import Worker

UPLOAD_LIMIT = 10_000_000
"""Bytes of the largest file that may be uploaded."""
WIDE = widgets.Layout(width="100%")
NARROW = {"description_width": "76px"}
STYLE = """<style>
.gscam-explorer { font-size: 14px; }
.gscam-explorer .gscam-error { background: #fdecea; color: #8a1f11; border-left: 4px solid #c62828;
  padding: 8px 12px; line-height: 1.4; }
.gscam-explorer .gscam-note { color: #6b4e00; background: #fff6db; border-left: 4px solid #e0a800;
  padding: 8px 12px; line-height: 1.4; }
.gscam-explorer .gscam-state { line-height: 1.5; white-space: pre-wrap; margin: 0; }
.gscam-explorer .gscam-caption { line-height: 1.3; overflow-wrap: anywhere; }
.gscam-explorer button:focus-visible, .gscam-explorer input:focus-visible,
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
            return kind(layout=widgets.Layout(width="100%"), style=NARROW, **options)

        photos = [(name, key) for key, name in about.photos.items()]
        self.photo = control(widgets.Dropdown, options=photos, description="Photo")
        self.folder = control(
            widgets.Text, placeholder="a folder of photos", description="Folder",
            continuous_update=False,
        )  # fmt: skip
        self.upload = widgets.FileUpload(
            accept="image/*", description="Upload a photo", layout=widgets.Layout(width="100%")
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
            widgets.FloatSlider, value=0.75, min=0, max=1, step=0.01, description="Opacity"
        )
        self.threshold = control(
            widgets.FloatSlider, value=0.0, min=0, max=1, step=0.01, description="Threshold",
            tooltip="Of the box, as a share of the map's height; 0 takes Otsu's",
        )  # fmt: skip
        toggle = {"layout": widgets.Layout(width="auto", flex="1 1 0")}
        self.box = widgets.ToggleButton(value=True, description="Box", **toggle)
        self.contour = widgets.ToggleButton(description="Contour", **toggle)
        self.truth = widgets.ToggleButton(description="Truth", **toggle)
        self.cancel_button = widgets.Button(
            description="Cancel", disabled=True, layout=widgets.Layout(width="84px")
        )
        self.code_button = widgets.Button(description="Copy as code", **toggle)
        self.save_button = widgets.Button(description="Save figure", **toggle)
        self.page_button = widgets.Button(description="Save page", **toggle)

    def _make_stage(self) -> None:
        self.pictures: list[widgets.Image] = []
        self.captions: list[widgets.HTML] = []
        self.stage = widgets.GridBox(layout=widgets.Layout(width="100%"))
        self.progress = widgets.IntProgress(
            0, 0, 1, layout=widgets.Layout(width="240px", visibility="hidden")
        )
        self.doing = widgets.HTML()
        self.message = widgets.HTML()
        self.state = widgets.HTML()
        self.strip = widgets.HBox(layout=widgets.Layout(flex_flow="row wrap", width="100%"))
        self.ranked = widgets.HTML()
        self.mask = widgets.Image(format="png", layout=widgets.Layout(max_width="440px"))
        self.mask_note = widgets.HTML()
        self.mask_box = widgets.VBox([], layout=widgets.Layout(width="100%"))
        self.output = widgets.VBox([])

    def _layout(self) -> widgets.Widget:
        source = [self.photo, self.folder, self.upload] if self._folders else [
            self.photo, self.upload
        ]  # fmt: skip
        row = {"layout": widgets.Layout(width="100%")}
        self._other = widgets.VBox([], **row)
        left = widgets.VBox(
            [
                *source, self.prompts, self.method, self.k, self.compare, self._other,
                self.opacity, self.threshold,
                widgets.HBox([self.box, self.contour, self.truth], **row),
                widgets.HBox([self.code_button, self.save_button, self.page_button], **row),
            ],
            layout=widgets.Layout(width="330px", min_width="330px", padding="0 16px 0 0"),
        )  # fmt: skip
        work = widgets.HBox(
            [self.cancel_button, self.progress, self.doing],
            layout=widgets.Layout(align_items="center", height="38px"),
        )
        right = widgets.VBox(
            [work, self.message, self.stage, self.state, self.ranked, self.strip, self.mask_box,
             self.output],
            layout=widgets.Layout(flex="1 1 0", min_width="0"),
        )  # fmt: skip
        return widgets.HBox([left, right], layout=widgets.Layout(width="100%"))

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
        try:
            request = self.request()
        except ValueError as error:
            self._worker.cancel()
            self._failed(error)
            return

        def job(stop: Stop) -> None:
            self._started()
            try:
                answer = self._engine.run(request, stop, self._reporter(stop))
                self._show(request, answer, stop)
            finally:
                self._ended(stop)

        self._worker.submit(job)

    def cancel(self) -> None:
        """Stop the work under way; what has been scored is kept."""
        self._worker.cancel()
        self._idle()
        self.doing.value = "Cancelled; what has been scored is kept."

    def wait(self, timeout: float | None = 60) -> bool:
        """Wait until the newest request is answered; False if that takes longer than `timeout`."""
        return self._worker.wait(timeout)

    def _reporter(self, stop: Stop) -> Callable[[int, int, Answer | None], None]:
        def report(done: int, total: int, early: Answer | None) -> None:
            if stop():
                raise Cancelled
            self.progress.max = max(total, done, 1)
            self.progress.value = done if total else 0
            self.progress.layout.visibility = "visible"
            of = f" of at most {total}" if total else ""
            self.doing.value = f"{done}{of} forward passes"
            if early is not None:
                self._draw(early)

        return report

    def _started(self) -> None:
        self.cancel_button.disabled = False

    def _ended(self, stop: Stop) -> None:
        if not stop():
            self._idle()

    def _idle(self) -> None:
        self.cancel_button.disabled = True
        self.progress.layout.visibility = "hidden"
        self.doing.value = ""

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

    def _show(self, request: Request, answer: Answer, stop: Stop) -> None:
        if stop():
            raise Cancelled
        self._answer = answer
        self.last_error = None
        notes = "".join(f'<div class="gscam-note">{html.escape(w)}</div>' for w in answer.warnings)
        self.message.value = notes
        self._draw(answer)
        text = html.escape(answer.text())
        self.state.value = f'<p class="gscam-state" role="status" aria-live="polite">{text}</p>'
        self._show_channels(answer)
        self.value = {**_plain(request), **answer.facts()}

    def _draw(self, answer: Answer) -> None:
        found = answer.findings
        self._panels(len(found))
        with self.hold_sync():
            for finding, picture, caption in zip(found, self.pictures, self.captions, strict=True):
                picture.value = finding.png
                caption.value = _caption(finding)

    def _panels(self, count: int) -> None:
        if len(self.pictures) == count:
            return
        for panel in self.stage.children:
            for part in panel.children:
                part.close()
            panel.close()
        self.pictures = [
            widgets.Image(format="png", layout=widgets.Layout(width="100%", max_width="440px"))
            for _ in range(count)
        ]
        self.captions = [widgets.HTML() for _ in range(count)]
        pairs = zip(self.captions, self.pictures, strict=True)
        columns = min(count, 3) if count != 4 else 2
        width = 440 if count <= 2 else 290
        self.stage.layout.grid_template_columns = f"repeat({columns}, minmax(0, {width}px))"
        self.stage.layout.grid_gap = "10px"
        self.stage.children = [widgets.VBox(list(pair)) for pair in pairs]

    def _show_channels(self, answer: Answer) -> None:
        if not self.strip.children:
            self.strip.children = [self._thumbnail() for _ in answer.channels]
        self.ranked.value = (
            f"<b>Channels by mean gradient</b> for “{html.escape(answer.findings[0].prompt)}”, "
            "the highest first; choose one to see its mask"
        )
        parts = zip(self.strip.children, answer.channels, answer.thumbnails, strict=True)
        for panel, channel, picture in parts:
            image, button = panel.children
            image.value = picture
            button.description = str(channel)
            button.tooltip = f"Show the mask of channel {channel}"
            button.button_style = "info" if channel == self._channel else ""
        if answer.mask is None:
            self.mask_box.children = ()
            return
        self.mask.value = answer.mask
        self.mask_note.value = f"Mask of channel {self._channel}: what it leaves of the photo"
        if not self.mask_box.children:
            self.mask_box.children = (self.mask_note, self.mask)

    def _thumbnail(self) -> widgets.VBox:
        size = widgets.Layout(width="72px")
        image = widgets.Image(format="png", layout=size)
        button = widgets.Button(layout=widgets.Layout(width="72px", margin="2px 0 0 0"))
        button.on_click(lambda b: self.choose_channel(int(b.description)))
        return widgets.VBox([image, button], layout=widgets.Layout(margin="0 6px 6px 0"))

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
            code, layout=widgets.Layout(width="100%", height=f"{20 * code.count(chr(10)) + 50}px")
        )
        copy = widgets.HTML(_copy_button(code))
        self.output.children = (copy, area)

    def _show_figure(self) -> None:
        self.output.children = (widgets.HTML(_link("explorer.png", "image/png", self.figure())),)

    def _page_wanted(self) -> None:
        def job(stop: Stop) -> None:
            self._started()
            try:
                page = self._engine.page(self.request(), stop, self._reporter(stop))
                link = _link("explorer.html", "text/html", page.encode())
                self.output.children = (widgets.HTML(link),)
            finally:
                self._ended(stop)

        self._worker.submit(job)

    def close(self) -> None:
        """Stop the work and leave the page."""
        self._worker.cancel()
        super().close()


def _numbered(ks: Sequence[int], channels: int) -> list[tuple[str, int]]:
    return [(f"{k} of {channels}", k) for k in ks]


def _caption(f: Finding) -> str:
    flat = " · flat" if f.flat else ""
    return (
        f'<div class="gscam-caption"><b>“{html.escape(f.prompt)}”</b><br>{html.escape(f.caption)} '
        f"· logit {f.logit:.2f} · {f.probability:.0%}{flat}</div>"
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
