"""The page of ranked queries: what is written, and in a browser what it shows, sorts, filters and how it fits."""

import json
import math
import os
import re
from collections import namedtuple

import browser
import numpy as np
import pytest
from PIL import Image
from test_visualize import Ranking

from machine import files
from page import ranked, thumbnails

Sample = namedtuple("Sample", "path pid camid")


def image(path, size=(32, 64), colour=(200, 30, 30)):
    Image.new("RGB", size, colour).save(path)
    return str(path)


@pytest.fixture
def samples(tmp_path):
    """Three queries of identity 1, 2, 3 on camera 1, and a gallery of three."""
    query = [Sample(image(tmp_path / f"q{pid}.jpg"), pid, 1) for pid in (1, 2, 3)]
    gallery = [
        Sample(image(tmp_path / f"g{i}.jpg"), pid, camid) for i, (pid, camid) in enumerate(((1, 1), (1, 2), (0, 2)))
    ]
    return query, gallery


RIGHT = Ranking(0, 1.0, 1, 1, (0, 1, 2), (0.1, 0.2, 0.3), ("junk", "right", "wrong"), (None, 1, 2))
WRONG = Ranking(1, 0.25, 2, 1, (2, 1), (0.2, 0.35), ("wrong", "right"), (1, 2))
NONE = Ranking(2, math.nan, None, 0, (2, 0), (0.1, 0.2), ("wrong", "wrong"), (1, 2))
ROWS = (RIGHT, WRONG, NONE)


def data_of(page):
    """What the page knows."""
    text = page.read_text("utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def page_of(rankings=ROWS, **more):
    measured = ranked.Measured({"rank1": 0.5, "mAP": 0.625, "rank1_interval": None, "cmc": [0.5, 1.0]})
    return ranked.Page("A page", [ranked.View("euclidean distance", rankings, measured=measured)], **more)


# ============ what is written ============


def test_the_page_holds_what_it_is_given_and_needs_nothing_else(samples, tmp_path):
    path = ranked.write(tmp_path / "out", page_of(distractors=frozenset({0, 7})), *samples)
    data, text = data_of(path), path.read_text("utf-8")
    assert path == tmp_path / "out" / "index.html" and not re.search(r"\{\{\w+\}\}", text)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text.replace("http://www.w3.org", ""))
    assert data["queries"] == 3 and data["images"]["name"] == [
        "q1.jpg",
        "q2.jpg",
        "q3.jpg",
        "g0.jpg",
        "g1.jpg",
        "g2.jpg",
    ]
    assert data["views"][0]["rows"][0] == [1.0, 1, 1, [3, 4, 5], [0.1, 0.2, 0.3], "jrw", [None, 1, 2]]
    assert data["views"][0]["rows"][2][:3] == [None, None, 0]
    assert data["distractors"] == [0]  # of those that the page shows
    assert [number["value"] for number in data["views"][0]["numbers"]] == [0.5, 0.625]
    for name, size in zip(
        data["images"]["file"], zip(data["images"]["width"], data["images"]["height"], strict=True), strict=True
    ):
        assert Image.open(path.parent / "thumbs" / f"{name}.jpg").size == size == (32, 64)


