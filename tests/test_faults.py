"""A campaign of faults against the whole program: kills, two writers, a full disk, hostile and damaged files.

Whatever happens, what is there afterwards is right or is said in one line to be wrong. The short form draws a few
faults, always the same ones; ``pytest tests/test_faults.py --long`` draws many, of every family of recipes.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tarfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import test_datasets_infrared
import test_datasets_small
import test_datasets_video
import test_weights
import torch
import trees

import checkpoints
import main
import test_smoke
import train
from machine import imagefile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills, limits and pipes of POSIX; memory in KB")

TINY = ("--epochs", "3", "--steps", "2", "--image_size", "64", "32", "--warmup_epochs", "0", "--num_queries", "0")
TINY += ("--amp", "none", "--pretrained", "none", "--threads", "1", "--cache", "disk")
DEMO = ("--recipe", "demo", "--p", "4", "--k", "2")
FAMILIES = {  # name -> (kind of data, flags): small networks of each family of recipes
    "demo": ("market", DEMO),
    "bot": ("market", ("--recipe", "bot", "--backbone", "resnet18", "--p", "4", "--k", "2")),
    "pcb": ("market", ("--recipe", "pcb", "--backbone", "resnet18", "--batch_size", "8", "--image_size", "96", "32")),
    "pcb_rpp": ("market", ("--recipe", "pcb_rpp", "--backbone", "resnet18", "--batch_size", "8", "--epochs", "5",
                           "--image_size", "96", "32")),
    "aligned": ("market", ("--recipe", "aligned", "--backbone", "resnet18", "--p", "4", "--k", "2")),
    "aligned_mutual": ("market", ("--recipe", "aligned_mutual", "--backbone", "resnet18", "--p", "4", "--k", "2")),
    "pyramid": ("market", ("--recipe", "pyramid", "--backbone", "resnet18", "--p", "4", "--k", "2",
                           "--image_size", "96", "32")),
    "video": ("dukevid", ("--recipe", "resnet50_video", "--backbone", "resnet18", "--p", "3", "--k", "2",
                          "--seq_len", "2")),
    "infrared": ("sysu", ("--recipe", "agw_rgbir", "--backbone", "resnet18", "--p", "3", "--k", "2")),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """kind of data -> the flags that name a small built-in set of it, made when it is first asked for."""
    from synthetic import sets

    made: dict[str, tuple[str, ...]] = {}

    def of(kind: str = "market") -> tuple[str, ...]:
        if kind not in made:
            root = tmp_path_factory.mktemp(kind) / "set"
            if kind == "market":
                test_smoke.small_set(root, num_train_pids=6, num_test_pids=5)
            elif kind == "dukevid":
                sets.VIDEO.make(root, processes=1, progress=False, num_train_pids=4, num_test_pids=4, num_cameras=3)
            else:
                sizes = {"num_train_pids": 4, "num_val_pids": 1, "num_test_pids": 4, "per_camera": 2}
                sets.INFRARED.make(root, processes=1, progress=False, **sizes)
            made[kind] = (f"--{kind}_path", str(root))
        return made[kind]

    return of


# ---------------------------------------------------------------------------------------------------------------------
# The program in a process of its own, and what befalls it
# ---------------------------------------------------------------------------------------------------------------------


class Trouble(NamedTuple):
    """What befalls a process at its `at`-th moment: an operation on a file below `folder`, or a training step."""

    folder: str = "\0"
    at: int = 0  # from 1; 0: never
    kind: str = "kill"  # or "full": from then on the disk takes nothing more
    largest: int = 0  # bytes that any one file may have, as the system sees to it; 0: any number
    meet: object = None  # a barrier at which the first two who open the lock of a run wait for each other


class Process:
    """main.py with some words, forked from a server that has imported it; what it says arrives through pipes."""

    context = multiprocessing.get_context("forkserver")

    def __init__(self, *words, trouble: Trouble | None = None):
        self.context.set_forkserver_preload(["test_faults"])
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # the server of Python 3.11 is told of no other
        self.moments, self.memory = self.context.Value("i", 0), self.context.Value("q", 0)
        pipes = [self.context.Pipe(duplex=False) for _ in range(2)]
        told = [str(word) for word in words]
        given = (told, [theirs for _, theirs in pipes], trouble or Trouble(), self.moments, self.memory)
        self.process = self.context.Process(target=program, args=given)
        self.process.start()
        for _, theirs in pipes:
            theirs.close()
        self.ends = [ours for ours, _ in pipes]

    def wait(self, seconds: float = 300) -> tuple[int, str, str]:
        """(exit code, output, errors), all of them shorter than a pipe; a process that does not end is a failure."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            pytest.fail(f"process {self.process.pid} has not ended within {seconds} seconds")
        said = []
        for end in self.ends:
            with os.fdopen(os.dup(end.fileno()), encoding="utf-8", errors="replace") as text:
                said.append(text.read())
        return self.process.exitcode, *said


