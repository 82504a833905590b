"""The command line of ``main.py``: flags, their groups, and how they override a recipe."""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
import textwrap
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

import datasets
from config import (
    FIELDS,
    HINTS,
    Recipe,
    Value,
    applies,
    called,
    check_given,
    check_network_fields,
    makers,
    number_of,
    option_defaults,
    option_numbers,
    value_of,
    with_values,
)
from machine import loggers, ranges, usage
from machine.ranges import ALPHA, EPOCHS, MEMORY, NEIGHBOURS, RANKS, SEEDS, SHARE, Number, Range
from networks import backbones
from protocols import PROTOCOLS
from recipes import RECIPES
from weights import reading

MODES = ("train", "test", "visualize", "extract", "export", "check", "report")
PICTURES = ("ranks", "batch", "curves", "actmap")
SWITCH: dict[str, Any] = {"nargs": "?", "const": True, "metavar": "yes|no"}  # --flag, --flag yes, --flag no


def words(text: str) -> str:
    """A name; an empty one, as of an unset variable of the shell, would be taken for something else."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected a name or a path, found '{text}'")
    return text


def path(text: str) -> Path:
    """A path; an empty one would be the current folder."""
    return Path(words(text))


def device(text: str) -> str:
    """A device as torch names it; a number alone, as elsewhere, is that GPU."""
    return f"cuda:{text}" if text.isdecimal() else words(text)


class InTurn(argparse.Action):
    """Several numbers of different kinds, each read by the `Number` of its place."""

    def __init__(self, option_strings, dest, numbers: Sequence[Number], **options):
        super().__init__(option_strings, dest, nargs=len(numbers), **options)
        self.numbers = numbers

    def __call__(self, parser, namespace, values, option_string=None):
        try:
            found = [number(text) for number, text in zip(self.numbers, values, strict=True)]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        setattr(namespace, self.dest, found)


def numbers_of(action: argparse.Action) -> tuple[Number, ...]:
    """What the values of a flag are as numbers; empty where they are none, or one of a few choices."""
    if isinstance(action, InTurn):
        return tuple(action.numbers)
    return (action.type,) if isinstance(action.type, Number) and not action.choices else ()


YES_NO = ("yes", "no", "true", "false", "1", "0")


def yes_no(text: str) -> bool:
    """`yes` or `no` as bool."""
    if text.lower() not in YES_NO:
        raise argparse.ArgumentTypeError(f"expected yes or no, found '{text}'")
    return text.lower() in ("yes", "true", "1")


def yes_no_path(text: str) -> bool | Path:
    """`yes` or `no` as bool, anything else as a path."""
    return yes_no(text) if text.lower() in YES_NO else path(text)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help in 120 columns, the texts of the flags from column 34 on at the latest; behind a number its range."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=34, width=120)

    def _get_help_string(self, action):
        within = ", ".join(filter(None, (str(number.within) for number in numbers_of(action))))
        return f"{action.help} [{within}]" if within and action.help else action.help


DATA = "--market_path DIR, --duke_path DIR, ...: a flag per data set, with the folder that you unpacked"
TRAIN_ON, TEST_ON = "--train_dataset NAME", "--test_dataset NAME"
NETWORK = "--recipe NAME for a method with its training, --backbone NAME for another network in it"
FOLDER = "--gallery_path DIR, a folder of images to embed or to rank; a data set is --market_path DIR, ..."
FILE = "--weights FILE in a test, --pretrained FILE to start a training from, --resume FILE to go on from it"
HABITS = {  # flags of other suites -> what does it here; every one of these is answered, no letters in common needed
    **dict.fromkeys(("a", "arch", "model", "cfg"), NETWORK),
    **dict.fromkeys(("s", "source_names", "sources", "trainset_part"), TRAIN_ON + " beside its --NAME_path DIR"),
    **dict.fromkeys(("t", "target_names", "targets"), TEST_ON + " beside its --NAME_path DIR"),
    **dict.fromkeys(("root", "data", "data_dir", "dataset_dir", "data_path", "dataset_path", "image_path",
                     "raw_dir", "test_dir"), DATA),
    **dict.fromkeys(("d", "dataset", "datasets"), f"{DATA}; {TRAIN_ON} and {TEST_ON} choose among several"),
    **dict.fromkeys(("config_file", "config", "opts"), "--recipe NAME, with a flag for each value to change"),
    **dict.fromkeys(("evaluate", "eval", "eval_only", "only_test", "test", "test_only"), "--mode test"),
    **dict.fromkeys(("vis_ranked_res", "visualize_ranks", "visrank", "visactmap"), "--mode visualize"),
    **dict.fromkeys(("visrank_topk", "topk", "ranked_res_topk"), "--top_k N"),
    **dict.fromkeys(("load_weights", "model_weight_file", "checkpoint", "ckpt", "pretrain_path", "load_model",
                     "model_path", "load_ckpt", "ckpt_file", "init_model", "pretrained_path", "pretrained_weights"),
                     FILE),
    **dict.fromkeys(("no_pretrained", "pretrain_choice"), "--pretrained none, imagenet or FILE"),
    **dict.fromkeys(("gpu_devices", "gpu", "gpus", "gpu_ids", "device_id", "sys_device_ids"), "--device cuda:N"),
    **dict.fromkeys(("use_avai_gpus", "num_gpus", "ngpu", "ngpus", "local_rank", "num_machines", "dist_url"),
                     "--device auto takes the GPU there is; torchrun several"),
    **dict.fromkeys(("use_cpu", "cpu"), "--device cpu"),
    **dict.fromkeys(("save_dir", "exp_dir", "output_dir", "logs_dir", "project", "name", "log_path", "log_dir",
                     "outdir"), "--output_path DIR"),
    **dict.fromkeys(("max_epoch", "max_epochs", "total_epochs", "num_epochs", "total_epoch"), "--epochs N"),
    **dict.fromkeys(("eval_freq", "eval_step", "eval_period", "test_every", "val_period", "epochs_per_val",
                     "save_epoch",
                     "save_period"), "--eval_every N"),
    **dict.fromkeys(("stepsize", "step_size"), "--schedule multistep --milestones EPOCHS"),
    **dict.fromkeys(("lr_scheduler", "sched", "lr_decay_type"), "--schedule NAME"),
    **dict.fromkeys(("optim", "opt"), "--optimizer NAME"),
    **dict.fromkeys(("base_lr", "lr0", "learning_rate"), "--lr X"),
    **dict.fromkeys(("wd", "weight_decay_bias"), "--weight_decay X"),
    **dict.fromkeys(("warmup", "warm_epoch", "warmup_epoch"), "--warmup_epochs N --warmup_factor X"),
    **dict.fromkeys(("fixbase_epoch", "always_fixbase"), "--fixbase_epochs N"),
    **dict.fromkeys(("staged_lr", "new_layers"), "--base_lr_mult X"),
    **dict.fromkeys(("height", "width", "imgsz", "img_size", "resize_h_w", "img_h", "img_w", "crop_height",
                     "crop_width"), "--image_size H W"),
    **dict.fromkeys(("train_batch_size", "b", "batch", "batchsize", "ims_per_batch", "train_batch",
                     "batch_size_per_gpu"),
                    "--p N --k N, people in a batch and images of each, or --p 0 --batch_size N"),
    **dict.fromkeys(("num_instances", "num_instance", "instances", "ims_per_id", "num_pos"), "--k N"),
    "ids_per_batch": "--p N",
    **dict.fromkeys(("train_sampler", "sampler"), "--p N --k N for P x K, --p 0 for shuffled images"),
    **dict.fromkeys(("test_batch_size", "batch_size_test"), "--test_batch N"),
    **dict.fromkeys(("j", "num_workers"), "--workers N"),
    **dict.fromkeys(("random_erase", "erasing_p", "re_prob"), "--erase X"),
    **dict.fromkeys(("transforms", "color_aug"), "--flip X, --translate X, --erase X, --color_jitter X"),
    **dict.fromkeys(("label_smooth", "labelsmooth", "smoothing"), "--label_smoothing X"),
    **dict.fromkeys(("lambda_xent", "weight_x", "idlw"), "--id_weight X"),
    **dict.fromkeys(("lambda_htri", "weight_t", "glw"), "--triplet_weight X"),
    "loss": "--id_weight X and --triplet_weight X; 0 leaves one out",
    **dict.fromkeys(("dist_metric", "test_dist", "distance"), "--metric euclidean or cosine"),
    **dict.fromkeys(("normalize_feature", "feat_norm"), "--metric cosine"),
    **dict.fromkeys(("re_ranking", "reranking"), "--rerank"),
    **dict.fromkeys(("combineall", "combine_all", "train_all"), "--use_all_images"),
    **dict.fromkeys(("k1", "k2", "lambda_value"), "--rerank --rerank_k1 N --rerank_k2 N --rerank_lambda X"),
    **dict.fromkeys(("fp16", "bf16", "half", "use_fp16"), "--amp fp16 or bf16"),
    **dict.fromkeys(("cos_lr", "cosine"), "--schedule cosine"),
    **dict.fromkeys(("min_lr", "lrf"), "--lr_floor X, a share of --lr"),
    **dict.fromkeys(("lr_mult", "new_params_lr", "finetuned_params_lr"), "--lr X, of the trunk --base_lr_mult X times"),
    **dict.fromkeys(("staircase_decay_at_epochs", "staircase_decay_multiply_factor"),
                    "--schedule multistep --milestones EPOCHS --gamma X"),
    "exp_decay_at_epoch": "--schedule exponential --milestones EPOCH",
    **dict.fromkeys(("freeze", "freeze_epochs"), "--fixbase_epochs N"),
    "iters": "--steps N, the iterations of an epoch",
    **dict.fromkeys(("pool", "pool_type", "pooling_type"), "--pooling NAME"),
    "last_conv_stride": "--last_stride N",
    **dict.fromkeys(("gm", "global_margin"), "--margin X"),
    "lm": "--local_margin X",
    **dict.fromkeys(("llw", "l_loss_weight"), "--local_triplet_weight X"),
    **dict.fromkeys(("g_loss_weight", "triplet"), "--triplet_weight X"),
    "id_loss_weight": "--id_weight X",
    "local_dist_own_hard_sample": "--local_mining local",
    "htri_only": "--id_weight 0",
    "circle": "--circle_weight X",
    **dict.fromkeys(("arcface", "cosface"), "--id_loss arcface or cosface"),
    "num_models": "--members N",
    "pcb": "--recipe pcb",
    **dict.fromkeys(("mirror", "random_flip"), "--flip X"),
    "use_rea": "--erase X",
    "steps_per_log": "--print_freq N",
    **dict.fromkeys(("set_seed", "random_seed", "manual_seed"), "--seed N"),
    **dict.fromkeys(("wandb", "use_wandb", "tensorboard", "logger_name", "tb"), "--logger wandb, tensorboard or csv"),
    **dict.fromkeys(("exist_ok", "overwrite"), "--resume no starts afresh in a folder that holds a run"),
    "query_index": "--query_image FILE with --gallery_path DIR, or --num_queries N for many",
    "multi": "--multi_query mean or max",
    "no_cam": "--sie_weight 0",
    "combine_trainval": "--validation_ids N, which holds people out; without it all of the training set is used",
    "use_metric_cuhk03": "--protocol cuhk03",
    **dict.fromkeys(("split_id", "split"), "--NAME_split N of the data set, such as --viper_split N"),
    **dict.fromkeys(("which_epoch", "resume_test_model"), "--resume_test_epoch N"),
    **dict.fromkeys(("start_epoch", "resume_train_epoch"), "--resume FILE goes on after the epochs behind it"),
    **dict.fromkeys(("source", "images", "imgs", "input", "folder", "img_dir", "image_dir", "gallery", "gallery_dir"),
                    FOLDER),
    **dict.fromkeys(("query", "probe", "query_path"), "--query_image FILE with --gallery_path DIR"),
    **dict.fromkeys(("onnx", "export", "opset", "include"), "--mode export"),
    "int8": "--quantize int8 in --mode export",
    **dict.fromkeys(("hyp", "task"), "--help all lists every flag; --mode says what to do"),
}  # fmt: skip


RANK_OR_EMBED = "extract embeds --gallery_path DIR, --mode visualize ranks it for one --query_image FILE"
MODE_HABITS = {  # what other suites are told to do -> the mode here
    **dict.fromkeys(("val", "valid", "eval", "evaluate", "evaluation", "testing", "benchmark"), "test"),
    **dict.fromkeys(("predict", "detect", "infer", "inference", "demo", "search", "rank"), RANK_OR_EMBED),
    **dict.fromkeys(("embed", "features", "extract_features"), "extract"),
    **dict.fromkeys(("vis", "show", "visualise", "plot"), "visualize"),
    **dict.fromkeys(("convert", "onnx", "deploy"), "export"),
    **dict.fromkeys(("compare", "summary"), "report"),
    **dict.fromkeys(("fit", "finetune"), "train"),
}


def said_without_dashes(word: str, own: Collection[str]) -> str:
    """What to give in place of `word`, which is no flag and no flag's value; "" if nobody knows. own: all flags."""
    name, equals, value = word.partition("=")
    if equals and habit(name):
        return f"{name} is here {habit(name)}"
    if equals and name in own:
        return f"{word} is here --{name} {value}"
    mode = MODE_HABITS.get(word.lower(), "")
    if not mode and os.path.isdir(word):
        return f"{word} is a folder: give it as {FOLDER}"
    if mode := mode or "".join(difflib.get_close_matches(word.lower(), MODES, 1)):
        return f"{word} is here --mode {mode}"
    return ""


