"""From the flags to what a run needs: its device, its data, its folders.

This file and ``main`` are where flags end: below nobody sees ``args``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import platform
import time
from pathlib import Path

import torch

import checkpoints
import datasets
import models
from cli import dataset_options
from config import Recipe
from machine import files, fingerprint, threads
from machine.device import describe, pick_amp, pick_device, tune
from machine.version import VERSION, commit, versions
from networks import bfloat16
from weights import reading


@dataclasses.dataclass
class Run:
    """Device and precision of a run, and where it writes."""

    device: torch.device
    amp: str
    channels_last: bool
    output: Path

    def autocast(self):
        """The context of the forward pass in training."""
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        if self.amp == "none":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=kinds[self.amp])

    def place(self, module: models.Model) -> models.Model:
        module = module.to(self.device)
        if self.device.type == "cpu" and self.amp == "bf16":
            bfloat16.keep_in_float32(module)
        return module.to(memory_format=torch.channels_last) if self.channels_last else module


def make_run(args, recipe: Recipe, trains: list[str]) -> Run:
    """Device, precision and output folder, which is tried, as the flags ask; chooses the number of threads."""
    device = pick_device(args.device)
    threads.choose(args.threads, fixed=args.deterministic or device.type != "cpu")
    tune(device, args.deterministic)
    output = output_folder(args, recipe, trains)
    files.check_folder(output)
    return Run(device, pick_amp(args.amp, device), args.channels_last, output)


def data_paths(args) -> dict[str, Path | None]:
    """Data set -> path for all that were given; the built-in set alone if none was."""
    given = {name: getattr(args, f"{name}_path") for name in datasets.DATASETS if getattr(args, f"{name}_path")}
    wanted = {datasets.canonical(n) for n in (args.train_dataset or []) + (args.test_dataset or [])}
    for name in wanted or (() if given else ("synthetic",)):
        if not datasets.DATASETS[name].needs_path:
            given.setdefault(name, None)
    for name in sorted(wanted - set(given)):
        raise ValueError(f"data set {name} was asked for, but --{name}_path was not given")
    for name, option, _ in dataset_options():
        if name not in given and f"{name}_{option}" in args.said:
            load = f"--{name}_path DIR" if datasets.DATASETS[name].needs_path else f"--test_dataset {name}"
            raise ValueError(
                f"--{name}_{option} is an option of data set {name}, which is not loaded: give {load} too, or leave "
                "the option out"
            )
    return given


def parser_options(args, name: str) -> dict:
    """What the command line says for the parser of data set `name`."""
    known = datasets.DATASETS[name].options
    options = {option: getattr(args, f"{name}_{option}") for of, option, _ in dataset_options() if of == name}
    forced = {"skip_bad": args.skip_bad_images, "multi_query": bool(args.multi_query)}
    return options | {option: value for option, value in forced.items() if option in known}


def with_trials(args, name: str, path: Path | None, first: datasets.Splits) -> datasets.Splits:
    """`first` with the galleries of all its published trials, over which a test takes the mean."""
    options = parser_options(args, name)
    others = (
        datasets.load_splits(name, path, **(options | {"trial": trial}))
        for trial in range(1, datasets.num_trials(name, **options))
    )
    return dataclasses.replace(first, trials=(first.gallery, *(splits.gallery for splits in others)))


def asked_for(args) -> set[str]:
    """Sets named by --train_dataset."""
    return {datasets.canonical(name) for name in args.train_dataset or ()}


def load_data(args) -> tuple[dict[str, datasets.Splits], list[str], list[str]]:
    """All sets of the command line, parsed once; the names to train on and to test on."""
    found = {}
    for name, path in data_paths(args).items():
        found[name] = datasets.load_splits(name, path, **parser_options(args, name))
        if args.validation_ids and found[name].train and (not args.train_dataset or name in asked_for(args)):
            found[name], validation = datasets.hold_out(found[name], args.validation_ids, args.seed)
            found[validation.name] = validation
        if datasets.num_trials(name, **parser_options(args, name)) > 1 and f"{name}_trial" not in args.said:
            found[name] = with_trials(args, name, path, found[name])
        print(found[name], flush=True)
        if not datasets.DATASETS[name].needs_path:
            print("The built-in set is a demonstration: its numbers say nothing about real data.")

    def chosen(asked, has) -> list[str]:
        if asked:
            return list(dict.fromkeys(datasets.canonical(n) for n in asked))
        return [name for name, splits in found.items() if has(splits)]

    trains = chosen(args.train_dataset, lambda s: s.train)
    tests = chosen(args.test_dataset, lambda s: s.query and s.gallery)
    tests += [name for name in found if name.endswith("_val") and name not in tests]
    if args.mode == "train" and not args.train_dataset and len(trains) > 1:
        raise ValueError(
            f"{', '.join(trains)} can all be trained on, and which to train on decides what is measured: name one, "
            f"--train_dataset {trains[0]} (the others are tested on), or several for their union, --train_dataset "
            f"{' '.join(trains)}"
        )
    for name in trains:
        if args.mode == "train" and not found[name].train:
            raise ValueError(f"data set {name} has no training images; see its table above")
    for name in tests:
        if not (found[name].query and found[name].gallery):
            raise ValueError(f"data set {name} has no query or no gallery images; see its table above")
    return found, trains, tests


def output_folder(args, recipe: Recipe, trains: list[str]) -> Path:
    """--output_path; of a weight file runs/<its name>_<digest>_<mode>, for it says which network it is; else
    runs/<recipe>_<training sets>, with the seed behind it where it is not 0."""
    if args.output_path is None and args.weights is not None and args.mode != "train":
        file = args.weights
        content = fingerprint.of_file(file) if file.is_file() else ""  # where it is none, reading it says so
        identity = "\0".join(map(str, (content, args.gallery_path, args.query_image)))
        digest = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:8]
        return Path("runs") / f"{files.safe_name(file.stem)}_{digest}_{args.mode}"
    folder = Path("runs") / f"{recipe.name}_{'+'.join(trains or ['none'])}"
    seeded = folder.with_name(f"{folder.name}_seed_{args.seed}")  # elsewhere than the run of the default seed
    return args.output_path or (seeded if args.seed and (args.mode == "train" or seeded.exists()) else folder)


def runs_of(args) -> dict[str, dict]:
    """Folder -> flags that are other ones than given, of each run of this command."""
    splits: dict[str, dict] = {"": {}}
    if args.all_splits:
        name, count = repeated(args)
        splits = {f"split_{split}": {f"{name}_split": split} for split in range(count)}
    seeds = {f"seed_{seed}": {"seed": seed} for seed in range(args.seed, args.seed + args.repeat)}
    if args.repeat == 1:
        seeds = {"": {}}
    return {f"{a}/{b}".strip("/"): splits[a] | seeds[b] for a in splits for b in seeds}


def repeated(args) -> tuple[str, int]:
    """The one data set of the command line that is published with several splits, and how many it has."""
    names = [name for name in data_paths(args) if "split" in datasets.DATASETS[name].options]
    if len(names) != 1:
        known = ", ".join(name for name, entry in datasets.DATASETS.items() if "split" in entry.options)
        raise ValueError(f"--all_splits needs one data set with repeated splits ({known}); found {len(names)}")
    options = parser_options(args, names[0])
    return names[0], datasets.num_splits(names[0], **{k: v for k, v in options.items() if k != "split"})


def record(args, run: Run, folder: checkpoints.Folder) -> dict:
    """Write run.json, which says what the run is: all that decides its weights, and each command that worked on it,
    with its time, machine, commit and versions. Returns what it says."""
    path, earlier = run.output / "run.json", []
    if folder.goes_on():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, or a damaged one
            earlier = list(json.loads(path.read_text(encoding="utf-8"))["started"])
    began = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": args.command,
        "version": VERSION,
        "commit": commit(),
        "versions": versions(),
        "device": describe(run.device),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
    }
    told = folder.description | {"started": [*earlier, began]}
    files.write_json(path, told)
    return told


def results_file(folder: Path, weights: Path, digest: str) -> Path:
    """``metrics_<weights>.json`` for the test `digest`; where another test has it, with that digest in its name.

    So one test has one file, and neither a training's own metrics.json nor another test's is written over.
    """
    stem = weights.stem if weights.suffix in reading.WEIGHT_SUFFIXES else weights.name
    path = folder / f"metrics_{stem}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)  # of two tests that end together one finds it there
    except FileExistsError:
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
            held = json.loads(path.read_text(encoding="utf-8"))
            if any(each["measured"]["fingerprint"] == digest for each in held.values()):
                return path
        return folder / f"metrics_{stem}_{digest[:8]}.json"
    except OSError:
        pass  # writing it says why
    return path
