"""Pictures: sizes, colours, order."""

import math
import sys
from collections import namedtuple
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import visualize

Sample = namedtuple("Sample", "path pid camid")
RIGHT, WRONG, JUNK = (visualize.MARKS[mark] for mark in ("right", "wrong", "junk"))


def person(path, colour, size=(32, 64)):
    image = Image.new("RGB", size, (180, 180, 180))
    draw = ImageDraw.Draw(image)
    draw.ellipse((size[0] * 0.35, 4, size[0] * 0.65, 16), fill=(220, 180, 150))
    draw.rectangle((size[0] * 0.25, 18, size[0] * 0.75, size[1] - 4), fill=colour)
    image.save(path)
    return str(path)


@pytest.fixture
def samples(tmp_path):
    """Three queries of identity 1, 2, 3 on camera 1, and a gallery of which the first is query 0's own camera."""
    colours = {1: (200, 30, 30), 2: (30, 120, 200), 3: (40, 160, 60), 4: (90, 90, 90)}

    def make(name, pid, camid):
        return Sample(person(tmp_path / f"{name}.jpg", colours[pid]), pid, camid)

    query = [make(f"q{pid}", pid, 1) for pid in (1, 2, 3)]
    gallery = [
        make(f"g{i}", pid, camid) for i, (pid, camid) in enumerate([(1, 1), (1, 2), (2, 2), (2, 3), (4, 2), (4, 3)])
    ]
    return query, gallery


class Ranking(NamedTuple):
    """What `details.Ranking` holds."""

    query: int
    ap: float
    first_hit: int | None
    num_hits: int
    index: tuple
    distance: tuple
    mark: tuple
    rank: tuple


FIRST = Ranking(0, 0.5, 2, 1, (4, 1, 2), (0.2, 0.3, 0.4), ("wrong", "right", "wrong"), (1, 2, 3))
SECOND = Ranking(1, 1.0, 1, 2, (2, 3, 4), (0.1, 0.2, 0.3), ("right", "right", "wrong"), (1, 2, 3))
THIRD = Ranking(2, math.nan, None, 0, (0, 1), (0.1, 0.2), ("wrong", "wrong"), (1, 2))
UNKNOWN = Ranking(0, math.nan, None, 0, (2, 3), (0.1, 0.2), (None, None), (1, 2))


def tiles_of(gallery, marks, ranks=None, captions=None):
    """A tile for each mark, at distances 0.1, 0.2, ..."""
    ranks, captions = ranks or range(1, len(marks) + 1), captions or [""] * len(marks)
    rows = zip(gallery, marks, ranks, captions, strict=False)
    return [visualize.Tile(g.path, (i + 1) / 10, *rest) for i, (g, *rest) in enumerate(rows)]


def border_colours(strip, marks, box=(128, 256), title=False):
    """The colour in the middle of the left border of each gallery tile."""
    tile = box[0] + 2 * visualize.BORDER
    left = visualize.MARGIN + tile + visualize.QUERY_GAP
    y = visualize.MARGIN + 22 + (30 if title else 0) + box[1] // 2
    return [strip.getpixel((left + i * (tile + visualize.GAP) + 2, y)) for i in range(len(marks))]


def test_strip_has_a_border_of_the_right_colour_round_each_image(samples):
    query, gallery = samples
    marks = ["right", "wrong", "junk", None]
    strip = visualize.ranked_strip(query[0].path, tiles_of(gallery, marks))
    assert border_colours(strip, marks)[:3] == [RIGHT, WRONG, JUNK]
    assert border_colours(strip, marks)[3] == visualize.PAPER  # without labels: a thin frame only
    tile = 128 + 2 * visualize.BORDER
    assert strip.width == 2 * visualize.MARGIN + 5 * tile + visualize.QUERY_GAP + 3 * visualize.GAP
    assert strip.getpixel((visualize.MARGIN + 2, 150)) == visualize.QUERY


def test_marks_differ_without_colour(samples):
    """Right, wrong and junk are other shapes, not only other colours: the white strokes in the corner of the image."""
    query, gallery = samples
    Image.new("RGB", (32, 64), (0, 0, 0)).save(gallery[0].path)
    shapes = []
    for mark in ("right", "wrong", "junk"):
        strip = visualize.ranked_strip(query[0].path, tiles_of(gallery, [mark]))
        right = strip.width - visualize.MARGIN - visualize.BORDER
        corner = strip.crop((right - 40, visualize.MARGIN + 28, right, visualize.MARGIN + 68))
        shapes.append(np.asarray(corner.convert("L")) > 230)
    assert all((shapes[i] != shapes[j]).sum() > 10 for i in range(3) for j in range(i))