def program(words: list[str], pipes: list, trouble: Trouble, moments, memory) -> None:
    """What a forked process does; `moments` and `memory` (growth in KB) tell what it went through."""
    for number, pipe in enumerate(pipes, 1):
        os.dup2(pipe.fileno(), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))

    def moment(writes: bool) -> None:
        with moments.get_lock():
            moments.value += 1
            count = moments.value
        if trouble.kind == "kill" and count == trouble.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble.kind == "full" and writes and 0 < trouble.at <= count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def watch(event: str, arguments: tuple) -> None:
        if event not in ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate"):
            return
        if str(arguments[0]).startswith(trouble.folder):
            if trouble.meet is not None and str(arguments[0]).endswith("in_use.lock"):
                trouble.meet.wait(120)
            moment(event == "os.mkdir" or (event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))))

    def counted(function, writes):
        def call(*arguments):
            moment(writes)
            return function(*arguments)

        return call

    sys.addaudithook(watch)
    os.fsync = counted(os.fsync, True)
    train.backward_and_step = counted(train.backward_and_step, False)
    if trouble.largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (trouble.largest, resource.RLIM_INFINITY))
    room = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (room + 4 * 2**30, resource.RLIM_INFINITY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = main.main(words)
    memory.value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sys.exit(status)


def run(*words) -> int:
    return main.main([str(word) for word in words])


def training(data, family: str, folder: Path) -> tuple:
    kind, flags = FAMILIES[family]
    return ("--mode", "train", *data(kind), "--output_path", folder, *TINY, *flags)


def one_line(errors: str) -> str:
    """The one message of a process that ended with 1."""
    lines = [line for line in errors.splitlines() if line.strip()]
    assert lines and lines[0].startswith("error: ") and "Traceback" not in errors, errors
    assert len(lines) == 1 and "--debug" not in errors, errors
    return lines[0]


def whole(folder: Path, but: Path | None = None) -> None:
    """Fails unless every file of a run that is there is whole, whatever befell the run."""
    for path in set(folder.glob("*.pt")) - {but}:
        checkpoints.load(path)
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    for path in folder.glob("log.jsonl"):
        assert all(json.loads(line) for line in path.read_text().splitlines())


def content(folder: Path) -> tuple:
    """What two runs of one command have in common: weights, log, results without times and places."""
    weights = checkpoints.load(folder / "model.pt")["model"]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for found in (*log, *(line.get("metrics", {}).get(name, {}) for line in log for name in line.get("metrics", {}))):
        for key in ("seconds", "images_per_second"):
            found.pop(key, None)
    results = json.loads((folder / "metrics.json").read_text())
    for found in results.values():
        found.pop("images_per_second", None)
        measured = found.pop("measured")
        found["data"] = measured["data"]
    return {name: value.numpy().tobytes() for name, value in weights.items()}, log, results


def let_time_pass(folder: Path) -> None:
    """Temporary files are swept once they are older than any that is being made."""
    for path in folder.rglob(".*.part"):
        os.utime(path, (0, 0))


def nothing_is_left_over(folder: Path) -> None:
    assert not [path for path in folder.rglob(".*") if path.is_file()]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """family -> (what its undisturbed run left, number of its moments, its folder)."""
    made: dict[str, tuple] = {}

    def of(family: str) -> tuple:
        if family not in made:
            folder = tmp_path_factory.mktemp(family) / "run"
            process = Process(*training(data, family, folder), trouble=Trouble(str(folder)))
            status, _, errors = process.wait()
            assert status == 0 and not errors, errors
            made[family] = content(folder), process.moments.value, folder
        return made[family]

    return of


# ---------------------------------------------------------------------------------------------------------------------
# Kills
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_that_was_killed_ends_as_one_that_was_not(family, long, data, undisturbed, tmp_path):
    """Killed at any moment, and once more while it goes on: the same bytes, nothing half, nothing left over."""
    if family != "demo" and not long:
        pytest.skip("--long")
    expected, moments, _ = undisturbed(family)
    rng = random.Random(family)
    for trial in range(40 if long else 1):
        folder, killed = tmp_path / str(trial), 0
        words = training(data, family, folder)
        for _ in range(2):
            at = rng.randint(1, moments)
            status, _, errors = Process(*words, trouble=Trouble(str(folder), at)).wait()
            assert status in (0, -signal.SIGKILL), errors
            killed += status != 0
            whole(folder)
            let_time_pass(folder)
        assert killed
        status, _, errors = Process(*words).wait()
        assert status == 0, errors
        assert content(folder) == expected, at
        nothing_is_left_over(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Two writers, a full disk
# ---------------------------------------------------------------------------------------------------------------------


def test_of_two_processes_in_one_folder_one_trains_and_the_other_names_it(data, undisturbed, tmp_path):
    folder = tmp_path / "run"
    trouble = Trouble(str(folder), meet=Process.context.Barrier(2))
    both = [Process(*training(data, "demo", folder), trouble=trouble) for _ in range(2)]
    (first, _, errors), (second, _, more) = said = [process.wait() for process in both]
    assert {first, second} == {0, 1}, said
    winner = both[first].process.pid
    message = one_line(more if second else errors)
    assert f"is in use by process {winner} on " in message and "--output_path" in message
    assert not (errors if second else more)
    assert content(folder) == undisturbed("demo")[0]
    nothing_is_left_over(folder)


def test_a_disk_that_is_full_from_any_moment_on(long, data, undisturbed, tmp_path):
    """One line, what was there before is whole, and with more room the same command ends as if nothing had been."""
    expected, moments, _ = undisturbed("demo")
    rng = random.Random(3)
    troubles = [{"kind": "full", "at": at} for at in rng.sample(range(1, moments), min(30, moments - 1) if long else 1)]
    troubles += [{"largest": size} for size in ([1, 100, 2_000, 30_000, 60_000, 10**5, 10**6] if long else [100_000])]
    for number, trouble in enumerate(troubles):
        folder = tmp_path / str(number)
        words = training(data, "demo", folder)
        status, _, errors = Process(*words, trouble=Trouble(str(folder), **trouble)).wait()
        if status:
            message = one_line(errors)
            assert status == 1 and ("No space left" if "at" in trouble else "File too large") in message, errors
        whole(folder)
        nothing_is_left_over(folder)
        assert run(*words) == 0
        assert content(folder) == expected, trouble


# ---------------------------------------------------------------------------------------------------------------------
# Hostile weight files
# ---------------------------------------------------------------------------------------------------------------------


def hostile(folder: Path, good: bytes):
    """name -> weight file that is to be refused; those that name a command would make the file `executed`."""
    marker = folder / "executed"

    def made(name: str, content: bytes) -> tuple[str, Path]:
        (folder / f"{name}.pth").write_bytes(content)
        return name, folder / f"{name}.pth"

    for number, attack in enumerate(test_weights.attacks(marker)):
        for way, options in (("zip", {}), ("legacy", test_weights.LEGACY)):
            path = folder / f"attack {number} {way}.pth"
            torch.save(attack, path, **options)
            yield path.stem, path
        yield made(f"attack {number}", pickle.dumps(attack))
    for name, write in test_weights.bombs():
        write(folder / f"bomb {name}.pth")
        if name != "views of one storage":  # which stays small
            yield name, folder / f"bomb {name}.pth"
    with tarfile.open(folder / "tar.pth", "w") as archive:
        archive.add(__file__, "storages")
    yield "tar", folder / "tar.pth"
    tar = (folder / "tar.pth").read_bytes()
    for name, front in (("text", b"#!/bin/sh\n"), ("tar", tar), ("pickle", pickle.dumps(Path("x")))):
        yield made(f"zip behind {name}", front + good)
    for name, cut in (("a byte", 1), ("a start", 60), ("a half", len(good) // 2), ("nearly all", len(good) - 5)):
        yield made(name, good[:cut])
    yield made("more behind", good + b"x" * 70_000)
    yield made("empty", b"")
    yield made("noise", random.Random(0).randbytes(5_000))
    (folder / "folder.pth").mkdir()
    yield "folder", folder / "folder.pth"
    os.mkfifo(folder / "pipe.pth")
    yield "pipe", folder / "pipe.pth"
    (folder / "link.pth").symlink_to(folder / "gone.pth")
    yield "link", folder / "link.pth"


def test_a_hostile_weight_file_is_refused_at_once(long, data, undisturbed, tmp_path):
    """One line, nothing executed, within seconds and 400 MB, of which the program itself takes half."""
    good = (undisturbed("demo")[2] / "model.pt").read_bytes()
    bad = dict(hostile(tmp_path, good))
    chosen = list(bad) if long else random.Random(1).sample(sorted(bad), 8) + ["pipe", "folder", "attack 0 zip"]
    for name in chosen:
        words = ("--mode", "test", *data(), "--weights", bad[name], "--output_path", tmp_path / "out", "--threads", "1")
        process, began = Process(*words), time.monotonic()
        status, _, errors = process.wait(60)
        assert status == 1, (name, status, errors)
        assert bad[name].name in one_line(errors), (name, errors)
        assert process.memory.value < 400_000 and time.monotonic() - began < 30, (name, process.memory.value)
    assert not (tmp_path / "executed").exists()
    assert not list((tmp_path / "out").rglob("*.json"))


# ---------------------------------------------------------------------------------------------------------------------
# Mutated images and tables (those of chance are in test_imagefile and test_datasets_own)
# ---------------------------------------------------------------------------------------------------------------------


def mutated(content: bytes, rng: random.Random) -> bytes:
    """`content` with bytes changed, cut out or put in, or its end cut off, in up to three places."""
    for _ in range(rng.randint(1, 3)):
        at, piece = rng.randrange(len(content) + 1), rng.randbytes(rng.randint(1, 8))
        kind = rng.choice(("change", "cut", "insert", "end"))
        after = {"change": at + len(piece), "cut": at + 16 * len(piece), "insert": at, "end": len(content)}[kind]
        content = content[:at] + (piece if kind in ("change", "insert") else b"") + content[after:]
    return content


def checked(*words) -> str:
    """Output and errors of ``--mode check``, which answers whatever there is to read."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
        status = run("--mode", "check", *words, "--threads", "1", "--workers", "1")
    assert status in (0, 1)
    if status:
        one_line(errors.getvalue())
    return out.getvalue() + errors.getvalue()


def test_check_answers_for_a_set_of_mutated_images(long, data, tmp_path):
    for trial in range(50 if long else 1):
        rng, folder = random.Random(trial), tmp_path / str(trial)
        shutil.copytree(data()[1], folder)
        bad = 0
        for path in sorted(folder.rglob("*.jpg")):
            path.write_bytes(mutated(path.read_bytes(), rng))
            try:
                imagefile.read(path)
            except Exception:
                bad += not path.name.startswith("-1")  # junk, which nobody reads
        told = checked("--market_path", folder)
        assert bad and f"{bad} of 69 images cannot be read" in told


def tables(folder: Path):
    """(name of a data set, its folder, a table in it that says who is on which image)."""
    places = [f"img/{person}_{camera}.jpg" for person in range(1, 5) for camera in (1, 2)]
    own = trees.tree(folder / "own", *places)
    subsets = ["train"] * 4 + ["query", "gallery"] * 2
    rows = [f"{place},{place[4]},{place[6]},{subset}" for place, subset in zip(places, subsets, strict=True)]
    (own / "list.csv").write_text("\n".join(["path,pid,camid,split", *rows]) + "\n")
    yield "own", own, own / "list.csv"
    mars = test_datasets_video.mars(folder / "mars")
    yield from (("mars", mars, path) for path in sorted((mars / "info").iterdir()))
    for mat in (False, True):
        sysu = test_datasets_infrared.sysu(folder / f"sysu {mat}", mat=mat)
        test_datasets_infrared.write_permutations(sysu)
        yield from (("sysu", sysu, path) for path in sorted((sysu / "exp").iterdir()))
    grid = trees.tree(folder / "grid", *test_datasets_small.GRID)
    test_datasets_small.write_grid(grid / "underground_reid", [[1, 2]] * 10)
    yield "grid", grid, grid / "underground_reid" / "features_and_partitions.mat"
    yield "grid", grid, grid / "underground_reid" / KEPT


KEPT = "splits_grid_reid.json"  # made from the table beside it, and read in its place from then on


def test_a_mutated_table_is_read_or_one_line_says_what_is_wrong(long, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng, ends = random.Random(0), set()
    for name, folder, table in tables(tmp_path):
        checked(f"--{name}_path", folder)  # which makes the table that is kept
        content = table.read_bytes()
        for _ in range(1_000 if long else 20 if name == "own" else 1):
            if table.name != KEPT:
                (table.parent / KEPT).unlink(missing_ok=True)
            table.write_bytes(mutated(content, rng))
            ends.add("error: " in checked(f"--{name}_path", folder))
        table.write_bytes(content)
    assert True in ends


# ---------------------------------------------------------------------------------------------------------------------
# Damaged run folders
# ---------------------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes() or b"x")
    raw[len(raw) // 2] ^= 0x55
    path.write_bytes(raw)


def instead(make):
    def replaced(path: Path) -> None:
        path.unlink()
        make(path)

    return replaced


DAMAGES = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "flipped": flip,
    "removed": Path.unlink,
    "a folder": instead(Path.mkdir),
    "a link to nothing": instead(lambda path: path.symlink_to(path.parent / "gone")),
    "a text": lambda path: path.write_text("[1, 2]\n"),
}


@pytest.fixture(scope="module")
def stopped(data, undisturbed, tmp_path_factory) -> Path:
    """The folder of a run that was killed in its third epoch."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    for at in range(int(0.85 * undisturbed("demo")[1]), 0, -5):
        Process(*training(data, "demo", folder), trouble=Trouble(str(folder), at)).wait()
        writing = list(folder.glob(".*.part"))  # stays for as long as another process might hold it
        if len((folder / "log.jsonl").read_text().splitlines()) == 2 and not writing:
            return folder
        shutil.rmtree(folder)
    raise AssertionError("no moment after the second epoch")


def answers(capfd, damaged: Path, *words) -> bool:
    """Whether main.py with `words` ends well; if it does not, one line names the damaged file or its folder."""
    capfd.readouterr()
    status = run(*words)
    errors = capfd.readouterr().err
    assert status in (0, 1)
    if status:
        assert str(damaged.parent) in one_line(errors)
    return status == 0


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_a_damaged_file_of_a_run_is_repaired_or_named(state, long, data, undisturbed, stopped, tmp_path, capfd):
    expected, _, finished = undisturbed("demo")
    source = finished if state == "finished" else stopped
    found = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    trials = [(name, damage) for name in found for damage in DAMAGES]
    pictures = ("--num_queries", "1", "--top_k", "2", "--vis", "curves", "ranks")
    modes = {"model.pt": ("test",), "log.jsonl": ("visualize", *pictures)}  # what reads which
    for number, (name, damage) in enumerate(trials if long else random.Random(state).sample(trials, 4)):
        folder = Path(shutil.copytree(source, tmp_path / str(number)))
        DAMAGES[damage](folder / name)
        if state == "finished" and name.name in modes:  # before training has repaired it
            words = ("--mode", *modes[name.name], *data(), "--threads", "1", "--output_path", folder)
            if answers(capfd, folder / name, *words):
                for path in folder.glob("metrics_model*.json"):
                    assert json.loads(path.read_text())["market"]["mAP"] == expected[2]["market"]["mAP"], damage
        if answers(capfd, folder / name, *training(data, "demo", folder)):
            assert content(folder) == expected, (name, damage)
            whole(folder, but=folder / name)  # nobody misses a previous.pt
            nothing_is_left_over(folder)
