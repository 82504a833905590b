"""Training speed: end to end, of the bare network, and where the time goes. Run from the repository root:

    python benchmarks/train.py                                     three networks on this machine, about three minutes
    python benchmarks/train.py --device cuda --recipe bot          BoT ResNet-50, 256x128, 16 x 4 images
    python benchmarks/train.py --recipe osnet_x0_25 --compile      with torch.compile
    python benchmarks/train.py --market_path DIR                   on Market-1501 (else on the built-in images)
    torchrun --nproc_per_node=2 -- benchmarks/train.py --device cpu --threads 1 --sync_bn       several processes

The bare network is the ceiling: forward, mean cross-entropy, backward and optimiser step on one ready batch, under the
same switches. End to end is ``train.train_one_epoch`` with the recipe's loader, augmentation and losses. The two take
turns, and so does every other pair that is compared: on a busy machine only ratios of neighbours mean something. What
is printed is the median over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import startup  # noqa: F401

# isort: split
import torch
import torch.nn.functional as F

import datasets
import loaders
import main as suite
import options
import train
import training
from machine import graphs, processes
from machine.device import describe, pick_amp, pick_device
from recipes import RECIPES
from run import Run, tune

SMALL = {"image_size": (128, 64), "pretrained": "none", "fixbase_epochs": 0}
BOT = {**SMALL, "pad": 5}
CASES = {  # name on the command line -> (recipe, what differs)
    "osnet_x0_25": ("osnet_x0_25", {**SMALL, "batch_size": 64}),
    "resnet18": ("bot", {**BOT, "backbone": "resnet18"}),
    "mobilenet_v3_small": ("bot", {**BOT, "backbone": "mobilenet_v3_small", "last_stride": None}),
    "bot": ("bot", {"pretrained": "none"}),
}
NUM_PIDS, NUM_IMAGES = 751, 12_936  # Market-1501's training set


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    known = list(dict.fromkeys((*CASES, *RECIPES)))
    add(
        "--recipe",
        nargs="+",
        type=options.one_of(known),
        metavar="NAME",
        help=f"of {', '.join(CASES)}, or any recipe (default: by device)",
    )
    add("--device", type=options.device, default="auto")
    add("--threads", type=options.THREADS, default=0, help="0: as many as torch takes")
    add("--amp", choices=("auto", "none", "bf16", "fp16"), default="auto")
    add("--compile", action="store_true")
    add("--cuda_graphs", action="store_true", help="as main.py does on one GPU")
    add("--sync_bn", action="store_true", help="batch normalisation over all processes of torchrun")
    add("--yardstick", action="store_true", help="the bare network in NCHW float32 as well")
    add("--market_path", type=options.market, metavar="DIR")
    add("--steps", type=options.AMOUNT, default=0, help="iterations of a round (default: about 4 seconds)")
    add("--rounds", type=options.COUNT, default=5)
    add(
        "--cpu_time",
        action="store_true",
        help="count this process's processor time: what neighbours on a busy machine cannot disturb (one thread)",
    )
    return parser.parse_args(argv)


# ---------------------------------------------------------------------------------------------------------------------
# What is measured
# ---------------------------------------------------------------------------------------------------------------------


class Case:
    """A recipe's network, criterion, optimisers and loader, with the switches of a run."""

    def __init__(self, name: str, args, samples, store_of):
        row, changes = CASES.get(name, (name, {}))
        self.name, self.recipe = name, RECIPES[row].with_(**changes)
        self.device = pick_device(args.device)
        self.amp = pick_amp(args.amp, self.device)
        self.run = Run(self.device, self.amp, True, Path())
        data = datasets.combine([datasets.Splits("market", tuple(samples), (), ())])
        recipe, self.num_pids = self.recipe, data.num_pids
        self.loader = loaders.TrainLoader(
            data,
            store_of(recipe.image_size, self.device),
            training.batches_of(recipe, data),
            training.augmentation_of(recipe),
            delivery=loaders.Delivery(self.device, True, processes.rank(), processes.world_size()),
        )
        self.batch = self.loader.batch_size
        self.clock = time.process_time if args.cpu_time else time.perf_counter
        self.model, self.criterion, self.optimizers = self.fresh(self.run)
        if args.sync_bn and processes.world_size() > 1:
            processes.synchronised_batch_norm(self.model)
        self.forward = processes.parallel(suite.compiled(self.model, self.device) if args.compile else self.model)
        if args.cuda_graphs:
            self.forward = graphs.Replayed(self.model)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == "fp16")
        self.batches = self.endless()
        self.ready = next(self.batches)

    def endless(self):
        """Epoch after epoch, so that each round pays its share of an epoch's plan."""
        for epoch in itertools.count():
            yield from self.loader.epoch(epoch)

    def fresh(self, run):
        torch.manual_seed(0)
        model = run.place(self.recipe.model(self.num_pids)).train()
        criterion = self.recipe.losses(self.num_pids).to(self.device)
        return model, criterion, train.build_optimizers(model, criterion, self.recipe)

    def bare(self, steps: int, forward=None, optimizers=None, autocast=None, images=None) -> float:
        """Seconds of `steps` iterations of the network alone on a ready batch."""
        forward, optimizers = forward or self.forward, optimizers or self.optimizers
        images = self.ready[0] if images is None else images
        labels, autocast = self.ready[1], autocast or self.run.autocast

        def step():
            with autocast():
                logits = forward(images, self.ready[2]).logits
                loss = sum(F.cross_entropy(each.float(), labels) for each in logits) / len(logits)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()

        return self.timed(lambda: [step() for _ in range(steps)])

    def conditions(self) -> train.Conditions:
        """As the run computes."""
        return train.Conditions(autocast=self.run.autocast, scaler=self.scaler)

    def end_to_end(self, steps: int) -> float:
        """Seconds of `steps` iterations of the training loop, as ``train.fit`` calls it."""

        def run():
            train.train_one_epoch(
                self.forward, self.criterion, itertools.islice(self.batches, steps), self.optimizers,
                train.Span(0, steps), self.conditions(),
            )  # fmt: skip

        return self.timed(run)

    def shares(self, steps: int) -> dict[str, float]:
        """Seconds of each stage over `steps` iterations, with a wait for the device after each (hence a bit more)."""
        spent = dict.fromkeys(("data", "forward + loss", "backward", "step"), 0.0)
        for _ in range(steps):
            marks = [self.now()]
            batch = next(self.batches)
            marks.append(self.now())
            terms, backward = train.whole(self.forward, self.criterion, batch, 0, self.conditions())
            marks.append(self.now())
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            backward()
            marks.append(self.now())
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
            self.scaler.update()
            marks.append(self.now())
            for name, start, stop in zip(spent, marks, marks[1:], strict=False):
                spent[name] += stop - start
        return spent

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()

    def timed(self, work) -> float:
        start = self.now()
        work()
        return self.now() - start


