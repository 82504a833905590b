"""The command line: help on one screen before torch is there, flags as they are declared, errors in one line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trees

import cli
import main
from config import FIELDS, Term
from machine import packages, usage
from machine.ranges import FINITE
from machine.version import VERSION
from networks import backbones
from recipes import RECIPES
from rows import table

ROOT = Path(__file__).parents[1]
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; sys.argv[0] = 'main.py'; import runpy; "
WITHOUT_TORCH += "runpy.run_path('main.py', run_name='__main__')"  # importing torch is an ImportError there


def without_torch(*words) -> subprocess.CompletedProcess:
    """``python main.py`` with these words, where torch cannot be imported."""
    return subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], cwd=ROOT, capture_output=True, text=True)


# ---------------------------------------------------------------------------------------------------------------------
# Help
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--mode", "test", "--help"], ["--help", "--debug"]])
def test_help_needs_no_torch_and_fits_a_screen(words):
    done = without_torch(*words)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100


def test_the_screen_names_what_there_is():
    modes = re.findall(r"^  (\w+) ", usage.USAGE[: usage.USAGE.index("What most")], re.MULTILINE)
    assert tuple(modes) == cli.MODES
    flags = {flag for action in cli.build_parser(RECIPES["bot"])._actions for flag in action.option_strings}
    assert set(re.findall(r"--\w+", usage.USAGE)) <= flags
    assert tuple(cli.GROUPS) == usage.TOPICS and all(re.search(rf"\b{topic}\b", usage.USAGE) for topic in usage.TOPICS)


def test_version_needs_no_torch():
    done = without_torch("--version")
    assert done.returncode == 0 and re.fullmatch(rf"main\.py {re.escape(VERSION)}( [0-9a-f]{{12}}\+?)?\n", done.stdout)


def test_a_topic_that_does_not_exist_is_answered_with_those_that_do():
    done = without_torch("--help", "netwrk")
    assert done.returncode == 2 and "did you mean network?" in done.stderr and done.stderr.count("\n") == 1
    assert all(topic in done.stderr for topic in ("all", *usage.TOPICS))


def test_a_torch_that_cannot_be_imported_is_one_message(tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    command = [sys.executable, "main.py", "--mode", "test"]
    paths = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=paths)
    assert done.returncode == 1 and done.stderr.startswith("error: torch and torchvision cannot be imported together")
    assert "--force-reinstall torch torchvision" in done.stderr and "Traceback" not in done.stderr


SCRIPTS = [
    path
    for path in (*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "docs").glob("*.py"))
    if '__name__ == "__main__"' in path.read_text() and path.name != "architecture.py"  # which needs no package
]


@pytest.mark.parametrize("script", [ROOT / "main.py", ROOT / "test_smoke.py", *SCRIPTS], ids=lambda path: path.name)
def test_missing_packages_are_one_message_before_anything_is_imported(script):
    code = "import runpy, sys; gone, script, folder = sys.argv[1:]; sys.modules.update(dict.fromkeys(gone.split())); "
    code += "sys.argv = [script]; sys.path.insert(0, folder); runpy.run_path(script, run_name='__main__')"
    command = [sys.executable, "-c", code, "torch tqdm safetensors pytest", str(script), str(script.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    named = "torch (not installed), tqdm (not installed), safetensors (not installed)"
    named += ", pytest (not installed)" if script.name == "test_smoke.py" else ""
    assert done.returncode == 1 and done.stderr.startswith(
        f"error: packages of {sys.executable} are missing or too old: {named}."
    )
    assert done.stderr.endswith("Do: python -m pip install -r requirements.txt\n") and done.stderr.count("\n") == 2


@pytest.mark.parametrize(
    ("installed", "does"),
    [
        ("1.0.9", True),
        ("1.0.22", True),
        ("1.1", True),
        ("2.14.1+cu130", True),
        ("1.0.8", False),
        ("0.9.16", False),
        ("1", False),
    ],
)
def test_an_old_package_is_named_with_its_version_and_the_oldest_that_will_do(installed, does, monkeypatch):
    monkeypatch.setattr(packages, "required", lambda: {"timm": "1.0.9"})
    monkeypatch.setattr(packages.metadata, "version", lambda name: installed)
    assert packages.lacking("timm", "1.0.9") == (None if does else f"timm ({installed}; 1.0.9 or newer is needed)")
    for create in (backbones.create, backbones.vision_transformer) if not does else ():
        with pytest.raises(RuntimeError, match="Backbone 'vit_small_patch16_224' needs the package timm"):
            create("vit_small_patch16_224")


def test_an_old_python_is_named_before_any_package():
    code = "import sys; from machine import packages; sys.version_info = (3, 9, 18, 'final', 0); packages.check()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    message = f"error: Python 3.9.18 ({sys.executable}) is too old: 3.10 or newer is needed.\n"
    assert (done.returncode, done.stderr) == (1, message) and "Python 3.10 or newer" in (ROOT / "README.md").read_text()


def test_requirements_are_read_whole_and_a_copy_without_them_asks_for_nothing(tmp_path, monkeypatch):
    lines = [line for line in packages.REQUIREMENTS.read_text().splitlines() if line and line[0] != "#"]
    assert [f"{name}>={oldest}" for name, oldest in packages.required().items()] == lines
    assert packages.ON_DEMAND | packages.OF_TESTS | packages.OF_STYLE | set(packages.IMPORTED_AS) <= set(
        packages.required()
    )
    monkeypatch.setattr(packages, "REQUIREMENTS", tmp_path / "requirements.txt")
    assert packages.required() == {} and packages.check(tests=True) is None


def shown(capsys, *words) -> str:
    """What `words`, which ask for help, print."""
    with pytest.raises(SystemExit) as stopped:
        cli.parse(list(words))
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("topic", usage.TOPICS)
def test_a_topic_shows_its_flags_alone(topic, capsys):
    text = shown(capsys, "--recipe", "bot", "--help", topic)
    mine = {name for name, about in FIELDS.items() if about.group == topic and cli.applies(RECIPES["bot"], name)}
    others = {name for name, about in FIELDS.items() if about.group != topic}
    listed = set(re.findall(r"^  --(\w+)", text, re.MULTILINE))
    assert listed and mine <= listed and not others & listed


def test_all_shows_every_flag_and_a_recipe_its_paper_and_source(capsys):
    every = shown(capsys, "--help", "all")
    text = shown(capsys, "--recipe", "pyramid", "--help")
    for name, about in FIELDS.items():
        assert f"--{name}" in every and (f"--{name} " in text) == cli.applies(RECIPES["pyramid"], name)
        assert not about.also or f"--{about.also}" in every
    flat = " ".join(text.split())
    assert RECIPES["pyramid"].paper in flat and RECIPES["pyramid"].source in flat
    assert "--image_size H W height and width in pixels (384 128)" in flat and "--branch_dim N (128)" in flat


# ---------------------------------------------------------------------------------------------------------------------
# Flags
# ---------------------------------------------------------------------------------------------------------------------


def given(*words) -> dict:
    """What `words` override, of fields and of options."""
    return cli.overrides(cli.parse(["--recipe", "pcb", *words])[0])


@pytest.mark.parametrize(("words", "expected"), [
    ("--lr 0.5", {"lr": 0.5}),
    ("--base_learning_rate 0.5 --total_train_epochs 7 --cnnbackbone resnet18",
     {"lr": 0.5, "epochs": 7, "backbone": "resnet18"}),
    ("--image_size 64 32", {"image_size": (64, 32)}),
    ("--milestones 3", {"milestones": (3,)}),
    ("--fc_dims", {"fc_dims": ()}),
    ("--fc_dims 64 32", {"fc_dims": (64, 32)}),
    ("--margin soft", {"margin": None}),
    ("--margin 0.2", {"margin": 0.2}),
    ("--nesterov", {"nesterov": True}),
    ("--nesterov no", {"nesterov": False}),
    ("--steps 5", {"steps": 5}),
    ("--parts 3 --dropout 0 --shared_reduction no --test_feature after",
     {"parts": 3, "dropout": 0.0, "shared_reduction": False, "test_feature": "after"}),
    ("", {}),
])  # fmt: skip
def test_a_flag_becomes_the_value_of_its_field(words, expected):
    found = given(*words.split())
    assert found == expected and all(type(found[name]) is type(value) for name, value in expected.items())


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_value_of_every_row_can_be_said_by_its_flag(name):
    """The flags that say what a row has give that row."""
    recipe, words = RECIPES[name], []
    for field, about in FIELDS.items():
        value = getattr(recipe, field)
        if not cli.applies(recipe, field) or (value is None and not about.none) or (value == () and not about.empty):
            continue
        value = about.none if value is None else value
        value = ("no", "yes")[value] if isinstance(value, bool) else value
        words += [f"--{field}", *map(str, value if isinstance(value, tuple) else (value,))]
    args, _ = cli.parse(["--recipe", name, *words])
    assert recipe.with_(**cli.overrides(args)) == recipe


def test_options_reach_the_network_and_are_kept_apart_from_those_of_the_row():
    recipe = cli.customised(RECIPES["pcb"], {"parts": 3, "backbone": "resnet18"})
    assert recipe.options == RECIPES["pcb"].options | {"parts": 3} and recipe.backbone == "resnet18"
    assert len(recipe.outline(4).feat_dims) == 3 and RECIPES["pcb"].options["parts"] == 6
    with pytest.raises(ValueError, match="recipe bot has neither a field nor an option parts"):
        cli.customised(RECIPES["bot"], {"parts": 3})


@pytest.mark.parametrize(("words", "message"), [
    ("--recipe pcb --lrr 3", "unrecognized arguments: --lrr 3 (did you mean --lr?)"),
    ("--recipe pcb --part 3", "unrecognized arguments: --part 3 (did you mean --parts?)"),
    ("--recipe bot --branch_dim 3", "--branch_dim is an option of recipe pyramid: name it with --recipe"),
    ("--recipe bot --lr high",
     "argument --lr/--base_learning_rate: expected a number (above 0 to 1,000,000), found 'high'"),
    ("--seed -1", "argument --seed: expected a whole number (0 to 4,294,967,295), found '-1'"),
    ("--margin -1", "argument --margin: expected a number (0 to 1,000) or soft, found '-1'"),
    ("--query_expansion 5.5 3", "argument --query_expansion: expected a whole number (1 to 1,000), found '5.5'"),
    ("--recipe", "argument --recipe: expected one argument"),
    ("--recipe bot --schedule cosin", "argument --schedule: invalid choice: 'cosin'"),
    ("--recipe bot --erase_fill grey", "argument --erase_fill: invalid choice: 'grey'"),
    ("--recipe bot --nesterov maybe", "argument --nesterov: expected yes or no, found 'maybe'"),
    ("--recipe bot --image_size 64", "argument --image_size: expected 2 arguments"),
])  # fmt: skip
def test_a_wrong_flag_is_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.parse(words.split())
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.startswith("error: ") and message in error.splitlines()[0]
    assert error.splitlines()[1:] == ["See python main.py --help"]


# ---------------------------------------------------------------------------------------------------------------------
# Ranges, of every flag that there is
# ---------------------------------------------------------------------------------------------------------------------

WRONG = ("-1", "0", "nan", "inf", "-inf", "1e400", "9" * 60, "1.5", "", " ", "x", "1,5", "None", "True", "1j", "0x10")
WITH_OPTIONS = sorted({tuple(sorted(cli.option_defaults(each))): name for name, each in RECIPES.items()}.values())


def undeclared(parser) -> list[str]:
    """The flags that read a number without a range."""
    free = lambda each: each.type in (int, float) or FINITE in {number.within for number in cli.numbers_of(each)}  # noqa: E731
    return [action.option_strings[0] for action in parser._actions if free(action)]


def ends(number):
    """(value, whether it is in the range) around both ends of the range of `number`."""
    within = number.within
    step = 1 if number.kind is int else max(abs(within.high), 1) * 1e-9
    return [(within.low - step, False), (within.low, not within.above), (within.low + step, True),
            (within.high - step, True), (within.high, not within.below), (within.high + step, False)]  # fmt: skip


def places(parser):
    """(flag, place, number) of every number on the command line; place: which of the flag's values it is."""
    for action in parser._actions:
        numbers = cli.numbers_of(action)
        for place in range(action.nargs if isinstance(action.nargs, int) else 1) if numbers else ():
            yield action, place, numbers[place % len(numbers)]


