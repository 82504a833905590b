"""What a run asks of its machine: one process per folder, digests of what it was made of, the version."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import recipes
import train
from evaluate import extract
from loading.views import Views
from losses import Criterion, IDLoss
from machine import device, files, fingerprint, lock, memory, progress, streams, threads, version
from models import Output

ROOT = Path(__file__).parents[1]
HOLD = "import sys; from pathlib import Path; from machine import lock\nwith lock.held(Path(sys.argv[1])):\n"
HOLD += "    print('held', flush=True); sys.stdin.read()\n"


def holder(folder: Path) -> subprocess.Popen:
    """A process that holds `folder` until its standard input ends."""
    process = subprocess.Popen(
        (sys.executable, "-c", HOLD, str(folder)), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_in_use_names_the_process_that_uses_it(tmp_path):
    other = holder(tmp_path / "run")
    try:
        with pytest.raises(RuntimeError, match=rf"in use by process {other.pid} .*--output_path"):
            with lock.held(tmp_path / "run"):
                pass
    finally:
        other.communicate()
    with lock.held(tmp_path / "run"):
        pass


MEMORY = """
import mmap, resource, torch
from machine import device

device.tune(torch.device("cpu"))
size = 2**26
batch = torch.ones(size // 4)
held = asked = 0
for word, *rest in map(str.split, open("/proc/self/smaps")):
    held = int(rest[0]) * 1024 if word == "Rss:" else held
    asked += held * (word == "VmFlags:" and "hg" in rest)
print(asked)
del batch
for _ in range(16):  # malloc may take some turns until it has a place that always fits
    torch.ones(size // 4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(size // 4)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * mmap.PAGESIZE)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is told by calls of glibc")
@pytest.mark.parametrize("most", (None, 2**35))  # of the address space, as `ulimit -v` sets it
def test_what_a_batch_frees_is_kept_for_the_next_in_large_pages(most):
    import resource

    def limit():
        if most:
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))

    done = subprocess.run((sys.executable, "-c", MEMORY), cwd=ROOT, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 0, done.stderr
    asked, cleared = map(int, done.stdout.split())
    assert cleared < 2**26, "the kernel clears no memory anew for every batch"
    rules = Path("/proc/sys/vm/overcommit_memory").read_text().strip()
    here = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    if most or Path("/sys/kernel/mm/transparent_hugepage").is_dir() and rules != "2" and max(here) == min(here) == -1:
        assert asked == 0 if most else asked >= 2**26, "none are asked for where the memory could be refused"


def test_who_has_just_taken_a_folder_is_waited_for(tmp_path):
    """The lock is there before the name of who holds it is."""
    path = tmp_path / lock.NAME
    with open(path, "a+", encoding="utf-8") as taken:
        lock.take(taken)
        later = threading.Timer(0.2, path.write_text, ['{"pid": 7, "host": "h", "since": "s"}'])
        later.start()
        with pytest.raises(RuntimeError, match="in use by process 7 on h since s"):
            with lock.held(tmp_path):
                pass
        later.join()
        path.write_text("")
        with open(path, encoding="utf-8") as file:
            assert lock._owner(file, patience=0.05) == "another process"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_killed_process_holds_nothing(tmp_path):
    other = holder(tmp_path)
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with lock.held(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
    assert (tmp_path / lock.NAME).read_text() == ""


def samples(folder: Path, *rows: tuple[str, int, int, bytes]) -> list[tuple[str, int, int]]:
    """Files with these bytes, as (path, pid, camid)."""
    found = []
    for name, pid, camid, content in rows:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        found.append((str(path), pid, camid))
    return found


class Stream:
    """Stands for a stream of a GPU; `said` is what was asked of all of them, in order."""

    def __init__(self, name: str, said: list[str]):
        self.name, self.said = name, said

    def wait_stream(self, other: Stream) -> None:
        self.said.append(f"{self.name} waits for {other.name}")


class Held(torch.Tensor):
    """A tensor that writes down which streams hold its memory."""

    def record_stream(self, stream: Stream) -> None:
        stream.said.append(f"{stream.name} holds {int(self)}")


def test_a_batch_is_prepared_on_a_stream_of_its_own_when_it_is_asked_for(monkeypatch):
    said: list[str] = []
    own, theirs = Stream("own", said), Stream("theirs", said)
    current = [theirs]

    @contextlib.contextmanager
    def on(stream):
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: own)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", on)

    def batches():
        for i in range(2):
            said.append(f"{current[-1].name} makes {i}")
            image, camera = (torch.tensor(value).as_subclass(Held) for value in (i, 10 + i))
            yield image, Views(camera)

    for image, _ in streams.aside(batches(), torch.device("cuda")):
        said.append(f"{current[-1].name} reads {int(image)}")
    assert said[0] == "own waits for theirs"  # for what the batches are made of
    assert said[1:] == [
        f"{who} {what}"
        for i in range(2)
        for who, what in (
            ("own", f"makes {i}"), ("theirs", "waits for own"), ("theirs", f"holds {i}"), ("theirs", f"holds {10 + i}"),
            ("theirs", f"reads {i}"),
        )
    ]  # fmt: skip
    said.clear()
    assert len(list(streams.aside(batches(), torch.device("cpu")))) == 2
    assert said == ["theirs makes 0", "theirs makes 1"]


def test_a_fingerprint_knows_names_labels_and_sizes_and_not_the_place(tmp_path):
    rows = (("a/1.jpg", 1, 1, b"x"), ("b/2.jpg", 2, 1, b"yy"))
    first = fingerprint.of_samples(samples(tmp_path / "one", *rows))
    assert fingerprint.of_samples(reversed(samples(tmp_path / "two", *rows))) == first
    others = (
        (rows[0], ("b/3.jpg", 2, 1, b"yy")),  # another name
        (rows[0], ("b/2.jpg", 3, 1, b"yy")),  # another person
        (rows[0], ("b/2.jpg", 2, 4, b"yy")),  # another camera
        (rows[0], ("b/2.jpg", 2, 1, b"yyy")),  # other bytes
        rows[:1],
    )
    found = [fingerprint.of_samples(samples(tmp_path / str(i), *each)) for i, each in enumerate(others)]
    assert len({first, *found}) == 1 + len(others)
    assert fingerprint.of_samples([((str(tmp_path / "x.jpg"),), 1, 1)]) != fingerprint.of_samples([])


def test_settings_and_files(tmp_path):
    assert fingerprint.of_settings({"a": (1, 2), "b": None}) == fingerprint.of_settings({"b": None, "a": [1, 2]})
    assert fingerprint.of_settings({"a": 1}) != fingerprint.of_settings({"a": 2})
    (tmp_path / "w").write_bytes(b"abc")
    assert fingerprint.of_file(tmp_path / "w").startswith("ba7816bf8f01cfea414140de5dae2223")  # FIPS 180-2, B.1


def test_a_write_is_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "a.json"
    files.write_json(target, {"x": 1})
    assert json.loads(target.read_text()) == {"x": 1}
    for error in (ValueError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            with files.replace(target, "w") as file:
                file.write("half")
                raise error
    assert json.loads(target.read_text()) == {"x": 1} and os.listdir(target.parent) == ["a.json"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """Each has a temporary file of its own; the one who ends last wins, whole."""
    with files.replace(tmp_path / "a", "w") as first:
        with files.replace(tmp_path / "a", "w") as second:
            first.write("1" * 9)
            second.write("2")
        assert (tmp_path / "a").read_text() == "2"
    assert (tmp_path / "a").read_text() == "1" * 9


def test_a_refusal_says_what_refused_and_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match=r"could not write .*: a part of its path is a file") as found:
        files.write_text(tmp_path / "file" / "a.json", "x")
    assert "space" not in str(found.value) and "free" not in str(found.value)
    (tmp_path / "folder").mkdir()
    with pytest.raises(RuntimeError, match="there is a folder of that name"):
        files.write_text(tmp_path / "folder", "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_an_error_of_another_file_is_not_called_one_of_writing(tmp_path):
    """Such as an image that is gone, decoded into the file that is being written."""
    with pytest.raises(FileNotFoundError, match="image"):
        with files.replace(tmp_path / "cache"):
            open(tmp_path / "image.jpg")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["a[1]*.pt", "\u4eba" * 80, "x" * 250])
def test_any_name_that_the_disk_takes(tmp_path, name, monkeypatch):
    monkeypatch.setattr(files, "SETTLED", -1)
    with files.replace(tmp_path / name, "w"):
        files.sweep(tmp_path)  # what somebody is writing stays
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_file_is_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_what_a_killed_writer_leaves_is_swept(tmp_path, monkeypatch):
    script = "import sys, os, signal; from machine import files\n"
    script += (
        "with files.replace(sys.argv[1]) as f:\n    f.write(b'x'); f.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run((sys.executable, "-c", script, str(tmp_path / "a.pt")), cwd=ROOT)
    (tmp_path / ".somebody.else.part").write_text("")
    assert not (tmp_path / "a.pt").exists() and len(os.listdir(tmp_path)) == 2
    monkeypatch.setattr(files, "SETTLED", -1)
    files.check_folder(tmp_path / "runs" / "x")  # which tries the folder that is there, and sweeps it
    assert os.listdir(tmp_path) == [".somebody.else.part"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_what_the_trial_of_a_folder_leaves_when_it_is_killed_is_swept_by_the_next(tmp_path, monkeypatch):
    script = "import sys, os, signal; from machine import files\n"
    script += "os.unlink = lambda path: os.kill(os.getpid(), signal.SIGKILL)\nfiles.check_folder(sys.argv[1])"
    subprocess.run((sys.executable, "-c", script, str(tmp_path / "x")), cwd=ROOT)
    assert len(os.listdir(tmp_path)) == 1
    monkeypatch.setattr(files, "SETTLED", -1)
    files.check_folder(tmp_path / "x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["osnet_x0_25", "transreid_baseline", "agw"])
def test_what_a_training_step_keeps_is_known_before_it_is_computed(name, monkeypatch):
    size = (64, 32)
    recipe = recipes.RECIPES[name].with_(image_size=size, pretrained="none")
    model = recipe.with_(backbone="vit_tiny_patch16_224" if name == "transreid_baseline" else "resnet18").model(5)
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved = {}

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in known:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = model(torch.randn(2, 3, *size))
    needed = memory.kept_for_backward(model, size)
    assert kept and needed == pytest.approx(sum(saved.values()) / 2, rel=0.1)
    monkeypatch.setattr(memory, "free_memory", lambda: 99 * needed)
    memory.check_step(model, size, 98)
    memory.check_step(model, size, 196, half=True)
    with pytest.raises(ValueError, match=r"100 images of 64x32 takes at least .* GiB.*--p and --k.*--accumulate"):
        memory.check_step(model, size, 100)
    model.forward = lambda images: model(images[images > 0])  # which nobody knows without the numbers
    memory.check_step(model, size, 100)


def test_version_and_commit():
    assert re.fullmatch(r"\d+\.\d+\.\d+", version.VERSION)
    assert re.fullmatch(r"([0-9a-f]{12}\+?)?", version.commit())


@pytest.mark.parametrize(
    "path", ["a b.jpg", "né.jpg", "a\nb", "a\r", "\x85", "a\u2028", '"a', "\udcff\udc80", "\\n", "a\x0c😀\n"]
)
def test_a_path_is_one_line_from_which_it_can_be_read_back(path):
    line = files.as_line(path)
    assert line.encode().decode().splitlines() == [line]
    assert (json.loads(line) if line.startswith('"') else line) == path


def test_a_folder_is_tried_before_it_is_needed_and_not_made(tmp_path):
    files.check_folder(tmp_path / "new" / "deep")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RuntimeError, match="could not write .*file.deep.*a part of its path is a file.*--output_path"):
        files.check_folder(tmp_path / "file" / "deep")


# ------------------------------------------------------------------------------------------------------- progress


class Clock:
    """A clock that passes `each` seconds whenever it is looked at."""

    def __init__(self, each: float):
        self.each, self.now = each, 1000.0

    def __call__(self) -> float:
        self.now += self.each
        return self.now


class Linear(torch.nn.Linear):
    """(B, 3, 2, 2) -> an Output of two classes."""

    def forward(self, images, views=None):
        embedding = super().forward(images.flatten(1))
        return Output(embedding, (embedding,), (), None)


def test_a_line_of_speed_and_time_left_every_half_minute(monkeypatch, capsys):
    monkeypatch.setattr(progress, "monotonic", Clock(12))
    with progress.Progress(10, "query", done=1) as told:
        for _ in range(9):
            told.update()
    assert capsys.readouterr().out.splitlines() == [
        f"query  {done} of 10 images  0.1 images/s  {left} left"
        for done, left in ((4, "72 s"), (7, "36 s"))  # the end needs none
    ]
    quick = progress.Progress(10**6, "query")
    monkeypatch.setattr(progress, "monotonic", Clock(1))
    quick.told_at = progress.monotonic()
    for _ in range(29):
        quick.update(1000)
    assert not capsys.readouterr().out
    quick.update(1000)
    assert capsys.readouterr().out == "query  30,000 of 1,000,000 images  1000.0 images/s  16 min left\n"


def test_a_terminal_has_a_bar_and_no_lines(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "monotonic", Clock(100))
    assert list(progress.Progress(3, "query").over("abc")) == ["a", "b", "c"]
    assert "query" in sys.stderr.getvalue() and not capsys.readouterr().out
    assert list(progress.Progress(3, "query", shown=False).over("abc")) == ["a", "b", "c"]
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "seconds, said", [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (3599, "1 h 00 min"), (90_000, "25 h 00 min")]
)
def test_times_as_people_say_them(seconds, said):
    assert progress.duration(seconds) == said


def test_training_and_extraction_say_how_far_they_are(monkeypatch, capsys):
    """A line at least every minute, where a step takes less than half of one; with images, not batches, per second."""
    monkeypatch.setattr(progress, "monotonic", Clock(25))
    network, images, views = Linear(12, 2), torch.randn(4, 3, 2, 2), Views(torch.zeros(4), torch.zeros(4).bool())
    batches = [(images, torch.tensor([0, 0, 1, 1]), views)] * 5
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.0)]
    span = train.Span(0, 5, label="epoch 1/3", steps_after=10)
    train.train_one_epoch(network, Criterion(id=(1, IDLoss())), iter(batches), optimizers, span)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "epoch 1/3  2 of 5 batches  0.2 images/s  75 s left, 5 min in all",
        "epoch 1/3  4 of 5 batches  0.2 images/s  25 s left, 5 min in all",
    ]
    extract(network, [(images, views)] * 5, progress=progress.Progress(20, "gallery"))
    assert capsys.readouterr().out.splitlines() == [
        "gallery  8 of 20 images  0.2 images/s  75 s left",
        "gallery  16 of 20 images  0.2 images/s  25 s left",
    ]


