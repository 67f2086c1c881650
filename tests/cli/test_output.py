"""Numbers, times and tables as people read them; headline rows; the command that resumes."""

from __future__ import annotations

import json
import math

import pytest

from orchestrator.cli._output import duration, number, print_json, print_table, size
from orchestrator.cli._recipe import split_recipe
from orchestrator.cli._summary import headline, headline_cells, resume_command
from orchestrator.cli.diff import compare, flatten
from orchestrator.errors import RecipeError


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (None, "")]
)
def test_durations_read_as_people_say_them(seconds, text):
    """No more digits than matter."""
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(3.0, "3"), (0.123456, "0.1235"), (1.5e9, "1.5e+09"), (math.inf, "inf")])
def test_numbers_have_four_digits(value, text):
    """Whole numbers stay whole."""
    assert number(value) == text


@pytest.mark.parametrize(("count", "text"), [(12, "12 B"), (2048, "2.0 KiB"), (3 * 2**40, "3.0 TiB")])
def test_sizes_have_binary_units(count, text):
    """Bytes are counted in powers of two."""
    assert size(count) == text


def test_tables_are_aligned_and_numbers_stand_right(capsys):
    """Columns line up however wide their cells are."""
    print_table(["NAME", "VALUE"], [["a", 1], ["longer", 22.5]])

    assert capsys.readouterr().out.splitlines() == ["NAME    VALUE", "a           1", "longer   22.5"]


def test_json_has_no_words_of_its_own(capsys):
    """NaN and infinity are not JSON."""
    print_json({"a": math.nan, "b": [math.inf, 1.0]})

    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.0]}


def test_recipe_is_named_exactly_once():
    """`recipe=` is the one token that is not an override."""
    assert split_recipe(["seed=1", "recipe=smoke", "~stages.x"]) == ("smoke", ["seed=1", "~stages.x"])
    with pytest.raises(RecipeError, match="2 times"):
        split_recipe(["recipe=a", "recipe=b"])
    with pytest.raises(RecipeError) as caught:
        split_recipe(["smoke"])
    assert "write recipe=smoke" in caught.value.hint


def test_resume_repeats_the_command_but_not_the_rerun():
    """What was rerun and finished is not run again."""
    words = ["run", "recipe=smoke", "--rerun-from", "base", "stages.a.b=[1, 2]", "--rerun-from=sft", "--quiet"]

    assert resume_command(words) == "orchestrate run recipe=smoke 'stages.a.b=[1, 2]' --quiet"


def test_headline_is_what_the_last_table_offers(tmp_path):
    """Any stage may offer one; no stage's name is known here."""
    stages = []
    for position in range(2):
        folder = tmp_path / str(position)
        folder.mkdir()
        (folder / "data.json").write_text(json.dumps({"headline": [{"variant": str(position)}]}))
        stages.append({"outputs": {"result": {"type": "Table", "path": str(folder)}}})

    assert headline({"stages": stages}) == [{"variant": "1"}]
    assert headline({"stages": []}) == []


def test_bounds_become_an_interval_beside_their_value():
    """Three columns of one quantity read as one."""
    rows = [
        {
            "variant": "a",
            "accuracy": 0.5,
            "low": 0.4,
            "high": 0.6,
            "usd": 2.0,
            "usd_low": 1.0,
            "usd_high": 3.0,
            "basis": "modelled",
        }
    ]

    columns, cells = headline_cells(rows)

    assert columns == ["variant", "accuracy", "basis", "usd"]
    assert cells == [["a", "0.5 [0.4, 0.6]", "modelled", "2 [1, 3]"]]


def test_published_ours_and_difference_are_read_in_this_order():
    """Whatever the names are sorted by in the file; then what is possible, then everything else."""
    row = dict.fromkeys(
        ["bound_us", "mean_us", "ours_us", "published_us", "variant", "vs_bound_percent", "vs_published_percent"], 1.0
    )

    columns, _ = headline_cells([row])

    assert columns == [
        "variant",
        "published_us",
        "ours_us",
        "vs_published_percent",
        "bound_us",
        "vs_bound_percent",
        "mean_us",
    ]


def test_a_missing_bound_hides_the_interval():
    """A number without an interval is shown as it is."""
    assert headline_cells([{"x": 1.0, "low": None, "high": None}]) == (["x"], [["1"]])


def test_diff_keeps_what_differs_in_order():
    """Equal settings say nothing."""
    first, second = flatten({"a": {"b": 1, "c": 2}, "d": []}), flatten({"a": {"b": 1, "c": 3}, "e": 4, "d": []})

    assert compare(first, second) == [
        {"name": "a.c", "first": 2, "second": 3},
        {"name": "e", "first": None, "second": 4},
    ]
