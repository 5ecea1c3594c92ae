"""The grammar of attacks, and the numbers in it."""

from hypothesis import assume, given
from hypothesis import strategies as st

from loradar.core.attack_specs import NamedSpec, number, number_text, read_spec, snapped, write_spec
from tests.core.strategies import patient


@patient
@given(value=st.floats(0, 1e6) | st.integers(0, 25500).map(lambda k: k / 100 / 255))
def test_numbers_are_read_back_to_the_bit(value: float) -> None:
    assert number(number_text(value)) == value


@patient
@given(k=st.integers(1, 600), places=st.integers(5, 17))
def test_a_fraction_that_was_rounded_is_taken_for_it(k: int, places: int) -> None:
    rounded = round(k / 255, places)
    assume(len(repr(rounded).partition(".")[2]) >= 5 or rounded == k / 255)  # its last digits may be zeros
    assert snapped(rounded) == k / 255


@patient
@given(value=st.floats(allow_nan=False))
def test_snapping_is_slight_and_once(value: float) -> None:
    once = snapped(value)
    assert snapped(once) == once
    assert once == value or abs(once - value) < 1e-5


@patient
@given(
    options=st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(min_size=1, max_size=20), max_size=4)
)
def test_any_text_can_be_a_value(options: dict[str, str]) -> None:
    assert read_spec(write_spec("name", options)) == NamedSpec(name="name", options=options)
