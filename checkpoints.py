"""Checkpoints of our own, written atomically, and the import of everybody else's weight files.

Three parts, in order:

* ``save`` and ``load``: our files hold plain types only, so that ``torch.load(weights_only=True)`` opens them.
* reading a foreign file: whatever it is (zip or legacy ``torch.save``, a plain pickle, safetensors, a whole pickled
  ``nn.Module``), it becomes a mapping from name to tensor. No code that a file names is ever run: a pickle can only
  call the few functions defined here that rebuild tensors; every other class it names becomes an inert stand-in.
* ``import_weights`` and ``recognise``: the names are brought to one vocabulary (the table ``FORMATS``) and matched with
  the model's own state dict by name and shape.
"""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import re
import shutil
import struct
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ============ our own checkpoints ============

FORMAT = "reid-suite-1"  # value of the key "format" in every checkpoint of ours


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
    path = _existing_file(path, "checkpoint")
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
            f"{path} is truncated, damaged or no checkpoint of this suite ({_size(path.stat().st_size)}; "
            f"{_first_line(error)}): delete it and resume from an earlier checkpoint, or copy it again."
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, expected a dict: it is no checkpoint of this suite.")
    return state


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
        f"could not write {path}: {cause.strerror or cause} (about {_size(needed)} needed, {free:,} bytes free on that "
        f"disk): {advice}, or name another --output_path.{kept}"
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


def _existing_file(path: str | os.PathLike, what: str) -> Path:
    path = Path(path)
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in WEIGHT_SUFFIXES or ".pth" in p.name)
        hint = f"; name one of the files in it: {', '.join(inside[:5])}" if inside else ""
        raise ValueError(f"{path} is a folder, expected a {what} file{hint}.")
    if not path.exists():
        raise FileNotFoundError(f"no {what} file at {path}: check the path.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: the {what} was never written or its download failed; copy it again.")
    return path


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:120]}" if text else type(error).__name__


# ============ reading a foreign file without running it ============

WEIGHT_SUFFIXES = (".pth", ".pt", ".tar", ".pkl", ".bin", ".ckpt", ".safetensors")

# torch/serialization.py: a legacy file is five pickles (magic number, protocol, system, object, storage keys), then
# for each storage its number of elements (int64) and its bytes.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}

# https://github.com/huggingface/safetensors#format
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Inert:
    """Stands where a file names a class or a function we do not know: it can be called and filled, and does nothing."""

    __slots__ = ("entries", "state")

    def __new__(cls, *args, **kwargs):
        self = object.__new__(cls)
        self.entries, self.state = {}, None
        return self

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return Inert()

    def __setstate__(self, state):
        self.state = state

    def __setitem__(self, key, value):
        self.entries[key] = value

    def append(self, value):
        pass

    extend = add = update = append


class _Mapping(dict):
    """An OrderedDict of a file, deaf to the attributes the file would set on it (``_metadata`` of a state dict)."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    numel: int
    start: int = 0  # element of the storage `key` at which a legacy view begins


class _Lazy:
    """A tensor of a file before its values are read."""

    __slots__ = ("dtype", "offset", "shape", "storage", "stride")

    def __init__(self, storage: _Storage, offset: int, shape: tuple, stride: tuple, dtype: torch.dtype | None = None):
        self.storage, self.offset, self.dtype = storage, offset, dtype or storage.dtype
        self.shape, self.stride = tuple(shape), tuple(stride)

    def __setstate__(self, state):  # torch 0.3 sends (requires_grad, volatile, hooks)
        pass

    def tensor(self, buffer: Callable[[_Storage], bytes]) -> Tensor:
        flat = torch.frombuffer(bytearray(buffer(self.storage)) or bytearray(8), dtype=self.dtype)
        start = self.storage.start + self.offset
        last = start + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if min((*self.shape, *self.stride, start), default=0) < 0 or (math.prod(self.shape) and last >= flat.numel()):
            raise ValueError("a tensor reaches outside of its storage")
        return torch.as_strided(flat, self.shape, self.stride, start).clone()


class _NumpyDtype:
    """``numpy.dtype(code, align, copy)`` followed by a state whose second field is the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *rest):
        self.code, self.order = code, "="

    def __setstate__(self, state):
        self.order = state[1] if state[1] in "<>=" else "="