def test_strip_writes_what_it_is_given(samples):
    """Title, captions and ranks change the picture; a jump in ranks widens it; a wide image keeps its aspect ratio."""
    query, gallery = samples

    def draw(ranks=None, captions=None, **options):
        tiles = tiles_of(gallery, ["right", "wrong"], ranks, captions)
        return visualize.ranked_strip(query[0].path, tiles, **options)

    plain = draw()
    assert draw(title="AP 50 %").height == plain.height + 30
    assert draw(captions=["id 1", "id 2"]).height > plain.height
    assert draw(ranks=[1, 9]).width == plain.width + visualize.QUERY_GAP - visualize.GAP
    assert draw(ranks=[None, 1]).width == plain.width
    assert draw(ranks=[5, 6]).tobytes() != plain.tobytes()  # of the same size, with other numbers
    narrow = draw(box=(64, 128))
    assert border_colours(narrow, [1, 1], (64, 128)) == [RIGHT, WRONG]


@pytest.mark.parametrize("size, shown", [((200, 100), (128, 64)), ((50, 400), (32, 256)), ((64, 128), (128, 256))])
def test_an_image_of_any_shape_keeps_its_shape(samples, size, shown):
    """(width, height) of a red image in its box of 128 x 256."""
    query, gallery = samples
    Image.new("RGB", size, (255, 0, 0)).save(gallery[0].path)
    strip = np.asarray(visualize.ranked_strip(query[0].path, tiles_of(gallery, [None]))).astype(int)
    red = (strip[:, strip.shape[1] // 2 :, 0] > 200) & (strip[:, strip.shape[1] // 2 :, 1] < 60)
    assert (red.any(0).sum(), red.any(1).sum()) == shown


def test_an_unreadable_image_is_named(samples, tmp_path):
    query, gallery = samples
    data = (tmp_path / "g0.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    for name, error in (("gone", FileNotFoundError), ("cut", ValueError), ("text", ValueError)):
        tile = visualize.Tile(tmp_path / f"{name}.jpg", 0.1, "right", 1)
        with pytest.raises(error, match=rf"{name}\.jpg"):
            visualize.ranked_strip(query[0].path, [tile])


# ============ many strips ============


def test_strips_are_drawn_in_the_order_given_and_an_earlier_drawing_is_gone(samples, tmp_path):
    query, gallery = samples
    drawn = visualize.draw_strips(tmp_path, [FIRST, SECOND], query, gallery)
    assert [path.relative_to(tmp_path).as_posix() for path in drawn] == ["ranks/0001_q1.png", "ranks/0002_q2.png"]
    assert all(path.stat().st_size > 1000 for path in drawn)
    assert border_colours(Image.open(drawn[0]), range(3)) == [WRONG, RIGHT, WRONG]
    visualize.draw_strips(tmp_path, [THIRD], query, gallery)
    assert [path.name for path in (tmp_path / "ranks").iterdir()] == ["0001_q3.png"]


def test_junk_stands_in_grey_at_its_place_and_without_labels_there_is_no_verdict(samples, tmp_path):
    query, gallery = samples
    junk = FIRST._replace(index=(0, 4, 1), mark=("junk", "wrong", "right"), rank=(None, 1, 2))
    (file,) = visualize.draw_strips(tmp_path, [junk], query, gallery)
    assert border_colours(Image.open(file), range(3)) == [JUNK, WRONG, RIGHT]
    (file,) = visualize.draw_strips(tmp_path, [UNKNOWN], query, gallery, labelled=False)
    assert border_colours(Image.open(file), range(2)) == [visualize.PAPER] * 2


def test_a_tracklet_shows_its_middle_frame(samples, tmp_path):
    """As the query and in the gallery: the picture is the one of the middle frame alone."""
    query, gallery = samples

    def tracklet(sample):
        return sample._replace(path=(query[1].path, sample.path, query[2].path))

    def drawn(folder, query, gallery):
        return np.asarray(Image.open(visualize.draw_strips(tmp_path / folder, [FIRST], query, gallery)[0]))

    frames = drawn("frames", [tracklet(query[0])], [tracklet(sample) for sample in gallery])
    assert np.array_equal(frames, drawn("images", query, gallery))


# ============ batches and activation maps ============


def test_augmented_batch_undoes_the_normalisation(tmp_path):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    colours = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    images = (colours - torch.tensor(mean)) / torch.tensor(std)
    images = images[:, :, None, None].expand(-1, -1, 64, 32)

    def places(**options):
        """Where each image begins on the sheet, (left, top)."""
        sheet = Image.open(
            visualize.augmented_batch(images, mean, std, tmp_path / "new" / "b.png", height=64, **options)
        )
        assert sheet.getpixel((0, 0))[3] == 0  # transparent: no slab on a dark page
        pixels = np.asarray(sheet)
        wanted = [tuple((colour * 255).round().int().tolist()) for colour in colours]
        found = [np.argwhere((pixels[..., :3] == w).all(2) & (pixels[..., 3] == 255)) for w in wanted]
        assert all(len(each) == 64 * 32 for each in found)
        return [tuple(each.min(0)[::-1].tolist()) for each in found]

    left = [x for x, y in places(groups=[4, 4]) if y == places(groups=[4, 4])[0][1]]
    assert [b - a for a, b in zip(left, left[1:], strict=False)][:3] == [35] * 3  # close, for they are one person's
    alone = places()
    assert min(b[0] - a[0] for a, b in zip(alone, alone[1:], strict=False) if a[1] == b[1]) == 32 + 14 + 0
    uneven = places(groups=[1, 3, 4])
    assert uneven[2][0] - uneven[1][0] == 35 and uneven[1][0] - uneven[0][0] != 35
    with pytest.raises(ValueError, match="groups of 7 images in all, but there are 8"):
        places(groups=[7])
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        visualize.augmented_batch(images[0], mean, std, tmp_path / "x.png")


def test_activation_map_is_brightest_where_the_energy_is(tmp_path):
    features = torch.zeros(1, 16, 8, 4)
    features[0, 3, 6, 1] = -5.0  # the sign does not matter: squares are summed
    features[0, :, 1, 2] = 0.5  # 16 * 0.25 = 4 < 25
    (found,) = visualize.energy(features)
    assert found.max() == found[6, 1] == 1 and found[1, 2] == pytest.approx(4 / 25) and found.min() == 0
    path = person(tmp_path / "p.jpg", (20, 40, 160))
    panel = visualize.activation_map(found, path, height=256)
    assert panel.size == (3 * 128 + 2 * visualize.GAP, 256)
    heat = np.asarray(panel)[:, 128 + visualize.GAP : 256 + visualize.GAP].sum(2)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert 6 * 32 <= y < 7 * 32 and 32 <= x < 64
    assert heat[48, 80] > heat[128, 80] + 50  # the second peak stands out of the ground too
    assert not visualize.energy(torch.zeros(1, 4, 8, 4)).any()  # nothing active: no division by zero
    line = Image.new("L", (30000, 1))  # as wide as the sheet can be, not as the image is
    assert visualize.activation_map(found, line, height=64).size == (3 * 4 * 64 + 2 * visualize.GAP, 64)

    captions = ["id 1", "id 2", "id 3", "id 4"]
    sheet = Image.open(visualize.activation_maps(found.repeat(4, 1, 1), [path] * 4, captions, tmp_path / "maps.png"))
    assert sheet.width > 3 * panel.width
    other = visualize.activation_maps(found.repeat(4, 1, 1), [path] * 4, ["id 9", *captions[1:]], tmp_path / "b.png")
    assert sheet.tobytes() != Image.open(other).tobytes()  # the captions stand on it
    with pytest.raises(ValueError, match="expected as many"):
        visualize.activation_maps(found[None], [], [], tmp_path / "maps.png")
    with pytest.raises(ValueError, match=r"expected \(N, C, h, w\)"):
        visualize.energy(features[0])
    with pytest.raises(ValueError, match=r"expected \(h, w\)"):
        visualize.activation_map(features[0], path)


# ============ curves ============

LOG = [
    {"epoch": e, "lr": 1e-3 / e, "id": 6 / e, "triplet": 0.3, "seconds": 2.0, "images_per_second": 100.0, "note": "x"}
    | ({"metrics": {"market": {"rank1": e / 10, "mAP": e / 20}}} if e % 2 == 0 else {})
    for e in range(1, 6)
]


def test_curves(tmp_path):
    pytest.importorskip("matplotlib")
    image = Image.open(visualize.curves(LOG, tmp_path / "new" / "curves.png"))
    assert image.size == (round(5.2 * 3 * 130), round(3.6 * 130))
    colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    for name in visualize.COLOURS[:2]:  # two terms
        assert tuple(int(name[i : i + 2], 16) for i in (1, 3, 5)) in colours
    without = [{k: v for k, v in line.items() if k != "metrics"} for line in LOG[:1]]
    assert Image.open(visualize.curves(without, tmp_path / "one.png")).width == round(5.2 * 2 * 130)
    with pytest.raises(ValueError, match="log is empty"):
        visualize.curves([], tmp_path / "x.png")


def test_cmc_curve_and_heatmap(tmp_path):
    pytest.importorskip("matplotlib")
    cmc = {"market": torch.linspace(0.6, 1, 50), "duke": [0.5, 0.6, 0.7]}
    assert Image.open(visualize.cmc_curve(cmc, tmp_path / "cmc.png")).size == (round(5.6 * 130), 4 * 130)
    with pytest.raises(ValueError, match="no CMC"):
        visualize.cmc_curve({}, tmp_path / "cmc.png")

    values = torch.tensor([[0.1, 0.2, math.nan], [0.3, 0.4, 0.35]])
    image = Image.open(visualize.heatmap(values, [10, 20, 30], [2, 6], tmp_path / "heat.png", title="mAP"))
    assert image.width > 300 and (253, 231, 36) in {c for _, c in image.convert("RGB").getcolors(1 << 24)}  # the best
    with pytest.raises(ValueError, match=r"expected \(1, 3\)"):
        visualize.heatmap(values, [10, 20, 30], [2], tmp_path / "heat.png")
    with pytest.raises(ValueError, match="every value is nan"):
        visualize.heatmap(values * math.nan, [10, 20, 30], [2, 6], tmp_path / "heat.png")


def test_without_matplotlib_one_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RuntimeError, match="needs the package matplotlib .not installed.: python -m pip install -r"):
        visualize.curves(LOG, tmp_path / "x.png")
