"""Which numbers a flag, a field of a recipe or an argument takes: declared beside it once, told and checked from there.

A flag or a field is given its `Range`; an argument is annotated with a `Number` (``k1: Neighbours = 20``), and
`checked` holds a function to what its annotations declare.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; without `low` itself if `above`, without `high` if `below`. NaN is in no range."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        if not -math.inf < value < math.inf:
            return False
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        if self == FINITE:
            return ""
        low, high = (f"{end:,}" if isinstance(end, int) else f"{end:g}" for end in (self.low, self.high))
        return f"{'above ' * self.above}{low} to {'below ' * self.below}{high}"


FINITE = Range()
SHARE = Range(0, 1)
WEIGHT = Range(0, 1_000_000)
POSITIVE = Range(0, 1_000_000, above=True)
EPOCHS = Range(1, 100_000)
SEEDS = Range(0, 2**32 - 1)
FRACTION = Range(0, 1, below=True)
MARGIN = Range(0, 1_000)  # of a triplet; threshold of two losses' ratio
ANGLE = Range(0, 3)  # margin of a cosine or its angle
FOCUS = Range(0, 100)  # exponent of a focal loss
NEWEST = Range(0, 1, above=True)  # its share in a running mean


@dataclass(frozen=True)
class Number:
    """Numbers of `kind`, int or float, within a range. Called with a text it reads it: a ``type`` of argparse."""

    kind: type
    within: Range = FINITE
    word: str = ""  # which, like "none", stands for None where there is one

    def __call__(self, text: str) -> float | None:
        if self.word and text.lower() in (self.word, "none"):
            return None
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        if value not in self.within:
            raise argparse.ArgumentTypeError(f"expected {self}, found {text[:40]!r}")
        return value

    def check(self, name: str, value: Any) -> None:
        """ValueError that names `name` if `value` is no such number."""
        of_kind = isinstance(value, numbers.Integral if self.kind is int else numbers.Real)
        if isinstance(value, bool) or not of_kind or value not in self.within:
            raise ValueError(f"{name} is {value!r}, expected {self}")

    def __str__(self) -> str:
        kind, within = "a whole number" if self.kind is int else "a number", str(self.within)
        return kind + (f" ({within})" if within else "") + (f" or {self.word}" if self.word else "")


NEIGHBOURS = Number(int, Range(1, 1_000))  # k1 and k2 of re-ranking, k of query expansion, images of a list
ALPHA = Number(float, Range(0, 100))  # of query expansion
RANKS = Number(int, Range(1, 1_000_000))
MEMORY = Number(float, Range(0, 100_000, above=True))  # GiB

Width = Annotated[int, Number(int, Range(1, 65_536))]  # of features
WidthOrNone = Annotated[int, Number(int, Range(0, 65_536))]  # 0: no such feature
Few = Annotated[int, Number(int, Range(1, 64))]  # parts, groups, strides
OneOrTwo = Annotated[int, Number(int, Range(1, 2))]  # the stride of a stage
Blocks = Annotated[int, Number(int, Range(0, 64))]  # of a stage
Count = Annotated[int, Number(int, Range(1, 2**31))]  # of identities
Members = Annotated[int, Number(int, Range(2, 8))]  # that learn from each other
Fraction = Annotated[float, Number(float, FRACTION)]
Dropout = Fraction
Spread = Annotated[float, Number(float, Range(0, 10))]  # standard deviation of initial weights
Share = Annotated[float, Number(float, SHARE)]
Margin = Annotated[float, Number(float, MARGIN)]
Angle = Annotated[float, Number(float, ANGLE)]
Positive = Annotated[float, Number(float, POSITIVE)]
Focus = Annotated[float, Number(float, FOCUS)]
Newest = Annotated[float, Number(float, NEWEST)]
Seed = Annotated[int, Number(int, SEEDS)]
Neighbours = Annotated[int, NEIGHBOURS]
Ranks = Annotated[int, RANKS]


def of(function: Callable) -> dict[str, Number]:
    """The arguments whose annotations hold a `Number`, also within a tuple, a sequence or ``| None``."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # somebody's annotation that names what is not there
        return {}
    found = {name: _number(hint) for name, hint in hints.items()}
    return {name: number for name, number in found.items() if number is not None}


def _number(hint: Any) -> Number | None:
    if isinstance(hint, Number):
        return hint
    parts = (*getattr(hint, "__metadata__", ()), *typing.get_args(hint))
    return next(filter(None, map(_number, parts)), None)


Function = TypeVar("Function", bound=Callable)


def checked(function: Function) -> Function:
    """`function`, which now raises ValueError for a number that its annotation does not admit (None passes)."""
    signature = inspect.signature(function)
    declared = functools.cache(lambda: of(function))  # when it is first called: annotations may name what comes later

    @functools.wraps(function)
    def call(*args, **kwargs):
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if value is not None and name in declared():
                declared()[name].check(name, value)
        return function(*args, **kwargs)

    return typing.cast(Function, call)


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type `hint`; an int is a float too, but a bool is no number."""
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if hint is Callable or kind is Callable:
        return callable(value)
    if kind is types.UnionType or kind is typing.Union:
        return any(fits(value, part) for part in parts)
    if kind is dict:
        return isinstance(value, dict) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if kind is tuple:
        each = [parts[0]] * len(value) if Ellipsis in parts and isinstance(value, tuple) else parts
        return isinstance(value, tuple) and len(value) == len(each) and all(map(fits, value, each))
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    return isinstance(value, hint)