def said(action, place: int, text: str) -> list[str]:
    """The words of a flag with `text` as its value at `place`, and values that fit elsewhere."""
    numbers = cli.numbers_of(action)
    count = action.nargs if isinstance(action.nargs, int) else 1
    fitting = [repr(next(value for value, fits in ends(numbers[i % len(numbers)]) if fits)) for i in range(count)]
    fitting[place] = text
    return [f"{action.option_strings[0]}={text}"] if count == 1 else [action.option_strings[0], *fitting]


def refused(parser, words, capsys) -> str:
    """The one line in which `words` are refused."""
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(words)
    line, hint = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and hint == "See python main.py --help" and line.startswith("error: argument "), (
        words
    )
    return line


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_every_number_of_the_command_line_has_a_range_and_keeps_to_it(name, capsys):
    parser = cli.build_parser(RECIPES[name])
    assert not undeclared(parser)
    for action, place, number in places(parser):
        texts = {text: text == "None" and bool(number.word) for text in WRONG}
        texts |= {text: float(text) in number.within for text in ("-1", "0", "9" * 60)}
        texts |= {"1.5": number.kind is float and 1.5 in number.within}
        for text, fits in (texts | {repr(value): fits for value, fits in ends(number)}).items():
            words = said(action, place, text)
            if not fits:
                line = refused(parser, words, capsys)
                too_few = re.search(r"expected (one|\d) argument", line)  # argparse takes -inf for another flag
                assert action.option_strings[0] in line and (too_few or str(number) in line)
                continue
            found = getattr(parser.parse_args(words), action.dest)
            found = found[place] if isinstance(found, list) else found
            assert found == (None if text == "None" else number.kind(text))


