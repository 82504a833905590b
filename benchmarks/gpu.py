"""Everything that only a GPU can tell, in one command: is it right, how fast is it, does it train. From the root:

    python benchmarks/gpu.py                              about 25 minutes on one H100 or H200, in three parts
    python benchmarks/gpu.py correct                      one part (correct, speed, train)
    python benchmarks/gpu.py train --market_path DIR --pretrained FILE --minutes 8     goes on where it was stopped
    python benchmarks/gpu.py --small --device cpu         the same on little tensors: minutes on any machine

Nothing is downloaded. What is measured stands in <output>/gpu.json as soon as it is known; a second start measures only
what is missing there. The rows for benchmarks/results.csv are in <output>/results.csv.

    correct   CUDA beside the CPU in float64: every loss with its gradients, networks, every protocol of the evaluator,
              re-ranking; a run that was killed and resumed beside one that was not, to the bit (--deterministic); bf16,
              fp16 with its scaler, channels-last, --compile; memory that does not suffice
    speed     training, extraction, evaluation, re-ranking, each beside the limit that was measured in the same minute
    train     benchmarks/reproduce.py; without --market_path the demonstration recipe on the built-in set
"""

from __future__ import annotations

import argparse
import copy
import csv
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import startup  # noqa: F401

ROOT, HERE = Path(__file__).resolve().parents[1], Path(__file__).resolve().parent
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch  # noqa: E402

import evaluate  # noqa: E402
import main as suite  # noqa: E402
import models  # noqa: E402
import options  # noqa: E402
import rerank  # noqa: E402
import train  # noqa: E402
from loading.views import Views  # noqa: E402
from machine import graphs, processes  # noqa: E402
from machine.device import describe, pick_amp, pick_device  # noqa: E402
from machine.version import commit  # noqa: E402
from recipes import RECIPES  # noqa: E402
from run import tune  # noqa: E402
from synthetic import pictures  # noqa: E402


def beside(name: str):
    """A script of this folder, under a name that is not a module's of the suite."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"bench_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CPU = torch.device("cpu")
FAMILIES = ("bot", "pyramid", "agw", "osnet_x1_0", "hacnn", "mobilenetv2_x1_0")
RIGHT: dict[str, tuple[Callable, float]] = {}  # check -> (function that answers with a difference, its bound)
SPEEDS: dict[str, Callable] = {}


def right(name: str, bound: float):
    """A check: `function(args)` answers with the largest difference, which may not be above `bound`."""
    return lambda function: RIGHT.setdefault(name, (function, bound))[0]


def speed(name: str):
    """A measurement: `function(args)` answers with (value, yardstick) as texts."""
    return lambda function: SPEEDS.setdefault(name, function)


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """||found - expected|| / ||expected||, both as float64 on the CPU; NaN is infinitely far."""
    found, expected = found.detach().to(CPU, torch.float64), expected.detach().to(CPU, torch.float64)
    difference = float((found - expected).norm() / expected.norm().clamp(min=1e-30))
    return difference if difference == difference else float("inf")


# ---------------------------------------------------------------------------------------------------------------------
# Is it right?
# ---------------------------------------------------------------------------------------------------------------------


def shapes_of(recipe, num_pids: int, images: int) -> models.Output:
    """An Output of the recipe's network on the meta device, where nothing is computed."""
    with torch.device("meta"):
        model = recipe.model(num_pids, num_cameras=7).train()
        lights = torch.arange(images, device=CPU) % 2 == 0 if recipe.infrared else None
        views = Views(torch.empty(images, dtype=torch.int64), lights)
        return model(torch.empty(images, 3, *recipe.image_size), views)


