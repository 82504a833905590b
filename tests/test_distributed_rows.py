"""Trainings by two processes, with all that a row brings along: its losses' parameters, its memories, its hook.

Whatever learns or remembers ends alike on both, also where their arithmetic does not agree to the last bit, which two
processes of this machine cannot show by themselves: the second one's is made to differ.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # this file is a script too, without conftest.py

import checkpoints  # noqa: E402
import datasets  # noqa: E402
import epochs  # noqa: E402
import losses  # noqa: E402
import main  # noqa: E402
import rerank  # noqa: E402
import tester  # noqa: E402
import train  # noqa: E402
import training  # noqa: E402
from config import Recipe  # noqa: E402
from machine import processes  # noqa: E402
from networks import backbones  # noqa: E402
from papers import cluster_contrast  # noqa: E402
from recipes import RECIPES  # noqa: E402
from run import Run  # noqa: E402

SIZE, P, K, STEPS = (96, 32), 4, 3, 2
VIT = {"backbone": "vit_xsmall_patch16_clip_224"}
TEXT = {"text_width": 64, "text_depth": 1}
SMALL: dict[str, dict] = {  # what a row needs beside a thin trunk and few steps
    "clip_reid": VIT | {"options": TEXT | {"projection_dim": 48}},
    "clip_reid_sie_olp": VIT | {"options": TEXT | {"projection_dim": 48}},
    "clip_reid_rn50": {"options": TEXT | {"attention_dim": 64}},
    "cal": {"options": {"clothes_from": 1}},
    "cal_video": {"options": {"clothes_from": 1}},
    "cluster_contrast": {"options": {"cluster_k1": 6, "cluster_min": 3, "cluster_eps": 0.4}},
}
WEARERS = (0, 0, 1, 1, 2, 2, 3, 3)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the processes")


class Thin(ResNet):
    """ResNet-18 in names and strides, with one block of an eighth of the channels in a stage."""

    def __init__(self):
        super().__init__(BasicBlock, [1, 1, 1, 1])

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        return super()._make_layer(block, planes // 8, 1, stride)


def thin() -> nn.Module:
    return nn.Sequential(OrderedDict(itertools.takewhile(lambda child: child[0] != "avgpool", Thin().named_children())))


@functools.cache
def kinds() -> dict[tuple, list[str]]:
    """Rows with a hook, or a criterion with parameters or buffers, by the classes of hook and losses; of each kind
    those whose trunk is thin here come first."""
    found: dict[tuple, list[str]] = {}
    for name, row in RECIPES.items():
        with torch.device("meta"):
            every = [row.of_stage(i).losses(4, WEARERS) for i in range(len(row.plan()))]
        if row.hook or any([*each.parameters(), *each.buffers()] for each in every):
            kind = row.hook, *(type(module) for each in every for module in each.modules())
            found.setdefault(kind, []).append(name)
    return {kind: sorted(rows, key=lambda name: "backbone" in SMALL.get(name, {})) for kind, rows in found.items()}


def row_of(name: str) -> Recipe:
    """The row at the size of a test: two epochs, or one of each stage, of two steps."""
    row, own = RECIPES[name], dict(SMALL.get(name, {}))
    own["options"] = row.options | own.get("options", {})
    batches = {"p": P, "k": K, "steps": STEPS}
    small = {"backbone": "thin", "pretrained": "none", "image_size": SIZE, "pad": 2, "epochs": 2, **batches}
    changed = {"batch_size": P * K, "steps": STEPS}
    stages = tuple(s._replace(epochs=1, changes=s.changes and dict(s.changes) | changed) for s in row.stages)
    return row.with_(
        **small | {"warmup_epochs": 0, "warmup_iterations": 0, "fixbase_iterations": 0, "stages": stages} | own
    )


def people(folder: Path) -> datasets.TrainingSet:
    """Eight people in two sets of clothes before two cameras, two images of each."""
    samples = []
    for pid, worn, camera, n in itertools.product(range(8), (1, 2), (0, 1), range(2)):
        path, rng = folder / f"{pid}_{worn}_{camera}_{n}.png", np.random.default_rng([pid, worn, camera, n])
        if not path.exists():
            image = rng.integers(0, 60, (*SIZE, 3))
            image[:48] += np.random.default_rng([pid, worn]).integers(0, 190, 3)
            image[48:] += np.random.default_rng(pid).integers(0, 190, 3)
            Image.fromarray(image.astype(np.uint8)).save(path)
        samples.append(datasets.Sample(str(path), pid, camera, worn))
    return datasets.combine([datasets.Splits("toy", tuple(samples), (), ())])


def otherwise(answer: epochs.Answer | None) -> epochs.Answer | None:
    """The answer with its labels at other samples."""
    return answer and answer._replace(labels=None if answer.labels is None else answer.labels.roll(1))


def trained(row: Recipe, data: datasets.TrainingSet, folder: Path) -> dict[str, torch.Tensor]:
    """Everything that a training leaves, made as ``main`` makes it: parameters and buffers of network and criteria, the
    labels that were drawn by, and under "began" what the criteria's parameters were."""
    args = SimpleNamespace(
        cache="ram", cache_path=None, workers=1, skip_bad_images=False, seed=0, accumulate=1, grad_checkpoint=False
    )
    device = torch.device("cpu")
    run, rank = Run(device, "none", False, folder), processes.rank()
    folder.mkdir(parents=True, exist_ok=True)
    loader = training.data(args, row, run, data)
    torch.manual_seed(rank)  # what the main process has drawn counts
    model = row.model(data.num_pids, **{"num_cameras": 2} if row.uses_cameras else {})
    criterion = row.losses(data.num_pids, data.wearers)
    phases = training.phases_of(args, data, epochs.Phase(row, criterion, loader), run)
    criteria = nn.ModuleList({id(c): c for c in (criterion, *(phase.criterion for phase in phases))}.values())
    tested = tester.Tester(row, {}, tester.Options(progress=False), device=device, group=processes.group())

    def features(*given):
        found = tested.of_training(*given)
        return found * (1 + 1e-3 * rank * torch.randn(found.shape, generator=torch.Generator().manual_seed(0)))

    for parameter in criteria.parameters():
        parameter.register_hook(lambda gradient: gradient * (1 + 0.1 * rank))
    for module in criteria.modules():
        if isinstance(module, losses.DynamicBalance):
            module.id_loss.register_forward_hook(lambda _, given, loss: loss * (1 + 0.1 * rank))
    hook = row.before_epochs()
    if hook is not None and rank:
        begin = hook.begin_epoch
        hook.begin_epoch = lambda moment: otherwise(begin(moment))
    began = {name: value.clone() for name, value in processes.from_main(dict(criteria.named_parameters())).items()}
    how = train.Conditions(between=epochs.Between(hook, features, phases))
    where = checkpoints.Folder(folder, {"recipe": row.name})
    train.fit(model, criterion, loader, row, where, lambda *_: {}, how, lambda text: None)
    labels = {str(i): each.labels for i, each in enumerate([phase.loader for phase in phases] or [loader])}
    parts = {"model": model.state_dict(), "criteria": criteria.state_dict(), "labels": labels, "began": began}
    return {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}


