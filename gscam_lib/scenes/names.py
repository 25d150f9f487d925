"""The vocabulary of the miniature world: 81 names, their code points, and the sprite styles."""

from __future__ import annotations

from types import MappingProxyType

# An iPod has no code point: the build step draws it.
CODE_POINTS = MappingProxyType(
    {
        "bicycle": "1f6b2", "car": "1f697", "motorcycle": "1f3cd", "airplane": "2708",
        "bus": "1f68c", "train": "1f686", "truck": "1f69a", "boat": "26f5",
        "traffic light": "1f6a6", "stop sign": "1f6d1", "bird": "1f426", "cat": "1f408",
        "dog": "1f415", "horse": "1f40e", "sheep": "1f411", "cow": "1f404",
        "elephant": "1f418", "bear": "1f43b", "zebra": "1f993", "giraffe": "1f992",
        "backpack": "1f392", "umbrella": "2602", "handbag": "1f45c", "tie": "1f454",
        "suitcase": "1f9f3", "frisbee": "1f94f", "skis": "1f3bf", "soccer ball": "26bd",
        "kite": "1fa81", "skateboard": "1f6f9", "tennis racket": "1f3be", "wine glass": "1f377",
        "cup": "2615", "knife": "1f52a", "spoon": "1f944", "bowl": "1f963",
        "banana": "1f34c", "apple": "1f34e", "sandwich": "1f96a", "orange": "1f34a",
        "broccoli": "1f966", "carrot": "1f955", "hot dog": "1f32d", "pizza": "1f355",
        "donut": "1f369", "cake": "1f382", "chair": "1fa91", "couch": "1f6cb",
        "potted plant": "1fab4", "bed": "1f6cf", "toilet": "1f6bd", "tv": "1f4fa",
        "laptop": "1f4bb", "mouse": "1f5b1", "keyboard": "2328", "cell phone": "1f4f1",
        "book": "1f4d6", "clock": "1f570", "vase": "1f3fa", "scissors": "2702",
        "teddy bear": "1f9f8", "toothbrush": "1faa5", "hat": "1f3a9", "guitar": "1f3b8",
        "camera": "1f4f7", "key": "1f511", "crown": "1f451", "rocket": "1f680",
        "flower": "1f33b", "tree": "1f333", "fish": "1f41f", "butterfly": "1f98b",
        "lemon": "1f34b", "strawberry": "1f353", "bread": "1f35e", "egg": "1f95a",
        "basketball": "1f3c0", "violin": "1f3bb", "shoe": "1f45f", "lamp": "1f4a1",
    }
)  # fmt: skip

NAMES: tuple[str, ...] = (*CODE_POINTS, "iPod")

TRAINING_STYLES: tuple[str, ...] = ("noto", "twemoji", "fluent-flat")
UNSEEN_STYLE = "fluent-3d"  # kept for evaluation: no training image ever shows it
STYLES: tuple[str, ...] = (*TRAINING_STYLES, UNSEEN_STYLE)


def check_name(name: str) -> str:
    """Return `name` where the world has such an object.

    Errors: ValueError for any other string, with the names that come nearest.
    """
    if name in NAMES:
        return name
    from difflib import get_close_matches

    near = get_close_matches(name, NAMES, n=3, cutoff=0.4) or list(NAMES[:5])
    raise ValueError(
        f"the miniature world has no object {name!r}; it has {len(NAMES)} names, "
        f"near yours: {', '.join(near)}. See gscam_lib.scenes.NAMES."
    )


def with_article(name: str) -> str:
    """Return `name` with its indefinite article ("an apple", "a pair of skis")."""
    if name in ("skis", "scissors"):
        return f"a pair of {name}"
    if name in ("broccoli", "bread"):
        return f"some {name}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