@right("losses and their gradients, every recipe", 1e-4)
def losses(args) -> float:
    """float32 on the device beside float64 on the CPU."""
    worst = 0.0
    asked = [name for name, recipe in RECIPES.items() if recipe.hook is None]  # other losses read what a hook gives
    names = asked[:: 24 if args.small else 1]
    for name in names:
        recipe = RECIPES[name]
        shapes = shapes_of(recipe, 8, 16)
        generator = torch.Generator().manual_seed(len(name))
        # not longer: float32 has no digits left for tanh(d / 2), AlignedReID's distance, of far parts
        values = [0.1 * torch.randn(s.shape, generator=generator) for s in processes.fields(shapes)]
        labels = torch.arange(16) // 2
        torch.manual_seed(0)
        criterion = recipe.losses(8)
        answers = []
        for device, dtype in ((args.device, torch.float32), (CPU, torch.float64)):
            leaves = [value.to(device, dtype).requires_grad_() for value in values]
            output, who = processes.with_fields(shapes, leaves), labels.to(device)
            terms = copy.deepcopy(criterion).to(device, dtype)(output, who, Views(who, clothes=who))
            total = sum(terms.values())
            gradients = torch.autograd.grad(total, leaves, allow_unused=True)
            answers.append([total, *(g for g in gradients if g is not None)])
        differences = [apart(found, expected) for found, expected in zip(*answers, strict=True)]
        worst = max(worst, *differences)
        if max(differences) > 1e-4:
            print(f"    {name}: {max(differences):.1e}", flush=True)
    return worst


@right("networks in float32", 1e-4)
def networks(args) -> float:
    """The embedding of a batch in eval mode, TF32 off; families of networks."""
    worst = 0.0
    names = ("osnet_x0_25",) if args.small else (
        *FAMILIES, "bot_ibn", "pcb", "aligned", "sbs", "mgn", "osnet_ain_x1_0", "transreid",
    )  # fmt: skip
    for name in names:
        recipe = RECIPES[name].with_(pretrained="none")
        torch.manual_seed(0)
        model = recipe.model(0, num_cameras=3 if recipe.uses_cameras else 0).eval()
        images, views = torch.randn(4, 3, *recipe.image_size), Views(torch.tensor([0, 1, 2, 1]))
        with torch.inference_mode():
            expected = model(images, views).embedding
            moved = copy.deepcopy(model).to(args.device, memory_format=torch.channels_last)
            found = moved(
                images.to(args.device).contiguous(memory_format=torch.channels_last),
                views.each(functools.partial(torch.Tensor.to, device=args.device)),
            ).embedding
        difference = apart(found, expected)
        worst = max(worst, difference)
        if difference > 1e-4:
            print(f"    {name}: {difference:.1e}", flush=True)
    return worst


def clusters(num_query: int, num_gallery: int, dim: int):
    """(query, gallery, pids and camids of both) with an mAP of about 0.7."""
    return beside("rerank").features(num_query, num_gallery, dim, "cpu")


@right("evaluation, every protocol and metric", 1e-6)
def evaluation(args) -> float:
    """mAP, mINP and CMC."""
    query, gallery, *labels = clusters(60 if args.small else 600, 400 if args.small else 4_000, 128)
    worst = 0.0
    for protocol in ("market1501", "cuhk03", "sysu", "none"):
        for metric in ("euclidean", "cosine"):
            answers = []
            for device in (args.device, CPU):
                q, g = query.to(device), gallery.to(device)
                found = evaluate.evaluate_features(q, g, *labels, metric=metric, protocol=protocol)
                answers.append((found.mAP, found.mINP, *found.cmc.tolist()))
            worst = max(worst, *(abs(float(a) - float(b)) for a, b in zip(*answers, strict=True)))
    return worst


@right("re-ranking, from features and from distances", 1e-5)
def reranking(args) -> float:
    """Largest difference of the final distances."""
    query, gallery, *_ = clusters(50 if args.small else 500, 400 if args.small else 5_000, 256)
    expected = rerank.k_reciprocal(query, gallery)
    q, g = query.to(args.device), gallery.to(args.device)
    found = rerank.k_reciprocal(q, g)
    distances = [evaluate.pairwise_distance(a, b) for a, b in ((q, g), (q, q), (g, g))]
    other = rerank.k_reciprocal_from_distances(*distances)
    return max(float((each.cpu() - expected).abs().max()) for each in (found, other))


