"""Ranks and byte budgets as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradar.core.errors import BadConfigError
from loradar.core.ranks import RankRule, parse_bytes, parse_rank

patterns = st.text("abclayer0123.*?[]_", min_size=1, max_size=12).filter(lambda text: text != "*")
numbers = st.integers(0, 10**9 - 1)


@given(st.dictionaries(patterns, st.tuples(numbers, st.booleans()), max_size=5), st.none() | numbers)
def test_text_and_mapping_say_the_same(own: dict[str, tuple[int, bool]], rest: int | None) -> None:
    items = {pattern: f"{'<=' if capped else ''}{number}" for pattern, (number, capped) in own.items()}
    text = [f" {pattern} = {number}" for pattern, number in items.items()]
    if rest is not None:
        items["*"] = str(rest)
        text.insert(len(text) // 2, str(rest))
    if not items:
        return
    rules = parse_rank(",".join(text))
    assert rules == parse_rank(items)
    expected = [RankRule(pattern=pattern, rank=number, capped=capped) for pattern, (number, capped) in own.items()]
    assert [rule for rule in rules if rule.pattern != "*"] == expected
    assert [rule.rank for rule in rules if rule.pattern == "*"] == ([] if rest is None else [rest])
    assert rest is None or rules[-1].pattern == "*", "the rest comes last: the first that matches holds"


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_in_a_line(text: str) -> None:
    try:
        rules = parse_rank(text)
    except BadConfigError as error:
        assert "expected" in str(error)  # noqa: PT017
        assert "\n" not in str(error).replace(text, "")  # noqa: PT017
    else:
        assert rules
        assert all(rule.rank >= 0 and rule.pattern for rule in rules)


@pytest.mark.parametrize(
    "text",
    ["", ",", "4,", "4,8", "*=4,8", "layer1=4,layer1=8", "=4", "layer1=", "layer1=-4", "4.5", "1e3", "<=", "nan", "x"],
)
def test_what_is_no_rank_is_refused(text: str) -> None:
    with pytest.raises(BadConfigError, match="expected"):
        parse_rank(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("400kB", 400_000),
        ("400 KB", 400_000),
        ("0.4MB", 400_000),
        ("2.5MB", 2_500_000),
        ("1KiB", 1024),
        ("1.5 MiB", 1_572_864),
        ("273463", 273_463),
        ("273463B", 273_463),
        (7, 7),
    ],
)
def test_sizes_with_and_without_a_unit(text: str | int, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "0.4", "kB", "4 k", "4 kBit", "4e5", "inf", "nan", True, 2.5e300, "1,5MB"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(BadConfigError, match="expected bytes, kB, MB"):
        parse_bytes(text)
