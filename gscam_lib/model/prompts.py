"""What a map is asked for: a sentence, or a Target where one sentence is not enough."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """Something to look for. Methods take it wherever they take a sentence.

    prompts: one sentence, or several whose unit embeddings are averaged (templates); against:
    distractors, which turn the score into the log softmax of the target among them, so that the
    map shows what speaks for it rather than for them; vector: a (D,) vector of the joint space
    instead of prompts, such as another photo's embedding (a copy is kept, and two targets of equal
    vectors are equal); name: what results call it. Raises ValueError for empty or missing prompts,
    and for a vector without direction: zero, NaN or infinite.
    """

    prompts: str | Sequence[str] = ()
    against: str | Sequence[str] = ()
    vector: Tensor | None = field(default=None, compare=False)
    name: str = ""
    identity: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        prompts, against = _sentences(self.prompts), _sentences(self.against)
        if bool(prompts) == (self.vector is not None):
            given = "no vector" if self.vector is None else "a vector"
            raise ValueError(f"Got {len(prompts)} prompts and {given}; expected one of the two.")
        versus = f" against {', '.join(against)}" if against else ""
        name = self.name or (prompts[0] if prompts else "a vector") + versus
        values: dict[str, Any] = {"prompts": prompts, "against": against, "name": name}
        if self.vector is not None:
            values["vector"] = vector = _direction(self.vector)
            content = vector.cpu().double().numpy().tobytes()
            values["identity"] = hashlib.sha256(content).hexdigest()
        for key, value in values.items():
            object.__setattr__(self, key, value)


Prompt: TypeAlias = str | Target


def as_target(prompt: Prompt) -> Target:
    """The prompt as a Target; raises ValueError if it is neither a sentence nor a Target."""
    return prompt if isinstance(prompt, Target) else Target(check_prompt(prompt))


def label(prompt: Prompt) -> str:
    """How results and figures call a prompt."""
    return prompt.name if isinstance(prompt, Target) else prompt


def check_prompt(prompt: str) -> str:
    """Return the prompt, or raise ValueError if it is not a Unicode text with something in it."""
    if not isinstance(prompt, str):
        raise ValueError(
            f"Got {type(prompt).__name__} ({prompt!r:.60}) as prompt; expected a string such as "
            "'an apple'."
        )
    if not prompt.strip():
        raise ValueError("Got an empty prompt; expected a description such as 'an apple'.")
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):  # no file and no page can hold it
        raise ValueError(
            f"Got the prompt {prompt!r:.80}, in which half a letter stands (a lone surrogate, as "
            "of an emoji cut in two); expected Unicode text. Type it again."
        )
    return prompt


def check_prompts(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return several prompts, or raise ValueError for one, which would be read letter by letter."""
    if isinstance(prompts, str | Target):
        raise ValueError(f"Got one prompt, {label(prompts)!r}; expected a list of prompts.")
    return [prompt for prompt in prompts if as_target(prompt)]