class PlainNetwork:
    """The yardstick: the same network as most code runs it, NCHW and float32."""

    def __init__(self, case: Case):
        run = Run(case.device, "none", False, Path())
        self.case = case
        self.model, _, self.optimizers = case.fresh(run)
        self.images = case.ready[0].contiguous()

    def bare(self, steps: int) -> float:
        return self.case.bare(steps, self.model, self.optimizers, contextlib.nullcontext, self.images)


def measure(case: Case, args) -> None:
    for work in (case.bare, case.end_to_end):
        work(6)  # warm up: buffers, kernels, compilation
    steps = processes.from_main(args.steps or max(5, round(4 / (case.bare(5) / 5))))
    plain = PlainNetwork(case) if args.yardstick else None
    times: dict[str, list[float]] = {"bare": [], "end": [], "plain": []}
    if plain:
        plain.bare(3)
    for _ in range(args.rounds):
        times["bare"].append(case.bare(steps) / steps)
        times["end"].append(case.end_to_end(steps) / steps)
        if plain:
            few = max(3, steps // 3)
            times["plain"].append(plain.bare(few) / few)
    speed = {key: case.batch / statistics.median(values) for key, values in times.items() if values}
    ratio = statistics.median(b / e for b, e in zip(times["bare"], times["end"], strict=True))
    text = f"{case.name:<22}{speed['end']:>10.4g}{speed['bare']:>10.4g}{100 * ratio:>9.1f} %{peak(case.device):>12}"
    if plain:
        over = statistics.median(p / e for p, e in zip(times["plain"], times["end"], strict=True))
        text += f"{speed['plain']:>12.4g}{over:>8.2f} x"
    spent = case.shares(max(5, steps // 3))
    total = sum(spent.values())
    print(text + "   " + ", ".join(f"{name} {100 * s / total:.0f} %" for name, s in spent.items()), flush=True)


def peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


# ---------------------------------------------------------------------------------------------------------------------
# Images
# ---------------------------------------------------------------------------------------------------------------------


def stand_in(folder: Path):
    """As many files and identities as Market-1501 has, hard links to 16 images: speed does not depend on the rest."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    originals = []
    for i in range(16):
        small = torch.randint(0, 256, (3, 16, 8), generator=generator).float()
        large = F.interpolate(small[None], size=(128, 64), mode="bilinear")[0].byte()
        path = folder / f"original_{i}.jpg"
        Image.fromarray(large.permute(1, 2, 0).numpy()).save(path, quality=90)
        originals.append(path)
    samples = []
    for i in range(NUM_IMAGES):
        path = folder / f"{i:05d}.jpg"
        os.link(originals[i % 16], path)
        samples.append(datasets.Sample(str(path), i % NUM_PIDS + 1, i % 6 + 1))
    return samples


def stores(samples):
    """One ImageStore per size and device, shared by the cases."""
    kept = {}

    def store_of(image_size, device):
        key = tuple(image_size), str(device)
        if key not in kept:
            kept[key] = loaders.make_store(samples, loaders.Decoding(image_size, progress=False), device=device)
        return kept[key]

    return store_of


def main() -> None:
    args = arguments()
    with processes.joined(args.device):
        with contextlib.nullcontext() if processes.is_main() else contextlib.redirect_stdout(None):
            table(args)


def table(args) -> None:
    """Print a line for each recipe; under torchrun all processes call this."""
    if args.threads:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    if args.cpu_time and torch.get_num_threads() > 1:
        raise SystemExit("error: --cpu_time needs --threads 1: threads that wait for one another count as well")
    tune(device)
    names = args.recipe or (["bot"] if device.type == "cuda" else ["osnet_x0_25", "resnet18", "mobilenet_v3_small"])
    several = f"{processes.world_size()} processes{', --sync_bn' if args.sync_bn else ''}, each "
    print(f"torch {torch.__version__}, {describe(device)}, {several if processes.world_size() > 1 else ''}"
          f"{torch.get_num_threads()} CPU threads, {pick_amp(args.amp, device)}, channels-last"
          f"{', compiled' if args.compile else ''}{', CUDA graph' if args.cuda_graphs else ''}"
          f"{', processor time' if args.cpu_time else ''}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        samples = datasets.load_splits("market", args.market_path).train if args.market_path else stand_in(Path(folder))
        store_of = stores(samples)
        head = f"{'images/s':<22}{'end to end':>10}{'bare':>10}{'ratio':>11}{'peak':>12}"
        print(head + (f"{'NCHW fp32':>12}{'gain':>10}" if args.yardstick else "") + "   share of each stage")
        for name in names:
            measure(Case(name, args, samples, store_of), args)


if __name__ == "__main__":
    main()
