"""The picture of the house: it is the one that the imports draw, and what it leaves out and refuses."""

import random
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import architecture  # noqa: E402


def house(folder, **sources):
    """A repository of main > a, b > room, machine; `sources`: what stands in a file, `room` in a file of the folder."""
    (folder / "CONTRIBUTING.md").write_text("Imports run\n`main > a, b >\nroom, machine`.", "utf-8")
    for name in ("main", "a", "b"):
        (folder / f"{name}.py").write_text(f'"""What {name} <is>.\n\nMore."""\n' + sources.get(name, ""), "utf-8")
    for name in ("room", "machine"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f'"""The {name}."""\n', "utf-8")
        (folder / name / "files.py").write_text(sources.get(name, ""), "utf-8")
    return folder


def test_the_committed_picture_is_what_the_imports_draw():
    drawn = architecture.draw(architecture.read())
    assert architecture.PICTURE.read_text("utf-8") == drawn, "the imports changed: python docs/architecture.py"


def test_every_file_and_folder_stands_in_the_picture_and_none_on_another():
    root = ElementTree.fromstring(architecture.PICTURE.read_text("utf-8"))
    words = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    files = {path.name for path in ROOT.glob("*.py")} - {"conftest.py", "test_smoke.py"}
    folders = {f"{path.parent.name}/" for path in ROOT.glob("*/__init__.py")}
    assert files | folders <= words
    for floor in architecture.arrange(architecture.read()):
        for left, right in zip(floor, floor[1:], strict=False):  # also the bends: no arrow runs through a card
            assert left.x + left.width // 2 < right.x - right.width // 2


def test_arrows_lead_down_from_one_thing_to_another():
    """Each with a head ends at the upper edge of a card or a room."""
    root = ElementTree.fromstring(architecture.PICTURE.read_text("utf-8"))
    svg = "{http://www.w3.org/2000/svg}"
    boxes = [box for box in root.iter(f"{svg}rect") if box.get("class") in ("card", "room")]
    tops = [(int(b.get("x")), int(b.get("x")) + int(b.get("width")), int(b.get("y"))) for b in boxes]
    paths = [path for path in root.iter(f"{svg}path") if path.get("class") == "arrow"]
    assert sum("marker-end" in path.keys() for path in paths) >= len(boxes) - 1
    for path in paths:
        _, start, *_, x, y = map(int, re.findall(r"-?\d+", path.get("d")))
        assert start < y
        if "marker-end" in path.keys():
            assert any(left <= x <= right and y == top for left, right, top in tops)


def reachable(arrows, name):
    found, todo = set(), [name]
    while todo:
        for other in arrows[todo.pop()]:
            if other not in found:
                found.add(other)
                todo.append(other)
    return found


def test_left_out_is_what_a_chain_of_arrows_says():
    """Whoever reaches whom stays the same, and no arrow can be spared."""
    dice = random.Random(1)
    for _ in range(20):
        arrows = {i: [j for j in range(i + 1, 9) if dice.random() < 0.4] for i in range(9)}
        few = architecture.reduced(arrows)
        assert all(reachable(few, i) == reachable(arrows, i) for i in arrows)
        for i in arrows:
            for j in few[i]:
                assert j not in reachable(few | {i: [k for k in few[i] if k != j]}, i)


def test_imports_are_read_wherever_they_stand(tmp_path):
    sources = {
        "main": "import a, torch\ndef f():\n    from b import x\n",
        "a": "from room import files\nimport machine\n",
    }
    read = architecture.read(house(tmp_path, **sources))
    assert read.floors == (("main",), ("a", "b"), ("room",))
    assert read.arrows["main"] == {"a", "b"} and read.arrows["a"] == {"room"}  # the ground is left out
    assert read.files == {"room": ("files",), "machine": ("files",)}
    picture = architecture.draw(read)
    ElementTree.fromstring(picture)
    assert "<title>What main &lt;is&gt;.</title>" in picture and picture.count("url(#head)") == 3


@pytest.mark.parametrize(
    "sources", [{"room": "import a"}, {"a": "import b"}, {"machine": "from room import files"}, {"b": "import main"}]
)
def test_an_import_that_does_not_lead_down_is_refused(tmp_path, sources):
    (name,) = sources
    with pytest.raises(ValueError, match=rf"{name} imports \w+, which is not on a floor below"):
        architecture.read(house(tmp_path, **sources))


def test_a_name_without_a_floor_and_one_that_is_gone_are_named(tmp_path):
    root = house(tmp_path)
    (root / "c.py").write_text("")
    with pytest.raises(ValueError, match=r"c stands on no floor: put it into CONTRIBUTING\.md"):
        architecture.read(root)
    (root / "c.py").unlink()
    (root / "b.py").unlink()
    with pytest.raises(ValueError, match="names b, which is gone"):
        architecture.read(root)
    (root / "CONTRIBUTING.md").write_text("Nothing here.")
    with pytest.raises(ValueError, match="no chain"):
        architecture.read(root)
