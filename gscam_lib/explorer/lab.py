"""The bias lab with widgets: photos, prompts and groups in, an audit that fills, a report out."""

from __future__ import annotations

import html
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from gscam_lib.audits.photos import Photos, Table
from gscam_lib.audits.report import found as sentences
from gscam_lib.audits.run import Audit, audit
from gscam_lib.explorer.controls import texts
from gscam_lib.trace import Model

SHOWN = 12  # sentences below the bar; the report has all
WIDE = widgets.Layout(width="98%")


class BiasLab(widgets.VBox):  # type: ignore[misc]
    """Widgets for one audit. `value` is the Audit when it is done, `last_error` what went wrong.

    model: a Model; photos, prompts, groups: what stands in the widgets at first, or, where it is no
    path, what is taken while the widget is left empty; out: the folder that keeps what was measured
    and takes the report; language: of the widgets, a file of `texts`, and reports are in English;
    how: further arguments of `gs.audit`.
    """

    def __init__(
        self, model: Model, photos: Photos = "", prompts: Sequence[str] = (),
        groups: Table | None = None, *, out: Path | str = "audit", language: str = "en", **how: Any,
    ) -> None:  # fmt: skip
        self.says = texts(language)["lab"]
        self.model, self.how, self.out = model, how, Path(out)
        self.value: Audit | None = None
        self.last_error: Exception | None = None
        self._given: dict[str, Any] = {"photos": photos, "groups": groups}
        self._thread: threading.Thread | None = None
        self.photos = self._path("photos", photos)
        self.prompts = self._text("prompts", "; ".join(prompts), self.says["prompts_hint"])
        self.groups = self._path("groups", groups)
        self.button = widgets.Button(description=self.says["audit"], button_style="primary")
        self.bar = widgets.IntProgress(value=0, max=1, layout=widgets.Layout(width="60%"))
        self.said = widgets.HTML()
        self.button.on_click(lambda _: self.start())
        super().__init__(
            [self.photos, self.prompts, self.groups, widgets.HBox([self.button, self.bar]),
             self.said]
        )  # fmt: skip

    def _path(self, name: str, given: Any) -> widgets.Text:
        path, hint = isinstance(given, str | Path), self.says[f"{name}_hint"]
        if given is not None and not path:
            hint = self.says["given"].format(count=len(given), hint=hint)
        return self._text(name, str(given) if path else "", hint)

    def _text(self, name: str, value: str, hint: str) -> widgets.Text:
        return widgets.Text(value=value, description=self.says[name], placeholder=hint, layout=WIDE)

    def start(self) -> None:
        """Begin, unless an audit is under way; the page stays usable meanwhile."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="bias lab", daemon=True)
            self._thread.start()

    def wait(self) -> Audit:
        """The audit: begun if nobody has, and waited for. Raises what went wrong."""
        if self.value is None and self.last_error is None:
            self.start()
        if self._thread is not None:
            self._thread.join()
        if self.value is None:
            raise self.last_error or ValueError(
                self.says["none_yet"].format(audit=self.says["audit"])
            )
        return self.value

    def _work(self) -> None:
        self.value, self.last_error = None, None
        self.button.disabled = True
        try:
            self.value = audit(
                self.model, self._asked("photos"), self._prompts(), self._asked("groups"),
                out=self.out / "measured", progress=self._tell, **self.how,
            )  # fmt: skip
            self.said.value = self._summary(self.value)
        except Exception as error:
            self.last_error = error
            self.said.value = f"<p role='alert'>{html.escape(str(error))}</p>"
        finally:
            self.button.disabled = False

    def _asked(self, name: str) -> Any:
        written = getattr(self, name).value.strip()
        given = self._given[name]
        return written or (None if isinstance(given, str | Path) else given)

    def _prompts(self) -> list[str]:
        return [p.strip() for p in self.prompts.value.split(";") if p.strip()]

    def _tell(self, done: int, total: int) -> None:
        self.bar.max, self.bar.value = total, done
        said = self.says["measured" if done == total else "progress"]
        self.said.value = f"<p>{said.format(done=done, total=total)}</p>"

    def _summary(self, found: Audit) -> str:
        lines = sentences(found)
        items = "".join(f"<li>{html.escape(line)}</li>" for line in lines[:SHOWN])
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in found.notes)
        more = self.says["more"].format(count=len(lines) - SHOWN) if len(lines) > SHOWN else ""
        nothing = "" if lines else self.says["nothing"]
        return f"<ul>{notes}{items}</ul><p>{nothing or more}</p>"
