"""Rows that tables share: norms, linear layers, heads of queries, keys and values, and both ends of a model.

Their weights are [outputs, inputs] unless said otherwise. A bias has a row beside its weight, which applies where there is one.
"""

import dataclasses

from taxonomy.interop.rows import Row

Rows = tuple[Row, ...]
LAYER = "decoder/{layer}"
ATTENTION = f"{LAYER}/attention"
_PARTS = ("query", "key", "value")
GATED = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
_FUSED = tuple(f"{ATTENTION}/{part}" for part in _PARTS)


def norm(theirs: str, ours: str, when=None) -> Rows:
    """A norm."""
    return Row(f"{theirs}.weight", f"{ours}/scale", when=when), Row(f"{theirs}.bias", f"{ours}/bias", when=when)


def linear(theirs: str, ours: str, pattern: str = "o i -> i o") -> Rows:
    """A linear layer of ours from and to one axis."""
    return Row(f"{theirs}.weight", ours, pattern), Row(f"{theirs}.bias", f"{ours}_bias")


def heads(theirs: str, query: str = "q_proj", key: str = "k_proj", value: str = "v_proj", kind: str = "") -> Rows:
    """Queries, keys and values apart; `kind` is what ours are called besides."""
    rows = ()
    for name, part in zip((query, key, value), _PARTS, strict=True):
        ours = f"{ATTENTION}/{kind}{part}"
        rows += (Row(f"{theirs}.{name}.weight", ours, "(h k) d -> d h k"),)
        rows += (Row(f"{theirs}.{name}.bias", f"{ours}_bias", "(h k) -> h k"),)
    return rows


def fused_heads(theirs: str, pattern: str = "(h +n k) d -> d h k", when=None) -> Rows:
    """Queries, keys and values in one tensor; the pattern of the bias is that of the weight without d."""
    without = " ".join(pattern.replace(" d ->", " ->").replace("-> d ", "-> ").removeprefix("d ").split())
    biases = tuple(f"{ours}_bias" for ours in _FUSED)
    return Row(f"{theirs}.weight", _FUSED, pattern, when), Row(f"{theirs}.bias", biases, without, when)


def out(theirs: str, pattern: str = "d (h k) -> h k d") -> Rows:
    """The projection from the heads."""
    return Row(f"{theirs}.weight", f"{ATTENTION}/out", pattern), Row(f"{theirs}.bias", f"{ATTENTION}/bias_D")


def qk_norm(theirs: str, query: str = "q_norm", key: str = "k_norm") -> Rows:
    """The norms of queries and keys."""
    return norm(f"{theirs}.{query}", f"{ATTENTION}/query_norm") + norm(f"{theirs}.{key}", f"{ATTENTION}/key_norm")


def mlp(theirs: str, pattern: str = "o i -> i o", inside: str = "", **names: str) -> Rows:
    """A feed-forward, or one `inside` it: `up`, `down` and maybe `gate` are their names of ours."""
    rows = ()
    for ours, name in names.items():
        rows += linear(f"{theirs}.{name}", f"{LAYER}/mlp/{inside}{ours}", pattern)
    return rows


def gated_mlp(theirs: str, inside: str = "") -> Rows:
    """The usual names of a gated feed-forward."""
    return mlp(theirs, inside=inside, **GATED)


def experts(theirs: str, router: str = "gate", **names: str) -> Rows:
    """A router and experts, one tensor for each of them: `up`, `down` and maybe `gate` are their names of ours."""
    ours = f"{LAYER}/mlp"
    rows = (Row(f"{theirs}.{router}.weight", f"{ours}/router/kernel", "e d -> d e"),)
    for part, name in names.items():
        rows += (Row(f"{theirs}.experts.{{e}}.{name}.weight", f"{ours}/experts/{part}", "e o i -> e i o"),)
    return rows


def in_encoder(rows: Rows) -> Rows:
    """Rows of a decoder's layers for those of an encoder."""
    return _elsewhere(rows, "decoder", "encoder")


def across(rows: Rows) -> Rows:
    """Rows of attention and its norm for the attention to an encoder and its norm."""
    return _elsewhere(rows, ATTENTION, f"{LAYER}/cross_attention")


def _elsewhere(rows: Rows, before: str, after: str) -> Rows:
    def moved(row: Row) -> Row:
        paths = tuple(after + path.removeprefix(before) for path in row.paths)
        return dataclasses.replace(row, ours=paths if len(paths) > 1 else paths[0])

    return tuple(moved(row) for row in rows)


def ends(embedding: str, final_norm: str, head: str = "lm_head") -> Rows:
    """The table, the last norm and the head."""
    return (
        Row(f"{embedding}.weight", "embedding/table"),
        *norm(final_norm, "final_norm"),
        Row(f"{head}.weight", "head/kernel"),
        Row(f"{head}.bias", "head/bias_V"),
    )


def pre_norms(theirs: str, first: str = "input_layernorm", second: str = "post_attention_layernorm", when=None) -> Rows:
    """The norms before (or in a post-norm block after) attention and feed-forward."""
    return (
        *norm(f"{theirs}.{first}", f"{LAYER}/attention_norm", when),
        *norm(f"{theirs}.{second}", f"{LAYER}/mlp_norm", when),
    )


def shared_norm(theirs: str) -> Rows:
    """The one norm of a parallel block."""
    return norm(theirs, f"{LAYER}/norm_1")


# What most decoders with rotary positions call their tensors, and the buffers of those positions in old checkpoints.
MODEL_LAYER = "model.layers.{layer}"
SELF_ATTENTION = f"{MODEL_LAYER}.self_attn"
MODEL_ENDS = ends("model.embed_tokens", "model.norm")
MODEL_TIED = {"lm_head.weight": "model.embed_tokens.weight"}
ROPE_BUFFERS = (f"{SELF_ATTENTION}.rotary_emb.inv_freq", "model.rotary_emb.inv_freq")
GATED_LAYERS = (
    *MODEL_ENDS,
    *pre_norms(MODEL_LAYER),
    *heads(SELF_ATTENTION),
    *out(f"{SELF_ATTENTION}.o_proj"),
    *gated_mlp(f"{MODEL_LAYER}.mlp"),
)
GATED_DECODER = (*GATED_LAYERS, *qk_norm(SELF_ATTENTION))
