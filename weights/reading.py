"""Reading a weight file of anybody's without running any of it.

Whatever it is (zip or legacy ``torch.save``, a plain pickle, safetensors, a whole pickled ``nn.Module``), `read` opens
it once and it becomes a mapping from name to tensor; the rest of `weights/` works on that. A pickle can only call the
few functions defined here that rebuild tensors; every other class it names becomes an inert stand-in.

A file is trusted with nothing, its size included: what it declares of its pickle, its entries and its tensors is added
up and compared with the bytes that are there, before any of it is read.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import math
import mmap
import os
import pickle
import pickletools
import re
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from machine.files import size_text


def existing_file(path: str | os.PathLike, what: str) -> Path:
    """`path` of a `what` file; FileNotFoundError if it is not there, ValueError if it is no file or empty."""
    path = only_file(path)
    if path.is_dir():
        inside = [str(each.relative_to(path)) for each in _weight_files(path)]
        hint = f"; name one of the files in it: {', '.join(inside[:5])}" if inside else ""
        raise ValueError(f"{path} is a folder, expected a {what} file{hint}.")
    if not path.exists():
        link = f" (it is a link to {os.readlink(path)}, which is gone)" if path.is_symlink() else ""
        raise FileNotFoundError(f"no {what} file at {path}{link}: check the path.")
    if not path.is_file():
        raise ValueError(f"{path} is a device or a pipe, expected a {what} file: write it to a file first.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: the {what} was never written or its download failed; copy it again.")
    return path


def only_file(path: str | os.PathLike) -> Path:
    """`path`, or the one weight file somewhere in the folder `path`, as of an unpacked package."""
    path = Path(path)
    inside = _weight_files(path) if path.is_dir() else []
    return inside[0] if len(inside) == 1 else path


def _weight_files(folder: Path) -> list[Path]:
    """What in `folder`, or in one of its folders, is named as a weight file; of the first 10,000 entries."""
    return sorted(each for each in itertools.islice(folder.rglob("*"), 10_000) if _named_weights(each.name))


def _named_weights(path: str) -> bool:
    name = path.rpartition("/")[2]
    return not name.startswith(".") and (name.endswith(WEIGHT_SUFFIXES) or ".pth" in name)


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

    @property
    def key(self) -> tuple:
        """What two tensors that are one share."""
        return self.storage, self.offset, self.shape, self.stride, self.dtype

    @property
    def nbytes(self) -> int:
        """Declared; ValueError if that is more than its storage's."""
        if math.prod(self.shape) > max(self.storage.numel, 1):
            raise ValueError(f"a tensor of {math.prod(self.shape):,} elements in a storage of {self.storage.numel:,}")
        return math.prod(self.shape) * self.dtype.itemsize

    def tensor(self, buffer: Callable[[_Storage], bytearray]) -> Tensor:
        """Its values; ValueError if it reaches outside of its storage's bytes."""
        flat = torch.frombuffer(buffer(self.storage) or bytearray(16), dtype=self.dtype)
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

    @property
    def key(self) -> int:
        """No two arrays are one."""
        return id(self)

    @property
    def nbytes(self) -> int:
        """Of its numbers."""
        return len(self.state[4])

    def tensor(self, buffer: Callable[[_Storage], bytearray]) -> Tensor:
        """A copy in native byte order; ValueError for other types than numbers and bool."""
        _, shape, dtype, fortran, raw = self.state
        if not re.fullmatch(r"[fiu][1248]|b1|c8|c16", dtype.code):
            raise ValueError(f"a numpy array of type {dtype.code}")
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # written by Python 2
        array = np.frombuffer(raw, np.dtype(dtype.order + dtype.code)).reshape(shape, order="F" if fortran else "C")
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


MOST_OPCODES = 500_000  # of a pickle; a network of a thousand tensors with its optimiser takes 100,000
MOST_CLASSES = 2_000  # that a pickle names
MOST_TENSORS = 10_000


