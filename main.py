"""One entry point: ``python main.py --mode train|test|visualize|extract|export|check|report``; see ``--help``.

Reads the command line, builds what a run needs from ``recipes``, ``datasets`` and ``loaders``, and hands it over.
Below this file and ``run`` nobody sees ``args``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import io
import os
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from machine import packages, usage

if __name__ == "__main__":
    packages.check_python()
    usage.answer(sys.argv[1:])  # --help and --version do not wait for torch
    packages.check()

try:
    import torch
    import torchvision  # noqa: F401  (a mismatched pair fails here, with a message that helps nobody)
except (ImportError, RuntimeError, OSError) as mismatch:
    sys.exit(
        f"error: torch and torchvision cannot be imported together ({type(mismatch).__name__}: {mismatch}).\n"
        "Found: a pair of different releases or builds, such as a CPU-only torch beside the package index's "
        "torchvision.\nExpected: both from one index, as requirements.txt asks.\n"
        "Do: python -m pip install --upgrade --force-reinstall torch torchvision"
    )

try:
    import datasets
    import recipes  # noqa: F401  (both tables are checked as they are read)
except Exception as mistake:  # whatever somebody's row or parser raises
    if "--debug" in sys.argv:
        raise
    sys.exit(f"error: {usage.mistake_in_file(mistake)}")

import check
import checkpoints
import embedder
import epochs
import export
import features
import loaders
import losses
import models
import pictures
import rebuild
import report
import rerank
import tester
import train
import training
import video
import visualize
from cli import PICTURES, check_needs, customised, overrides, parse
from config import FIELDS, Recipe, check_test_distance, check_trunk, plain, value_in
from machine import files, fingerprint, graphs, lock, loggers, memory, processes
from machine.memory import Budget
from machine.version import VERSION, commit
from parsers.base import images_below
from recipes import RECIPES
from run import (
    Run,
    asked_for,
    data_paths,
    load_data,
    make_run,
    output_folder,
    parser_options,
    record,
    results_file,
    runs_of,
)
from weights import importing, reading, recognising

# ---------------------------------------------------------------------------------------------------------------------
# The network of a run, and what it is made of
# ---------------------------------------------------------------------------------------------------------------------


def description_of(args, recipe: Recipe, given: dict, run: Run, data: datasets.TrainingSet) -> dict:
    """Plain values that rebuild the network and decide its weights; kept in every checkpoint."""
    settings = recipe.settings()
    if recipe.pretrained not in ("imagenet", "none"):
        settings["pretrained"] = f"a file of SHA-256 {fingerprint.of_file(Path(recipe.pretrained))}"
    return {
        "recipe": recipe.name,
        "overrides": {name: plain(value) for name, value in sorted(given.items())},
        "settings": settings,
        "num_pids": data.num_pids,
        "trained_on": list(data.counts),
        "data": data.made_of(),
        "seed": args.seed,
        "amp": run.amp,
        "cameras": data.numbering if recipe.uses_cameras else {},
        "validation_ids": args.validation_ids or 0,
        "use_all_images": args.use_all_images,
        **({"begun_after": begun} if (begun := begun_after(args)) else {}),
        "machine": {
            "accumulate": args.accumulate,
            "deterministic": args.deterministic,
            "sync_bn": args.sync_bn and processes.world_size() > 1,
            "processes": processes.world_size(),
        },
    }


def as_trained(recipe: Recipe, given: dict) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` of the weight file that `recipe` starts from, where it tells them, and says so.

    A row that names its authors' file has the statistics that they go on with. FileNotFoundError if it is not given.
    """
    own = RECIPES[recipe.name].pretrained
    if own not in ("imagenet", "none") and "pretrained" not in given and not Path(own).exists():
        raise FileNotFoundError(
            f"recipe {recipe.name} starts from its authors' file {own} (docs/recipes.md says whose): name your copy "
            "with --pretrained FILE, or start from random weights with --pretrained none"
        )
    file = reading.existing_file(recipe.pretrained, "--pretrained weight")
    found = recognising.input_statistics(reading.read_once(file)) if own in ("imagenet", "none") else {}
    if found:
        words = ", ".join(f"{name} {' '.join(f'{x:g}' for x in values)}" for name, values in found.items())
        print(f"{file}: images are normalised with {words}, as its own were, unless --mean and --std say otherwise")
    return found


def begun_after(args) -> int:
    """The epochs that --resume FILE has behind it; 0 where there is no such file. ValueError if nobody says."""
    if not isinstance(args.resume, Path):
        return 0
    epochs = reading.read_once(args.resume).epochs
    if epochs is None:
        raise ValueError(
            f"--resume {args.resume} does not say how many epochs it has behind it: start from its weights with "
            f"--pretrained {args.resume}, and --epochs for those that are left"
        )
    return epochs


