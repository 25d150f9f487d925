"""A widget whose controls are data: what Python describes, `view.js` draws and reports back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from gscam_lib.explorer.controls import Control, panels, read, strip, texts, values
from gscam_lib.explorer.request import Answer, Cancelled, Request, Stop
from gscam_lib.explorer.worker import Worker
from gscam_lib.paths import expanded

if TYPE_CHECKING:
    from gscam_lib.explorer.engine import Engine
    from gscam_lib.explorer.server import RemoteEngine

TAKE = {"code": ("py", "text/x-python"), "figure": ("png", "image/png"),
        "page": ("html", "text/html")}  # fmt: skip


class Live(anywidget.AnyWidget):
    """Controls, and maps that follow while they are moved; `move(name=value)` does so.

    engine: answers requests, here or in another process; controls: groups of them, see `controls`;
    look: the colours, and the largest upload in bytes. `asked`: name -> value; `value`: the state;
    `last_error`: what went wrong last, or None. Subclasses say what is asked for.
    """

    _esm = read("view.js") + read("kernel.js")
    _css = read("view.css")
    look = traitlets.Dict().tag(sync=True)
    texts = traitlets.Dict(texts()).tag(sync=True)
    controls: Any = traitlets.List().tag(sync=True)
    asked = traitlets.Dict().tag(sync=True)
    photo = traitlets.Dict().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)
    strip = traitlets.Dict().tag(sync=True)
    status = traitlets.Dict().tag(sync=True)
    said = traitlets.Dict().tag(sync=True)
    off: Any = traitlets.List().tag(sync=True)
    output = traitlets.Dict().tag(sync=True)
    value = traitlets.Dict(help="What is asked and what was found, as plain data.")
    last_error = traitlets.Any(None, allow_none=True)

    greeting: Sequence[str] = ()
    """What stays said above the maps."""
    drawn_in_browser: frozenset[str] = frozenset({"opacity", "box", "truth", "beside"})
    """Controls that change how a map is drawn, and need no answer."""

    def __init__(
        self,
        engine: Engine | RemoteEngine,
        controls: Sequence[Sequence[Control]],
        look: dict[str, Any],
    ) -> None:
        self._engine = engine
        self._worker = Worker(self._failed)
        super().__init__(controls=[list(g) for g in controls], asked=values(controls), look=look)
        self.on_msg(self._message)
        self.refresh()

    def __repr__(self) -> str:
        """For where no widget can be drawn, such as a printed notebook: no address, no bytes."""
        return f"{type(self).__name__}: alive where a kernel runs"

    def request(self) -> Request:
        """What the controls ask for. Raises ValueError where they ask for nothing."""
        raise NotImplementedError

    def buttons(self) -> dict[str, Callable[..., None]]:
        """What each button does."""
        take = {what: lambda what=what: self._wanted(what) for what in TAKE}
        return {"cancel": self.cancel, "channel": self.choose_channel, **take,
                "strongest": lambda: self.move(strongest=True)}  # fmt: skip

    # ------------------------------------------------------------ what the reader does

    def move(self, **changes: Any) -> None:
        """Move controls. Raises ValueError for names that no control has."""
        unknown = set(changes) - set(self.asked)
        if unknown:
            raise ValueError(f"No control {', '.join(unknown)}; there are {', '.join(self.asked)}.")
        before = self.asked
        self.asked = {**before, **changes}
        self.changed({name for name in changes if before[name] != changes[name]})

    def changed(self, names: set[str]) -> None:
        """Answer what has changed."""
        if names - self.drawn_in_browser:
            self.refresh()
        elif self.value:
            self.request()  # raises where it cannot be drawn
            drawn = {n: self.asked[n] for n in names if n in self.value}
            self.value = {**self.value, **drawn}

    def press(self, button: str, **content: Any) -> None:
        """Press a button. Raises ValueError for one that is not there, or takes other things."""
        action = self.buttons().get(button)
        if action is None:
            raise ValueError(f"No button {button!r}; there are {', '.join(self.buttons())}.")
        takes = signature(action)
        try:
            takes.bind(**content)
        except TypeError as error:
            raise ValueError(
                f"Got {', '.join(content) or 'nothing'} with the button {button!r}; it takes "
                f"{', '.join(takes.parameters) or 'nothing'}."
            ) from error
        action(**content)

    def choose_channel(self, channel: int | None) -> None:
        """Show one channel's mask; the same again, or None, puts it away."""
        chosen = None if channel == self.asked["channel"] else channel
        self.move(channel=chosen, strongest=False)

    def _message(self, _: Any, content: Any, buffers: Any) -> None:
        """From the browser; what goes wrong is shown, whatever it was."""
        try:
            if content["kind"] == "set":
                self.move(**content["changes"])
            elif content["kind"] == "press":
                more = {key: content[key] for key in ("channel", "name") if key in content}
                if buffers:
                    more["content"] = bytes(buffers[0])
                self.press(content["button"], **more)
        except Exception as error:  # shown to the reader
            self._failed(error)

    # ------------------------------------------------------------ work

    def refresh(self) -> None:
        """Ask for what the controls say; what was asked before is given up."""
        self.output = {}  # what is there is of what was on the screen before
        try:
            request = self.request()
        except ValueError as error:
            self.cancel()
            self._failed(error)
            return
        self._work(lambda stop: self._answer(request, stop))

    def _answer(self, request: Request, stop: Stop) -> None:
        report = self._reporter(stop, lambda early: self._draw(request, early))
        answer = self._engine.run(request, stop, report)
        if stop():
            raise Cancelled
        self.last_error = None
        self.said = {"error": "", "notes": [*self.greeting, *answer.warnings]}
        self._draw(request, answer)
        self.value = self.state(request, answer)

    def _work(self, job: Callable[[Stop], None]) -> None:
        """Do a job in the place of all before it; when it ends, the status says so."""

        def watched(stop: Stop) -> None:
            try:
                job(stop)
            finally:
                if not stop():
                    self._say("", busy=False)

        self._say("", busy=True)
        self._worker.submit(watched)

    def _reporter(self, stop: Stop, show: Callable[[Answer], None]) -> Callable[..., None]:
        def report(done: int, total: int, early: Answer | None) -> None:
            if stop():
                raise Cancelled
            of = f" of at most {total}" if total else ""
            self._say(f"{done}{of} forward passes", busy=True, done=done, total=total)
            if early is not None:
                show(early)

        return report

    def cancel(self) -> None:
        """Stop the work under way; what has been scored is kept."""
        self._worker.cancel()
        self._say("Cancelled; what has been scored is kept.", busy=False)

    def wait(self, timeout: float | None = 60) -> bool:
        """Wait until the newest request is answered; False if that takes longer than `timeout`."""
        return self._worker.wait(timeout)

    def close(self) -> None:
        """Stop the work and leave the page."""
        self._worker.cancel()
        super().close()

    def _say(self, text: str, *, busy: bool, done: int = 0, total: int = 0) -> None:
        self.status = {"doing": text, "busy": busy, "done": done, "total": total}

    def _failed(self, error: BaseException) -> None:
        self.last_error = f"{type(error).__name__}: {error}"
        self.said = {"error": str(error) or type(error).__name__, "notes": []}

    # ------------------------------------------------------------ what the reader sees and takes

    def state(self, request: Request, answer: Answer) -> dict[str, Any]:
        """What `value` becomes."""
        asked = {name: getattr(request, name) for name in request.__dataclass_fields__}
        return {**asked, "prompts": list(request.prompts), **answer.facts()}

    def short(self, prompt: str) -> str:
        """What a prompt is called beside its probability."""
        return prompt

    def _draw(self, request: Request, answer: Answer) -> None:
        """Show what is there; maps that are still to come stay as they were."""
        view = answer.view
        with self.hold_sync():
            self.photo = {
                "png": view.png, "size": list(view.size), "boxes": [list(b) for b in view.boxes],
            }  # fmt: skip
            self.shown = {
                "panels": panels(answer),
                "bars": [[self.short(prompt), share] for prompt, share in answer.shares.items()]
                * bool(request.others),
                "text": answer.text(),
                "waiting": len(request.maps()) - len(answer.findings),
            }
            self.strip = strip(request, answer)

    def _take(self, what: str, stop: Stop = lambda: False) -> bytes:
        return self._engine.take(
            what, self.request(), stop, self._reporter(stop, lambda early: None)
        )

    def _wanted(self, what: str) -> None:
        request = self.request()

        def job(stop: Stop) -> None:
            self._answer(request, stop)  # it may have been under way
            ending, kind = TAKE[what]
            content = self._take(what, stop)
            self.output = {"name": f"explorer.{ending}", "kind": kind, "content": content}

        self._work(job)

    def code(self) -> str:
        """The Python that makes what is on the screen."""
        return self._take("code").decode()

    def save_figure(self, path: str | Path) -> Path:
        """Write what is on the screen as a PNG."""
        return self._write(path, "figure")

    def export_html(self, path: str | Path) -> Path:
        """Write one self-contained page in which k, threshold, prompt and opacity still move.

        It needs no kernel and no network. Every channel is scored for it, once. Raises ValueError
        where another method than gScoreCAM is on the screen, or a percentile as threshold.
        """
        return self._write(path, "page")

    def _write(self, path: str | Path, what: str) -> Path:
        target = expanded(path)
        target.write_bytes(self._take(what))
        self._say("", busy=False)
        return target
