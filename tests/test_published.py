"""Published results: where each stands, which run it describes, and that it stands beside no other.

The numbers themselves were compared with their sources (the READMEs, BENCHMARK.md and the sheet that published.py
names, 302 of them, each on the line of its name) by a script outside the repository; a few are written out here.
"""

import dataclasses
import itertools

import pytest

import cli
import datasets
import tester
from config import ABOUT, FIELDS, HINTS, option_defaults, value_of, with_values
from published import Published, Variant, between, pair, words
from recipes import RECIPES

RUNS = [
    (name, variant)
    for name, row in RECIPES.items()
    for variant in (Variant("the row", {}, row.published), *row.variants)
    if variant.published
]
IDS = [f"{name}-{variant.name}-{'+'.join(variant.published)}" for name, variant in RUNS]


def described(name: str, variant: Variant):
    """The run of a variant: its recipe, and the flags of data and test."""
    row = RECIPES[name]
    known = {*ABOUT, *option_defaults(row)}
    fields = {key: value for key, value in variant.given.items() if key in known}
    return with_values(row, fields), {key: value for key, value in variant.given.items() if key not in known}


def sets_of(key: str) -> tuple[list[str], str]:
    """The training sets of a key and its test set, which is a data set of ours."""
    for test in sorted(datasets.DATASETS, key=len):
        found = pair(key, test)
        if found is not None:
            return sorted(found), test
    raise AssertionError(f"{key} ends with no data set")


@pytest.mark.parametrize(("name", "variant"), RUNS, ids=IDS)
def test_a_result_stands_beside_the_run_that_it_describes(name, variant):
    run, told = described(name, variant)
    for key, result in variant.published.items():
        trained, test = sets_of(key)
        told |= {"ap": result.ap} if result.ap != "hits" else {}
        assert all(each in datasets.DATASETS for each in trained)
        found = tester.beside(RECIPES[name], run, trained, test, told)
        if variant.beyond:
            assert result not in found.results and (found.results or found.differs)
        else:
            assert result in found.results and not found.differs
    other = tester.beside(RECIPES[name], run, trained, test, told | {"protocol": "none"})
    assert not other.results and "not none" in other.differs


@pytest.mark.parametrize(("name", "variant"), [run for run in RUNS if run[1].given])
def test_the_flags_of_a_published_run_are_flags(name, variant):
    """`--recipe NAME` with them is a command, and the run that it starts is the one described."""
    args, recipe = cli.parse(["--recipe", name, *words(variant.given)])
    run, told = described(name, variant)
    assert tester.deciding(cli.customised(recipe, cli.overrides(args))) == tester.deciding(run)
    assert all(getattr(args, key) == value for key, value in told.items())


def changed(field: str, value):
    """Another value of a field, of the same type."""
    about, kind = FIELDS[field], value_of(HINTS[field])
    if about.choices:
        return next(choice for choice in about.choices if choice != value)
    if kind.length is not None:
        return (*value, kind.kind(1)) if kind.length == 0 else tuple(each + 1 for each in value)
    return {bool: not value, str: "other"}.get(kind.kind) if kind.kind in (bool, str) else (value or 0) + 1


@pytest.mark.parametrize("field", [field for field in FIELDS if field not in ("eval_every", "start_eval")])
def test_any_field_that_is_changed_takes_the_result_away(field):
    row = RECIPES["bot"]
    run = dataclasses.replace(row, **{field: changed(field, getattr(row, field))})
    found = tester.beside(row, run, ["market"], "market", {})
    described_by_variants = [v for v in row.variants if tester.deciding(described("bot", v)[0]) == tester.deciding(run)]
    assert not found.results or described_by_variants, f"{field} decides nothing"
    assert field in found.differs or found.results
    assert tester.beside(row, dataclasses.replace(row, eval_every=7), ["market"], "market", {}).results


def test_an_option_that_is_changed_takes_the_result_away():
    row = RECIPES["pcb"]
    found = tester.beside(row, with_values(row, {"parts": 4}), ["market"], "market", {})
    assert not found.results and found.differs.endswith("has parts 6, not 4")
    same = with_values(row, {"dropout": 0.5})  # what the row has, said once more
    assert tester.beside(row, same, ["market"], "market", {}).results[0].rank1 == 92.3