def check_opcodes(file: Any) -> None:
    """Walk through the pickle at the position of `file`, building nothing; ValueError if it would not stay small.

    Bounds the number of objects, of classes, and the place of the memo that an object may be kept at, for which Python
    makes room whatever it is.
    """
    start, classes = file.tell(), 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        classes += opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST")
        far = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > count
        if count >= MOST_OPCODES or classes > MOST_CLASSES or far:
            raise ValueError("a pickle that unpacks to many times its size")
    file.seek(start)


class _SafeUnpickler(pickle.Unpickler):
    """Reads the structure of a pickle. `find_class` imports nothing: it knows the names below, all else is `Inert`.

    size: of the file in bytes, which bounds what its calls may copy. Raises as `check_opcodes`.
    """

    def __init__(self, file, size: int):
        check_opcodes(file)
        super().__init__(file, encoding="latin1")  # the str of Python 2
        self.left = size
        self.storages: dict[str, _Storage] = {}
        # made anew for each file, so that nothing a file does to them lasts
        self.known: dict[str, Any] = {
            "collections.OrderedDict": lambda pairs=(): _Mapping(self.bounded(pairs)),
            "collections.defaultdict": lambda *args: _Mapping(),
            # (storage, offset, shape, stride), then requires_grad, hooks; in v3 the dtype follows
            "torch._utils._rebuild_tensor": lambda *args: _Lazy(*args[:4]),
            "torch._utils._rebuild_tensor_v2": lambda *args: _Lazy(*args[:4]),
            "torch._utils._rebuild_tensor_v3": lambda *args: _Lazy(args[0], args[1], args[2], args[3], args[6]),
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
            "torch.nn.parameter.Parameter": lambda data=None, *_: data,
            "torch.nn.parameter.Buffer": lambda data=None, *_: data,
            "torch.autograd.variable.Variable": lambda data=None, *_: data,
            "torch.Size": lambda sizes=(): tuple(self.bounded(sizes)),
            "numpy.dtype": _NumpyDtype,
            "numpy.ndarray": Inert,
            # bytes in protocol 2
            "_codecs.encode": lambda text, encoding="latin1": self.bounded(text).encode("latin1"),
        }
        for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            self.known[f"{module}._reconstruct"] = lambda *_: _NumpyArray()

    def bounded(self, argument: Any) -> Any:
        """`argument` of a call that copies it: all of them together stood in the file."""
        self.left -= len(argument)
        if self.left < 0:
            raise ValueError("a pickle that unpacks to many times its size")
        return argument

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
    epochs: int | None = None  # of training behind it, as it says itself or, where it does not, its name


