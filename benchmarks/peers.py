"""Ours beside torchreid and fast-reid: the same work in turns, in one run. From the repository root:

    python benchmarks/peers.py --market_path DIR --torchreid DIR --fastreid DIR       about ten minutes on two cores
    python benchmarks/peers.py --market_path DIR --torchreid DIR --work train rerank --threads 1
    python benchmarks/peers.py --market_path DIR --torchreid DIR --work train --network resnet50 --steps 5

The folders are checkouts of the two suites, of which nothing is shipped here; what they import must be installed (a
suite that cannot do a piece of work is left out of it, with the reason). Each suite is a process of its own, and one
works while the others wait. A line is the median over the turns; a ratio is the median of the ratios of the turns, for
on a busy machine only neighbours in time can be compared.

    train      iterations on Market-1501 with its decoding and augmentation (flip), softmax, AMSGrad or Adam. Ours
               decodes each image once and keeps the pixels, theirs decode in --workers processes, which go on when a
               turn is over: the next begins when they have as many batches ready as they may, and those are taken
               before the clock of their own next turn starts.
               `bare` is the limit of ours: forward, cross-entropy, backward and step on one ready batch
    extract    features of the first query images, from their files
    evaluate   from ready features of a --size set to mAP and CMC, in the form of its own that each suite has at hand
    rerank     from ready features to k-reciprocal distances
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import startup  # noqa: F401

# isort: split
import numpy as np
import torch

import options

ROOT, HERE = Path(__file__).resolve().parents[1], Path(__file__).resolve().parent

WORK = ("train", "extract", "evaluate", "rerank")
NETWORKS = {  # torchreid's name -> (recipe of ours, backbone of fast-reid's configuration)
    "osnet_x0_25": ("osnet_x0_25", ("build_osnet_backbone", "x0_25", 128)),
    "resnet50": ("softmax", ("build_resnet_backbone", "50x", 2048)),
}
FEATURES = ("query", "gallery", "query_pids", "gallery_pids", "query_camids", "gallery_camids")  # names in a file


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--market_path", type=options.market, required=True, metavar="DIR")
    add("--torchreid", type=options.folder, metavar="DIR")
    add("--fastreid", type=options.folder, metavar="DIR")
    add("--work", nargs="+", choices=WORK, default=WORK)
    add("--network", choices=NETWORKS, default="osnet_x0_25", help="of train and extract")
    add("--turns", type=options.COUNT, default=5)
    add("--steps", type=options.COUNT, default=20, help="iterations of a turn of train")
    add("--images", type=options.COUNT, default=512, help="of a turn of extract")
    add("--size", type=options.COUNT, nargs=2, default=(1000, 5000), metavar=("Q", "G"), help="queries, gallery images")
    add("--image_size", type=options.SIZE, nargs=2, default=(128, 64), metavar=("H", "W"), help="in training")
    add("--batch_size", type=options.COUNT, default=64)
    add("--workers", type=options.AMOUNT, default=2, help="decoding processes of the others")
    add("--threads", type=options.THREADS, default=0, help="0: as many as torch takes")
    add("--compile", action="store_true", help="ours, in training, as main.py --compile")
    add("--child", help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def beside(name: str):
    """A script of this folder, under a name that is not a module's of the suite."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------------------------------------------------------------
# What each suite does: a method for each piece of work, called with an amount, answers how much was done
# ---------------------------------------------------------------------------------------------------------------------


class Suite:
    """A suite in its own process; what a piece of work needs is made at its first call, which is not timed."""

    decodes_ahead = False  # whether batches of training images stand ready after a pause

    def __init__(self, args):
        self.args, found = args, np.load(args.folder / "features.npz")
        self.query, self.gallery = (torch.from_numpy(found[name]) for name in FEATURES[:2])
        self.labels = [found[name] for name in FEATURES[2:]]


