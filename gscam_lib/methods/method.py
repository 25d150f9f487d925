"""What is known of a method beside its function; its options, and the one place that checks them.

A new method is a function (trace, prompt, *, options) -> (h, w) ≥ 0 in the file of its family, with
one line above it: its entry in METHODS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from numbers import Real
from operator import index
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from gscam_lib.model.network import TOWERS, Network
from gscam_lib.model.prompts import Prompt
from gscam_lib.trace import Trace

Function = Callable[..., Tensor]
F = TypeVar("F", bound=Function)

# ---------------------------------------------------------------- kinds of option


@dataclass(frozen=True)
class Range:
    """Numbers that an option may be: above low (or from it on, if closed) and at most high."""

    low: float
    closed: bool = True
    high: float = float("inf")

    def holds(self, value: float) -> bool:
        """Whether a number is in it; NaN and infinity never are."""
        above = value >= self.low if self.closed else value > self.low
        return above and value <= self.high and abs(value) != float("inf")

    def __str__(self) -> str:
        low = f"from {self.low:g} on" if self.closed else f"above {self.low:g}"
        return low if self.high == float("inf") else f"{low} and at most {self.high:g}"


Count = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0)]
Share = Annotated[float, Range(0, closed=False, high=1)]
Positive = Annotated[float, Range(0, closed=False)]
NotNegative = Annotated[float, Range(0)]


def _words(kind: Any) -> str:
    """A kind of option, as an error names it."""
    if kind is NoneType:
        return "None"
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is Annotated:
        base, limits = get_args(kind)
        return f"a {'whole ' if base is int else ''}number {limits}"
    if get_args(kind):
        return ", or ".join(map(_words, get_args(kind)))
    return "True or False" if kind is bool else str(kind)


def _taken(kind: Any, value: Any) -> Any:
    """A value as a kind of option takes it; ValueError or TypeError where it does not."""
    if kind is NoneType or kind is bool or get_origin(kind) is Literal:
        allowed = [None] if kind is NoneType else [False, True] if kind is bool else get_args(kind)
        return next(a for a in allowed if type(a) is type(value) and a == value)
    if get_origin(kind) is Annotated:
        base, limits = get_args(kind)
        truth = isinstance(value, bool) or getattr(value, "dtype", None) in (bool, torch.bool)
        if truth or (base is float and not isinstance(value, Real)):
            raise TypeError
        number = index(value) if base is int else float(value)
        if not limits.holds(number):
            raise ValueError
        return number
    for each in get_args(kind):  # a union
        try:
            return _taken(each, value)
        except (TypeError, ValueError, StopIteration):
            continue
    raise ValueError


def kinds_of(method: Function) -> dict[str, Any]:
    """Names of a method's options, its keyword-only parameters, and their annotations."""
    function = method.function if isinstance(method, Method) else method
    hints = get_type_hints(function, include_extras=True)
    return {name: hints[name] for name in options_of(function)}


def options_of(method: Function) -> dict[str, Any]:
    """Names of a method's options and their defaults."""
    parameters = signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is Parameter.KEYWORD_ONLY}


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the method takes them (NumPy's integers become Python's).

    Raises one ValueError that names all options which the method does not have or that are of
    another kind, and lists what it takes.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"No method {name!r}. There are: {', '.join(METHODS)}.")
    kinds = kinds_of(METHODS[name])
    taken: dict[str, Any] = {}
    bad: list[str] = []
    for option, value in options.items():
        try:
            taken[option] = _taken(kinds[option], value)
        except (KeyError, TypeError, ValueError, StopIteration):
            bad.append(option)
    if not bad:
        return taken
    given = ", ".join(f"{option}={options[option]!r}" for option in bad)
    takes = "; ".join(f"{option}, {_words(kind)}" for option, kind in kinds.items())
    unknown = [option for option in bad if option not in kinds]
    where = []
    for option in unknown:
        takers = [m.name for m in METHODS.values() if option in m.options]
        where.append(f" Methods that take {option}: {', '.join(takers) or 'none'}.")
    lacks = f", which takes no {' and no '.join(unknown)}" if unknown else ""
    raise ValueError(
        f"Got {given} for '{name}'{lacks}. Its options: {takes or 'none'}.{''.join(where)}"
    )


