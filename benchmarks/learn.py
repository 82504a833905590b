"""A small training of each newer method on the built-in set, which has to beat its starting point. From the root:

    python benchmarks/learn.py                  all, one after another
    python benchmarks/learn.py --only CAJ LightMBN --jobs 2
    python benchmarks/learn.py --list

A line is one command of main.py. The network that it starts from is written as it is before the first step (--draw) and
measured by --mode test with the same flags. Networks and images are small, so that a core learns something in minutes:
a figure says that a method trains, and nothing of what it reaches.
Cluster Contrast is not in it: on the built-in set it does not gain (README.md says why, and how it does on a real one).

What is done is not done again, and what was stopped goes on. Each finished run becomes a row of the results file
(--csv). The script fails (exit status 1) if a method does not beat its start by the mAP that its line asks for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))

import options  # noqa: E402
from jobs import ROOT, Experiment, Job, flags, plain, run_all, write  # noqa: E402

# ---------------------------------------------------------------------------------------------------------------------
# The list
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A training on the built-in set, and what it has to gain."""

    what: str
    flags: str
    gain: float = 3.0  # points of mAP, at least; and rank-1 must not fall


SMALL = "--image_size 64 32 --pad 3 --eval_every 0"
TOWER = "--text_depth 1 --text_width 64"  # of CLIP's text, which begins at random here as well
# The rates are for networks that begin at random: the rows' own are for those that know much. A transformer that knows
# nothing collapses under the hardest triplets of a batch (at four rates, of SGD and of Adam; the run says so), so
# these learn without that loss here.
METHODS = (
    Method(
        "TransReID-SSL with a convolution stem, timm's test_vit, 64x32, no triplet loss, 240 steps",
        "--recipe transreid_ssl_vit_small_ics --backbone test_vit --train_dataset synthetic --synthetic_seed 1 "
        f"--triplet_weight 0 --optimizer adam --lr 1e-3 --erase 0 {SMALL} --epochs 6 --steps 40 --warmup_epochs 1",
    ),
    Method(
        "CLIP-ReID, timm's test_vit and a small text tower, 64x32, no triplet loss, 360 steps",
        f"--recipe clip_reid --backbone test_vit --stride 8 --projection_dim 64 {TOWER} {SMALL} "
        "--train_dataset synthetic --epochs 36 --steps 30 --warmup_epochs 1 --triplet_weight 0 --lr 1e-3 --erase 0",
    ),
    Method(
        "CLIP-ReID, ResNet-18 and a small text tower, 64x32, 80 steps",
        f"--recipe clip_reid_rn50 --backbone resnet18 --attention_dim 64 {TOWER} {SMALL} --train_dataset synthetic "
        "--epochs 12 --steps 20 --warmup_epochs 1 --lr 1e-3 --erase 0",
    ),
    Method(
        "SOLIDER, Swin-T, 64x32, no triplet loss, 240 steps",
        f"--recipe solider_swin_tiny --train_dataset synthetic --triplet_weight 0 --optimizer adam --lr 3e-4 --erase 0 "
        f"--p 8 {SMALL} --epochs 12 --steps 20 --warmup_epochs 1",
    ),
    Method(
        "CAL, OSNet x0.25, 64x32, 240 steps",
        f"--recipe cal --backbone osnet_x0_25 --last_stride 2 --train_dataset syntheticclothes {SMALL} --epochs 12 "
        "--clothes_from 5 --milestones 10 --lr 2e-3 --steps 20",
    ),
    Method(
        "LightMBN, OSNet x0.25, 64x32, 14 epochs",
        "--recipe light_mbn --backbone osnet_x0_25 --image_size 64 32 --epochs 14 --warmup_epochs 2 --milestones 3 "
        "--lr 2e-3 --eval_every 7",
    ),
    Method(
        "CAJ for colour and infrared, ResNet-18, 64x32, 4 epochs",
        "--recipe caj --train_dataset syntheticrgbir --syntheticrgbir_trial 0 --backbone resnet18 --non_local 0 1 1 0 "
        "--image_size 64 32 --epochs 4 --eval_every 0",
    ),
)


