"""The miniature world: scenes of which everything is known, and CLIPs trained in them.

    from gscam_lib import scenes
    scene = scenes.compose(["apple", "cup"], labels=["iPod"], background="table", seed=3)
    scene.image, scene.objects[0].box, scene.objects[0].mask, scene.caption
    for example in scenes.load("multi"): ...

Importing this needs no torch; `data.build.train` and `report` do.
"""

from gscam_lib.scenes.backgrounds import BACKGROUNDS
from gscam_lib.scenes.compose import Look, Scene, SceneLabel, SceneObject, compose
from gscam_lib.scenes.names import NAMES, STYLES, TRAINING_STYLES, UNSEEN_STYLE
from gscam_lib.scenes.sets import SETS, load, pairs, written
from gscam_lib.scenes.world import Biases, Mixture, draw_scene

__all__ = [
    "BACKGROUNDS",
    "NAMES",
    "SETS",
    "STYLES",
    "TRAINING_STYLES",
    "UNSEEN_STYLE",
    "Biases",
    "Look",
    "Mixture",
    "Scene",
    "SceneLabel",
    "SceneObject",
    "compose",
    "draw_scene",
    "load",
    "pairs",
    "written",
]