class Ours(Suite):
    """This repository, as ``main.py`` computes."""

    def __init__(self, args):
        self.bench = beside("train")
        super().__init__(args)
        import datasets

        self.splits = datasets.load_splits("market", args.market_path)
        self.case = None

    def made(self):
        if self.case is None:
            changes = {"image_size": tuple(self.args.image_size), "batch_size": self.args.batch_size, "translate": 0.0}
            name = self.args.network
            self.bench.CASES[name] = (NETWORKS[name][0], {**self.bench.SMALL, **changes})
            flags = self.bench.arguments(["--device", "cpu", *(["--compile"] if self.args.compile else [])])
            self.bench.tune(torch.device("cpu"))
            self.case = self.bench.Case(name, flags, self.splits.train, self.bench.stores(self.splits.train))
        return self.case

    def train(self, steps: int) -> int:
        self.made().end_to_end(steps)
        return steps * self.case.batch

    def bare(self, steps: int) -> int:
        self.made().bare(steps)
        return steps * self.case.batch

    def extract(self, count: int) -> int:
        import tester
        from recipes import RECIPES

        recipe = RECIPES[NETWORKS[self.args.network][0]].with_(pretrained="none")
        device = torch.device("cpu")
        self.bench.tune(device)
        run = self.bench.Run(device, "none", True, Path())
        model = run.place(recipe.model(751)).eval()
        options = tester.Options(batch_size=100)
        tested = tester.Tester(recipe, {"market": self.splits}, options, device=device, channels_last=True)
        return len(tested.features(model, self.splits.query[:count], "query", name="market").samples)

    def evaluate(self, count: int) -> int:
        import evaluate

        evaluate.evaluate_features(self.query, self.gallery, *self.labels)
        return count

    def rerank(self, count: int) -> int:
        import rerank

        rerank.k_reciprocal(self.query, self.gallery)
        return count


class Torchreid(Suite):
    """KaiyangZhou/deep-person-reid, through its data manager and engine."""

    decodes_ahead = True

    def __init__(self, args):
        sys.path.insert(0, str(args.torchreid))
        super().__init__(args)
        import torchreid

        self.suite, self.engine = torchreid, None

    def made(self):
        if self.engine is None:
            height, width = self.args.image_size
            data = self.data(height, width, self.args.batch_size)
            build, network = self.suite.models.build_model, self.args.network
            model = build(network, data.num_train_pids, loss="softmax", pretrained=False)
            optimizer = self.suite.optim.build_optimizer(model, optim="amsgrad", lr=0.0015)
            self.engine = self.suite.engine.ImageSoftmaxEngine(data, model, optimizer, use_gpu=False)
            model.train()
            loader = self.engine.train_loader
            self.batches = itertools.chain.from_iterable(iter(loader) for _ in itertools.count())
        return self.engine

    def data(self, height: int, width: int, batch_size: int):
        return self.suite.data.ImageDataManager(
            root=str(self.args.folder), sources="market1501", height=height, width=width, batch_size_train=batch_size,
            batch_size_test=100, transforms="random_flip", workers=self.args.workers, use_gpu=False,
        )  # fmt: skip

    def train(self, steps: int) -> int:
        engine = self.made()
        for batch in itertools.islice(self.batches, steps):
            engine.forward_backward(batch)
        return steps * self.args.batch_size

    def extract(self, count: int) -> int:
        data = self.data(256, 128, 100)
        model = self.suite.models.build_model(self.args.network, 751, pretrained=False).eval()
        done = 0
        with torch.no_grad():
            for batch in data.test_loader["market1501"]["query"]:
                done += len(model(batch["img"]))
                if done >= count:
                    break
        return done

    def distances(self):
        measure = self.suite.metrics.compute_distance_matrix
        pairs = ((self.query, self.gallery), (self.query, self.query), (self.gallery, self.gallery))
        return [measure(*pair, "euclidean").numpy() for pair in pairs]

    def evaluate(self, count: int) -> int:
        matrix = self.suite.metrics.compute_distance_matrix(self.query, self.gallery, "euclidean").numpy()
        self.suite.metrics.evaluate_rank(matrix, *self.labels, use_metric_cuhk03=False)
        return count

    def rerank(self, count: int) -> int:
        self.suite.utils.re_ranking(*self.distances())
        return count


