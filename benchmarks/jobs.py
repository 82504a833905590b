"""Trainings from a list: run side by side, gone on with, and written as rows of the results file.

For the lists in `reproduce.py` and `learn.py`; no script of its own.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / "docs"):  # what a script of this folder does not find by itself
    sys.path.insert(0, str(folder))
sys.path.append(str(ROOT / "benchmarks"))  # behind them: it has modules of the same names

from options import COLUMNS  # noqa: E402


@dataclass(frozen=True)
class Experiment:
    """One line of a list: what is trained, and what its source reports."""

    group: str
    what: str
    flags: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    published: str = ""  # of this very run: rank-1 / mAP in percent
    source: str = ""
    baseline: str = ""  # `what` of the experiment that this one is a step from
    theirs: tuple[str, str] = ("", "")  # the step as its paper has it, before and after, with another network or images

    def name(self, seed: int) -> str:
        """Of its folder."""
        return f"{self.group}_{plain(self.what)}_seed{seed}"


def plain(text: str) -> str:
    """`text` as part of a folder's name."""
    return "".join(c if c.isalnum() else "_" for c in text)


def flags(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


@dataclass
class Job:
    """One command: an experiment with a seed. It is done when its folder holds `result`."""

    experiment: Experiment
    seed: int
    folder: Path
    command: list[str]  # after `python`
    result: str = "metrics.json"
    known: Mapping[str, str] = field(default_factory=dict)  # paths of this machine -> what anybody calls them

    @property
    def log(self) -> Path:
        """What the command prints."""
        return self.folder.with_suffix(".txt")

    @property
    def done(self) -> bool:
        return (self.folder / self.result).is_file()

    def measured(self) -> tuple[str, dict]:
        """The data set that the finished run was tested on, and its metrics."""
        [(data, found)] = json.loads((self.folder / self.result).read_text()).items()
        return data, found

    def row(self, commit: str = "", what: str = "") -> dict[str, str]:
        """The finished run as a row of the results file, called `what` if not as its experiment."""
        import tables  # and torch with it, which the parent of the trainings does without

        data, found = self.measured()
        log = [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]
        percent = {name: f"{100 * found[name]:.2f}" for name in ("rank1", "mAP", "mINP")}
        each, command = self.experiment, "python " + shlex.join(self.shown())
        return dict.fromkeys(COLUMNS, "") | percent | {
            "kind": "accuracy",
            "what": what or each.what,
            "data": f"{data} → {data}",
            "seed": str(self.seed),
            "published": each.published,
            "source": each.source,
            "git": ", ".join(self.each("commit")) or commit,
            "hardware": "; ".join(self.each("hardware")),
            "seconds": f"{sum(line['seconds'] for line in log):.0f}",
            "command": command,
            "settings": tables.settings_of(command),
        }  # fmt: skip

    def each(self, what: str) -> list[str]:
        """The commits, or the hardware, that trained the run, by its own file: several, where it was gone on with later
        or elsewhere."""
        commands = json.loads((self.folder / "run.json").read_text())["started"]
        trained = [by for by in commands if "--mode train" in by["command"]]
        if what == "commit":
            return list(dict.fromkeys(by["commit"] for by in trained if by["commit"]))
        return list(dict.fromkeys(
            f"{by['device']}, torch {by['versions']['torch'].partition('+')[0]}, "
            f"{by['threads']} thread{'s' * (by['threads'] > 1)}" for by in trained
        ))  # fmt: skip

    def shown(self) -> list[str]:
        """The command as anybody would give it: where data and weights lie is this machine's affair."""
        return [self.known.get(word, word) for word in self.command[: self.command.index("--output_path")]]


def run_all(jobs: Sequence[Job], count: int, seconds: float = float("inf")) -> bool:
    """Run what is not done, `count` side by side; after `seconds` all are asked to stop. Whether all are done."""
    waiting, until = [job for job in jobs if not job.done], time.monotonic() + seconds
    running: list[tuple[Job, subprocess.Popen]] = []
    told = False
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    while (waiting and time.monotonic() < until) or running:
        while waiting and len(running) < count and time.monotonic() < until:
            job = waiting.pop(0)
            job.folder.parent.mkdir(parents=True, exist_ok=True)
            log = open(job.log, "a")  # noqa: SIM115
            print(f"begins    {job.folder.name}", flush=True)
            command = [sys.executable, *job.command]
            running.append((job, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)))
        time.sleep(0.5)
        for job, process in list(running):
            if process.poll() is not None:
                running.remove((job, process))
                print(f"{'done' if job.done else 'stopped' if told else 'failed':10}{job.folder.name}", flush=True)
                if not job.done and not told:
                    print(f"          exit status {process.returncode}: {last_words(job.log)}", flush=True)
                    print(f"          all that it said: {job.log}", flush=True)
                    waiting = waiting if process.returncode != 2 else []  # a flag that main.py refuses: all have it
        if time.monotonic() > until and not told:
            told = True
            for _, process in running:
                process.send_signal(signal.SIGTERM)  # main.py keeps what it has done, and ends
    return all(job.done for job in jobs)


def last_words(log: Path) -> str:
    """Why a command ended: its last error, or whatever it said last."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error")]
    return (errors or lines or ["without a word"])[-1]


def write(rows: list[dict[str, str]], path: Path) -> None:
    """Append the rows that the results file does not hold yet."""
    held = []
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            held = [(row["what"], row["seed"], row["git"], row["hardware"]) for row in csv.DictReader(file)]
    new = [row for row in rows if (row["what"], row["seed"], row["git"], row["hardware"]) not in held]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not held and not path.stat().st_size:
            writer.writeheader()
        writer.writerows(new)