class _NumpyArray:
    """A numpy array of a file; fast-reid's converted weights are such."""

    __slots__ = ("state",)

    def __setstate__(self, state):  # (version, shape, dtype, Fortran order, bytes)
        self.state = state

    @property
    def shape(self) -> tuple:
        return tuple(self.state[1])

    def tensor(self) -> Tensor:
        _, shape, dtype, fortran, raw = self.state
        if not re.fullmatch(r"[fiu][1248]|b1", dtype.code):
            raise ValueError(f"a numpy array of type {dtype.code}")
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # written by Python 2
        array = np.frombuffer(raw, np.dtype(dtype.order + dtype.code)).reshape(shape, order="F" if fortran else "C")
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


class _SafeUnpickler(pickle.Unpickler):
    """Reads the structure of a pickle. `find_class` imports nothing: it knows the names below, all else is `Inert`."""

    def __init__(self, file):
        super().__init__(file, encoding="latin1")  # the str of Python 2
        self.storages: dict[str, _Storage] = {}
        # made anew for each file, so that nothing a file does to them lasts
        self.known: dict[str, Any] = {
            "collections.OrderedDict": _Mapping,
            "collections.defaultdict": lambda *args: _Mapping(),
            # (storage, offset, shape, stride), then requires_grad, hooks; in v3 the dtype follows
            "torch._utils._rebuild_tensor": lambda *args: _Lazy(*args[:4]),
            "torch._utils._rebuild_tensor_v2": lambda *args: _Lazy(*args[:4]),
            "torch._utils._rebuild_tensor_v3": lambda *args: _Lazy(*args[:4], dtype=args[6]),
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
            "torch.nn.parameter.Parameter": lambda data=None, *_: data,
            "torch.nn.parameter.Buffer": lambda data=None, *_: data,
            "torch.autograd.variable.Variable": lambda data=None, *_: data,
            "torch.Size": lambda sizes=(): tuple(sizes),
            "numpy.dtype": _NumpyDtype,
            "numpy.ndarray": Inert,
            "_codecs.encode": lambda text, encoding="latin1": text.encode("latin1"),  # bytes in protocol 2
        }
        for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            self.known[f"{module}._reconstruct"] = lambda *_: _NumpyArray()

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self.known:
            return self.known[full]
        if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return type(name, (Inert,), {"__slots__": (), "__module__": module})

    def persistent_load(self, pid: tuple) -> Any:
        if pid[0] == "module":  # ('module', class, source file, source): the class of a whole pickled network
            return pid[1]
        if pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
            raise pickle.UnpicklingError(f"an entry of unknown kind {pid[0]!r}")
        dtype, key, numel = pid[1], str(pid[2]), int(pid[4])
        self.storages.setdefault(key, _Storage(key, dtype, numel))
        view = pid[5] if len(pid) > 5 else None  # (key, first element, number of elements), legacy files only
        return _Storage(key, dtype, numel, int(view[1]) if view else 0)


OURS = "checkpoint of this suite"


class Weights(NamedTuple):
    """What a weight file holds: `tensors` by the file's own names, and in words what `container` they came in."""

    tensors: dict[str, Tensor]
    container: str
    notes: tuple[str, ...] = ()


def read_weights(path: str | os.PathLike, values: bool = True) -> Weights:
    """Read any weight file into a mapping from name to CPU tensor. Nothing in the file is executed.

    Reads ``torch.save`` files of every age (zip and legacy), whole pickled ``nn.Module``s, plain pickles of arrays and
    safetensors. With ``values=False`` the tensors are on the meta device: shapes, but no numbers.
    Raises FileNotFoundError, and ValueError for a file that is damaged or holds no weights.
    """
    path = _existing_file(path, "weight")
    _refuse_other_files(path)
    try:
        reader = _read_safetensors if path.suffix == ".safetensors" else _read_torch
        return reader(path, values)
    except _NotWeights as error:
        raise ValueError(str(error)) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(
            f"{path} is truncated, damaged or no weight file ({_size(path.stat().st_size)}; {_first_line(error)}): "
            "download or copy it again."
        ) from error


class _NotWeights(ValueError):
    """A readable file without weights in it; its message is complete."""


