"""Draws docs/architecture.svg, the house, from the imports of the product's files: ``python docs/architecture.py``.

The floors are those of CONTRIBUTING.md. A file that lies open in the repository is a card, a folder a room. A test
compares the picture with what this file draws.
"""

from __future__ import annotations

import ast
import html
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PICTURE = DOCS / "architecture.svg"

NOT_PRODUCT = ("conftest", "test_smoke")
GROUND = "machine"  # nearly everything stands on it: drawn without arrows
NOTES = (
    "A card is a file, a room a folder with its files. An arrow leads down from what imports to what is imported.",
    f"Left out: arrows that a chain of others says already, and those to {GROUND}/, on which nearly everything stands.",
    "Drawn from the imports by docs/architecture.py.",
)

# ============ what there is, and who imports whom ============


@dataclass(frozen=True)
class House:
    """`floors`: names from the top down, without the ground; `files`: of each folder; `about`: a line on each name;
    `arrows`: name -> the names it imports, the ground left out."""

    floors: tuple[tuple[str, ...], ...]
    files: Mapping[str, tuple[str, ...]]
    about: Mapping[str, str]
    arrows: Mapping[str, frozenset[str]]


def read(root: Path = ROOT) -> House:
    """The house at `root`; ValueError where an import runs up or sideways, or a name stands on no floor or is gone."""
    sources = {path.stem: [path] for path in sorted(root.glob("*.py")) if path.stem not in NOT_PRODUCT}
    folders = sorted(path.parent for path in root.glob("*/__init__.py"))
    sources |= {folder.name: sorted(folder.glob("*.py")) for folder in folders}
    trees = {name: [ast.parse(path.read_text("utf-8")) for path in paths] for name, paths in sources.items()}
    floors = _floors((root / "CONTRIBUTING.md").read_text("utf-8"), set(sources))
    level = {name: number for number, floor in enumerate(floors) for name in floor}
    level[GROUND] = len(floors)
    arrows = {}
    for name, found in trees.items():
        used = set().union(*map(_imported, found)) & set(sources) - {name}
        for other in sorted(used):
            if level[other] <= level[name]:
                raise ValueError(f"{name} imports {other}, which is not on a floor below: imports run downwards only.")
        arrows[name] = frozenset(used - {GROUND})
    return House(
        floors,
        {folder.name: tuple(path.stem for path in sources[folder.name][1:]) for folder in folders},
        {
            name: " ".join((ast.get_docstring(found[0]) or name).split("\n\n")[0].split())
            for name, found in trees.items()
        },
        arrows,
    )


def _floors(text: str, names: set[str]) -> tuple[tuple[str, ...], ...]:
    """The chain `main > cli > ...` of CONTRIBUTING.md, whose last floor ends with the ground."""
    chain = re.search(r"`(main >[^`]*)`", text)
    if chain is None:
        raise ValueError("CONTRIBUTING.md has no chain `main > cli > ...` of what may import what.")
    floors = tuple(tuple(re.findall(r"\w+", floor)) for floor in chain[1].split(">"))
    named = {name for floor in floors for name in floor}
    for name in sorted(names ^ named):
        raise ValueError(
            f"CONTRIBUTING.md names {name}, which is gone: take it out of the chain `main > ...`."
            if name in named
            else f"{name} stands on no floor: put it into CONTRIBUTING.md's chain `main > ...`."
        )
    return tuple(tuple(name for name in floor if name != GROUND) for floor in floors)


