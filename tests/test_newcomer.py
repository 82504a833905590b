"""A method of one's own, as README and docs/method.md promise it: a class, perhaps a loss, and a row. Nothing else."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trees

import cli
from recipes import RECIPES

# What somebody adds to the suite, word for word: the head to models.py, the loss to losses.py, the row to recipes.py.
HEAD = """
class MeanAndMax(models.Model):
    def __init__(self, *, num_pids, backbone="resnet50", pretrained=False, image_size=None, sharpness=1.0):
        super().__init__()
        self.base = backbones.create(backbone, pretrained=pretrained, image_size=image_size)
        dim = 2 * self.base.out_channels
        self.sharpness = sharpness
        self.classifier = linear_classifier(dim, num_pids, bias=True, std=0.01)
        self.num_pids, self.embedding_dim, self.feat_dims = num_pids, dim, (dim,)

    def forward(self, images, views=None):
        x = self.base(images)
        feature = self.sharpness * torch.cat((x.mean(dim=(2, 3)), x.amax(dim=(2, 3))), dim=1)
        classify = self.training and self.classifier is not None
        return models.Output(feature, (self.classifier(feature),) if classify else (), (feature,))
"""
LOSS = """
class Spread(torch.nn.Module):
    needs = ("feats",)

    def __init__(self, *, num_pids, dim, reach=1.0):
        super().__init__()
        self.means, self.reach = torch.nn.Parameter(torch.zeros(num_pids, dim)), reach

    def forward(self, output, labels):
        return (output.feats[0] - self.means[labels]).square().mean() / self.reach
