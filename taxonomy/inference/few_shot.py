"""Prompts that show a few solved examples before the question (Brown et al. 2020, arXiv:2005.14165, section 2)."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Examples written by a template, one after the other, and the question up to where its answer begins.

    The template has `{input}` and behind it `{target}`; a target may be worked steps before an answer (chain of thought: Wei et al.
    2022, arXiv:2201.11903). Raises ValueError for a template without them, in this order and once each.
    """

    examples: tuple[tuple[str, str], ...] = ()
    template: str = "Q: {input}\nA: {target}\n\n"
    instruction: str = ""

    def __post_init__(self):
        parts = self.template.split("{input}")
        if len(parts) != 2 or "{target}" in parts[0] or parts[1].count("{target}") != 1:
            raise ValueError(f"template={self.template!r} must have {{input}} and behind it {{target}}, once each")

    @property
    def _pieces(self) -> tuple[str, str, str]:
        """What stands before the input, between input and target, and behind the target."""
        before, rest = self.template.split("{input}")
        return (before, *rest.split("{target}"))

    def prompt(self, question: str) -> str:
        """What a model is given; what it says is the answer. White space before the target is left to the model."""
        before, between, after = self._pieces
        shown = [f"{before}{given}{between}{wanted}{after}" for given, wanted in self.examples]
        return "".join([self.instruction, *shown, before, question, between.rstrip(" ")])

    def answer(self, said: str) -> str:
        """The text up to where the model begins a question of its own."""
        before, _, after = self._pieces
        # White space behind a target may stand within it too: what stands before the next question tells them apart, if anything.
        end = after if after.strip() or not before.strip() else after + before
        return (said.partition(end)[0] if end else said).strip()

    def answers(self, said: Sequence[str]) -> list[str]:
        """The answers in several texts."""
        return [self.answer(text) for text in said]
