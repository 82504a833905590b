"""Checkpoints of our own, written atomically, and the import of everybody else's weight files.

Two parts, in order:

* ``save`` and ``load``: our files hold plain types only, so that ``torch.load(weights_only=True)`` opens them.
* ``import_weights`` and ``recognise``: what ``foreign.read_weights`` finds in a file is brought to one vocabulary (the
  table ``FORMATS``) and matched with the model's own state dict by name and shape.
"""

from __future__ import annotations

import errno
import math
import os
import pickle
import re
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreign import FORMAT, OURS, existing_file, first_line, read_weights, size_text

# ============ our own checkpoints ============


def save(path: str | os.PathLike, state: dict[str, Any]) -> None:
    """Write `state` to `path` so that a reader sees the old file or the new one, never a part.

    `state` may hold dict, list, tuple, str, int, float, bool, None and tensors, nested. Tensors are written without
    their graph, and without the rest of the storage they are a view of.
    Raises ValueError for any other type, naming its key; RuntimeError when the file cannot be written, in which case
    the file that was there before is intact and no temporary file stays behind.
    """
    path = Path(path)
    state = _plain(state, "state")
    temporary = path.with_name(path.name + ".tmp")  # the same folder: os.replace is atomic only within a file system
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:  # Ctrl-C too must leave no half file
        _remove(temporary)
        cause = _os_error(error)
        if cause is None:
            raise
        raise RuntimeError(_write_failure(path, cause, state)) from error


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint written by `save`; its tensors are on the CPU.

    Raises FileNotFoundError for a missing file, ValueError for one that is truncated, damaged (each entry of the
    archive is compared with its CRC-32, which torch does not do) or not of this suite's making.
    """
    path = existing_file(path, "checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"checksum of {damaged} does not match")
        state = torch.load(path, map_location="cpu", weights_only=True)
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
    of another shape, with the first few of each. The model is then unchanged.
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
    wrong = [f"{len(names)} {kind} ({_few(names, 3)})" for kind, names in kinds.items() if names]
    if wrong:
        raise ValueError(
            f"{path} does not fit the network {type(model).__name__} that was built for it, of {len(target)} tensors: "
            f"{'; '.join(wrong)}. It was written with another recipe, backbone or option, or by another version of "
            "this suite: give the flags of its run, or load what fits with --weights."
        )
    model.load_state_dict(state)


def is_ours(state: Any) -> bool:
    """Whether `state`, as `load` returns it, is a checkpoint of this suite."""
    return isinstance(state, dict) and state.get("format") == FORMAT


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


def _os_error(error: BaseException) -> OSError | None:
    """The OSError behind `error`: torch's zip writer hides it under a RuntimeError about a file position."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _write_failure(path: Path, cause: OSError, state: dict[str, Any]) -> str:
    folder = next(p for p in (path.parent, *path.parent.absolute().parents) if p.exists())
    needed, free = sum(tensor.nbytes for tensor in _tensors(state)), shutil.disk_usage(folder).free
    advice = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some of your quota",
        errno.EACCES: "make the folder writable",
        errno.EPERM: "make the folder writable",
        errno.EROFS: "choose a folder on a writable disk",
    }.get(cause.errno or 0, "check the disk and the folder")
    kept = " The earlier file is unchanged." if path.exists() else ""
    return (
        f"could not write {path}: {cause.strerror or cause} (about {size_text(needed)} needed, {free:,} bytes free on "
        f"that disk): {advice}, or name another --output_path.{kept}"
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable. Windows cannot open a folder, and needs no such call."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the folder is not writable: then nothing was written either
        pass


# ============ everybody's names, in one vocabulary ============


class Format(NamedTuple):
    """One naming scheme. All of `needs` must occur in the names; `rules` then rename, in order, to the common words:
    the backbone bare (``conv1.weight``), the BN neck ``bottleneck.*``, the ID classifier ``classifier.*``.
    """

    name: str
    needs: tuple[str, ...]
    rules: tuple[tuple[str, str], ...] = ()
    no_stem_relu: str = ""  # which backbones of this format were trained without the ReLU after the stem (a pattern)
    stem_ceil: str = ""  # which pool the stem without padding (a pattern)


PLAIN_OR_IBN = r"resnet\d+(_ibn_a)?"
NO_BASE = ((r"^base\.", ""),)

# First match names the file; the rules that load most tensors are the ones used. What follows the trunk in a method's
# released code is renamed by the model itself (`renames` of the classes in models.py).
FORMATS = (
    # JDAI-CV/fast-reid c9bc3ce, fastreid/modeling/meta_arch/mgn.py: the first block of layer3 ends the trunk, layer3
    # from its second block on and layer4 begin each branch
    Format(
        "fast-reid MGN",
        (r"^backbone\.6\.conv1\.", r"^b3\.1\.0\.conv1\."),
        (
            (r"^backbone\.0\.", "conv1."),
            (r"^backbone\.1\.", "bn1."),
            (r"^backbone\.4\.", "layer1."),
            (r"^backbone\.5\.", "layer2."),
            (r"^backbone\.6\.", "layer3.0."),
            *((rf"^b1\.0\.{n}\.", f"layer3.{n + 1}.") for n in range(35)),  # 36 blocks in ResNet-152
            (r"^b1\.1\.", "layer4."),
        ),
        stem_ceil=PLAIN_OR_IBN,
    ),
    # JDAI-CV/fast-reid c9bc3ce, fastreid/modeling/heads/embedding_head.py; heads.classifier and heads.bnneck in files
    # of before 2021
    Format(
        "fast-reid",
        (r"^backbone\.", r"^heads\."),
        (
            (r"^heads\.bottleneck\.0\.", "bottleneck."),
            (r"^heads\.bnneck\.", "bottleneck."),
            (r"^heads\.pool_layer\.p$", "global_pool.p"),
            (r"^heads\.(classifier\.)?weight$", "classifier.weight"),
            (r"^backbone\.", ""),
        ),
        stem_ceil=PLAIN_OR_IBN,
    ),
    # wangguanan/light-reid 5f06f41 (branch version_py3.7_bot), core/nets/res50bnneck.py: Sequential(conv1, bn1,
    # maxpool, layer1-4), without the ReLU; core/nets/bnneck.py: bn, classifier
    Format(
        "wangguanan",
        (r"^resnet_conv\.0\.", r"^resnet_conv\.3\.0\.conv1"),
        (
            (r"^resnet_conv\.0\.", "conv1."),
            (r"^resnet_conv\.1\.", "bn1."),
            *((rf"^resnet_conv\.{i + 2}\.", f"layer{i}.") for i in range(1, 5)),
            (r"^classifier\.bn\.", "bottleneck."),
            (r"^classifier\.classifier\.", "classifier."),
        ),
        PLAIN_OR_IBN,
    ),
    # the same with the ReLU as a module of its own, as in the author's PCB: layer1 is entry 4
    Format(
        "wangguanan (stem with ReLU)",
        (r"^resnet_conv\.0\.", r"^resnet_conv\.7\."),
        (
            (r"^resnet_conv\.0\.", "conv1."),
            (r"^resnet_conv\.1\.", "bn1."),
            *((rf"^resnet_conv\.{i + 3}\.", f"layer{i}.") for i in range(1, 5)),
            (r"^classifier\.bn\.", "bottleneck."),
            (r"^classifier\.classifier\.", "classifier."),
        ),
    ),
    # wangguanan/light-reid 0502d2a, lightreid/models/heads/bn_head.py
    Format(
        "light-reid",
        (r"^backbone\.", r"^head\.(bn|classifier)\."),
        (
            (r"^head\.bn\.", "bottleneck."),
            (r"^head\.classifier\.", "classifier."),
            (r"^backbone\.", ""),
        ),
    ),
    # damo-cv/TransReID dec5504, model/make_model.py
    Format("TransReID", (r"^base\.cls_token$", r"^bottleneck\."), NO_BASE),
    # mangye16/ReID-Survey 38f5912, modeling/baseline.py, backbones/resnet_nl.py: without the ReLU, as its model
    Format("AGW", (r"^base\.NL_\d\.", r"^bottleneck\."), NO_BASE, r"resnet\d+"),
    # syfafterzy/PCB_RPP_for_reID e29cf54, reid/models/resnet.py, resnet_rpp.py; base is a whole ResNet, fc included
    Format("PCB_RPP", (r"^base\.", r"^instance0\."), NO_BASE),
    # huanghoujing/beyond-part-models 1686e88, bpm/model/PCBModel.py
    Format("beyond-part-models", (r"^base\.", r"^local_conv_list\."), NO_BASE),
    # TencentYoutuResearch/PersonReID-Pyramid 63ffd64, src/models/pcb_plus_dropout_pyramid.py
    Format("Pyramid", (r"^base\.", r"^pyramid_conv_list0\."), NO_BASE),
    # huanghoujing/AlignedReID-Re-Production-Pytorch 2e2d454, aligned_reid/model/Model.py
    Format("AlignedReID", (r"^base\.", r"^local_bn\."), NO_BASE),
    # michuanhaohao/AlignedReID fca9620, models/ResNet.py: Sequential(conv1, bn1, relu, maxpool, layer1-4)
    Format(
        "AlignedReID++",
        (r"^base\.0\.weight", r"^base\.7\.0\.conv1\."),
        (
            (r"^base\.0\.", "conv1."),
            (r"^base\.1\.", "bn1."),
            *((rf"^base\.{i + 3}\.", f"layer{i}.") for i in range(1, 5)),
        ),
    ),
    # michuanhaohao/reid-strong-baseline 3da7e6f, modeling/baseline.py; its flat rewrite has the same names
    # (without the neck there is no bottleneck.*); modeling/backbones/resnet.py: "add missed relu", commented out
    Format("BoT strong baseline", (r"^base\.", r"^(bottleneck|classifier)\.weight"), NO_BASE, r"resnet\d+"),
    # a state dict of ours, without the checkpoint around it
    Format("stripes of this suite", (r"^base\.", r"^reduction\.0\."), NO_BASE),
    # KaiyangZhou/deep-person-reid f8cd150, torchreid/models/pcb.py, osnet.py, resnet.py
    Format("torchreid PCB", (r"^conv5\.layers\.",)),
    Format("torchreid OSNet", (r"^conv1\.conv\.weight", r"^conv5\.conv\.weight")),
    Format("torchreid", (r"^classifier\.(weight|0)",)),
    # pytorch/vision: the names of DenseNet's files have a dot more than its modules (torchvision/models/densenet.py)
    Format(
        "torchvision DenseNet",
        (r"denselayer1\.norm\.1\.",),
        ((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),),
    ),
    Format("torchvision", (r"^(layer4\.0\.conv1|features\.0|encoder\.layers)\b",)),
    Format("timm", (r"^(blocks|stages|patch_embed|conv_stem|layers)\b",)),
    Format("unlisted names", (), ((r"^(base|backbone|model|encoder|resnet|image_encoder|net)\.", ""),)),
)

# where in a model of this suite a name of the common vocabulary may sit
MODEL_PREFIXES = ("", "base.", "backbone.", "image_model.", "image_model.base.")

BACKBONE = re.compile(r"^(image_model\.)?(base|backbone|resnet_conv|image_encoder)\.")
CLASSIFIER = re.compile(r"(^|\.)classifier\w*\.")
IMAGENET_HEAD = re.compile(r"^(base\.)?(fc|head|head\.fc|heads\.head|last_linear|classifier\.\d)\.(weight|bias)$")
IMAGENET_CLASSES = (1000, 11221, 21841, 21843)  # ILSVRC 2012, and what is used of ImageNet-21k
INPUT_STATISTICS = re.compile(r"^pixel_(mean|std)$")  # fast-reid keeps the input normalisation among its buffers
BATCH_COUNT = re.compile(r"num_batches_tracked$")  # absent in files of before torch 0.4.1, and read by no network here


# Tensors that a released network keeps and never uses -> (names that tell the network, which tensors). LAST: the number
# of the last block. TransReID's branches b1 and b2 start as copies of its last block (model/make_model.py).
UNUSED = (
    ((r"^pyramid_conv_list0\.",), r"^pyramid_(conv|fc)_list1\."),
    ((r"^base\.blocks\.", r"^b1\.0\."), r"^base\.(blocks\.LAST|norm|fc)\."),
    # mangye16/Cross-Modal-Re-ID-baseline e817a26, model.py: three whole ResNets, two stems and the stages of one in use
    (
        (r"^thermal_module\.thermal\.layer1\.",),
        r"^(thermal_module\.thermal|visible_module\.visible)\.(layer\d|fc)\.|^base_resnet\.base\.(conv1|bn1|fc)\.",
    ),
)

# A plain trunk for a network that has several copies of a part of it -> (a name of that network, (name in the common
# vocabulary, its copies)). All as the released code starts from ImageNet weights.
MGN_BRANCHES = ("b1.", "b2.", "b3.")
COPIES = (
    (
        "b2.0.norm1.weight",  # TransReID
        ((r"^blocks\.LAST\.", ("b1.0.", "b2.0.")), (r"^norm\.", ("b1.1.", "b2.1."))),
    ),
    (
        "base.infrared.conv1.weight",  # two-stream AGW: both stems start alike
        ((r"^conv1\.", ("conv1.", "infrared.conv1.")), (r"^bn1\.", ("bn1.", "infrared.bn1."))),
    ),
    (
        "b3.1.0.conv1.weight",  # MGN
        (
            (r"^conv1\.", ("backbone.0.",)),
            (r"^bn1\.", ("backbone.1.",)),
            (r"^layer1\.", ("backbone.4.",)),
            (r"^layer2\.", ("backbone.5.",)),
            (r"^layer3\.0\.", ("backbone.6.",)),
            *((rf"^layer3\.{n + 1}\.", tuple(f"{b}0.{n}." for b in MGN_BRANCHES)) for n in range(35)),
            (r"^layer4\.", tuple(f"{b}1." for b in MGN_BRANCHES)),
        ),
    ),
)

NON_LOCAL_BLOCK = re.compile(r"(^|\.)NL_\d\.")

REQUIRED_SHARE = 0.9  # of the backbone's tensors, of the model and of the file, that have to find each other


def _strip_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without ``module.`` (DataParallel, at any depth), ``_orig_mod.`` (torch.compile), or a prefix that all share."""
    names = {name: re.sub(r"(^|\.)(?:(?:module|_orig_mod)\.)+", r"\1", name) for name in tensors}
    for prefix in ("model.", "net.", "network."):
        if all(name.startswith(prefix) for name in names.values()):
            names = {old: name[len(prefix) :] for old, name in names.items()}
    return {names[old]: tensor for old, tensor in tensors.items()}


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _format_of(names: list[str]) -> Format:
    return next(f for f in FORMATS if _all_occur(f.needs, names))


def _all_occur(patterns: tuple[str, ...], names: Iterable[str]) -> bool:
    return all(any(re.search(pattern, name) for name in names) for pattern in patterns)


def _last_block(names: Iterable[str]) -> str:
    """Number of the last block of a transformer, "0" where there are none."""
    found = (re.search(r"(?:^|\.)blocks\.(\d+)\.", name) for name in names)
    return str(max((int(match[1]) for match in found if match), default=0))


def _unused(tensors: dict[str, Tensor]) -> set[str]:
    """Names of the file that the network it comes from does not use."""
    last = _last_block(tensors)
    patterns = [pattern.replace("LAST", last) for needs, pattern in UNUSED if _all_occur(needs, tensors)]
    return {name for name in tensors if any(re.search(pattern, name) for pattern in patterns)}


def _completed(source: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """`source` with what its network has but does not store, and a plain trunk dealt out to its copies (`COPIES`)."""
    tensors = dict(source)
    if "local_mask.weight" in source:  # a network with a part classifier is one that refines
        tensors["refined"] = torch.tensor(True)
    if any(name.startswith("backbone.NL_") for name in source) and "heads.pool_layer.p" not in source:
        tensors["heads.pool_layer.p"] = torch.tensor([3.0])  # fast-reid's AGW: fixed (fastreid/layers/pooling.py)
    last, rules = _last_block(source), _format_of(list(source)).rules
    for key, table in COPIES:
        if key not in target or key in source:
            continue
        for name in source:
            common = _rename(name, rules)
            for pattern, copies in table:
                start = re.match(pattern.replace("LAST", last), common)
                if start:
                    del tensors[name]
                    tensors |= {copy + common[start.end() :]: source[name] for copy in copies}
                    break
    return tensors


# ============ import ============


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
        lines += [f"  skipped  {_few(names)}: {reason}" for reason, names in reasons.items()]
        if self.missing:
            lines.append(f"  missing  {_few(self.missing)}: not in the file, left as initialised")
        return "\n".join([*lines, *(f"  note     {note}" for note in self.notes)])


def _count(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) != 1 else ''}"


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"


def import_weights(model: nn.Module, path: str | os.PathLike) -> Report:
    """Load anybody's weight file into `model`, as far as it fits, and say what was done.

    A tensor is loaded where name and shape agree, after the renaming of `FORMATS` that lets most tensors agree and that
    of the model's class (`renames`: pairs of their prefix and ours). An
    identity classifier for another number of identities is skipped; position embeddings of another grid are resized
    (bicubic). Raises FileNotFoundError; ValueError for a damaged file, for non-finite weights, and for a network of
    another architecture, that is when fewer than 90 % of the tensors of the model's backbone are in the file, or of
    the file's in the model. On an error the model is unchanged.
    """
    weights = read_weights(path)
    target = model.state_dict()
    stored = _strip_wrappers(weights.tensors)
    source = _completed(stored, target)
    match = best_match(source, target, _renames_of(model))

    loaded, resized, skipped = dict(match.loaded), [], []
    for name, (key, reason) in match.refused.items():
        tensor = source[name]
        if key.endswith(("pos_embed", "pos_embedding")) and tensor.shape[-1] == target[key].shape[-1]:
            loaded[key], change = _resize_position_embedding(model, key, tensor, target[key])
            resized.append((key, change))
        else:
            skipped.append((name, reason))
    _require_same_architecture(Path(path), stored, source, target, loaded, match)
    broken = [key for key, t in loaded.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if broken:
        raise ValueError(f"{path} holds NaN or infinity in {_few(broken)}: its training failed; use another file.")

    model.load_state_dict(loaded, strict=False)
    missing = [key for key in target if key not in loaded and not BATCH_COUNT.search(key)]
    form, network = _format_of(list(stored)), _architecture(stored)
    name = " ".join(filter(None, (form.name, network)))
    if weights.container == OURS:
        return Report(str(path), OURS, list(loaded), skipped, missing, resized, ())
    notes = weights.notes
    if re.fullmatch(form.no_stem_relu, network):
        notes = (*notes, "this format's network has no ReLU after the stem (--stem_relu no)")
    if re.fullmatch(form.stem_ceil, network):
        notes = (*notes, "this format's network pools its stem without padding (--stem_ceil yes)")
    return Report(str(path), f"{name}; {weights.container}", list(loaded), skipped, missing, resized, notes)


class _Match(NamedTuple):
    loaded: dict[str, Tensor]  # model's key -> tensor of the file
    refused: dict[str, tuple[str, str]]  # file's name -> (the model's key it would have, or ""; reason)


def _candidates(names: list[str]) -> list[Format]:
    """The format that the names show first, so that it wins a tie, then all others, then the names as they are."""
    first = _format_of(names)
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
    unused = _unused(source)
    for name, tensor in source.items():
        common = _rename(name, form.rules)
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
    unused = _unused(source)
    offered = [name for name in _backbone(source) if name not in unused]
    used = sum(name not in match.refused for name in offered)
    if wanted and have >= REQUIRED_SHARE * len(wanted) and used >= REQUIRED_SHARE * len(offered):
        return
    lacking = [key for key in wanted if key not in loaded]
    surplus = [f"{name} {tuple(source[name].shape)}" for name in offered if name in match.refused]
    guess = recognise_tensors(stored) or {}
    advice = " ".join(_flags(guess)) or "--recipe and --backbone"
    raise ValueError(
        f"{path} is a checkpoint of another architecture{f' (it looks like {_architecture(stored)})' if guess else ''}"
        f": {have} of this model's {len(wanted)} backbone tensors were found in it, and {used} of its {len(offered)} "
        f"have a place here. In the file, for example: {_few(surplus or offered, 3)}. Expected, for example: "
        f"{_few([f'{key} {tuple(target[key].shape)}' for key in lacking or wanted], 3)}. "
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


# ------------ position embeddings ------------


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


# ============ which network is it ============

OSNET_WIDTHS = {64: "x1_0", 48: "x0_75", 32: "x0_5", 16: "x0_25"}  # channels of conv1; torchreid/models/osnet.py
RESNET_DEPTHS = {  # (blocks of layer1-4, has a third convolution): He et al., CVPR 2016, table 1
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
RESNET_KINDS = {(64, 64): "resnet{}", (128, 4): "resnext{}_32x4d", (256, 8): "resnext{}_32x8d"}  # shape of a 3x3
VITS = {(768, 12): "vit_base_patch16_224", (384, 12): "deit_small_patch16_224"}  # (width, blocks)
VIT_GRIDS = {  # tokens of TransReID's position embedding -> (stride, image size)
    211: (12, (256, 128)),
    129: (16, (256, 128)),
    311: (12, (384, 128)),
    193: (16, (384, 128)),
}
NON_LOCAL = (0, 2, 3, 0)  # of ResNet-50; ReID-Survey, modeling/baseline.py; fast-reid, modeling/backbones/resnet.py

# recipe -> names, of the file or in the common vocabulary, that only its network has together; the first that fits.
METHODS = (
    ("hacnn", (r"^ha1\.", r"^fc_local\.")),
    ("mlfn", (r"^fc_s\.", r"^feature\.0\.fm_conv1\.")),
    ("mudeep", (r"^block5\.a1$",)),
    ("resnet50mid", (r"^fc_fusion\.",)),
    ("transreid", (r"^cls_token$", r"^b1\.0\.")),
    ("transreid_baseline", (r"^cls_token$", r"^bottleneck\.")),
    ("mgn", (r"^(b33_head|heads\.7)\.",)),
    ("pcb_rpp", (r"^(local_mask|part_classifier)\.",)),
    ("pyramid", (r"^(pyramid_conv_list0|reduction)\.20\.",)),
    ("pcb_independent", (r"^(local_conv_list|reduction)\.1\.",)),
    ("pcb", (r"^(conv5\.layers|feat_bn2d|reduction\.0)\.",)),
    ("aligned", (r"^local_bn\.",)),
    ("aligned_pp", (r"^bn\.running_mean$",)),
    ("sbs", (r"^heads\.pool_layer\.p$", r"^NL_\d\.")),  # the exponent of fast-reid's AGW is fixed
    ("agw", (r"^NL_\d\.",)),
    ("bot", (r"^bottleneck\.running_mean$",)),
)
WHOLE_NETWORKS = ("hacnn", "mlfn", "mudeep")  # recipes without a choice of backbone
REDUCED = ("resnet50", "se_resnet50", "densenet121", "squeezenet1_0")  # torchreid has these as *_fc512


def recognise(path: str | os.PathLike) -> dict[str, Any] | None:
    """Which recipe and backbone a foreign weight file belongs to, from the names and shapes of its tensors.

    Returns fields of a recipe, ``{"recipe": "osnet_x0_25"}``, ``{"recipe": "bot", "backbone": "resnet50",
    "stem_relu": False, "stem_ceil": False}``, ..., or None when the file is of none that are known here. ``options``,
    where present, replaces entries of the recipe's. Raises as `read_weights` does.
    """
    return recognise_tensors(_strip_wrappers(read_weights(path, values=False).tensors))


def recognise_tensors(tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    """`recognise` for tensors that are already read: a state dict of any of the `FORMATS`."""
    form = _format_of(list(tensors))
    common = {_rename(name, form.rules): tensor for name, tensor in tensors.items()}
    names = tensors.keys() | common.keys()
    method = next((recipe for recipe, needs in METHODS if _all_occur(needs, names)), "softmax")
    if method in WHOLE_NETWORKS:
        return {"recipe": method}
    backbone = _osnet(common) or _vit(common) or _resnet(common) or _other_trunk(common)
    if backbone is None:
        return None
    if method == "softmax":
        return _softmax(backbone, common)
    return {"recipe": method, "backbone": backbone} | _details(method, backbone, form, common)


def num_cameras(path: str | os.PathLike) -> int:
    """Cameras that the weight file `path` has embeddings for (SIE of TransReID), 0 for other networks.

    A model without them gives another embedding: build it with this many.
    """
    tensors = _strip_wrappers(read_weights(path, values=False).tensors)
    return next((len(tensor) for name, tensor in tensors.items() if name.endswith("sie_embed")), 0)


def _softmax(backbone: str, common: dict[str, Tensor]) -> dict[str, Any] | None:
    if backbone.startswith("osnet"):
        return {"recipe": backbone}
    if "fc.0.weight" in common:
        return {"recipe": f"{backbone}_fc512"} if backbone in REDUCED else None
    return {"recipe": "softmax", "backbone": backbone}


def _details(method: str, backbone: str, form: Format, common: dict[str, Tensor]) -> dict[str, Any]:
    """What a file tells of its network beyond method and backbone."""
    hints: dict[str, Any] = {}
    if re.fullmatch(PLAIN_OR_IBN, backbone) and method in ("bot", "agw", "sbs", "mgn"):
        relu = {} if method == "mgn" else {"stem_relu": re.fullmatch(form.no_stem_relu, backbone) is None}
        hints |= relu | {"stem_ceil": re.fullmatch(form.stem_ceil, backbone) is not None}
    if method == "bot" and "global_pool.p" in common:
        hints["pooling"] = "gem"
    if method in ("agw", "sbs"):
        counts = tuple(_count_of(rf"^NL_{i}\.", common) for i in range(1, 5))
        hints |= {"options": {"non_local": counts}} if counts != NON_LOCAL else {}
    if method.startswith("pcb"):
        parts = _count_of(r"^(classifier\.|instance|fc_list\.)", common)
        hints |= {"options": {"parts": parts}} if parts not in (0, 6) else {}
    if method.startswith("transreid"):
        hints |= _transreid(method, common)
    return hints


def _transreid(method: str, common: dict[str, Tensor]) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    jpm, cameras = method == "transreid", "sie_embed" in common
    if jpm != cameras:  # otherwise than in the recipes: 3.0 is config/defaults.py's for persons
        hints["sie_weight"] = 3.0 if cameras else 0.0
    stride, size = VIT_GRIDS.get(common["pos_embed"].shape[1], (0, (0, 0)))
    if size == (384, 128):
        hints["image_size"] = size
    if stride and stride != (12 if jpm else 16):
        hints["options"] = {"stride": stride, "jpm": jpm}
    return hints


def _count_of(start: str, names: Iterable[str]) -> int:
    """How many numbers follow `start` (a pattern) in names."""
    found = (re.search(rf"{start}(\d+)\.", name) for name in names)
    return len({match[match.lastindex] for match in found if match})


def _architecture(tensors: dict[str, Tensor]) -> str:
    guess = recognise_tensors(tensors)
    return guess.get("backbone", guess["recipe"]) if guess else ""


def _osnet(common: dict[str, Tensor]) -> str | None:
    if "conv1.conv.weight" not in common or "conv5.conv.weight" not in common:
        return None
    width = OSNET_WIDTHS.get(common["conv1.conv.weight"].shape[0])
    if width is None or not any(name.startswith("conv2.0.conv2") for name in common):
        return None
    if any(re.match(r"conv2\.0\.conv2\.\d", name) for name in common):  # the streams are a ModuleList in AIN
        return f"osnet_ain_{width}"
    return f"osnet_ibn_{width}" if any(".IN." in name for name in common) else f"osnet_{width}"


def _vit(common: dict[str, Tensor]) -> str | None:
    if "cls_token" not in common or "pos_embed" not in common:
        return None
    blocks = _count_of(r"^blocks\.", common)
    if "b1.0.norm1.weight" in common and not any(name.startswith("norm.") for name in common):
        blocks += 1  # ours does not keep the last block beside its copies
    return VITS.get((common["cls_token"].shape[2], blocks))


def _resnet(common: dict[str, Tensor]) -> str | None:
    if "conv1.weight" not in common and "layer0.conv1.weight" not in common:
        return None
    blocks = tuple(_count_of(rf"^layer{i}\.", common) for i in range(1, 5))
    depth = RESNET_DEPTHS.get((blocks, "layer1.0.conv3.weight" in common))
    middle = common.get("layer1.0.conv2.weight")
    kind = RESNET_KINDS.get(tuple(middle.shape[:2])) if middle is not None else None
    if depth is None or kind is None:
        return None
    name = kind.format(depth)
    if any(re.search(r"\.se(_module)?\.", key) for key in common):
        return f"se_{name}" if "layer0.conv1.weight" in common else None  # Caffe's, as in torchreid
    if any(re.match(r"layer1\.\d\.IN\.", key) for key in common):
        return f"{name}_ibn_b"
    return f"{name}_ibn_a" if "layer1.0.bn1.IN.weight" in common else name


def _other_trunk(common: dict[str, Tensor]) -> str | None:
    """torchreid's others that have a recipe, by a name and, where they come in sizes, a count or a width."""
    dense = tuple(_count_of(rf"^features\.denseblock{i}\.denselayer", common) for i in range(1, 5))
    if dense == (6, 12, 24, 16):  # Huang et al., CVPR 2017, table 1
        return "densenet121"
    if "conv9.conv.weight" in common:
        return {32: "mobilenetv2_x1_0", 44: "mobilenetv2_x1_4"}.get(common["conv1.conv.weight"].shape[0])
    if "cell_stem_0.conv_1x1.conv.weight" in common:
        return "nasnsetmobile"
    if "stage4.3.conv1.weight" in common and "conv1.0.weight" in common:
        return "shufflenet"
    if "features.3.squeeze.weight" in common and common["features.0.weight"].shape[0] == 96:
        return "squeezenet1_0"
    return None
