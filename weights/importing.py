"""Anybody's weight file into a model, as far as it fits, with a report of what was done."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weights.formats import (
    BACKBONE,
    BATCH_COUNT,
    CLASSIFIER,
    FORMATS,
    IMAGENET_CLASSES,
    IMAGENET_HEAD,
    INPUT_STATISTICS,
    MODEL_PREFIXES,
    NON_LOCAL_BLOCK,
    Format,
    completed,
    format_of,
    renamed,
    stripped,
    unused_names,
)
from weights.reading import OURS, WeightFile, read
from weights.recognising import architecture_of, recognise_tensors

REQUIRED_SHARE = 0.9  # of the backbone's tensors, of the model and of the file, that have to find each other


class Report(NamedTuple):
    """What `import_weights` did.

    Names under `loaded`, `resized` and `missing` are the model's, those under `skipped` the file's. `missing` lists
    what the file lacks (identity classifiers included, counters of BatchNorm not).
    """

    path: str
    format: str
    loaded: list[str]
    skipped: list[tuple[str, str]]  # (name in the file, reason)
    missing: list[str]
    resized: list[tuple[str, str]]  # (name, from what to what)
    notes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether all that makes the embedding was in the file: only identity classifiers may be missing."""
        return all(CLASSIFIER.search(name) for name in self.missing)

    def __str__(self) -> str:
        lines = [f"weights  {self.path} ({self.format})", f"  loaded   {_count(self.loaded)}"]
        lines += [f"  resized  {name}: {change}" for name, change in self.resized]
        reasons: dict[str, list[str]] = {}
        for name, reason in self.skipped:
            reasons.setdefault(reason, []).append(name)
        lines += [f"  skipped  {few_names(names)}: {reason}" for reason, names in reasons.items()]
        if self.missing:
            lines.append(f"  missing  {few_names(self.missing)}: not in the file, left as initialised")
        return "\n".join([*lines, *(f"  note     {note}" for note in self.notes)])


def _count(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) != 1 else ''}"


def few_names(names: list[str], most: int = 4) -> str:
    """The first `most` names, and how many more there are."""
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"


