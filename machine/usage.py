"""What ``main.py`` answers before torch is imported: ``--help`` on one screen, its topics, and ``--version``."""

from __future__ import annotations

import difflib
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

TOPICS = ("run", "data", "network", "images", "batches", "tracklets", "optimisation", "losses", "training", "testing",
          "visualizing")  # fmt: skip

USAGE = """\
python main.py --mode MODE [flags]     person re-identification: train, test, look at the result

Modes
  train        train a recipe, test it, draw its rankings (the default)
  test         measure weights, ours or anybody's
  visualize    ranked lists, curves, activation maps; or one image ranked against a folder
  extract      embeddings of a folder of images, or of a data set
  export       the network as ONNX with all that it needs, or under torchreid's names
  check        what a data set holds, what is missing, what a test would leave out
  report       several runs side by side: --mode report runs/*

What most people need
  --recipe NAME            a published method with all its numbers: bot, pcb, ... (default: bot)
  --market_path DIR        a data set as you unpacked it; likewise --duke_path, --own_path, ...
  --train_dataset NAME     the one to train on; --test_dataset NAME to test on (default: each)
  --output_path DIR        where results go (default: runs/<recipe>_<training sets>)
  --weights FILE           weights to test, to draw, to extract with or to start from
  --epochs N               length of the training
  --image_size H W         in pixels
  --p P --k K              people in a batch, images of each; or --p 0 --batch_size N
  --lr X                   learning rate
  --rerank                 report re-ranked results as well

Without any path a built-in set is made and used: a demonstration, not a benchmark.

The rest
  --help all               every flag
  --help TOPIC             those of one topic: run, data, network, images, batches, tracklets,
                           optimisation, losses, training, testing, visualizing
  --recipe NAME --help     a recipe: its paper, its source, every flag with its own defaults
  --version
"""


def mistake_in_file(error: Exception) -> str:
    """One line for what importing a file of the suite raised: where, and what, unless the error says so itself."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and re.match(r"\S+\.py\b", text):
        return text
    home = Path(__file__).parents[1]
    places = [(each.filename, each.lineno) for each in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    ours = [(Path(file), line) for file, line in places if home in Path(file).parents and "site-packages" not in file]
    where = f"{ours[-1][0].relative_to(home)}, line {ours[-1][1]}: " if ours else ""
    return f"{where}{type(error).__name__}: {text} (--debug shows the way there)"


def help_topic(words: Sequence[str]) -> str | None:
    """What ``--help`` was asked for: a topic, "" if none was named; None if help was not asked for at all."""
    for index, word in enumerate(words):
        if word.startswith("--help="):
            return word.partition("=")[2]
        if word in ("-h", "--help"):
            after = words[index + 1] if index + 1 < len(words) else "-"
            return "" if after.startswith("-") else after
    return None


def answer(words: Sequence[str]) -> None:
    """Print what needs no torch and raise SystemExit; come back where `words` ask for something else.

    Exit status 2 for a topic that does not exist.
    """
    if "--version" in words:
        from machine import version  # an old Python, which is asked for first, cannot read it

        print(" ".join(("main.py", version.VERSION, version.commit())).rstrip())
        raise SystemExit(0)
    topic = help_topic(words)
    of_recipe = any(word.split("=")[0] == "--recipe" for word in words)
    if topic == "" and not of_recipe:
        print(USAGE, end="")
        raise SystemExit(0)
    if topic and topic not in ("all", *TOPICS):
        near = difflib.get_close_matches(topic, ("all", *TOPICS), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        print(f"error: --help {topic} is no topic{hint}; topics: all, {', '.join(TOPICS)}", file=sys.stderr)
        raise SystemExit(2)