def build_network(recipe: Recipe, num_pids: int, cameras: int, run: Run, seed: int) -> models.Model:
    """The network, drawn from `seed`, with the weights that `recipe.pretrained` names."""
    torch.manual_seed(seed)
    model = recipe.model(num_pids, recipe.pretrained == "imagenet", cameras)
    if recipe.pretrained not in ("imagenet", "none"):
        print(importing.import_weights(model, reading.read_once(recipe.pretrained), start=True))
        reading.forget()
    return run.place(model)


def load_for_test(
    args, recipe: Recipe, given: dict, run: Run, epoch: int | None, found: dict[str, datasets.Splits] | None = None
) -> rebuild.Loaded:
    """The network of --weights, or of the output folder's newest weights or those after `epoch`; prints nothing.

    found: data sets by name, one of which --sie_cameras may name.
    """
    if args.weights and epoch is not None:
        raise ValueError(f"--weights {args.weights} and epoch {epoch} of a run name two weight files: give one of them")
    file = reading.read(args.weights or checkpoints.of_run(run.output, epoch))
    if file.ours is not None:
        if args.sie_cameras:
            raise ValueError(f"{file.path} says itself which camera each embedding belongs to: leave out --sie_cameras")
        check_held_out(file.path, checkpoints.described(file.ours, file.path), args)
    numbering = rebuild.cameras_of(args.sie_cameras, found or {}) if args.sie_cameras else {}
    loaded = rebuild.network_of(file, recipe if args.recipe_given else None, given, numbering)
    return loaded._replace(model=run.place(loaded.model).eval())


