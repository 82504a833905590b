"""How a built-in data set is made: planned, drawn by several processes, and kept whole in the cache."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from machine import files
from machine.progress import Progress
from machine.threads import cores

HOME = Path(__file__).parents[1]  # from where `python -m synthetic.kind` is found
SMALL_SET = 300  # JPEGs that are drawn before further processes have started


@dataclass(frozen=True)
class Kind:
    """A built-in data set.

    `plan(seed, **sizes)` lists its jobs by camera, `draw(folder, seed, job)` writes the JPEGs of one job, `count(seed,
    job)` says how many of them go to which top folder, and `finish(folder, **sizes)` writes the rest.
    """

    name: str
    version: int  # part of the cache folder's name: raise it whenever a pixel of the default set changes
    sizes: dict[str, int]
    plan: Callable[..., list[tuple]]
    draw: Callable[[Path, int, tuple], None]  # a function of a module: the processes import it by its name
    count: Callable[[int, tuple], tuple[str, int]]
    finish: Callable[..., None] = lambda folder, **sizes: None
    may_be_none: frozenset[str] = frozenset()  # the sizes that can be 0

    def make(self, root, seed: int = 0, *, processes: int | None = None, progress: bool = True, **sizes: int) -> Path:
        """Draws the set into `root`, a new or empty folder, and returns it. `sizes` replace some of `self.sizes`.

        The bytes depend on the seed and the sizes only (and on the versions of Pillow and numpy), not on `processes`:
        None is one per core, at most 4; small sets are drawn in this process.
        Raises ValueError for a folder that is not empty or impossible sizes, OSError or RuntimeError if writing fails.
        """
        root, sizes = Path(root), self._checked(seed, sizes)
        jobs = self.plan(seed, **sizes)
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise ValueError(f"{root} is not empty; name a new folder for the built-in data set")
        processes = processes or _default_processes(sum(count for _, count in (self.count(seed, job) for job in jobs)))
        with Progress(len(jobs), f"drawing {self.name}", "drawings", shown=progress) as bar:
            if processes > 1 and sys.executable:
                _draw_in_processes(self, root, seed, jobs, processes, bar.update)
            else:
                for job in jobs:
                    self.draw(root, seed, job)
                    bar.update()
        self.finish(root, **sizes)
        return root

    def ensure(self, root=None, seed: int = 0, *, progress: bool = True, **sizes: int) -> Path:
        """Makes the set once and returns its folder: `root`, or `cache_folder(seed)`. `sizes` are those of `make`.

        It is drawn under a temporary name beside the folder and then renamed, so the folder is whole or absent, also
        when two processes make it at the same time. Raises RuntimeError if the place cannot be written, or if the
        folder holds something else.
        """
        root = self.cache_folder(seed) if root is None else Path(root)
        expected: Counter[str] = Counter()
        for job in self.plan(seed, **self._checked(seed, sizes)):
            folder, count = self.count(seed, job)
            expected[folder] += count
        if _is_whole(root, expected):
            return root
        temporary = None
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(root)
            temporary = Path(tempfile.mkdtemp(prefix=f"{root.name}.part-", dir=root.parent))
            self.make(temporary, seed, progress=progress, **sizes)
            temporary.chmod(0o755)  # mkdtemp's folders are private
            if not _is_whole(root, expected):  # else another process was faster
                if root.is_dir():
                    root.rmdir()  # empty, as _is_whole made sure
                os.replace(temporary, root)
        except OSError as error:
            if _is_whole(root, expected):  # the other process renamed its own between our look and our rename
                return root
            raise RuntimeError(files.refusal(root, error, f"--{self.name}_path or XDG_CACHE_HOME")) from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
        return root

    def cache_folder(self, seed: int = 0) -> Path:
        """Where `ensure` keeps the set of a seed: below $XDG_CACHE_HOME, or ~/.cache where that is not set."""
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache) / "reid_suite" / f"{self.name}-v{self.version}-seed{seed}"

    def _checked(self, seed: int, sizes: dict[str, int]) -> dict[str, int]:
        """All sizes, or ValueError."""
        if seed < 0:
            raise ValueError(f"the seed of the built-in data set is {seed}, expected 0 or more")
        sizes = {**self.sizes, **sizes}
        too_small = [name for name, size in sizes.items() if size < (name not in self.may_be_none)]
        if set(sizes) != set(self.sizes) or too_small or not 2 <= sizes.get("num_cameras", 2) <= 6:
            zero = f" ({', '.join(sorted(self.may_be_none))}: of at least 0)" if self.may_be_none else ""
            raise ValueError(f"{self.name} takes {', '.join(self.sizes)} of at least 1{zero}, 2 to 6 cameras: {sizes}")
        return sizes


def _draw_in_processes(kind: Kind, root: Path, seed: int, jobs: Sequence[tuple], processes: int, done) -> None:
    """Each process draws a consecutive share of the plan, which keeps most panoramas to one process.

    Plain subprocesses of this module, which read what to draw: no fork under threads, and the caller's main module is
    not imported once more. Each writes one byte per job into a shared pipe, which ends when the last process has ended.
    """
    edges = [len(jobs) * i // processes for i in range(processes + 1)]
    reader, writer = os.pipe()
    workers = []
    with tempfile.TemporaryFile() as errors, os.fdopen(reader, "rb", buffering=0) as progress:
        try:
            for first, last in zip(edges, edges[1:], strict=False):
                with tempfile.TemporaryFile() as share:
                    pickle.dump((kind.draw, root.resolve(), seed, jobs[first:last]), share)
                    share.seek(0)
                    command = [sys.executable, "-m", "synthetic.kind"]
                    workers.append(subprocess.Popen(command, cwd=HOME, stdin=share, stdout=writer, stderr=errors))
            os.close(writer)
            writer = -1
            while count := len(progress.read(256)):
                done(count)
            failed = any([worker.wait() for worker in workers])
        finally:
            if writer >= 0:
                os.close(writer)
            for worker in workers:
                worker.kill()
                worker.wait()
        if failed:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise RuntimeError(f"drawing the built-in data set into {root} failed: {lines[-1]}")


def _draw_share() -> None:
    """One process of `_draw_in_processes`."""
    draw, root, seed, jobs = pickle.load(sys.stdin.buffer)
    for job in jobs:
        draw(root, seed, job)
        os.write(1, b".")


def _default_processes(num_images: int) -> int:
    """One per core, at most 4; one for a small set."""
    return min(4, cores()) if num_images > SMALL_SET else 1


def _is_whole(root: Path, expected: dict[str, int]) -> bool:
    """True for a finished set, False for nothing; anything else is not ours to delete and is an error."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    found = {folder: len(list((root / folder).rglob("*.jpg"))) for folder in expected}
    if found != expected:
        raise RuntimeError(
            f"{root} is not the built-in data set as this version makes it: found {found}, expected {dict(expected)} "
            "JPEGs. Delete that folder, or name another, and run again"
        )
    return True


def _remove_abandoned(root: Path, age: float = 3600) -> None:
    """Deletes what interrupted attempts left; a younger one may belong to a process that is still drawing."""
    for leftover in root.parent.glob(f"{root.name}.part-*"):
        if time.time() - leftover.stat().st_mtime > age:
            shutil.rmtree(leftover, ignore_errors=True)


if __name__ == "__main__":
    _draw_share()