class Fastreid(Suite):
    """JDAI-CV/fast-reid, through its configuration, data set, network and optimiser; its own loader needs a GPU, so a
    plain one reads its data set."""

    decodes_ahead = True

    def __init__(self, args):
        os.environ["FASTREID_DATASETS"] = str(args.folder)
        collections.Mapping = collections.abc.Mapping  # what it imports by a name of Python before 3.10
        sys.path.insert(0, str(args.fastreid))
        super().__init__(args)
        from fastreid.config import get_cfg
        from fastreid.utils.events import EventStorage

        EventStorage(0).__enter__()  # its losses write there
        self.cfg, self.model = get_cfg(), None
        backbone, depth, width = NETWORKS[args.network][1]
        self.cfg.merge_from_list([
            "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", backbone, "MODEL.BACKBONE.DEPTH", depth,
            "MODEL.BACKBONE.FEAT_DIM", width, "MODEL.BACKBONE.LAST_STRIDE", 2, "MODEL.BACKBONE.PRETRAIN", False,
            "MODEL.HEADS.WITH_BNNECK", True,
            "MODEL.LOSSES.NAME", ("CrossEntropyLoss",), "INPUT.SIZE_TRAIN", list(args.image_size),
            "INPUT.FLIP.ENABLED", True, "SOLVER.IMS_PER_BATCH", args.batch_size, "MODEL.HEADS.NUM_CLASSES", 751,
        ])  # fmt: skip

    def loader(self, subset: str, train: bool, batch_size: int):
        from fastreid.data.build import fast_batch_collator
        from fastreid.data.common import CommDataset
        from fastreid.data.datasets import DATASET_REGISTRY
        from fastreid.data.transforms import build_transforms

        items = getattr(DATASET_REGISTRY.get("Market1501")(root=str(self.args.folder)), subset)
        images = CommDataset(items, build_transforms(self.cfg, is_train=train), relabel=train)
        options = {"batch_size": batch_size, "num_workers": self.args.workers, "collate_fn": fast_batch_collator}
        return torch.utils.data.DataLoader(images, shuffle=train, drop_last=train, **options)

    def train(self, steps: int) -> int:
        from fastreid.modeling import build_model
        from fastreid.solver import build_optimizer

        if self.model is None:
            self.model = build_model(self.cfg).train()
            self.optimizer, _ = build_optimizer(self.cfg, self.model, contiguous=False)
            loader = self.loader("train", True, self.args.batch_size)
            self.batches = itertools.chain.from_iterable(iter(loader) for _ in itertools.count())
        for batch in itertools.islice(self.batches, steps):
            loss = sum(self.model(batch).values())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return steps * self.args.batch_size

    def extract(self, count: int) -> int:
        from fastreid.modeling import build_model

        model, done = build_model(self.cfg).eval(), 0
        with torch.no_grad():
            for batch in self.loader("query", False, 100):
                done += len(model(batch))
                if done >= count:
                    break
        return done

    def distances(self):
        from fastreid.utils.compute_dist import build_dist

        pairs = ((self.query, self.gallery), (self.query, self.query), (self.gallery, self.gallery))
        return [build_dist(*pair) for pair in pairs]

    def evaluate(self, count: int) -> int:
        from fastreid.evaluation.rank import evaluate_rank
        from fastreid.utils.compute_dist import build_dist

        evaluate_rank(build_dist(self.query, self.gallery), *self.labels)
        return count

    def rerank(self, count: int) -> int:
        from fastreid.evaluation.rerank import re_ranking

        re_ranking(*self.distances())
        return count


SUITES = {"ours": Ours, "torchreid": Torchreid, "fastreid": Fastreid}


# ---------------------------------------------------------------------------------------------------------------------
# Turns
# ---------------------------------------------------------------------------------------------------------------------