def test_an_earlier_page_in_the_folder_is_gone_and_stays_where_a_new_one_cannot_be_made(samples, tmp_path):
    query, gallery = samples
    path = ranked.write(tmp_path / "out", page_of(), query, gallery)
    before = path.read_text("utf-8")
    other = [Sample(image(tmp_path / "other.jpg"), 1, 1), *query[1:2], Sample(str(tmp_path / "gone.jpg"), 3, 1)]
    with pytest.raises(FileNotFoundError, match="gone.jpg"):
        ranked.write(tmp_path / "out", page_of(), other, gallery)
    assert path.read_text("utf-8") == before
    assert all((path.parent / "thumbs" / f"{name}.jpg").is_file() for name in data_of(path)["images"]["file"])
    ranked.write(tmp_path / "out", page_of(), [other[0], *query[1:]], gallery)
    kept = {file.stem for file in (path.parent / "thumbs").iterdir()}
    assert kept == set(data_of(path)["images"]["file"]) and len(kept) == 6


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not have")
@pytest.mark.parametrize(
    "name", [b"new\nline", b"\xff\xfe", b"\x01\t", "\u2028世界".encode(), b'"q"', b"x" * 250, b"</script><b>{{data}}&'"]
)
def test_any_name_can_be_shown(tmp_path, name):
    folder = tmp_path / "in" if b"/" not in name else tmp_path / os.fsdecode(name).partition("/")[0]
    folder.mkdir()
    path = os.fsdecode(os.path.join(os.fsencode(folder), name.replace(b"/", b"")))
    Image.new("L", (8, 16), 90).save(path, "PNG")
    ranking = Ranking(0, math.nan, None, 0, (0,), (0.1,), (None,), (1,))
    page = ranked.Page(os.fsdecode(name), [ranked.View("distance", [ranking])], labelled=False)
    data = data_of(ranked.write(tmp_path / "out", page, [Sample(path, 1, 1)], [Sample(path, 1, 1)]))
    assert data["images"]["name"][0] == files.printable(os.path.basename(path))
    assert data["title"] == files.printable(os.fsdecode(name))


def test_files_of_one_name_are_told_apart_by_their_folders(samples, tmp_path):
    query, gallery = samples
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    twice = [Sample(image(tmp_path / name / "0001.jpg"), 1, 1) for name in ("a", "b")]
    data = data_of(ranked.write(tmp_path / "out", page_of(), [*twice, query[2]], gallery))
    assert data["images"]["name"][:2] == ["a/0001.jpg", "b/0001.jpg"]


