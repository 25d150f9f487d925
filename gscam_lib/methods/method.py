"""What is known of a method beside its function: its family, towers, cost and source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from gscam_lib.model.prompts import Prompt
from gscam_lib.trace import Trace

Function = Callable[..., Tensor]
TOWERS = ("resnet", "cnn", "vit", "pooled-vit")
"""Kinds of image tower, as `Model.tower` names them."""


@dataclass(frozen=True)
class Method:
    """A function (trace, prompt, *, options) -> (h, w) ≥ 0, callable as such, and its entry.

    forward, backward: passes through the image tower for one photo and prompt, the trace's own
    included; C channels, k chosen, N masks or samples, G groups, L blocks. Calling it raises
    ValueError on a tower it is not defined for, and for options it does not have.
    """

    name: str
    function: Function
    title: str
    family: str
    paper: str
    year: int
    forward: str = "1"
    backward: str = "0"
    towers: tuple[str, ...] = TOWERS
    uses_prompt: bool = True

    def __post_init__(self) -> None:
        # So that inspect.signature and help() see the function.
        object.__setattr__(self, "__signature__", signature(self.function))
        object.__setattr__(self, "__doc__", self.function.__doc__)

    @property
    def options(self) -> dict[str, Any]:
        """Names of the options and their defaults."""
        return options_of(self)

    @property
    def slow(self) -> bool:
        """Whether it needs forward passes for every channel, or for many masks."""
        return "C" in self.forward or "N" in self.forward

    @torch.inference_mode(False)  # gradients flow, whatever the caller's mode
    def __call__(self, trace: Trace, prompt: Prompt, **options: Any) -> Tensor:
        """Return the map (h, w) ≥ 0 of a prompt on a traced photo."""
        from gscam_lib.methods import METHODS  # the whole table, for what errors recommend

        check_options(self.name, METHODS, options)
        if trace.model.tower not in self.towers:
            fits = [m.name for m in METHODS.values() if trace.model.tower in m.towers]
            raise ValueError(
                f"'{self.name}' is defined for image towers of kind {', '.join(self.towers)}; "
                f"{trace.model.name} is a {trace.model.tower}. Methods for it: {', '.join(fits)}."
            )
        return self.function(trace, prompt, **options)


def options_of(method: Function) -> dict[str, Any]:
    """Names of a method's options, its keyword-only parameters, and their defaults."""
    parameters = signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is Parameter.KEYWORD_ONLY}


def check_options(name: str, table: Mapping[str, Function], options: Mapping[str, Any]) -> None:
    """Raise ValueError if there is no such method, or if it has no such option."""
    if name not in table:
        raise ValueError(f"No method '{name}'. There are: {', '.join(table)}.")
    known = options_of(table[name])
    for option, value in options.items():
        if option not in known:
            takers = [other for other, method in table.items() if option in options_of(method)]
            raise ValueError(
                f"Got {option}={value!r} for '{name}', which takes no {option}"
                f"{' but ' + ', '.join(known) if known else ' and no other option'}. Methods that "
                f"take it: {', '.join(takers) or 'none'}."
            )