"""
ROW = """
recipes.row(
    RECIPES["demo"],
    name="toy",
    title="Mean and maximum, with a spread loss",
    paper="Somebody, A Paper, 2026",
    source="its section 4.1",
    network=MeanAndMax,
    options={"sharpness": 0.5, "reach": 2.0},
    terms={"spread": Term(0.1, Spread)},
)
"""
IMPORTS = """
import torch, models, recipes
from config import Term
from networks import backbones
from networks.blocks import linear_classifier
from recipes import RECIPES
"""


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The suite with the toy in it."""
    (tmp_path / "toy_method.py").write_text(IMPORTS + HEAD + LOSS + ROW)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        yield __import__("toy_method")
    finally:
        RECIPES.pop("toy", None)
        sys.modules.pop("toy_method", None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from test_smoke import small_set

    return small_set(tmp_path_factory.mktemp("newcomer") / "data", num_train_pids=6, num_test_pids=5)


def test_a_head_a_loss_and_a_row_train_and_test(toy, data, tmp_path, capsys):
    import main
    from test_smoke import TINY, weights_of

    words = ["--recipe", "toy", "--market_path", str(data), "--output_path", str(tmp_path / "run"), *TINY]
    words += ["--epochs", "1", "--num_queries", "0", "--reach", "4", "--spread_weight", "0.2"]
    assert main.main(words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "reach: 4.0 (recipe: 2.0)" in out and "spread_weight: 0.2 (recipe: 0.1)" in out
    log = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert "spread" in json.dumps(log) and weights_of(tmp_path / "run" / "model.pt")
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())["market"]
    test = ["--mode", "test", "--market_path", str(data), "--weights", str(tmp_path / "run" / "model.pt")]
    assert main.main([*test, "--output_path", str(tmp_path / "test")]) == 0, capsys.readouterr().err
    again = json.loads(next((tmp_path / "test").glob("metrics*.json")).read_text())["market"]
    assert again["mAP"] == pytest.approx(found["mAP"], abs=1e-6)


def test_its_numbers_are_flags_that_help_shows(toy, capsys):
    with pytest.raises(SystemExit):
        cli.parse(["--recipe", "toy", "--help", "network"])
    text = " ".join(capsys.readouterr().out.split())
    assert "of recipe toy alone (arguments of MeanAndMax and Spread)" in text and "Somebody, A Paper, 2026" in text
    assert "--sharpness X (0.5)" in text and "--reach X (2.0)" in text and "--spread_weight X (0.1)" in text
    args, recipe = cli.parse(["--recipe", "toy", "--sharpness", "3", "--spread_weight", "0"])
    changed = cli.customised(recipe, cli.overrides(args)).with_(backbone="resnet18", image_size=(64, 32))
    assert changed.outline(4).sharpness == 3.0 and [name for name, *_ in changed.losses(4).terms] == ["id", "triplet"]


def test_a_mistake_in_its_row_names_file_line_and_row(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    wrong = IMPORTS + HEAD + LOSS + ROW.replace('"sharpness"', '"sharpnes"')
    (tmp_path / "toy_mistaken.py").write_text(wrong)
    line = wrong[: wrong.index("recipes.row(")].count("\n") + 1
    with pytest.raises(ValueError, match=rf"^toy_mistaken.py:{line}, row toy: options has sharpnes.*mean sharpness"):
        __import__("toy_mistaken")
    assert "toy" not in RECIPES


def test_a_network_that_forgets_its_widths_is_told_so(toy):
    class Bare(toy.MeanAndMax):
        def __init__(self, *, num_pids, pretrained=False, **trunk):
            super().__init__(num_pids=num_pids, pretrained=pretrained, **trunk)
            del self.feat_dims

    with pytest.raises(ValueError, match=r"toy \(toy_method.py:\d+\): the constructor of Bare sets no feat_dims"):
        RECIPES["toy"].with_(network=Bare).outline(3)


def test_a_network_that_is_no_model_is_told_so(toy):
    class Plain(toy.torch.nn.Module):
        def __init__(self, *, num_pids, pretrained=False):
            super().__init__()

    with pytest.raises(ValueError, match=r"recipe toy \(toy_method.py:\d+\): Plain is no models.Model"):
        RECIPES["toy"].with_(network=Plain).outline(3)


ROOT = Path(__file__).parents[1]
BY_HAND = {  # file -> what somebody adds to it, with the imports that it needs there
    "models.py": HEAD.replace("models.", ""),
    "losses.py": LOSS.replace("torch.nn.", "nn."),
    "recipes.py": "\nimport losses\nimport models\nfrom config import Term\n"
    + ROW.replace("recipes.row", "row").replace("MeanAndMax", "models.MeanAndMax").replace("Spread", "losses.Spread"),
}
USED = """
import runpy, sys
sys.argv[0] = "main.py"
import main
words = "--recipe toy --epochs 1 --steps 2 --p 2 --k 2 --image_size 64 32 --num_queries 0 --amp none"
code = main.main([*words.split(), "--market_path", sys.argv[1], "--output_path", sys.argv[2]])
runpy.run_path("docs/tables.py", run_name="__main__")
sys.exit(code)
"""


def test_a_method_touches_the_files_that_the_page_lists_and_no_other(data, tmp_path):
    """A copy of the suite, with the class, the loss and the row written into its own files, trains the method; the
    table of docs/method.md has these files and those that docs/tables.py then changes, and names the tests."""
    home = trees.suite(tmp_path / "suite", "test_*.py", "*.png")
    for name, text in BY_HAND.items():
        (home / name).write_text((home / name).read_text("utf-8") + text, "utf-8")
    words = [sys.executable, "-c", USED, str(data), str(tmp_path / "run")]
    done = subprocess.run(words, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.pt").exists() and "spread" in (tmp_path / "run" / "log.jsonl").read_text()
    files = [path.relative_to(home) for path in home.rglob("*") if path.suffix in (".py", ".md", ".svg", ".json")]
    changed = {file.as_posix() for file in files if (home / file).read_bytes() != (ROOT / file).read_bytes()}
    page = (ROOT / "docs" / "method.md").read_text("utf-8")
    table = page.split("These files are all that is touched")[1].split("\n\n")[1]
    listed = {name for line in table.splitlines() for name in re.findall(r"`([\w/]+\.\w+)`", line.split("|")[1])}
    assert changed == {name for name in listed if not name.startswith("tests/")} > BY_HAND.keys()
    assert all((ROOT / name).exists() for name in listed)
