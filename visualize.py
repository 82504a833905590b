"""Pictures of what a model does: ranked strips, augmented batches, curves, activation maps; the page is in ``page/``.

Everything here is handed finished rows, tensors, samples and paths; nothing is judged, no checkpoint is opened and no
model is run. Pictures of people are drawn with Pillow; curves need matplotlib, which is imported where it is used.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from machine import files, imagefile, packages

PAPER = (255, 255, 255)
INK = (32, 33, 36)
FAINT = (110, 114, 120)
EMPTY = (238, 239, 241)  # beside an image that does not fill its box
QUERY = (38, 70, 120)
MARKS = {"right": (0, 148, 88), "wrong": (212, 42, 40), "junk": (150, 153, 158), None: (205, 208, 212)}

BORDER = 6  # pixels
GAP = 10  # between gallery images
QUERY_GAP = 34  # between the query and the first gallery image
MARGIN = 16

ImageFile = str | os.PathLike
ImagePath = ImageFile | tuple[ImageFile, ...]  # of a tracklet, its frames


# ============ small drawing tools ============


@functools.lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def one_path(path: ImagePath) -> ImageFile:
    """The image of a sample: of a tracklet, its middle frame."""
    return path[len(path) // 2] if isinstance(path, tuple) else path


def open_image(path: ImagePath) -> Image.Image:
    """The image as RGB, of a tracklet its middle frame.

    ValueError or FileNotFoundError that name the file if it is missing, truncated or no image.
    """
    path = one_path(path)
    try:
        return imagefile.read(path).rgb
    except FileNotFoundError:
        raise FileNotFoundError(f"no image at {path}: was the data set moved since it was read?") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"cannot read the image {path} ({error}): copy it again or remove it.") from error


def _fit(image: Image.Image, box: tuple[int, int]) -> Image.Image:
    """`image` at its own aspect ratio, centred in a box of (width, height) pixels."""
    scale = min(box[0] / image.width, box[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new("RGB", box, EMPTY)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    canvas.paste(resized, ((box[0] - size[0]) // 2, (box[1] - size[1]) // 2))
    return canvas


@functools.lru_cache
def _badge(mark: str, size: int = 26) -> Image.Image:
    """A disc with a check, a cross or a dash: the verdict for readers to whom green and red are one colour."""
    big = 8 * size  # drawn large and reduced, which smooths the edges
    disc = Image.new("RGBA", (big, big), (0, 0, 0, 0))
    draw = ImageDraw.Draw(disc)
    draw.ellipse((0, 0, big - 1, big - 1), fill=PAPER)
    draw.ellipse((0.08 * big, 0.08 * big, 0.92 * big, 0.92 * big), fill=MARKS[mark])
    shapes: dict[str, list[tuple[tuple[float, float], ...]]] = {
        "right": [((0.28, 0.52), (0.44, 0.68), (0.72, 0.34))],
        "wrong": [((0.33, 0.33), (0.67, 0.67)), ((0.67, 0.33), (0.33, 0.67))],
        "junk": [((0.28, 0.5), (0.72, 0.5))],
    }
    for stroke in shapes[mark]:
        points = [(x * big, y * big) for x, y in stroke]
        draw.line(points, fill=PAPER, width=round(0.11 * big), joint="curve")
    return disc.resize((size, size), Image.Resampling.LANCZOS)


def _shorten(text: str, width: float, font) -> str:
    """`text` on one line, cut in the middle so that it takes no more than `width` pixels."""
    text = files.printable(text)
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(f"{text[: keep // 2]}…{text[-(keep - keep // 2) :]}") > width:
        keep -= 1
    return f"{text[: keep // 2]}…{text[-(keep - keep // 2) :]}"


def _distance_text(distance: float) -> str:
    return f"{distance:.3f}" if abs(distance) < 100 else f"{distance:.4g}"


def _to_file(image: Image.Image, path: ImageFile) -> Path:
    with files.replace(path) as file:
        image.save(file, "PNG")
    return Path(path)


# ============ ranked strip ============


class Tile(NamedTuple):
    """One gallery image of a strip."""

    path: ImageFile
    distance: float  # shown under the image
    mark: str | None  # "right" (green, check), "wrong" (red, cross), "junk" (grey, dash), None (no labels: thin grey)
    rank: int | None  # over the image, from 1; None: it has no rank (junk)
    caption: str = ""  # under the distance, such as identity and camera


def ranked_strip(
    query_path: ImageFile,
    tiles: Sequence[Tile],
    *,
    query_caption: str = "",
    title: str = "",
    box: tuple[int, int] = (128, 256),
) -> Image.Image:
    """A query and its nearest gallery images, nearest first; where ranks are left out there is a wide gap.

    box: (width, height) in pixels of each image. Raises FileNotFoundError or ValueError that name an image that cannot
    be read.
    """
    jumps = _jumps([tile.rank for tile in tiles])
    width, height = box[0] + 2 * BORDER, box[1] + 2 * BORDER  # of an image with its border
    has_captions = bool(query_caption) or any(tile.caption for tile in tiles)
    top = MARGIN + (30 if title else 0) + 22
    canvas_size = (
        2 * MARGIN + width + len(tiles) * (width + GAP) + (QUERY_GAP - GAP) * (bool(tiles) + sum(jumps)),
        top + height + (46 if has_captions else 28) + MARGIN // 2,
    )
    canvas = Image.new("RGB", canvas_size, PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        font = _font(18)
        draw.text((MARGIN, MARGIN), _shorten(title, canvas_size[0] - 2 * MARGIN, font), INK, font)

    _framed(canvas, (MARGIN, top), open_image(query_path), box, QUERY)
    _centred(draw, (MARGIN, top - 20), width, "query", QUERY, 14)
    _centred(draw, (MARGIN, top + height + 6), width, query_caption, INK, 14)
    left = MARGIN + width + QUERY_GAP
    if tiles:
        draw.line((left - QUERY_GAP // 2, top, left - QUERY_GAP // 2, top + height - 1), fill=MARKS[None], width=1)
    for tile, jump in zip(tiles, jumps, strict=True):
        if jump:
            _dots(draw, left + (QUERY_GAP - 2 * GAP) // 2, top + height // 2)
            left += QUERY_GAP - GAP
        _framed(canvas, (left, top), open_image(tile.path), box, MARKS[tile.mark], thin=tile.mark is None)
        if tile.mark is not None:
            badge = _badge(tile.mark)
            canvas.paste(badge, (left + width - badge.width - BORDER - 3, top + BORDER + 3), badge)
        _centred(draw, (left, top - 20), width, "junk" if tile.rank is None else str(tile.rank), FAINT, 14)
        _centred(draw, (left, top + height + 6), width, _distance_text(tile.distance), INK, 15)
        _centred(draw, (left, top + height + 26), width, tile.caption, FAINT, 13)
        left += width + GAP
    return canvas


def _jumps(ranks: Sequence[int | None]) -> list[bool]:
    """Before which images ranks were left out."""
    last, jumps = 0, []
    for rank in ranks:
        jumps.append(rank is not None and last > 0 and rank > last + 1)
        last = last if rank is None else rank
    return jumps


def _dots(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    for step in (-8, 0, 8):
        draw.ellipse((x + step - 2, y - 2, x + step + 2, y + 2), fill=FAINT)


def _framed(canvas: Image.Image, corner: tuple[int, int], image: Image.Image, box, colour, thin: bool = False) -> None:
    """An image with a border of `colour` around it; a thin one leaves the room of a full one."""
    outer = (*corner, corner[0] + box[0] + 2 * BORDER - 1, corner[1] + box[1] + 2 * BORDER - 1)
    draw = ImageDraw.Draw(canvas)
    if thin:
        draw.rectangle([outer[0] + 4, outer[1] + 4, outer[2] - 4, outer[3] - 4], fill=colour)
    else:
        draw.rectangle(outer, fill=colour)
    canvas.paste(_fit(image, box), (corner[0] + BORDER, corner[1] + BORDER))


def _centred(draw: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, text: str, colour, size: int) -> None:
    font = _font(size)
    text = _shorten(text, width, font)
    draw.text((corner[0] + (width - font.getlength(text)) / 2, corner[1]), text, colour, font)


# ============ many strips ============


def draw_strips(
    out_dir: ImageFile, rankings: Sequence[Any], query: Sequence[Any], gallery: Sequence[Any], labelled: bool = True
) -> list[Path]:
    """Draw finished rankings into ``ranks/*.png`` of a folder, from which the strips of an earlier drawing then vanish.

    rankings: `details.Ranking`: which gallery images to show, what they are. Nothing is judged here. query, gallery:
    samples with `path` (or a tuple of frame paths), `pid`, `camid`. labelled: False where nobody knows who is on them.
    """
    out_dir, drawn = Path(out_dir) / "ranks", []
    for position, ranking in enumerate(rankings, 1):
        name = files.safe_name(Path(str(one_path(query[ranking.query].path))).stem)
        strip = _draw(ranking, query, gallery, labelled)
        drawn.append(_to_file(strip, out_dir / f"{position:04d}_{name}.png"))
    for old in out_dir.glob("[0-9][0-9][0-9][0-9]*_*.png"):
        if old not in drawn:
            old.unlink(missing_ok=True)
    return drawn


def _draw(ranking: Any, query: Sequence[Any], gallery: Sequence[Any], labelled: bool) -> Image.Image:
    def caption(sample) -> str:
        return f"id {sample.pid}  cam {sample.camid}" if labelled else Path(one_path(sample.path)).name

    others = [gallery[index] for index in ranking.index]
    tiles = [
        Tile(one_path(other.path), distance, mark, rank, caption(other))
        for other, distance, mark, rank in zip(others, ranking.distance, ranking.mark, ranking.rank, strict=True)
    ]
    sample = query[ranking.query]
    return ranked_strip(one_path(sample.path), tiles, query_caption=caption(sample))


# ============ augmented batch ============


def augmented_batch(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    path: ImageFile,
    *,
    groups: Sequence[int] = (),
    height: int = 160,
) -> Path:
    """What the network is fed: a normalised batch (B, 3, H, W) as a picture on a transparent ground.

    mean, std: the normalisation to undo, for values in [0, 1]. groups: how many images in a row belong together, such
    as those of one person, and stand close to each other; without it each stands alone. height: of each image on the
    sheet, in pixels. The groups fill as many rows as make the sheet about 3 to 2.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (B, 3, H, W).")
    groups = groups or [1] * len(images)
    if sum(groups) != len(images):
        raise ValueError(f"groups of {sum(groups)} images in all, but there are {len(images)}.")
    values = images.detach().float().cpu() * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    pixels = (values.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()  # (B, H, W, 3)
    size = (max(1, round(height * images.shape[3] / images.shape[2])), height)
    widths = [n * (size[0] + 3) - 3 for n in groups]
    limits = [sum(widths[:n]) + 14 * (n - 1) for n in range(1, len(widths) + 1)]
    flows = [_flow(widths, max(limit, *widths), height) for limit in limits]
    corners, (right, bottom) = min(flows, key=lambda flow: abs(math.log(flow[1][0] / flow[1][1] / 1.5)))
    sheet = Image.new("RGBA", (right + 16, bottom + 16), (0, 0, 0, 0))
    arrays = iter(pixels)
    for (x, y), n in zip(corners, groups, strict=True):
        for i, array in zip(range(n), arrays, strict=False):
            sheet.paste(Image.fromarray(array).resize(size, Image.Resampling.BICUBIC), (x + i * (size[0] + 3), y))
    return _to_file(sheet, path)


def _flow(widths: Sequence[int], limit: int, height: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Corners of things of these widths, in rows no wider than `limit`, and where they end on the right and below."""
    corners, left, top = [], 16, 16
    for width in widths:
        if left > 16 and left + width > 16 + limit:
            left, top = 16, top + height + 14
        corners.append((left, top))
        left += width + 14
    return corners, (max(x + width for (x, _), width in zip(corners, widths, strict=True)), top + height)


# ============ activation maps ============

# perceptually ordered from black over red to pale yellow, so that it also reads in grey
HEAT = (
    *((0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99)),
    *((212, 72, 66), (245, 125, 21), (250, 193, 39), (252, 255, 164)),
)


def energy(feature_maps: Tensor) -> Tensor:
    """How strongly the network answers where: (N, C, h, w), the last convolutional features, -> (N, h, w) in [0, 1].

    The sum over channels of the squared activations, L2-normalised over positions, scaled to each image's own minimum
    and maximum: torchreid, tools/visualize_actmap.py at f8cd150.
    """
    if feature_maps.dim() != 4:
        raise ValueError(f"the feature maps have shape {tuple(feature_maps.shape)}, expected (N, C, h, w).")
    found = feature_maps.detach().float().cpu().square().sum(1).flatten(1)  # (N, h w)
    found = found / found.norm(dim=1, keepdim=True).clamp(min=1e-12)
    low, high = found.amin(1, keepdim=True), found.amax(1, keepdim=True)
    return ((found - low) / (high - low).clamp(min=1e-12)).view(len(feature_maps), *feature_maps.shape[2:])


def heat_colours() -> np.ndarray:
    """(256, 3) uint8: the colours of an energy of 0 to 1."""
    levels = np.linspace(0, 255, len(HEAT))
    table = np.stack([np.interp(np.arange(256), levels, channel) for channel in np.array(HEAT).T], axis=1)
    return table.round().astype(np.uint8)


def activation_map(found: Tensor, image: Image.Image | ImageFile, *, height: int = 256) -> Image.Image:
    """Image, activation map and both together, side by side; found (h, w): the `energy` of this image."""
    if found.dim() != 2:
        raise ValueError(f"the energy has shape {tuple(found.shape)}, expected (h, w).")
    image = image if isinstance(image, Image.Image) else open_image(image)
    size = (max(1, min(4 * height, round(height * image.width / image.height))), height)
    image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    grey = Image.fromarray((found.numpy() * 255).round().astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    heat = Image.fromarray(heat_colours()[np.asarray(grey)])
    panel = Image.new("RGB", (3 * size[0] + 2 * GAP, size[1]), PAPER)
    for i, part in enumerate((image, heat, Image.blend(image, heat, 0.6))):
        panel.paste(part, (i * (size[0] + GAP), 0))
    return panel


def activation_maps(
    found: Tensor, images: Sequence[ImageFile], captions: Sequence[str], path: ImageFile, *, columns: int = 3
) -> Path:
    """A sheet of `activation_map` panels with their captions, and the legend of the colours above them.

    found (N, h, w): the `energy` of each image.
    """
    if not len(found) == len(images) == len(captions) or not len(images):
        raise ValueError(
            f"{len(found)} maps, {len(images)} images and {len(captions)} captions: expected as many, at least one."
        )
    panels = [activation_map(maps, image) for maps, image in zip(found, images, strict=True)]
    columns = min(columns, len(panels))
    width, height = max(380, *(p.width for p in panels)), max(p.height for p in panels)
    top, line, space = MARGIN + 52, 24, 2 * MARGIN  # pixels: the legend, a line of text, between panels
    rows = math.ceil(len(panels) / columns)
    size = (columns * (width + space), top + rows * (height + 2 * line + MARGIN))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    bar = Image.fromarray(np.broadcast_to(heat_colours()[None], (14, 256, 3)).copy())
    sheet.paste(bar, (MARGIN + 48, MARGIN + 24))
    draw.text((MARGIN, MARGIN), "where the network answers, in each image", INK, _font(15))
    draw.text((MARGIN, MARGIN + 22), "least", INK, _font(15))
    draw.text((MARGIN + 48 + 264, MARGIN + 22), "most", INK, _font(15))
    for i, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        row, column = divmod(i, columns)
        left, y = MARGIN + column * (width + space), top + row * (height + 2 * line + MARGIN)
        part = (panel.width - 2 * GAP) // 3
        for k, word in enumerate(("image", "map", "both")):
            _centred(draw, (left + k * (part + GAP), y), part, word, FAINT, 14)
        sheet.paste(panel, (left, y + line - 4))
        draw.text((left, y + line + height), _shorten(caption, width, _font(15)), INK, _font(15))
    return _to_file(sheet, path)


# ============ curves ============

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c5c5c")  # Wong, Nature Methods 2011
LEGEND = {"framealpha": 0.85, "edgecolor": "none"}
NOT_A_TERM = ("epoch", "lr", "seconds", "images_per_second", "metrics")


def _figure_of(panels: int, width: float = 5.2, height: float = 3.6):
    """A matplotlib figure with `panels` axes in a row, without pyplot and its global state."""
    packages.demand("matplotlib", "Drawing curves")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * panels, height), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for axis in axes:
        axis.set_prop_cycle(color=COLOURS)
        axis.grid(color="#e3e5e8", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _to_png(figure, path: ImageFile) -> Path:
    with files.replace(path) as file:
        figure.savefig(file, dpi=130, format="png")
    return Path(path)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log.jsonl, for `curves`; none where there is no file. ValueError names a damaged one."""
    lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    log = []
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            log.append(line | {"epoch": int(line["epoch"])})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"line {number} of {path} is damaged ({error!r}). The run writes it anew when its command is given "
                "again; or leave the curves out: --vis ranks batch actmap"
            ) from None
    return log


def curves(log: Sequence[Mapping[str, Any]], path: ImageFile) -> Path:
    """Loss terms, learning rate, and rank-1 and mAP over the epochs, side by side.

    log: one dict per epoch, as in log.jsonl: "epoch" (from 1), "lr", one number per loss term, and, for epochs that
    were evaluated, "metrics": {data set: {"rank1", "mAP", ...}} in [0, 1].
    """
    if not log:
        raise ValueError("the log is empty: nothing was trained yet, so there are no curves to draw.")
    epochs = [line["epoch"] for line in log]
    evaluated = [line for line in log if line.get("metrics")]
    figure, axes = _figure_of(3 if evaluated else 2)
    numbers = (int, float)
    terms = dict.fromkeys(k for line in log for k, v in line.items() if k not in NOT_A_TERM and type(v) in numbers)
    for name in terms:
        _line(axes[0], epochs, [line.get(name, math.nan) for line in log], name)
    axes[0].set(title="Loss", xlabel="epoch", ylabel="weighted term, mean of the epoch", ylim=(0, None))
    if terms:
        axes[0].legend(**LEGEND)
    _line(axes[1], epochs, [line.get("lr", math.nan) for line in log], "lr")
    axes[1].set(title="Learning rate", xlabel="epoch", ylabel="step size", yscale="log")
    names = dict.fromkeys(name for line in evaluated for name in line["metrics"])
    for colour, name in zip(COLOURS * len(names), names, strict=False):
        for key, label, style, point in (("rank1", "rank-1", "-", "o"), ("mAP", "mAP", "--", "s")):
            values = [100 * line["metrics"].get(name, {}).get(key, math.nan) for line in evaluated]
            at = [line["epoch"] for line in evaluated]
            _line(axes[2], at, values, f"{name} {label}", color=colour, linestyle=style, marker=point)
    if evaluated:
        axes[2].set(title="Evaluation", xlabel="epoch", ylabel="rank-1 and mAP (%)", ylim=(0, 100))
        axes[2].legend(**LEGEND, loc="upper left", bbox_to_anchor=(1, 1))  # beside the panel: the lines fill it
    edge = max(0.9, 0.03 * (epochs[-1] - epochs[0]))  # one evaluation alone stands at its place in the whole run
    for axis in axes:
        axis.set_xlim(epochs[0] - edge, epochs[-1] + edge)
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    return _to_png(figure, path)


def _line(axis, x: Sequence[float], y: Sequence[float], label: str, **style) -> None:
    """A line; where there are few points, also the points, for one point alone draws no line."""
    style = {"marker": "o"} | style if len(x) <= 15 else style | {"marker": None}
    axis.plot(x, y, label=label, linewidth=1.8, markersize=4, **style)


def cmc_curve(cmc: Mapping[str, Tensor | Sequence[float]], path: ImageFile, *, max_rank: int = 20) -> Path:
    """Cumulative matching characteristic of each entry, name -> (max_rank,) fractions, from rank 1."""
    if not cmc:
        raise ValueError("no CMC curve was given: expected at least one name with its values.")
    figure, (axis,) = _figure_of(1, 5.6, 4.0)
    lowest = 100.0
    for name, values in cmc.items():
        percent = 100 * np.asarray(torch.as_tensor(values, dtype=torch.float64))[:max_rank]
        lowest = min(lowest, float(percent.min()))
        _line(axis, range(1, len(percent) + 1), percent.tolist(), f"{name} ({percent[0]:.1f} at rank 1)")
    axis.set(title="Cumulative matching characteristic", xlabel="rank", ylabel="queries matched (%)")
    axis.set_ylim(max(0, 10 * math.floor(lowest / 10) - 5 * (lowest > 10)), 100.5)
    axis.set_xlim(0.5, None)
    axis.set_xticks([1, *range(5, len(percent) + 1, 5)])
    axis.legend(**LEGEND, loc="lower right")
    return _to_png(figure, path)


def heatmap(
    values: Tensor | Sequence[Sequence[float]],
    xlabels: Sequence[Any],
    ylabels: Sequence[Any],
    path: ImageFile,
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    unit: str = "",
) -> Path:
    """A table of numbers (rows, columns) as colours with the number in each cell, the largest one framed.

    For the search of re-ranking parameters: values in percent or fractions are printed as they come, one decimal for
    values above 1, else three. nan: not computed, left blank. unit: what the numbers are.
    """
    table = np.asarray(torch.as_tensor(values, dtype=torch.float64))
    if table.shape != (len(ylabels), len(xlabels)):
        raise ValueError(f"values have shape {table.shape}, expected ({len(ylabels)}, {len(xlabels)}) by the labels.")
    if np.isnan(table).all():
        raise ValueError("every value is nan: nothing was computed, so there is no heat map to draw.")
    figure, (axis,) = _figure_of(1, max(5.2, 2.2 + 0.75 * len(xlabels)), max(3.0, 1.4 + 0.5 * len(ylabels)))
    axis.grid(visible=False)
    image = axis.imshow(table, cmap="viridis", aspect="auto")
    form = "{:.1f}" if np.nanmax(np.abs(table)) > 1 else "{:.3f}"
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for (row, column), value in np.ndenumerate(table):
        if not math.isnan(value):
            colour = "black" if value > middle else "white"
            axis.text(column, row, form.format(value), ha="center", va="center", color=colour, fontsize=9)
    row, column = np.unravel_index(np.nanargmax(table), table.shape)
    frame = {"fill": False, "edgecolor": "#d55e00", "linewidth": 2.5}
    axis.add_patch(_rectangle((column - 0.5, row - 0.5), **frame))
    axis.set_xticks(range(len(xlabels)), [str(label) for label in xlabels])
    axis.set_yticks(range(len(ylabels)), [str(label) for label in ylabels])
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axis, pad=0.02, label=unit)
    return _to_png(figure, path)


def _rectangle(corner: tuple[float, float], **style):
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, **style)
