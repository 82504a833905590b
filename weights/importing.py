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
    LISTED,
    MODEL_PREFIXES,
    NECK,
    NON_LOCAL_BLOCK,
    Format,
    completed,
    format_of,
    renamed,
    stripped,
    unused_names,
)
from weights.reading import OURS, WeightFile, read
from weights.recognising import CARRIED, architecture_of, not_here, recognise_tensors

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


def import_weights(model: nn.Module, source: str | os.PathLike | WeightFile, start: bool = False) -> Report:
    """Load anybody's weight file (its path, or as it was `read`) into `model`; say what was done.

    A tensor is loaded where name and shape agree, after the renaming of `FORMATS` that lets most tensors agree and that
    of the model's class (`renames`: pairs of their prefix and ours). Position embeddings of another grid are resized
    (bilinear).

    Both sides have to come out even: every tensor that the model's embedding needs is in the file, and every tensor of
    the file has a place or is provably no part of what is compared (`_excuse`). With `start`, where a training begins
    and a new head is drawn, only the trunk has to: all of it filled, and nine tenths of the file's used.

    Raises FileNotFoundError; ValueError for a damaged file, for a network of another architecture, for tensors left
    over or missing (it names them), and for weights that are no finite numbers. On an error the model is unchanged.
    """
    file = read(source)
    path, target = file.path, model.state_dict()
    stored = stripped(file.tensors)
    offered = completed(stored, target)
    match = best_match(offered, target, _renames_of(model))

    loaded, resized, refused = dict(match.loaded), [], {}
    for name, (key, word) in match.refused.items():
        tensor = offered[name]
        grid = _model_grid(model, key) if key.endswith("pos_embed") else None
        if grid is not None and tensor.dim() in (2, 3) and tensor.shape[-1] == target[key].shape[-1]:
            loaded[key], change = _resize_position_embedding(
                path, tensor.reshape(1, -1, tensor.shape[-1]), target[key], grid
            )
            resized.append((key, change))
        else:
            refused[name] = (key, word)
    left = _Leftovers(offered, refused, unused_names(offered), _widths(model))
    excuses = {name: _excuse(name, left, target) for name in refused}
    _require_same_architecture(path, stored, offered, target, loaded, match, model if start else None)
    missing = [key for key in target if key not in loaded and not BATCH_COUNT.search(key)]
    if not start:
        compared = missing if getattr(model, "embed_after", True) else [key for key in missing if not NECK.match(key)]
        _require_all(path, stored, offered, excuses, compared, target)
    unusable(path, loaded, target)

    model.load_state_dict(loaded, strict=False)
    skipped = [(name, why or _difference(offered[name], refused[name][0], target)) for name, why in excuses.items()]
    form, network = format_of(list(stored)), architecture_of(stored)
    if file.ours is not None:
        return Report(str(path), OURS, list(loaded), skipped, missing, resized, ())
    name = " ".join(filter(None, (form.name, network)))
    notes = (*file.notes, *_notes(form, network))
    return Report(str(path), f"{name}; {file.container}", list(loaded), skipped, missing, resized, notes)


def _notes(form: Format, network: str) -> Iterator[str]:
    """What the network of a file needs that its tensors do not show, with the flag; an empty pattern means none."""
    if form.no_stem_relu and re.fullmatch(form.no_stem_relu, network):
        yield "this format's network has no ReLU after the stem (--stem_relu no)"
    if network == "hacnn":
        yield "if it was trained with torch before 1.3, which it does not say, give --recipe hacnn --align_corners yes"
    if form.stem_ceil and re.fullmatch(form.stem_ceil, network):
        yield "this format's network pools its stem without padding (--stem_ceil yes)"


