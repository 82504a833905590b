"""The command line of ``main.py``: flags, their groups, and how they override a recipe."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

import datasets
import loaders
import train
from config import applies, check_network_fields
from loading.samplers import SAMPLE_METHODS
from networks.blocks import POOLINGS
from recipes import RECIPES, Recipe

MODES = ("train", "test", "visualize", "extract", "check")
PICTURES = ("ranks", "batch", "curves", "actmap")
FIXED_FIELDS = {"options"}  # recipe fields without a flag: what a method is, not how it is trained


def yes_no(text: str) -> bool:
    """`yes` or `no` as bool."""
    if text.lower() not in ("yes", "no", "true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"expected yes or no, found '{text}'")
    return text.lower() in ("yes", "true", "1")


def margin_or_soft(text: str) -> float | None:
    """A margin, or `soft` (None)."""
    return None if text.lower() in ("soft", "none") else float(text)


# Flags of recipe fields: group -> (field, type, help, other spellings). None as type is a yes|no switch.
RECIPE_FLAGS = {
    "network": [
        ("backbone", str, "torchvision or timm name, or one of ours (osnet_x1_0, resnet50_ibn_a, ...)", "cnnbackbone"),
        ("pretrained", str, "imagenet, none, or a weight file to start from", None),
        ("stem_relu", None, "ReLU after the stem of a ResNet; no: as in released BoT weights", None),
        ("stem_ceil", None, "stem of a ResNet pooled without padding: as in fast-reid's weights", None),
        ("last_stride", int, "stride of the last ResNet stage", None),
        ("pooling", str, "of the last map to a feature", None),
        ("neck", str, "bnneck or none", None),
        ("test_neck", str, "compare features after or before the neck", None),
        ("metric_neck", str, "metric losses read features after or before the neck", None),
        ("fc_dims", int, "widths of Linear-BN-ReLU reductions; the bare flag for none", None),
        ("sie_weight", float, "weight of TransReID's camera embedding, 0 for none", None),
        ("members", int, "networks that learn from each other", None),
    ],
    "images": [
        ("image_size", int, "height and width in pixels", None),
        ("interpolation", str, "bilinear or bicubic", None),
        ("flip", float, "probability of a horizontal flip", None),
        ("pad", int, "black border in pixels before the random crop", None),
        ("translate", float, "probability of torchreid's enlarge-and-crop", None),
        ("erase", float, "probability of random erasing", None),
        ("erase_fill", str, "what is erased to: mean_raw, mean, black or pixel", None),
        ("color_jitter", float, "probability of colour jitter", None),
        ("random_patch", float, "probability of torchreid's random patch", None),
    ],
    "batches": [
        ("p", int, "identities in a batch; 0: shuffled images", None),
        ("k", int, "images of each identity", None),
        ("batch_size", int, "images in a shuffled batch (with --p 0)", None),
        ("steps", int, "iterations per epoch; published results depend on it", None),
        ("alternate", None, "with --balance_sigma: shuffled batches where the ID loss trains alone", None),
        ("infrared", None, "p x k images of each light, for two-stream networks", None),
    ],
    "tracklets (of video sets, batches count tracklets)": [
        ("seq_len", int, "frames of a tracklet", None),
        ("sample_method", str, "which of them in training", None),
        ("frame_by_frame", None, "train on each frame alone, as torchreid; pooled in the test only", None),
        ("same_augmentation", None, "one augmentation for all frames of a tracklet", None),
        ("temporal_pooling", str, "of the frames' features", None),
        ("test_frames", str, "all; seq_len of them evenly; dense: all, in clips of seq_len", None),
    ],
    "optimisation": [
        ("optimizer", str, ", ".join(train.OPTIMIZERS), None),
        ("lr", float, "learning rate of new layers", "base_learning_rate"),
        ("base_lr_mult", float, "learning rate of the backbone over --lr", None),
        ("bias_lr_mult", float, "learning rate of biases over that of their layer", None),
        ("weight_decay", float, "L2 penalty", None),
        ("momentum", float, "of SGD", None),
        ("nesterov", None, "SGD with Nesterov momentum", None),
        ("clip_grad", float, "largest gradient norm, 0 for no clipping", None),
        ("epochs", int, "epochs in all", "total_train_epochs"),
        ("fixbase_epochs", int, "epochs at the start that train new layers only", None),
        ("schedule", str, ", ".join(train.SCHEDULES), None),
        ("milestones", int, "epochs done when the rate drops; cosine and exponential: begins to fall", None),
        ("gamma", float, "factor of a drop, or of the whole exponential fall", None),
        ("lr_floor", float, "end of a cosine over --lr", None),
        ("warmup_epochs", int, "epochs of linear warm-up", None),
        ("warmup_factor", float, "where the warm-up starts", None),
        ("eval_every", int, "epochs between evaluations, 0 for only the last", None),
    ],
    "losses": [
        ("reduction", str, "over the features of a network that has several: mean, sum or half", None),
        ("id_weight", float, "weight of the identity loss", None),
        ("id_loss", str, "softmax, focal, arcface, cosface or circle", None),
        ("label_smoothing", float, "of the identity loss", None),
        ("id_scale", float, "s of arcface, cosface and circle", None),
        ("id_margin", float, "m of arcface (radians), cosface and circle", None),
        ("focal_gamma", float, "gamma of the focal loss", None),
        ("triplet_weight", float, "weight of the triplet loss", None),
        ("mining", str, "hard: batch-hard; weighted: all pairs, as AGW", None),
        ("margin", margin_or_soft, "of the triplet loss, or soft", None),
        ("hard_factor", float, "makes hard triplets harder", None),
        ("triplet_normalize", None, "L2-normalise features in the triplet loss", None),
        ("local_triplet_weight", float, "weight of AlignedReID's triplet loss on parts", None),
        ("local_mining", str, "distance that finds its hard samples: global or local", None),
        ("normalize_parts", None, "L2-normalise parts, in the loss and at test", None),
        ("balance_sigma", float, "threshold of Pyramid's dynamic training, 0 for none", None),
        ("balance_alpha", float, "its share of the newest loss in the running mean", None),
        ("balance_gamma", float, "its focusing exponent", None),
        ("center_weight", float, "weight of the center loss", None),
        ("center_lr", float, "learning rate of the centers", None),
        ("circle_weight", float, "weight of the circle loss on pairs", None),
        ("circle_margin", float, "its m", None),
        ("circle_gamma", float, "its gamma", None),
        ("ring_weight", float, "weight of the ring loss", None),
        ("mutual_kl_weight", float, "weight of the members' classification mutual loss", None),
        ("mutual_distance_weight", float, "weight of the members' distance mutual loss", None),
    ],
    "test": [
        ("metric", str, "euclidean or cosine", None),
        ("test_distance", str, "global: embeddings; local: aligned parts; both: their sum", None),
        ("local_weight", float, "weight of the local distance in the sum", None),
    ],
}
LISTS = {"image_size": 2, "milestones": "+", "fc_dims": "*"}
CHOICES = {
    "neck": ("bnneck", "none"),
    "test_neck": ("after", "before"),
    "metric_neck": ("after", "before"),
    "pooling": tuple(POOLINGS),
    "reduction": ("mean", "sum", "half"),
    "id_loss": ("softmax", "focal", "arcface", "cosface", "circle"),
    "mining": ("hard", "weighted"),
    "local_mining": ("global", "local"),
    "test_distance": ("global", "local", "both"),
    "interpolation": ("bilinear", "bicubic"),
    "sample_method": SAMPLE_METHODS,
    "temporal_pooling": ("avg", "max", "attention"),
    "test_frames": loaders.TEST_FRAMES,
    "optimizer": train.OPTIMIZERS,
    "schedule": train.SCHEDULES,
    "metric": ("euclidean", "cosine"),
}


class HelpFormatter(argparse.HelpFormatter):
    """Help in 120 columns, the texts of the flags from column 34 on at the latest."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=34, width=120)


