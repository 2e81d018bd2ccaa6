"""Whether activations keep their size as a model widens (Yang et al. 2022, arXiv:2203.03466, appendix D.1, coordinate check).

A model is trained for a few steps at several widths on the same text, in the standard parametrization and by muP, and the root mean
square of what each of its modules gives is taken after every step. Text is drawn at random, words by Zipf's law, so nothing but
the config is needed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import traverse_util

from taxonomy import config as config_lib
from taxonomy import registry, sharding, spec
from taxonomy.data.examples import Examples
from taxonomy.errors import UserError
from taxonomy.model import Transformer
from taxonomy.objectives.objective import Specials
from taxonomy.scaling.widths import widened
from taxonomy.training.loop import make_trainer
from taxonomy.training.plan import Plan, make_plan

PARAMETRIZATIONS = ("standard", "mup")
LIMIT = 1.3  # of the largest size over the smallest
_READ = ("tokens", "positions", "segments", "prefix", "order", "inputs", "input_positions", "input_segments")
# What is measured: what these give. Scores of routers begin as noise, which falls with the width, and decide by their order alone.
_KINDS = ("embedding", "block", "attention", "feedforward")


def check(
    config: ml_collections.ConfigDict,
    widths: Sequence[int],
    steps: int = 10,
    rate: float | None = None,
    rows: int = 8,
    wider_heads: bool = False,
    seeds: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Sizes by parametrization, module and width after every step, and how far they differ between widths after the last.

    The narrowest model is muP's base where the config names none. rate: the learning rate; None: the peak of the config's schedule.
    Sizes are means over `seeds` trainings, of other initial values and text. Raises UserError.
    """
    if len(set(widths)) < 2 or min(steps, rows, seeds) < 1:
        given = f"{list(widths)}, {steps}, {rows}, {seeds}"
        raise UserError(f"coordinates: at least two widths, one step, one row and one seed are needed, got {given}")
    found: dict[str, Any] = {"widths": sorted(set(widths)), "steps": steps, "seeds": seeds, "limit": LIMIT}
    for name in PARAMETRIZATIONS:
        plans = [_plan(config, width, name, steps, rows, found["widths"][0], wider_heads) for width in found["widths"]]
        found["learning_rate"] = rate or plans[0].schedule.peak
        by_width = []
        for plan in plans:
            say(f"{name}, width {plan.model.d_model}")
            by_width.append(_sizes(plan, found["learning_rate"], rows, seeds))
        modules = {module: np.array([sizes[module] for sizes in by_width]) for module in by_width[0]}
        # A size that is not finite is as far off as can be.
        last = {module: np.nan_to_num(sizes_WS[:, -1], nan=np.inf) for module, sizes_WS in modules.items()}
        ratios = {module: float(sizes_W.max() / sizes_W.min()) for module, sizes_W in last.items()}
        worst = max(ratios, key=ratios.get)
        found[name] = {
            "sizes": {module: sizes_WS.tolist() for module, sizes_WS in modules.items()},
            "ratios": ratios,
            "worst": worst,
            "flat": ratios[worst] < LIMIT,
        }
    return found


def shown(found: dict[str, Any]) -> str:
    """Sizes after the last step at every width, and the verdicts, as text."""
    lines = []
    for name in PARAMETRIZATIONS:
        one = found[name]
        over = f", mean of {found['seeds']} seeds" if found["seeds"] > 1 else ""
        lines.append(f"{name}, rms after {found['steps']} steps at {found['learning_rate']:g}{over}, by width")
        lines.append(f"  {'':44}" + "".join(f"{width:>9}" for width in found["widths"]) + "    ratio")
        for module, sizes in one["sizes"].items():
            lines.append(f"  {module:44}" + "".join(f"{size[-1]:>9.3g}" for size in sizes) + f"{one['ratios'][module]:>9.3g}")
        verdict = "keeps its size" if one["flat"] else "depends on the width"
        lines.append(f"  {verdict}: at most x{one['ratios'][one['worst']]:.3g}, in {one['worst']} (limit x{found['limit']:g})")
    return "\n".join(lines)