def import_weights(model: nn.Module, source: str | os.PathLike | WeightFile) -> Report:
    """Load anybody's weight file (its path, or as it was `read`) into `model`, as far as it fits; say what was done.

    A tensor is loaded where name and shape agree, after the renaming of `FORMATS` that lets most tensors agree and that
    of the model's class (`renames`: pairs of their prefix and ours). An
    identity classifier for another number of identities is skipped; position embeddings of another grid are resized
    (bicubic). Raises FileNotFoundError; ValueError for a damaged file, for non-finite weights, and for a network of
    another architecture, that is when fewer than 90 % of the tensors of the model's backbone are in the file, or of
    the file's in the model. On an error the model is unchanged.
    """
    file = read(source)
    path, target = file.path, model.state_dict()
    stored = stripped(file.tensors)
    offered = completed(stored, target)
    match = best_match(offered, target, _renames_of(model))

    loaded, resized, skipped = dict(match.loaded), [], []
    for name, (key, reason) in match.refused.items():
        tensor = offered[name]
        if key.endswith(("pos_embed", "pos_embedding")) and tensor.shape[-1] == target[key].shape[-1]:
            loaded[key], change = _resize_position_embedding(model, key, tensor, target[key])
            resized.append((key, change))
        else:
            skipped.append((name, reason))
    _require_same_architecture(path, stored, offered, target, loaded, match)
    broken = [key for key, t in loaded.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if broken:
        raise ValueError(f"{path} holds NaN or infinity in {few_names(broken)}: its training failed; use another file.")

    model.load_state_dict(loaded, strict=False)
    missing = [key for key in target if key not in loaded and not BATCH_COUNT.search(key)]
    form, network = format_of(list(stored)), architecture_of(stored)
    name = " ".join(filter(None, (form.name, network)))
    if file.ours is not None:
        return Report(str(path), OURS, list(loaded), skipped, missing, resized, ())
    notes = file.notes
    if re.fullmatch(form.no_stem_relu, network):
        notes = (*notes, "this format's network has no ReLU after the stem (--stem_relu no)")
    if re.fullmatch(form.stem_ceil, network):
        notes = (*notes, "this format's network pools its stem without padding (--stem_ceil yes)")
    return Report(str(path), f"{name}; {file.container}", list(loaded), skipped, missing, resized, notes)


class _Match(NamedTuple):
    loaded: dict[str, Tensor]  # model's key -> tensor of the file
    refused: dict[str, tuple[str, str]]  # file's name -> (the model's key it would have, or ""; reason)


def _candidates(names: list[str]) -> list[Format]:
    """The format that the names show first, so that it wins a tie, then all others, then the names as they are."""
    first = format_of(names)
    return [first, *(f for f in FORMATS if f is not first), Format("as is", ())]


def _renames_of(model: nn.Module) -> tuple[tuple[str, str], ...]:
    """(their prefix, ours) pairs of the model's class, or of the network it wraps."""
    owners = (module for module in model.modules() if hasattr(module, "renames"))
    return getattr(next(owners, None), "renames", ())


def best_match(
    source: dict[str, Tensor], target: dict[str, Tensor], renames: tuple[tuple[str, str], ...] = ()
) -> _Match:
    """`source`'s place in `target`, under the format that finds a place for most tensors."""
    matches = (_match(source, target, form, renames) for form in _candidates(list(source)))
    return max(matches, key=lambda match: len(match.loaded))


def _match(
    source: dict[str, Tensor], target: dict[str, Tensor], form: Format, renames: tuple[tuple[str, str], ...]
) -> _Match:
    loaded: dict[str, Tensor] = {}
    refused: dict[str, tuple[str, str]] = {}
    unused = unused_names(source)
    for name, tensor in source.items():
        common = renamed(name, form.rules)
        ours = next((new + name[len(old) :] for old, new in renames if name.startswith(old)), common)
        words = dict.fromkeys((ours, common))
        keys = [key for key in (name, *(p + word for word in words for p in MODEL_PREFIXES)) if key in target]
        fitting = next((key for key in keys if target[key].shape == tensor.shape and key not in loaded), None)
        if fitting is not None:
            loaded[fitting] = tensor
        else:
            key = keys[0] if keys else ""
            unplaced = "not used by the released network either" if name in unused else ""
            refused[name] = (key, unplaced or _reason(ours, tensor, key, target))
    return _Match(loaded, refused)


def _reason(common: str, tensor: Tensor, key: str, target: dict[str, Tensor]) -> str:
    found = tuple(tensor.shape)
    is_classifier = bool(CLASSIFIER.search(common) or (IMAGENET_HEAD.search(common) and not key)) and tensor.dim() > 0
    if is_classifier and found[0] in IMAGENET_CLASSES:
        return f"ImageNet classifier ({found[0]} classes)"
    if is_classifier:
        has = target[key].shape[0] if key and target[key].dim() else "no such classifier"
        return f"classifier for {found[0]} identities, this model has {has}"
    if INPUT_STATISTICS.search(common):
        return "input normalisation, which the recipe sets"
    if common.endswith("sie_embed"):
        return f"embeddings of {found[0]} cameras, this model has {target[key].shape[0] if key else 'none'}"
    if common.endswith("global_pool.p"):
        return "exponent of the pooling: the file's network pools by generalised mean (gem), this model does not"
    if BATCH_COUNT.search(common):
        return "counter of BatchNorm, not needed"
    if key:
        return f"shape {found}, this model has {tuple(target[key].shape)}"
    return "no such tensor in this model"


def _require_same_architecture(
    path: Path,
    stored: dict[str, Tensor],
    source: dict[str, Tensor],
    target: dict[str, Tensor],
    loaded: dict[str, Tensor],
    match: _Match,
) -> None:
    """Raise unless model and file share 90 % of the backbone, counted in both directions.

    The file's side is needed because ResNet-50's names and shapes are all among those of ResNet-101.
    """
    plain = not any(NON_LOCAL_BLOCK.search(name) for name in source)  # its non-local blocks start as the identity
    wanted = [key for key in _backbone(target) if not (plain and NON_LOCAL_BLOCK.search(key))]
    have = sum(key in loaded for key in wanted)
    unused = unused_names(source)
    offered = [name for name in _backbone(source) if name not in unused]
    used = sum(name not in match.refused for name in offered)
    if wanted and have >= REQUIRED_SHARE * len(wanted) and used >= REQUIRED_SHARE * len(offered):
        return
    lacking = [key for key in wanted if key not in loaded]
    surplus = [f"{name} {tuple(source[name].shape)}" for name in offered if name in match.refused]
    guess = recognise_tensors(stored) or {}
    advice = " ".join(_flags(guess)) or "--recipe and --backbone"
    looks = f" (it looks like {architecture_of(stored)})" if guess else ""
    raise ValueError(
        f"{path} is a checkpoint of another architecture{looks}: {have} of this model's {len(wanted)} backbone "
        f"tensors were found in it, and {used} of its {len(offered)} have a place here. In the file, for example: "
        f"{few_names(surplus or offered, 3)}. Expected, for example: "
        f"{few_names([f'{key} {tuple(target[key].shape)}' for key in lacking or wanted], 3)}. "
        f"Choose the network the file was trained with: {advice}."
    )


def _flags(hints: dict[str, Any]) -> Iterator[str]:
    """`hints` as a user gives them; options of a network have no flag."""
    for name, value in hints.items():
        if isinstance(value, bool):
            yield f"--{name} {'yes' if value else 'no'}"
        elif isinstance(value, tuple):
            yield f"--{name} {' '.join(map(str, value))}"
        elif not isinstance(value, dict):
            yield f"--{name} {value}"


def _backbone(tensors: dict[str, Tensor]) -> list[str]:
    """Names that make the architecture: those of the backbone where it has a prefix, else all but classifiers."""
    names = [
        name
        for name in tensors
        if not any(p.search(name) for p in (CLASSIFIER, IMAGENET_HEAD, INPUT_STATISTICS, BATCH_COUNT))
    ]
    inside = [name for name in names if BACKBONE.search(name)]
    return inside or names


def _resize_position_embedding(model: nn.Module, key: str, source: Tensor, target: Tensor) -> tuple[Tensor, str]:
    """Bicubic interpolation of a ViT's position embedding (1, N, D) to the grid of `target` (1, M, D).

    Dosovitskiy et al., ICLR 2021, section 3.2: "2D interpolation of the pre-trained position embeddings". Tokens that
    stand before the patches (class, distillation) are kept as they are.
    """
    height, width = _model_grid(model, key, target.shape[1])
    extra = target.shape[1] - height * width
    square = [n for n in (extra, 1, 0, 2) if math.isqrt(max(source.shape[1] - n, 0)) ** 2 == source.shape[1] - n]
    skip = square[0] if square else extra
    rows, columns = _grid(source.shape[1] - skip)
    patches = source[:, skip:].float().reshape(1, rows, columns, -1).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    patches = F.interpolate(patches, size=(height, width), mode="bicubic", align_corners=False)
    before = source[:, skip - extra : skip] if skip >= extra else target[:, :extra].cpu()
    resized = torch.cat([before.float(), patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)  # (1, M, D)
    return resized, f"position embedding of {rows}x{columns} patches to {height}x{width}"


def _model_grid(model: nn.Module, key: str, tokens: int) -> tuple[int, int]:
    """The patch grid (rows, columns), from timm's ``patch_embed.grid_size`` beside the embedding where there is one."""
    owner = model.get_submodule(key.rpartition(".")[0])
    size = getattr(getattr(owner, "patch_embed", None), "grid_size", None)
    if size is not None and 0 <= tokens - size[0] * size[1] <= 2:  # overlapping patches have another grid than timm's
        return int(size[0]), int(size[1])
    return _grid(tokens - int(hasattr(owner, "cls_token") or hasattr(owner, "class_token")))


def _grid(patches: int) -> tuple[int, int]:
    """A square if it can be (ImageNet), else the sides whose ratio is nearest to a pedestrian's 2 to 1."""
    side = math.isqrt(patches)
    if side * side == patches:
        return side, side
    pairs = [(patches // w, w) for w in range(1, side + 1) if patches % w == 0]
    return min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] / 2)))