class Parser(argparse.ArgumentParser):
    """argparse whose error for a misspelt flag names the nearest one."""

    def error(self, message: str):
        flags = [flag for action in self._actions for flag in action.option_strings]
        words = message.removeprefix("unrecognized arguments: ").split()
        near = [m for w in words if w.startswith("--") for m in difflib.get_close_matches(w.split("=")[0], flags, n=1)]
        hint = f" (did you mean {', '.join(near)}?)" if message.startswith("unrecognized") and near else ""
        self.exit(2, f"error: {message}{hint}\nSee python main.py --help\n")


def build_parser(recipe: Recipe) -> argparse.ArgumentParser:
    """All flags, with `recipe`'s own values as the defaults that --help shows."""
    parser = Parser(
        prog="main.py",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        description="Train, test and visualize person re-identification models. With no data set path the built-in "
        "synthetic set is made and used (a demonstration, not a benchmark).",
        epilog=f"Defaults shown for recipe {recipe.name}: {recipe.title}. Recipes: {', '.join(RECIPES)}.",
    )
    add = parser.add_argument_group("run").add_argument
    add("--mode", choices=MODES, default="train", help="what to do (default: train)")
    add("--recipe", metavar="NAME", help="a row of recipes.py (default: bot; demo on the built-in set)")
    add("--output_path", type=Path, metavar="DIR", help="where results go (default: runs/<recipe>_<training sets>)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    add("--seed", type=int, default=0, help="(default: 0)")
    add("--amp", choices=("auto", "none", "bf16", "fp16"), default="auto",
        help="mixed precision in training; auto: bf16 where the processor has it (default: auto)")  # fmt: skip
    add("--channels_last", type=yes_no, nargs="?", const=True, default=True, metavar="yes|no",
        help="memory format of images and weights (default: yes)")  # fmt: skip
    add("--compile", action="store_true", help="torch.compile the network; pays in long runs only")
    add("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice (default: 0)")
    add("--workers", type=int, default=0, help="decoding threads, 0 for one per core (default: 0)")
    add("--cache", choices=("auto", "ram", "gpu", "disk", "none"), default="auto",
        help="where decoded training images are kept (default: auto)")  # fmt: skip
    add("--cache_path", type=Path, metavar="DIR", help="folder of --cache disk (default: <output_path>/cache)")
    add("--skip_bad_images", action="store_true", help="leave unreadable images out, named and counted")
    add("--debug", action="store_true", help="show Python's traceback of an error")

    add = parser.add_argument_group("data sets (paths as unpacked by you; nothing is ever downloaded)").add_argument
    for name, entry in datasets.DATASETS.items():
        spellings = [f"--{n}_path" for n in (name, *(a for a, to in datasets.ALIASES.items() if to == name))]
        add(*dict.fromkeys(spellings), type=Path, metavar="DIR", dest=f"{name}_path", help=entry.title)
    add("--validation_ids", type=int, default=0, metavar="N",
        help="people held out of training, as a test set <name>_val to choose parameters on (default: 0)")  # fmt: skip
    add("--use_all_images", action="store_true", help="train on query and gallery images too (to test on other sets)")
    add("--train_dataset", nargs="+", metavar="NAME", help="sets to train on (default: each that has a path)")
    add("--test_dataset", nargs="+", metavar="NAME", help="sets to test on (default: each that has a path)")
    for name, option, default in dataset_options():
        add(f"--{name}_{option}", type=yes_no if isinstance(default, bool) else type(default), nargs="?",
            const=True if isinstance(default, bool) else None, default=default, metavar="yes|no"
            if isinstance(default, bool) else "N", help=f"option of {name} (default: {default})")  # fmt: skip

    for title, rows in RECIPE_FLAGS.items():
        group = parser.add_argument_group(f"{title} (defaults of recipe {recipe.name})")
        for field, kind, text, other in rows:
            default = getattr(recipe, field)
            default = "soft" if field == "margin" and default is None else default
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
            options = {"dest": field, "default": argparse.SUPPRESS, "help": f"{text} ({shown})"}
            if not applies(recipe, field):
                options["help"] = argparse.SUPPRESS  # given all the same, it is an error that says why
            if kind is None:
                options |= {"type": yes_no, "nargs": "?", "const": True, "metavar": "yes|no"}
            else:
                options |= {"type": kind, "nargs": LISTS.get(field), "choices": CHOICES.get(field)}
                if field not in CHOICES:
                    options["metavar"] = {"image_size": ("H", "W")}.get(field, "X" if kind is not str else "NAME")
            group.add_argument(*(f"--{n}" for n in (field, other) if n), **options)

    add = parser.add_argument_group("training").add_argument
    add("--all_splits", action="store_true", help="train and test every published split of a small set; mean and std")
    add("--resume", type=yes_no, nargs="?", const=True, default=True, metavar="yes|no",
        help="go on from last.pt in the output folder if there is one (default: yes)")  # fmt: skip
    add("--accumulate", type=int, default=1, metavar="N",
        help="train in N parts of a batch: less memory, the same gradients, but batch normalisation sees one part at a "
        "time (default: 1)")  # fmt: skip
    add("--grad_checkpoint", action="store_true", help="of transformers: less memory, a third more time")
    add("--sync_bn", action="store_true", help="under torchrun: batch normalisation over all processes, as one would")

    add = parser.add_argument_group("testing").add_argument
    add("--weights", type=Path, metavar="FILE", help="a checkpoint of ours or anybody's weight file")
    add("--resume_test_epoch", type=int, metavar="N", help="test model_N.pt of the output folder")
    add("--test_batch", type=int, default=128, help="images per batch in evaluation (default: 128)")
    add("--flip_test", action="store_true", help="average the features of each image and its mirror image")
    add("--rerank", action="store_true", help="report k-reciprocal re-ranking as well")
    add("--rerank_k1", type=int, default=20, help="(default: 20)")
    add("--rerank_k2", type=int, default=6, help="(default: 6)")
    add("--rerank_lambda", type=float, default=0.3, help="(default: 0.3)")
    add("--search_rerank", action="store_true", help="a table and a picture over k1, k2 and lambda of re-ranking")
    add("--query_expansion", type=float, nargs=2, metavar=("K", "ALPHA"), help="alpha query expansion, e.g. 5 3")
    add("--multi_query", choices=("mean", "max"), help="pool all images of a query's person and camera (gt_bbox)")
    add("--details", action="store_true", help="same-person threshold, TPR at FPR, mAP per pair of cameras")
    add("--protocol", choices=("market1501", "cuhk03", "sysu", "none"), help="(default: the data set's)")
    add("--max_rank", type=int, default=50, help="length of the CMC curve (default: 50)")
    add("--memory_gb", type=float, help="memory for evaluation and re-ranking (default: from what is free)")

    add = parser.add_argument_group("visualizing and extracting").add_argument
    add("--resume_visualize_epoch", type=int, metavar="N", help="draw with model_N.pt of the output folder")
    add("--vis", nargs="+", choices=PICTURES, default=PICTURES, help="what to draw (default: all)")
    add("--top_k", type=int, default=10, help="gallery images per query (default: 10)")
    add("--num_queries", type=int, default=20, help="queries to draw (default: 20)")
    add("--order", choices=("worst", "best", "random", "given"), default="worst", help="which first (default: worst)")
    add("--only", choices=("all", "right", "wrong"), default="all", help="queries whose first rank is (default: all)")
    add("--show_junk", action="store_true", help="show what the protocol removes, in grey")
    add("--query_image", type=Path, metavar="FILE", help="rank --gallery_path for one image, without labels")
    add("--gallery_path", type=Path, metavar="DIR", help="folder of images, for --query_image and --mode extract")
    return parser


def dataset_options():
    """(data set, option, default) of every option of a parser that has no flag for all sets."""
    for name, entry in datasets.DATASETS.items():
        for option, default in entry.options.items():
            if option not in ("skip_bad", "multi_query"):
                yield name, option, default


def named_recipe(name: str) -> Recipe:
    """The recipe of this name; ValueError that proposes near names and lists all."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3)
        raise ValueError(
            f"there is no recipe '{name}'"
            + (f"; did you mean {' or '.join(near)}?" if near else ".")
            + f" Recipes: {', '.join(RECIPES)}"
        )
    return RECIPES[name]


def parse(argv: list[str]) -> tuple[argparse.Namespace, Recipe]:
    """Two passes: find the recipe, then read every flag against its defaults. Returns (args, recipe with overrides).

    A checkpoint of ours given as --weights, or found in the output folder by test and visualize, brings its own
    recipe; see ``resolve``.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe")
    name = first.parse_known_args(argv)[0].recipe
    any_path = any(word.split("=")[0] in path_flags() for word in argv)
    recipe = named_recipe(name or ("bot" if any_path else "demo"))
    args = build_parser(recipe).parse_args(argv)
    args.recipe_given = name is not None
    flags = {word.split("=")[0].lstrip("-") for word in argv if word.startswith("--")}
    args.defaulted = set(vars(args)) - flags  # what the user did not say
    return args, recipe


def path_flags() -> set[str]:
    """The --NAME_path flags of data sets and aliases, without those that the program makes itself."""
    names = (*datasets.DATASETS, *datasets.ALIASES)
    built_in = {name for name, entry in datasets.DATASETS.items() if not entry.needs_path}
    return {f"--{name}_path" for name in names if name not in built_in}


def overrides(args: argparse.Namespace) -> dict:
    """Recipe fields that the user set, as plain values."""
    fields = {field for rows in RECIPE_FLAGS.values() for field, *_ in rows}
    given = {name: value for name, value in vars(args).items() if name in fields}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def customised(recipe: Recipe, given: dict) -> Recipe:
    """`recipe` with the user's values; ValueError where they contradict one another."""
    if "batch_size" in given and given.get("p", recipe.p):
        raise ValueError(
            f"recipe {recipe.name} draws P x K = {recipe.p} x {recipe.k} images; give --p and --k, or --p 0 with "
            "--batch_size for shuffled batches"
        )
    if given.get("p", recipe.p) == 1 and recipe.with_(**given).triplet_weight:
        raise ValueError("--p 1 puts one identity into a batch: a triplet loss then has no negatives; use at least 2")
    if given.get("p", recipe.p) and given.get("k", recipe.k) < 1:
        raise ValueError(f"--p {given.get('p', recipe.p)} needs --k, the images of each identity (4 in most recipes)")
    for field in ("epochs", "batch_size"):
        if given.get(field, 1) < 1:
            raise ValueError(f"--{field} must be at least 1, found {given[field]}")
    if any(side < 8 for side in given.get("image_size", (8,))):
        raise ValueError(f"--image_size is height and width in pixels, found {given['image_size']}")
    check_network_fields(recipe, given)
    if given.get("schedule", recipe.schedule) != recipe.schedule:
        given = {"milestones": ()} | given  # those of the recipe belong to its own schedule
        if given["schedule"] == "multistep" and not given["milestones"]:
            raise ValueError(f"--schedule multistep needs --milestones; recipe {recipe.name} has none of its own")
    recipe = recipe.with_(**given)
    if recipe.frame_by_frame and recipe.temporal_pooling == "attention":
        raise ValueError("--temporal_pooling attention learns from whole tracklets: leave out --frame_by_frame")
    if recipe.pretrained == "none" and recipe.fixbase_epochs and not recipe.stages:
        recipe = recipe.with_(fixbase_epochs=0)  # freezing protects pretrained layers; there are none
    recipe.plan()  # raises where its stages do not fit into its epochs
    return recipe
