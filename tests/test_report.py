"""Several runs side by side: which are one row, what differs, whether it is real, and what is written of it."""

import csv
import json
import re
from html.parser import HTMLParser

import browser
import numpy as np
import pytest

import main
import report
from recipes import RECIPES

QUERIES = 60
SAME = {"query": "aa", "gallery": "bb"}


def run_folder(folder, ap, *, seed=0, data=SAME, queries=True, reranked=None, **settings):
    """The folder of a finished run whose queries have the average precisions `ap`, as a training leaves it."""
    folder.mkdir(parents=True)
    ap = np.asarray(ap, dtype=float)
    numbers = {"mAP": ap.mean(), "rank1": (ap > 0.5).mean(), "mINP": ap.mean() / 2, "num_query": len(ap), "ap": "hits"}
    if reranked is not None:
        numbers["reranked"] = {"mAP": np.mean(reranked), "rank1": 1.0, "mINP": 0.5}
    origin = {"recipe": "bot", "metric": "cosine", "protocol": "market1501", "options": {"flip": False}, "data": data}
    origin |= {"seed": seed, "commit": "abc", "date": "2026-01-02", "command": "main.py"}
    (folder / "metrics.json").write_text(json.dumps({"market": numbers | {"measured": origin}}))
    told = {"recipe": "bot", "settings": {"lr": 0.1, "epochs": 2} | settings, "trained_on": ["market"], "seed": seed}
    told |= {"data": {"market": "12 images"}, "overrides": {}, "started": [{"command": "main.py --seed", "date": "x"}]}
    (folder / "run.json").write_text(json.dumps(told))
    log = [{"epoch": 1, "lr": 0.1, "loss": 2.0}, {"epoch": 2, "lr": 0.1, "loss": 1.0, "metrics": {"market": numbers}}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    if queries:
        with open(folder / "queries.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["data", "query", "pid", "camid", "ap", "rank1", "first_hit"])
            table.writerows(["market", f"{i}.jpg", i, 1, value, int(value > 0.5), 1] for i, value in enumerate(ap))
            table.writerow(["market", "alone.jpg", 99, 1, "", "", ""])  # has no match
    return folder


@pytest.fixture
def runs(tmp_path):
    """Three seeds of one setting, two of another that is better by 0.05 in every query, and a little by chance."""
    random = np.random.default_rng(0)
    hard = random.uniform(0.1, 0.9, QUERIES)
    for seed in range(3):
        run_folder(tmp_path / "runs" / f"slow_{seed}", hard + random.normal(0, 0.01, QUERIES), seed=seed)
    for seed in range(2):
        better = hard + 0.05 + random.normal(0, 0.01, QUERIES)
        run_folder(tmp_path / "runs" / f"fast_{seed}", better, seed=seed, lr=0.3, schedule="cosine")
    return tmp_path / "runs"


def told(*words) -> int:
    return main.main(["--mode", "report", *map(str, words)])


def read(path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


class Page(HTMLParser):
    """Text of the cells by row, ids of what loads something, tags that were opened and not closed."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.loads, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href") and value]
        self.open += [] if tag in ("meta", "br", "link") else [tag]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_seeds_of_one_setting_are_a_row_and_what_differs_is_listed(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert told(*sorted(runs.iterdir()), "--output_path", out) == 0
    text = capsys.readouterr().out
    assert re.search(r"^A  bot, lr 0\.3, schedule cosine +2 ", text, re.M)
    assert re.search(r"^B  bot, lr 0\.1, schedule multistep +3 ", text, re.M)
    head, first, second = read(out / "table.csv")
    found = [json.loads((runs / f"slow_{seed}" / "metrics.json").read_text())["market"]["mAP"] for seed in range(3)]
    row = dict(zip(head, second, strict=True))
    assert float(row["mAP"]) == pytest.approx(100 * np.mean(found), abs=1e-4)
    assert float(row["mAP_std"]) == pytest.approx(100 * np.std(found, ddof=1), abs=1e-4)
    assert (row["runs"], row["lr"], row["data"]) == ("3", "0.1", "market") and first[2] == "2"
    assert set(head) >= {"lr", "schedule"} and not {"epochs", "recipe", "seed"} & set(head)


def test_a_difference_is_real_where_the_same_queries_show_it(runs, tmp_path, capsys):
    """0.05 on queries that spread over 0.8: paired it is real, of other queries each it would not be."""
    assert told(runs, "--output_path", tmp_path / "out") == 0
    (line,) = re.findall(r"^market mAP: (A − B = .*)$", capsys.readouterr().out, re.M)
    value, low, high = map(float, re.fullmatch(r"A − B = (\S+) \((\S+) to (\S+)\): real", line).groups())
    assert 4.5 < low < value < high < 5.5
    spread = np.std(np.loadtxt(runs / "slow_0" / "queries.csv", delimiter=",", skiprows=1, usecols=4, max_rows=QUERIES))
    assert high - low < 0.2 * 100 * 1.96 * 2**0.5 * spread / QUERIES**0.5


def test_runs_from_before_and_after_a_setting_are_of_one_kind():
    """They trained alike, so that their seeds belong into one mean; another value than the default is told apart."""
    settings = RECIPES["bot"].settings()
    older = {name: value for name, value in settings.items() if name not in ("same_ends", "terms")}
    assert report._trained_by({"settings": older}) == report._trained_by({"settings": settings})
    assert report._trained_by({"settings": older}) != report._trained_by({"settings": settings | {"same_ends": True}})


def slow_differences(one, other, draws):
    """One draw after another: queries, then runs of each side, then the means."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(draws):
        picked = random.integers(one.shape[1], size=one.shape[1])
        sides = [side[random.integers(len(side), size=len(side))][:, picked].mean() for side in (one, other)]
        found.append(sides[0] - sides[1])
    return np.quantile(found, (0.025, 0.975))


def test_the_interval_is_that_of_draws_made_one_by_one(tmp_path):
    random = np.random.default_rng(3)
    sides = [random.uniform(size=(runs, QUERIES)) for runs in (3, 2)]
    for side, name in zip(sides, "ab", strict=True):
        for seed, ap in enumerate(side):
            run_folder(tmp_path / f"{name}{seed}", ap, seed=seed, lr=ord(name))
    (found,) = (each for each in report.collected(sorted(tmp_path.iterdir())).told if each.number == "mAP")
    assert found.value == pytest.approx(100 * (sides[0].mean() - sides[1].mean()))
    expected = 100 * slow_differences(*sides, 5000)
    assert [found.low, found.high] == pytest.approx(list(expected), abs=0.05 * (expected[1] - expected[0]))
    assert not found.real or found.low > 0 or found.high < 0


@pytest.mark.parametrize(("other", "note"), [
    ({"data": SAME | {"query": "cc"}}, "not measured on the same images in the same way, and not compared: A; B"),
    ({"queries": False}, "has no queries*.csv beside it: test it again to compare it"),
    ({"few": True}, "30 queries with a match are needed to compare"),
])  # fmt: skip
def test_what_cannot_be_compared_is_said_and_not_compared(other, note, tmp_path):
    few = other.pop("few", False)
    ap = np.linspace(0, 1, 10 if few else QUERIES)
    run_folder(tmp_path / "a", ap)
    run_folder(tmp_path / "b", ap, lr=0.5, **other)
    found = report.collected([tmp_path / "a", tmp_path / "b"])
    assert not found.told and any(note in each for each in found.notes), found.notes


def test_the_page_is_whole_alone_and_escapes_what_it_shows(runs, tmp_path):
    run_folder(runs / "<b>&_100%", np.full(QUERIES, 0.5), lr=0.7, schedule="<script>")
    assert told(runs, "--output_path", tmp_path / "out") == 0
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.loads == ["data:,"]
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert text.count("<script") == 2 and "&lt;script&gt;" in text  # the page's own two
    assert ["row", "runs", "market rank-1", "market mAP", "market mINP"] in page.rows
    assert any(row[:1] == ["lr"] and set(row[1:]) == {"0.1", "0.3", "0.7"} for row in page.rows)
    curves = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])["curves"]
    assert [each["title"] for each in curves] == ["loss", "market rank-1", "market mAP"]
    assert all(len(each["series"]) == 6 and len({line["kind"] for line in each["series"]}) == 3 for each in curves)
    assert [curves[0]["series"][0][axis] for axis in "xy"] == [[1, 2], [2.0, 1.0]]
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    tex = (tmp_path / "out" / "table.tex").read_text(encoding="utf-8")
    body = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body[1:]}) == 1 and r"\mathbf" in tex
    assert not re.search(r"(?<!\\)[_%#]", "".join(body))