def _sentences(prompts: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(map(check_prompt, [prompts] if isinstance(prompts, str) else prompts))


def _direction(vector: Any) -> Tensor:
    """A copy of a vector of the joint space, or ValueError if it points nowhere."""
    try:
        copied: Tensor = torch.as_tensor(vector).detach().clone()
        good = copied.ndim == 1 and bool(copied.isfinite().all() and copied.any())
    except (TypeError, ValueError, RuntimeError):
        good = False
    if not good:
        raise ValueError(
            f"Got a {type(vector).__name__} of shape {tuple(getattr(vector, 'shape', ()))} as "
            "vector; expected (D,) finite numbers of the joint space that are not all zero."
        )
    return copied


# ---------------------------------------------------------------- forms of a prompt

FORMS: dict[str, str] = {
    "name": "{}",
    "article": "{a}",
    "photo": "a photo of {a}",
    "the": "a photo of the {}",
    "close-up": "a close-up photo of {a}",
    "small": "a photo of a small {}",
    "many": "a photo of many {}",
}
"""Forms of a prompt: {} stands for the name, {a} for the name with its article."""


def fill(form: str, name: str) -> str:
    """The prompt for a name: {} is the name, {a} the name with its article.

    Raises ValueError for a form without either.
    """
    if "{}" not in form and "{a}" not in form:
        raise ValueError(f"Got the form {form!r}; expected {{}} or {{a}} where the name goes.")
    name = check_prompt(name)
    return form.replace("{a}", with_article(name)).replace("{}", name)


def fill_all(name: str, forms: Iterable[str] = tuple(FORMS.values())) -> tuple[str, ...]:
    """The prompts for a name in several forms: candidates, or a Target's templates."""
    return tuple(fill(form, name) for form in forms)


PAIRS = frozenset(
    "skis scissors glasses sunglasses goggles binoculars jeans trousers pants shorts tights pliers "
    "tongs tweezers pajamas".split()
)
_AN = re.compile(r"(?!eu|ewe|one\b|once|u[st][aeiu]|uni(?![mn])|ukulele)[aeiou]|hour|honest|heir")


def with_article(name: str) -> str:
    """The name with "a" or "an", by its first sound ("an hourglass", "a unicycle").

    What comes in pairs is "a pair of scissors"; a name that begins with an article stays as it is.
    """
    words = check_prompt(name).lower().split()
    if words[0] in ("a", "an", "the"):
        return name
    if words[-1] in PAIRS:
        return f"a pair of {name}"
    return f"{'an' if _AN.match(words[0]) else 'a'} {name}"


def best_prompt(candidates: Sequence[str], logits: Sequence[Sequence[float]] | Any) -> str:
    """The candidate whose mean logit is highest, the first of equals.

    logits: (images, candidates). Raises ValueError where they do not fit. Chen et al., gScoreCAM,
    ACCV 2022.
    """
    rows = [list(map(float, row)) for row in logits]
    if not rows or not candidates or {len(row) for row in rows} != {len(candidates)}:
        raise ValueError(
            f"Got {len(candidates)} candidates and logits of {len(rows)} images; expected one "
            "logit for each candidate and image, and at least one of both."
        )
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return candidates[means.index(max(means))]


# ---------------------------------------------------------------- closed vocabularies


@dataclass(frozen=True)
class Knowledge:
    """What a model with a closed vocabulary knows of a prompt."""

    known: bool
    unknown_words: tuple[str, ...] = ()
    nearest: tuple[str, ...] = ()


class UnknownPromptWarning(UserWarning):
    """A prompt has words that the model has never seen; its map must not be trusted."""


def warn_of_unknown(model: str, prompt: Prompt, knowledge: Knowledge) -> None:
    """Warn whoever called our caller, where a model of that name does not know a prompt."""
    if not knowledge.known:
        warnings.warn(
            f"{model} does not know {', '.join(map(repr, knowledge.unknown_words))} in "
            f"'{label(prompt)}': do not trust this map. "
            f"Nearest names: {', '.join(knowledge.nearest)}.",
            UnknownPromptWarning,
            stacklevel=3,
        )


FILLERS = frozenset(
    "a an the of in on with and or my our your this that some one two several photo photograph "
    "picture image close up closeup cropped good bad blurry low resolution bright dark large small "
    "big there is are it".split()
)


def unknown_words(prompt: str, vocabulary: frozenset[str]) -> tuple[str, ...]:
    """Words of the prompt that no vocabulary name covers, longest names matched first.

    Pictures and other signs count as words, punctuation does not. A prompt in which no name occurs
    ("a photo of a", "???") is unknown as a whole.
    """
    words, names = _words(prompt), _names(vocabulary)
    longest = max((len(name.split()) for name in names), default=1)
    unknown: list[str] = []
    found = False
    i = 0
    while i < len(words):
        for n in range(min(longest, len(words) - i), 0, -1):
            if any(form in names for form in _singular(" ".join(words[i : i + n]))):
                found = True
                i += n
                break
        else:
            if words[i] not in FILLERS:
                unknown.append(words[i])
            i += 1
    return tuple(unknown) if unknown or found else (prompt.strip(),)


def _words(text: str) -> list[str]:
    """Words, and signs that are no punctuation; "box / carton" is two words, "t-shirt" one."""
    found = re.finditer(r"(\w+(?:['’.-]\w+)*)|[^\w\s]+", text.lower())
    return [m[0] for m in found if m[1] or not all(map(_is_punctuation, m[0]))]


def _is_punctuation(sign: str) -> bool:
    return sign.isascii() or unicodedata.category(sign).startswith("P")


@lru_cache(maxsize=8)
def _names(vocabulary: frozenset[str]) -> frozenset[str]:
    """The names as `_words` writes them, so that each model knows its own."""
    return frozenset(" ".join(_words(name)) for name in vocabulary)


def _singular(name: str) -> list[str]:
    rules = [("", ""), ("s", ""), ("es", ""), ("ies", "y"), ("ves", "fe"), ("ves", "f")]
    return [name[: len(name) - len(end)] + to for end, to in rules if name.endswith(end)]
