"""What each step of a list gives, here and in its paper: as a table and as a picture. No script of its own.

For the groups of `reproduce.py` whose experiments name a baseline; docs/tables.py puts both into docs/results.md.
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs import Experiment

Pair = tuple[float, float]  # rank-1, mAP in percent
Row = Mapping[str, str]  # of the results file


@dataclass(frozen=True)
class Gain:
    """A measured experiment: `gained` over its baseline where that is measured too, `theirs` where both are printed."""

    name: str
    over: str  # its baseline, "" for none
    measured: Pair
    gained: Pair | None
    printed: Pair | None
    theirs: Pair | None


def parts(experiments: Sequence[Experiment]) -> tuple[str, list[str]]:
    """What the names of a group share, and what is left of each."""
    whats = [each.what for each in experiments]
    head = len(os.path.commonprefix(whats))
    tail = len(os.path.commonprefix([what[head:][::-1] for what in whats]))
    shared = (whats[0][:head] + whats[0][len(whats[0]) - tail :]).strip(" ,:")
    return shared, [what[head : len(what) - tail] for what in whats]


def found(experiments: Sequence[Experiment], rows: Sequence[Row]) -> list[Gain]:
    """The measured ones of a group, in its order; of several rows of one name and seed the last counts. Steps are taken
    within one seed, the first that the list names."""
    have = {(row["what"], row["seed"]): (float(row["rank1"]), float(row["mAP"])) for row in rows if row["rank1"]}
    gains, names = [], parts(experiments)[1]
    short = {each.what: name for each, name in zip(experiments, names, strict=True)}
    for each, name in zip(experiments, names, strict=True):
        mine, base = (have.get((what, str(each.seeds[0]))) for what in (each.what, each.baseline))
        before, after = (_pair(text) for text in each.theirs)
        if mine:
            over = short.get(each.baseline, each.baseline)
            gains.append(Gain(name, over, mine, _step(base, mine), after, _step(before, after)))
    return gains


def _pair(text: str) -> Pair | None:
    rank1, _, mean = text.partition(" / ")
    return (float(rank1), float(mean)) if mean else None


def _step(before: Pair | None, after: Pair | None) -> Pair | None:
    return (after[0] - before[0], after[1] - before[1]) if before and after else None


def cells(gains: Sequence[Gain]) -> list[tuple[str, ...]]:
    """A line for each, under `HEADER`; rank-1 / mAP."""
    return [(gain.name, gain.over, _words(gain.measured), _words(gain.gained, "+"), _words(gain.printed),
             _words(gain.theirs, "+")) for gain in gains]  # fmt: skip


HEADER = ("step", "over", "here", "it gives", "ResNet-50 elsewhere", "it gives there")


def text(gains: Sequence[Gain]) -> str:
    """The table for a terminal."""
    lines = (HEADER, *cells(gains))
    return "\n".join(f"{line[0]:<34}{line[1]:<34}" + "".join(f"{cell:>20}" for cell in line[2:]) for line in lines)


def _words(pair: Pair | None, sign: str = "") -> str:
    return "" if pair is None else " / ".join(f"{round(value, 1) + 0.0:{sign}.1f}" for value in pair)  # no -0.0


# ============ the picture ============

STYLE = """
text { font: 14px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.small { font-size: 12.5px; fill: #59636e } .name { text-anchor: end } .left { text-anchor: end }
.paper { fill: #ffffff } .here { fill: #2f6fc4 } .there { fill: #b9c2cc } .zero { stroke: #7b8794; stroke-width: 1.2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #a3adb8 }
  .paper { fill: #0d1117 } .here { fill: #5b9bf0 } .there { fill: #4c5865 } .zero { stroke: #8d99a6 }
}
"""
WIDTH, NAMES, STEP, BAR, TOP, NUMBER = 760, 250, 44, 14, 74, 46  # pixels; NAMES: at least; NUMBER: a bar's value
LETTER = {"name": 7.6, "small name": 6.8}  # pixels that one takes on average, rather too many


def picture(gains: Sequence[Gain], title: str) -> str:
    """Bars of what each step adds to mAP, here and in its paper, as SVG; what has no baseline has no bar."""
    steps = [gain for gain in gains if gain.gained]
    values = [0.0, *(pair[1] for gain in steps for pair in (gain.gained, gain.theirs) if pair)]
    low, high = min(values), max(values)
    longest = max((LETTER[kind] * len(words) for gain in steps for kind, words in _label(gain)), default=0.0)
    names = round(max(NAMES, longest + 20))
    scale = (WIDTH - names - 2 * NUMBER - 24) / max(high - low, 1e-9)
    zero = round(names + NUMBER - low * scale)
    height = TOP + STEP * len(steps) + 12
    drawn = [
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="10"/>',
        f'<text x="24" y="28">{html.escape(title)}: points of mAP that each step adds</text>',
        *_key(24, "here", "here, one seed"),
    ]
    if any(gain.theirs for gain in steps):
        drawn += _key(170, "there", "printed for ResNet-50 at full size and length")
    for number, gain in enumerate(steps):
        top = TOP + STEP * number
        goes_on = number > 0 and gain.over == steps[number - 1].name  # then the bar above says over what
        places = (20,) if goes_on else (13, 29)
        for (kind, words), down in zip(_label(gain), places, strict=False):
            drawn.append(f'<text class="{kind}" x="{names - 10}" y="{top + down}">{html.escape(words)}</text>')
        for kind, pair, at in (("here", gain.gained, top), ("there", gain.theirs, top + BAR + 2)):
            if pair:
                drawn += _bar(kind, pair[1], zero, scale, at)
    drawn.append(f'<path class="zero" d="M{zero} {TOP - 6}V{height - 14}"/>')
    body = "\n".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{html.escape(title)}: what each step adds">\n<style>{STYLE}</style>\n{body}\n</svg>\n'
    )


def _label(gain: Gain) -> tuple[tuple[str, str], ...]:
    """(class, text) of a step's name and of what it is a step from."""
    return ("name", gain.name), ("small name", f"over {gain.over}")


def _key(left: int, kind: str, words: str) -> list[str]:
    return [f'<rect class="{kind}" x="{left}" y="44" width="12" height="12" rx="2"/>',
            f'<text class="small" x="{left + 18}" y="54">{words}</text>']  # fmt: skip


def _bar(kind: str, value: float, zero: int, scale: float, top: int) -> list[str]:
    """A bar from the zero line, and its value at its end."""
    length, left = round(abs(value) * scale), value < 0
    end = zero - length - 5 if left else zero + length + 5
    return [
        f'<rect class="{kind}" x="{zero - length if left else zero}" y="{top}" width="{length}" height="{BAR}"/>',
        f'<text class="small{" left" if left else ""}" x="{end}" y="{top + 11}">{value:+.1f}</text>',
    ]