def habit(word: str) -> str:
    """What does here what the flag `word` does elsewhere; "" if nobody is known to have it."""
    return HABITS.get(word.split("=")[0].lstrip("-").replace("-", "_").lower(), "")


def understood(argv: Sequence[str]) -> list[str]:
    """`argv` with underscores in the names of flags, and ``train ...`` as ``--mode train ...``."""
    said = []
    for word in argv:
        name, equals, value = word.partition("=")
        said.append(name.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word)
    return ["--mode", *said] if said and said[0] in MODES else said


class Parser(argparse.ArgumentParser):
    """argparse whose error for an unknown flag names the one that does it here, the recipe whose option it is, or the
    nearest one."""

    shows_all = False  # whether the help shows fields that the recipe's network has no use for

    def error(self, message: str) -> NoReturn:
        flags = [flag for action in self._actions for flag in action.option_strings]
        told = message.partition(": ")[2].split() if message.startswith(("unrecognized", "argument --mode: ")) else []
        loose = told[:1] if message.startswith("unrecognized") else [word.strip("'") for word in told[2:3]]
        loose += [word for word in told[1:] if "=" in word and not word.startswith("-")]
        found = [word.split("=")[0] for word in message.split() if word.startswith("-")]
        own = {flag.lstrip("-") for flag in flags}
        hints = [said for word in loose if word[:1] != "-" and (said := said_without_dashes(word, own))]
        for word in found if message.startswith("unrecognized") else ():
            owners = [name for name, recipe in RECIPES.items() if word.lstrip("-") in option_defaults(recipe)]
            near = difflib.get_close_matches(word.lstrip("-"), [flag.lstrip("-") for flag in flags], 1, cutoff=0.8)
            if habit(word):
                hints.append(f"{word} is here {habit(word)}")
            elif owners:
                hints.append(f"{word} is an option of recipe {', '.join(owners[:3])}: name it with --recipe")
            elif near:
                hints.append(f"did you mean --{near[0]}?")
        if message.startswith("unrecognized") and not found and not hints:
            hints.append(f"every flag begins with --; what to do is --mode {', '.join(MODES)}")
        hint = f" ({'; '.join(dict.fromkeys(hints))})" if hints else ""
        self.exit(2, f"error: {message}{hint}\nSee python main.py --help\n")


