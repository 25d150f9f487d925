"""What does CLIP look at? gScoreCAM and everything it is compared with.

    import gscam_lib as gs
    trace = gs.load_model().trace("photo.jpg")
    heat = gs.heatmap(trace, "a tabby cat")
    gs.heatmap_to_box(heat)

Names are imported when first used, so that `import gscam_lib` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gscam_lib.paths import VERSION

if TYPE_CHECKING:
    from gscam_lib import datasets, figures, scenes
    from gscam_lib.audits.run import audit
    from gscam_lib.boxes import Heatmap, heatmap_to_box
    from gscam_lib.datasets import CocoDataset, Example
    from gscam_lib.evaluation.metrics import best_iou, iou
    from gscam_lib.evaluation.questions import known_examples
    from gscam_lib.evaluation.report import compare, summarize
    from gscam_lib.evaluation.runner import evaluate, evaluate_shards, merge
    from gscam_lib.explorer import attack_composer, explore
    from gscam_lib.heatmaps import heatmap, several, stream, sweep
    from gscam_lib.methods import METHODS
    from gscam_lib.methods.wording import Words, words
    from gscam_lib.model.prompts import Knowledge, Target, UnknownPromptWarning
    from gscam_lib.model.published import bundled_models
    from gscam_lib.trace import Model, Trace, load_model

__version__ = VERSION

_ROOMS = {
    "audits.run": ("audit",),
    "boxes": ("Heatmap", "heatmap_to_box"),
    "datasets": ("CocoDataset", "Example"),
    "evaluation.metrics": ("best_iou", "iou"),
    "evaluation.questions": ("known_examples",),
    "evaluation.report": ("compare", "summarize"),
    "evaluation.runner": ("evaluate", "evaluate_shards", "merge"),
    "explorer": ("attack_composer", "explore"),
    "heatmaps": ("heatmap", "several", "stream", "sweep"),
    "methods": ("METHODS",),
    "methods.wording": ("Words", "words"),
    "model.prompts": ("Knowledge", "Target", "UnknownPromptWarning"),
    "model.published": ("bundled_models",),
    "trace": ("Model", "Trace", "load_model"),
}
# No room may have the name of a function here: importing it would hide the function.
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "METHODS",
    "CocoDataset",
    "Example",
    "Heatmap",
    "Knowledge",
    "Model",
    "Target",
    "Trace",
    "UnknownPromptWarning",
    "Words",
    "attack_composer",
    "audit",
    "best_iou",
    "bundled_models",
    "compare",
    "datasets",
    "evaluate",
    "evaluate_shards",
    "explore",
    "figures",
    "heatmap",
    "heatmap_to_box",
    "iou",
    "known_examples",
    "load_model",
    "merge",
    "scenes",
    "several",
    "stream",
    "summarize",
    "sweep",
    "words",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        value: object = getattr(import_module(f"gscam_lib.{_HOME[name]}"), name)
    elif name in {"datasets", "figures", "scenes"}:
        value = import_module(f"gscam_lib.{name}")
    else:
        raise AttributeError(f"module 'gscam_lib' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