def _plan(config, width: int, parametrization: str, steps: int, rows: int, base: int, wider_heads: bool) -> Plan:
    """The config at this width, with a batch of so many rows."""
    sections = config.to_dict()
    own = sections.pop("model")
    section, narrow = (widened(own, d_model, wider_heads) for d_model in (width, base))
    section["parametrization"] = None
    if parametrization == "mup":
        section |= _by_mup(own, narrow, wider_heads)
    if "generator" in section:
        changes = (
            _by_mup({}, narrow | narrow["generator"], wider_heads) if section["parametrization"] else {"parametrization": None}
        )
        section["generator"] = section["generator"] | changes
    train = sections["train"] | {"steps": steps, "tokens": None, "batch_ramp": None, "microbatch_tokens": None}
    train |= {"dtype": "float32", "scan": False, "remat": "none", "batch_tokens": rows * (train["context"] or section["context"])}
    return make_plan(config_lib.experiment(section, **sections | {"train": train, "mesh": "data:1"}), 1)


def _by_mup(own: dict[str, Any], base: dict[str, Any], wider_heads: bool) -> dict[str, str]:
    """The sentence that the config has, or one with this base."""
    if own.get("parametrization"):
        return {"parametrization": own["parametrization"]}
    attention = (part for part in spec.model(base).components() if part.kind == "attention")
    heads = f", head_dim={next(attention)['head_dim']}" if wider_heads else ""
    return {"parametrization": f"mup(d_model={base['d_model']}{heads})"}


def _sizes(plan: Plan, rate: float, rows: int, seeds: int) -> dict[str, list[float]]:
    """The root mean square of what each module gives for the first batch, before the first step and after every one."""
    trainer = make_trainer(plan, sharding.make_mesh("data:1", jax.devices()[:1]))
    measure = jax.jit(lambda params, read: _measured(trainer.model, params, read))
    found = []
    for seed in range(plan.config.seed, plan.config.seed + seeds):
        text, state = _text(plan, rows, seed), trainer.init(seed)
        read = {name: jnp.asarray(array) for name, array in text.batch(0, rows).items() if name in _READ}
        found.append([measure(state.params, read)])
        for step in range(plan.steps):
            state, _ = trainer.step(state, trainer.put(text.batch(step * rows, rows)), rate)
            found[-1].append(measure(state.params, read))
    return {module: np.mean([[float(sizes[module]) for sizes in one] for one in found], 0).tolist() for module in found[0][0]}


def _measured(model: Transformer, params: Any, read: dict[str, jax.Array]) -> dict[str, jax.Array]:
    kinds = {entry.factory: entry.kind for entry in registry.entries()}

    def wanted(module, method: str) -> bool:
        # What experts get has empty places.
        if module.name == "experts":
            return False
        return method == "__call__" and kinds.get(type(module)) in _KINDS

    logits, kept = model.apply({"params": params}, **read, capture_intermediates=wanted, mutable=["intermediates"])
    rms = lambda x: jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32))))  # noqa: E731
    return {name: rms(x) for name, x in _given(kept["intermediates"])} | {"logits": rms(logits)}


def _given(intermediates: dict[str, Any]) -> Iterator[tuple[str, jax.Array]]:
    """What each module gave, by its path; an embedding that two stacks read through gives twice."""
    for path, calls in traverse_util.flatten_dict(intermediates).items():
        for turn, call in enumerate(calls):
            yield "/".join(path[:-1]) + (f" {turn + 1}" if len(calls) > 1 else ""), jax.tree.leaves(call)[0]


def _text(plan: Plan, rows: int, seed: int) -> Examples:
    """Examples of words drawn by Zipf's law, in documents of a hundred on average."""
    generator = np.random.default_rng(seed)
    vocab = plan.model.vocab
    # Half of the ids are left for what objectives put into a text.
    chances = 1.0 / np.arange(1, vocab // 2)
    size = (plan.steps + 1) * rows * 2 * max(plan.objective.needs(plan.lengths), plan.context)
    words = generator.choice(np.arange(1, vocab // 2), size, p=chances / chances.sum())
    tokens = np.where(generator.random(size) < 0.01, 0, words).astype(np.int32)
    tokens[0] = 0
    specials = Specials(start=0, vocab=vocab, used=vocab // 2, sentence_ends=(1,), word_starts=np.ones(vocab // 2, bool))
    return Examples(tokens, plan.objective, specials, plan.lengths, seed)
