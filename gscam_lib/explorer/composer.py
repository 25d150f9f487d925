"""The attack composer: an object, a word on a note, and what a model makes of both."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from PIL import Image

from gscam_lib.explorer import controls as c
from gscam_lib.explorer.engine import Engine
from gscam_lib.explorer.live import Live
from gscam_lib.explorer.photos import Photo
from gscam_lib.explorer.pictures import colors
from gscam_lib.explorer.request import Answer, Request
from gscam_lib.scenes import BACKGROUNDS, NAMES, Look, compose
from gscam_lib.trace.model import Model
from gscam_lib.typography import TEMPLATE, probabilities, put_label

SIZE = 224  # pixels of a scene
THINGS = ("apple", "banana", "cup", "dog", "guitar")
WORDS = ("iPod", "pizza", "cat", "car", "zebra")
OTHERS = ("book", "laptop")


@dataclass(frozen=True)
class Attack:
    """An object on a background, and a word on a note; the word may be empty.

    width, at: the note's size and centre, as shares of the picture. Raises ValueError for names
    that are not drawn.
    """

    thing: str
    word: str
    width: float = 0.5
    at: tuple[float, float] = (0.5, 0.6)
    background: str = "table"
    scale: float = 0.6

    @property
    def names(self) -> tuple[str, ...]:
        """The object, and what is written."""
        return tuple(dict.fromkeys(n for n in (self.thing, self.word.strip()) if n))

    def photo(self) -> Image.Image:
        """The scene, with the note on it."""
        look = Look(scale=(self.scale, self.scale), max_angle=8)
        scene = compose([self.thing], background=self.background, seed=0, size=SIZE, look=look)
        if not self.word.strip():
            return scene.image
        return put_label(scene.image, self.word.strip(), at=self.at, width=self.width)


def first_attack(model: Model) -> Attack:
    """The first object and word of short lists of which the word wins; the note grows if need be.

    Where none does, the first of all: the reader then sees a model that does not read.
    """
    tries = [Attack(*names, width) for width in (0.5, 0.8) for names in product(THINGS, WORDS)]
    for attack in tries:
        shares = probabilities(model.trace(attack.photo()), [*attack.names, *OTHERS])
        if max(shares, key=shares.__getitem__) == attack.word:
            return attack
    return tries[0]


class AttackComposer(Live):
    """An object, a note with a word, and what a model makes of both while they are moved.

    `value`: the attack and the probabilities; `last_error`: what went wrong last, or None.
    """

    def __init__(self, model: Model) -> None:
        self._here = Engine(model, {})
        look = {"colors": list(colors())}
        super().__init__(self._here, _controls(first_attack(model)), look)

    def attack(self) -> Attack:
        """What the controls describe."""
        a = self.asked
        where = (a["x"], a["y"])
        return Attack(a["thing"], a["word"], a["width"], where, a["background"], a["scale"])

    def request(self) -> Request:
        """Both names on the photo that the controls describe, and others to choose from."""
        attack, asked = self.attack(), self.asked
        title, photo = " with a note: ".join(attack.names), attack.photo()
        self._here.photos = {repr(attack): Photo(title, photo, "load_photo(image)")}
        others = (name.strip() for name in asked["others"].split(";") if name.strip())
        return Request(
            repr(attack), tuple(map(TEMPLATE.format, attack.names)),
            others=tuple(TEMPLATE.format(n) for n in others if n not in attack.names),
            **{n: asked[n] for n in ("opacity", "threshold", "box", "contour", "channel")},
        )  # fmt: skip

    def short(self, prompt: str) -> str:
        """The name alone."""
        before, after = TEMPLATE.split("{}")
        return prompt.removeprefix(before).removesuffix(after)

    def state(self, request: Request, answer: Answer) -> dict[str, Any]:
        """The attack, and how likely the names are."""
        attack = self.attack()
        shares = {self.short(prompt): share for prompt, share in answer.shares.items()}
        return {
            "object": attack.thing,
            "word": attack.word,
            "width": attack.width,
            "at": list(attack.at),
            "k": answer.findings[0].k,
            "probabilities": shares,
            "top": max(shares, key=shares.__getitem__, default=attack.thing),
        }


def _controls(first: Attack) -> list[list[c.Control]]:
    return [
        [
            c.choice("thing", [(name, name) for name in sorted(NAMES)], first.thing),
            c.choice("background", [(b, b) for b in BACKGROUNDS], first.background),
            c.percent("scale", first.scale, 20),
        ],
        [
            c.control("text", "word", first.word),
            c.percent("width", first.width, 10),
            c.percent("x", first.at[0]),
            c.percent("y", first.at[1]),
        ],
        [c.control("text", "others", "; ".join(OTHERS))],
        c.drawing("box", "contour", "beside", on=("beside",)),
        [c.control("button", "figure"), c.control("button", "page")],
        c.CHANNEL,
    ]
