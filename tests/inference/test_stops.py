"""Where texts end, and what of a text that goes on will stay."""

import pytest

from taxonomy.errors import UserError
from taxonomy.inference import stops


@pytest.mark.parametrize(
    ("text", "strings", "expected"),
    [
        ("abc", (), ("abc", False)),
        ("abc", ("d",), ("abc", False)),
        ("abcabc", ("ca",), ("ab", True)),
        ("abcabc", ("cab", "b"), ("a", True)),
        ("abc", ("abc",), ("", True)),
        ("abcabc", ("abca", "bc"), ("a", True)),
    ],
)
def test_texts_are_cut_before_the_first_stop(text, strings, expected):
    assert stops.cut(text, strings) == expected


@pytest.mark.parametrize("strings", [("é", "béé"), ("béé", "é"), ("abéé", "bé")])
def test_where_a_text_ends_does_not_depend_on_how_it_comes(strings):
    text = "aabéé"
    byte_by_byte = (text.encode()[:count].decode(errors="replace") for count in range(len(text.encode()) + 1))
    assert next(cut for cut in (stops.cut(some, strings) for some in byte_by_byte) if cut[1]) == stops.cut(text, strings)


@pytest.mark.parametrize(
    ("text", "strings", "expected"),
    [
        ("abc", (), "abc"),
        ("ab\n", ("\n\n",), "ab"),
        ("abab", ("aba",), "ab"),
        ("abab", ("babc", "bx"), "a"),
        ("a\ufffd", (), "a"),
        ("ab\ufffd\ufffd", ("bc",), "a"),
    ],
)
def test_what_may_change_is_not_settled(text, strings, expected):
    assert stops.settled(text, strings) == expected


@pytest.mark.parametrize(
    ("strings", "complaint"), [(("a", ""), r"stop\[1\]: an empty string"), ("ab", "stop: takes several strings")]
)
def test_bad_stops(strings, complaint):
    with pytest.raises(UserError, match=complaint):
        stops.check(strings)
