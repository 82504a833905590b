"""Reading a weight file of anybody's without running any of it.

Whatever it is (zip or legacy ``torch.save``, a plain pickle, safetensors, a whole pickled ``nn.Module``), `read` opens
it once and it becomes a mapping from name to tensor; the rest of `weights/` works on that. A pickle can only call the
few functions defined here that rebuild tensors; every other class it names becomes an inert stand-in.
"""

from __future__ import annotations

import functools
import math
import os
import pickle
import re
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from machine.files import size_text


def existing_file(path: str | os.PathLike, what: str) -> Path:
    """`path` of a `what` file; FileNotFoundError if it is not there, ValueError if it is a folder or empty."""
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


def first_line(error: BaseException) -> str:
    """Type of the error and the first line of its message, cut to 120 characters."""
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
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


class Inert:
    """Stands where a file names a class or a function we do not know: it can be called and filled, and does nothing."""

    __slots__ = ("entries", "state")
    entries: dict
    state: Any

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
        """Drops the value; so do `extend`, `add` and `update`."""
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
        """Its values, copied from the storage's bytes; ValueError if it reaches outside of them."""
        flat = torch.frombuffer(bytearray(buffer(self.storage)) or bytearray(8), dtype=self.dtype)  # its own copy
        start = self.storage.start + self.offset
        last = start + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if min((*self.shape, *self.stride, start), default=0) < 0 or (math.prod(self.shape) and last >= flat.numel()):
            raise ValueError("a tensor reaches outside of its storage")
        values = torch.as_strided(flat, self.shape, self.stride, start)
        return values if values.is_contiguous() and values.numel() == flat.numel() else values.clone()


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

    def tensor(self, buffer: Callable[[_Storage], bytes]) -> Tensor:
        """A copy in native byte order; ValueError for other types than numbers and bool."""
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


FORMAT = "reid-suite-1"  # value of the key "format" in every checkpoint of ours
OURS = "checkpoint of this suite"


class WeightFile(NamedTuple):
    """A weight file that was read: what it holds, on the CPU."""

    path: Path
    tensors: dict[str, Tensor]  # by the file's own names
    container: str  # what they came in, in words
    notes: tuple[str, ...] = ()
    ours: dict[str, Any] | None = None  # all that is in a checkpoint of this suite


def read(source: str | os.PathLike | WeightFile) -> WeightFile:
    """Read any weight file, opening it once and executing nothing in it. (What was read already comes back as it is.)

    Reads ``torch.save`` files of every age (zip and legacy), whole pickled ``nn.Module``s, plain pickles of arrays and
    safetensors. Raises FileNotFoundError, and ValueError for a file that is damaged or holds no weights.
    """
    if isinstance(source, WeightFile):
        return source
    path = existing_file(source, "weight")
    try:
        with open(path, "rb") as file:
            _refuse_other_files(path, file)
            file.seek(0)
            if path.suffix == ".safetensors":
                return WeightFile(path, safetensors.torch.load(file.read()), "safetensors")
            return _read_torch(path, file)
    except (_NotWeights, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(
            f"{path} is truncated, damaged or no weight file ({size_text(path.stat().st_size)}; {first_line(error)}): "
            "download or copy it again."
        ) from error


class _NotWeights(ValueError):
    """A readable file without weights in it; its message is complete."""


def _refuse_other_files(path: Path, file: IO[bytes]) -> None:
    """The three things that users really have in place of weights: a web page, a git-lfs pointer, an archive."""
    head = file.read(512).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise _NotWeights(f"{path} is a web page, not weights: the download failed; fetch the file in a browser.")
    if head.startswith(b"version https://git-lfs"):
        raise _NotWeights(f"{path} is a git-lfs pointer, not weights: run 'git lfs pull' where it came from.")
    file.seek(0)
    if tarfile.is_tarfile(file):
        raise _NotWeights(f"{path} is a tar archive: unpack it and name the weight file inside.")


def _read_torch(path: Path, file: IO[bytes]) -> WeightFile:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return _read_zip(path, archive)
    file.seek(0)
    first = _SafeUnpickler(file).load()
    return _read_legacy(path, file) if first == LEGACY_MAGIC else _collect(path, first, _no_storage, "plain pickle")


def _no_storage(storage: _Storage) -> bytes:
    raise ValueError("a plain pickle that refers to a tensor of another file")


def _read_zip(path: Path, archive: zipfile.ZipFile) -> WeightFile:
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

    return _collect(path, value, buffer, "torch.save")


def _read_legacy(path: Path, file: IO[bytes]) -> WeightFile:
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
    return _collect(path, value, lambda storage: buffers[storage.key], "torch.save, legacy format")


# ------------ from the structure to one mapping ------------

# where the weights are inside of a training checkpoint; averaged weights (EMA) only where there are no others
WRAPPERS = (
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "network",
    "state_dicts",
    "model_state",
    "weights",
    "teacher",  # of DINO; its descendants take it, not the student
)
WRAPPERS_EMA = ("ema_state_dict", "model_ema", "state_dict_ema", "ema")
NOT_WEIGHTS = re.compile(r"optim|sched|scaler|hyper|loss|meter|criterion|center", re.IGNORECASE)


def _collect(path: Path, value: Any, buffer: Callable[[_Storage], bytes], container: str) -> WeightFile:
    """Find the weights within `value` and read their numbers."""
    found, trail = _unwrap(value, ())
    if not found:
        what = f"a dict of {', '.join(map(str, list(value)[:6]))}" if isinstance(value, dict) else type(value).__name__
        raise _NotWeights(f"{path} holds no weights, only {what}: expected a state dict or a network.")
    tensor = functools.cache(lambda unread: unread.tensor(buffer))
    tensors = {name: tensor(unread) for name, unread in found.items()}
    keys = value if isinstance(value, dict) else {}
    if keys.get("format") == FORMAT:
        return WeightFile(path, tensors, OURS, ours=_plain(value, tensor))
    ema = [key for key in WRAPPERS_EMA if key in keys and key not in trail]
    notes = (f"averaged weights under {ema[0]!r} were not used",) if ema else ()
    return WeightFile(path, tensors, ", ".join((container, *trail)), notes)


def _plain(value: Any, tensor: Callable[[_Lazy], Tensor]) -> Any:
    """The plain containers, values and tensors of a checkpoint of ours; ValueError where it holds anything else."""
    if isinstance(value, _Lazy):
        return tensor(value)
    if isinstance(value, dict):
        return {key: _plain(item, tensor) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, tensor) for item in value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ValueError(f"a checkpoint of this suite that holds a {type(value).__module__}.{type(value).__name__}")


def _unwrap(value: Any, trail: tuple[str, ...]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Descend to the weights: (name -> unread tensor, the way there). The first name of `WRAPPERS` wins."""
    if _is_module(value):
        title = f"pickled {type(value).__module__}.{type(value).__qualname__}"
        return dict(_module_tensors(value, "", ())), (*trail, title)
    if isinstance(value, Inert):
        return _unwrap(value.entries or (value.state if isinstance(value.state, dict) else {}), trail)
    if isinstance(value, (list, tuple)):
        inside = (_unwrap(item, trail) for item in value if isinstance(item, (dict, Inert)))
        return next((pair for pair in inside if pair[0]), ({}, trail))
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