def test_the_order_of_names_does_not_matter():
    row = RECIPES["aligned_mutual"]
    for names in itertools.permutations(("market", "cuhk03", "duke")):
        assert not tester.beside(row, row, names, "duke", {}).results  # its AP was measured otherwise
        (found,) = tester.beside(row, row, names, "duke", {"ap": "trapezoid"}).results
        assert (found.rank1, found.mAP) == (81.51, 66.94)
    assert not tester.beside(row, row, ("market", "duke"), "duke", {}).results


def test_keys_are_read_whatever_digits_a_name_has():
    assert pair("market2prid2011", "prid2011") == {"market"} and pair("prid2011", "prid2011") == {"prid2011"}
    assert pair("market", "duke") is None and pair("msmt17+market2duke", "duke") == {"market", "msmt17"}
    results = {"market2duke": Published(1.0, 1.0, "somewhere")}
    assert between(results, ["market"], "duke") and not between(results, ["duke"], "market")


def test_a_training_set_that_is_not_whole_is_another_experiment():
    whole = {"data": {"market": "12,936 images of 751 people (fingerprint 0)"}}
    assert tester.training_told(whole) == {} == tester.training_told({}) == tester.training_told({"data": None})
    held = tester.training_told({"data": {"market": "11,000 images of 651 people (fingerprint 0)"}})
    found = tester.beside(RECIPES["bot"], RECIPES["bot"], ["market"], "market", held)
    assert not found.results and "11,000 images" in found.differs
    assert tester.training_told({"data": {"own": "3 images of 2 people"}}) == {}
    assert tester.training_told(whole | {"use_all_images": True}) == {"use_all_images": True}


def test_a_row_does_not_inherit_what_was_published_of_another():
    assert RECIPES["demo"].published == {} and RECIPES["demo"].variants == ()
    assert RECIPES["pcb_after"].variants == () and RECIPES["bot_no_center"].published["market"].rank1 == 94.1


@pytest.mark.parametrize(("name", "given", "on", "expected"), [
    ("tiny", {}, "market", (94.1, 85.8)),
    ("tiny", {"flip_test": True}, "market", (93.9, 86.3)),
    ("tiny", {"hard_factor": 0.2}, "market", (94.4, 86.2)),
    ("tiny", {"hard_factor": 0.2, "flip_test": True}, "market", (94.6, 86.6)),
    ("wangguanan", {}, "duke", (86.8, 76.6)),
    ("wangguanan", {"erase": 0.0}, "market2duke", (42.7, 26.4)),
    ("aligned", {"local_triplet_weight": 0.0, "test_distance": "global", "ap": "trapezoid"}, "market", (87.05, 71.38)),
    ("softmax", {"epochs": 66, "fixbase_epochs": 6, "milestones": (27, 47), "optimizer_reset": "fixbase"}, "msmt17",
     (63.4, 34.2)),
    ("softmax", {"optimizer": "adam", "milestones": (21, 41), "fixbase_epochs": 0}, "market", (85.4, 68.8)),
    ("shufflenet", {}, "cuhk03", (31.9, 31.7)),
])  # fmt: skip
def test_some_of_the_numbers(name, given, on, expected):
    run, told = described(name, Variant("", given, {}))
    trained, test = sets_of(on)
    found = tester.beside(RECIPES[name], run, trained, test, told).results
    assert expected in [(result.rank1, result.mAP) for result in found]


def test_re_ranked_results_stand_beside_the_same_parameters_alone():
    row = RECIPES["tiny"]
    theirs = tester.beside(row, with_values(row, {"hard_factor": 0.2}), ["market"], "market", {})
    values = {"mAP": 0.5, "mINP": 0.2, "rank1": 0.6, "rank5": 0.7, "rank10": 0.8, "rank20": 0.9, "num_valid": 9}
    for k1, printed in ((30, "95.6 / 94.1"), (20, "")):
        again = values | {"k1": k1, "k2": 10, "lambda_value": 0.2}
        metrics = values | {"num_query": 9, "reranked": again}
        text = tester.table({"market": metrics}, "market", {"market": theirs})
        (row_again,) = [line for line in text.splitlines() if line.startswith("  re-ranked")]
        assert row_again.endswith(printed or "9")
        assert "re-ranked (parameters searched) 95.8 / 94.2" in text