# ---------------------------------------------------------------------------------------------------------------------
# From the command line: clusters before each epoch
# ---------------------------------------------------------------------------------------------------------------------

WORDS = (
    "--mode train --recipe cluster_contrast --backbone thin --pretrained none --image_size 64 32 --pad 2 --p 4 --k 3 "
    "--steps 4 --epochs 2 --warmup_epochs 0 --amp none --device cpu --num_queries 0 --workers 1 --cluster_k1 6 "
    "--cluster_eps 0.4 --cluster_min 3 --eval_every 0"
)


def command(data: Path, output: Path, *more) -> list[str]:
    return [*WORDS.split(), "--market_path", str(data), "--output_path", str(output), *map(str, more)]


def write_down(folder: Path) -> None:
    """From now on keep what the hook of each process has seen and answered before each epoch."""
    begin = cluster_contrast.Clusters.begin_epoch

    def noted(self, moment):
        answer = begin(self, moment)
        found = {"features": answer.features, "labels": answer.labels}
        torch.save(found, folder / f"epoch{moment.epoch}.{processes.rank()}.pt")
        return answer

    cluster_contrast.Clusters.begin_epoch = noted


def fails(how: str) -> None:
    """From now on the second process fails in its second hook: "killed" between its features and their distances, or
    "alone", finding too few clusters where the first finds enough."""
    distances, calls = rerank.jaccard_neighbours, []

    def dies(*args, **options):
        calls.append(1)
        if len(calls) == 2 and how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        near = distances(*args, **options)
        if len(calls) == 2:
            return rerank.Sparse(torch.arange(len(near.start)), torch.arange(len(near.start) - 1), near.value * 0)
        return near

    if os.environ["RANK"] == "1":
        rerank.jaccard_neighbours = dies


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    from synthetic import pictures

    root = tmp_path_factory.mktemp("data") / "synthetic"
    return pictures.make(root, num_train_pids=10, num_test_pids=4, num_cameras=3, num_distractors=2, progress=False)


