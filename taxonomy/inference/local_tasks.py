"""Tasks of kind "task" that need no download: their questions are made on this machine, the same for everybody who has its Python.

`asked` is a task in lm_eval's words, for its task of that name; `documents` are its questions.
"""

import bisect
import dataclasses
import io
import itertools
import keyword
import random
import tokenize
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from taxonomy import registry
from taxonomy.data.sources import StandardLibrarySource
from taxonomy.errors import UserError
from taxonomy.registry import Component, component

Source = Annotated[Component, ("source",)]
HeldOut = Literal["validation", "test"]
Questions = list[dict[str, Any]]
_SHOWN, _ASKED = "train", "test"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalTask:
    """A task whose questions are made here."""

    def documents(self) -> dict[str, Questions]:
        """The questions, and where the task shows examples, those too."""
        raise TypeError("a subclass makes questions")

    def words(self) -> dict[str, Any]:
        """What lm_eval has to know of the task besides its name and its questions."""
        raise TypeError("a subclass says what is asked")

    def asked(self, name: str) -> dict[str, Any]:
        """The task as lm_eval reads it. Raises UserError where there is nothing to ask."""
        documents = self.documents()
        if not documents[_ASKED]:
            raise UserError(f"--tasks: {name}: there is nothing to ask")

        def made(**ignored: Any) -> dict[str, Any]:
            import datasets

            return {split: datasets.Dataset.from_list(questions) for split, questions in documents.items()}

        return {"task": name, "custom_dataset": made, "test_split": _ASKED, **self.words()}


@component("held_out_text", kind="task", paper="")
@dataclasses.dataclass(frozen=True)
class HeldOutText(LocalTask):
    """Bits per byte of some held-out documents, each read from its beginning; of the standard library where no source is given."""

    source: Source | None = None
    split: HeldOut = "validation"
    count: int = 20

    def check(self) -> None:
        _check_count(self.count)

    def documents(self) -> dict[str, Questions]:
        source = StandardLibrarySource() if self.source is None else registry.instantiate(self.source)
        texts = ["".join(text) for text in source.documents(self.split)]  # the halves of a pair are one text
        return {_ASKED: [{"text": text} for text in _spread(texts, self.count)]}

    def words(self) -> dict[str, Any]:
        metrics = [{"metric": name} for name in ("bits_per_byte", "byte_perplexity")]
        return {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": _text, "metric_list": metrics}


@component("next_name", kind="task", paper="after Paperno et al. 2016, arXiv:1606.06031 (a word that its context tells)")
@dataclasses.dataclass(frozen=True)
class NextName(LocalTask):
    """Which of the names in a piece of a held-out module of Python's standard library comes next; it is there already."""

    count: int = 200
    choices: int = 4
    characters: int = 600
    seed: int = 0
    split: HeldOut = "validation"

    def check(self) -> None:
        _check_count(self.count)
        if self.choices < 2:
            raise ValueError(f"choices={self.choices} must be at least 2")

    def documents(self) -> dict[str, Questions]:
        generator = random.Random(self.seed)
        modules = [text for _, text in StandardLibrarySource().files(self.split)]
        rounds: list[Questions] = []
        for text in modules:
            own = list(self._of_module(text))
            rounds.append(generator.sample(own, min(len(own), self.count)))
        # One of each module in turn, so that long ones are not all there is.
        turns = (question for turn in itertools.zip_longest(*rounds) for question in turn if question is not None)
        chosen = list(itertools.islice(turns, self.count))
        for question in chosen:
            names = [question.pop("name"), *generator.sample(question.pop("others"), self.choices - 1)]
            question["choices"] = sorted(names)
            question["answer"] = question["choices"].index(names[0])
        return {_ASKED: chosen}

    def _of_module(self, text: str) -> Iterator[dict[str, Any]]:
        """A question for every name that stands in the piece before it, among enough others."""
        names = _names(text)
        for place, (start, name) in enumerate(names):
            if (line_end := text.find("\n", max(0, start - self.characters))) < 0:
                continue  # a last line that is longer than a piece
            begin = line_end + 1
            first = bisect.bisect_left(names, (begin, ""))
            before = {other for _, other in names[first:place]}
            if name in before and len(before) >= self.choices:
                yield {"context": text[begin:start], "name": name, "others": sorted(before - {name})}

    def words(self) -> dict[str, Any]:
        return {
            "output_type": "multiple_choice",
            "doc_to_text": lambda question: question["context"],
            "doc_to_choice": lambda question: question["choices"],
            "doc_to_target": lambda question: question["answer"],
            "target_delimiter": "",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }


@component("sums", kind="task", paper="Brown et al. 2020, arXiv:2005.14165, section 3.9.1")
@dataclasses.dataclass(frozen=True)
class Sums(LocalTask):
    """Additions of two numbers of some digits at most, asked in words after some examples; the first number said counts."""

    count: int = 100
    digits: int = 2
    shots: int = 4
    seed: int = 0

    def check(self) -> None:
        _check_count(self.count)
        if self.digits < 1 or self.shots < 0:
            raise ValueError(f"digits={self.digits} must be at least 1, shots={self.shots} at least 0")

    def documents(self) -> dict[str, Questions]:
        generator, most = random.Random(self.seed), 10**self.digits
        pairs = [(generator.randrange(most), generator.randrange(most)) for _ in range(self.count + self.shots)]
        made = [{"question": f"Q: What is {one} plus {other}?\nA:", "answer": str(one + other)} for one, other in pairs]
        return {_ASKED: made[self.shots :]} | ({_SHOWN: made[: self.shots]} if self.shots else {})

    def words(self) -> dict[str, Any]:
        first_number = [{"function": "regex", "regex_pattern": r"(-?\d+)"}, {"function": "take_first"}]
        shown = {"fewshot_split": _SHOWN, "fewshot_config": {"sampler": "first_n"}} if self.shots else {}
        return shown | {
            "output_type": "generate_until",
            "num_fewshot": self.shots,
            "doc_to_text": lambda question: question["question"],
            "doc_to_target": lambda question: question["answer"],
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4 * self.digits + 8, "do_sample": False},
            "filter_list": [{"name": "first_number", "filter": first_number}],
            "metric_list": [{"metric": "exact_match"}],
        }


def _text(document: dict[str, Any]) -> str:
    return document["text"]


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """At most `count` of them, evenly spread."""
    count = min(count, len(texts))
    return [texts[i * len(texts) // count] for i in range(count)]


def _names(text: str) -> list[tuple[int, str]]:
    """The names in a module with the places where they begin; none of a module that this Python cannot read."""
    lines = list(itertools.accumulate((len(line) for line in io.StringIO(text)), initial=0))
    try:
        found = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return []
    plain = (token for token in found if token.type == tokenize.NAME and not keyword.iskeyword(token.string))
    return [(lines[token.start[0] - 1] + token.start[1], token.string) for token in plain]
