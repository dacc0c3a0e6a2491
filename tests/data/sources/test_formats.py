"""``format: auto``: which format a source has, asked of formats made for the purpose."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from sftcore import Format, FormatSpec, Message
from sftcore.config.schema import SourceConfig
from sftcore.core.errors import DataError
from sftcore.core.registry import Entry, Registry
from sftcore.data.row_types import Origin, UnreadableError
from sftcore.data.sources.formats import SAMPLE, DataSource, detect_format
from sftcore.data.sources.rejected import rejected_rows
from sftcore.labelling import Policy


@dataclass
class Lines(Format):
    def parse(self, row):
        return [Message("assistant", line) for line in row["lines"]]


LINES = FormatSpec(Lines, keys=["lines"])


def registry(*offers, name="lines"):
    return Registry([Entry("format", name, f"dist-{index}", "1", offer) for index, offer in enumerate(offers, start=1)])


def sample(*rows):
    return [(Origin("f", line), row) for line, row in enumerate(rows, start=1)]


def test_the_one_that_fits():
    assert detect_format("f", sample({"lines": []}), registry(LINES)).qualified == "dist-1/lines"


def test_a_bad_row_among_the_first_does_not_matter():
    rows = sample(UnreadableError("not valid JSON"), 3, {"else": 1}, {"lines": []})
    assert detect_format("f", rows, registry(LINES)).name == "lines"


@pytest.mark.parametrize(
    "other",
    [Lines, "json:loads", FormatSpec("json:loads"), FormatSpec("no_such_module:Class", ["lines"])],
    ids=["class", "reference", "no keys", "no module"],
)
def test_format_auto_ignores_formats_without_keys_and_those_that_are_not_there(other):
    assert detect_format("f", sample({"lines": []}), registry(LINES, other)).distribution == "dist-1"
    with pytest.raises(DataError, match="no format fits"):
        detect_format("f", sample({"lines": []}), registry(other))


def test_formats_of_one_name_are_distinguished():
    with pytest.raises(DataError, match=r"dist-1/lines \(row f:2\), dist-2/lines \(row f:2\); name one with 'format'"):
        detect_format("f", sample({}, {"lines": []}, {"lines": []}), registry(LINES, LINES))


def test_every_row_is_reported_where_none_fits():
    with pytest.raises(DataError) as raised:
        detect_format("f", sample({"a": 1, "b": 2}, {}), registry(LINES))
    assert str(raised.value).splitlines() == [
        "2 rows cannot be used; fix or remove:",
        "  f:1: no format fits its keys (a, b)",
        "  f:2: no format fits its keys (no keys)",
        "  known formats need lines: lines",
        "  'columns' of the source renames its columns",
    ]


def test_where_no_row_is_an_object_there_is_no_format():
    assert detect_format("f", sample(UnreadableError("not valid JSON: x"), "text"), registry(LINES)) is None


def test_no_rows():
    with pytest.raises(DataError, match="data source f: has no rows"):
        detect_format("f", [], registry(LINES))


def test_a_long_list_is_cut_and_counted():
    assert rejected_rows(["f:1: x"]) == "1 row cannot be used; fix or remove:\n  f:1: x"
    assert rejected_rows([str(number) for number in range(SAMPLE)]).endswith("\n  9\n  ... and 40 more")


def test_a_format_that_fails_names_the_row():
    rejected = []
    rows = sample({"lines": 3}, {})
    source = DataSource(SourceConfig("f"), (), None, "lines", Lines(), Policy())
    assert not list(source.parse(rows, rejected, {}, Counter()))
    assert str(rejected[0]).startswith("f:1: the format Lines failed: TypeError")
    assert str(rejected[1]) == "f:2: the format Lines failed: KeyError: 'lines'"
    assert [bad.row for bad in rejected] == [row for _, row in rows]
