"""The miniature world: scenes of which everything is known, and the bundled sets of them.

    from gscam_lib import scenes
    scene = scenes.compose(["apple", "cup"], labels=["iPod"], background="table", seed=3)
    scene.image, scene.objects[0].box, scene.objects[0].mask, scene.labels[0].box
    for example in scenes.load("multi"): ...

It knows drawings, not models: importing it needs no torch. What the bundled models were trained
on, and how the sets are written, is in data/build.
"""

from gscam_lib.scenes.backgrounds import BACKGROUNDS
from gscam_lib.scenes.compose import Look, Scene, SceneLabel, SceneObject, compose
from gscam_lib.scenes.names import NAMES, STYLES, TRAINING_STYLES, UNSEEN_STYLE
from gscam_lib.scenes.sets import SETS, load, pairs, written

__all__ = [
    "BACKGROUNDS",
    "NAMES",
    "SETS",
    "STYLES",
    "TRAINING_STYLES",
    "UNSEEN_STYLE",
    "Look",
    "Scene",
    "SceneLabel",
    "SceneObject",
    "compose",
    "load",
    "pairs",
    "written",
]
