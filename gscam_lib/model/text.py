"""A sentence in the text tower: its words, the tokens of each, and their embeddings with gradients.

Knows tokenizers by what they give back alone: (texts, context_length) -> (P, L) ids.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gscam_lib.model.network import Network

Span = tuple[int, int]
UNSPACED = ("CJK ", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts, by the names of their letters, that put no spaces between words."""


# ---------------------------------------------------------------- words


def cut(sentence: str, parts: Sequence[str] | None = None) -> list[Span]:
    """Where the words of a sentence begin and end.

    Words stand between spaces, with their punctuation; in scripts without spaces each letter is one
    (with its marks). parts: other pieces, such as "tennis racket", in the order of the sentence;
    raises ValueError for one that is not there.
    """
    if parts is not None:
        return _places(sentence, parts)
    spans: list[Span] = []
    for chunk in re.finditer(r"\S+", sentence):
        start = chunk.start()
        for i in range(chunk.start() + 1, chunk.end()):
            if not _leans(sentence[i]) and (_alone(sentence[i]) or _alone(sentence[i - 1])):
                spans.append((start, i))
                start = i
        spans.append((start, chunk.end()))
    return spans


def _places(sentence: str, parts: Sequence[str]) -> list[Span]:
    spans, at = [], 0
    for part in [parts] if isinstance(parts, str) else parts:
        start = sentence.find(part, at)
        if not part.strip() or start < 0:
            raise ValueError(
                f"Got the part {part!r}, which is not in {sentence[at:]!r}; expected parts of the "
                "sentence, in its order."
            )
        at = start + len(part)
        spans.append((start, at))
    if not spans:
        raise ValueError("Got no parts; expected pieces of the sentence, or None for its words.")
    return spans


def _alone(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(UNSPACED)


def _leans(letter: str) -> bool:
    """Whether a sign belongs to the letter before it: marks, signs of length, punctuation."""
    return unicodedata.category(letter)[0] in "MP" or unicodedata.category(letter) == "Lm"


def without(sentence: str, span: Span) -> str:
    """The sentence without one of its words."""
    return " ".join((sentence[: span[0]] + sentence[span[1] :]).split())


# ---------------------------------------------------------------- tokens


class Pieces(NamedTuple):
    """The ids (1, L) of a sentence; words that have tokens of their own, and where those stand."""

    ids: Tensor
    spans: list[Span]
    tokens: list[range]


def pieces(model: Network, sentence: str, spans: Sequence[Span]) -> Pieces:
    """Which tokens each word became; words that share one are one. Start and end are no words.

    Raises ValueError for a tokenizer that fills up at the start.
    """
    if model.pads_at_start:
        raise ValueError(
            f"Got {model.name}, whose tokenizer fills sentences up at the start; the tokens of a "
            "word are told apart where it does so at the end. Method 'leaveoneout' needs no tokens."
        )
    ids = model.tokenize([sentence])
    places = sorted({place for span in spans for place in span})
    starts = [sentence[:place].rstrip() for place in places]
    few = model.tokenizer(["", *starts], context_length=ids.shape[1])
    empty, whole = few[0], ids[0]
    first = int((whole != empty).int().argmax())  # after what opens every sentence
    end = first + _length(whole[first:], empty[first:])
    found, clean = {}, {}
    for place, start in zip(places, few[1:], strict=True):
        found[place] = first + _length(start[first:], empty[first:])
        clean[place] = torch.equal(start[: found[place]], whole[: found[place]])
    joined: list[Span] = []
    for a, b in spans:
        if joined and not clean[a]:  # its first token began in the word before
            a = joined.pop()[0]
        joined.append((a, b))
    return Pieces(ids, joined, [range(found[a], min(found[b], end)) for a, b in joined])


def _length(row: Tensor, empty: Tensor) -> int:
    """How many tokens stand before what ends and fills up an empty sentence."""
    same = (n for n in range(len(row)) if torch.equal(row[n:], empty[: len(row) - n]))
    return next(same, len(row))


# ---------------------------------------------------------------- the tower


def embed(model: Network, ids: Tensor) -> Tensor:
    """Embeddings (P, D), unit length, of (P, L) ids, with gradients where they are enabled."""
    with model.running():
        features = model.network.encode_text(ids.to(model.device)).float()
    unit: Tensor = nn.functional.normalize(features, dim=-1)
    return unit


def with_leaf(model: Network, ids: Tensor, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """The embeddings (1, L, W) of the tokens, as a leaf of the graph of what `run` gives; and that.

    Raises ValueError for towers that look no tokens up.
    """
    leaves: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        same = inputs[0].shape == ids.shape and torch.equal(inputs[0].cpu(), ids.cpu())
        if leaves or not same:  # such as the embedding of places
            return None
        leaves.append(output.detach().requires_grad_(True))
        return leaves[0]

    visual = set(model.network.visual.modules())
    with ExitStack() as stack:
        for module in model.network.modules():
            if isinstance(module, nn.Embedding) and module not in visual:
                stack.callback(module.register_forward_hook(hook).remove)
        result = run()
    if not leaves:
        raise ValueError(
            f"The text tower of {model.name} looks up no token embeddings; use "
            "method='leaveoneout', which runs every text tower."
        )
    return leaves[0], result
