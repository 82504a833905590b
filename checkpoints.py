"""Checkpoints of our own: plain types only, written in one step, opened by ``torch.load(weights_only=True)``.

Everybody else's weight files are read in `weights/`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from machine import files, loggers, processes
from machine.files import size_text
from machine.version import VERSION
from weights.importing import few_names, unusable
from weights.reading import FORMAT, existing_file, first_line, open_archive


def save(path: str | os.PathLike, state: dict[str, Any]) -> None:
    """Write `state` to `path` so that a reader sees the old file or the new one, never a part.

    `state` may hold dict, list, tuple, str, int, float, bool, None and tensors, nested. Tensors are written without
    their graph, and without the rest of the storage they are a view of.
    Raises ValueError for any other type, naming its key; RuntimeError when the file cannot be written, in which case
    the file that was there before is intact and no temporary file stays behind.
    """
    state = _plain(state, "state")
    with files.replace(path, needed=sum(tensor.nbytes for tensor in _tensors(state))) as file:
        torch.save(state, file)


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint written by `save`; its tensors are on the CPU.

    Raises FileNotFoundError for a missing file, ValueError for one that is truncated, damaged (each entry of the
    archive is compared with its CRC-32, which torch does not do) or not of this suite's making.
    """
    path = existing_file(path, "checkpoint")
    try:
        with open(path, "rb") as file:
            with open_archive(file) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"checksum of {damaged} does not match")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):
            raise ValueError(
                f"{path} holds Python objects and was not written by this suite: to test or start from it, "
                "name it with --weights."
            ) from error
        raise ValueError(
            f"{path} is truncated, damaged or no checkpoint of this suite ({size_text(path.stat().st_size)}; "
            f"{first_line(error)}): delete it and resume from an earlier checkpoint, or copy it again."
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, expected a dict: it is no checkpoint of this suite.")
    return state


def load_into(model: nn.Module, state: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Load the complete state dict `state`, read from `path`, into `model`.

    Raises ValueError unless names and shapes are exactly the model's: the message counts what is missing, left over and
    of another shape, with the first few of each; or where the weights are no finite numbers. The model is then
    unchanged.
    """
    target = model.state_dict()
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict of a network: it is damaged; use another checkpoint of the run.")
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(target[key].shape)}"
        for key in target
        if key in state and state[key].shape != target[key].shape
    ]
    kinds = {
        "missing": [key for key in target if key not in state],
        "unexpected": [key for key in state if key not in target],
        "of another shape": shapes,
    }
    wrong = [f"{len(names)} {kind} ({few_names(names, 3)})" for kind, names in kinds.items() if names]
    if wrong:
        raise ValueError(
            f"{path} does not fit the network {type(model).__name__} that was built for it, of {len(target)} tensors: "
            f"{'; '.join(wrong)}. It was written with another recipe, backbone or option, or by another version of "
            "this suite: give the flags of its run, or load what fits with --weights."
        )
    unusable(path, state, target)
    model.load_state_dict(state)


# what rebuilds a network and names its run -> its type, and of what is optional what its absence means
FIELDS: dict[str, tuple[type, Any]] = {
    "recipe": (str, None),
    "overrides": (dict, None),
    "num_pids": (int, None),
    "trained_on": (list, None),
    "seed": (int, None),
    "epoch": (int, None),
    "model": (dict, None),
    "cameras": (dict, {}),
    "validation_ids": (int, 0),
}


def described(state: dict[str, Any], path: str | os.PathLike) -> dict[str, Any]:
    """`state` of a checkpoint of ours, read from `path`, with all of `FIELDS`; other fields are left as they are.

    Raises ValueError for one of a newer version of this suite, and where a field is missing or of another type.
    """
    version = state.get("version", "0")
    if not isinstance(version, str) or not re.fullmatch(r"\d+(\.\d+)*", version):
        raise ValueError(f"{path} is a damaged checkpoint of this suite: its version is {version!r}; copy it again.")
    if _numbers(version) > _numbers(VERSION):
        raise ValueError(f"{path} was written by version {version} of this suite, this is {VERSION}: update the suite.")
    optional = {name: absent for name, (_, absent) in FIELDS.items() if absent is not None}
    state = optional | state
    wrong = [f"no {name}" for name in FIELDS if name not in state]
    wrong += [
        f"{name} of type {type(state[name]).__name__} instead of {kind.__name__}"
        for name, (kind, _) in FIELDS.items()
        if name in state and type(state[name]) is not kind
    ]
    wrong += [
        f"{name} that holds other things"
        for name, values, kind in (
            ("trained_on", state.get("trained_on"), str),
            ("overrides", state.get("overrides"), str),
            ("cameras", getattr(state["cameras"], "values", list)(), list),
        )
        if isinstance(values, Iterable) and not all(isinstance(value, kind) for value in values)
    ]
    if wrong:
        raise ValueError(
            f"{path} is a damaged checkpoint of this suite, or of a version that cannot be read: it has "
            f"{', '.join(wrong)}; use another checkpoint of the run."
        )
    return state


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def header(description: dict[str, Any], epoch: int) -> dict[str, Any]:
    """What every checkpoint begins with: that it is ours, of which version, of which run, after how many epochs."""
    return {"format": FORMAT, "version": VERSION, **description, "epoch": epoch}


@dataclasses.dataclass
class Folder:
    """Where a run lives, and what it is.

    description: plain values that rebuild the network and decide its weights, kept in every checkpoint. A run that was
        begun with others is another one. free: names in it, or in its groups, that decide no weights.
    resume: go on from the run that is there. tested: digest of all that decides a result beside the weights; results
        of another digest are measured again. defaults: of a group's settings, by its name: what a run trained with that
        is older than a setting.
    """

    path: Path
    description: dict[str, Any]
    resume: bool = True
    free: frozenset[str] = frozenset()
    tested: str = ""
    defaults: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    damaged: bool = dataclasses.field(default=False, init=False)  # last.pt is, and previous.pt the only one

    def goes_on(self) -> bool:
        """Whether there is a run in the folder to go on with."""
        return self.resume and any((self.path / name).exists() for name in (LAST, PREVIOUS))

    def earlier(self) -> tuple[dict[str, Any], str] | None:
        """(what is kept of the run that was begun here, a word on a damaged file or ""); None if there is none.

        From last.pt, or from the one before it where that is missing or damaged. ValueError, which lists what differs,
        if it is another run, and where nothing of it can be read.
        """
        there = [path for path in (self.path / LAST, self.path / PREVIOUS) if path.exists()]
        if not self.resume or not there:
            return None
        damaged = []
        for path in there:
            try:
                state = load(path)
                if missing := EVERYTHING - state.keys():
                    raise ValueError(f"{path} lacks {', '.join(sorted(missing))} of what a run needs to go on.")
            except ValueError as error:
                damaged.append(str(error))
                continue
            self.check_same(state, path)
            self.damaged = bool(damaged)
            return state, "".join(f"WARNING: {error} Going on from {path} instead.\n" for error in damaged)
        raise ValueError(
            f"{damaged[0]} There is no other to go on from: start the run anew with --resume no, or from weights that "
            "are left with --pretrained FILE and another --output_path."
        )

    def check_same(self, state: dict[str, Any], path: Path) -> None:
        """ValueError, which lists what differs, if `state` of `path` is of another run."""
        found = differences(state, {"version": VERSION, **self.description}, self.free, self.defaults)
        if found:
            more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
            raise ValueError(
                f"{path} holds a run with other settings: {'; '.join(found[:MOST] + more)}. Give another "
                "--output_path, the same settings as before, or --resume no to start afresh in this folder."
            )

    def keep(self, state: dict[str, Any]) -> None:
        """Write last.pt; the one that was there stays as previous.pt, unless it was damaged: then that stays."""
        last, previous = self.path / LAST, self.path / PREVIOUS
        beside = self.path / f".{PREVIOUS}.link"
        try:
            if last.exists() and not self.damaged:
                beside.unlink(missing_ok=True)
                try:
                    os.link(last, beside)  # at every moment there is a last.pt
                except OSError:  # a file system without links
                    shutil.copyfile(last, beside)
                os.replace(beside, previous)
                beside.unlink(missing_ok=True)  # after a kill both may be one file, which POSIX leaves under both names
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise RuntimeError(files.refusal(previous, error, "--output_path")) from error
        save(last, state)
        self.damaged = False


LAST, PREVIOUS = "last.pt", "previous.pt"
MOST = 12  # differences that one message lists
EVERYTHING = {"version", "epoch", "log", "partial", "model", "criterion", "optimizers", "epochs"}  # of a last.pt


def differences(
    theirs: dict[str, Any],
    ours: dict[str, Any],
    free: Collection[str] = (),
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """In words, what differs in the settings that `ours` names, and in those of its groups, but for the `free` ones.

    defaults: of a group's settings, by its name: what one is where it is not written down, as in a run from before it.
    """
    found = []
    for key, now in ours.items():
        if key in free:
            continue
        was = theirs.get(key, MISSING)
        if isinstance(now, dict) and isinstance(was, dict):
            names = sorted((now.keys() | was.keys()) - set(free))
            usual = {**dict.fromkeys(names, DEFAULT), **(defaults or {}).get(key, {})}
            pairs = [(name, was.get(name, usual[name]), now.get(name, usual[name])) for name in names]
        else:
            pairs = [(key, was, "recorded" if isinstance(now, dict) else now)]
        found += [f"{name} was {before}, now {after}" for name, before, after in pairs if before != after]
    return found


MISSING, DEFAULT = "not recorded", "the default"


def intact(path: Path, epoch: int) -> bool:
    """Whether `path` holds the weights after `epoch` epochs, every byte as it was written."""
    try:
        return load(path)["epoch"] == epoch
    except (OSError, ValueError, KeyError):
        return False


def of_run(folder: Path, epoch: int | None = None) -> Path:
    """The weights that a run left in `folder`, its newest or those after `epoch` epochs; FileNotFoundError without."""
    path = folder / ("model.pt" if epoch is None else f"model_{epoch}.pt")
    if not path.exists():
        have = ", ".join(sorted(p.name for p in folder.glob("model*.pt"))) or "no model*.pt"
        raise FileNotFoundError(
            f"{path} does not exist; {folder} holds {have}. Give --weights FILE, the --output_path of a run, "
            "or train first with --mode train."
        )
    return path


def _plain(value: Any, key: str) -> Any:
    """A copy of `value` in which nothing is but plain containers, plain values and detached tensors."""
    if value is None or type(value) in (str, int, float, bool):  # exact: numpy.float64 is a subclass of float
        return value
    if type(value) in (Tensor, nn.Parameter):
        tensor = value.detach()
        whole = tensor.layout != torch.strided or tensor.untyped_storage().nbytes() <= tensor.nbytes
        return tensor if whole else tensor.clone()  # torch.save writes all of the storage a view belongs to
    if type(value) in (dict, OrderedDict):
        for name in value:
            if name is not None and type(name) not in (str, int, float, bool):
                raise ValueError(f"checkpoint entry {key} has a key of type {type(name).__name__}: use str or int.")
        return {name: _plain(item, f"{key}[{name!r}]") for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{key}[{i}]") for i, item in enumerate(value))
    raise ValueError(
        f"checkpoint entry {key} is a {type(value).__module__}.{type(value).__qualname__}: a checkpoint holds only "
        "dict, list, tuple, str, int, float, bool, None and tensors; convert it first."
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


# ---------------------------------------------------------------------------------------------------------------------
# Writing while training goes on
# ---------------------------------------------------------------------------------------------------------------------


class Files:
    """Writes into the folder of a run, and to its loggers, if this is the main process.

    Checkpoints are copied to the host and written by a thread, so that the next epoch need not wait for the disk. One
    at a time and in order; what goes wrong is raised by the next call, or at the end.
    """

    def __init__(self, folder: Path, tell: Sequence[loggers.Logger] = ()):
        self.folder, self.active, self.tell = folder, processes.is_main(), tell
        self.pending: Future | None = None
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        if self.active:
            folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            self.wait()
        except Exception:
            if error is None:  # else the first error is the one to tell
                raise
        finally:
            self.pool.shutdown()

    def write(self, path: Path, make: Callable[[], dict]) -> None:
        """Begin to write what `make` returns, as it is now."""
        self._begin(make, lambda state: save(path, state))

    def keep(self, folder: Folder, make: Callable[[], dict]) -> None:
        """Begin to write what `make` returns, as it is now, as the last.pt of `folder`."""
        self._begin(make, folder.keep)

    def _begin(self, make: Callable[[], dict], save: Callable[[dict], None]) -> None:
        self.wait()
        if self.active:
            state = on_host(make())
            copied = torch.cuda.Event() if torch.cuda.is_available() else None
            if copied:
                copied.record()
            self.pending = self.pool.submit(self._save, save, state, copied)

    @staticmethod
    def _save(save: Callable[[dict], None], state: dict, copied) -> None:
        if copied:
            copied.synchronize()
        save(state)

    def wait(self) -> None:
        """Until all is on the disk."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def write_log(self, log: list[dict]) -> None:
        """log.jsonl anew, so that a resumed run never holds an epoch twice; and to the loggers."""
        if not self.active:
            return
        path = self.folder / "log.jsonl"
        files.write_text(path, "".join(json.dumps(line) + "\n" for line in log))
        for each in self.tell:
            each.write(log)


def on_host(value):
    """A copy of nested containers and tensors that later steps do not change; copies from CUDA may be under way."""
    if isinstance(value, torch.Tensor):
        if value.device.type != "cuda":
            return value.detach().to("cpu", copy=True)
        return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        return {key: on_host(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(on_host(item) for item in value)
    return value
