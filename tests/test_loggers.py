"""What gets the numbers of a training beside log.jsonl: each of every epoch once, however often a run was stopped."""

import csv
import sys
import types

import pytest

import main
from machine import loggers

LOG = [
    {"epoch": 1, "lr": 0.1, "loss": 2.5},
    {"epoch": 2, "lr": 0.1, "loss": 1.5, "tested": "ab", "metrics": {
        "market": {"rank1": 0.5, "mAP": 0.25, "mINP": 0.1, "rank5": 0.9, "reranked": {"rank1": 0.6, "mAP": 0.5}}}},
]  # fmt: skip
RUN = {"recipe": "bot", "seed": 3, "cameras": {"market": [1]}, "started": [{"date": "2026-01-01"}]}


@pytest.fixture
def board(monkeypatch):
    """TensorBoard's writers of this test; the package is faked."""
    made = []

    class SummaryWriter:
        def __init__(self, folder, purge_step=None):
            self.folder, self.purge_step, self.scalars, self.closed = folder, purge_step, [], False
            made.append(self)

        def add_scalar(self, *scalar):
            self.scalars.append(scalar)

        def close(self):
            self.closed = True

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return made


@pytest.fixture
def wandb(monkeypatch):
    """A faked Weights & Biases that keeps each run by its id, as the real one does with resume="allow"."""
    module, runs = types.ModuleType("wandb"), {}

    class Run:
        def __init__(self, given):
            self.given, self.lines, self.step, self.finished = given, {}, 0, 0

        def log(self, numbers, step):
            assert step > self.step, "steps must increase"
            self.step, self.lines[step] = step, numbers

        def finish(self):
            self.finished += 1

    module.init = lambda **given: runs.setdefault(given["id"], Run(given))
    monkeypatch.setitem(sys.modules, "wandb", module)
    return runs


def test_results_of_every_set_are_numbers_by_name():
    assert loggers.numbers(LOG[1]) == {
        "epoch": 2, "lr": 0.1, "loss": 1.5, "market/rank1": 0.5, "market/mAP": 0.25, "market/mINP": 0.1,
        "market/reranked/rank1": 0.6, "market/reranked/mAP": 0.5,
    }  # fmt: skip


def test_tensorboard_gets_rank1_and_map_and_no_epoch_twice(board, tmp_path):
    (logger,) = loggers.opened(loggers.chosen(["tensorboard"]), tmp_path, RUN)
    logger.write(LOG[:1])
    logger.write(LOG)
    logger.close()
    assert (
        board[0].closed and ("market/rank1", 0.5, 2) in board[0].scalars and ("market/mAP", 0.25, 2) in board[0].scalars
    )
    assert len(board[0].scalars) == len(set(board[0].scalars)) == 9
    (again,) = loggers.opened(["tensorboard"], tmp_path, RUN)  # a process that goes on, and tells it anew
    again.write(LOG)
    assert board[1].purge_step == 0 and board[1].scalars == board[0].scalars


def test_wandb_goes_on_with_the_run_that_it_has(wandb, tmp_path):
    for log in (LOG[:1], LOG):
        (logger,) = loggers.opened(loggers.chosen(["wandb"]), tmp_path / "mine", RUN)
        logger.write(log)
        logger.close()
    (run,) = wandb.values()
    assert run.given["name"] == "mine" and run.given["config"]["recipe"] == "bot" and run.finished == 2
    assert list(run.lines) == [1, 2] and run.lines[2]["market/mAP"] == 0.25
    loggers.opened(["wandb"], tmp_path / "mine", RUN | {"started": [{"date": "2026-01-02"}]})
    assert len(wandb) == 2  # begun afresh in the same folder: another run


def test_nothing_is_imported_that_was_not_asked_for(monkeypatch):
    for name in ("wandb", "tensorboard"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert loggers.chosen(["csv"]) == ["csv"] and loggers.chosen(["none"]) == []
    loggers.chosen(None)
    assert "wandb" not in sys.modules and "tensorboard" not in sys.modules


@pytest.mark.parametrize(("words", "message"), [
    ("wandb", "error: --logger wandb needs the package wandb (*): python -m pip install wandb, or leave it out"),
    ("csv none", "error: --logger csv none: none, and others too"),
])  # fmt: skip
def test_a_package_that_is_missing_is_one_line_before_anything_else(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it is an ImportError
    assert main.main(["--logger", *words.split()]) == 1
    told = capsys.readouterr()
    before, _, after = message.partition("*")
    assert told.err.startswith(f"\n{before}") and after in told.err and told.err.strip().count("\n") == 0
    assert not told.out and not list(tmp_path.iterdir())


def test_the_table_is_whole_after_every_epoch(tmp_path):
    (logger,) = loggers.opened(["csv"], tmp_path, RUN)
    for count in (1, 2):
        logger.write(LOG[:count])
        with open(tmp_path / "log.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["loss"] for row in rows] == ["2.5", "1.5"][:count]
    assert (rows[0]["market/mAP"], rows[1]["market/mAP"]) == ("", "0.25")


def test_the_real_tensorboard_reads_every_epoch_once(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no TensorBoard")
    for log in (LOG[:1], LOG):
        (logger,) = loggers.opened(["tensorboard"], tmp_path, RUN)
        logger.write(log)
        logger.close()
    board = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    read = {name: [(each.step, each.value) for each in board.Scalars(name)] for name in board.Tags()["scalars"]}
    assert (
        read["loss"] == [(1, 2.5), (2, 1.5)]
        and read["market/mAP"] == [(2, 0.25)]
        and read["market/rank1"] == [(2, 0.5)]
    )


def test_the_real_weights_and_biases_takes_a_run_up_again(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="no Weights & Biases")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for log in (LOG[:1], LOG):
        (logger,) = loggers.opened(["wandb"], tmp_path / "mine", RUN)
        logger.write(log)
        logger.close()
    names = [path.stem for path in (tmp_path / "mine").glob("wandb/offline-run-*/run-*.wandb")]
    assert len(names) == 2 and len(set(names)) == 1  # parts of one run, by its id