def test_a_tracklet_is_a_strip_of_its_frames_and_a_large_image_is_made_small(tmp_path):
    frames = tuple(image(tmp_path / f"f{i}.png", (16, 32 + i), (i * 10, 0, 0)) for i in range(20))
    large = image(tmp_path / "large.png", (300, 900))
    strip, single = thumbnails.write([frames, large], tmp_path / "thumbs")
    assert strip[1:] == (16, 32, thumbnails.FRAMES) and single[1:] == (64, 192, 1)
    drawn = np.asarray(Image.open(tmp_path / "thumbs" / strip.file)).reshape(32, thumbnails.FRAMES, 16, 3)
    red = drawn[..., 0].mean((0, 2))
    assert red[0] < 5 and red[-1] > 180 and (np.diff(red) > 0).all()  # evenly, from the first to the last
    assert abs(red[thumbnails.FRAMES // 2] - 100) < 5  # the middle one, of which maps are


# ============ in a browser ============

in_browser = pytest.mark.skipif(browser.MISSING, reason=browser.REASON)
TOOLS = """
  const $ = selector => document.querySelector(selector), all = selector => [...document.querySelectorAll(selector)];
  const shown = () => all('#list > li').map(item => Number(item.dataset.query));
  const filled = () => all('#list > li').filter(item => item.firstChild).length;
  const pick = (id, value, kind = 'change') => {
    $(id).value = value; $(id).dispatchEvent(new Event(kind, {bubbles: true}));
  };
"""


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    opened = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def look(window, script):
    """What `script` puts into `found`; nothing has failed on the page."""
    found = window.run(f"(async () => {{ const found = {{}}; {TOOLS} {script}; return found; }})()")
    assert window.failures == []
    return found


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """400 queries of 20 people and 4 cameras under two rankings; AP of query i is i / 400, in the other the reverse."""
    folder = tmp_path_factory.mktemp("many")
    paths = [image(folder / f"p{i}.jpg", (64, 128), (i * 12, 80, 200 - i * 9)) for i in range(20)]
    query = [Sample(paths[i % 20], i % 20, i % 4) for i in range(400)]
    gallery = [Sample(paths[i], i if i < 19 else 99, i % 4) for i in range(20)]

    def rows(ap):
        found = []
        for i in range(400):
            index, hit = tuple((i + k) % 20 for k in range(10)), i % 3 == 0
            marks = ("right" if hit else "wrong", "junk", "wrong" if hit else "right", *("wrong",) * 7)
            ranks = (1, None, *range(2, 10))
            found.append(
                Ranking(i, ap(i), 1 if hit else 2, 1, index, tuple(k / 10 + i / 1e4 for k in range(10)), marks, ranks)
            )
        return found

    def measured(value):
        numbers = {"rank1": value, "mAP": value, "mINP": value, "mAP_interval": [value - 0.1, value + 0.1]}
        edges = [0, 0.5, 1]
        return ranked.Measured(
            numbers | {"cmc": [value, 1.0]},
            [{"rank1": 94.5, "mAP": 85.9, "source": "the paper"}],
            facts={"Weights": "model.pt", "SHA-256 of the weights": "ab" * 32},
            verification={"eer": 0.1, "eer_threshold": 0.4},
            histogram={"edges": edges, "same": [0.8, 0.2], "other": [0.1, 0.9]},
            camera_pairs={"query_cameras": [0], "gallery_cameras": [1], "mAP": [[0.5]], "num_valid": [[9]]},
        )

    maps = {path: np.linspace(0, 1, 32, dtype=np.float32).reshape(8, 4) for path in paths}
    inside = ranked.Inside(maps, "the last map", (6,), {(0, 0): "qgqg"})
    views = [
        ranked.View("re-ranked", rows(lambda i: i / 400), "re-ranked distance", measured(0.6), inside),
        ranked.View("euclidean distance", rows(lambda i: 1 - i / 400), "euclidean distance", measured(0.4)),
    ]
    log = [{"epoch": 1, "lr": 3e-4, "id": 5.5, "metrics": {"market": {"rank1": 0.5, "mAP": 0.4}}}]
    page = ranked.Page(
        "Many", views, log=log, infrared=frozenset({3}), distractors=frozenset({99}), start={"sort": "ap"}
    )
    return ranked.write(folder / "out", page, query, gallery)


@in_browser
def test_sort_filter_and_switch_change_what_is_shown_and_the_address_keeps_it(many, window):
    window.open(many)
    found = look(window, """
      found.filled = filled(); found.start = shown().slice(0, 3);
      pick('#tool-down', '1'); found.down = shown().slice(0, 3);
      pick('#tool-sort', 'distance'); pick('#tool-down', ''); found.distance = shown().slice(0, 2);
      pick('#tool-rank1', 'wrong'); found.wrong = shown().length; found.said = $('#count').textContent;
      pick('#tool-cam', '2'); pick('#tool-other', '2'); found.pair = shown();
      pick('#tool-id', '2', 'input'); found.identity = shown();
      found.address = location.hash;
      pick('#tool-id', '', 'input'); pick('#tool-text', 'p7.jpg', 'input'); found.text = shown().length;
      $('#tools button').click(); found.all = shown().length;
      found.numbers = $('.numbers').textContent;
      $('input[name=view][value="1"]').click();
      found.before = $('.numbers').textContent; found.reversed = shown().slice(0, 2);
      pick('#tool-change', 'worse'); found.worse = shown().length;
      found.charts = all('.chart h3').map(title => title.textContent);
    """)  # fmt: skip
    assert 0 < found["filled"] < 40 < 400 == found["all"]  # rows are made while they are near the window
    assert found["start"] == [0, 1, 2] and found["down"] == [399, 398, 397] and found["reversed"] == [399, 398]
    assert found["distance"] == [0, 3]  # right at rank 1 is nearer
    assert found["wrong"] == 400 - 134 and found["said"].startswith("266 of 400 queries, 0 right at rank 1")
    assert found["pair"] and all(q % 4 == 2 and q % 3 for q in found["pair"])
    assert found["identity"] == [q for q in range(400) if q % 20 == 2 and q % 3]
    assert 0 < found["text"] < 400
    assert "sort=distance" in found["address"] and "cam=2" in found["address"] and "id=2" in found["address"]
    assert all(words in found["numbers"] for words in ("60.0 %", "50.0 to 70.0", "published 85.9"))
    assert "40.0 %" in found["before"] and found["worse"] == 199
    assert len(found["charts"]) == 6
    window.open(many, address=found["address"])
    assert look(window, "found.pair = shown(); found.sort = $('#tool-sort').value;") == {
        "pair": found["identity"],
        "sort": "distance",
    }


@in_browser
@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_nothing_overflows_thumbnails_are_large_and_the_ground_is_of_the_scheme(many, window, dark):
    window.open(many, width=390, dark=dark)
    window.run("document.querySelector('#list').scrollIntoView()")
    window.settle()
    found = look(window, """
      found.width = innerWidth; found.over = document.documentElement.scrollWidth - innerWidth;
      found.heights = all('#list .shot').map(shot => shot.getBoundingClientRect().height);
      await Promise.all(all('#list li:first-child img').map(img => img.decode()));
      found.sideways = $('.strip').scrollWidth > $('.strip').clientWidth;
      found.words = all('#list .tile').slice(0, 3).map(tile => tile.getAttribute('aria-label'));
      const named = each => each.textContent.trim() || each.getAttribute('aria-label') || each.labels?.length;
      found.nameless = all('button, input, select').filter(each => !named(each)).length;
      const grounds = all('body, .chart, .row, fieldset, .numbers > div, button, select, dialog')
        .map(each => getComputedStyle(each).backgroundColor).filter(colour => !colour.endsWith(' 0)'));
      found.lightest = Math.max(...grounds.map(colour => Math.max(...colour.match(/[0-9.]+/g).slice(0, 3)))) / 255;
    """)  # fmt: skip
    assert found["width"] == 390 and found["over"] <= 0 and found["sideways"] and not found["nameless"]
    assert found["heights"] and min(found["heights"]) >= 96 and (found["lightest"] < 0.35) == dark
    assert "query" in found["words"][0] and "not counted" in found["words"][2]
    assert "rank 1, same identity" in found["words"][1] or "rank 1, right" in found["words"][1]
    assert "colour" in found["words"][1]  # of this set some cameras see infrared light


@in_browser
@pytest.mark.parametrize("width", [390, 1440])
def test_the_large_view_is_walked_with_the_keys(many, window, width):
    window.open(many, width=width)
    window.run("document.querySelector('#list').scrollIntoView()")
    window.settle()
    window.run("document.querySelector('#list .line button').focus()")
    window.run("document.activeElement.click()")
    window.settle()
    seen = """
      found.title = $('#large strong').textContent; found.address = location.hash; found.open = $('#large').open;
      found.over = $('#large').scrollWidth - $('#large').clientWidth; found.strips = all('#large .strip').length;
      found.maps = all('#large canvas').length; found.borders = all('#large .panel line').length;
      found.links = all('#large .links line').length;
    """
    first = look(window, seen)
    assert first["title"].startswith("1 of 400") and "rank 1" in first["title"] and "query=0" in first["address"]
    assert first["maps"] == 2 and first["strips"] == 2 and first["over"] <= 0
    assert (first["links"], first["borders"]) == (5, 4 * 2)  # the parts that are aligned, in each of four pictures
    window.press("ArrowRight")
    assert look(window, seen)["title"].startswith("2 of 400")
    assert look(window, seen)["borders"] == 4 * 5  # of six stripes
    window.press("ArrowDown")
    assert "not counted" in look(window, seen)["title"] and "hit=1" in look(window, seen)["address"]
    window.press("ArrowLeft")
    assert look(window, seen)["title"].startswith("1 of 400")
    window.press("Escape")
    last = look(window, seen + "found.focus = document.activeElement.textContent;")
    assert not last["open"] and "query" not in last["address"] and last["focus"].startswith("1. ")


@in_browser
def test_thousands_of_queries_open_at_once(samples, tmp_path, window):
    query, gallery = samples
    rows = [RIGHT._replace(query=i, ap=i / 5000) for i in range(5000)]
    window.open(ranked.write(tmp_path / "out", page_of(rows), query[:1] * 5000, gallery))
    found = look(window, "found.shown = shown().length; found.filled = filled(); pick('#tool-down', '1');")
    window.settle()
    then = look(window, "found.first = shown()[0]; found.filled = filled();")
    assert found["shown"] == 5000 and then["first"] == 4999
    assert 0 < found["filled"] < 60 and 0 < then["filled"] < 60  # only what is near the window is made


@in_browser
def test_tracklets_play_and_an_unlabelled_page_judges_nothing(tmp_path, window):
    frames = tuple(image(tmp_path / f"f{i}.png", (16, 32), (i * 60, 0, 0)) for i in range(4))
    ranking = Ranking(0, math.nan, None, 0, (0,), (0.1,), (None,), (1,))
    inside = ranked.Inside({frames: np.ones((4, 2), np.float32)}, "the last map", soft=True)
    page = ranked.Page("Frames", [ranked.View("distance", [ranking], inside=inside)], labelled=False)
    window.open(ranked.write(tmp_path / "out", page, [Sample(frames, 1, 1)], [Sample(frames, 2, 1)]))
    found = look(window, """
      const at = () => $('#list img').style.transform, still = at();
      found.still = still; $('.play').click();
      await new Promise(done => { const look = () => at() !== still ? done() : requestAnimationFrame(look); look(); });
      $('.play').click(); found.moved = at();
      found.words = $('header').innerText + $('main').innerText; $('#list .tile').click();
      found.film = all('#large .film span').length;
      const plays = each => [each.querySelectorAll('canvas').length, 'frames' in each.querySelector('img').dataset];
      found.plays = all('#large .panel').map(plays);
      found.said = $('#large .switches').textContent;
    """)  # fmt: skip
    assert found["plays"] == [[0, True], [1, False]] * 2  # a map is of one frame
    assert "of the middle frame" in found["said"] and "The parts are soft" in found["said"]
    assert "-50%" in found["still"] and "-75%" in found["moved"] and found["film"] == 8
    assert "4 frames" in found["words"] and not re.search(r"AP|rank 1|right|wrong|identity", found["words"])


@in_browser
def test_ticks_are_few_and_enclose_the_values(many, window):
    window.open(many)
    for low, high in ((0, 60), (1, 1), (0, 0), (3.1, 3.1001), (-2, 5e4), (99.99, 100)):
        found = window.run(f"ticks({low}, {high}, 5, true)")
        assert 2 <= len(found) <= 8 and found == sorted(set(found))
        assert found[0] <= low + 1e-6 and found[-1] >= high - 1e-6
        inside = window.run(f"ticks({low}, {high}, 5)")
        assert set(inside) <= set(found) and all(low - 1e-9 <= each <= high + 1e-9 for each in inside)
    looks = window.run("range(16).map(look)")
    assert len(set(looks)) == 16


@in_browser
@pytest.mark.parametrize("width", [390, 1440])
def test_no_label_of_a_chart_is_cut_and_the_threshold_is_told(many, window, width):
    window.open(many, width=width)
    found = look(
        window,
        """
      const cut = figure => [...figure.querySelectorAll('svg text, li')].filter(text => {
        const [inner, outer] = [text.getBoundingClientRect(), figure.getBoundingClientRect()];
        return inner.left < outer.left || inner.right > outer.right || inner.top < outer.top
          || inner.bottom > outer.bottom;
      });
      found.cut = all('.chart').flatMap(cut).map(text => text.textContent);
      found.drawn = all('.chart svg text').length;
      found.legends = all('.legend').map(legend => legend.textContent);
    """,
    )
    assert found["cut"] == [] and found["drawn"] > 30
    assert any("threshold 0.400 (equal error rate 10.0 %)" in legend for legend in found["legends"])


@in_browser
def test_a_white_picture_stands_in_a_frame_on_the_dark_page(samples, tmp_path, window):
    for name in ("cmc.png", "sheet.png"):
        image(tmp_path / name, (300, 200), (255, 255, 255))
    links = {"CMC curve": tmp_path / "cmc.png", "Strips": tmp_path / "ranks"}
    page = page_of(links=links, pictures={"A sheet": tmp_path / "sheet.png"})
    window.open(ranked.write(tmp_path / "out", page, *samples), dark=True)
    found = look(
        window,
        """
      const framed = $('#files a img');
      framed.loading = 'eager'; await framed.decode();
      const said = each => each.textContent;
      found.pictures = all('#files a').map(said); found.rest = all('#more li').map(said);
      const ground = each => Math.max(...getComputedStyle(each).backgroundColor.match(/[0-9.]+/g).slice(0, 3));
      found.grounds = [ground($('#files a')), ground(framed)];
      found.border = parseFloat(getComputedStyle(framed).borderTopWidth);
    """,
    )
    assert found["pictures"] == ["CMC curve"] and found["rest"] == ["Strips"]
    assert found["grounds"][0] < 64 and found["grounds"][1] == 255 and found["border"] >= 4