def test_repeated_runs_tests_of_weights_and_files_are_found(runs, tmp_path):
    """A folder of --repeat is its runs; one without a training its tests; a file itself."""
    for seed in (0, 1):
        run_folder(tmp_path / "rep" / f"seed_{seed}", np.full(QUERIES, 0.2 + 0.1 * seed), seed=seed)
    mean = {"market": {"mAP": 0.25, "rank1": 0.0, "measured": {"runs": ["seed_0", "seed_1"]}}}
    (tmp_path / "rep" / "metrics.json").write_text(json.dumps(mean))
    (row,) = report.collected([tmp_path / "rep"]).rows
    assert row.cell("market", "mAP") == (pytest.approx(25), pytest.approx(10 * 0.5**0.5), 2)
    test = run_folder(tmp_path / "test", np.full(QUERIES, 0.9), reranked=np.full(QUERIES, 0.95))
    for name, other in (("metrics.json", "metrics_osnet.json"), ("queries.csv", "queries_osnet.csv")):
        (test / name).rename(test / other)
    (test / "run.json").unlink()
    found = report.collected([test, runs / "slow_0" / "metrics.json"])
    assert found.columns == ["market", "market re-ranked"] and [row.runs[0].seed for row in found.rows] == [0, 0]
    assert found.rows[1].cell("market re-ranked", "mAP") is None