def check_k(k: int, channels: int) -> int:
    """Return k as an int, or raise ValueError if it is not a whole number from 1 to channels."""
    try:
        return int(_taken(Annotated[int, Range(1, high=channels)], k))
    except (TypeError, ValueError):
        raise ValueError(
            f"Got k={k!r}; expected a whole number of channels from 1 to {channels} (this layer's "
            "C). k=None takes the paper's share."
        ) from None


# ---------------------------------------------------------------- methods


@dataclass(frozen=True)
class Method:
    """A function (trace, prompt, *, options) -> (h, w) ≥ 0, callable as such, and its entry.

    forward, backward: passes through the image tower for one photo and prompt, the trace's own
    included; C channels, k chosen, N masks or samples, G groups, L blocks. as_released: the options
    with which the authors' own code runs, None where there is none to compare with; parity: how
    near the two then are, as the largest difference of maps in [0, 1], or how near a package is.
    Calling it raises ValueError on a tower it is not defined for, for options it does not take, and
    for a map with NaN.
    """

    name: str
    function: Function
    title: str
    family: str
    paper: str
    year: int
    forward: str = "1"
    backward: str = "0"
    towers: tuple[str, ...] = tuple(TOWERS)
    uses_prompt: bool = True
    as_released: Mapping[str, Any] | None = field(default=None, hash=False)
    parity: str = ""

    def __post_init__(self) -> None:
        # So that inspect.signature and help() see the function.
        object.__setattr__(self, "__signature__", signature(self.function))
        object.__setattr__(self, "__doc__", self.function.__doc__)

    @property
    def options(self) -> dict[str, Any]:
        """Names of the options and their defaults."""
        return options_of(self.function)

    @property
    def slow(self) -> bool:
        """Whether it needs forward passes for every channel, or for many masks."""
        return "C" in self.forward or "N" in self.forward

    @torch.inference_mode(False)  # gradients flow, whatever the caller's mode
    def __call__(self, trace: Trace, prompt: Prompt, **options: Any) -> Tensor:
        """Return the map (h, w) ≥ 0 of a prompt on a traced photo."""
        check_trace(trace)
        taken = check_options(self.name, options)
        self.check_tower(trace.model)
        return finite(trace, self.function(trace, prompt, **taken), "map")

    def check_tower(self, model: Network) -> None:
        """Raise ValueError where the method is not defined for a model's image tower."""
        if model.tower not in self.towers:
            fits = [m.name for m in METHODS.values() if model.tower in m.towers]
            raise ValueError(
                f"'{self.name}' is defined for image towers of kind {', '.join(self.towers)}; "
                f"{model.name} is {TOWERS[model.tower]} ('{model.tower}'). "
                f"Methods for it: {', '.join(fits)}."
            )


METHODS: dict[str, Method] = {}
"""Name to method: callable as METHODS[name](trace, prompt), with its entry in the table."""


def method(
    title: str, paper: str, year: int, *, name: str | None = None, **entry: Any
) -> Callable[[F], F]:
    """Put a function into METHODS; its file is its family, its name the method's if none is given.

    entry: fields of `Method`. The function itself stays as it is.
    """

    def put(function: F) -> F:
        own = name or function.__name__
        family = function.__module__.rpartition(".")[2]
        METHODS[own] = Method(own, function, title, family, paper, year, **entry)
        return function

    return put


def finite(trace: Trace, values: Tensor, what: str) -> Tensor:
    """Return values of a trace, or raise ValueError if they have NaN or infinity."""
    if not values.isfinite().all():
        raise ValueError(
            f"The {what} on {trace.model.name} has NaN or infinite values; expected finite "
            "numbers. The weights or the photo's pixels are likely not finite."
        )
    return values


def check_trace(trace: Any) -> Trace:
    """Return a trace, or raise ValueError if it is something else."""
    if not isinstance(trace, Trace):
        raise ValueError(
            f"Got {type(trace).__name__} as trace; expected a Trace: "
            "trace = gs.load_model(…).trace(photo)."
        )
    return trace