def _imported(tree: ast.AST) -> set[str]:
    """The first names of all imports, also of those within functions; not of those for type checkers alone."""
    tests = (node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    for_types = {id(inner) for node in tests for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def reduced(arrows: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Without the arrows that a chain of others says already (the transitive reduction of a graph without circles)."""

    def below(name: str) -> set[str]:
        return set().union(*({other} | below(other) for other in arrows.get(name, ())))

    return {
        name: sorted(other for other in others if not any(other in below(between) for between in others))
        for name, others in arrows.items()
    }


# ============ where everything stands ============

MARGIN = 28
FLOOR = 116  # height, pixels
GAP = 22  # between two things on a floor
CARD, ROOM = 42, 68  # heights; where a long arrow crosses a floor it is as high as a room, to pass beside it
STARTS = 150  # of the search for an order in which few arrows cross


@dataclass(eq=False)
class Thing:
    """A card, a room, or the bend of an arrow; `x` is its middle."""

    name: str
    floor: int
    lines: tuple[str, ...] = ()  # the files of a room
    width: int = 0
    height: int = ROOM
    x: int = 0
    up: list[Thing] = field(default_factory=list)
    down: list[Thing] = field(default_factory=list)

    @property
    def y(self) -> int:
        """The middle."""
        return MARGIN + FLOOR * self.floor + FLOOR // 2


def arrange(house: House) -> list[list[Thing]]:
    """All things with their places, floor by floor, from left to right."""
    things = {name: _thing(name, number, house) for number, floor in enumerate(house.floors) for name in floor}
    floors = [[things[name] for name in floor] for floor in house.floors]
    for name, others in reduced({name: house.arrows[name] for name in things}).items():
        for other in others:
            last = things[name]
            for number in range(last.floor + 1, things[other].floor):
                bend = Thing("", number, up=[last])
                floors[number].append(bend)
                last.down.append(bend)
                last = bend
            last.down.append(things[other])
            things[other].up.append(last)
    _order(floors)
    _place(floors)
    return floors


def _thing(name: str, floor: int, house: House) -> Thing:
    if name not in house.files:
        return Thing(name, floor, (), 9 * len(f"{name}.py") + 26, CARD)
    lines = _wrapped(house.files[name], 24)
    return Thing(name, floor, lines, 7 * max(len(line) for line in (*lines, name)) + 28, ROOM)


def _wrapped(words: Sequence[str], columns: int) -> tuple[str, ...]:
    lines: list[str] = []
    for word in words:
        if lines and len(f"{lines[-1]} · {word}") <= columns:
            lines[-1] += f" · {word}"
        else:
            lines.append(word)
    return tuple(lines)


def _crossings(floors: Sequence[Sequence[Thing]]) -> int:
    """How often two arrows cross."""
    total = 0
    for floor, below in pairwise(floors):
        at = {thing: position for position, thing in enumerate(below)}
        ends = [[at[other] for other in thing.down] for thing in floor]
        total += sum(a > b for i, left in enumerate(ends) for right in ends[i + 1 :] for a in left for b in right)
    return total


def _order(floors: list[list[Thing]]) -> None:
    """Puts every floor into an order in which few arrows cross.

    From many shuffled starts (the same ones every time) each thing moves to the middle of those it is tied to, floor by
    floor (Sugiyama, Tagawa, Toda: Methods for Visual Understanding of Hierarchical System Structures, 1981); the best
    is then improved by moving one thing at a time.
    """
    dice = random.Random(0)
    best = [list(floor) for floor in floors]
    for _ in range(STARTS):
        for floor in floors:
            dice.shuffle(floor)
        for sweep in range(8):
            _towards_the_middle(floors[:: -1 if sweep % 2 else 1])
        best = min(best, [list(floor) for floor in floors], key=_crossings)
    floors[:] = best
    while any([_improve(floors, floor) for floor in floors]):
        pass


def _towards_the_middle(floors: Sequence[list[Thing]]) -> None:
    """Sorts each floor by where those stand that its things are tied to on the floor before."""
    for before, floor in pairwise(floors):
        at = {thing: place for place, thing in enumerate(before)}
        middle = {thing: _mean([at[one] for one in thing.up + thing.down if one in at]) for thing in floor}
        floor.sort(key=middle.__getitem__)


def _improve(floors: list[list[Thing]], floor: list[Thing]) -> bool:
    """Moves things to places of their floor where fewer arrows cross; whether there were any."""
    first = best = _crossings(floors)
    for thing, place in product(list(floor), range(len(floor))):
        before = list(floor)
        floor.remove(thing)
        floor.insert(place, thing)
        crossings = _crossings(floors)
        if crossings < best:
            best = crossings
        else:
            floor[:] = before
    return best < first


def _mean(places: Sequence[int]) -> float:
    return sum(places) / len(places) if places else 0


def _place(floors: Sequence[Sequence[Thing]]) -> None:
    """Everything as near as its floor allows to the middle of what it is tied to. Whole numbers: the same anywhere."""
    for floor in floors:
        _spread(floor, [0] * len(floor))
    for _ in range(60):
        for floor in [*floors, *reversed(floors)]:
            _spread(floor, [_middle(thing.up + thing.down, thing.x) for thing in floor])
    left = min(thing.x - thing.width // 2 for floor in floors for thing in floor)
    for thing in (thing for floor in floors for thing in floor):
        thing.x += MARGIN + GAP - left


def _middle(things: Sequence[Thing], otherwise: int) -> int:
    return round(sum(thing.x for thing in things) / len(things)) if things else otherwise


def _spread(floor: Sequence[Thing], wanted: Sequence[int]) -> None:
    """The places nearest to those wanted (least squares) without overlap: neighbours that collide move as one."""
    offsets = [0]
    for left, right in pairwise(floor):
        offsets.append(offsets[-1] + (left.width + right.width) // 2 + GAP)
    blocks: list[list[int]] = []
    for want, offset in zip(wanted, offsets, strict=True):
        blocks.append([want - offset])
        while len(blocks) > 1 and sum(blocks[-2]) * len(blocks[-1]) > sum(blocks[-1]) * len(blocks[-2]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    starts = [round(sum(block) / len(block)) for block in blocks for _ in block]
    for thing, start, offset in zip(floor, starts, offsets, strict=True):
        thing.x = start + offset


# ============ the picture ============

STYLE = """
text { font: 15px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; text-anchor: middle }
.small { font-size: 12.5px; fill: #59636e } .note { text-anchor: start } .name { font-weight: 600 }
.paper { fill: #ffffff } .floor { fill: #f4f6f8 } .ground { fill: #e3e7ec }
.card { fill: #ddeafd; stroke: #3b73c4; stroke-width: 1.5 }
.room { fill: #fdf1d8; stroke: #b07d1a; stroke-width: 1.5 }
.arrow { fill: none; stroke: #7b8794; stroke-width: 1.6 } .head { fill: #7b8794 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #a3adb8 }
  .paper { fill: #0d1117 } .floor { fill: #151b23 } .ground { fill: #262e38 }
  .card { fill: #14294a; stroke: #5b93e6 } .room { fill: #3a2c0c; stroke: #d4a23c }
  .arrow { stroke: #8d99a6 } .head { fill: #8d99a6 }
}
"""


def draw(house: House) -> str:
    """The picture as SVG."""
    floors = arrange(house)
    things = [thing for floor in floors for thing in floor]
    width = max(thing.x + thing.width // 2 for thing in things) + MARGIN + GAP
    ground = MARGIN + FLOOR * len(floors)
    height = ground + 62 + 12 + 20 * len(NOTES) + MARGIN // 2
    parts = [f'<rect class="paper" width="{width}" height="{height}" rx="10"/>']
    for number in range(0, len(floors), 2):
        parts.append(_box("floor", MARGIN, MARGIN + FLOOR * number, width - 2 * MARGIN, FLOOR, 0))
    parts += [_arrow(thing, other) for thing in things for other in thing.down]
    parts += [_drawn(thing, house) for thing in things if thing.name]
    parts.append(_box("ground", MARGIN, ground, width - 2 * MARGIN, 62, 6))
    parts.append(_text(width // 2, ground + 26, f"{GROUND}/", "name"))
    parts.append(_text(width // 2, ground + 47, " · ".join(house.files[GROUND]), "small"))
    for number, line in enumerate(NOTES):
        parts.append(_text(MARGIN, ground + 62 + 24 + 20 * number, line, "small note"))
    body = "\n".join(parts)
    label = "Which file of the suite imports which, floor by floor"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{label}">\n<style>{STYLE}</style>\n'
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto" '
        f'markerUnits="userSpaceOnUse"><path class="head" d="M0 0.5 8 4 0 7.5z"/></marker>\n{body}\n</svg>\n'
    )


def _drawn(thing: Thing, house: House) -> str:
    room = thing.name in house.files
    left, top = thing.x - thing.width // 2, thing.y - thing.height // 2
    shape = _box("room" if room else "card", left, top, thing.width, thing.height, 2 if room else 8)
    label = _text(thing.x, top + 22 if room else thing.y + 5, f"{thing.name}{'/' if room else '.py'}", "name")
    lines = [_text(thing.x, top + 40 + 16 * row, line, "small") for row, line in enumerate(thing.lines)]
    return f"<g><title>{html.escape(house.about[thing.name])}</title>{shape}{label}{''.join(lines)}</g>"


def _arrow(thing: Thing, other: Thing) -> str:
    """From the lower edge of a thing to the upper edge of another, side by side with others that do."""
    x, y = _port(thing, other, thing.down), thing.y + thing.height // 2
    end_x, end_y = _port(other, thing, other.up), other.y - other.height // 2
    bow = (end_y - y) // 2
    head = ' marker-end="url(#head)"' if other.name else ""
    start = f"M{x} {y}" if thing.name else f"M{x} {y - thing.height}V{y}"
    return f'<path class="arrow"{head} d="{start}C{x} {y + bow} {end_x} {end_y - bow} {end_x} {end_y}"/>'


def _port(thing: Thing, other: Thing, others: Sequence[Thing]) -> int:
    order = sorted(others, key=lambda one: one.x)
    step = min(18, max(0, thing.width - 30) // max(1, len(order) - 1))
    return thing.x + step * (2 * order.index(other) - len(order) + 1) // 2


def _box(kind: str, left: int, top: int, width: int, height: int, corner: int) -> str:
    return f'<rect class="{kind}" x="{left}" y="{top}" width="{width}" height="{height}" rx="{corner}"/>'


def _text(x: int, y: int, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{html.escape(words)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(read()), "utf-8")
