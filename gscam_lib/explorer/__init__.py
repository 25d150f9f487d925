"""Live heatmaps: the explorer, the attack composer, pages that need no kernel, and the app.

    gs.explore(gs.load_model("mini-rn"))

`panel` and `composer` are what people see (ipywidgets); `engine` computes; `worker` lets the newest
request win; `page` writes the self-contained page; `server` shares one model among visitors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gscam_lib.explorer.composer import AttackComposer
    from gscam_lib.explorer.panel import Explorer
    from gscam_lib.trace.model import Model

__all__ = ["attack_composer", "explore"]


def explore(
    model: Model | str | None = None,
    images: Any = None,
    *,
    prompts: str | Sequence[str] | None = None,
) -> Explorer:
    """Live heatmaps of photos: an ipywidgets explorer.

    model: a Model or a name for `load_model` (None: the default model); images: None for the
    bundled scenes and photos; a photo, a path, a (H, W, 3) uint8 array, an Example, a folder, a
    list of these or a mapping from names to them; prompts: what to look for at first. Its `.value`
    is the state, `.last_error` what went wrong last; `.export_html(path)` writes a page that needs
    no kernel. Raises ValueError and FileNotFoundError.
    """
    from gscam_lib.explorer.engine import Engine
    from gscam_lib.explorer.panel import Explorer
    from gscam_lib.explorer.photos import choose, in_folder
    from gscam_lib.trace.model import load_model

    if model is None or isinstance(model, str):
        model = load_model() if model is None else load_model(model)
    engine = Engine(model, choose(images, photos_first=not model.name.startswith("mini")))

    def open_folder(folder: str) -> dict[str, str]:
        found = in_folder(folder)
        engine.photos.update(found)
        return {key: photo.name for key, photo in found.items()}

    return Explorer(engine, prompts=prompts, folders=open_folder)


def attack_composer(model: Model | str | None = None) -> AttackComposer:
    """Compose a typographic attack by hand: an object, a note, and what the model makes of both.

    model: a Model or a name for `load_model`; None takes the model of the miniature world. Raises
    ValueError and FileNotFoundError.
    """
    from gscam_lib.explorer.composer import AttackComposer, ComposerEngine
    from gscam_lib.trace.model import load_model

    if model is None or isinstance(model, str):
        model = load_model(model or "mini-rn")
    return AttackComposer(ComposerEngine(model))
