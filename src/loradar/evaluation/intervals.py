"""How sure a count is: the Wilson interval of a share, and the exact test of a paired difference."""

from loradar.core.errors import BadConfigError


def wilson(count: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share, as (low, high) in [0, 1]. Wilson 1927; better than the normal one near 0 and 1.

    Raises BadConfigError unless 0 <= count <= total and total > 0.

    >>> [round(bound, 3) for bound in wilson(330, 500)]
    [0.617, 0.7]
    """
    if not 0 <= count <= total or total == 0:
        raise BadConfigError(f"{count} of {total} is no share; expected 0 <= count <= total, and at least one image")
    from scipy.stats import binomtest  # here: it takes seconds to import, and most commands count nothing

    interval = binomtest(count, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def sign_test(more: int, fewer: int) -> float:
    """How likely `more` or an even larger part of `more + fewer` would be if both sides were equally likely.

    The one-sided exact form of McNemar's test (1947): of the images on which two measurements disagree, `more` went
    one way and `fewer` the other. 1.0 where they disagree on none.

    >>> round(sign_test(9, 0), 5), sign_test(0, 0)
    (0.00195, 1.0)
    """
    if more + fewer == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(more, more + fewer, 0.5, alternative="greater").pvalue)
