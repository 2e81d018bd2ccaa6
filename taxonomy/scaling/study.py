"""A study is one readable file: which models are trained on how much, what varies, and what is predicted before it is trained.

    STUDY = Study(
        base="quickstart",
        settings={"model.d_model": "{width}", "model.decoder": "{layers}*block", "train.schedule": "cosine(peak={0.4/width})"},
        ladder=(dict(width=16, layers=2), dict(width=24, layers=2), ...),
        budgets=(1.5e11, 5e11, 1.5e12),
        holdout=(6e12,),
    )

Text may have formulas in braces, arithmetic over the variables of a rung and of the axes; outside the `model` section also over
`params` (as the study counts), `tokens`, `flops`, `steps`, `batch_tokens`, `d_model`, `layers` and `context` of the cell. Powers
want numbers up to 1e12: (flops/1e18)**0.5. What a study comes to, cell by cell, is the work of `resolve`.
"""

import dataclasses
import importlib.util
import pathlib
import string
from collections.abc import Mapping
from typing import Any

from taxonomy import config as config_lib
from taxonomy import notation
from taxonomy.errors import UserError, nearest

FOLDER = "sweeps"
COUNTS = ("body", "body_head", "total")
FLOPS = ("6n", "6n_without_embeddings", "6n_12lhqt", "appendix_f", "exact")
# Besiroglu et al. 2024, arXiv:2404.10102: what is expected where a study says nothing else.
LAW = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What is trained. At most one of budgets, compute and tokens says how long; without them the config's own steps do.

    base: a config, "quickstart" or "FAMILY:{size}". settings: dotted keys of it with their values.
    ladder: the sizes from small to large, each the values of its variables.
    axes: what else varies, with all values: a dotted key of the config, or a variable of formulas. Every combination is run.
    budgets: FLOPs of each curve, which the `sizes` rungs nearest to `centre` spend; None: every rung.
    centre: a formula of `flops` for the parameters in the middle of a curve; None: 20 tokens a parameter.
    compute: a formula of the FLOPs of each rung, where `params` is that of the first combination of axes: equal for all of them.
    tokens: a formula of the tokens of each cell, such as "20*params".
    holdout: budgets that are predicted before they are trained, of `holdout_sizes` rungs.
    count, flops: the rules by which `params` and `flops` count, see `conventions`.
    least_steps: a cell of fewer is left out, with that reason. most_epochs: more is warned of.
    metric: the loss of a result. law: parameters of the loss that is expected, and scatter: the relative deviation of a run from
    it, from which the plan tells the intervals to expect. corpus_tokens: of the training text, where it is known beforehand.
    """

    base: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ladder: tuple[Mapping[str, Any], ...] = ({},)
    axes: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    budgets: tuple[float, ...] = ()
    sizes: int | None = None
    centre: str | None = None
    compute: str | None = None
    tokens: str | None = None
    seeds: tuple[int, ...] = (0,)
    holdout: tuple[float, ...] = ()
    holdout_sizes: int = 1
    count: str = "body_head"
    flops: str = "exact"
    least_steps: int = 1
    most_epochs: float = 1.0
    metric: str = "validation_loss"
    law: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(LAW))
    scatter: float = 0.005
    corpus_tokens: float | None = None

    def __post_init__(self):
        if sum(map(bool, (self.budgets, self.compute, self.tokens))) > 1:
            raise UserError("study: say one of budgets, compute and tokens")
        if self.holdout and not self.budgets:
            raise UserError("study.holdout: budgets to predict need budgets to fit")
        if self.holdout and min(self.holdout) <= max(self.budgets):
            raise UserError(f"study.holdout: {min(self.holdout):g} must be beyond the budgets, of up to {max(self.budgets):g}")
        for name, value, allowed in (("count", self.count, COUNTS), ("flops", self.flops, FLOPS)):
            if value not in allowed:
                raise UserError(f"study.{name}: unknown rule '{value}'{nearest(value, allowed)}")
        for name in ("ladder", "seeds"):
            if not getattr(self, name):
                raise UserError(f"study.{name}: at least one is needed")
        for name in ("budgets", "holdout"):
            if any(not one > 0 for one in getattr(self, name)):
                raise UserError(f"study.{name}: expected FLOPs above 0, got {getattr(self, name)}")
        for name, values in self.axes.items():
            if not isinstance(values, tuple) or not values:
                raise UserError(f"study.axes.{name}: expected a tuple of values, got {values!r}")
        lengths = [name for name in ("sizes", "holdout_sizes") if getattr(self, name) is not None and getattr(self, name) < 1]
        if lengths or self.least_steps < 1:
            raise UserError(f"study.{(*lengths, 'least_steps')[0]}: at least 1 is needed")
        if set(self.law) != set(LAW) or min(self.law.values()) <= 0:
            raise UserError(f"study.law: expected a number above 0 for each of {', '.join(LAW)}, got {dict(self.law)}")

    def but(self, **changes: Any) -> "Study":
        """The same study with other fields; settings are those of this one with what is given put over them."""
        settings = {**self.settings, **changes.pop("settings", {})}
        return dataclasses.replace(self, settings=settings, **changes)


def load(name: str) -> Study:
    """The study of a file, or of that name in `configs/sweeps`. Raises UserError."""
    folder = config_lib.folder() / FOLDER
    path = pathlib.Path(name) if name.endswith(".py") else folder / f"{name}.py"
    if not path.is_file():
        known = sorted(one.stem for one in folder.glob("*.py") if not one.stem.startswith("_"))
        raise UserError(f"--study: no file {path}" + ("" if name.endswith(".py") else nearest(name, known)))
    spec = importlib.util.spec_from_file_location(f"taxonomy_study_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, "STUDY", None)
    if not isinstance(found, Study):
        raise UserError(f"--study: {path} defines no STUDY = Study(...)")
    return found


def fill(value: Any, scalars: Mapping[str, Any], where: str) -> Any:
    """Text with its formulas computed, {{ and }} as braces; anything else as it is. A lone name may stand for any value."""
    if not isinstance(value, str):
        return value
    parts = []
    try:
        pieces = list(string.Formatter().parse(value))
    except ValueError as error:
        raise UserError(f"{where}: {value!r} has braces that do not match ({error})") from None
    for text, formula, form, _ in pieces:
        parts.append(text)
        if formula is not None:
            found = compute(formula, scalars, where)
            parts.append(format(found, form) if form else f"{found:.6g}" if isinstance(found, float) else str(found))
    return "".join(parts)


def compute(formula: str, scalars: Mapping[str, Any], where: str) -> Any:
    """A formula's number, or the value of a lone name."""
    node = notation.parse(formula, where)
    if isinstance(node, notation.Name) and node.identifier in scalars:
        return scalars[node.identifier]
    numbers = {name: value for name, value in scalars.items() if type(value) in (int, float)}
    return notation.evaluate(node, numbers, formula, where)
