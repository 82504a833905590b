"""The house as DESIGN draws it: who may import whom, how long a function may be, how many parameters it may have.

``python tests/test_house.py`` prints the counts: files on the top floor, lines, longest functions, most parameters.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
NOT_PRODUCT = ("tests", "benchmarks", "docs", "conftest.py", "test_smoke.py")
FOLDERS = tuple(sorted({path.parent.name for path in ROOT.glob("*/__init__.py")} - set(NOT_PRODUCT)))
LONGEST, MOST = 60, 8  # lines of a function, its parameters
BY_CONTRACT = {"evaluate_features", "rank_metrics"}  # whose parameters DESIGN fixes
FLOORS = (  # from the roof down: imports go to the same floor or a lower one
    {"main"},
    {"export"},
    {"embedder", "features", "training"},
    {"pictures", "rebuild", "report", "run"},
    {"cli"},
    {"recipes", "tester", "check"},
    {"rows"},
    {"config", "datasets", "details"},
    {"evaluate", "architectures", "papers", "video", "loaders", "train", "parsers"},
    {"clustering"},
    {"models", "rerank", "checkpoints", "criteria", "loading", "synthetic", "page"},
    {
        "networks",
        "losses",
        "epochs",
        "protocols",
        "visualize",
        "published",
        "exported",
        "weights",
        "machine",
        "neighbours",
    },
    {"functions"},
)


class Module(NamedTuple):
    """A product file: its dotted name, its syntax tree, its number of lines."""

    name: str
    tree: ast.Module
    lines: int

    @property
    def room(self) -> str:
        """The module itself on the top floor, else its folder."""
        return self.name.split(".")[0]


@functools.cache
def modules() -> dict[str, Module]:
    found = {}
    for path in sorted((*ROOT.glob("*.py"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.py")))):
        inside = path.relative_to(ROOT)
        if inside.parts[0] in NOT_PRODUCT:
            continue
        text = path.read_text(encoding="utf-8")
        name = ".".join(inside.with_suffix("").parts)
        found[name] = Module(name, ast.parse(text), text.count("\n"))
    return found


def imported(tree: ast.AST) -> set[str]:
    """Product modules that are imported anywhere in the tree but under ``if TYPE_CHECKING``."""
    names, known = set(), modules()
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            names |= inside or {node.module}
    return names & known.keys()


@functools.cache
def arrows() -> dict[str, set[str]]:
    return {name: imported(module.tree) - {name} for name, module in modules().items()}


def functions() -> list[tuple[str, ast.FunctionDef]]:
    return [
        (f"{module.name}.{node.name}", node)
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def num_parameters(function: ast.FunctionDef) -> int:
    """Without self and cls; ``*args`` and ``**kwargs`` not counted."""
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def length(function: ast.FunctionDef) -> int:
    return function.end_lineno - function.lineno + 1


def test_every_module_has_a_floor():
    rooms = {module.room for module in modules().values()}
    assert rooms <= set().union(*FLOORS), "a new file has to earn its place: put it on a floor"


def test_no_arrow_runs_up():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    wrong = [
        f"{name} imports {other}"
        for name, others in arrows().items()
        for other in sorted(others)
        if floor[other.split(".")[0]] < floor[name.split(".")[0]]
    ]
    assert not wrong


def test_no_circles():
    state: dict[str, int] = defaultdict(int)

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert state[name] != 1, f"a circle: {' > '.join((*trail, name))}"
        if state[name] == 0:
            state[name] = 1
            for other in sorted(arrows()[name]):
                visit(other, (*trail, name))
            state[name] = 2

    for name in modules():
        visit(name, ())


def test_rooms_do_not_circle_either():
    """Folders and top-floor modules among each other: what is behind a module does not look back at it."""
    rooms = defaultdict(set)
    for name, others in arrows().items():
        rooms[name.split(".")[0]] |= {other.split(".")[0] for other in others} - {name.split(".")[0]}
    done: set[str] = set()

    def visit(room: str, trail: tuple[str, ...]) -> None:
        assert room not in trail, f"a circle of rooms: {' > '.join((*trail, room))}"
        if room not in done:
            for other in sorted(rooms[room]):
                visit(other, (*trail, room))
            done.add(room)

    for room in list(rooms):
        visit(room, ())


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_says_what_it_is_and_re_exports_nothing(folder):
    tree = ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) and len(tree.body) == 1
    assert tree.body[0].end_lineno <= 4


def test_no_private_name_is_read_across_files():
    wrong = []
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and node.module in modules():
                wrong += [f"{module.name}: {node.module}.{a.name}" for a in node.names if a.name.startswith("_")]
    assert not wrong


def test_functions_are_short_and_take_few_things():
    long = [f"{name}: {length(f)} lines" for name, f in functions() if length(f) > LONGEST]
    many = [
        f"{name}: {num_parameters(f)} parameters"
        for name, f in functions()
        if num_parameters(f) > MOST and f.name not in BY_CONTRACT
    ]
    assert not long and not many


def test_public_names_have_docstrings():
    bare = [
        f"{module.name}.{node.name}"
        for module in modules().values()
        for node in module.tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not bare


def test_the_loop_and_the_evaluation_know_no_method_and_no_data_set():
    """No name of a recipe, of a loss or of a data set among the words and strings of train.py and evaluate.py."""
    from torch import nn

    import datasets
    import losses
    from recipes import RECIPES

    classes = {
        name
        for name, value in vars(losses).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value is not losses.Criterion
    }
    names = RECIPES.keys() | datasets.DATASETS.keys() | classes
    for module in (modules()["train"], modules()["evaluate"]):
        words = {node.id for node in ast.walk(module.tree) if isinstance(node, ast.Name)}
        words |= {node.attr for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)}
        compared = {
            part.value
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Compare)
            for part in (node.left, *node.comparators)
            if isinstance(part, ast.Constant) and isinstance(part.value, str)
        }
        assert not classes & words
        assert not names & compared


def test_no_field_of_a_recipe_is_unread():
    """Each is read as an attribute somewhere, or handed by its name to a network, a loss or the augmentation."""
    import loaders
    from config import Recipe, arguments
    from recipes import RECIPES

    read = {node.attr for m in modules().values() for node in ast.walk(m.tree) if isinstance(node, ast.Attribute)}
    read |= {field.name for field in dataclasses.fields(loaders.Augmentation)}
    read |= set().union(*(arguments(recipe.network) for recipe in RECIPES.values()))
    assert not {field.name for field in dataclasses.fields(Recipe)} - read


def counts() -> str:
    top = [name for name in modules() if "." not in name]
    lengths = sorted(((length(f), name) for name, f in functions()), reverse=True)
    many = sorted(((num_parameters(f), name) for name, f in functions()), reverse=True)
    files = sorted(modules().values(), key=lambda module: -module.lines)
    lines = [
        f"files on the top floor  {len(top)}: {' '.join(top)}",
        f"lines of product code   {sum(module.lines for module in modules().values()):,}",
        f"longest files           {', '.join(f'{module.name} {module.lines}' for module in files[:5])}",
        f"longest functions       {', '.join(f'{name} {number}' for number, name in lengths[:6])}",
        f"most parameters         {', '.join(f'{name} {number}' for number, name in many[:8])}",
    ]
    return "\n".join(lines)


def test_mypy_reads_every_file_and_folder():
    listed = set(re.findall(r"[\w.]+", re.search(r"^files =(.*?)^\w", (ROOT / "mypy.ini").read_text(), re.M | re.S)[1]))
    there = {path.name for path in ROOT.glob("*.py")} - {"conftest.py", "test_smoke.py"} | set(FOLDERS)
    assert there == listed


if __name__ == "__main__":
    print(counts())