def read(source: str | os.PathLike | WeightFile) -> WeightFile:
    """Read any weight file, opening it once and executing nothing in it. (What was read already comes back as it is.)

    Reads ``torch.save`` files of every age (zip and legacy), whole pickled ``nn.Module``s, plain pickles of arrays and
    safetensors, and the one such file in a folder or in a zip archive (a wheel of Python).
    Raises FileNotFoundError, and ValueError for a file that is damaged or holds no weights.
    """
    if isinstance(source, WeightFile):
        return source
    path = existing_file(source, "weight")
    try:
        with open(path, "rb") as outer, _unwrapped(outer) as (file, name):
            _refuse_other_files(path, file)
            file.seek(0)
            if (name or path.name).endswith(".safetensors"):
                found = WeightFile(path, safetensors.torch.load(file.read()), "safetensors")
            else:
                found = _read_torch(path, file)
        return found._replace(container=f"{found.container}, in an archive as {name}") if name else found
    except (_NotWeights, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(
            f"{path} is truncated, damaged or no weight file ({size_text(path.stat().st_size)}; {first_line(error)}): "
            "download or copy it again."
        ) from error


def read_once(path: str | os.PathLike) -> WeightFile:
    """`read`, which gives a file that was the last one again while it is unchanged, until `forget`: the start of a
    training asks it for its epochs, its normalisation and its weights."""
    path = existing_file(path, "weight")
    status = path.stat()
    return _read_at(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(1)
def _read_at(path: Path, size: int, changed: int) -> WeightFile:
    return read(path)


def forget() -> None:
    """Let go of the numbers that `read_once` keeps."""
    _read_at.cache_clear()


@contextlib.contextmanager
def _unwrapped(file: IO[bytes]) -> Iterator[tuple[IO[bytes], str]]:
    """(the one weight file in the zip archive `file`, its name there); (`file`, "") for all else.

    ValueError for a weight file that declares more than twice its archive's size: floating-point weights hardly shrink.
    """
    if file.read(4) == ZIP_MAGIC:
        with zipfile.ZipFile(file) as archive:
            inside = [] if _root(archive) else [e for e in archive.infolist() if _named_weights(e.filename)]
            if len(inside) == 1:
                if inside[0].file_size > 2 * os.fstat(file.fileno()).st_size + 2**20:  # names shrink, in a small file
                    raise ValueError(f"an archive that unpacks to {size_text(inside[0].file_size)}")
                with tempfile.TemporaryFile() as unpacked, archive.open(inside[0]) as packed:
                    shutil.copyfileobj(packed, unpacked)
                    unpacked.seek(0)
                    yield unpacked, inside[0].filename
                return
    file.seek(0)
    yield file, ""


class _NotWeights(ValueError):
    """A readable file without weights in it; its message is complete."""


def _refuse_other_files(path: Path, file: IO[bytes]) -> None:
    """The three things that users really have in place of weights: a web page, a git-lfs pointer, an archive."""
    start = file.read(512)
    head = start.lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise _NotWeights(f"{path} is a web page, not weights: the download failed; fetch the file in a browser.")
    if head.startswith(b"version https://git-lfs"):
        raise _NotWeights(f"{path} is a git-lfs pointer, not weights: run 'git lfs pull' where it came from.")
    if start.startswith((b"\x93NUMPY", b"MATLAB ")):
        raise _NotWeights(f"{path} {ARRAYS}")
    if path.suffix == ".onnx":
        raise _NotWeights(
            f"{path} is an exported model, which embed.py beside it runs: name the weights it was made of."
        )
    kind = next((kind for kind, (at, magic) in ARCHIVES.items() if start[at:].startswith(magic)), None)
    if kind is not None:
        raise _NotWeights(f"{path} is a {kind} archive: unpack it and name the weight file inside.")


ARRAYS = "holds arrays, not weights: features and distances are measured by --mode test --features."
ZIP_MAGIC = b"PK\x03\x04"
ARCHIVES = {  # (position, bytes)
    "tar": (257, b"ustar"),
    "gzip": (0, b"\x1f\x8b"),
    "bzip2": (0, b"BZh"),
    "xz": (0, b"\xfd7zXZ"),
    "7z": (0, b"7z\xbc\xaf"),
    "rar": (0, b"Rar!"),
}


def _read_torch(path: Path, file: IO[bytes]) -> WeightFile:
    size = os.fstat(file.fileno()).st_size
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:  # reads no more than is there, whatever is asked
        if view[:4] == ZIP_MAGIC:
            with open_archive(file) as archive:
                return _read_zip(path, archive, size)
        if zipfile.is_zipfile(file):  # two files in one: which of them is meant depends on the reader
            raise _NotWeights(f"{path} is a zip archive behind something else: copy it again from a source you trust.")
        first = _SafeUnpickler(view, size).load()
        if first == LEGACY_MAGIC:
            return _read_legacy(path, view, size)
        return _collect(path, first, _no_storage, "plain pickle", size)


def _no_storage(storage: _Storage) -> bytearray:
    raise ValueError("a plain pickle that refers to a tensor of another file")


def open_archive(file: IO[bytes]) -> zipfile.ZipFile:
    """The zip archive that `file` is from its first byte on; ValueError if it is none, or declares more than it holds.

    torch.save stores its entries as they are; what is compressed can unpack to a thousand times its size. (TorchScript
    compresses its code, which nobody here reads.) The pickle of
    the structure is looked through as `check_opcodes` does.
    """
    file.seek(0)
    if file.read(4) != ZIP_MAGIC:
        raise ValueError("no zip archive, which torch.save has written since version 1.6")
    archive = zipfile.ZipFile(file)
    root, size = _root(archive), os.fstat(file.fileno()).st_size
    if root is None:
        return archive
    packed = [entry for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    declared, code = (sum(entry.file_size for entry in entries) for entries in (archive.infolist(), packed))
    foreign = [entry for entry in packed if not entry.filename.startswith(f"{root}code/")]
    if foreign or declared - code > size or code > 2 * size + 2**20:
        raise ValueError(f"an archive that unpacks to {size_text(declared)}, where torch.save compresses nothing")
    check_opcodes(io.BytesIO(archive.read(f"{root}data.pkl")))
    return archive


def _root(archive: zipfile.ZipFile) -> str | None:
    """The folder in which torch.save has put everything; None for other archives."""
    return next((name[: -len("data.pkl")] for name in archive.namelist() if name.endswith("/data.pkl")), None)


def _read_zip(path: Path, archive: zipfile.ZipFile, size: int) -> WeightFile:
    names, root = archive.namelist(), _root(archive)
    if root is None:
        if all(name.endswith(".npy") for name in names):
            raise _NotWeights(f"{path} {ARRAYS}")
        inside = ", ".join(names[:3])
        raise _NotWeights(f"{path} is a zip archive ({inside}), not weights: unpack it and name the file inside.")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != sys.byteorder.encode():
        raise _NotWeights(f"{path} is of the other byte order: save it again on a machine of this kind.")
    value = _SafeUnpickler(io.BytesIO(archive.read(f"{root}data.pkl")), size).load()

    @functools.cache
    def data(key: str) -> bytearray:
        return bytearray(archive.read(f"{root}data/{key}"))  # zipfile compares the CRC-32

    return _collect(path, value, lambda storage: data(storage.key), "torch.save", size)


def _read_legacy(path: Path, view: mmap.mmap, size: int) -> WeightFile:
    protocol, system = _SafeUnpickler(view, size).load(), _SafeUnpickler(view, size).load()
    if protocol != LEGACY_PROTOCOL or system.get("little_endian") is not (sys.byteorder == "little"):
        raise _NotWeights(f"{path} was written by an unknown version of torch (protocol {protocol}): save it again.")
    unpickler = _SafeUnpickler(view, size)
    value = unpickler.load()
    buffers = {}
    for key in _SafeUnpickler(view, size).load():
        (numel,) = struct.unpack("<q", view.read(8))
        length = numel * unpickler.storages[key].dtype.itemsize
        if not 0 <= length <= size - view.tell():
            raise EOFError("the file ends within a tensor")
        buffers[key] = bytearray(view.read(length))
    return _collect(path, value, lambda storage: buffers[storage.key], "torch.save, legacy format", size)


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
    "student",
)
WRAPPERS_EMA = ("ema_state_dict", "model_ema", "state_dict_ema", "ema")
NOT_WEIGHTS = re.compile(r"optim|sched|scaler|hyper|loss|meter|criterion|center", re.IGNORECASE)


def _collect(path: Path, value: Any, buffer: Callable[[_Storage], bytearray], container: str, size: int) -> WeightFile:
    """Find the weights within `value` and read their numbers; `size`: of the file in bytes."""
    search = _Search()
    found, trail = search.unwrap(value, ())
    form = value.get("format") if isinstance(value, dict) else None
    if isinstance(form, str) and form.startswith("reid-suite-") and form != FORMAT:
        raise _NotWeights(
            f"{path} is a checkpoint of format {form[:40]} of this suite, this is {FORMAT}: update the suite."
        )
    if not found and form == FORMAT:
        raise _NotWeights(f"{path} is a damaged checkpoint of this suite: it has no model; use another one of the run.")
    if not found:
        listed = [str(key)[:40] for key in value][:6] if isinstance(value, dict) else []
        what = f"a dict of {', '.join(listed)}" if isinstance(value, dict) else type(value).__name__
        raise _NotWeights(f"{path} holds no weights, only {what}: expected a state dict or a network.")
    if len(found) > MOST_TENSORS or any(len(name) > 1000 or not name.isprintable() for name in found):
        raise ValueError(f"{len(found):,} tensors, or names of tensors that are none")
    known: dict[Any, Tensor] = {}

    def tensor(unread: Any) -> Tensor:
        if unread.key not in known:
            known[unread.key] = unread.tensor(buffer)
        return known[unread.key]

    check_size(found.values(), size)
    if form == FORMAT:
        check_size(_unread(value), size)
    tensors = {name: tensor(unread) for name, unread in found.items()}
    keys = value if isinstance(value, dict) else {}
    if form == FORMAT:
        return WeightFile(path, tensors, OURS, ours=_plain(value, tensor), epochs=epochs_behind(path, keys))
    ema = [key for key in WRAPPERS_EMA if key in keys and key not in trail]
    notes = (*search.notes, *([f"averaged weights under {ema[0]!r} were not used"] if ema else []))
    return WeightFile(path, tensors, ", ".join((container, *trail)), notes, epochs=epochs_behind(path, keys))


def epochs_behind(path: Path, keys: dict[str, Any]) -> int | None:
    """How many epochs the training checkpoint with these top-level `keys` has behind it; None if nobody says.

    ``epoch`` counts them in torchreid (f8cd150, engine/engine.py, save_model) and open-reid, ``ep`` in AlignedReID
    (2e2d454, script/experiment/train.py:622); fast-reid (c9bc3ce, engine/defaults.py:258) numbers the last from 0, and
    keeps its weights under ``model``. reid-strong-baseline and light-reid have the number in the file's name alone.
    """
    said = [keys[name] for name in ("epoch", "ep") if type(keys.get(name)) is int and 0 <= keys[name] < 100_000]
    if said:
        return said[0] + ("model" in keys and keys.get("format") != FORMAT)
    named = re.search(r"(?:model|net|epoch|ep|tar)[_-](\d{1,5})(?!\d)", path.name)
    return int(named[1]) if named else None


def check_size(tensors: Iterable[Any], size: int) -> None:
    """ValueError if different tensors together declare more than twice the `size` of their file in bytes."""
    declared = sum({unread.key: unread.nbytes for unread in tensors}.values())
    if declared > 2 * size:
        raise ValueError(f"its tensors declare {size_text(declared)}")


def _unread(value: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Every tensor within the plain containers of `value`, each container looked into once."""
    seen = set() if seen is None else seen
    if isinstance(value, TENSORS):
        yield value
    elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, dict) else value:
            yield from _unread(item, seen)


def _plain(value: Any, tensor: Callable[[Any], Tensor], made: dict[int, Any] | None = None) -> Any:
    """The plain containers, values and tensors of a checkpoint of ours; ValueError where it holds anything else."""
    made = {} if made is None else made  # what a pickle refers to twice stays one object
    if isinstance(value, _Lazy):
        return tensor(value)
    if isinstance(value, (dict, list, tuple)):
        if id(value) not in made:
            if isinstance(value, dict):
                made[id(value)] = {key: _plain(item, tensor, made) for key, item in value.items()}
            else:
                made[id(value)] = type(value)(_plain(item, tensor, made) for item in value)
        return made[id(value)]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ValueError(f"a checkpoint of this suite that holds a {type(value).__module__}.{type(value).__name__}")


TENSORS = (_Lazy, _NumpyArray)


class _Search:
    """Where the weights are within what a pickle holds; ValueError where that refers to itself without end."""

    def __init__(self) -> None:
        self.steps = 0
        self.notes: list[str] = []  # what a reader of the file should know of it

    def step(self) -> None:
        """One more entry is looked at."""
        self.steps += 1
        if self.steps > 10 * MOST_TENSORS:
            raise ValueError("a pickle that unpacks to many times its size")

    def unwrap(self, value: Any, trail: tuple[str, ...]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Descend to the weights: (name -> unread tensor, the way there). The first name of `WRAPPERS` wins."""
        self.step()
        if _is_module(value):
            title = f"pickled {type(value).__module__}.{type(value).__qualname__}"
            return dict(self.module_tensors(value, "", ())), (*trail, title)
        if _is_script(value):
            return dict(self.flatten(value.state, "")), (*trail, "TorchScript, its code not read")
        if isinstance(value, Inert):
            return self.unwrap(value.entries or (value.state if isinstance(value.state, dict) else {}), trail)
        if isinstance(value, (list, tuple)):
            inside = [self.unwrap(item, trail) for item in value if isinstance(item, (dict, Inert))]
            networks = [pair for pair in inside if pair[0]]
            if len(networks) > 1:  # AlignedReID's two that learn from each other (2e2d454, train_ml.py)
                self.notes.append(f"the first of its {len(networks)} networks is read; the others are not")
            return networks[0] if networks else ({}, trail)
        if not isinstance(value, dict):
            return {}, trail
        for key in WRAPPERS:
            if key in value and not isinstance(value[key], TENSORS):
                found, way = self.unwrap(value[key], (*trail, key))
                if found:
                    return found, way
        flat = dict(self.flatten(value, ""))
        for key in WRAPPERS_EMA:
            if not flat and key in value:
                return self.unwrap(value[key], (*trail, key))
        return flat, trail

    def module_tensors(self, module: Inert, prefix: str, parents: tuple[Inert, ...]) -> Iterator[tuple[str, Any]]:
        """What ``state_dict()`` of the pickled network would list."""
        for group in ("_parameters", "_buffers"):
            for name, tensor in (module.state.get(group) or {}).items():
                self.step()
                if isinstance(tensor, TENSORS):
                    yield f"{prefix}{name}", tensor
        parents = (*parents, module)
        for name, child in (module.state.get("_modules") or {}).items():
            self.step()
            if _is_module(child) and child not in parents:  # a network that holds itself would never end
                yield from self.module_tensors(child, f"{prefix}{name}.", parents)

    def flatten(self, mapping: dict, prefix: str) -> Iterator[tuple[str, Any]]:
        """Tensors of `mapping`, and of dicts and modules in it ({"backbone": {...}, "head": {...}}), by dotted name."""
        for name, value in mapping.items():
            self.step()
            if not isinstance(name, str) or name in WRAPPERS_EMA:
                continue
            if isinstance(value, TENSORS):
                yield prefix + name, value
            elif _is_module(value) and not NOT_WEIGHTS.search(name):
                yield from self.module_tensors(value, f"{prefix}{name}.", ())
            elif _is_script(value):
                yield from self.flatten(value.state, f"{prefix}{name}.")
            elif isinstance(value, dict) and not NOT_WEIGHTS.search(name):
                yield from self.flatten(value, f"{prefix}{name}.")


def _is_script(value: Any) -> bool:
    """Whether `value` is a module of a TorchScript archive: its attributes, without its code."""
    return isinstance(value, Inert) and isinstance(value.state, dict) and type(value).__module__.startswith("__torch__")


def _is_module(value: Any) -> bool:
    return isinstance(value, Inert) and isinstance(value.state, dict) and "_modules" in value.state