def test_a_number_without_a_range_is_noticed():
    parser = cli.Parser()
    for flag, kind in (("--one", int), ("--two", float), ("--three", cli.Number(int)), ("--four", str)):
        parser.add_argument(flag, type=kind)
    assert undeclared(parser) == ["--one", "--two", "--three"]


def test_an_empty_word_is_refused_by_every_flag_that_takes_one(capsys):
    parser = cli.build_parser(RECIPES["pcb"])
    flags = [each for each in parser._actions if each.nargs != 0 and each.dest != "help"]
    for action in flags:
        count = action.nargs if isinstance(action.nargs, int) else 1
        refused(parser, [action.option_strings[0], *[""] * count], capsys)
    assert len(flags) > 100


@pytest.mark.parametrize(("given", "message"), [
    ({"id_weight": 0.0, "triplet_weight": 0.0, "center_weight": 0.0}, "every loss has weight 0.*--id_weight"),
    ({"p": 1, "k": 1, "triplet_weight": 0.0}, "--p 1 --k 1 is a batch of one image"),
    ({"optimizer": "sgd", "momentum": 0.0, "nesterov": True}, "--nesterov needs a --momentum"),
])  # fmt: skip
def test_numbers_that_exclude_one_another_are_named_by_their_flags(given, message):
    with pytest.raises(ValueError, match=message):
        cli.customised(RECIPES["bot"], given)