def _refuse_other_files(path: Path) -> None:
    """The three things that users really have in place of weights: a web page, a git-lfs pointer, an archive."""
    with open(path, "rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path} is a web page, not weights: the download failed; fetch the file in a browser.")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a git-lfs pointer, not weights: run 'git lfs pull' where it came from.")
    if tarfile.is_tarfile(path):
        raise ValueError(f"{path} is a tar archive: unpack it and name the weight file inside.")


def _read_torch(path: Path, values: bool) -> Weights:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _read_zip(path, archive, values)
    with open(path, "rb") as file:
        first = _SafeUnpickler(file).load()
        if first != LEGACY_MAGIC:
            return _collect(path, first, None, values, "plain pickle")
        return _read_legacy(path, file, values)


def _read_zip(path: Path, archive: zipfile.ZipFile, values: bool) -> Weights:
    names = archive.namelist()
    root = next((name[: -len("data.pkl")] for name in names if name.endswith("/data.pkl")), None)
    if root is None:
        inside = ", ".join(names[:3])
        raise _NotWeights(f"{path} is a zip archive ({inside}), not weights: unpack it and name the file inside.")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != sys.byteorder.encode():
        raise _NotWeights(f"{path} is of the other byte order: save it again on a machine of this kind.")
    with archive.open(f"{root}data.pkl") as file:
        value = _SafeUnpickler(file).load()

    def buffer(storage: _Storage) -> bytes:
        return archive.read(f"{root}data/{storage.key}")  # zipfile compares the CRC-32

    return _collect(path, value, buffer, values, "torch.save")


def _read_legacy(path: Path, file, values: bool) -> Weights:
    protocol, system = _SafeUnpickler(file).load(), _SafeUnpickler(file).load()
    if protocol != LEGACY_PROTOCOL or system.get("little_endian") is not (sys.byteorder == "little"):
        raise _NotWeights(f"{path} was written by an unknown version of torch (protocol {protocol}): save it again.")
    unpickler = _SafeUnpickler(file)
    value = unpickler.load()
    buffers = {}
    for key in _SafeUnpickler(file).load():
        (numel,) = struct.unpack("<q", file.read(8))
        length = numel * unpickler.storages[key].dtype.itemsize
        buffers[key] = file.read(length)
        if len(buffers[key]) != length:
            raise EOFError("the file ends within a tensor")
    return _collect(path, value, lambda storage: buffers[storage.key], values, "torch.save, legacy format")


def _read_safetensors(path: Path, values: bool) -> Weights:
    """8 bytes: length of the header; the header: JSON of name -> dtype, shape, [begin, end); then the bytes."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        if not 0 <= begin <= end <= len(data):
            raise EOFError("the file ends within a tensor")
        dtype = SAFETENSORS_DTYPES[entry["dtype"]]
        tensors[name] = torch.frombuffer(bytearray(data[begin:end]), dtype=dtype).reshape(entry["shape"])
    return Weights(tensors if values else {k: v.to("meta") for k, v in tensors.items()}, "safetensors")


# ------------ from the structure to one mapping ------------

# where the weights are inside of a training checkpoint; averaged weights (EMA) only where there are no others
WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "network", "state_dicts", "model_state", "weights")
WRAPPERS_EMA = ("ema_state_dict", "model_ema", "state_dict_ema", "ema")
NOT_WEIGHTS = re.compile(r"optim|sched|scaler|hyper|loss|meter|criterion|center", re.IGNORECASE)


def _collect(
    path: Path, value: Any, buffer: Callable[[_Storage], bytes] | None, values: bool, container: str
) -> Weights:
    """Find the weights within `value` and read their numbers (or, without `values`, only their shapes)."""
    found, trail = _unwrap(value, ())
    if not found:
        what = f"a dict of {', '.join(map(str, list(value)[:6]))}" if isinstance(value, dict) else type(value).__name__
        raise _NotWeights(f"{path} holds no weights, only {what}: expected a state dict or a network.")
    tensors: dict[str, Tensor] = {}
    for name, lazy in found.items():
        if not values:
            tensors[name] = torch.empty(lazy.shape, device="meta")
        elif isinstance(lazy, _Lazy):
            tensors[name] = lazy.tensor(buffer)
        else:
            tensors[name] = lazy.tensor()
    keys = value if isinstance(value, dict) else {}
    if is_ours(keys):
        return Weights(tensors, OURS)
    ema = [key for key in WRAPPERS_EMA if key in keys and key not in trail]
    notes = (f"averaged weights under {ema[0]!r} were not used",) if ema else ()
    return Weights(tensors, ", ".join((container, *trail)), notes)


def _unwrap(value: Any, trail: tuple[str, ...]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Descend to the weights: (name -> unread tensor, the way there). The first name of `WRAPPERS` wins."""
    if _is_module(value):
        title = f"pickled {type(value).__module__}.{type(value).__qualname__}"
        return dict(_module_tensors(value, "", ())), (*trail, title)
    if isinstance(value, Inert):
        return _unwrap(value.entries or (value.state if isinstance(value.state, dict) else {}), trail)
    if isinstance(value, (list, tuple)):
        found = (_unwrap(item, trail) for item in value if isinstance(item, (dict, Inert)))
        return next((pair for pair in found if pair[0]), ({}, trail))
    if not isinstance(value, dict):
        return {}, trail
    for key in WRAPPERS:
        if key in value and not isinstance(value[key], (_Lazy, _NumpyArray)):
            found, way = _unwrap(value[key], (*trail, key))
            if found:
                return found, way
    flat = dict(_flatten(value, ""))
    for key in WRAPPERS_EMA:
        if not flat and key in value:
            return _unwrap(value[key], (*trail, key))
    return flat, trail