def check_held_out(path: Path, state: dict, args) -> None:
    """ValueError if the network saw people in training whom --validation_ids would now hold out."""
    held = {"validation_ids": state["validation_ids"], "seed": state["seed"]}
    if args.validation_ids and held != {"validation_ids": args.validation_ids, "seed": args.seed}:
        raise ValueError(
            f"{path} was trained with --validation_ids {held['validation_ids']} --seed {held['seed']}: it has seen "
            "people whom these flags would hold out; give the same flags as in training"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Modes
# ---------------------------------------------------------------------------------------------------------------------


def check_before_training(args, found, trains, tests) -> None:
    """Everything that would end a run late is looked at before it starts."""
    for name in set(trains) & set(tests) if args.use_all_images else ():
        print(f"{name}: WARNING: --use_all_images trains on its test images too; its result below is not a result")
    if not trains:
        raise ValueError("there is nothing to train on: none of the given data sets has training images")
    for name in tests:
        splits = found[name]
        protocol = args.protocol or splits.protocol
        datasets.check_queries(splits.query, splits.gallery, protocol)
    check_sets(args, found, trains, tests)


def check_sets(args, found, trains, tests) -> None:
    """Prints what makes results on these sets doubtful; ValueError where there can be none."""
    for name in dict.fromkeys((*trains, *tests)):
        report = check.report(
            found[name], args.protocol, train=name in trains, test=name in tests, skip_bad=args.skip_bad_images
        )
        for warning in report.warnings:
            print(f"{name}: WARNING: {warning}")
        if not report.usable:
            raise ValueError(f"{name} cannot be used as asked: {'; '.join(report.problems)}")


def mode_train(args, recipe: Recipe) -> None:
    """Train and test; with --repeat for several seeds, with --all_splits for every split that the set's publisher
    defines, each run in a folder of its own, and their mean."""
    planned = runs_of(args)
    if len(planned) == 1:
        train_once(args, recipe)
        return
    named = [datasets.canonical(name) for name in args.train_dataset or data_paths(args)]
    base = args.output_path or output_folder(args, recipe, [f"{'+'.join(named)}_runs"])
    runs: list[dict[str, dict]] = []
    for folder, changed in planned.items():
        print(f"==== {folder}: run {len(runs) + 1} of {len(planned)} ====", flush=True)
        options = changed | {"output_path": base / folder}
        runs.append(train_once(argparse.Namespace(**(vars(args) | options)), recipe))
    if processes.is_main():
        summary = {each: tester.mean_and_std([results[each] for results in runs]) for each in runs[0]}
        origin: dict[str, object] = {"version": VERSION, "commit": commit(), "runs": list(planned)}
        files.write_json(base / "metrics.json", {each: found | {"measured": origin} for each, found in summary.items()})
        print("\n" + tester.runs_table(summary) + f"\n\nresults       {base / 'metrics.json'}")


def train_once(args, recipe: Recipe) -> dict[str, dict]:
    """Train, evaluate on every test set, and draw what the model does; returns the metrics of each test set.

    What can end a run is looked at in the order of its cost: the flags, the files that they name, the lists of images,
    the folder, the network, the run that is there already, and last the images.
    """
    began = time.perf_counter()
    given, logged_to = overrides(args), loggers.chosen(args.logger)
    recipe = customised(recipe, given)
    changed = {name for name, value in given.items() if value and value != value_in(RECIPES[recipe.name], name)}
    check_needs(changed, functools.partial(value_in, recipe))
    check_test_distance(recipe)
    check_trunk(recipe, given)
    if recipe.pretrained not in ("imagenet", "none"):
        given = as_trained(recipe, given) | given | {"pretrained": str(reading.only_file(recipe.pretrained))}
        recipe = customised(recipe, given)
    if (begun := begun_after(args)) >= recipe.epochs:
        raise ValueError(
            f"--resume {args.resume} has {begun} epochs behind it, and --epochs {recipe.epochs} are no more: raise "
            f"--epochs, or test it with --mode test --weights {args.resume}"
        )
    with processes.main_first():
        found, trains, tests = load_data(args)
    check_before_training(args, found, trains, tests)
    run = make_run(args, recipe, trains)
    with contextlib.ExitStack() as held:
        keep = None
        if processes.is_main():
            held.enter_context(lock.held(run.output))
            keep = held.enter_context(files.printed_to(run.output / "log.txt", args.command))
        parts = ready(args, recipe, given, run, found, trains, tests)
        conditions = parts.conditions
        if keep:
            keep()  # nothing refused it: this is the run of the folder
            tell = loggers.opened(logged_to, run.output, record(args, run, parts.folder))
            conditions = dataclasses.replace(conditions, tell=tell)
            for each in tell:
                held.callback(each.close)
        log = train.fit(*parts[:3], recipe, parts.folder, parts.tested, conditions)
        line, results = log[-1], log[-1].get("metrics", {})
        if args.keep_best:
            line = train.back_to_best(parts.model, log, run.output, conditions.best_on)
            if line is not log[-1]:
                parts.tested.last.clear()  # pages and queries would be of the last epoch
                parts.tested.queries.clear()
                results = line["metrics"] if line["tested"] == parts.folder.tested else parts.tested(parts.model)
        if processes.is_main():
            finish(args, recipe, run, parts, log, line | {"metrics": results})
            print(f"{'time':<14}{time.perf_counter() - began:.0f} s in all")
    return results


class Parts(NamedTuple):
    """What a training is made of."""

    model: models.Model
    criterion: losses.Criterion
    loader: loaders.TrainLoader
    tested: tester.Tester
    folder: checkpoints.Folder
    conditions: train.Conditions


def ready(args, recipe: Recipe, given: dict, run: Run, found: dict, trains: list[str], tests: list[str]) -> Parts:
    """Everything a training needs, the images of its tests looked at and its own decoded if there is any left of it."""
    if args.cache_path:
        files.check_folder(args.cache_path, "--cache_path")
    data = datasets.combine([found[name] for name in trains], args.use_all_images)
    cameras = data.numbering if recipe.uses_cameras else {}
    print_settings(recipe, given, run, data.num_pids, len(data.samples))
    sets = {name: found[name] for name in tests}
    tested = make_tester(args, recipe, run, sets, cameras, True, bool(args.num_queries))
    description = description_of(args, recipe, given, run, data)
    free = frozenset({"overrides", "eval_every", "start_eval", "epochs"})  # the settings say more than the overrides
    defaults = {"settings": recipe.defaults()}  # a run from before a setting trained as its default says
    folder = checkpoints.Folder(run.output, description, bool(args.resume), free, tested.digest(), defaults)
    dry = argparse.Namespace(**(vars(args) | {"skip_bad_images": False}))
    loader = training.data(dry, recipe, run, data, cache="none")  # raises what would be raised, and decodes nothing
    with processes.main_first():  # which may download weights
        model = build_network(recipe, data.num_pids, sum(map(len, cameras.values())), run, args.seed)
        if loader.tracklets:
            model = video.for_tracklets(model, recipe.temporal_pooling)
    model = training.prepared(model, args, loader)
    if run.device.type == "cpu":
        frames = recipe.seq_len if loader.tracklets and not recipe.frame_by_frame else 1
        images = loader.batch_size // loader.world_size // args.accumulate * frames
        memory.check_step(model, recipe.image_size, images, run.amp != "none")
    torch.manual_seed(args.seed)  # the criterion's own weights do not depend on how the network drew its own
    criterion = recipe.losses(data.num_pids, data.wearers or None).to(run.device)
    criterion.check_begins(recipe.epochs)
    hook = recipe.before_epochs()
    phases = training.phases_of(args, data, epochs.Phase(recipe, criterion, loader), run)
    conditions = train.Conditions(
        seed=args.seed,
        autocast=run.autocast,
        scaler=torch.amp.GradScaler(run.device.type, enabled=run.amp == "fp16"),
        chunks=args.accumulate,
        forward=called(model, args, run.device),
        print_freq=args.print_freq,
        best_on=tuple(name for name in tests if name.endswith("_val")) if args.keep_best else (),
    )
    trained, told = processes.from_main(train.look_back(folder, recipe) if processes.is_main() else None)
    if not told and processes.is_main():
        tested.check_images()
    if not trained:
        loader = training.data(args, recipe, run, data)
        phases = training.with_pixels(phases, epochs.Phase(recipe, criterion, loader), data)
        print(f"Training images: {loader.store.description}", flush=True)
    conditions = dataclasses.replace(conditions, between=epochs.Between(hook, tested.of_training, phases))
    return Parts(model, criterion, loader, tested, folder, conditions)


def finish(args, recipe: Recipe, run: Run, parts: Parts, log: list[dict], kept: dict) -> None:
    """Write metrics.json, draw the pictures, and print the table, of the epoch of the line `kept` of the log."""
    results, weights = kept["metrics"], run.output / ("model_best.pt" if args.keep_best else "model.pt")
    left_out = {"train": parts.loader.store.skipped} if parts.loader.store.skipped else {}
    told = measured(results, parts.tested, weights, args, left_out)
    said = {key: parts.folder.description[key] for key in ("lengthened",) if parts.folder.description.get(key)}
    for name, each in told.items():
        each["measured"] |= said | {"epoch": kept["epoch"]}
        if args.keep_best:
            each["measured"]["chosen_on"] = list(parts.conditions.best_on)
            each["last_epoch"] = {"epoch": log[-1]["epoch"], **log[-1]["metrics"][name]}
    files.write_json(run.output / "metrics.json", told)
    queries = run.output / "queries.csv"
    if results and (parts.tested.queries or args.keep_best or not queries.exists()):
        files.write_text(queries, tester.queries_table(parts.tested, parts.model))
    drawn, origin = [], parts.folder.description
    theirs = compared_with(recipe, parts.tested, results, origin)
    if args.num_queries:
        known = {name: each["measured"] for name, each in told.items()}
        source = pictures.Source(parts.tested, parts.model, "", known, theirs, "+".join(origin["trained_on"]))
        drawn = draw(args, run, [source], log, PICTURES, parts.loader)
    if results:
        print("\n" + tester.table(results, "+".join(origin["trained_on"]), theirs))
    if args.keep_best:
        print(
            f"\nThis is epoch {kept['epoch']} of {log[-1]['epoch']}, the highest mAP on people held out "
            f"({', '.join(parts.conditions.best_on)}); {run.output / 'model.pt'} and 'last_epoch' in metrics.json are "
            "the last."
        )
    print(f"\n{'weights':<14}{weights}\n{'results':<14}{run.output / 'metrics.json'}")
    for line in embedder.keep_threshold(weights, results, parts.tested):
        print(line)
    for path in drawn:
        print(f"{'pictures':<14}{path}")


def compared_with(
    recipe: Recipe, tested: tester.Tester, results: dict[str, dict], origin: dict[str, Any]
) -> dict[str, tester.Beside]:
    """Of each set what is published of this very run; of weights of which no `origin` is known, nothing."""
    if not origin:
        return {}
    row, told = RECIPES[recipe.name], tester.training_told(origin)
    return {name: tester.beside(row, recipe, origin["trained_on"], name, told | tested.told(name)) for name in results}


def measured(
    results: dict[str, dict], tested: tester.Tester, weights: Path, args, left_out: dict | None = None
) -> dict[str, dict]:
    """`results` for metrics.json; of each data set also what its numbers were measured on, with what, and without what:
    `left_out`, images that training could not read, beside those of the test."""
    origin: dict[str, object] = {"version": VERSION, "commit": commit(), "torch": torch.__version__, "seed": args.seed}
    origin |= {
        "command": args.command,
        "date": time.strftime("%Y-%m-%d"),
        "weights": str(weights),
        "weights_sha256": fingerprint.of_file(weights),
    }
    row = RECIPES[tested.recipe.name]
    origin["overrides"] = {
        name: plain(v) for name in FIELDS if (v := value_in(tested.recipe, name)) != value_in(row, name)
    }
    told = {name: found | {"measured": origin | tested.conditions(name)} for name, found in results.items()}
    if left_out:
        told = {name: found | {"left_out": found.get("left_out", {}) | left_out} for name, found in told.items()}
    return told


def mode_test(args, recipe: Recipe) -> None:
    """Evaluate weights, ours or anybody's, on every test set; or the features in files."""
    if args.features:
        return score_features(args, recipe)
    with processes.main_first():
        found, trains, tests = load_data(args)
    if not tests:
        raise ValueError("there is nothing to test on: none of the given data sets has query and gallery images")
    check_sets(args, found, (), tests)
    given = overrides(args)
    recipe = customised(recipe, given)
    run = make_run(args, recipe, trains)
    loaded = load_for_test(args, recipe, given, run, args.resume_test_epoch, found)
    print(loaded.said)
    check_test_distance(loaded.recipe)
    sets = {name: found[name] for name in tests}
    tested = make_tester(args, loaded.recipe, run, sets, loaded.cameras, share=True)
    results = tested(loaded.model)
    if not processes.is_main():
        return
    weights = args.weights or checkpoints.of_run(run.output, args.resume_test_epoch)
    told = measured(results, tested, weights, args)
    decides = {"weights": fingerprint.of_file(weights), "test": tested.digest(), "sie_cameras": args.sie_cameras}
    digest = fingerprint.of_settings(decides)
    for each in told.values():
        each["measured"] |= {"sie_cameras": args.sie_cameras, "fingerprint": digest}
    path = results_file(run.output, weights, digest)
    files.write_json(path, told)
    files.write_text(tester.queries_file(path), tester.queries_table(tested, loaded.model))
    theirs = compared_with(loaded.recipe, tested, results, loaded.origin)
    print("\n" + tester.table(results, loaded.trained_on, theirs) + f"\n\nresults       {path}")
    for said in embedder.keep_threshold(weights, results, tested):
        print(said)
    for name, metrics in results.items():
        if "search" in metrics:
            picture = path.with_name(f"{path.stem.replace('metrics', 'search', 1)}_{name}.png")
            print(f"pictures      {pictures.search_heatmap(metrics['search'], picture)}")


def score_features(args, recipe: Recipe) -> None:
    """What a test prints, of features or distances that are there already."""
    features.refuse_others(args.said)
    named = bool(args.test_dataset) or any(getattr(args, f"{name}_path") for name in datasets.DATASETS)
    found, _, tests = load_data(args) if named else ({}, [], [])
    if len(tests) > 1:
        raise ValueError(f"--features holds the rows of one data set, and {', '.join(tests)} are given: name one")
    known = found[tests[0]] if tests else None
    scored = features.scorer(args.features, test_options(args), overrides(args).get("metric"), known)
    run = make_run(argparse.Namespace(**(vars(args) | {"weights": args.features[0]})), recipe, [])
    results = features.measure(scored)
    digest = fingerprint.of_settings({"test": scored.digest()})
    for each in results.values():
        each["measured"]["fingerprint"] = digest
    path = results_file(run.output, args.features[0], digest)
    files.write_json(path, results)
    print("\n" + tester.table(results, args.features[0].stem, {}) + f"\n\nresults       {path}")


def make_tester(
    args, recipe: Recipe, run: Run, splits, cameras: dict, share: bool = False, drawn: bool = False
) -> tester.Tester:
    """The flags of testing as `tester.Options`; `share`: each process of torchrun takes a part of the work; `drawn`:
    pages will be drawn of it."""
    tested = tester.Tester(
        recipe,
        splits,
        test_options(args, drawn),
        device=run.device,
        channels_last=run.channels_last,
        camera_label=functools.partial(datasets.camera_label, cameras) if cameras else None,
        group=processes.group() if share else None,
    )
    if tested.recipe.metric != recipe.metric and processes.is_main():
        print(f"expanded queries have length 1: compared by {tested.recipe.metric}, not by {recipe.metric} distance")
    return tested


def test_options(args, drawn: bool = False) -> tester.Options:
    """The flags of testing; `drawn`: pages will be drawn of it."""
    reranking = {"k1": args.rerank_k1, "k2": args.rerank_k2, "lambda_value": args.rerank_lambda}
    return tester.Options(
        batch_size=args.test_batch,
        workers=args.workers or None,
        flip=args.flip_test,
        protocol=args.protocol,
        ap=args.ap,
        draws=args.draws,
        draws_per_query=args.draws_per_query,
        max_rank=args.max_rank,
        rerank=reranking if args.rerank else None,
        search=args.search_rerank,
        grid=grid_of(args) if args.search_rerank else None,
        expansion=tuple(args.query_expansion) if args.query_expansion else None,
        multi_query=args.multi_query,
        details=args.details,
        top_k=args.top_k if drawn else 0,
        show_junk=args.show_junk,
        budget=Budget(args.memory_gb),
        skip_bad=args.skip_bad_images,
    )


def grid_of(args) -> rerank.Grid:
    """What --search_rerank tries."""
    given = {"k1s": args.search_k1, "k2s": args.search_k2, "lambdas": args.search_lambda}
    return tester.GRID._replace(**{name: tuple(sorted(set(values))) for name, values in given.items() if values})


def called(model: models.Model, args, device: torch.device) -> Any:
    """What a training calls in place of `model`, or None. A graph may choose other kernels than the network's own first
    steps, so that a run which was stopped would not be the one which was not, to the bit: none if that is asked for."""
    if args.compile:
        return compiled(model, device)
    plain = device.type == "cuda" and processes.world_size() == 1 and args.accumulate == 1 and not args.grad_checkpoint
    return graphs.Replayed(model) if plain and args.cuda_graphs and not args.deterministic else None


def compiled(model: torch.nn.Module, device: torch.device) -> Any:
    """The model under torch.compile; on a CPU without Python between the kernels (840 against 760 images/s, OSNet)."""
    if device.type != "cpu":
        return torch.compile(model)
    if not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl"))):
        raise ValueError("--compile needs a C++ compiler for the CPU, and none was found: install g++ or leave it out")
    return torch.compile(model, options={"cpp_wrapper": True})


def print_settings(recipe: Recipe, given: dict, run: Run, num_pids: int, num_images: int) -> None:
    """Say what is about to run: the recipe, what the user changed in it, the data and the device."""
    print(f"\nRecipe {recipe.name}: {recipe.title}\n  {recipe.paper}\n  numbers: {recipe.source}")
    if recipe.differs:
        print(f"  differs: {recipe.differs}")
    for name, value in sorted(given.items()):
        default = value_in(RECIPES[recipe.name], name)
        own = [number for number, stage in enumerate(recipe.plan(), 1) if name in stage.changes]
        but = f"; stage {' and '.join(map(str, own))} keeps its own" if own else ""
        print((f"  {name}: {value} (recipe: {default})" if value != default else f"  {name}: {value}") + but)
    batch = f"P x K = {recipe.p} x {recipe.k}" if recipe.p else f"{recipe.batch_size} shuffled images"
    memory = "channels-last" if run.channels_last else "NCHW"
    print(
        f"  {num_images:,} images of {num_pids:,} identities, batches of {batch}, {recipe.epochs} epochs\n"
        f"  {run.device}, {torch.get_num_threads()} threads, {run.amp if run.amp != 'none' else 'float32'}, {memory}; "
        f"output in {run.output}\n",
        flush=True,
    )


def mode_visualize(args, recipe: Recipe) -> None:
    """Pictures of what a trained model does, or the ranking of a folder for one image."""
    given = overrides(args)
    if args.query_image is not None:
        return rank_folder(args, recipe, given)
    if args.gallery_path is not None:
        raise ValueError("--gallery_path is ranked for one image here: give --query_image FILE too, or leave it out")
    found, trains, tests = load_data(args)
    recipe = customised(recipe, given)
    run = make_run(args, recipe, trains)
    loaded = load_for_test(args, recipe, given, run, args.resume_visualize_epoch, found)
    print(loaded.said)
    file = args.weights or checkpoints.of_run(run.output, args.resume_visualize_epoch)
    sets = {name: found[name] for name in tests}
    sources = [source_of(args, run, loaded, file, sets)]
    if args.compare:
        beside = checkpoints.of_run(args.compare) if args.compare.is_dir() else args.compare
        other = argparse.Namespace(**vars(args) | {"weights": beside, "recipe_given": False, "sie_cameras": None})
        second = load_for_test(other, RECIPES[recipe.name], {}, run, None, found)
        print(second.said)
        sources.append(source_of(args, run, second, beside, sets))
        names = pictures.apart(file, beside)
        sources = [source._replace(name=name) for source, name in zip(sources, names, strict=True)]
    # curves and batch are of this network's own training: of a foreign file, or of other data, they would be untrue
    ours = loaded.trained_on.split("+") if loaded.epoch is not None else []
    log = visualize.read_log((args.weights.parent if args.weights else run.output) / "log.jsonl") if ours else []
    loader, trains = None, [name for name in trains if name in ours]
    if "batch" in args.vis and trains:
        data = datasets.combine([found[name] for name in trains], args.use_all_images)
        loader = training.data(args, loaded.recipe, run, data, cache="none")
    drawn = draw(args, run, sources, log, args.vis, loader)
    print("\n" + "\n".join(f"{'pictures':<14}{path}" for path in drawn))


def source_of(args, run: Run, loaded: rebuild.Loaded, weights: Path, sets: dict) -> pictures.Source:
    """What is drawn of a network that was loaded from `weights`, tested on these sets."""
    tested = make_tester(args, loaded.recipe, run, sets, loaded.cameras, drawn=True)
    told = {
        name: each["measured"] for name, each in measured({name: {} for name in sets}, tested, weights, args).items()
    }
    beside = compared_with(loaded.recipe, tested, told, loaded.origin)
    trained_on = loaded.trained_on if loaded.origin else ""  # of anybody's file that is its name
    return pictures.Source(tested, loaded.model, "", told, beside, trained_on)


def draw(args, run: Run, sources: Sequence[pictures.Source], log, what, loader) -> list[Path]:
    """Write the pictures named in `what` below <output>/visualize; returns what to look at first: a page per set."""
    folder, recipe, drawn = run.output / "visualize", sources[0].tested.recipe, []
    log, batch = log if "curves" in what else [], None
    if "batch" in what and loader is not None:
        images, labels, _ = next(iter(loader.epoch(0)))
        batch = images, labels, recipe.mean, recipe.std
    figures = pictures.training_pictures(log, batch, folder)
    if {"ranks", "actmap"} & set(what):
        order = args.order, args.only, args.seed
        wanted = pictures.Wanted(what, args.num_queries, args.num_maps, *order, log, figures)
        drawn = pictures.pages(sources, folder, wanted)
    if not drawn and not figures:
        asked = f"--vis {' '.join(what)}" + (f" --only {args.only}" if args.only != "all" else "")
        raise ValueError(f"nothing to draw for {asked}: no such query, and no training of this network")
    return drawn or list(figures.values())


def rank_folder(args, recipe: Recipe, given: dict) -> None:
    """Rank the images of --gallery_path for --query_image; nothing is known of who is on them."""
    if not args.query_image.is_file():
        raise FileNotFoundError(f"--query_image {args.query_image} is not a file")
    loaded, run, found = embedded_folder(args, recipe, given, [datasets.Sample(str(args.query_image), 0, 0)])
    plain = make_tester(args, loaded.recipe, run, {}, loaded.cameras)
    query, gallery = found.only([0]), found.only(list(range(1, len(found.samples))))
    [ranking] = plain.nearest(query, gallery, args.top_k)
    compared = "re-ranked" if plain.options.rerank else plain.recipe.metric
    folder = run.output / "visualize" / files.safe_name(args.query_image.stem)
    source = pictures.Source(plain, loaded.model)
    file = pictures.unlabelled_page(source, folder, ranking, (query, gallery), f"{compared} distance")
    print(f"\nnearest by {compared} distance (smaller is more alike):")
    for index, distance in zip(ranking.index, ranking.distance, strict=True):
        print(f"  {distance:.4f}  {files.printable(str(gallery.samples[index].path))}")
    print(f"\npictures      {file}")


def mode_extract(args, recipe: Recipe) -> None:
    """Embeddings of every image under --gallery_path, or of the queries and galleries of data sets, with labels."""
    if named := args.said & {"test_dataset", *(f"{name}_path" for name in datasets.DATASETS)}:
        if args.gallery_path is not None:
            raise ValueError(f"--gallery_path and --{min(named)} both name images to embed: give one of them")
        return extract_sets(args, recipe)
    loaded, run, found = embedded_folder(args, recipe, overrides(args))
    facts = features.facts_of(make_tester(args, loaded.recipe, run, {}, {}), weights_of(args, run))
    print(features.write_folder(run.output, found, facts))


def extract_sets(args, recipe: Recipe) -> None:
    """<set>_query.npz and <set>_gallery.npz of each test set, which --features measures."""
    found, trains, tests = load_data(args)
    given = overrides(args)
    run = make_run(args, customised(recipe, given), trains)
    loaded = load_for_test(args, recipe, given, run, None, found)
    print(loaded.said)
    sets = {name: found[name] for name in tests}
    tested = make_tester(args, loaded.recipe, run, sets, loaded.cameras)
    for line in features.write_sets(run.output, tested, loaded.model, weights_of(args, run)):
        print(line)


def weights_of(args, run: Run) -> Path:
    """The weight file of a test, an extraction or an export."""
    return args.weights or checkpoints.of_run(run.output)


def mode_export(args, recipe: Recipe) -> None:
    """The network as files that need nothing of this suite, or under torchreid's names."""
    named = args.said & {"test_dataset", *(f"{name}_path" for name in datasets.DATASETS)}
    export.check_asked(args.format, bool(args.quantize), args.gallery_path is not None, bool(named))
    found, trains, tests = load_data(args) if args.gallery_path is None and args.format == "onnx" else ({}, [], [])
    given = overrides(args)
    run = make_run(args, customised(recipe, given), trains)
    loaded = load_for_test(args, recipe, given, run, None, found)
    print(loaded.said)
    folder = run.output if args.weights else run.output / "export"
    if args.format == "torchreid":
        lines = export.write_torchreid(loaded, folder)
    else:
        sets = {name: found[name] for name in tests}
        tested = make_tester(args, loaded.recipe.with_(test_distance="global"), run, sets, {})
        samples = folder_of_images(args.gallery_path) if args.gallery_path else export.images_of(sets)
        job = export.Job(loaded, weights_of(args, run), tested, samples[: export.CHECKED])
        calibration = [
            *(found[trains[0]].train if trains else ()),
            *(s for each in sets.values() for s in each.gallery),
        ]
        lines = [*export.write(job, folder, bool(args.quantize), calibration), f"{'folder':<14}{folder}"]
    print("\n" + "\n".join(lines))


def embedded_folder(
    args, recipe: Recipe, given: dict, first: Sequence[datasets.Sample] = ()
) -> tuple[rebuild.Loaded, Run, tester.Features]:
    """The network, and the features of the images `first` and of all under --gallery_path.

    In the order of their cost: the folders, the weights, every image, and only then what the network computes.
    """
    if args.gallery_path is None:
        what, or_set = (
            ("--query_image", "") if first else ("--mode extract", ", or a data set such as --market_path DIR")
        )
        raise ValueError(f"{what} needs --gallery_path, a folder of images{or_set}")
    itself = {os.path.realpath(frame) for sample in first for frame in sample.frames}
    others = [each for each in folder_of_images(args.gallery_path) if os.path.realpath(each.frames[0]) not in itself]
    if not others:
        raise ValueError(f"--gallery_path {args.gallery_path} holds no other image than that of --query_image")
    samples = [*first, *others]
    recipe = customised(recipe, given)
    run = make_run(args, recipe, list(data_paths(args)))
    loaded = load_for_test(args, recipe, given, run, args.resume_visualize_epoch if first else None)
    print(loaded.said)
    found = make_tester(args, loaded.recipe, run, {}, loaded.cameras).features(loaded.model, samples, "images")
    if found.samples[: len(first)] != (*first,):
        raise ValueError(f"--query_image {args.query_image} cannot be read")
    return loaded, run, found


def folder_of_images(path: Path) -> list[datasets.Sample]:
    """Every image under `path`, sorted, without labels."""
    if not path.is_dir():
        raise FileNotFoundError(f"--gallery_path {path} is not a folder")
    found = images_below(str(path))
    if not found:
        raise FileNotFoundError(f"--gallery_path {path} holds no image ({', '.join(sorted(datasets.IMAGE_SUFFIXES))})")
    return [datasets.Sample(file, 0, 0) for file in found]


def mode_check(args, recipe: Recipe) -> None:
    """The data-set doctor: what is there, what is missing, what each protocol removes; fails if a set is unusable."""
    unusable = []
    for name, path in data_paths(args).items():
        report = check.examine(
            name,
            path,
            args.protocol,
            options=parser_options(args, name),
            train=name in asked_for(args),
            test=name in {datasets.canonical(each) for each in args.test_dataset or ()},
            skip_bad=args.skip_bad_images,
            workers=args.workers or None,
        )
        print(report.text + "\n")
        unusable += [] if report.usable else [name]
    if unusable:
        raise ValueError(f"{', '.join(unusable)} cannot be used as asked; the reasons are above")


def mode_report(args, recipe: Recipe) -> None:
    """Several runs as one table and one page, from the files in their folders."""
    output = args.output_path or Path("runs") / "report"
    files.check_folder(output)
    chosen = [datasets.canonical(name) for name in args.test_dataset or ()]
    print(report.written(report.collected(args.runs, chosen, output, args.seed), output))


ACTIONS = {
    "train": mode_train,
    "test": mode_test,
    "visualize": mode_visualize,
    "extract": mode_extract,
    "export": mode_export,
    "check": mode_check,
    "report": mode_report,
}


def main(argv: list[str] | None = None) -> int:
    """Run one mode; returns the exit status. A mistake of the user's ends in one message, not in a traceback."""
    with processes.stoppable():
        try:
            return answer(argv)
        except (KeyboardInterrupt, tester.Stopped):
            print("\nStopped.", file=sys.stderr)
            return 130


def answer(argv: list[str] | None) -> int:
    """As `main`, but for what a signal raises."""
    args, recipe = None, None
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what no terminal can write
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged tags: what cannot be read is told by our own rule
    try:
        args, recipe = parse(sys.argv[1:] if argv is None else argv)
        if args.mode not in ("train", "test") and processes.launched():
            raise ValueError(f"--mode {args.mode} runs in one process: start it without torchrun")
        with processes.joined(args.device):
            with contextlib.nullcontext() if processes.is_main() else contextlib.redirect_stdout(None):
                if args.unread:
                    print(f"WARNING: --mode {args.mode} does not read {', '.join(args.unread)}")
                began = time.perf_counter()
                ACTIONS[args.mode](args, recipe)
                if args.mode in ("test", "visualize", "extract", "export"):  # a training tells it of each of its runs
                    print(f"{'time':<14}{time.perf_counter() - began:.0f} s in all")
        return 0
    except train.Interrupted as stopped:
        print(f"\n{processes.label()}{stopped}", file=sys.stderr)
        return 130
    except tester.Stopped:
        raise
    except Exception as error:
        if args is not None and args.debug:
            raise
        print(f"\n{processes.label()}error: {message_of(error)}", file=sys.stderr)
        return 1


def message_of(error: Exception) -> str:
    """What a person needs to know of an error, memory above all."""
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return (
            f"out of memory ({text.splitlines()[0][:160]}): give smaller --p and --k or --batch_size, --image_size, or "
            "--accumulate in training, --test_batch and --memory_gb in testing; --cache none keeps no image in memory. "
            "The last finished epoch is kept; other numbers need another --output_path."
        )
    if isinstance(error, OSError) and error.filename and error.strerror and text.startswith("[Errno"):
        return f"{error.filename}: {error.strerror}"
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    ours = Path(__file__).resolve().parent in Path(raised_in).resolve().parents and "site-packages" not in raised_in
    ours = ours and isinstance(error, (OSError, ValueError, RuntimeError, ImportError, FloatingPointError))
    return text if ours else f"{type(error).__name__}: {' '.join(text.split())} (--debug shows where it comes from)"


if __name__ == "__main__":
    sys.exit(main())
