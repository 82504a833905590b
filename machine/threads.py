"""How many threads compute, on a machine that others may use too.

A small operation ends at a barrier, where torch's threads spin until all are there. A partner that a neighbour's
process has put aside comes a time slice later, and the spinning took the core that it needed: two threads for one
core's worth of time are far slower than one. Asleep they would not be in the way, but then an idle machine loses a
third of its speed to waking them (figures in benchmarks/README.md). So they spin, and are as many as there are cores to
be had.

The number of threads decides how sums are split, and so the last bits of what is learnt. It changes only when others
use the machine; one that was given (--threads, OMP_NUM_THREADS) or asked for with --deterministic never does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, process_time
from typing import TypeVar

T = TypeVar("T")
PERIOD = 1.0  # seconds over which it is measured what the machine gives
TOLERATED = 0.3  # of a core, that others may use before a thread is given up for them


def cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: those it may run on, or what its control groups (below `root`) give it."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([there, *(max(1, math.ceil(quota)) for quota in _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """Cores that each control group above this process allows, version 2 and 1."""
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds and "cpu" not in kinds.split(","):
                continue
            home = root / "sys/fs/cgroup" / ("cpu" if kinds else "")
            inner = Path(path.lstrip("/"))
            for folder in (home / inner, *(home / each for each in inner.parents)):
                with suppress(OSError, ValueError):  # the root has no limit; inside a container the path is another
                    if kinds:
                        allowed, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
                    else:
                        allowed, period = (folder / "cpu.max").read_text().split()
                    if allowed.strip() not in ("max", "-1"):
                        yield int(allowed) / int(period)


def idle_time(path: str = "/proc/stat") -> float | None:
    """Seconds, since some time, in which the cores of this process had nothing to do, added up; None where no system
    tells it."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    mine, ticks = {f"cpu{core}" for core in os.sched_getaffinity(0)}, []
    with suppress(OSError, ValueError):
        for line in Path(path).read_text().splitlines():
            name, *counts = line.split()
            if name in mine:
                ticks.append(int(counts[3]) + int(counts[4]))  # idle, and waiting for a disk
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None


class Crew:
    """The number of threads: as many as there were cores for that nobody else used, in two periods on end.

    That is what this process used itself and what was idle. One period alone may be somebody's passing command, for
    which no bits are to change.

    most: threads at most. apply: sets their number. say: is told the first time that it is another.
    """

    def __init__(self, most: int, apply: Callable[[int], None], say: Callable[[str], None] = print):
        self.most, self.apply, self.say = most, apply, say
        self.size = self.wanted = self.before = most  # now; inside `balanced`; by the last period alone
        self.began = self.now()

    @staticmethod
    def now() -> tuple[float, float, float]:
        """Seconds of the clock, of this process on all cores, and of idle cores."""
        return monotonic(), process_time(), idle_time() or 0.0

    def look(self, least: float = PERIOD) -> None:
        """Decide anew, if so many seconds have passed since the last time."""
        if monotonic() - self.began[0] >= least:
            ended = self.now()
            passed, used, idle = (after - before for after, before in zip(ended, self.began, strict=True))
            self.decide((used + idle) / passed)
            self.began = ended

    def decide(self, given: float) -> None:
        """There were `given` cores for this process."""
        found = max(1, min(self.most, math.floor(given + TOLERATED)))
        if min(found, self.before) > self.wanted or max(found, self.before) < self.wanted:
            self.wanted = found
        self.before = found

    def set(self, size: int) -> None:
        """So many threads from here on."""
        if size == self.size:
            return
        if size < self.most:
            self.say(
                f"Others use this machine: {size} of {self.most} threads while they do. Their number decides the last "
                f"bits of sums; --threads {self.most} keeps it."
            )
            self.say = lambda text: None
        self.size = size
        self.apply(size)


_crew: Crew | None = None  # of this process, where its number of threads may change


def choose(asked: int = 0, fixed: bool = False) -> None:
    """Compute with `asked` threads, with 0 with those of OMP_NUM_THREADS, else with one for each core of this process,
    and, unless `fixed`, in `balanced` loops with fewer while others use the cores."""
    global _crew
    import torch

    given = asked or os.environ.get("OMP_NUM_THREADS")
    most = asked or torch.get_num_threads() if given else min(torch.get_num_threads(), cores())
    if most != torch.get_num_threads():
        torch.set_num_threads(most)
    told = idle_time() is not None
    _crew = Crew(most, torch.set_num_threads) if told and most > 1 and not given and not fixed else None


def balanced(items: Iterable[T]) -> Iterator[T]:
    """`items`; what is done with each is computed with as many threads as the machine has cores for."""
    crew = _crew
    if crew is None:
        yield from items
        return
    try:
        crew.look(PERIOD / 4)  # since `choose`, or the end of the last loop
        for item in items:
            crew.set(crew.wanted)
            yield item
            crew.look()
    finally:
        crew.set(crew.most)
