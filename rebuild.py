"""From a weight file, of this suite or of anybody, to the network that it belongs to and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import checkpoints
import models
from cli import customised, named_recipe
from config import Recipe, applies
from datasets import Splits
from weights import formats, importing, reading, recognising


class Loaded(NamedTuple):
    """A network for testing, and what its weight file says of it."""

    model: models.Model  # in eval mode, where the run computes
    recipe: Recipe
    trained_on: str  # data sets joined by +; of a foreign file, which does not say, its name
    said: str  # for the user: what was read, and how
    cameras: dict[str, list[int]] = {}  # `TrainingSet.numbering`; empty where the file does not name them
    epoch: int | None = None
    origin: dict[str, Any] = {}  # what a checkpoint of ours says of its training set


def cameras_of(name: str, found: Mapping[str, Splits]) -> dict[str, list[int]]:
    """{name: camera numbers of that data set, in ascending order}, as released code numbers a set's embeddings."""
    if name not in found:
        raise ValueError(f"--sie_cameras {name} is none of the data sets of this run ({', '.join(found) or 'none'})")
    splits = found[name]
    return {name: sorted({sample.camid for sample in (*splits.train, *splits.query, *splits.gallery)})}


def size_said(recipe: Recipe, given: Mapping[str, Any], otherwise: str) -> str:
    """The size of the images that the network sees, and where it is from: `otherwise`, if it was not `given`."""
    height, width = recipe.image_size
    return f"images of {height}x{width}, {'as --image_size says' if 'image_size' in given else otherwise}"


def network_of(
    file: reading.WeightFile,
    recipe: Recipe | None,
    given: dict[str, Any],
    numbering: dict[str, list[int]] | None = None,
) -> Loaded:
    """The network of a weight file, ours or anybody's, as a test has it before it is placed on a device.

    recipe: the one that the user names, or None; given: fields and options that he gives; numbering: of a foreign file,
    see `network_of_anybody`. ValueError for a checkpoint of ours of another recipe, and as the two below.
    """
    if file.ours is None:
        return network_of_anybody(file, recipe, given, numbering or {})
    state = checkpoints.described(file.ours, file.path)
    if recipe is not None and recipe.name != state["recipe"]:
        raise ValueError(f"{file.path} is of recipe {state['recipe']}, not of --recipe {recipe.name}: leave that out")
    return network_of_ours(file.path, state, given)


def network_of_ours(path: Path, state: dict[str, Any], given: dict[str, Any]) -> Loaded:
    """The network of a checkpoint of this suite, with the options it was trained with and those `given` now."""
    stored = {name: tuple(value) if isinstance(value, list) else value for name, value in state["overrides"].items()}
    cameras = state["cameras"]
    try:
        recipe = customised(named_recipe(state["recipe"]), stored | given)
        model = recipe.model(state["num_pids"], num_cameras=sum(map(len, cameras.values())))
    except (AttributeError, TypeError, ValueError) as error:  # of another version, or damaged
        raise ValueError(
            f"{path} cannot be rebuilt with its recipe and options: {reading.first_line(error)}"
        ) from error
    checkpoints.load_into(model, state["model"], path)
    trained_on, epoch = "+".join(state["trained_on"]), state["epoch"]
    said = f"{path}: recipe {recipe.name}, epoch {epoch}, trained on {trained_on}"
    said += f"\n{path}: {size_said(recipe, given, 'as in its training')}"
    origin: dict[str, Any] = {key: state[key] for key in ("trained_on", "data", "use_all_images") if key in state}
    return Loaded(model, recipe, trained_on, said, cameras, epoch, origin)


def network_of_anybody(
    file: reading.WeightFile, recipe: Recipe | None, given: dict[str, Any], numbering: dict[str, list[int]]
) -> Loaded:
    """The network of a foreign file: `recipe`'s, or the one that the names and shapes of its tensors show.

    numbering: the cameras that its camera embeddings belong to, by data set; empty where nobody says.
    """
    other = recognising.not_here(formats.stripped(file.tensors))
    if other:
        raise ValueError(f"{file.path} is {other}")
    hints = recognising.recognise(file) or {}
    pool = recognising.stem_pool(file)
    if pool == "" and recipe is None and "stem_pool" not in given:
        raise ValueError(
            f"{file.path} has the names of reid-strong-baseline and of person-reid-tiny-baseline, whose stems differ: "
            "say --stem_pool 3x3 (or --recipe bot) for the first, --stem_pool 2x2 for the second"
        )
    hints |= {"stem_pool": pool} if pool else {}
    if recipe is not None and hints.get("recipe") == recipe.name:
        del hints["recipe"]
    elif recipe is not None:  # of another row the options are the file's where its network is the same
        same = "recipe" in hints and named_recipe(hints["recipe"]).network is recipe.network
        carried = (*recognising.CARRIED, "options") if same else recognising.CARRIED
        hints = {name: value for name, value in hints.items() if name in carried}
    elif not hints:
        advice = importing.advice(formats.stripped(file.tensors))
        raise ValueError(f"{file.path} does not say which network it belongs to. {advice}")
    else:
        recipe = named_recipe(hints.pop("recipe"))
    cameras = recognising.num_cameras(file)
    if cameras and applies(recipe, "sie_weight"):
        hints = {"sie_weight": recipe.sie_weight or recognising.SIE_WEIGHT} | hints  # unless it is recognised as CLIP's
    recipe = recipe.with_(options=recipe.options | hints.pop("options", {}))
    recipe = customised(recipe, {name: value for name, value in hints.items() if applies(recipe, name)} | given)
    backbone = f", backbone {recipe.backbone}" if applies(recipe, "backbone") else ""
    said = [f"{file.path}: recipe {recipe.name}{backbone}"]
    own = "the recipe's, for the file does not say which it was trained at: --image_size H W for another"
    size = size_said(recipe, given, "as the file says" if "image_size" in hints else own)
    said.append(f"{file.path}: {size}")
    cameras = cameras if recipe.uses_cameras else 0
    if numbering:
        ((name, camids),) = numbering.items()
        if cameras != len(camids):
            raise ValueError(
                f"--sie_cameras {name}: {file.path} has {cameras or 'no'} camera embeddings, {name} has {len(camids)} "
                f"cameras ({', '.join(map(str, camids))}); leave the flag out to use their mean"
            )
        said.append(f"{file.path}: its camera embeddings are those of cameras {', '.join(map(str, camids))} of {name}")
    elif cameras:
        mean = f"the mean of its {cameras} camera embeddings is used, since it does not say whose they are"
        said.append(f"{file.path}: {mean} (--sie_cameras)")
    model = recipe.model(0, num_cameras=cameras)
    report = importing.import_weights(model, file)
    return Loaded(model, recipe, file.path.name, "\n".join([*said, str(report)]), numbering)
