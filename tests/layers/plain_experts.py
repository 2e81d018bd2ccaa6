"""Mixtures of experts as their papers write them, one row and one token after another, in PyTorch."""

import dataclasses
import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment


@dataclasses.dataclass
class Row:
    """What a router knows of a row: features (T, D), which tokens are live, their ids, its domain, draws of chance."""

    x: torch.Tensor
    live: list[bool]
    ids: list[int]
    domain: int
    train: bool
    drawn: dict[str, np.ndarray]

    @property
    def tokens(self) -> list[int]:
        return [t for t, live in enumerate(self.live) if live]


@dataclasses.dataclass
class Decision:
    """Triples (token, expert, weight) in order of precedence, the loss of the row, and probabilities (T, E)."""

    assigned: list[tuple[int, int, torch.Tensor]]
    loss: torch.Tensor
    probabilities: torch.Tensor


def load(decision: Decision, experts: int) -> list[int]:
    return [sum(e == expert for _, e, _ in decision.assigned) for expert in range(experts)]


def _scores(router, p, row: Row) -> torch.Tensor:
    return row.x @ p["kernel"] + p.get("bias_E", 0)


def _z_loss(router, scores, row: Row) -> torch.Tensor:
    """c_z times the mean of the squared log of sum_e exp(score_e) (arXiv:2202.08906, eq. 5)."""
    return router["z"] * sum(torch.log(torch.exp(scores[t]).sum()) ** 2 for t in row.tokens) / len(row.tokens)


def _balance_loss(router, counts: list[int], probabilities, row: Row) -> torch.Tensor:
    """alpha E sum_e f_e P_e (arXiv:2101.03961, eqs. 4 to 6)."""
    mean = sum(probabilities[t] for t in row.tokens) / len(row.tokens)
    return router["balance"] * len(counts) * sum(count / sum(counts) * p for count, p in zip(counts, mean, strict=True))


def _best(values, count: int) -> list[int]:
    return sorted(range(len(values)), key=lambda e: -float(values[e]))[:count]


def _by_affinity(affinity):
    """Of the best experts of a token's best groups (arXiv:2412.19437, section 2.1.2)."""

    def decide(router, p, row: Row) -> Decision:
        scores = _scores(router, p, row)
        experts, size = router["experts"], router["experts"] // router["groups"]
        bias = p.get("selection_bias", torch.zeros(experts))
        affinities, assigned = affinity(scores), []
        for t in row.tokens:
            biased = affinities[t] + bias
            groups = [list(range(g * size, (g + 1) * size)) for g in range(router["groups"])]
            judged = [sum(sorted((float(biased[e]) for e in group), reverse=True)[: router["group_best"]]) for group in groups]
            allowed = [e for g in _best(judged, router["group_limit"]) for e in groups[g]] if len(groups) > 1 else range(experts)
            chosen = sorted(allowed, key=lambda e: -float(biased[e]))[: router["top_k"]]
            total = sum(affinities[t, e] for e in chosen) if router["renormalize"] else 1.0
            assigned += [(t, e, router["scale"] * affinities[t, e] / total) for e in chosen]
        probabilities = affinities / affinities.sum(-1, keepdim=True)
        decision = Decision(assigned, _z_loss(router, scores, row), probabilities)
        decision.loss = decision.loss + _balance_loss(router, load(decision, experts), probabilities, row)
        return decision

    return decide


def _noisy(router, p, row: Row) -> Decision:
    """arXiv:1701.06538, eqs. 3 to 11."""
    clean, size = _scores(router, p, row), torch.log1p(torch.exp(row.x @ p["noise"]))
    noisy = clean + size * torch.tensor(row.drawn["normal"]) if row.train else clean
    experts, k = router["experts"], router["top_k"]
    gates, expected = torch.zeros(len(row.live), experts), torch.zeros(experts)
    assigned = []
    for t in row.tokens:
        chosen = _best(noisy[t], k)
        kept = torch.full((experts,), -math.inf).scatter(0, torch.tensor(chosen), noisy[t, chosen])
        gates = gates.index_add(0, torch.tensor([t]), torch.softmax(kept, 0)[None])
        assigned += [(t, e, gates[t, e]) for e in chosen]
        for e in range(experts) if row.train else ():
            others = sorted((noisy[t, i] for i in range(experts) if i != e), key=lambda score: -float(score))
            chance = torch.distributions.Normal(0.0, 1.0).cdf((clean[t, e] - others[k - 1]) / size[t, e])
            expected = expected + chance * torch.eye(experts)[e]
    decision = Decision(assigned, torch.tensor(0.0), torch.softmax(noisy, -1))
    counts = load(decision, experts)
    squared_variation = lambda a: a.var(correction=0) / a.mean() ** 2  # noqa: E731
    decision.loss = (
        router["importance"] * squared_variation(gates.sum(0))
        + router["load"] * squared_variation(expected if row.train else torch.tensor(counts, dtype=torch.float32))
        + _balance_loss(router, counts, decision.probabilities, row)
        + _z_loss(router, clean, row)
    )
    return decision


def _top2(router, p, row: Row) -> Decision:
    """arXiv:2006.16668, Algorithm 1; its loss times E^2."""
    scores, experts = _scores(router, p, row), router["experts"]
    gates = torch.softmax(scores, -1)
    first, second, counts = [], [], [0] * experts
    for t in row.tokens:
        (e1, e2), g = _best(gates[t], 2), gates[t]
        first.append((t, e1, g[e1] / (g[e1] + g[e2])))
        counts[e1] += 1
        g2 = g[e2] / (g[e1] + g[e2])
        if not row.train or 2 * float(g2) > row.drawn["uniform"][t]:
            second.append((t, e2, g2))
    mean = sum(gates[t] for t in row.tokens) / len(row.tokens)
    auxiliary = sum(c / len(row.tokens) * m for c, m in zip(counts, mean, strict=True)) / experts
    return Decision(first + second, router["balance"] * experts**2 * auxiliary + _z_loss(router, scores, row), gates)