# ---------------------------------------------------------------------------------------------------------------------
# The groups of flags, one function per topic of the help
# ---------------------------------------------------------------------------------------------------------------------


def build_parser(recipe: Recipe, topic: str = "all", shows_all: bool = False) -> Parser:
    """The flags of a topic of the help, or all, with `recipe`'s own values as the defaults that --help shows.

    shows_all: the help shows the fields that the recipe's network has no use for, too.
    """
    facts = (f"Paper: {recipe.paper}", f"Numbers: {recipe.source}", f"Differs: {recipe.differs}")
    parser = Parser(
        prog="main.py",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        add_help=False,
        description="Train, test and visualize person re-identification models. With no data set path the built-in\n"
        "synthetic set is made and used (a demonstration, not a benchmark).",
        epilog="\n".join(
            textwrap.fill(line, 118, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
            for line in (
                f"Defaults shown for recipe {recipe.name}: {recipe.title}",
                *(facts if recipe.differs else facts[:-1]),
                f"Recipes: {', '.join(RECIPES)}",
                f"Topics of --help: all, {', '.join(usage.TOPICS)}",
            )
        ),
    )
    parser.shows_all = shows_all
    for name, add in GROUPS.items():
        if topic in ("all", name):
            add(parser, recipe)
    return parser


def add_run(parser: Parser, recipe: Recipe) -> None:
    """Flags of every mode: the recipe, the folder, the machine."""
    add = parser.add_argument_group("run").add_argument
    add("-h", "--help", nargs="?", metavar="TOPIC", help="this text, or that of one topic; all: every flag")
    add("--version", action="store_true", help="version of the suite and commit")
    add("--mode", choices=MODES, default="train", help="what to do (default: train)")
    add("--recipe", type=words, metavar="NAME", help="a row of recipes.py (default: bot; demo on the built-in set)")
    add("--output_path", type=path, metavar="DIR", help="where results go (default: a folder below runs/)")
    add(
        "--device",
        type=device,
        default="auto",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:1 or 1, mps (default: auto)",
    )
    add("--seed", type=Number(int, SEEDS), default=0, metavar="N", help="of all that is drawn by chance (default: 0)")
    add("--amp", choices=("auto", "none", "bf16", "fp16"), default="auto",
        help="mixed precision in training; auto: bf16 where the processor has it (default: auto)")  # fmt: skip
    add("--channels_last", type=yes_no, default=True, help="memory format of images and weights (default: yes)",
        **SWITCH)  # fmt: skip
    add("--compile", action="store_true", help="torch.compile the network; pays in long runs only")
    add("--cuda_graphs", type=yes_no, default=True, help="let a GPU replay the network's kernels (default: yes)",
        **SWITCH)  # fmt: skip
    add(
        "--deterministic",
        action="store_true",
        help="the same bits every time: on a GPU slower ways, on a CPU a fixed number of threads",
    )
    add("--threads", type=Number(int, Range(0, 4 * (os.cpu_count() or 1))), default=0, metavar="N",
        help="CPU threads; 0: one per core, fewer while others take the cores (default: 0)")  # fmt: skip
    add("--workers", type=Number(int, Range(0, 256)), default=0, metavar="N",
        help="decoding threads, 0 for one per core (default: 0)")  # fmt: skip
    add("--cache", choices=("auto", "ram", "gpu", "disk", "none"), default="auto",
        help="where decoded training images are kept (default: auto)")  # fmt: skip
    add("--cache_path", type=path, metavar="DIR", help="folder of --cache disk (default: <output_path>/cache)")
    add("--skip_bad_images", action="store_true", help="leave unreadable images out, named and counted")
    add("--debug", action="store_true", help="show Python's traceback of an error")


STANDARD = {  # options of several data sets; how many splits and trials one has, it says itself
    "seed": Number(int, SEEDS), "split": Number(int, Range(0, 1_000)), "trial": Number(int, Range(0, 1_000))
}  # fmt: skip


OPTIONS = {  # of data sets, in words
    "seed": "of what is drawn by chance",
    "split": "which of its splits into training and test, from 0",
    "trial": "which draw of its gallery, from 0; without it all, and their mean",
    "labeled": "boxes drawn by hand instead of detected ones",
    "classic": "its first protocol, of one split each, instead of the new one",
    "distractors": "the 500k distractors in the gallery too",
    "query_in_gallery": "the queries stand in the gallery too",
    "use_val": "train on the validation people too",
    "query": "which images ask",
    "search": "in all cameras or those indoors",
    "shots": "gallery images per person and camera",
}


def add_data(parser: Parser, recipe: Recipe) -> None:
    """Paths of the data sets and options of their parsers."""
    title = "data sets (paths as unpacked by you; nothing is ever downloaded)"
    add = parser.add_argument_group(title).add_argument
    for name, entry in datasets.DATASETS.items():
        spellings = [f"--{n}_path" for n in (name, *(a for a, to in datasets.ALIASES.items() if to == name))]
        add(*dict.fromkeys(spellings), type=path, metavar="DIR", dest=f"{name}_path", help=entry.title)
    add("--validation_ids", type=Number(int, Range(0, 1_000_000)), default=0, metavar="N",
        help="people held out of training, as a test set <name>_val to choose parameters on (default: 0)")  # fmt: skip
    add("--use_all_images", action="store_true", help="train on query and gallery images too (to test on other sets)")
    add("--train_dataset", type=words, nargs="+", metavar="NAME",
        help="sets to train on, several as one (default: the one that has a path)")  # fmt: skip
    add("--test_dataset", type=words, nargs="+", metavar="NAME", help="sets to test on (default: each that has a path)")
    for name, option, default in dataset_options():
        entry = datasets.DATASETS[name]
        read = reader(Value(type(default)), (STANDARD | ranges.of(entry.parse)).get(option))
        if option in entry.choices:
            read |= {"choices": entry.choices[option], "metavar": None}
        shown = {True: "yes", False: "no"}[default] if isinstance(default, bool) else default
        said = OPTIONS.get(option, f"option of {name}")
        add(f"--{name}_{option}", default=default, help=f"{said} (default: {shown})", **read)


def add_fields(group: str, parser: Parser, recipe: Recipe) -> None:
    """The flags of the recipe's fields that are declared in `group`."""
    found = parser.add_argument_group(f"{group} (defaults of recipe {recipe.name})")
    for name, about in FIELDS.items():
        if about.group != group:
            continue
        value = getattr(recipe, name)
        shown = about.none if value is None and about.none else value
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": help_of(about.help, shown)}
        if not applies(recipe, name) and not parser.shows_all:
            options["help"] = argparse.SUPPRESS  # given all the same, it is an error that says why
        options |= reader(value_of(HINTS[name]), number_of(name), about.empty)
        if about.choices:
            options |= {"choices": about.choices, "metavar": None}
        elif about.unit:
            options["metavar"] = about.unit
        found.add_argument(*(f"--{n}" for n in (name, about.also) if n), **options)


def reader(value: Value, number: Number | None, empty: bool = False) -> dict[str, Any]:
    """How argparse reads a `Value`, or `number`s if it is such; `empty`: of a list, the bare flag is an empty one."""
    if value.kind is bool and value.length is None:
        return {"type": yes_no, **SWITCH}
    many = ("*" if empty else "+") if value.length == 0 else value.length
    if value.kind is str:
        return {"type": words, "nargs": many, "metavar": "NAME"}
    return {"type": number or Number(value.kind), "nargs": many, "metavar": "N" if value.kind is int else "X"}


def help_of(text: str, value: Any) -> str:
    """The help of a flag with its default behind it."""
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
    return f"{text} ({shown})".strip().replace("%", "%%")


def add_network(parser: Parser, recipe: Recipe) -> None:
    """Fields of the network, and the options that belong to this recipe's network and losses alone."""
    add_fields("network", parser, recipe)
    options, numbers = option_defaults(recipe), option_numbers(recipe)
    if not options:
        return
    title = f"of recipe {recipe.name} alone (arguments of {' and '.join(map(called, makers(recipe)))})"
    found = parser.add_argument_group(title)
    for name, default in options.items():
        if isinstance(default, tuple) and default:
            value = Value(type(default[0]), len(default))
        elif isinstance(default, (bool, int, float, str)):
            value = Value(type(default))
        else:
            continue  # no default says what it would be read as: it is set in the row
        read = {"dest": f"options.{name}", "default": argparse.SUPPRESS, **reader(value, numbers.get(name))}
        try:
            found.add_argument(f"--{name}", help=help_of("", default), **read)
        except argparse.ArgumentError:
            raise ValueError(
                f"recipe {recipe.name} ({recipe.place}): --{name} is a flag already; name that argument of its "
                "constructor otherwise"
            ) from None


def add_training(parser: Parser, recipe: Recipe) -> None:
    """Flags of a training that are no field of a recipe."""
    add = parser.add_argument_group("training").add_argument
    add("--all_splits", action="store_true", help="train and test every published split of a small set; mean and std")
    add("--repeat", type=Number(int, Range(1, 1_000)), default=1, metavar="N",
        help="train and test with N seeds from --seed on, a folder each; mean and std (default: 1)")  # fmt: skip
    add("--resume", type=yes_no_path, default=True, **SWITCH | {"metavar": "yes|no|FILE"},
        help="go on from last.pt in the output folder if there is one; FILE: else from this one, anybody's, after "
        "the epochs that it has behind it (default: yes)")  # fmt: skip
    add("--keep_best", action="store_true",
        help="with --validation_ids: the weights of the best mAP on the people held out, as model_best.pt")  # fmt: skip
    add("--logger", nargs="+", choices=(*loggers.PACKAGES, loggers.NONE),
        help="what gets the numbers of each epoch beside log.jsonl (default: tensorboard if installed)")  # fmt: skip
    add("--print_freq", type=Number(int, Range(0, 1_000_000)), default=0, metavar="N",
        help="a line of text every N iterations, 0 for none (default: 0)")  # fmt: skip
    add("--accumulate", type=Number(int, Range(1, 1_024)), default=1, metavar="N",
        help="train in N parts of a batch: less memory, the same gradients, but batch normalisation sees one part at a "
        "time (default: 1)")  # fmt: skip
    add("--grad_checkpoint", action="store_true", help="of transformers: less memory, a third more time")
    add("--sync_bn", action="store_true", help="under torchrun: batch normalisation over all processes, as one would")


def add_testing(parser: Parser, recipe: Recipe) -> None:
    """Flags of a test."""
    add_fields("testing", parser, recipe)
    add = parser.add_argument_group("testing").add_argument
    add("--weights", type=path, metavar="FILE",
        help="a checkpoint of ours or anybody's weight file; a training starts from it")  # fmt: skip
    add("--features", type=path, nargs="+", metavar="FILE",
        help="measure features or distances that are there already: the query's file and the gallery's, or one of both "
        "(.npz, .npy, .mat, .pt; docs/embedding.md)")  # fmt: skip
    add("--sie_cameras", type=words, metavar="NAME",
        help="the camera embeddings of --weights are those of this data set's cameras, in order (default: their mean)",
        )  # fmt: skip
    add("--resume_test_epoch", type=Number(int, EPOCHS), metavar="N", help="test model_N.pt of the output folder")
    add("--test_batch", type=Number(int, Range(1, 65_536)), metavar="N", default=128,
        help="images per batch in evaluation (default: 128)")  # fmt: skip
    add("--flip_test", action="store_true", help="average the features of each image and its mirror image")
    add("--rerank", action="store_true", help="report k-reciprocal re-ranking as well")
    add("--rerank_k1", type=NEIGHBOURS, default=20, metavar="N", help="neighbours that must be mutual (default: 20)")
    add("--rerank_k2", type=NEIGHBOURS, default=6, metavar="N", help="neighbours averaged over (default: 6)")
    add("--rerank_lambda", type=Number(float, SHARE), default=0.3, metavar="X",
        help="share of the first distance in the final one (default: 0.3)")  # fmt: skip
    add("--search_rerank", action="store_true", help="a table and a picture over k1, k2 and lambda of re-ranking")
    searched: dict[str, Any] = {
        "nargs": "+",
        "metavar": "X",
        "help": "values that it tries (default: the grid of tester.py)",
    }
    add("--search_k1", type=NEIGHBOURS, **searched)
    add("--search_k2", type=NEIGHBOURS, **searched)
    add("--search_lambda", type=Number(float, SHARE), **searched)
    add("--query_expansion", action=InTurn, numbers=(NEIGHBOURS, ALPHA), metavar=("K", "ALPHA"),
        help="alpha query expansion, e.g. 5 3")  # fmt: skip
    add("--multi_query", choices=("mean", "max"), help="pool all images of a query's person and camera (gt_bbox)")
    add("--details", action="store_true", help="same-person threshold, TPR at FPR, mAP per pair of cameras")
    add("--protocol", choices=tuple(PROTOCOLS), help="(default: the data set's)")
    add(
        "--ap",
        choices=("hits", "trapezoid"),
        default="hits",
        help="average precision: of the precisions at hits, or of trapezoids, as AlignedReID, beyond-part-models and "
        "the Matlab code of Market-1501 measure it (default: hits)",
    )
    add(
        "--draws",
        type=RANKS,
        metavar="N",
        help="galleries that protocol cuhk03 draws (default: 10; torchreid v0.0.9: 100)",
    )
    add("--draws_per_query", action="store_true", help="each query draws its own, as torchreid; not all the same")
    add("--max_rank", type=RANKS, default=50, metavar="N", help="length of the CMC curve (default: 50)")
    add(
        "--memory_gb",
        type=MEMORY,
        metavar="GIB",
        help="memory for evaluation and re-ranking (default: from what is free)",
    )


def add_visualizing(parser: Parser, recipe: Recipe) -> None:
    """Flags of pictures and of extraction."""
    add = parser.add_argument_group("visualizing and extracting").add_argument
    add(
        "--resume_visualize_epoch",
        type=Number(int, EPOCHS),
        metavar="N",
        help="draw with model_N.pt of the output folder",
    )
    add("--vis", nargs="+", choices=PICTURES, default=PICTURES, help="what to draw (default: all)")
    add("--top_k", type=NEIGHBOURS, default=10, metavar="N", help="gallery images per query (default: 10)")
    add(
        "--num_queries",
        type=Number(int, Range(0, 1_000_000)),
        default=20,
        metavar="N",
        help="queries to draw as strips; the page has all (default: 20)",
    )
    add("--num_maps", type=Number(int, Range(0, 1_000_000)), default=30_000, metavar="N",
        help="images of a page with an activation map; each costs what it does in a test (default: 30000)")  # fmt: skip
    add("--order", choices=("worst", "best", "random", "given"), default="worst", help="which first (default: worst)")
    add("--only", choices=("all", "right", "wrong"), default="all", help="queries whose first rank is (default: all)")
    add("--show_junk", action="store_true", help="show what the protocol removes, in grey")
    add(
        "--compare",
        type=path,
        metavar="FILE",
        help="other weights, or a run's folder: which queries got better, which worse",
    )
    add("--query_image", type=path, metavar="FILE", help="rank --gallery_path for one image, without labels")
    add("--gallery_path", type=path, metavar="DIR",
        help="folder of images, for --query_image, --mode extract and --mode export")  # fmt: skip
    add("--format", choices=("onnx", "torchreid"), default="onnx",
        help="what --mode export writes: a folder that needs nothing of the suite, or weights under torchreid's names, "
        "which boxmot and StrongSORT load too (default: onnx)")  # fmt: skip
    add("--quantize", choices=("int8",), help="model_int8.onnx too, with its loss of mAP on the sets that are given")


def fields_of(group: str):
    """The function that adds the flags of the fields declared in `group`."""
    return lambda parser, recipe: add_fields(group, parser, recipe)


GROUPS = {  # topic of the help -> what adds its flags
    "run": add_run,
    "data": add_data,
    "network": add_network,
    **{group: fields_of(group) for group in ("images", "batches", "tracklets", "optimisation", "losses")},
    "training": add_training,
    "testing": add_testing,
    "visualizing": add_visualizing,
}


# ---------------------------------------------------------------------------------------------------------------------
# From words to a recipe
# ---------------------------------------------------------------------------------------------------------------------


def dataset_options():
    """(data set, option, default) of every option of a parser that has no flag for all sets."""
    for name, entry in datasets.DATASETS.items():
        for option, default in entry.options.items():
            if option not in ("skip_bad", "multi_query"):
                yield name, option, default


def named_recipe(name: str) -> Recipe:
    """The recipe of this name; ValueError that proposes near names and lists all."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name.lower().replace("-", "_"), RECIPES, n=3)
        here = backbones.meaning(name)
        raise ValueError(
            f"there is no recipe '{name}'"
            + (f"; it is {here} here." if here else f"; did you mean {' or '.join(near)}?" if near else ".")
            + f" Recipes: {', '.join(RECIPES)}"
        )
    return RECIPES[name]


def parse(argv: list[str]) -> tuple[argparse.Namespace, Recipe]:
    """Two passes: find the recipe, then read every flag against its defaults. Returns (args, recipe with overrides).

    --help and --version end in SystemExit. A checkpoint of ours given as --weights, or found in the output folder by
    test and visualize, brings its own recipe; see ``main.load_for_test``.
    """
    argv = understood(argv)
    usage.answer(argv)
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe")
    first.add_argument("--mode")
    early = first.parse_known_args(argv)[0]
    name = early.recipe
    any_path = any(word.split("=")[0] in path_flags() for word in argv)
    recipe = named_recipe(name or ("bot" if any_path else "demo"))
    topic = usage.help_topic(argv)
    if topic is not None:
        parser = build_parser(recipe, topic or "all", shows_all=topic == "all" and name is None)
        parser.print_help()
        raise SystemExit(0)
    parser = build_parser(recipe)
    if early.mode == "report":
        parser.add_argument("runs", type=path, nargs="*", metavar="RUN")
    args = parser.parse_args(argv)
    if args.weights is not None:
        args.weights = reading.only_file(args.weights)
    args.recipe_given, args.command = name is not None, f"main.py {shlex.join(argv)}"
    flags = {flag: action.dest for action in parser._actions for flag in action.option_strings}
    words = {word.split("=")[0] for word in argv}
    args.said = {flags[flag] for flag in words & flags.keys()}
    check_needs(args.said - FIELDS.keys(), lambda name: getattr(args, name))
    if args.query_expansion and "metric" in args.said and args.metric != "cosine":
        raise ValueError(f"--query_expansion compares by cosine: leave out --metric {args.metric}")
    args.unread = sorted(words & set(unread(parser, args.mode)))
    if args.mode == "train":
        starts = {"--resume": args.resume if isinstance(args.resume, Path) else None, "--weights": args.weights}
        given = [flag for flag, file in starts.items() if file is not None]
        if len(given) + (getattr(args, "pretrained", "none") not in ("none", "imagenet")) > 1:
            both = " and ".join([*given, "--pretrained"][:2])
            raise ValueError(f"{both} both name what a training starts from: give one of them")
        for flag in given:
            args.pretrained, args.weights = str(starts[flag]), None
    return args, recipe


OR = " or --"  # between two, of which one will do


NEEDS = {  # flag -> the one without which it does nothing, and which of its values it takes (none here: any but off)
    **dict.fromkeys(("rerank_k1", "rerank_k2", "rerank_lambda"), ("rerank",)),
    "cache_path": ("cache", "disk"),
    **dict.fromkeys(("all_splits", "repeat"), ("mode", "train")),
    "sie_cameras": ("weights",),
    "k": ("p",),
    "alternate": ("balance_sigma",),
    "momentum": ("optimizer", "sgd", "rmsprop"),
    "nesterov": ("optimizer", "sgd"),
    "milestones": ("schedule", "multistep", "cosine", "exponential"),
    "fixbase_lr": ("fixbase_epochs",),
    "clip_by": ("clip_grad",),
    "gamma": ("schedule", "multistep", "exponential"),
    "lr_floor": ("schedule", "cosine"),
    **dict.fromkeys(("id_loss", "label_smoothing"), ("id_weight",)),
    **dict.fromkeys(("id_scale", "id_margin"), ("id_loss", "arcface", "cosface", "circle")),
    "focal_gamma": ("id_loss", "focal"),
    **dict.fromkeys(("mining", "margin", "hard_factor"), ("triplet_weight",)),
    **dict.fromkeys(("balance_alpha", "balance_gamma", "balance_rule"), ("balance_sigma",)),
    **dict.fromkeys(("local_mining", "local_margin"), ("local_triplet_weight",)),
    "center_lr": ("center_weight",),
    **dict.fromkeys(("circle_margin", "circle_gamma"), ("circle_weight",)),
    **dict.fromkeys(("erase_fill", "erase_area", "erase_log_aspect"), ("erase",)),
    **dict.fromkeys(("warmup_factor", "warmup_method"), (f"warmup_epochs{OR}warmup_iterations",)),
    "open_layers": (f"fixbase_epochs{OR}fixbase_iterations",),
    "fixbase_learns": ("fixbase_iterations",),
    **dict.fromkeys(("epoch_length", "across_cameras"), ("p",)),
    "enlarge": ("translate",),
    "frame_stride": ("sample_method", "stride"),
    "cut_tracklets": ("sample_method", "evenly", "random", "stride", "all"),
    "extra_channels": ("extra_colour",),
    "infrared_channels": ("infrared",),
    "erase_value": ("erase_fill", "value", "value_raw"),
    "start_eval": ("eval_every",),
    "keep_best": ("validation_ids",),
    "quantize": ("format", "onnx"),
    **dict.fromkeys(("search_k1", "search_k2", "search_lambda"), ("search_rerank",)),
    "local_weight": ("test_distance", "both"),
}


def check_needs(names: Collection[str], value: Callable[[str], Any]) -> None:
    """ValueError if one of the flags `names` does nothing; `value` is that of any flag."""
    for name in sorted(NEEDS.keys() & names):
        needed, *values = NEEDS[name]
        found = next(filter(None, map(value, needed.split(OR))), 0) if OR in needed else value(needed)
        if not (found in values if values else found):
            has = "is not given" if found is None or found is False else f"is {found}"
            wanted = " ".join((needed, " or ".join(values))).strip()
            raise ValueError(f"--{name} does nothing, since --{needed} {has}: give --{wanted} with it, or leave it out")


WITH_A_NETWORK = tuple(mode for mode in MODES if mode != "report")
READ = {  # topic of the help, or flag -> the modes that read it; what is not here may be read by all but report
    **dict.fromkeys(("optimisation", "losses", "training"), ("train",)),
    **dict.fromkeys(("amp", "compile", "cuda_graphs", "cache", "cache_path"), ("train",)),
    **dict.fromkeys(("resume_test_epoch", "features"), ("test",)),
    **dict.fromkeys(("resume_visualize_epoch", "vis", "query_image", "compare"), ("visualize",)),
    "gallery_path": ("visualize", "extract", "export"),
    **dict.fromkeys(("format", "quantize"), ("export",)),
    **dict.fromkeys(("num_queries", "num_maps", "top_k", "order", "only", "show_junk"), ("train", "visualize")),
    **dict.fromkeys(("images", "batches", "tracklets", "use_all_images"), ("train", "visualize")),
    **dict.fromkeys(("image_size", "interpolation", "test_interpolation", "mean", "std"), WITH_A_NETWORK),
    **dict.fromkeys(("infrared", "seq_len", "temporal_pooling", "test_frames"), WITH_A_NETWORK),
    **dict.fromkeys(("help", "version", "mode", "debug", "output_path", "test_dataset", "seed"), MODES),
}


def unread(parser: Parser, mode: str) -> list[str]:
    """The flags that `mode` does not read."""
    topics = {
        action: (group.title or "").split(" (")[0] for group in parser._action_groups for action in group._group_actions
    }
    modes = {action: READ.get(action.dest, READ.get(topic, WITH_A_NETWORK)) for action, topic in topics.items()}
    return [flag for action in modes if mode not in modes[action] for flag in action.option_strings]


def path_flags() -> set[str]:
    """The --NAME_path flags of data sets and aliases, without those that the program makes itself."""
    names = (*datasets.DATASETS, *datasets.ALIASES)
    built_in = {name for name, entry in datasets.DATASETS.items() if not entry.needs_path}
    return {f"--{name}_path" for name in names if name not in built_in}


def overrides(args: argparse.Namespace) -> dict:
    """Recipe fields and options that the user set, as plain values: a checkpoint keeps them with the recipe's name."""
    named = {name.removeprefix("options."): value for name, value in vars(args).items()}
    given = {name: value for name, value in named.items() if name in FIELDS or f"options.{name}" in vars(args)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def customised(recipe: Recipe, given: dict) -> Recipe:
    """`recipe` with the user's values of fields and options; ValueError where they contradict one another."""
    for name in given:
        if name not in FIELDS and name not in option_defaults(recipe):
            raise ValueError(f"recipe {recipe.name} has neither a field nor an option {name}")
    check_given(recipe, given)
    if "batch_size" in given and given.get("p", recipe.p):
        raise ValueError(
            f"recipe {recipe.name} draws P x K = {recipe.p} x {recipe.k} images; give --p and --k, or --p 0 with "
            "--batch_size for shuffled batches"
        )
    if given.get("p", recipe.p) == 1 and given.get("triplet_weight", recipe.triplet_weight):
        raise ValueError("--p 1 puts one identity into a batch: a triplet loss then has no negatives; use at least 2")
    if given.get("p", recipe.p) and given.get("k", recipe.k) < 1:
        raise ValueError(f"--p {given.get('p', recipe.p)} needs --k, the images of each identity (4 in most recipes)")
    check_network_fields(recipe, given)
    if given.get("schedule", recipe.schedule) != recipe.schedule:
        given = {"milestones": ()} | given  # those of the recipe belong to its own schedule
        if given["schedule"] == "multistep" and not given["milestones"]:
            raise ValueError(f"--schedule multistep needs --milestones; recipe {recipe.name} has none of its own")
    recipe = with_values(recipe, given)
    if recipe.frame_by_frame and recipe.temporal_pooling == "attention":
        raise ValueError("--temporal_pooling attention learns from whole tracklets: leave out --frame_by_frame")
    if recipe.p * recipe.k == 1:
        raise ValueError("--p 1 --k 1 is a batch of one image, of which no batch norm has a mean; give more of one")
    if recipe.optimizer == "sgd" and recipe.nesterov and not recipe.momentum:
        raise ValueError("--nesterov needs a --momentum above 0")
    if not recipe.weighs_a_loss:
        raise ValueError("every loss has weight 0, so there is nothing to learn from: give --id_weight or another")
    start = recipe.optimizer_reset
    if start != "never" and not any(getattr(recipe, f"{start}_{unit}") for unit in ("epochs", "iterations")):
        raise ValueError(f"--optimizer_reset {start} does nothing without it: give --{start}_epochs, or leave it out")
    if recipe.pretrained == "none" and not recipe.stages:  # freezing protects pretrained layers; there are none
        recipe = recipe.with_(fixbase_epochs=0, fixbase_iterations=0)
    recipe.plan()  # raises where its stages do not fit into its epochs
    return recipe