# -------------------------------------------------------------------------------------------------------- threads


class Machine:
    """`cores` cores, of which neighbours want `others`; our threads get a fair share."""

    def __init__(self, cores: int, monkeypatch):
        self.cores, self.others, self.threads, self.told = cores, 0.0, cores, [1000.0, 0.0, 0.0]
        for name, value in (("monotonic", 0), ("process_time", 1), ("idle_time", 2)):
            monkeypatch.setattr(threads, name, lambda value=value: self.told[value])

    def passes(self, seconds: float) -> None:
        demand = self.threads + self.others
        ours = self.threads * min(1.0, self.cores / demand)
        for which, each in enumerate((1, ours, max(0.0, self.cores - demand))):
            self.told[which] += each * seconds

    def size(self, size: int) -> None:
        self.threads = size


@pytest.mark.parametrize("cores", [2, 8, 64])
def test_threads_follow_the_cores_that_neighbours_leave(cores, monkeypatch):
    machine = Machine(cores, monkeypatch)
    said: list[str] = []
    crew = threads.Crew(cores, machine.size, said.append)
    monkeypatch.setattr(threads, "_crew", crew)

    def sizes(steps: int, seconds: float) -> list[int]:
        found = []
        for _ in threads.balanced(range(steps)):
            found.append(machine.threads)
            machine.passes(seconds)
        return found

    assert set(sizes(1000, 0.3)) == {cores}  # alone
    machine.others = 0.2  # somebody's shell
    assert set(sizes(1000, 0.3)) == {cores}
    machine.others = cores  # a passing command
    machine.passes(1)
    machine.others = 0.0
    assert set(sizes(100, 0.3)) == {cores} and not said
    machine.others = 1.0
    machine.passes(1)  # before the loop begins, as images are read
    assert sizes(8, 0.3)[-1] == max(1, cores - 1)
    assert set(sizes(100, 0.3)[-50:]) == {max(1, cores - 1)}
    assert len(said) == 1 and f"{max(1, cores - 1)} of {cores} threads" in said[0]
    machine.others = cores
    few = sizes(100, 5.0)
    assert few[-1] <= cores / 2 + 1 and few[-50:] == [few[-1]] * 50
    machine.others = 0.0
    assert sizes(12, 0.3)[-1] == cores and machine.threads == cores  # within two periods; and behind every loop