def unusable(path: str | os.PathLike, loaded: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """ValueError if a tensor that would be loaded from `path` is of another kind of number than the network's, or holds
    NaN or infinity in its precision."""
    kinds = [
        f"{key} ({str(tensor.dtype).removeprefix('torch.')})"
        for key, tensor in loaded.items()
        if target[key].is_floating_point() and not tensor.is_floating_point()
    ]
    if kinds:
        raise ValueError(
            f"{path} holds integer, bool or complex numbers where the network has weights: {few_names(kinds)}. It is "
            "quantised or damaged; use a file with floating-point weights."
        )
    broken = [key for key, tensor in loaded.items() if not tensor.to(target[key].dtype).isfinite().all()]
    if broken:
        raise ValueError(f"{path} holds NaN or infinity in {few_names(broken)}: its training failed; use another file.")


class _Match(NamedTuple):
    loaded: dict[str, Tensor]  # model's key -> tensor of the file
    refused: dict[str, tuple[str, str]]  # file's name -> (the model's key it would have, or ""; its common name)


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
    for name, tensor in source.items():
        common = renamed(name, form.rules)
        ours = next((new + name[len(old) :] for old, new in renames if name.startswith(old)), common)
        words = dict.fromkeys((ours, common))
        keys = [key for key in (name, *(p + word for word in words for p in MODEL_PREFIXES)) if key in target]
        fitting = next((key for key in keys if _same_layer(tensor, target[key]) and key not in loaded), None)
        if fitting is not None:
            loaded[fitting] = tensor.reshape(target[fitting].shape)
        else:
            refused[name] = (keys[0] if keys else "", ours)
    return _Match(loaded, refused)


def _same_layer(tensor: Tensor, wanted: Tensor) -> bool:
    """One shape, but for sides of 1: a linear layer is a 1x1 convolution, CLIP's tables have no batch of one."""
    shapes = [[side for side in each.shape if side != 1] for each in (tensor, wanted)]
    return shapes[0] == shapes[1]


def _widths(model: Any) -> set[int]:
    """Of what is compared and of what feeds it: the features and the trunk's map."""
    base = getattr(model, "base", None)
    widths = (getattr(model, "embedding_dim", 0), *getattr(model, "feat_dims", ()))
    return {*widths, *(getattr(base, name, 0) for name in ("out_channels", "embed_dim"))} - {0}


class _Leftovers(NamedTuple):
    """Tensors of a file that have no place in the model, and what is needed to judge them."""

    source: dict[str, Tensor]  # all of the file
    refused: dict[str, tuple[str, str]]  # name -> (the model's key it would have, or ""; its common name)
    unused: set[str]  # names that the released network does not use
    widths: set[int]  # of what the model compares and of what feeds it

    def layer(self, module: str) -> dict[str, Tensor]:
        """The tensors of one module, by the file's names."""
        names = (name for name, (_, word) in self.refused.items() if word.rpartition(".")[0] == module)
        return {name: self.source[name] for name in names}

    def readers(self, layer: dict[str, Tensor], width: int) -> list[str]:
        """What reads `width` numbers: weights of so many inputs, norms of so many channels; biases do not."""
        return [
            name
            for name in self.refused.keys() - layer.keys() - self.unused
            if width in self.source[name].shape[1:2] or (self.source[name].shape == (width,) and not self.is_bias(name))
        ]

    def is_bias(self, name: str) -> bool:
        """Whether `name` is the bias of a matrix with as many rows."""
        weight = self.source.get(f"{name.removesuffix('bias')}weight")
        return weight is not None and weight.dim() == 2 and len(weight) == len(self.source[name])


def _excuse(name: str, left: _Leftovers, target: dict[str, Tensor]) -> str:
    """Why the tensor `name`, which has no place in the model, is no part of what is compared; "" where it may be."""
    key, word = left.refused[name]
    if name in left.unused:
        return "not used by the released network either"
    if INPUT_STATISTICS.search(word):
        return "input normalisation, which the recipe sets"
    if BATCH_COUNT.search(word):
        return "counter of BatchNorm, not needed"
    if word.endswith("sie_embed") and not any(other.endswith("sie_embed") for other in target):
        return f"embeddings of {len(left.source[name])} cameras, this model has none"
    identities = _identities(name, left)
    if not identities:
        return ""
    if identities in IMAGENET_CLASSES:
        return f"ImageNet classifier ({identities} classes)"
    has = target[key].shape[0] if key and target[key].dim() else "no such classifier"
    return f"classifier for {identities} identities, this model has {has}"


def _identities(name: str, left: _Leftovers) -> int:
    """How many identities the layer of the tensor `name` tells apart, if it is a last linear layer onto them; else 0.

    Shape and position tell, not the name: a matrix (N, D) and perhaps its bias (N,), where D is the width of what is
    compared or of what feeds it, and nothing else that has no place reads N numbers. An N that layers have too (512,
    768) may be an embedding: then the format has to be known, and the layer has to be its classifier.
    """
    word = left.refused[name][1]
    module, _, leaf = word.rpartition(".")
    layer = left.layer(module)
    matrix = next((tensor for tensor in layer.values() if tensor.dim() == 2), None)
    if matrix is None or leaf not in ("weight", "bias") or re.search(r"embed|position|token", module):
        return 0
    rows, columns = matrix.shape
    if (
        columns not in left.widths
        or len(layer) > 2
        or any(t is not matrix and t.shape != (rows,) for t in layer.values())
    ):
        return 0
    known = format_of(list(left.source)).needs and CLASSIFIER.search(word)
    return 0 if left.readers(layer, rows) or (_is_width(rows) and not known) else int(rows)


def _is_width(number: int) -> bool:
    """Whether layers are made so wide: a power of two from 64 on, or three of them."""
    return any(number == factor * 2**power for factor in (1, 3) for power in range(5, 14)) and number >= 64


def _difference(tensor: Tensor, key: str, target: dict[str, Tensor]) -> str:
    found = tuple(tensor.shape)
    return f"shape {found}, this model has {tuple(target[key].shape)}" if key else "no such tensor in this model"


def _require_all(
    path: Path,
    stored: dict[str, Tensor],
    source: dict[str, Tensor],
    excuses: dict[str, str],
    missing: list[str],
    target: dict[str, Tensor],
) -> None:
    """Raise where what the file's network compares has no place in the model, or the model's none in the file."""
    surplus = [f"{name} {tuple(source[name].shape)}" for name, why in excuses.items() if not why]
    lacking = [f"{key} {tuple(target[key].shape)}" for key in missing if not CLASSIFIER.search(key)]
    if not surplus and not lacking:
        return
    found = [f"{few_names(surplus)} of the file has no place in this network"] if surplus else []
    found += [f"{few_names(lacking)} of this network is missing in the file"] if lacking else []
    raise ValueError(
        f"{path} does not fit as the network that it was trained as, so there is nothing to measure: "
        f"{'; '.join(found)}. {advice(stored)}"
    )


def advice(stored: dict[str, Tensor]) -> str:
    """What to do with a file that does not fit: flags of the network it looks like, or the formats that are read."""
    other = not_here(stored)
    if other:
        return f"It is {other}."
    guess = recognise_tensors(stored) or {}
    flags = " ".join(_flags({name: value for name, value in guess.items() if name not in CARRIED}))
    if flags:
        return f"It looks like {flags}: leave other flags of the network out, or take another file."
    start = format_of(list(stored)).start
    if start:
        return f"Its network was trained for no re-ID: start a training from it by --pretrained, with {start}."
    form, choose = format_of(list(stored)), "name the network with --recipe and --backbone, or take another file."
    if form.needs:
        return f"Its names are those of {form.name}, its backbone is none that is recognised: {choose}"
    return f"Its names are of none of the formats that are read ({', '.join(LISTED)}): {choose}"


def _require_same_architecture(
    path: Path,
    stored: dict[str, Tensor],
    source: dict[str, Tensor],
    target: dict[str, Tensor],
    loaded: dict[str, Tensor],
    match: _Match,
    started: Any,
) -> None:
    """Raise unless model and file share 90 % of the backbone, counted in both directions.

    The file's side is needed because ResNet-50's names and shapes are all among those of ResNet-101.
    started: a model that begins its training: then all of its trunk has to be filled.
    """
    plain = not any(NON_LOCAL_BLOCK.search(name) for name in source)  # its non-local blocks start as the identity
    wanted = [key for key in _backbone(target) if not (plain and NON_LOCAL_BLOCK.search(key))]
    have = sum(key in loaded for key in wanted)
    unused = unused_names(source)
    offered = [name for name in _backbone(source) if name not in unused]
    used = sum(name not in match.refused for name in offered)
    trunk = _trunk_keys(started)
    bare = [key for key in target if key in trunk and key not in loaded and not (plain and NON_LOCAL_BLOCK.search(key))]
    if wanted and have >= REQUIRED_SHARE * len(wanted) and used >= REQUIRED_SHARE * len(offered) and not bare:
        return
    lacking = bare or [key for key in wanted if key not in loaded]
    surplus = [f"{name} {tuple(source[name].shape)}" for name in offered if name in match.refused]
    guess = recognise_tensors(stored)
    looks = f" (it looks like {architecture_of(stored)})" if guess else ""
    raise ValueError(
        f"{path} is a checkpoint of another architecture{looks}: {have} of this model's {len(wanted)} backbone "
        f"tensors were found in it, and {used} of its {len(offered)} have a place here. In the file, for example: "
        f"{few_names(surplus or offered, 3)}. Expected, for example: "
        f"{few_names([f'{key} {tuple(target[key].shape)}' for key in lacking or wanted], 3)}. {advice(stored)}"
    )


def _trunk_keys(model: Any) -> set[str]:
    """Names in the state dict of what a file of pretrained weights fills; none for None."""
    if not hasattr(model, "trunk"):
        return set()
    trunk = {id(parameter) for parameter in model.trunk()}
    return {name for name, value in model.state_dict(keep_vars=True).items() if id(value) in trunk}


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


def _model_grid(model: nn.Module, key: str) -> tuple[int, int] | None:
    """Rows and columns of the patches (of timm) or places (of CLIP) that the embedding `key` is for."""
    owner = model.get_submodule(key.rpartition(".")[0])
    return getattr(getattr(owner, "patch_embed", owner), "grid_size", None)


def _resize_position_embedding(path: Path, source: Tensor, target: Tensor, grid: tuple[int, int]) -> tuple[Tensor, str]:
    """Bilinear interpolation of a ViT's position embedding (1, N, D) to the `grid` of `target` (1, M, D).

    Dosovitskiy et al., ICLR 2021, section 3.2, as damo-cv/TransReID does it (model/backbones/vit_pytorch.py at
    dec5504). Tokens that stand before the patches (class, distillation) are kept as they are.
    """
    height, width = grid
    extra = target.shape[1] - height * width
    square = [n for n in (extra, 1, 0, 2) if math.isqrt(max(source.shape[1] - n, 0)) ** 2 == source.shape[1] - n]
    skip = square[0] if square else extra
    rows, columns = _file_grid(path, source.shape[1] - skip, height / width)
    patches = source[:, skip:].float().reshape(1, rows, columns, -1).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    patches = F.interpolate(patches, size=(height, width), mode="bilinear", align_corners=False)
    before = source[:, skip - extra : skip] if skip >= extra else target[:, :extra].cpu()
    resized = torch.cat([before.float(), patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)  # (1, M, D)
    return resized, f"position embedding of {rows}x{columns} patches to {height}x{width}"


def _file_grid(path: Path, patches: int, aspect: float) -> tuple[int, int]:
    """Rows and columns of a file's patches: a square if it can be (ImageNet), else the sides whose ratio is nearest to
    `aspect`, that of the images asked for; ValueError where two are as near."""
    side = math.isqrt(patches)
    if side * side == patches:
        return side, side
    pairs = [(n, patches // n) for n in range(1, patches + 1) if patches % n == 0]
    near = sorted(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] / aspect)))
    far = [abs(math.log(rows / columns / aspect)) for rows, columns in near[:2]]
    if len(far) > 1 and far[1] - far[0] < 1e-6:
        (a, b), (c, d) = near[:2]
        raise ValueError(
            f"{path} has a position embedding of {patches} patches, {a}x{b} or {c}x{d}: give the --image_size that it "
            "was trained with."
        )
    return near[0]
