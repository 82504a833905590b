"""How far a long piece of work has come: a bar in a terminal, a line now and then where nobody looks at one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic
from typing import TypeVar

from tqdm import tqdm

EVERY = 30.0  # seconds between lines: printed as work is done, so that work in pieces of 30 s has its line a minute

T = TypeVar("T")


class Progress:
    """Told of what is done by `update`: on a terminal tqdm's bar, elsewhere every `EVERY` seconds a line with the speed
    since the last one and the time that is left at that speed.

    A bar goes to stderr; a line is printed, and so stands in the log of a run. Short work prints nothing.

    total: pieces of work. label: what it is. unit: pieces, in the plural. done: those behind it already. after: those
    that follow on the last one, for the line. shown: False where another process speaks.
    """

    def __init__(
        self, total: int, label: str, unit: str = "images", *, done: int = 0, after: int = 0, shown: bool = True
    ):
        self.total, self.label, self.unit, self.done, self.after = total, label, unit, done, after
        self.bar = self.told_at = None
        if shown and sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=done, desc=label, unit=f" {unit}", leave=False, dynamic_ncols=True)
        elif shown:
            self.told_at = monotonic()
        self.pieces = self.images = 0  # since `told_at`
        self.numbers: dict[str, float] = {}

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error) -> None:
        if self.bar is not None:
            self.bar.close()

    def over(self, items: Iterable[T], images: Callable[[T], int] | None = None) -> Iterator[T]:
        """`items`, each of them a piece of so many `images`, which is done when the next is asked for."""
        with self:
            for item in items:
                yield item
                self.update(images=images and images(item))

    def tell(self, numbers: Mapping[str, float]) -> None:
        """What is to stand behind the speed."""
        self.numbers = dict(numbers)
        if self.bar is not None:
            self.bar.set_postfix({name: f"{number:.3f}" for name, number in numbers.items()})

    def update(self, pieces: int = 1, images: int | None = None) -> None:
        """So many more `pieces` are done; they were `images`, where a piece is not one."""
        self.done += pieces
        self.pieces += pieces
        self.images += pieces if images is None else images
        if self.bar is not None:
            self.bar.update(pieces)
        if self.told_at is not None and self.done < self.total and (passed := monotonic() - self.told_at) >= EVERY:
            print(self.line(passed), flush=True)
            self.told_at += passed
            self.pieces = self.images = 0

    def line(self, seconds: float) -> str:
        """One line for people; `seconds` have passed since the last."""
        unit, each = (self.unit, self.pieces) if self.images == self.pieces else ("images", self.images)
        left = (self.total - self.done) * seconds / self.pieces
        later = f", {duration(left + self.after * seconds / self.pieces)} in all" if self.after else ""
        numbers = "".join(f"  {name} {number:.4f}" for name, number in self.numbers.items())
        return (
            f"{self.label}  {self.done:,} of {self.total:,} {self.unit}  {each / seconds:.1f} {unit}/s{numbers}  "
            f"{duration(left)} left{later}"
        )


def duration(seconds: float) -> str:
    """A time as people say it: 45 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