def test_a_run_that_is_not_finished_is_a_row_of_its_own(runs):
    for name in ("metrics.json", "queries.csv"):
        (runs / "slow_2" / name).unlink()
    found = report.collected([runs])
    assert sorted(len(row.runs) for row in found.rows) == [1, 2, 2]
    (row,) = (each for each in found.rows if each.runs[0].state)
    assert row.runs[0].state == "not finished: epoch 2 of 2" and row.cell("market", "mAP")


@pytest.mark.parametrize(("words", "message"), [
    ("", "found no run: name folders of runs, as in --mode report runs/*"),
    ("nothing", "there is no nothing: name folders of runs"),
    ("empty", "found no run: name folders of runs, as in --mode report runs/*; left out: empty holds no run"),
    ("runs --test_dataset duke", "--test_dataset duke: no run has results of it"),
    ("broken", "broken/metrics.json cannot be read"),
    ("other", "other/metrics.json: rank1 is 'high', expected a fraction"),
    ("shape", "shape/metrics.json holds no results of this suite"),
    ("log", "log/log.jsonl is damaged"),
])  # fmt: skip
def test_what_cannot_be_read_is_one_line(words, message, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, text in (("broken", "{"), ("other", '{"market": {"rank1": "high", "mAP": 1}}'), ("shape", "[1]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(text)
    (tmp_path / "empty").mkdir()
    (run_folder(tmp_path / "log", np.full(QUERIES, 0.5)) / "log.jsonl").write_text("{}\n")
    assert told(*words.split()) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and message in error and "\n" not in error


def test_a_seed_that_is_there_twice_is_said(runs):
    found = report.collected([runs / "slow_0", *(run_folder(runs / "copy", np.full(QUERIES, 0.5)),)])
    assert len(found.rows) == 1 and any("a seed is there more than once" in note for note in found.notes)


@pytest.mark.skipif(browser.MISSING, reason=browser.REASON)
def test_the_page_fits_a_phone_and_sorts(runs, tmp_path):
    assert told(runs, "--output_path", tmp_path / "out") == 0
    window = browser.Browser(tmp_path / "profile")
    try:
        for width, dark in ((390, True), (1440, False)):
            window.open(tmp_path / "out" / "index.html", width=width, dark=dark)
            assert window.failures == [] and window.run("document.documentElement.scrollWidth") <= width
            light = window.run("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0]
            assert (int(light) < 128) == dark
        drawn = (
            "[...document.querySelectorAll('#curves figure')].map(each => each.querySelectorAll('svg g path').length)"
        )
        assert window.run(drawn) == [5, 5, 5]  # the loss, rank-1 and mAP of each run
        alike = "[...document.querySelectorAll('#curves g path')].slice(0, 5).map(each => each.className.baseVal)"
        two, three = window.run(alike)[:2], window.run(alike)[2:]
        assert len(set(two)) == len(set(three)) == 1 and two[0] != three[0]  # runs of one row look alike
        keys = "[...document.querySelectorAll('.sorts .swatch path')].map(each => each.className.baseVal)"
        assert window.run(keys) == [two[0], three[0]]
        rows = "[...document.querySelectorAll('table.sorts tbody tr')].map(row => row.cells[0].textContent[0]).join('')"
        heads = "[...document.querySelectorAll('table.sorts th')]"
        orders = [window.run(f"{heads}[3].querySelector('button').click(), {rows}") for _ in range(2)]
        assert orders == ["AB", "BA"] and window.run(f"{heads}[3].getAttribute('aria-sort')") == "ascending"
    finally:
        window.close()