def _is_module(value: Any) -> bool:
    return isinstance(value, Inert) and isinstance(value.state, dict) and "_modules" in value.state


def _module_tensors(module: Inert, prefix: str, parents: tuple[Inert, ...]) -> Iterator[tuple[str, Any]]:
    """What ``state_dict()`` of the pickled network would list."""
    for group in ("_parameters", "_buffers"):
        for name, tensor in (module.state.get(group) or {}).items():
            if isinstance(tensor, (_Lazy, _NumpyArray)):
                yield f"{prefix}{name}", tensor
    parents = (*parents, module)
    for name, child in (module.state.get("_modules") or {}).items():
        if _is_module(child) and child not in parents:  # a network that holds itself would never end
            yield from _module_tensors(child, f"{prefix}{name}.", parents)


def _flatten(mapping: dict, prefix: str) -> Iterator[tuple[str, Any]]:
    """Tensors of `mapping`, and of dicts and modules within it ({"backbone": {...}, "head": {...}}), by dotted name."""
    for name, value in mapping.items():
        if not isinstance(name, str) or name in WRAPPERS_EMA:
            continue
        if isinstance(value, (_Lazy, _NumpyArray)):
            yield prefix + name, value
        elif _is_module(value) and not NOT_WEIGHTS.search(name):
            yield from _module_tensors(value, f"{prefix}{name}.", ())
        elif isinstance(value, dict) and not NOT_WEIGHTS.search(name):
            yield from _flatten(value, f"{prefix}{name}.")


# ============ everybody's names, in one vocabulary ============


class Format(NamedTuple):
    """One naming scheme. All of `needs` must occur in the names; `rules` then rename, in order, to the common words:
    the backbone bare (``conv1.weight``), the BN neck ``bottleneck.*``, the ID classifier ``classifier.*``.
    """

    name: str
    needs: tuple[str, ...]
    rules: tuple[tuple[str, str], ...] = ()
    no_stem_relu: str = ""  # which backbones of this format were trained without the ReLU after the stem (a pattern)