# ---------------------------------------------------------------------------------------------------------------------
# Running it
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Learned:
    """The commands of one line: the network before its first step, its test, the training."""

    method: Method
    drawn: Job
    start: Job
    end: Job

    @property
    def jobs(self) -> tuple[Job, Job]:
        return self.start, self.end

    @property
    def done(self) -> bool:
        return self.start.done and self.end.done

    def beats(self) -> bool:
        """Whether the training has gained what it has to."""
        start, end = (job.measured()[1] for job in self.jobs)
        return 100 * (end["mAP"] - start["mAP"]) >= self.method.gain and end["rank1"] >= start["rank1"]

    def row(self, commit: str) -> dict[str, str]:
        _, start = self.start.measured()
        return self.end.row(
            commit, f"{self.method.what} ({100 * start['rank1']:.1f} / {100 * start['mAP']:.1f} before)"
        )

    def line(self) -> str:
        (_, start), (_, end) = (job.measured() for job in self.jobs)
        seconds = self.end.row("-")["seconds"]
        return (
            f"{self.method.what:<76}{100 * start['rank1']:>6.1f} / {100 * start['mAP']:<4.1f} -> "
            f"{100 * end['rank1']:>5.1f} / {100 * end['mAP']:<5.1f}{seconds:>5} s"
            + ("" if self.beats() else f"   NOT beaten by {self.method.gain:g} of mAP")
        )


MACHINE = ("--num_queries", "0", "--threads", "1")


def learned(method: Method, output: Path, seed: int = 0) -> Learned:
    """The commands of `method`, in folders below `output`."""
    given = [*flags(method.flags), "--pretrained", "none", "--seed", str(seed)]
    experiment = Experiment("learn", method.what, tuple(given))
    end, drawn = output / experiment.name(seed), output / f"start_{plain(method.what)}_seed{seed}"
    file = drawn / "start.pth"
    measure = ["main.py", "--mode", "test", *given, "--weights", str(file), "--output_path", str(drawn), *MACHINE[2:]]
    draw = ["benchmarks/learn.py", "--draw", str(file), "--", "--mode", "train", *given, "--output_path", str(drawn)]
    train = ["main.py", "--mode", "train", *given, "--output_path", str(end), *MACHINE]
    return Learned(
        method,
        Job(experiment, seed, drawn, draw, file.name),
        Job(experiment, seed, drawn, measure, f"metrics_{file.stem}.json"),
        Job(experiment, seed, end, train),
    )


def draw(file: Path, words: list[str]) -> None:
    """Write the weights of the network that ``main.py`` with these words has before its first step."""
    import torch

    import cli
    import datasets
    import main
    import run

    args, row = cli.parse(words)
    given = cli.overrides(args)
    recipe = cli.customised(row, given)
    found, trains, _ = run.load_data(args)
    data = datasets.combine([found[name] for name in trains])
    cameras = sum(map(len, data.numbering.values())) if recipe.uses_cameras else 0
    model = main.build_network(recipe, data.num_pids, cameras, run.make_run(args, recipe, trains), args.seed)
    read = recipe.model(0, num_cameras=cameras).state_dict().keys()  # what a test reads: no classifier, no text tower
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: value for name, value in model.state_dict().items() if name in read}, file)


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=options.output, metavar="DIR", default=ROOT / "runs" / "learn", help="folder of the runs")
    add("--csv", type=options.results, metavar="FILE", help="results file to append to (default: <output>/results.csv)")
    add("--only", nargs="+", default=[], metavar="WORD", help="parts of what a line is called")
    add("--seed", type=options.SEED, default=0)
    add("--jobs", type=options.JOBS, default=1, help="runs side by side, a thread each")
    add("--commit", default="", help="of the code, where it is no checkout")
    add("--list", action="store_true")
    add(
        "--draw",
        type=options.path,
        metavar="FILE",
        help="write the network that the flags of main.py after -- start from",
    )
    add("words", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run_methods(chosen: Sequence[Method], args) -> list[Learned]:
    """Everything that is not done yet, each step when those that it needs are done."""
    lines = [learned(each, args.output, args.seed) for each in chosen]
    run_all([each.drawn for each in lines if not each.start.done], args.jobs)
    run_all([job for each in lines if each.drawn.done for job in each.jobs], args.jobs)
    return lines


def main(argv=None) -> int:
    args = arguments(argv)
    if args.draw:
        draw(args.draw, args.words)
        return 0
    names = {each.what: each for each in METHODS}
    chosen = [names[name] for name in options.chosen(args.only, list(names))]
    if args.list:
        for each in chosen:
            print(f"{each.what}\n    {each.flags}")
        return 0
    lines = run_methods(chosen, args)
    done = [each for each in lines if each.done]
    write([each.row(args.commit) for each in done], args.csv or args.output / "results.csv")
    print(f"{'':<76}  rank-1 / mAP before -> after, seconds of training")
    for each in done:
        print(each.line())
    for each in lines:
        if not each.done:
            print(f"{each.method.what:<76}not done, for the reason above; the same command goes on")
    return 0 if len(done) == len(lines) and all(each.beats() for each in done) else 1


if __name__ == "__main__":
    sys.exit(main())