@right("batches prepared beside a busy device, every pixel", 1e-5)
def prepared(args) -> float:
    """Batches of an epoch, read only behind other work that was begun before they were asked for, beside the CPU's."""
    bench, worst = beside("train"), 0.0
    bench.NUM_IMAGES, bench.NUM_PIDS = (64, 8) if args.small else (2_048, 128)
    size, times = (64, 1) if args.small else (8_192, 4)
    busy = torch.randn(size, size, device=args.device)
    with tempfile.TemporaryDirectory() as folder:
        samples = bench.stand_in(Path(folder))
        store_of = bench.stores(samples)
        for name in ("bot", "mobilenetv2_x1_0"):  # pad, crop, erase; enlarge, crop
            small = {"p": 4, "k": 2} if args.small else {}
            bench.CASES[name] = (name, {"pretrained": "none", "backbone": "mobilenet_v2"} | small)
            batches = []
            for device in (args.device, CPU):
                case = bench.Case(name, bench.arguments(["--device", str(device)]), samples, store_of)
                batches.append([])
                for images, labels, views in case.loader.epoch(1):
                    for _ in range(times if device.type == "cuda" else 0):
                        busy = torch.nn.functional.normalize(busy @ busy)
                    batches[-1].append([each.clone() for each in (images, labels, views.camera)])
            worst = max(worst, *(apart(a, b) for x, y in zip(*batches, strict=True) for a, b in zip(x, y, strict=True)))
    return worst


def run_main(args, folder: Path, *words: str, stop_after: float = 0.0) -> subprocess.CompletedProcess:
    """``main.py`` in a process of its own, on the built-in set; stopped once its first epoch is over if asked for."""
    command = [sys.executable, "main.py", "--device", str(args.device), "--output_path", str(folder), "--num_queries",
               "0", *words]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if stop_after and line.startswith("epoch"):
            process.terminate()
            stop_after = 0.0
    process.wait()
    return subprocess.CompletedProcess(command, process.returncode, "".join(lines))


@right("a run stopped and resumed beside one that was not, to the bit", 0.0)
def resumed(args) -> float:
    """Number of tensors of model.pt that differ."""
    words = ["--recipe", "demo", "--deterministic", "--epochs", "2", "--steps", "2" if args.small else "20"]
    words += ["--image_size", "64", "32"] if args.small else []
    with tempfile.TemporaryDirectory() as place:
        if args.small:
            few = {"num_train_pids": 12, "num_test_pids": 10, "num_cameras": 3, "num_distractors": 4, "num_junk": 4}
            data = pictures.make(Path(place) / "few", **few, progress=False)
            words += ["--p", "4", "--k", "2", "--market_path", str(data)]
        whole, parts = Path(place) / "whole", Path(place) / "parts"
        ended = [run_main(args, whole, *words), run_main(args, parts, *words, stop_after=1)]
        ended.append(run_main(args, parts, *words))
        if ended[0].returncode or ended[2].returncode or ended[1].returncode not in (0, 130):
            print("".join(f"    {line}\n" for e in ended for line in e.stdout.splitlines()[-4:]), flush=True)
            return float("inf")
        states = [torch.load(each / "model.pt", weights_only=True)["model"] for each in (whole, parts)]
    return float(sum(not torch.equal(value, states[1][name]) for name, value in states[0].items()))