# First match names the file; the rules that load most tensors are the ones used.
FORMATS = (
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
        r"resnet\d+(_ibn_a)?",
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
    # michuanhaohao/reid-strong-baseline 3da7e6f, modeling/baseline.py; its flat rewrite has the same names
    # (without the neck there is no bottleneck.*); modeling/backbones/resnet.py: "add missed relu", commented out
    Format("BoT strong baseline", (r"^base\.", r"^(bottleneck|classifier)\."), ((r"^base\.", ""),), r"resnet\d+"),
    # KaiyangZhou/deep-person-reid f8cd150, torchreid/models/osnet.py, resnet.py
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
IMAGENET_HEAD = re.compile(r"^(fc|head|head\.fc|heads\.head|classifier\.\d)\.(weight|bias)$")
IMAGENET_CLASSES = 1000
INPUT_STATISTICS = re.compile(r"^pixel_(mean|std)$")  # fast-reid keeps the input normalisation among its buffers
BATCH_COUNT = re.compile(r"num_batches_tracked$")  # absent in files of before torch 0.4.1, and read by no network here

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
    return next(f for f in FORMATS if all(any(re.search(need, name) for name in names) for need in f.needs))


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

    A tensor is loaded where name and shape agree, after the renaming of `FORMATS` that lets most tensors agree. An
    identity classifier for another number of identities is skipped; position embeddings of another grid are resized
    (bicubic). Raises FileNotFoundError; ValueError for a damaged file, for non-finite weights, and for a network of
    another architecture, that is when fewer than 90 % of the tensors of the model's backbone are in the file, or of
    the file's in the model. On an error the model is unchanged.
    """
    weights = read_weights(path)
    source = _strip_wrappers(weights.tensors)
    target = model.state_dict()
    match = max((_match(source, target, f) for f in _candidates(list(source))), key=lambda m: len(m.loaded))

    loaded, resized, skipped = dict(match.loaded), [], []
    for name, (key, reason) in match.refused.items():
        tensor = source[name]
        if key.endswith(("pos_embed", "pos_embedding")) and tensor.shape[-1] == target[key].shape[-1]:
            loaded[key], change = _resize_position_embedding(model, key, tensor, target[key])
            resized.append((key, change))
        else:
            skipped.append((name, reason))
    _require_same_architecture(Path(path), source, target, loaded, match)
    broken = [key for key, t in loaded.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if broken:
        raise ValueError(f"{path} holds NaN or infinity in {_few(broken)}: its training failed; use another file.")

    model.load_state_dict(loaded, strict=False)
    missing = [key for key in target if key not in loaded and not BATCH_COUNT.search(key)]
    form = _format_of(list(source))
    name = " ".join(filter(None, (form.name, _architecture(source))))
    if weights.container == OURS:
        return Report(str(path), OURS, list(loaded), skipped, missing, resized, ())
    notes = weights.notes
    if re.fullmatch(form.no_stem_relu, _architecture(source)):
        notes = (*notes, "this format's network has no ReLU after the stem (--stem_relu no)")
    return Report(str(path), f"{name}; {weights.container}", list(loaded), skipped, missing, resized, notes)


class _Match(NamedTuple):
    loaded: dict[str, Tensor]  # model's key -> tensor of the file
    refused: dict[str, tuple[str, str]]  # file's name -> (the model's key it would have, or ""; reason)


def _candidates(names: list[str]) -> list[Format]:
    """The format that the names show first, so that it wins a tie, then all others, then the names as they are."""
    first = _format_of(names)
    return [first, *(f for f in FORMATS if f is not first), Format("as is", ())]


def _match(source: dict[str, Tensor], target: dict[str, Tensor], form: Format) -> _Match:
    loaded: dict[str, Tensor] = {}
    refused: dict[str, tuple[str, str]] = {}
    for name, tensor in source.items():
        common = _rename(name, form.rules)
        keys = [key for key in (name, *(p + common for p in MODEL_PREFIXES)) if key in target]
        fitting = next((key for key in keys if target[key].shape == tensor.shape and key not in loaded), None)
        if fitting is not None:
            loaded[fitting] = tensor
        else:
            key = keys[0] if keys else ""
            refused[name] = (key, _reason(common, tensor, key, target))
    return _Match(loaded, refused)


def _reason(common: str, tensor: Tensor, key: str, target: dict[str, Tensor]) -> str:
    found = tuple(tensor.shape)
    if (IMAGENET_HEAD.search(common) and not key) or (CLASSIFIER.search(common) and found[:1] == (IMAGENET_CLASSES,)):
        return f"ImageNet classifier ({found[0]} classes)"
    if CLASSIFIER.search(common) and tensor.dim():
        has = target[key].shape[0] if key and target[key].dim() else "no such classifier"
        return f"classifier for {found[0]} identities, this model has {has}"
    if INPUT_STATISTICS.search(common):
        return "input normalisation, which the recipe sets"
    if common == "global_pool.p":
        return "exponent of the pooling: the file's network pools by generalised mean (gem), this model does not"
    if BATCH_COUNT.search(common):
        return "counter of BatchNorm, not needed"
    if key:
        return f"shape {found}, this model has {tuple(target[key].shape)}"
    return "no such tensor in this model"


def _require_same_architecture(
    path: Path, source: dict[str, Tensor], target: dict[str, Tensor], loaded: dict[str, Tensor], match: _Match
) -> None:
    """Raise unless model and file share 90 % of the backbone, counted in both directions.

    The file's side is needed because ResNet-50's names and shapes are all among those of ResNet-101.
    """
    wanted = _backbone(target)
    have = sum(key in loaded for key in wanted)
    offered = _backbone(source)
    used = sum(name not in match.refused for name in offered)
    if wanted and have >= REQUIRED_SHARE * len(wanted) and used >= REQUIRED_SHARE * len(offered):
        return
    lacking = [key for key in wanted if key not in loaded]
    surplus = [f"{name} {tuple(source[name].shape)}" for name in offered if name in match.refused]
    guess = recognise_tensors(source)
    spelled = {True: "yes", False: "no"}
    options = [f"--{key} {spelled.get(value, value)}" for key, value in guess.items()] if guess else []
    advice = " ".join(options) or "--recipe and --backbone"
    raise ValueError(
        f"{path} is a checkpoint of another architecture{f' (it looks like {_architecture(source)})' if guess else ''}"
        f": {have} of this model's {len(wanted)} backbone tensors were found in it, and {used} of its {len(offered)} "
        f"have a place here. In the file, for example: {_few(surplus or offered, 3)}. Expected, for example: "
        f"{_few([f'{key} {tuple(target[key].shape)}' for key in lacking or wanted], 3)}. "
        f"Choose the network the file was trained with: {advice}."
    )


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
    if size is not None:
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


def recognise(path: str | os.PathLike) -> dict[str, str | bool] | None:
    """Which recipe and backbone a foreign weight file belongs to, from the names and shapes of its tensors.

    Returns ``{"recipe": "osnet_x0_25"}``, ``{"recipe": "bot", "backbone": "resnet50", "stem_relu": False}``, ..., or
    None when the file is of none that are known here. Raises as `read_weights` does.
    """
    return recognise_tensors(_strip_wrappers(read_weights(path, values=False).tensors))


def recognise_tensors(tensors: dict[str, Tensor]) -> dict[str, str | bool] | None:
    """`recognise` for tensors that are already read: a state dict of any of the `FORMATS`."""
    form = _format_of(list(tensors))
    common = {_rename(name, form.rules): tensor for name, tensor in tensors.items()}
    backbone = _osnet(common) or _resnet(common)
    if backbone is None:
        return None
    if "bottleneck.running_mean" in common:
        has_choice = backbone.startswith("resnet")
        stem_relu = re.fullmatch(form.no_stem_relu, backbone) is None
        return {"recipe": "bot", "backbone": backbone} | ({"stem_relu": stem_relu} if has_choice else {})
    if backbone.startswith("osnet"):
        return {"recipe": backbone}
    return {"recipe": "softmax", "backbone": backbone}


def _architecture(tensors: dict[str, Tensor]) -> str:
    guess = recognise_tensors(tensors)
    return guess.get("backbone", guess["recipe"]) if guess else ""


def _osnet(common: dict[str, Tensor]) -> str | None:
    if "conv1.conv.weight" not in common or "conv5.conv.weight" not in common:
        return None
    width = OSNET_WIDTHS.get(common["conv1.conv.weight"].shape[0])
    if width is None:
        return None
    if any(re.match(r"conv2\.0\.conv2\.\d", name) for name in common):  # the streams are a ModuleList in AIN
        return f"osnet_ain_{width}"
    return f"osnet_ibn_{width}" if any(".IN." in name for name in common) else f"osnet_{width}"


def _resnet(common: dict[str, Tensor]) -> str | None:
    if "conv1.weight" not in common or any(name.startswith("NL_") for name in common):  # non-local blocks: AGW, SBS
        return None
    blocks = tuple(
        len({name.split(".")[1] for name in common if name.startswith(f"layer{i}.")}) for i in range(1, 5)
    )
    depth = RESNET_DEPTHS.get((blocks, "layer1.0.conv3.weight" in common))
    middle = common.get("layer1.0.conv2.weight")
    if depth is None or middle is None:
        return None
    if any(re.search(r"\.se(_module)?\.", name) for name in common):
        return None
    if tuple(middle.shape[:2]) == (128, 4):
        return f"resnext{depth}_32x4d"
    if tuple(middle.shape[:2]) != (64, 64):
        return None
    return f"resnet{depth}{'_ibn_a' if 'layer1.0.bn1.IN.weight' in common else ''}"
