"""What a training is made of, from the flags and the recipe: its loader, its batches, its stages, its switches.

Like ``run`` this file still sees ``args``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

import datasets
import loaders
import models
from config import Recipe
from epochs import Phase
from loading import samplers
from machine import processes
from run import Run


def prepared(model: models.Model, args, loader: loaders.TrainLoader) -> models.Model:
    """`model` for training with --accumulate, --grad_checkpoint and --sync_bn; ValueError where they cannot be."""
    check_parts(args, loader)
    if args.grad_checkpoint:
        able: list[Any] = [m for m in model.modules() if hasattr(m, "set_grad_checkpointing")]
        if not able:
            raise ValueError("--grad_checkpoint needs a backbone of timm that offers it, such as a ViT; leave it out")
        for module in able:
            module.set_grad_checkpointing(True)
    if args.sync_bn and loader.world_size > 1:
        processes.synchronised_batch_norm(model)  # in place
    return model


def check_parts(args, loader: loaders.TrainLoader) -> None:
    """ValueError if --accumulate cannot part the batches of the loader evenly."""
    share = loader.batch_size // loader.world_size
    if args.accumulate < 1 or share % args.accumulate or (args.accumulate > 1 and share // args.accumulate < 2):
        raise ValueError(
            f"--accumulate {args.accumulate} cannot part {share} images (a batch of {loader.batch_size} over "
            f"{loader.world_size} process(es)) evenly into parts of two or more"
        )


def data(args, recipe: Recipe, run: Run, samples: datasets.TrainingSet, cache: str | None = None):
    """The training loader of `samples`, as the recipe augments and batches it."""
    decoding = decoding_of(args, recipe)
    cached = loaders.Cache(cache or args.cache, args.cache_path or run.output / "cache")
    if not recipe.infrared:  # then the network is not told of the light
        samples = dataclasses.replace(samples, infrared=frozenset())
    loader = loaders.TrainLoader(
        samples,
        loaders.make_store(samples.samples, decoding, cached, run.device),
        batches_of(recipe, samples),
        augmentation_of(recipe),
        clips=loaders.Clips(**{each.name: getattr(recipe, each.name) for each in dataclasses.fields(loaders.Clips)}),
        delivery=loaders.Delivery(run.device, run.channels_last, processes.rank(), processes.world_size()),
        seed=args.seed,
    )
    if loader.store.skipped:
        print(f"Training images: {loader.store.left_out}")
    return loader


def decoding_of(args, recipe: Recipe) -> loaders.Decoding:
    """How the recipe reads image files, with the flags of this machine."""
    return loaders.Decoding(
        recipe.image_size, recipe.interpolation, args.workers or None, args.skip_bad_images, processes.is_main()
    )


def augmentation_of(recipe: Recipe) -> loaders.Augmentation:
    """What happens to training images of the recipe, whose fields have the names of the augmentation's."""
    names = [field.name for field in dataclasses.fields(loaders.Augmentation) if hasattr(recipe, field.name)]
    return loaders.Augmentation(**{name: getattr(recipe, name) for name in names})


def batches_of(recipe: Recipe, data: datasets.TrainingSet) -> samplers.Batches:
    """What makes a batch of the recipe."""
    if recipe.infrared and not data.infrared:
        raise ValueError(
            f"recipe {recipe.name} trains on colour and infrared images, but {', '.join(data.numbering)} has no "
            "infrared cameras; train on sysu, regdb, llcm or syntheticrgbir, or set --infrared no"
        )
    if recipe.uses_clothes and not data.wearers:
        raise ValueError(
            f"recipe {recipe.name} learns which clothes are worn, and {', '.join(data.numbering)} does not say: train "
            "on sets that do, such as prcc, ltcc, vcclothes or deepchange"
        )
    if recipe.extra_colour and not (recipe.infrared and recipe.p):
        raise ValueError(
            f"--extra_colour yes puts images in colour twice beside infrared ones into p x k batches, but recipe "
            f"{recipe.name} has --infrared {'yes' if recipe.infrared else 'no'} and --p {recipe.p}: set --infrared yes "
            "and --p, or --extra_colour no"
        )
    if recipe.across_cameras and (recipe.infrared or recipe.alternate):
        other = "infrared" if recipe.infrared else "alternate"
        raise ValueError(f"--across_cameras and --{other} both say what a batch holds: set one of them to no")
    if not recipe.p:
        return samplers.Shuffled(recipe.batch_size, recipe.steps)
    if recipe.infrared:
        return samplers.BothLights(recipe.p, recipe.k, recipe.steps, recipe.epoch_length, recipe.extra_colour)
    chosen = {samplers.AcrossCameras: recipe.across_cameras, samplers.Alternating: recipe.alternate}
    kind = next((kind for kind, asked in chosen.items() if asked), samplers.PK)
    return kind(recipe.p, recipe.k, recipe.steps, recipe.epoch_length)


def phases_of(args, data: datasets.TrainingSet, base: Phase, run: Run) -> tuple[Phase, ...]:
    """What each stage of the recipe trains with: `base`, or a criterion and a loader of the recipe as it changes it.

    Empty where no stage changes anything. ValueError where `prepared` would raise for the batches of a stage.
    """
    recipe, found = base.recipe, []
    if not any(stage.changes for stage in recipe.plan()):
        return ()
    for index, stage in enumerate(recipe.plan()):
        changed = recipe.of_stage(index)
        if stage.changes:
            loader = base.loader.alike(batches_of(changed, data), augmentation_of(changed))
            check_parts(args, loader)
            torch.manual_seed(args.seed)
            criterion = changed.losses(data.num_pids, data.wearers or None).to(run.device)
            found.append(Phase(changed, criterion, loader))
        else:
            found.append(base)
    return tuple(found)


def with_pixels(phases: tuple[Phase, ...], base: Phase, data: datasets.TrainingSet) -> tuple[Phase, ...]:
    """`phases` with the pixels of `base`'s loader, which they were not made with; `base` in place of its like."""
    return tuple(
        base
        if phase.recipe is base.recipe
        else phase._replace(loader=base.loader.alike(batches_of(phase.recipe, data), augmentation_of(phase.recipe)))
        for phase in phases
    )
