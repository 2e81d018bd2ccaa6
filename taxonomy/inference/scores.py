"""Metrics of kind "metric": a number for what was said and what was wanted, two lists of texts of equal length.

All are shares from 0 to 1 or correlations from -1 to 1, but for BLEU and ROUGE, which are from 0 to 100 as they are published.
"""

import collections
import dataclasses
import importlib.util
import re
import string
from collections.abc import Sequence
from typing import Literal

import numpy as np

from taxonomy.registry import component

Texts = Sequence[str]


def normal(text: str) -> str:
    """A text in lower case without punctuation, articles and needless white space (Rajpurkar et al. 2016, arXiv:1606.05250)."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(list(values))) if len(values) else 0.0


@component("accuracy", kind="metric", paper="")
@dataclasses.dataclass(frozen=True)
class Accuracy:
    """The share of texts that are the wanted ones, white space around them aside."""

    def __call__(self, said: Texts, wanted: Texts) -> float:
        return _mean([one.strip() == other.strip() for one, other in zip(said, wanted, strict=True)])


@component("exact_match", kind="metric", paper="Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1")
@dataclasses.dataclass(frozen=True)
class ExactMatch:
    """The share of texts that are the wanted ones but for case, punctuation, articles and white space."""

    def __call__(self, said: Texts, wanted: Texts) -> float:
        return _mean([normal(one) == normal(other) for one, other in zip(said, wanted, strict=True)])


@component("f1", kind="metric", paper="Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1")
@dataclasses.dataclass(frozen=True)
class TokenF1:
    """The mean over texts of the harmonic mean of precision and recall of words, normalised as for `exact_match`."""

    def __call__(self, said: Texts, wanted: Texts) -> float:
        return _mean([self._one(normal(one).split(), normal(other).split()) for one, other in zip(said, wanted, strict=True)])

    def _one(self, said: list[str], wanted: list[str]) -> float:
        if not said or not wanted:
            return float(said == wanted)
        common = sum((collections.Counter(said) & collections.Counter(wanted)).values())
        return 2 * common / (len(said) + len(wanted))


@component("class_f1", kind="metric", paper="Wang et al. 2018, arXiv:1804.07461; Wang et al. 2019, arXiv:1905.00537")
@dataclasses.dataclass(frozen=True)
class ClassF1:
    """F1 of the class `positive`, or the mean over the wanted classes where none is named; another text is no class."""

    positive: str | None = None

    def __call__(self, said: Texts, wanted: Texts) -> float:
        said, wanted = [one.strip() for one in said], [one.strip() for one in wanted]
        classes = sorted(set(wanted)) if self.positive is None else [self.positive]
        return _mean([self._one([s == name for s in said], [w == name for w in wanted]) for name in classes])

    def _one(self, said: list[bool], wanted: list[bool]) -> float:
        right = sum(s and w for s, w in zip(said, wanted, strict=True))
        return 2 * right / max(1, sum(said) + sum(wanted))


@component("matthews", kind="metric", paper="Matthews 1975; Gorodkin 2004 (several classes)")
@dataclasses.dataclass(frozen=True)
class Matthews:
    """The correlation of said and wanted classes; 0 where either are all the same."""

    def __call__(self, said: Texts, wanted: Texts) -> float:
        classes = sorted({*map(str.strip, said), *map(str.strip, wanted)})
        said_NC, wanted_NC = (np.array([[t.strip() == name for name in classes] for t in texts], float) for texts in (said, wanted))
        said_NC, wanted_NC = said_NC - said_NC.mean(0), wanted_NC - wanted_NC.mean(0)
        scale = np.sqrt((said_NC**2).sum() * (wanted_NC**2).sum())
        return float((said_NC * wanted_NC).sum() / scale) if scale else 0.0


@component("correlation", kind="metric", paper="Pearson 1895; Spearman 1904")
@dataclasses.dataclass(frozen=True)
class Correlation:
    """The correlation of said and wanted numbers, or of their ranks; a text that is no number counts as 0."""

    kind: Literal["pearson", "spearman"] = "pearson"

    def __call__(self, said: Texts, wanted: Texts) -> float:
        import scipy.stats

        one, other = np.array([_number(t) for t in said]), np.array([_number(t) for t in wanted])
        if self.kind == "spearman":
            one, other = scipy.stats.rankdata(one), scipy.stats.rankdata(other)
        one, other = one - one.mean(), other - other.mean()
        scale = np.sqrt((one**2).sum() * (other**2).sum())
        return float((one * other).sum() / scale) if scale else 0.0


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if np.isfinite(value) else 0.0


@component("bleu", kind="metric", paper="Papineni et al. 2002; Post 2018, arXiv:1804.08771 (sacreBLEU)")
@dataclasses.dataclass(frozen=True)
class Bleu:
    """Precision of n-grams up to 4 over all texts, with a penalty for brevity, as sacreBLEU has it; 0 to 100."""

    tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a"

    def check(self) -> None:
        _need("sacrebleu")

    def __call__(self, said: Texts, wanted: Texts) -> float:
        import sacrebleu

        return float(sacrebleu.corpus_bleu(list(said), [list(wanted)], tokenize=self.tokenize).score)


@component("rouge", kind="metric", paper="Lin 2004, ROUGE")
@dataclasses.dataclass(frozen=True)
class Rouge:
    """The mean over texts of F1 of stemmed n-grams, of the longest common subsequence, or of that of lines (`kind`); 0 to 100."""

    kind: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL"

    def check(self) -> None:
        _need("rouge_score")

    def __call__(self, said: Texts, wanted: Texts) -> float:
        from rouge_score import rouge_scorer

        scorer = rouge_scorer.RougeScorer([self.kind], use_stemmer=True)
        return 100 * _mean([scorer.score(other, one)[self.kind].fmeasure for one, other in zip(said, wanted, strict=True)])


def _need(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise ValueError(f"needs the library {library}, which is not installed: pip install -e '.[tasks]'")
