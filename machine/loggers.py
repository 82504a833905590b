"""Where the numbers of each epoch go beside log.jsonl: TensorBoard, Weights & Biases, a table.

A package is imported when it is asked for. A logger is handed the whole log after each epoch, so that what a killed run
did not get to tell comes with the next.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from machine import files, fingerprint

PACKAGES = {"tensorboard": ("torch.utils.tensorboard", "tensorboard"), "wandb": ("wandb", "wandb"), "csv": ("csv", "")}
NONE = "none"


class Logger(Protocol):
    """What a training tells its numbers to."""

    def write(self, log: Sequence[Mapping[str, Any]]) -> None:
        """The lines of log.jsonl so far."""

    def close(self) -> None:
        """Nothing more comes."""


def chosen(asked: Iterable[str] | None) -> list[str]:
    """The loggers asked for; where nothing was said, TensorBoard if it is installed.

    ValueError, which says what to install, for one whose package is missing, and for another beside "none".
    """
    if asked is None:
        return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    names = list(dict.fromkeys(asked))
    if NONE in names and len(names) > 1:
        raise ValueError(f"--logger {' '.join(names)}: none, and others too; give either")
    for name in names if NONE not in names else ():
        try:
            importlib.import_module(PACKAGES[name][0])
        except ImportError as error:
            raise ValueError(
                f"--logger {name} needs the package {PACKAGES[name][1]} ({error}): python -m pip install "
                f"{PACKAGES[name][1]}, or leave it out (log.jsonl has the same numbers)"
            ) from None
    return [name for name in names if name != NONE]


def opened(names: Iterable[str], folder: Path, run: Mapping[str, Any]) -> list[Logger]:
    """The loggers of `chosen`, writing into `folder`; `run`: what run.json says."""
    makers: dict[str, Callable[[Path, Mapping[str, Any]], Logger]] = {
        "tensorboard": TensorBoard,
        "wandb": WeightsAndBiases,
        "csv": Table,
    }
    return [makers[name](folder, run) for name in names]


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of the log by name; results as ``<data set>/rank1``, re-ranked ``<data set>/reranked/mAP``.

    >>> numbers({"epoch": 1, "loss": 2.0, "metrics": {"market": {"mAP": 0.5, "rank5": 0.9}}})
    {'epoch': 1, 'loss': 2.0, 'market/mAP': 0.5}
    """
    found = {name: value for name, value in line.items() if type(value) in (int, float)}
    for name, metrics in line.get("metrics", {}).items():
        for label, values in ((name, metrics), (f"{name}/reranked", metrics.get("reranked", {}))):
            found |= {f"{label}/{key}": values[key] for key in ("rank1", "mAP", "mINP") if key in values}
    return found


class TensorBoard:
    """``tensorboard/`` in the folder: ``tensorboard --logdir runs`` shows all runs side by side."""

    def __init__(self, folder: Path, run: Mapping[str, Any]):
        writer = importlib.import_module(PACKAGES["tensorboard"][0]).SummaryWriter
        # the log is told anew from its first line: what earlier processes wrote is purged, and no epoch is there twice
        self.board, self.told = writer(str(folder / "tensorboard"), purge_step=0), 0

    def write(self, log: Sequence[Mapping[str, Any]]) -> None:
        """Every number of the lines that it has not."""
        for line in log[self.told :]:
            for name, value in numbers(line).items():
                if name != "epoch":
                    self.board.add_scalar(name, value, line["epoch"])
        self.told = len(log)

    def close(self) -> None:
        """Write what is left."""
        self.board.close()


class WeightsAndBiases:
    """A run of Weights & Biases with the name of the folder and all of run.json as its configuration.

    Its own variables (WANDB_PROJECT, WANDB_MODE=offline, ...) say where it goes. A resumed run goes on there too.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]):
        begun = run["started"][0]["date"]
        told = {key: value for key, value in run.items() if key != "cameras"}
        self.run = importlib.import_module("wandb").init(
            name=folder.name,
            dir=str(folder),
            config=told,
            id=fingerprint.of_settings({"folder": str(folder.absolute()), "begun": begun}),
            resume="allow",
        )
        self.told = int(getattr(self.run, "step", 0) or 0)  # of an earlier process

    def write(self, log: Sequence[Mapping[str, Any]]) -> None:
        """The lines that it has not; its step is the epoch."""
        for line in log:
            if line["epoch"] > self.told:
                self.run.log(numbers(line), step=line["epoch"])
                self.told = line["epoch"]

    def close(self) -> None:
        """Wait until it is sent."""
        self.run.finish()


class Table:
    """``log.csv``: a line per epoch, for a spreadsheet or pandas."""

    def __init__(self, folder: Path, run: Mapping[str, Any]):
        self.path = folder / "log.csv"

    def write(self, log: Sequence[Mapping[str, Any]]) -> None:
        """The whole table, in one step."""
        rows, text = [numbers(line) for line in log], io.StringIO()
        table = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        files.write_text(self.path, text.getvalue())

    def close(self) -> None:
        """Nothing is open."""
