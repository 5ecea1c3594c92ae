from math import comb, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradar.core.errors import BadConfigError
from loradar.evaluation.intervals import sign_test, wilson

COUNTS = st.integers(1, 2000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


@settings(deadline=None)
@given(COUNTS)
def test_wilson_is_its_formula(counts: tuple[int, int]) -> None:
    count, total = counts
    p, z = count / total, 1.959963984540054
    middle = (p + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    assert wilson(count, total) == pytest.approx((middle - half, middle + half), abs=1e-9)


def test_wilson_of_published_counts() -> None:
    low, high = wilson(241, 500)
    assert (round(100 * low, 1), round(100 * high, 1)) == (43.9, 52.6)


@pytest.mark.parametrize(("count", "total"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(count: int, total: int) -> None:
    with pytest.raises(BadConfigError, match="no share"):
        wilson(count, total)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40))
def test_sign_test_is_the_binomial_tail(more: int, fewer: int) -> None:
    n = more + fewer
    assert sign_test(more, fewer) == pytest.approx(sum(comb(n, k) for k in range(more, n + 1)) / 2**n)