def test_values_that_a_checkpoint_keeps_are_held_to_the_same_ranges():
    for given, message in (({"lr": -1.0}, "--lr is -1.0, expected a number"), ({"mean": (0.5, 0.5)}, "--mean is"),
                           ({"parts": 0}, "option parts is 0, expected a whole number"), ({"p": True}, "--p is True"),
                           ({"std": (0.5, 0.0, 0.5)}, "--std is 0.0, expected a number")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            cli.customised(RECIPES["pcb"], given)


@pytest.mark.parametrize(("file", "old", "new", "message"), [
    ("rows/baselines.py", "    lr=3.5e-4,\n", "    lr=-1.0,\n", r"baselines\.py:\d+, row bot: lr is -1\.0, .*"),
    ("rows/baselines.py", "BOT = row(", "BOT = rwo(", r".*baselines\.py, line \d+: NameError: name 'rwo' is .*"),
    ("parsers/small.py", "\nENTRIES = (", "\nENTRIES = ((", r"parsers/small\.py.* cannot be imported: SyntaxError: .*"),
    ("losses.py", "import math\n", "import maths\n", r"losses\.py, line \d+: ModuleNotFoundError: No module .*"),
])  # fmt: skip
def test_a_broken_file_of_ones_own_is_one_line(tmp_path, file, old, new, message):
    home = trees.suite(tmp_path / "suite", "tests", "docs")
    text = (home / file).read_text(encoding="utf-8")
    assert old in text
    (home / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    done = subprocess.run([sys.executable, home / "main.py", "--mode", "check"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and re.fullmatch(f"error: {message}\n", done.stderr), done.stderr


def test_an_error_of_ours_is_one_line_wherever_the_program_is_called_from(tmp_path):
    words = (sys.executable, os.path.relpath(ROOT / "main.py", tmp_path), "--market_path", "nothing")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and re.fullmatch(r"\nerror: market: Market-1501 not found: .*\n", done.stderr)


def test_an_option_with_the_name_of_a_flag_is_an_error_that_names_the_row(monkeypatch):
    class Weighted:
        def __init__(self, *, seed=0):
            pass

    monkeypatch.setattr(table, "RECIPES", dict(RECIPES))
    recipe = table.row(RECIPES["bot"], name="clash", terms={"mine": Term(1.0, Weighted)})
    with pytest.raises(ValueError, match=r"recipe clash \(test_cli.py:\d+\): --seed is a flag already"):
        cli.build_parser(recipe)


# ---------------------------------------------------------------------------------------------------------------------
# Habits of other suites
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "answer"), [
    ("-a osnet_x1_0", "-a is here --recipe NAME"),
    ("--arch resnet50", "--arch is here --recipe NAME for a method with its training, --backbone NAME"),
    ("-s market1501 -t dukemtmcreid", "-s is here --train_dataset NAME beside its --NAME_path DIR; -t is here --test_"),
    ("--root data", "--root is here --market_path DIR"),
    ("--data=market.yaml", "--data is here --market_path DIR"),
    ("--config-file bot.yml", "--config_file is here --recipe NAME"),
    ("--evaluate --start-eval 3 --print-freq 5", "--evaluate is here --mode test"),
    ("--vis-ranked-res", "--vis_ranked_res is here --mode visualize"),
    ("--load-weights x.pth", "--load_weights is here --weights FILE in a test, --pretrained FILE"),
    ("--gpu-devices 0", "--gpu_devices is here --device cuda:N"),
    ("--fixbase-epoch 5", "--fixbase_epoch is here --fixbase_epochs N"),
    ("--use-avai-gpus", "--use_avai_gpus is here --device auto"),
    ("--max-epoch 60 --lr 0.1 --stepsize 20", "--max_epoch is here --epochs N; --stepsize is here --schedule"),
    ("--img_h 288 --load_model x.t", "--img_h is here --image_size H W; --load_model is here --weights FILE in a test"),
    ("--k1 20 --fp16 --cos_lr", "--k1 is here --rerank --rerank_k1 N --rerank_k2 N --rerank_lambda X; --fp16 is"),
    ("--num_models 2 --pcb --wandb", "--num_models is here --members N; --pcb is here --recipe pcb; --wandb is here"),
    ("--temp 3 --phase x --wa 1 --run 2 -r 3", "unrecognized arguments: --temp 3 --phase x --wa 1 --run 2 -r 3\n"),
    ("predict", "arguments: predict (predict is here --mode extract embeds --gallery_path DIR, --mode visualize ranks"),
    ("val --data x", "val is here --mode test; --data is here --market_path DIR"),
    ("tarin --recipe bot", "tarin is here --mode train)"),
    ("--mode eval", "(eval is here --mode test)"),
    ("--mode tarin", "(tarin is here --mode train)"),
    ("somehow", "unrecognized arguments: somehow (every flag begins with --; what to do is --mode train, test"),
    ("train data=x.yaml model=r50 epochs=10", "(data is here --market_path DIR, --duke_path DIR, ...: a flag per data"),
    ("train data=x.yaml model=r50 epochs=10", "; model is here --recipe NAME for a method with its training"),
    ("train data=x.yaml model=r50 epochs=10", "; epochs=10 is here --epochs 10)"),
    ("extract tests", "tests is a folder: give it as --gallery_path DIR, a folder of images to embed or to rank"),
    ("--mode extract --source photos", "--source is here --gallery_path DIR"),
    ("--mode extract --images photos", "--images is here --gallery_path DIR"),
    ("--onnx --int8", "--onnx is here --mode export; --int8 is here --quantize int8"),
])  # fmt: skip
def test_a_flag_of_another_suite_is_answered_with_the_one_that_does_it_here(words, answer, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        cli.parse(words.split())
    line, hint = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and answer in f"{line}\n" and hint == "See python main.py --help"


def test_every_answer_to_a_habit_names_flags_that_exist_and_none_stands_for_a_flag_of_ours():
    own = {flag.lstrip("-") for action in cli.build_parser(RECIPES["bot"])._actions for flag in action.option_strings}
    for word, answer in cli.HABITS.items():
        named = {name for name in re.findall(r"--(\w+)", answer) if not name.startswith("NAME")}
        assert named and named <= own and word not in own, word
    assert not cli.MODE_HABITS.keys() & set(cli.MODES)
    assert {answer.split()[0] for answer in cli.MODE_HABITS.values()} <= set(cli.MODES)


@pytest.mark.parametrize("name", ["BoT", "PCB", "osnet-x1-0"])
def test_a_recipe_in_other_letters_is_proposed(name):
    with pytest.raises(ValueError, match=f"did you mean {name.lower().replace('-', '_')}"):
        cli.named_recipe(name)


@pytest.mark.parametrize(
    "words", ["train --image-size 64 32 --fixbase-epochs=2", "--image_size 64 32 --fixbase_epochs 2"]
)
def test_hyphens_and_a_mode_without_its_flag_are_understood(words):
    args, recipe = cli.parse([*words.split(), "--recipe", "bot", "--output-path", "a-b"])
    assert cli.overrides(args) == {"image_size": (64, 32), "fixbase_epochs": 2}
    assert args.mode == "train" and str(args.output_path) == "a-b" and not args.unread
    assert cli.parse(["check", "--own-path=x-y"])[0].mode == "check"


def test_a_gpu_may_be_named_by_its_number_alone():
    assert [cli.parse(["--device", word])[0].device for word in ("1", "cuda:0", "cpu")] == ["cuda:1", "cuda:0", "cpu"]


def test_a_size_of_shuffled_batches_is_taken_as_its_own_message_says(capsys):
    bot = RECIPES["bot"]
    with pytest.raises(ValueError, match="or --p 0 with --batch_size"):
        cli.customised(bot, {"batch_size": 32})
    recipe = cli.customised(bot, {"batch_size": 32, "p": 0})
    assert (recipe.p, recipe.batch_size) == (0, 32)


# ---------------------------------------------------------------------------------------------------------------------
# Flags that do nothing
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "message"), [
    ("--cuhk03_labeled", "--cuhk03_labeled is an option of data set cuhk03, which is not loaded: give --cuhk03_path"),
    ("--mode test --own_path . --viper_split 3", "--viper_split is an option of data set viper, which is not loaded"),
    ("--rerank_k1 10", "--rerank_k1 does nothing, since --rerank is not given: give --rerank with it"),
    ("--mode test --all_splits", "--all_splits does nothing, since --mode is test: give --mode train with it"),
    ("--cache_path x", "--cache_path does nothing, since --cache is auto: give --cache disk with it"),
    ("--focal_gamma 3", "--focal_gamma does nothing, since --id_loss is softmax: give --id_loss focal with it"),
    ("--optimizer adam --momentum 0.5", "--momentum does nothing, since --optimizer is adam"),
    ("--center_lr 0.1", "--center_lr does nothing, since --center_weight is 0.0: give --center_weight with it"),
    ("--mode visualize --gallery_path .", "--gallery_path is ranked for one image here: give --query_image FILE too"),
    ("--erase 0 --erase_area 0.1 0.2", "--erase_area does nothing, since --erase is 0.0: give --erase with it"),
    ("--warmup_epochs 0 --warmup_factor 0.5", "--warmup_factor does nothing, since --warmup_epochs or --warmup_"),
    ("--recipe bot --open_layers classifier", "--open_layers does nothing, since --fixbase_epochs or --fixbase_"),
    ("--recipe softmax --across_cameras yes", "--across_cameras does nothing, since --p is 0: give --p with it"),
    ("--recipe bot --frame_stride 2", "--frame_stride does nothing, since --sample_method is evenly: give --sample_"),
    ("--sample_method frames --cut_tracklets 9", "--cut_tracklets does nothing, since --sample_method is frames: give"),
    ("--recipe bot --enlarge 1.2", "--enlarge does nothing, since --translate is 0.0: give --translate with it"),
    ("--recipe agw_rgbir --extra_channels exchange", "--extra_channels does nothing, since --extra_colour is not"),
    ("--recipe bot --infrared_channels adaptive", "--infrared_channels does nothing, since --infrared is not given"),
    ("--recipe softmax --epoch_length images", "--epoch_length does nothing, since --p is 0: give --p with it"),
    ("--keep_best", "--keep_best does nothing, since --validation_ids is 0: give --validation_ids with it"),
    ("--erase_value 0 0 1", "--erase_value does nothing, since --erase_fill is mean_raw: give --erase_fill value or"),
    ("--mode test --query_expansion 5 3 --metric euclidean", "--query_expansion compares by cosine: leave out"),
    ("--weights a --pretrained b", "--weights and --pretrained both name what a training starts from"),
])  # fmt: skip
def test_a_flag_that_would_do_nothing_is_an_error_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(words.split()) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and message in error and "\n" not in error and not list(tmp_path.iterdir())


def test_every_flag_that_needs_another_is_there_and_needs_one_that_is():
    known = vars(cli.build_parser(RECIPES["bot"]).parse_args([])).keys() | FIELDS.keys()
    for name, (needed, *values) in cli.NEEDS.items():
        assert {name, *needed.split(cli.OR)} <= known, name
        choices = FIELDS[needed].choices if needed in FIELDS else ()
        assert not choices or set(values) <= set(choices)
    topics = {*cli.GROUPS, *known}
    assert topics >= cli.READ.keys()


def test_a_flag_that_the_mode_does_not_read_is_named(capsys, tmp_path):
    words = ("--mode", "test", "--weights", str(tmp_path / "nothing.pth"), "--own_path", str(tmp_path))
    assert main.main([*words, "--epochs=3", "--base_learning_rate", "0.1", "--flip", "0", "--flip_test"]) == 1
    assert "WARNING: --mode test does not read --base_learning_rate, --epochs, --flip\n" in capsys.readouterr().out


def test_weights_given_to_a_training_are_what_it_starts_from():
    args, _ = cli.parse(["--recipe", "bot", "--weights", "file.pth"])
    assert cli.overrides(args) == {"pretrained": "file.pth"} and args.weights is None
