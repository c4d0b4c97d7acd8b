"""What visitors and programs give the page: numbers out of range, and quotes in what is said."""

import math

import pytest

from zoo.errors import MismatchError
from zoo.page.given import number, text

parts = pytest.importorskip("zoo.page.parts")


@pytest.mark.parametrize(("value", "said"), [
    (10**400, "the bit is inf; expected 0 to 7"),
    (-(10**400), "the bit is -inf; expected 0 to 7"),
    (math.nan, "the bit is nan; expected 0 to 7"),
])  # fmt: skip
def test_a_number_that_no_float_holds_is_out_of_range(value: float, said: str) -> None:
    with pytest.raises(MismatchError, match=said):
        number(value, "bit", 0, 7, 1)


def test_a_complaint_can_be_typed_and_is_no_markup() -> None:
    """Programs read it as text, the page sets it as HTML between tags."""
    message = parts.complaint("""type: zoo.load("<b>x</b>", tag='y')""").message
    assert message == """type: zoo.load("&lt;b&gt;x&lt;/b&gt;", tag='y')"""


def test_what_is_no_text_is_not_made_one() -> None:
    """A language model would answer "['x']"."""
    assert (text(" x ", "prompt"), text(None, "prompt"), text("", "prompt")) == (" x ", "", "")
    for value in (["x"], {"a": 1}, 5, False):
        with pytest.raises(MismatchError, match=r"the prompt is .*; expected text"):
            text(value, "prompt")
