"""What a newcomer reads: tables as in the code, commands that parse, links that lead somewhere, examples that hold."""

import contextlib
import csv
import dataclasses
import importlib
import inspect
import io
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from test_benchmarks import script

import cli
import recipes
from recipes import RECIPES
from rows import table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import tables  # noqa: E402

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fenced(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


# ---------------------------------------------------------------- results.csv


def test_every_row_of_results_is_whole():
    """As the csv module parses it: with DictReader a surplus comma would be a None key, and shift the columns."""
    with open(tables.RESULTS, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(None not in row and None not in row.values() for row in rows)
    assert rows == tables.results()


GOOD = dict(kind="accuracy", what="a run", data="market → market", seed="0", rank1="52.0", mAP="30.7", mINP="6.6",
            value="", yardstick="", published="", source="", git="87d8602", hardware="a CPU", seconds="239",
            command="python main.py --mode train", settings="12345678")  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [
    ({"kind": "speeds"}, "kind is 'speeds'"),
    ({"rank1": "5l.0"}, "rank1 is '5l.0'"),
    ({"rank1": "520"}, "percent"),
    ({"mAP": ""}, "mAP is empty"),
    ({"git": "main"}, "git is 'main'"),
    ({"hardware": ""}, "hardware is empty"),
    ({"command": ""}, "command is empty"),
    ({"value": "18.0"}, "no place for"),
    ({"published": "91.2 / 75.0"}, "belong together"),
    ({"published": "91.2", "source": "a paper"}, "published is '91.2'"),
    ({"seconds": " 18.5 images/s"}, "blanks"),
    ({"settings": ""}, "settings is ''; a training has the digest"),
    ({"command": "python main.py --mode test"}, "settings is '12345678'; a training has the digest"),
    ({"settings": "MOVED"}, "settings is 'MOVED'"),
    ({"settings": "moved", "published": "91.2 / 75.0", "source": "a paper"}, "settings have moved since"),
])  # fmt: skip
def test_a_row_that_is_not_whole_is_an_error_that_names_line_and_field(tmp_path, change, message):
    path = tmp_path / "results.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([tables.FIELDS, list(GOOD.values()), list((GOOD | change).values())])
    with pytest.raises(ValueError, match=f"line 3: .*{re.escape(message)}"):
        tables.results(path)


@pytest.mark.parametrize("row", ["speed,a,,,,,,18.0, 18.5 images/s,b,,,87d8602,a CPU,,python x,", "speed,a"])
def test_an_unquoted_comma_or_a_missing_field_is_an_error(tmp_path, row):
    path = tmp_path / "results.csv"
    path.write_text(",".join(tables.FIELDS) + "\n" + row + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2: \d+ fields, the header has 16"):
        tables.results(path)


def test_a_training_in_the_file_is_the_one_that_its_command_starts():
    """Or says that it was another. Where this fails a recipe has moved: run its rows again (CONTRIBUTING.md), or write
    "moved" into their `settings`."""
    rows = [row for row in tables.results() if row["settings"] not in ("", tables.MOVED)]
    assert rows and {row["what"]: tables.settings_of(row["command"]) for row in rows} == {
        row["what"]: row["settings"] for row in rows
    }


def test_the_digest_of_settings_follows_rates_and_fields_but_not_what_is_measured():
    row = RECIPES["osnet_x0_25"]
    for fields in ({"lr": 0.1}, {"epochs": 90}, {"fixbase_epochs": 0}, {"erase": 0.1}, {"backbone": "osnet_x0_5"}):
        assert dataclasses.replace(row, **fields).digest() != row.digest(), fields
    assert dataclasses.replace(row, title="another", test_frames="dense").digest() == row.digest()
    assert dataclasses.replace(row, milestones=(80, 160, 1000)).digest() != row.digest()


def test_a_training_beside_a_published_value_is_the_row_as_it_is():
    """Another size or length would be another experiment; only data, weights, seed and threads are given."""
    rows = [row for row in tables.results() if row["settings"] and row["published"]]
    assert rows and tables.reproduced()
    given = {word for row in rows for word in shlex.split(row["command"]) if word.startswith("--")}
    assert given <= {"--mode", "--market_path", "--pretrained", "--recipe", "--seed", "--threads"}
    for row in rows:
        recipe = cli.parse(shlex.split(row["command"])[2:])[1]
        found = recipe.published[row["data"].split(" → ")[-1]]
        assert row["published"] == f"{found.rank1} / {found.mAP}" and row["source"] == found.source


def test_a_row_that_stands_there_twice_is_an_error(tmp_path):
    lines = tables.RESULTS.read_text(encoding="utf-8").splitlines()
    (tmp_path / "results.csv").write_text("\n".join([*lines, lines[-1]]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"line {len(lines) + 1}: .* stands there twice"):
        tables.results(tmp_path / "results.csv")


# ---------------------------------------------------------------- the tables


@pytest.mark.parametrize("page", tables.PAGES)
def test_the_tables_are_those_of_the_code(page):
    text = text_of(f"docs/{page}")
    assert text == tables.filled(page, text), "run python docs/tables.py"


@pytest.mark.parametrize("picture", tables.pictures())
def test_the_pictures_of_the_tables_are_those_of_the_code(picture):
    title, found = tables.pictures()[picture]
    assert text_of(f"docs/{picture}") == tables.gains.picture(found, title), "run python docs/tables.py"


def cells(line: str) -> list[str]:
    """The cells of a line of a table; an escaped bar does not part them."""
    return [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.parametrize(("make", "columns"), [
    (tables.accuracy_table, {"run": "what", "rank-1": "rank1", "mAP": "mAP", "seconds": "seconds",
                             "published rank-1 / mAP": "published", "source of the published": "source"}),
    (tables.speed_table, {"measured": "what", "value": "value", "yardstick in the same run": "yardstick",
                          "hardware": "hardware", "commit": "git"}),
])  # fmt: skip
def test_a_cell_of_the_page_is_a_field_of_the_file(make, columns):
    """Each in the column of its name: the page is read back and compared with the file read by the csv module."""
    header, _, *lines = make().splitlines()
    kind = "accuracy" if make is tables.accuracy_table else "speed"
    with open(tables.RESULTS, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == kind]
    assert len(lines) == len(rows) > 0
    for line, row in zip(lines, rows, strict=True):
        shown = dict(zip(cells(header), cells(line), strict=True))
        assert {name: shown[name] for name in columns} == {name: row[field] for name, field in columns.items()}


def test_a_bar_or_a_line_break_does_not_part_a_cell():
    _, _, line = tables.grid(("a", "b"), [("x | y", "one\n  two")]).splitlines()
    assert cells(line) == ["x | y", "one two"]


def test_a_page_without_its_marks_is_an_error():
    with pytest.raises(ValueError, match="needs one <!-- papers -->"):
        tables.filled("papers.md", "nothing here")


def test_every_recipe_data_set_and_paper_has_its_line():
    import datasets

    assert all(f"`--recipe {name}`" in text_of("docs/recipes.md") for name in RECIPES)
    assert all(f"`--{name}_path`" in text_of("docs/datasets.md") for name in datasets.DATASETS)
    assert all(recipe.paper in text_of("docs/papers.md") for recipe in RECIPES.values())


# ---------------------------------------------------------------- commands and flags


def commands(text: str) -> list[list[str]]:
    """The words after ``main.py`` of every command in a fenced bash block."""
    found = []
    for block in fenced(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(re.sub(r"\$\w+", "1", part), comments=True)  # the variable of a loop has a value
                if "main.py" in words:
                    found.append(words[words.index("main.py") + 1 :])
    return found


COMMANDS = [(name, words) for name in NAMES for words in commands(text_of(name))]
COMMAND_IDS = [f"{name}: {' '.join(words)[:60]}" for name, words in COMMANDS]


@pytest.mark.parametrize(
    ("name", "words"), COMMANDS, ids=[f"{name}: {' '.join(words)[:60]}" for name, words in COMMANDS]
)
def test_every_command_is_one_that_main_accepts(name, words):
    """Its flags parse, they fit the recipe, and the network that they ask for can be built."""
    if "--help" in words or "--version" in words:
        with pytest.raises(SystemExit) as stopped:
            cli.parse(words)
        assert stopped.value.code == 0
        return
    args, recipe = cli.parse(words)
    assert args.mode in cli.MODES
    cli.customised(recipe, cli.overrides(args)).outline(3)


def test_the_readme_has_two_commands_to_start_with_and_five_worked_ones():
    blocks = fenced(text_of("README.md"), "bash")
    assert [block.count("\n") for block in blocks] == [1] * 7
    assert blocks[0].endswith("python main.py --mode train\n") and blocks[1].endswith("python test_smoke.py\n")
    assert all(block.startswith("python main.py --mode ") for block in blocks[2:])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with what README's commands name: a data set, weights with torchreid's names, one image."""
    import torch

    from test_smoke import small_set

    folder = tmp_path_factory.mktemp("workplace")
    shutil.copy(sorted((small_set(folder / "data") / "query").iterdir())[0], folder / "person.jpg")
    torch.manual_seed(0)
    theirs = {
        name.removeprefix("base."): tensor for name, tensor in RECIPES["osnet_x0_25"].model(5).state_dict().items()
    }
    torch.save({"state_dict": theirs}, folder / "osnet_x0_25_market1501.pth")
    return folder


def test_the_worked_commands_of_the_readme_run(workplace, monkeypatch, capsys):
    """As written, one after the other, with paths that exist here and a training that is over soon."""
    import main

    paths = {"/data/Market-1501": "data", "/data/people": "data", "photos": "data/bounding_box_test"}
    small = "--pretrained none --backbone resnet18 --image_size 64 32 --epochs 1 --steps 2 --p 2 --k 2".split()
    monkeypatch.chdir(workplace)
    train, *others = commands(text_of("README.md"))[1:]  # the first is that of the start
    assert len(others) == 4
    for words, more in ((train, small), *((words, []) for words in others)):
        assert main.main([paths.get(word, word) for word in words] + more) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "re-ranked" in out and "market2own" in out and "osnet_x0_25_market1501.pth on market " in out
    for path in ("bot_market/model.pt", "bot_market/visualize/market/index.html", "person/visualize/person/index.html"):
        assert (workplace / "runs" / path).stat().st_size > 0


def test_the_readme_lists_every_mode_and_is_short():
    text = text_of("README.md")
    assert all(f"| `{mode}` |" in text for mode in cli.MODES)
    assert len(text.splitlines()) <= 150


@pytest.mark.parametrize("name", [name for name in NAMES if fenced(text_of(name), "bash")])
def test_scripts_of_every_command_exist(name):
    words = [word for block in fenced(text_of(name), "bash") for word in shlex.split(block, comments=True)]
    assert not {word for word in words if word.endswith(".py") and not (ROOT / word).exists()}


def test_commands_of_results_are_ones_that_main_accepts():
    rows = [[word.strip("[]") for word in row["command"].split() if word != "..."] for row in tables.results()]
    commands = [words[words.index("main.py") + 1 :] for words in rows if "main.py" in words]
    assert commands and all(cli.parse(words) for words in commands)  # a mistake in one raises


FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_]*")
OF_OTHERS = {
    "--nproc_per_node",
    "--logdir",
    "--upgrade",
    "--check",
    "--long",
}  # torchrun, tensorboard, pip, ruff, pytest


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """Every flag of main.py, whatever the recipe, and of the scripts in benchmarks/."""
    actions = [action for recipe in RECIPES.values() for action in cli.build_parser(recipe)._actions]
    known = {flag for action in actions for flag in action.option_strings}
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            getattr(script(path.stem), "arguments", list)(["--help"])
        known |= set(FLAG.findall(shown.getvalue()))
    return known | OF_OTHERS


@pytest.mark.parametrize("name", NAMES)
def test_no_page_names_a_flag_that_does_not_exist(name, flags):
    text = text_of(name).replace("`--NAME_path`", "")
    assert set(FLAG.findall(text)) <= flags


# ---------------------------------------------------------------- links, names, examples


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files(name):
    page = ROOT / name
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_every_page_can_be_reached_from_the_readme():
    links = set(re.findall(r"\]\(([^)#\s]+)\)", text_of("README.md")))
    assert set(NAMES) - {"README.md"} <= links


WRITTEN = ("queries.csv", "log.csv", "table.md", "table.csv", "embed.py")  # by a run, beside an export


@pytest.mark.parametrize("name", NAMES)
def test_files_that_a_page_names_exist(name):
    """Between backticks: a path with a folder, or a module of the top floor."""
    paths = set(re.findall(r"`((?:[\w.]+/)*[\w.]+\.(?:py|csv|md|toml|cff|svg))`", text_of(name))) - {
        "__init__.py",
        *WRITTEN,
    }
    assert not {path for path in paths if not any((base / path).exists() for base in (ROOT, (ROOT / name).parent))}


PREPARED = (
    "README.md",
    "docs/embedding.md",
)  # their examples need weights and images: tests/test_embedder.py runs them


@pytest.mark.parametrize("name", [n for n in NAMES if fenced(text_of(n), "python") and n not in PREPARED])
def test_the_examples_hold(name, monkeypatch):
    """The python blocks of a page, one after the other, as a reader would type them."""
    for module in (recipes, table):
        monkeypatch.setattr(module, "RECIPES", dict(RECIPES))  # a page may add a row
    text, space = text_of(name), {"__name__": "example"}
    for block in fenced(text, "python"):
        above = text[: text.index(block)].count("\n")  # so that an error names the line of the page
        exec(compile("\n" * above + block, ROOT / name, "exec"), space)
    assert len(space) > 2, f"the examples of {name} left nothing"  # beside __name__ and what exec puts there


def named(path: str):
    """What ``module.Class.name`` is, fields of a dataclass included; None where the first word is no module of ours.
    AttributeError if there is no such thing."""
    parts = path.split(".")
    if not (ROOT / f"{parts[0]}.py").exists() and not (ROOT / parts[0] / "__init__.py").exists():
        return None
    depth = next(n for n in range(len(parts), 0, -1) if ROOT.joinpath(*parts[:n]).with_suffix(".py").exists())
    thing = importlib.import_module(".".join(parts[:depth]))
    for part in parts[depth:]:
        fields = {f.name: f for f in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else {}
        thing = fields[part] if part in fields and not hasattr(thing, part) else getattr(thing, part)
    return thing


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_code_exist(name):
    """`module.name` or `module.Class.name` between backticks, where module is one of ours."""
    missing = []
    for path in set(re.findall(r"`((?:\w+\.)+\w+)(?:\([^`]*\))?`", text_of(name))):
        if path.rpartition(".")[2] not in ("py", "md", "csv", "pt", "jsonl", "json", "npy", "npz", "txt", "cff", "svg"):
            try:
                named(path)
            except AttributeError:
                missing.append(path)
    assert not missing


def test_the_lines_that_the_method_page_quotes_are_where_it_says():
    """The page's claim is about the source: which line is which equation."""
    rows = [cells(line) for line in text_of("docs/method.md").splitlines() if re.match(r"\| [0-9.]+ \|", line)]
    assert len(rows) > 10
    for _, _, where, line in rows:
        source = inspect.getsource(named(where.strip("`")))
        assert line.strip("`") in source, f"{where} has no line {line}"


def test_the_citation_file_has_what_the_format_asks_for():
    """https://github.com/citation-file-format/citation-file-format, schema 1.2.0: the required keys, and ours."""
    from machine.version import VERSION

    lines = text_of("CITATION.cff").splitlines()
    values = dict(
        re.fullmatch(r"([\w-]+): *\"?(.*?)\"?", line).groups() for line in lines if re.match(r"[\w-]+:", line)
    )
    assert values["cff-version"] == "1.2.0" and values["version"] == VERSION
    assert {"message", "title", "authors"} <= values.keys()
    assert values["license"] == "MIT" and text_of("LICENSE").startswith("MIT License")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", values["date-released"])


def test_the_changelog_knows_this_version():
    from machine.version import VERSION

    headings = re.findall(r"^## \[(.*?)\](?: - (\d{4}-\d\d-\d\d))?$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == ("Unreleased", "") and headings[1][0] == VERSION and headings[1][1]