def test_a_number_that_is_given_is_kept(monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr(threads, "_crew", None)
        monkeypatch.setattr(threads, "cores", lambda: 64)
        monkeypatch.setattr(threads, "idle_time", lambda: 0.0)
        threads.choose(3)
        assert threads._crew is None and torch.get_num_threads() == 3
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        threads.choose()
        assert threads._crew is None and torch.get_num_threads() == 3
        monkeypatch.delenv("OMP_NUM_THREADS")
        threads.choose(fixed=True)
        assert threads._crew is None and torch.get_num_threads() == 3
        monkeypatch.setattr(threads, "cores", lambda: 2)  # a container's share
        threads.choose()
        assert torch.get_num_threads() == 2
        threads._crew.wanted = 1
        assert [torch.get_num_threads() for _ in threads.balanced("ab")] == [1, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "version, said, expected",
    [(2, "150000 100000", 2), (2, "max 100000", 64), (2, "20000 100000", 1), (1, "300000", 3), (1, "-1", 64)],
)
def test_cores_are_those_that_a_container_gives(version, said, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(
        {1: "4:cpu,cpuacct:/a/b\n3:memory:/c\n", 2: "0::/a/b\n"}[version]
    )
    group = tmp_path / "sys" / "fs" / "cgroup" / {1: "cpu/a", 2: "a"}[version]  # a limit above the own group
    group.mkdir(parents=True)
    if version == 2:
        (group / "cpu.max").write_text(said + "\n")
    else:
        (group / "cpu.cfs_quota_us").write_text(said + "\n")
        (group / "cpu.cfs_period_us").write_text("100000\n")
    assert threads.cores(tmp_path) == expected
    assert threads.cores(tmp_path / "nothing") == 64


def test_idle_time_is_that_of_our_own_cores(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text("cpu 9 9 9 9 9\ncpu0 1 1 1 500 100 7\ncpu1 1 1 1 700 0 7\ncpu2 1 1 1 9000 0 7\nintr 5\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    assert threads.idle_time(str(stat)) == 13.0
    assert threads.idle_time(str(tmp_path / "none")) is None


@pytest.mark.parametrize(("said", "words"), [
    ("model name\t: An  Xeon(R) CPU\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16\n", "An Xeon CPU with AMX"),
    ("model name\t: EPYC\nflags\t: fpu avx512f avx512_bf16\n\nmodel name\t: EPYC\nflags\t: avx2\n", "EPYC with AVX2"),
    ("model name\t: Old\nflags\t: fpu\n", "Old"),
    ("processor\t: 0\nBogoMIPS\t: 50\nFeatures\t: fp asimd\n", None),
    (None, None),
])  # fmt: skip
def test_a_processor_is_named_with_what_it_can(tmp_path, monkeypatch, said, words):
    """Where the system says nothing of it, as Python names it."""
    file = tmp_path / "cpuinfo"
    if said is not None:
        file.write_text(said)
    expected = words or platform.processor() or platform.machine()
    for count, words in ((1, "1 core"), (2, "2 cores")):
        monkeypatch.setattr(threads, "cores", lambda count=count: count)
        assert device.describe(torch.device("cpu"), file) == f"{words} of {expected}"
    assert device.describe(torch.device("meta"), file) == "meta"


def test_a_stream_of_two_outlives_the_file_that_it_wrote_to(tmp_path, capsys):
    with files.printed_to(tmp_path / "log.txt", "title") as keep:
        print("before")
        keep()
        print("inside")
        held = sys.stdout
    print("behind", file=held)
    held.flush()
    held.close()  # which flushes, as Python does to what it collects; 3.13 shows the error of one that fails
    assert (tmp_path / "log.txt").read_text().splitlines()[2:] == ["before", "inside"]
    assert capsys.readouterr().out.splitlines() == ["before", "inside", "behind"]
    both = files.Both(io.StringIO(), io.StringIO())
    both.streams[1].close()
    both.close()
