"""Files written in one step: a reader finds the file as it was or as it is to be, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from machine import lock

SETTLED = 2  # seconds from the making of a file to the taking of its lock, by far
ADVICE = {
    errno.ENOSPC: "free some space, or name another folder",
    errno.EDQUOT: "free some of your quota, or name another folder",
    errno.ENOENT: "a folder of its path is not there and cannot be made: name another folder",
    errno.EACCES: "make the folder writable, or name another",
    errno.EPERM: "make the folder writable, or name another",
    errno.EROFS: "name a folder on a writable disk",
    errno.ENOTDIR: "a part of its path is a file: name another folder",
    errno.EEXIST: "a part of its path is a file: name another folder",
    errno.EISDIR: "there is a folder of that name: remove it, or name another file",
    errno.ENAMETOOLONG: "name a shorter path",
}


@contextlib.contextmanager
def replace(
    path: str | os.PathLike, mode: str = "wb", *, needed: int = 0, flag: str = "--output_path", sync: bool = True
) -> Iterator[IO]:
    """An open file that takes the place of `path` once the block has ended without an error.

    The bytes go to a temporary file of a name of its own in the same folder (which is made where it is missing), are
    forced onto the disk, and are then renamed. After an error, Ctrl-C included, the file that was there before is
    intact and no temporary file stays behind; after a kill one may stay (`sweep` removes it).
    needed: bytes that will be written, for the message of a full disk; flag: the one that names the folder.
    sync: False leaves out forcing, for thousands of small files that a command makes again if the machine fails.
    Raises RuntimeError where the operating system refuses, with the reason and what to do. What the block itself raises
    of other files passes as it is.
    """
    path = Path(path)
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(temporary, new, 0o666), mode, encoding=encoding, newline=newline) as file:
            with contextlib.suppress(OSError):  # without locks nobody sweeps
                lock.take(file)
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync:
            _sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        cause = _os_error(error)
        if cause is None or (cause.filename and Path(cause.filename) not in (temporary, path, *path.parents)):
            raise  # of something else that the block did
        raise RuntimeError(refusal(path, cause, flag, needed)) from error


def _temporary(path: Path) -> Path:
    """A name beside `path` that nobody has, which `sweep` knows; short enough for 255 bytes in any script."""
    return path.parent / f".{path.name[:48]}.{secrets.token_hex(8)}.part"


def write_text(path: str | os.PathLike, text: str) -> None:
    """`text` as the whole of the file at `path`, in one step."""
    with replace(path, "w", needed=len(text)) as file:
        file.write(text)


class Both(io.TextIOBase):
    """A stream that writes to two. It outlives them, and Python flushes it once more at its end."""

    def __init__(self, first: IO, second: Any):
        self.streams: tuple[Any, ...] = first, second

    def write(self, text: str) -> int:
        for stream in self.streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self.streams:
            if not getattr(stream, "closed", False):
                stream.flush()


@contextlib.contextmanager
def printed_to(path: Path, title: str) -> Iterator[Callable[[], None]]:
    """Hands out a function: once it is called, all that is printed inside, before and after, is added to `path` under
    `title` and the time; and printed all the same."""
    with contextlib.ExitStack() as opened:
        both = Both(sys.stdout, io.StringIO(f"\n==== {time.strftime('%Y-%m-%d %H:%M:%S')}  {title}\n"))
        both.streams[1].seek(0, io.SEEK_END)
        opened.callback(setattr, both, "streams", both.streams[:1])  # for who holds it when the file is closed

        def keep() -> None:
            file = opened.enter_context(open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1))
            file.write(both.streams[1].getvalue())
            both.streams = both.streams[0], file

        opened.enter_context(contextlib.redirect_stdout(both))
        yield keep


def write_json(path: str | os.PathLike, content: Any) -> None:
    """`content` as JSON, in one step."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`: those that nobody holds any more."""
    for path in folder.glob(".*.part"):
        with contextlib.suppress(OSError):  # such as that another process was faster
            if re.fullmatch(r"\..*\.[0-9a-f]{16}\.part", path.name) and time.time() - path.stat().st_mtime > SETTLED:
                with open(path, "r+b") as file:
                    lock.take(file)
                    path.unlink()


def size_text(num_bytes: float) -> str:
    """A number of bytes as text in bytes, KB, MB or GB of powers of 1000: 1500 -> '1.5 KB'."""
    for unit in ("bytes", "KB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def printable(text: str) -> str:
    """`text` on one line of any terminal: a line end or a byte that is no UTF-8 in a file name as its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def as_line(path: str) -> str:
    """`path` as a line of a list: as it is, but as a JSON string if it holds a line end or bytes that are no UTF-8, or
    begins with the quote that a JSON string begins with."""
    plain = path.encode(errors="ignore").decode().splitlines() == [path] and not path.startswith('"')
    return path if plain else json.dumps(path)


def safe_name(name: str) -> str:
    """`name` as a part of the name of a new file or folder: letters, digits, `_.-`, no dot first, 50 at most."""
    return re.sub(r"^\.+|[^\w.-]", "_", name)[:50]


def check_folder(folder: str | os.PathLike, flag: str = "--output_path") -> None:
    """RuntimeError, as of `replace`, if no file can be written in `folder` or, before it is made, where it will be.

    What killed processes left there is swept.
    """
    there = next(path for path in (Path(folder), *Path(folder).absolute().parents) if os.path.lexists(path))
    temporary = _temporary(there / "tried")
    try:
        sweep(there)
        with open(temporary, "xb"):
            pass
        os.unlink(temporary)
    except OSError as error:
        raise RuntimeError(refusal(Path(folder), error, flag)) from error


def _os_error(error: BaseException) -> OSError | None:
    """The OSError behind `error`: torch's zip writer hides it under a RuntimeError about a file position."""
    seen: BaseException | None = error if isinstance(error, OSError) or type(error) is RuntimeError else None
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def refusal(path: Path, cause: OSError, flag: str, needed: int = 0) -> str:
    """What to say where `path` could not be written: the reason, and what to do about that reason with `flag`."""
    folder = next(p for p in (path.parent, *path.parent.absolute().parents) if p.exists())
    space = ""
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        about = f"about {size_text(needed)} needed, " if needed else ""
        space = f" ({about}{shutil.disk_usage(folder).free:,} bytes free on that disk)"
    kept = " The earlier file is unchanged." if path.is_file() else ""
    advice = ADVICE.get(cause.errno or 0, "check the disk and the folder")
    return f"could not write {path}: {cause.strerror or cause}{space}: {advice} with {flag}.{kept}"


def _sync(folder: Path) -> None:
    """Make the rename itself durable, where the file system can: the file is complete and in its place by then."""
    with contextlib.suppress(OSError):  # Windows and some network drives cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
