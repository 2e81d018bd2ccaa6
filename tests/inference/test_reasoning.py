"""Few examples, many answers, and a calculator."""

import pytest

from taxonomy.inference.calculator import evaluate, written
from taxonomy.inference.few_shot import FewShot
from taxonomy.inference.voting import Vote, after, last_number, majority


def test_examples_stand_before_the_question():
    shots = FewShot((("1+1?", "It is 2."), ("2+2?", "It is 4.")), instruction="Add.\n")
    assert shots.prompt("3+3?") == "Add.\nQ: 1+1?\nA: It is 2.\n\nQ: 2+2?\nA: It is 4.\n\nQ: 3+3?\nA:"
    assert shots.answers([" It is 6.\n\nQ: 4+4?\nA: 8", " It is 6."]) == ["It is 6."] * 2
    worked = " First 2+2=4.\n\nThen 4+1=5. The answer is 5."
    assert shots.answers([worked, f"{worked}\n\nQ: 1?"]) == [worked.strip()] * 2
    plain = FewShot((("a", "b"),), template="{input} -> {target}\n")
    assert plain.prompt("c") == "a -> b\nc ->" and plain.answer(" d\ne -> f") == "d"


@pytest.mark.parametrize("template", ["{input}", "{target} {input}", "{input}{input}{target}", ""])
def test_a_template_has_both_halves_in_order(template):
    with pytest.raises(ValueError, match=r"must have \{input\} and behind it \{target\}"):
        FewShot(template=template)


def test_the_most_common_answer_wins():
    texts = ["2 and 3 make 5.", "So it is 6", "5", "nothing", "the sum is 5.0"]
    assert majority(texts) == Vote("5", 3 / 5, {"5": 3, "6": 1})
    assert majority(["b 2", "a 1"]).answer == "2"  # equally common: the first
    assert majority(["none"]) == Vote(None, 0.0, {}) == majority([])
    assert last_number("1,234.50 and -7") == "-7" and last_number("costs 1,234.50") == "1234.5" and last_number("100") == "100"
    said = after("The answer is")
    assert majority(["2. The answer is yes.", "The answer is no\nThe answer is yes.\nQ: 1", "x"], said).counts == {"yes": 2}


@pytest.mark.parametrize(
    ("expression", "value"),
    [("48/2", "24"), ("2 + 3*4", "14"), ("-(1,000 - 1) % 7", "2"), ("2**10", "1024"), ("1/3", "0.3333333333"), ("7//2", "3")],
)
def test_arithmetic(expression, value):
    assert written(evaluate(expression)) == value


NONSENSE = ["1/0", "x", "f(1)", "'a'*3", "9**9**9", "2**101", "10**30*10", "(-1)**0.5", "__import__('os')", "[1]", "True", "1<2"]


@pytest.mark.parametrize("expression", ["", "1 if 1 else 2", "(" * 300 + "1" + ")" * 300, *NONSENSE])
def test_what_is_no_arithmetic_is_refused(expression):
    with pytest.raises(ValueError, match=r"."):
        evaluate(expression)
