"""Sentences that depend on numbers: shown as Markdown, and recorded where they are shown."""

from __future__ import annotations

from typing import Any

import numpy as np

CLAIM = "claim"  # key in the metadata of a notebook's output


def say(text: str, holds: bool, model: Any, *, otherwise: str = "") -> None:
    """Show a sentence made from values; where it does not hold for this model, say that instead.

        say(f"gScoreCAM hits {a:.0%} of {n} questions, Grad-CAM {b:.0%}.", a > b, model)

    text: Markdown, its numbers from values (an f-string), naming data and n; holds: whether what
    it claims is true of them; model: a Model or a name; otherwise: the sentence for values of
    which the claim is not true; without it, the text is shown as not true of the model. The
    notebook's output records sentence, holds and model, so that a test can list all claims.
    Errors: ValueError for holds that is neither true nor false.
    """
    from IPython.display import Markdown, display

    name = str(getattr(model, "name", model))
    if not isinstance(holds, bool | np.bool_):
        raise ValueError(f"Got holds={holds!r} for {text!r}; expected True or False, as a > b is.")
    shown = text if holds else otherwise or f"**Not true of {name}:** {text}"
    record = {"text": shown, "holds": bool(holds), "model": name}
    display(Markdown(shown), metadata={CLAIM: record})  # type: ignore[no-untyped-call]