class Trial:
    """Some steps of a small network on fixed images."""

    def __init__(self, args, steps: int, **how):
        count, size = (8, (64, 32)) if args.small else (32, (128, 64))
        recipe = RECIPES["bot"].with_(backbone="resnet18", pretrained="none", image_size=size, center_weight=0.0)
        self.device, self.amp = args.device, how.get("amp", "none")
        run = suite.Run(args.device, self.amp, how.get("channels_last", True), Path())
        torch.manual_seed(0)
        self.model = run.place(recipe.model(8)).train()
        criterion = recipe.losses(8).to(args.device)
        optimizers = train.build_optimizers(self.model, criterion, recipe.with_(lr=1e-3))
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(count, 3, *size, generator=generator).to(args.device)
        labels = (torch.arange(count) // 4).to(args.device)
        conditions = train.Conditions(
            autocast=run.autocast, scaler=torch.amp.GradScaler(args.device.type, enabled=self.amp == "fp16")
        )
        forward = suite.compiled(self.model, args.device) if how.get("compile") else self.model
        forward = graphs.Replayed(self.model) if how.get("replayed") else forward
        batches = [(images, labels, Views(torch.zeros(count, dtype=torch.int64, device=args.device)))]
        self.losses = [
            train.train_one_epoch(forward, criterion, iter(batches), optimizers, train.Span(i, 1), conditions)["loss"]
            for i in range(steps)
        ]


@right("bf16 and fp16 with its scaler learn what float32 learns", 0.1)
def precision(args) -> float:
    """Difference of the loss after some steps, over how far it fell."""
    steps = 8 if args.small else 30
    kinds = ("bf16",) if args.device.type == "cpu" else ("bf16", "fp16")
    full = Trial(args, steps).losses
    others = [Trial(args, steps, amp=kind).losses for kind in kinds]
    return max(abs(each[-1] - full[-1]) / abs(full[0] - full[-1]) for each in others)


@right("channels-last beside NCHW, loss of the first step", 1e-5)
def memory_format(args) -> float:
    first, second = (Trial(args, 1, channels_last=last).losses[0] for last in (True, False))
    return abs(first - second) / abs(second)


@right("--compile beside eager, loss of two steps", 1e-3)
def compiling(args) -> float:
    if args.device.type == "cpu":
        return 0.0  # tests/test_smoke.py compiles on a CPU
    eager, other = (Trial(args, 2, compile=each).losses for each in (False, True))
    return max(abs(a - b) / abs(a) for a, b in zip(eager, other, strict=True))


@right("CUDA graph beside eager, loss of five steps, families of networks", 1e-5)
def replaying(args) -> float:
    """Largest difference of the loss over the first loss. In float64 and at a small rate: what float32 rounds, Adam and
    hard mining make a tenth of the loss in five steps of 1e-4, by any two ways to compute it (one and two CPU threads
    1e-3 to 1e-1; in float64 at 1e-6 3e-7 at most)."""
    worst = 0.0
    for name in ("mobilenetv2_x1_0",) if args.small else (*FAMILIES, "pcb", "mgn", "aligned_pp"):
        trials = [Steps(args, name, replayed) for replayed in (False, True)]
        difference = max(abs(a - b) for a, b in zip(*(t.losses for t in trials), strict=True)) / trials[0].losses[0]
        if difference > 1e-5:
            print(f"    {name}: {trials[0].losses} {trials[1].losses}", flush=True)
        worst = max(worst, difference)
    return worst


class Steps:
    """Five steps of a recipe on eight fixed images of a quarter of its size, in float64."""

    def __init__(self, args, name: str, replayed: bool):
        recipe = RECIPES[name].with_(pretrained="none")
        size = (64, 32) if args.small else tuple(side // 2 for side in recipe.image_size)
        run = suite.Run(args.device, "none", True, Path())
        torch.manual_seed(0)
        model = run.place(recipe.with_(image_size=size).model(4)).double().train()
        criterion = recipe.losses(4).to(args.device, torch.float64)
        optimizers = train.build_optimizers(model, criterion, recipe.with_(lr=1e-6))
        images = torch.randn(8, 3, *size, generator=torch.Generator().manual_seed(1)).to(args.device, torch.float64)
        labels = (torch.arange(8) // 2).to(args.device)
        batch = (images, labels, Views(torch.zeros(8, dtype=torch.int64, device=args.device)))
        forward = graphs.Replayed(model, functools.partial(print, f"    {name}:", flush=True)) if replayed else model
        self.losses = [
            train.train_one_epoch(forward, criterion, iter([batch]), optimizers, train.Span(i, 1))["loss"]
            for i in range(5)
        ]


@right("a batch that does not fit ends in one message", 0.0)
def out_of_memory(args) -> float:
    """1 if there was a traceback, or no word on what to make smaller."""
    if args.device.type == "cpu":
        return 0.0  # a CPU's memory is the machine's: tests/test_faults.py
    words = ["--recipe", "bot", "--pretrained", "none", "--p", "150", "--k", "11", "--image_size", "1024", "512",
             "--epochs", "1", "--steps", "1"]  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        ended = run_main(args, Path(place) / "run", *words)
    good = ended.returncode == 1 and "Traceback" not in ended.stdout and "--image_size" in ended.stdout
    if not good:
        print("".join(f"    {line}\n" for line in ended.stdout.splitlines()[-6:]))
    return 0.0 if good else 1.0


# ---------------------------------------------------------------------------------------------------------------------
# How fast is it?
# ---------------------------------------------------------------------------------------------------------------------


def seconds(work: Callable, device: torch.device, repeat: int = 3) -> float:
    """Of the fastest of some calls, after one that is not counted."""
    found = []
    for _ in range(repeat + 1):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        found.append(time.perf_counter() - start)
    return min(found[1:])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_rate(device: torch.device, size: int) -> float:
    """Bytes read and written per second by a copy of `size` bytes."""
    x = torch.empty(size, dtype=torch.uint8, device=device).random_()
    y = torch.empty_like(x)
    return 2 * size / seconds(lambda: y.copy_(x), device)


@functools.cache
def product_rate(device: torch.device, size: int, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product on random values."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device)


@speed("limits: copy, products")
def limits(args) -> tuple[str, str]:
    size = 512 if args.small else 8_192
    copied = copy_rate(args.device, 2**24 if args.small else 2**33)
    half, full = (product_rate(args.device, size, each) for each in (torch.bfloat16, torch.float32))
    return (
        f"copy {copied / 1e12:.2f} TB/s, bf16 product {half / 1e12:.0f}, float32 product {full / 1e12:.1f} TFLOP/s",
        "bytes read and written; two operations per multiplication; random values",
    )


def training(args, name: str, more: tuple[str, ...] = ()) -> tuple[str, str]:
    """images/s of the loop, beside the bare network on one ready batch, in turns."""
    bench = beside("train")
    of = bench.arguments(["--device", str(args.device), "--rounds", "1" if args.small else "5", *more])
    bench.NUM_IMAGES, bench.NUM_PIDS = (64, 8) if args.small else (2_048, 128)  # an epoch; decoded anew for each
    if args.small:
        of.compile, of.amp = False, "auto"
        little = {"pretrained": "none", "image_size": (64, 32), "p": 4, "k": 2}
        bench.CASES[name] = (name, little | ({"backbone": "resnet18"} if name == "bot" else {}))
    with tempfile.TemporaryDirectory() as folder:
        samples = bench.stand_in(Path(folder))
        case = bench.Case(name, of, samples, bench.stores(samples))
        for work in (case.bare, case.end_to_end):
            work(1 if args.small else 10)
        steps = 1 if args.small else max(5, round(0.5 / (case.bare(10) / 10)))
        turns = [(case.bare(steps), case.end_to_end(steps)) for _ in range(of.rounds)]
    bare, whole = (sorted(each)[len(turns) // 2] for each in zip(*turns, strict=True))
    rate = steps * case.batch / whole
    return (
        f"{rate:,.0f} images/s, peak {bench.peak(args.device)}",
        f"bare network {steps * case.batch / bare:,.0f} images/s (end to end {100 * bare / whole:.1f} %)",
    )


for _name, _row, _more in (
    ("training, BoT ResNet-50, 256x128, 16 x 4, bf16", "bot", ("--cuda_graphs",)),
    ("training, BoT, --cuda_graphs no", "bot", ()),
    ("training, BoT, fp16", "bot", ("--cuda_graphs", "--amp", "fp16")),
    ("training, OSNet x1.0, 256x128, 64, bf16", "osnet_x1_0", ("--cuda_graphs",)),
    ("training, MobileNetV2, 256x128, 32, bf16", "mobilenetv2_x1_0", ("--cuda_graphs",)),
):
    SPEEDS[_name] = functools.partial(training, name=_row, more=_more)


@speed("extraction, ResNet-50, 256x128, float32 and bf16")
def extraction(args) -> tuple[str, str]:
    """Of ready batches on the device."""
    recipe = RECIPES["osnet_x0_25" if args.small else "bot"].with_(pretrained="none")
    model = suite.Run(args.device, "none", True, Path()).place(recipe.model(0)).eval()
    size, count = (64, 32) if args.small else recipe.image_size, 4 if args.small else 512
    images = torch.randn(count, 3, *size, device=args.device).contiguous(memory_format=torch.channels_last)

    def work(autocast):
        with torch.inference_mode(), torch.autocast(args.device.type, torch.bfloat16, enabled=autocast):
            model(images)

    plain, half = (seconds(functools.partial(work, each), args.device) for each in (False, True))
    operations = 2 * 2 * 4.05e9 * count  # last stride 1: about 4.05 G multiplications per image
    limit = operations / 2 / product_rate(args.device, 512 if args.small else 8_192, torch.float32)
    return f"{count / plain:,.0f} images/s; bf16 {count / half:,.0f}", f"float32 product alone {count / limit:,.0f}"


def timed_evaluation(args, num_query: int, num_gallery: int, dim: int, reranked: bool) -> tuple[str, str]:
    """From features to metrics, beside the matrix product that all distances need (half of it where re-ranked)."""
    if args.small:
        num_query, num_gallery, dim = num_query // 50, num_gallery // 500, 64
    bench = beside("rerank")
    query, gallery, *labels = bench.features(num_query, num_gallery, dim, args.device)
    rule = {"k1": 20, "k2": 6, "lambda_value": 0.3} if reranked else None
    if args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if args.device.type == "cuda" else 0
    took = seconds(lambda: evaluate.evaluate_features(query, gallery, *labels, rerank=rule), args.device, repeat=2)
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30 if args.device.type == "cuda" else float("nan")
    x = torch.cat([query, gallery])

    def product():
        if reranked:
            bench.half_product(x)
        else:
            for start in range(0, len(query), 2_048):
                query[start : start + 2_048] @ gallery.T

    return (
        f"{took:.3f} s, peak {peak:.2f} GiB over the features",
        f"products alone {seconds(product, args.device, 2):.3f} s",
    )


for _name, _sizes, _reranked in (
    ("metrics, Market-1501 size (3,368 x 15,913), 2048-d", (3_368, 15_913, 2_048), False),
    ("re-ranking and metrics, Market-1501 size, 2048-d", (3_368, 15_913, 2_048), True),
    ("metrics, Market-1501 + 500,000, 512-d", (3_368, 515_913, 512), False),
    ("re-ranking and metrics, MSMT17 size (11,659 + 82,161), 2048-d", (11_659, 82_161, 2_048), True),
):
    SPEEDS[_name] = functools.partial(
        timed_evaluation, num_query=_sizes[0], num_gallery=_sizes[1], dim=_sizes[2], reranked=_reranked
    )


SPEEDS["training, BoT, --compile"] = functools.partial(training, name="bot", more=("--compile",))


# ---------------------------------------------------------------------------------------------------------------------
# The parts
# ---------------------------------------------------------------------------------------------------------------------


class Book:
    """What is known so far, in <output>/gpu.json."""

    def __init__(self, folder: Path, of: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "gpu.json"
        self.known = json.loads(self.path.read_text()) if self.path.is_file() else {}
        if self.known.get("of", of) != of:
            sys.exit(f"error: {self.path} is of {self.known['of']}, this is {of}: give another --output")
        self.known["of"] = of

    def keep(self, part: str, name: str, value) -> None:
        self.known.setdefault(part, {})[name] = value
        self.path.write_text(json.dumps(self.known, indent=1))

    def has(self, part: str, name: str) -> bool:
        return name in self.known.get(part, {})


def wanted(args, name: str) -> bool:
    """Whether a line is asked for."""
    return not args.only or any(text in name for text in args.only)


def correct(args, book: Book) -> bool:
    """Print a line for each check; whether all hold."""
    print("correct: CUDA beside the CPU, largest difference and its bound")
    for name, (function, bound) in RIGHT.items():
        if not wanted(args, name):
            continue
        if not book.has("correct", name):
            start = time.perf_counter()
            try:
                difference = function(args)
            except Exception as error:  # the others are still worth knowing
                print(f"    {type(error).__name__}: {str(error)[:300]}")
                difference = float("inf")
            took = time.perf_counter() - start
            book.keep("correct", name, {"difference": difference, "bound": bound, "seconds": round(took, 1)})
        found = book.known["correct"][name]
        verdict = "right" if found["difference"] <= bound else "WRONG"
        print(
            f"  {verdict}  {name:<64}{found['difference']:9.1e} <= {bound:.0e}  {found['seconds']:6.1f} s", flush=True
        )
    return all(found["difference"] <= found["bound"] for found in book.known["correct"].values())


def speeds(args, book: Book) -> bool:
    print("speed: what was measured, and the limit beside it")
    for name, function in SPEEDS.items():
        if not wanted(args, name):
            continue
        if not book.has("speed", name):
            try:
                book.keep("speed", name, function(args))
            except Exception as error:
                print(f"  FAILED {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
                continue
        value, yardstick = book.known["speed"][name]
        print(f"  {name:<62} {value}; {yardstick}", flush=True)
    return {name for name in SPEEDS if wanted(args, name)} <= set(book.known.get("speed", {}))


def trained(args, book: Book) -> bool:
    """Real data if it is here, else the demonstration."""
    if args.market_path:
        command = [sys.executable, str(HERE / "reproduce.py"), "--market_path", str(args.market_path), "--pretrained",
                   str(args.pretrained), "--output", str(args.output / "reproduce"), "--jobs", str(args.jobs),
                   "--minutes", str(args.minutes), "--commit", args.commit]  # fmt: skip
        return subprocess.run([*command, *(["--only", *args.only] if args.only else [])], cwd=ROOT).returncode == 0
    words = ["--epochs", "1", "--steps", "4", "--image_size", "64", "32"] if args.small else []
    ended = run_main(args, args.output / "demo", "--recipe", "demo", *words)
    print("\n".join(ended.stdout.splitlines()[-12:]))
    return ended.returncode == 0


def rows(args, book: Book) -> None:
    """<output>/results.csv: the speeds, in the columns of benchmarks/results.csv."""
    columns = beside("jobs").COLUMNS
    with open(args.output / "results.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for name, (value, yardstick) in book.known.get("speed", {}).items():
            writer.writerow(dict.fromkeys(columns, "") | {
                "kind": "speed", "what": name, "value": value, "yardstick": yardstick, "git": args.commit,
                "hardware": book.known["of"].split(", commit")[0], "command": "python benchmarks/gpu.py speed",
            })  # fmt: skip


PARTS: dict[str, Callable[..., bool]] = {"correct": correct, "speed": speeds, "train": trained}


def names(part: str) -> list[str]:
    """What the lines of a part are called."""
    reproduce = beside("reproduce")
    return {"correct": list(RIGHT), "speed": list(SPEEDS)}.get(part) or reproduce.names(reproduce.experiments(0))


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("parts", nargs="*", type=options.one_of(PARTS), metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    add("--device", type=options.device, default="cuda")
    add("--small", action="store_true", help="little tensors: whether the script works")
    add("--output", type=options.output, metavar="DIR", default=ROOT / "runs" / "gpu")
    add("--commit", default=commit(), help="of the code, where it is no checkout")
    add("--market_path", type=options.market, metavar="DIR", help="of train")
    add("--pretrained", type=options.weights, metavar="FILE", help="of train: MobileNetV2's ImageNet weights")
    add("--only", nargs="+", default=[], metavar="TEXT", help="lines with one of these in their name")
    add("--jobs", type=options.JOBS, default=4, help="of train: runs side by side")
    add("--minutes", type=options.MINUTES, default=8.0, help="of train: after which it stops")
    args = parser.parse_args(argv)
    if args.market_path and not args.pretrained:
        parser.error("--market_path needs --pretrained too: what the trainings begin with")
    lines = {part: names(part) for part in args.parts or PARTS}
    found = options.chosen(args.only, [name for part in lines.values() for name in part])
    args.parts = [part for part, held in lines.items() if set(held) & set(found)]
    return args


def main(argv=None) -> int:
    args = arguments(argv)
    args.device = pick_device(args.device)
    tune(args.device)
    version = torch.__version__.split("+")[0]
    of = f"{describe(args.device)}, torch {version}, {'small, ' if args.small else ''}commit {args.commit or '?'}"
    print(f"{of}, {pick_amp('auto', args.device)}", flush=True)
    book = Book(args.output, of)
    good = [PARTS[part](args, book) for part in args.parts]
    rows(args, book)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
