"""From a prompt to what each of its words adds to the score: the other half of a heatmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gscam_lib.model.network import Network
from gscam_lib.model.prompts import Prompt, Target, as_target, warn_of_unknown
from gscam_lib.model.text import Span, cut, embed, pieces, with_leaf, without
from gscam_lib.model.towers import Seen, gradients, side_by_side, text_blocks, watch
from gscam_lib.trace import Trace

Found = tuple[list[Span], Tensor]


@dataclass(frozen=True, eq=False)
class Words:
    """What each word of a prompt adds to its score on one photo, by one method.

    words: as they are written in the prompt, (W,); values: (W,) float64, in the unit of the score,
    below 0 where a word speaks against it; Grad-ECLIP's are shares that sum to 1 (or all 0); logit:
    of the whole prompt; title: the method as figures write it.
    """

    words: tuple[str, ...]
    values: np.ndarray[Any, Any]
    logit: float
    prompt: str
    method: str
    title: str
    model: str

    @property
    def table(self) -> list[tuple[str, float]]:
        """(word, value) in the order of the prompt."""
        return list(zip(self.words, self.values.tolist(), strict=True))


def words(
    trace: Trace,
    prompt: Prompt,
    method: str = "leaveoneout",
    *,
    parts: Sequence[str] | None = None,
) -> Words:
    """What each word of a prompt adds to the logit of a traced photo.

    prompt: a sentence, or a Target of one sentence, whose `against` make the score the log softmax
    among them. method: "leaveoneout" (exact: the score minus that of the sentence without the word;
    for every text tower), "gradientxinput" or "gradeclip", which weigh words together whose tokens
    cannot be told apart; parts: pieces to weigh instead of words, in the order of the sentence
    ("tennis racket"). Warns with UnknownPromptWarning as `heatmap` does; a model with a closed
    vocabulary may never have met the shorter sentences either. Raises ValueError for prompts
    without a sentence of their own, unknown methods, and towers that a method cannot read.
    """
    name = method.strip().lower() if isinstance(method, str) else ""
    if name not in WORD_METHODS:
        raise ValueError(f"Got the method {method!r}; expected one of {', '.join(WORD_METHODS)}.")
    if not isinstance(trace, Trace):
        raise ValueError(f"Got {type(trace).__name__}; expected a trace, as model.trace gives.")
    target = as_target(prompt)
    if len(target.prompts) != 1:
        raise ValueError(
            f"Got the target '{target.name}' of {len(target.prompts)} sentences; expected one, "
            "whose words can be weighed."
        )
    sentence = target.prompts[0]
    logit = trace.logit(prompt)  # says what is wrong with it, before anything is taken apart
    warn_of_unknown(trace.model.name, prompt, trace.model.knows(prompt))
    title, weigh = WORD_METHODS[name]
    with torch.inference_mode(False):
        spans, values = weigh(trace, target, cut(sentence, parts))
    said = tuple(sentence[a:b] for a, b in spans)
    found = values.detach().double().cpu().numpy()
    return Words(said, found, logit, target.name, name, title, trace.model.name)


# ---------------------------------------------------------------- methods


def _score(trace: Trace, target: Target, unit: Tensor) -> Tensor:
    """Score of a sentence's unit embedding (D,) in the place of the target's own."""
    model = trace.model
    rows = [unit, *(model.encode_text(target.against) if target.against else ())]
    return model.compare(trace.embedding[None].detach(), torch.stack(rows))[0]


def leave_one_out(trace: Trace, target: Target, spans: list[Span]) -> Found:
    """Leave one word out: s(t) − s(t without it), (W,); of one word alone, minus s of nothing.

    Li et al., Understanding Neural Networks through Representation Erasure, 2016.
    """
    sentence, model = target.prompts[0], trace.model
    left = [without(sentence, span) for span in spans]
    with torch.no_grad():
        units = iter(model.encode_text([sentence, *filter(None, left)]))  # in one batch
        whole = _score(trace, target, next(units))
        shorter = [next(units) if text else _nothing(model) for text in left]
        return spans, torch.stack([whole - _score(trace, target, unit) for unit in shorter])


def _nothing(model: Network) -> Tensor:
    """Unit embedding (D,) of the empty sentence: start and end alone."""
    length = model.tokenize(["a"]).shape[1]
    return embed(model, model.tokenizer([""], context_length=length))[0]


def gradient_x_input(trace: Trace, target: Target, spans: list[Span]) -> Found:
    """Gradient × input: Σ over a word's tokens of ∂s/∂e · e, e the token's embedding: (W,).

    The first term of the score's change if the word's embeddings went to zero. Shrikumar et al.,
    Not Just a Black Box, 2016.
    """
    read = pieces(trace.model, target.prompts[0], spans)
    with torch.enable_grad():
        leaf, unit = with_leaf(trace.model, read.ids, lambda: embed(trace.model, read.ids))
        score = _score(trace, target, unit[0])
    each = (gradients(score, [leaf])[0] * leaf).detach()[0].sum(1)
    return read.spans, torch.stack([each[list(tokens)].sum() for tokens in read.tokens])


def grad_eclip(trace: Trace, target: Target, spans: list[Span]) -> Found:
    """Grad-ECLIP on the text side: ReLU(Σ_blocks Σ_d ∂s/∂o_d · v_i,d · λ_i), as shares: (W,) ≥ 0.

    In each of the last two thirds of the blocks (the authors' 8 of 12): o (W,) the mixed values of
    the token that becomes the embedding, v_i the value of token i, λ_i the min-maxed cosine of that
    token's query with key i, over the tokens that it may look at. As the network has it, with all
    its heads (the authors' code gives every block a single one, and min-maxes over padding too).
    Zhao et al., Gradient-based Visual Explanation for CLIP, ICML 2024, and its released code.
    """
    model, blocks = trace.model, text_blocks(trace.model.network)
    if not blocks:
        raise ValueError(
            f"Grad-ECLIP reads the attention of open_clip's text transformer; {model.name} has "
            "another text tower. Use method='leaveoneout' or 'gradientxinput'."
        )
    read = pieces(model, target.prompts[0], spans)
    seen: list[Seen] = []

    def run() -> Tensor:
        kept, unit = watch(blocks, lambda: embed(model, read.ids))
        seen.extend(kept)
        return unit

    with torch.enable_grad():
        leaf, unit = with_leaf(model, read.ids, run)
        score = _score(trace, target, unit[0])
    chosen = seen[-max(1, round(2 / 3 * len(seen))) :]
    found = gradients(score, [block.mixed for block in chosen])
    end = _pooled(model, found[-1])
    each = torch.zeros(len(found[-1])).to(leaf)
    for block, gradient in zip(chosen, found, strict=True):
        q, k, v = (side_by_side(x.detach()) for x in block.heads[1:])
        looked = block.attention.detach()[:, end].amax(0) > 0
        cosine = F.cosine_similarity(q[end : end + 1], k, dim=1)
        low, high = cosine[looked].min(), cosine[looked].max()
        loose = (cosine - low) / (high - low + 1e-12) * looked
        each = each + (v @ gradient[end]) * loose
    each = each.relu()
    values = torch.stack([each[list(tokens)].sum() for tokens in read.tokens])
    return read.spans, values / values.sum().clamp(min=1e-12)


def _pooled(model: Network, gradient: Tensor) -> int:
    """Which token becomes the embedding: the only one of the last block (N, W) with a gradient."""
    used = gradient.abs().amax(1).nonzero().flatten().tolist()
    if len(used) != 1:
        raise ValueError(
            f"Grad-ECLIP needs one token that becomes the embedding; {model.name} mixes "
            f"{len(used)}. Use method='leaveoneout' or 'gradientxinput'."
        )
    return int(used[0])


WORD_METHODS: dict[str, tuple[str, Callable[[Trace, Target, list[Span]], Found]]] = {
    "leaveoneout": ("Leave one out", leave_one_out),
    "gradientxinput": ("Gradient × input", gradient_x_input),
    "gradeclip": ("Grad-ECLIP", grad_eclip),
}
"""Method -> its title and its function: name, (trace, target, spans) -> (spans, values)."""