def serve(args) -> None:
    """A child: reads ``work amount`` from standard input, answers each with [amount done, seconds] or a reason.

    What a suite prints goes to stderr, where nobody listens.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    suite = None
    for line in sys.stdin:
        work, amount = line.split()
        try:
            if suite is None:
                suite = SUITES[args.child](args)
                if args.threads:
                    torch.set_num_threads(args.threads)
            ahead = 2 * args.workers if work == "train" and suite.decodes_ahead else 0  # two batches for each worker
            if ahead:
                suite.train(ahead)
            began = time.perf_counter()
            done, seconds = getattr(suite, work)(int(amount)), time.perf_counter() - began
            time.sleep(ahead * seconds / int(amount))  # in which so many have just been decoded, beside the training
            answers.write(json.dumps([done, seconds]) + "\n")
        except (Exception, SystemExit) as error:  # whatever another suite raises
            answers.write(json.dumps(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") + "\n")


class Child:
    """A suite's process, and what it answered."""

    def __init__(self, name: str, argv: list[str], folder: Path):
        command = [sys.executable, str(HERE / "peers.py"), *argv, "--child", name, "--folder", str(folder)]
        self.name = name
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen(command, **pipes)

    def does(self, work: str, amount: int) -> float:
        """Pieces per second. RuntimeError with what stood in the way."""
        try:
            self.process.stdin.write(f"{work} {amount}\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline() or '"its process has ended"')
        except OSError:
            answer = "its process has ended"
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer[0] / answer[1]

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait()


def prepared(args, folder: Path) -> None:
    """Market-1501 where both of them look for it below `folder`, and one set of features for all."""
    home = args.market_path.resolve()
    inner = home if (home / "bounding_box_train").is_dir() else home / "Market-1501-v15.09.15"
    for place in (folder / "market1501" / "Market-1501-v15.09.15", folder / "Market-1501-v15.09.15"):
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(inner)
    made = beside("rerank").features(*args.size, 512, "cpu")
    np.savez(folder / "features.npz", **{name: each.numpy() for name, each in zip(FEATURES, made, strict=True)})


def turns(args, children: list[Child], work: str) -> tuple[dict[str, list[float]], bool]:
    """(who -> pieces per second of each turn, whether all could); who cannot do this work says why and is left out."""
    amount = {"train": args.steps, "extract": args.images}.get(work, args.size[0])
    first = {"train": 3, "extract": min(100, args.images)}.get(work, amount)
    takers = [(child.name, child, work) for child in children]
    if work == "train":
        takers.insert(1, ("bare", children[0], "bare"))
    speeds: dict[str, list[float]] = {name: [] for name, _, _ in takers}
    for turn in range(args.turns + 1):  # the first makes what is needed and is not counted
        for name, child, method in takers:
            if name in speeds:
                try:
                    speed = child.does(method, amount if turn else first)
                    speeds[name] += [speed] if turn else []
                except RuntimeError as why:
                    print(f"{work:<10}{name:<11}cannot: {why}", flush=True)
                    del speeds[name]
    return speeds, len(speeds) == len(takers)


def report(work: str, speeds: dict[str, list[float]]) -> list[str]:
    """Lines for people: the median of each, and how many times as fast ours is."""
    lines, unit = [], "queries/s" if work in ("evaluate", "rerank") else "images/s"
    for name, found in speeds.items():
        text = f"{work:<10}{name:<11}{statistics.median(found):>10.1f} {unit}"
        if name != "ours" and "ours" in speeds:
            ratios = [ours / theirs for ours, theirs in zip(speeds["ours"], found, strict=True)]
            each = " ".join(f"{ratio:.2f}" for ratio in ratios)
            text += f"   ours {statistics.median(ratios):.2f} times as fast (turns: {each})"
        lines.append(text)
    return lines


def main(argv: list[str] | None = None) -> int:
    """Take turns at each piece of work and print the table; 1 where a suite that was named could not do some of it."""
    argv = sys.argv[1:] if argv is None else argv
    args = arguments(argv)
    if args.child:
        serve(args)
        return 0
    names = ["ours", *(name for name in ("torchreid", "fastreid") if getattr(args, name))]
    with tempfile.TemporaryDirectory() as folder:
        prepared(args, Path(folder))
        children = [Child(name, argv, Path(folder)) for name in names]
        try:
            complete = True
            for work in args.work:
                speeds, all_could = turns(args, children, work)
                complete = complete and all_could
                print("\n".join(report(work, speeds)), flush=True)
        finally:
            for child in children:
                child.end()
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
