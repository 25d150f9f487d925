"""Live heatmaps: the explorer, the attack composer, pages that need no kernel, and the app.

    gs.explore(gs.load_model("mini-rn"))

`panel` and `composer` say which controls there are, as data of `controls`, and what they ask for;
`live` is the widget, drawn by `view.js`, which the page of `page` shares; `engine` computes;
`worker` lets the newest request win; `server` shares one model among visitors; `classroom` checks
the blanks of class notebooks. No formulas here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gscam_lib.audits.photos import Photos, Table
    from gscam_lib.explorer.composer import AttackComposer
    from gscam_lib.explorer.lab import BiasLab
    from gscam_lib.explorer.panel import Explorer
    from gscam_lib.trace.model import Model

__all__ = ["attack_composer", "bias_lab", "explore"]


def explore(
    model: Model | str | None = None,
    images: Any = None,
    *,
    prompts: str | Sequence[str] | None = None,
) -> Explorer:
    """Live heatmaps of photos: an explorer, a widget for notebooks.

    model: a Model or a name for `load_model` (None: the default model); images: None for the
    bundled scenes and photos; a photo, a path, a (H, W, 3) uint8 array, an Example, a folder, a
    list of these or a mapping from names to them; prompts: what to look for at first. Its `.value`
    is the state, `.last_error` what went wrong last; `.export_html(path)` writes a page that needs
    no kernel. An Example's true boxes are drawn where `evaluate` looks for them. Raises ValueError
    for what is no photo and for truth that is not of its photo, and FileNotFoundError.
    """
    from gscam_lib.explorer.engine import Engine
    from gscam_lib.explorer.panel import Explorer
    from gscam_lib.explorer.photos import choose
    from gscam_lib.trace.model import load_model

    if model is None or isinstance(model, str):
        model = load_model() if model is None else load_model(model)
    engine = Engine(model, choose(images, drawn=model.name.startswith("mini")))
    return Explorer(engine, prompts=prompts, folders=engine.open)


def attack_composer(model: Model | str | None = None) -> AttackComposer:
    """Compose a typographic attack by hand: an object, a note, and what the model makes of both.

    model: a Model or a name for `load_model`; None takes the model of the miniature world. Raises
    ValueError and FileNotFoundError.
    """
    from gscam_lib.explorer.composer import AttackComposer
    from gscam_lib.trace.model import load_model

    if model is None or isinstance(model, str):
        model = load_model(model or "mini-rn")
    return AttackComposer(model)


def bias_lab(
    model: Model | str | None = None, photos: Photos = "", prompts: Sequence[str] = (),
    groups: Table | None = None, **how: Any,
) -> BiasLab:  # fmt: skip
    """The bias lab with widgets: pick photos, prompts and groups, and watch the audit fill.

    model: a Model or a name for `load_model` (None: the default model); photos, prompts, groups:
    as `gs.audit` takes them, to begin with; how: its further arguments, out, and the language of
    the widgets (en, de, es). Its `.wait()` gives the Audit, `.last_error` what went wrong.
    """
    from gscam_lib.explorer.lab import BiasLab
    from gscam_lib.trace.model import load_model

    if model is None or isinstance(model, str):
        model = load_model() if model is None else load_model(model)
    return BiasLab(model, photos, prompts, groups, **how)
