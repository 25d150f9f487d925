"""The vocabulary of the miniature world: 81 names, and the styles they are drawn in."""

from __future__ import annotations

from difflib import get_close_matches

NAMES: tuple[str, ...] = tuple(
    " ".join(
        """
        bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, stop sign, bird,
        cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
        tie, suitcase, frisbee, skis, soccer ball, kite, skateboard, tennis racket, wine glass, cup,
        knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza,
        donut, cake, chair, couch, potted plant, bed, toilet, tv, laptop, mouse, keyboard, cell
        phone, book, clock, vase, scissors, teddy bear, toothbrush, hat, guitar, camera, key, crown,
        rocket, flower, tree, fish, butterfly, lemon, strawberry, bread, egg, basketball, violin,
        shoe, lamp, iPod
        """.split()
    ).split(", ")
)

TRAINING_STYLES: tuple[str, ...] = ("noto", "twemoji", "fluent-flat")
UNSEEN_STYLE = "fluent-3d"  # kept for evaluation: no training image ever shows it
STYLES: tuple[str, ...] = (*TRAINING_STYLES, UNSEEN_STYLE)


def check_name(name: str) -> str:
    """Return `name` where the world has such an object.

    Errors: ValueError for any other string, with the names that come nearest.
    """
    if name in NAMES:
        return name
    near = get_close_matches(name, NAMES, n=3, cutoff=0.4) or list(NAMES[:5])
    raise ValueError(
        f"the miniature world has no object {name!r}; it has {len(NAMES)} names, "
        f"near yours: {', '.join(near)}. See gscam_lib.scenes.NAMES."
    )