def _expert_choice(router, p, row: Row) -> Decision:
    """G, I = TopK(softmax(X W)^T, k) with k = n c / e (arXiv:2202.09368, eqs. 1 and 2)."""
    scores, experts = _scores(router, p, row), router["experts"]
    probabilities, assigned = torch.softmax(scores, -1), []
    taken = math.ceil(len(row.tokens) * router["top_k"] / experts)
    for e in range(experts):
        by_wish = sorted(row.tokens, key=lambda t: -float(probabilities[t, e]))
        assigned += [(t, e, probabilities[t, e]) for t in by_wish[:taken]]
    return Decision(assigned, _z_loss(router, scores, row), probabilities)


def _base(router, p, row: Row) -> Decision:
    """arXiv:2103.16716, eqs. 1 to 4: maximal sum of scores with even loads while training, else the highest score."""
    scores, experts = _scores(router, p, row), router["experts"]
    if row.train:
        places = np.repeat(np.arange(experts), math.ceil(len(row.tokens) / experts))
        _, columns = linear_sum_assignment(-scores[row.tokens].detach().numpy()[:, places])
        chosen = places[columns]
    else:
        chosen = scores[row.tokens].argmax(-1).numpy()
    assigned = [(t, int(e), torch.sigmoid(scores[t, int(e)])) for t, e in zip(row.tokens, chosen, strict=True)]
    return Decision(assigned, _z_loss(router, scores, row), torch.softmax(scores, -1))


def _s_base(router, p, row: Row) -> Decision:
    """arXiv:2202.01169: of exp(scores), columns and rows normalised in turn, the largest of each row; else the highest score."""
    scores = _scores(router, p, row)
    live = scores[row.tokens].detach().double()
    plan = torch.exp(live)
    for _ in range(3000 if row.train else 0):
        plan = plan / plan.sum(0) * len(plan) / plan.shape[1]
        plan = plan / plan.sum(1, keepdim=True)
    assigned = [(t, int(e), torch.sigmoid(scores[t, int(e)])) for t, e in zip(row.tokens, plan.argmax(-1), strict=True)]
    return Decision(assigned, _z_loss(router, scores, row), torch.softmax(scores, -1))


def _hash(router, p, row: Row) -> Decision:
    """A table drawn with a seed (arXiv:2106.04426, section 3.2), here by the finaliser of MurmurHash3."""

    def mixed(a: int) -> int:
        a = (a ^ (a >> 16)) * 0x85EBCA6B % 2**32
        a = (a ^ (a >> 13)) * 0xC2B2AE35 % 2**32
        return a ^ (a >> 16)

    chosen = [mixed(mixed(token) ^ router["seed"]) % router["experts"] for token in row.ids]
    assigned = [(t, chosen[t], torch.tensor(1.0)) for t in row.tokens]
    return Decision(assigned, torch.tensor(0.0), torch.eye(router["experts"])[chosen])


def _domain(router, p, row: Row) -> Decision:
    """arXiv:2108.05036, section 3: the expert of the label."""
    assigned = [(t, row.domain, torch.tensor(1.0)) for t in row.tokens]
    return Decision(assigned, torch.tensor(0.0), torch.eye(router["experts"])[[row.domain] * len(row.live)])


ROUTERS = {
    "softmax": _by_affinity(lambda scores: torch.softmax(scores, -1)),
    "sigmoid": _by_affinity(torch.sigmoid),
    "noisy_top_k": _noisy,
    "top2": _top2,
    "expert_choice": _expert_choice,
    "base": _base,
    "s_base": _s_base,
    "hash": _hash,
    "domain": _domain,
}


def swiglu(p, x: torch.Tensor, expert=...) -> torch.Tensor:
    """A feed-forward with biases, or one of many."""
    of = {name: array[expert] for name, array in p.items()}
    hidden = torch.nn.functional.silu(x @ of["gate"] + of["gate_bias"]) * (x @ of["up"] + of["up_bias"])
    return hidden @ of["down"] + of["down_bias"]


@dataclasses.dataclass
class Output:
    """What a layer makes of a row, and which of its assignments, by their places in order, were dropped."""

    y: torch.Tensor
    decision: Decision
    dropped: list[int]


def layer(moe, p, row: Row, slots: int | None) -> Output:
    """y_t = sum of weight times E_e(x_t), or of E_e(weight times x_t), over what an expert has slots for; plus shared(x_t)."""
    decision = ROUTERS[moe["router"].name](moe["router"], p.get("router", {}), row)
    y = [swiglu(p["shared"], x) if moe["shared"] else torch.zeros_like(x) for x in row.x]
    taken, dropped = [0] * moe["experts"], []
    for place, (t, e, weight) in enumerate(decision.assigned):
        if slots is not None and taken[e] == slots:
            dropped.append(place)
            continue
        taken[e] += 1
        given = swiglu(p["experts"], row.x[t] * (weight if moe["weigh"] == "input" else 1), e)
        y[t] = y[t] + (given if moe["weigh"] == "input" else weight * given)
    return Output(torch.stack(y), decision, dropped)