@pytest.fixture(scope="module")
def left(data, tmp_path_factory, long) -> SimpleNamespace:
    """What two processes leave that train a row of each kind, or every row: <row>.<rank>.pt; killed/, a run that one of
    them is killed in, and whole/, one that is not, with epoch<n>.<rank>.pt of its hooks; alone/, one in which they
    disagree; what they said, <run>.<rank>.txt, and the codes that they ended with."""
    folder = tmp_path_factory.mktemp("left")
    rows = [name for names in kinds().values() for name in (names if long else names[:1])]
    words = [sys.executable, __file__, str(folder), str(data), *rows]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, start_new_session=True)
    try:
        _, errors = process.communicate(timeout=1800 if long else 300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors.decode()
    codes = json.loads((folder / "codes.json").read_text())
    return SimpleNamespace(folder=folder, rows=rows, codes=codes)


def of_both(path: Path) -> list[dict]:
    """What both processes left under `path`, which has their rank at *."""
    return [torch.load(str(path).replace("*", str(rank)), weights_only=True) for rank in (0, 1)]


def test_every_parameter_and_buffer_of_every_kind_of_row_ends_alike_on_both_processes(left):
    assert {"bot", "cal", "mgn", "pyramid", "cluster_contrast", "clip_reid_rn50"} <= {*left.rows}
    for name in left.rows:
        first, second = of_both(left.folder / f"{name}.*.pt")
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == [], name
        for key in first:
            if key.startswith("began."):
                assert not torch.equal(first[key], first[key.replace("began", "criteria")]), f"{name}: {key} has learnt"


def test_both_processes_cluster_alike_and_as_one_does(data, left, tmp_path, monkeypatch):
    hook = row_of("cluster_contrast").before_epochs()
    for epoch in (0, 1):
        first, second = of_both(left.folder / f"epoch{epoch}.*.pt")
        assert all(torch.equal(first[key], second[key]) for key in first)
        seen = functools.partial(first.get, "features")
        moment = epochs.Moment(epoch, 0, False, 0, torch.empty(0), torch.empty(0), seen, nn.Identity(), ())
        assert torch.equal(hook.begin_epoch(moment).labels, first["labels"]) and int(first["labels"].max()) > 2
    monkeypatch.setitem(backbones.HERE, "thin", (thin, None, None))
    assert main.main(command(data, tmp_path, "--epochs", 1)) == 0
    alone = torch.load(tmp_path / "last.pt", weights_only=True)["loader"]["labels"]
    assert torch.equal(alone, of_both(left.folder / "epoch0.*.pt")[0]["labels"])


def test_a_process_killed_in_its_hook_ends_the_other_and_the_run_goes_on(left):
    assert left.codes["killed"] == [1, -signal.SIGKILL]
    assert "error: another process of this run has ended" in (left.folder / "killed.0.txt").read_text()
    assert (left.folder / "rows.0.txt").read_text().count("Resuming") == 1
    a, b = (torch.load(left.folder / name / "last.pt", weights_only=True) for name in ("whole", "killed"))
    for part in ("model", "criterion"):
        assert a[part].keys() == b[part].keys() and all(torch.equal(a[part][key], b[part][key]) for key in a[part])
    assert torch.equal(a["loader"]["labels"], b["loader"]["labels"]) and a["epoch"] == b["epoch"] == 2


def test_a_process_that_alone_finds_too_few_clusters_ends_the_other(left):
    assert left.codes["alone"] == [1, 1]
    first, second = ((left.folder / f"alone.{rank}.txt").read_text() for rank in (0, 1))
    assert "error: another process of this run has ended" in first
    assert "[process 1] error: epoch 2: " in second and "0 cluster(s)" in second


# ---------------------------------------------------------------------------------------------------------------------
# The two processes
# ---------------------------------------------------------------------------------------------------------------------


def started(folder: Path, what: str, *given) -> list[int]:
    """How two processes end that are here as torchrun would have them: with its variables, but without seconds of
    imports, and nobody else ends one because of the other."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    children = []
    for rank in (0, 1):
        pid = os.fork()
        if not pid:
            code = 70
            try:
                both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
                os.environ.update(both, RANK=str(rank), LOCAL_RANK=str(rank))
                said = os.open(folder / f"{what}.{rank}.txt", os.O_WRONLY | os.O_CREAT)
                os.dup2(said, 1)
                os.dup2(said, 2)
                code = in_process(folder, what, *given)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def in_process(folder: Path, what: str, data: Path, *rows: str) -> int:
    """What each of them does."""
    backbones.HERE["thin"] = thin, None, None
    if what != "rows":
        fails(what)
        return main.main(command(data, folder / what))
    with processes.joined("cpu"):
        with processes.main_first():
            toys = people(folder)
        for name in rows:
            torch.save(trained(row_of(name), toys, folder / name), folder / f"{name}.{processes.rank()}.pt")
        processes.joined = contextlib.nullcontext  # they are
        code = main.main(command(data, folder / "killed"))
        write_down(folder)
        return code or main.main(command(data, folder / "whole"))


if __name__ == "__main__":
    output, pictures, *names = sys.argv[1:]
    ends = {what: started(Path(output), what, Path(pictures), *names) for what in ("killed", "rows", "alone")}
    Path(output, "codes.json").write_text(json.dumps(ends))
    sys.exit(max(ends["rows"]) and "".join(Path(output, f"rows.{rank}.txt").read_text() for rank in (0, 1)))
