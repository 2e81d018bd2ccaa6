"""GPT-Neo: layers that see everything and layers with a window in turn; scores are not scaled; only the output has a bias."""

from taxonomy.errors import UserError
from taxonomy.interop import decoders, gpt2, tensors
from taxonomy.interop.decoders import Heads, dropout
from taxonomy.interop.family import PLAIN, Family, Fields, all_layers, need, say, word

_KINDS = {"global": "full", "local": "local"}


def _kinds(fields: Fields, layers: int) -> list[str]:
    """The list of layers, from its shorthand: names and how often they come."""
    types = fields.read("attention_types", list, [[["global", "local"], 12]])
    try:
        kinds = [_KINDS[name] for names, count in types for name in names * count]
    except (KeyError, TypeError, ValueError):
        kinds = []
    if len(kinds) != layers:
        raise UserError(
            f"{fields.source}: attention_types: cannot be {types!r} (allowed: names among {', '.join(_KINDS)} and how often they "
            f"come, for num_layers={layers})"
        )
    if decoders.listed(fields, "attention_layers", _KINDS, kinds) != kinds:
        raise UserError(f"{fields.source}: attention_layers: differs from attention_types")
    return kinds


def section(fields: Fields) -> dict:
    sizes = decoders.sizes(fields, 50257, 2048, 2048)
    d_model, count = sizes["d_model"], fields.read("num_heads", int, 16)
    local = say("local", window=fields.read("window_size", int, 256))
    return dict(
        **sizes,
        norm=say("layernorm", eps=fields.read("layer_norm_epsilon", float, 1e-5)),
        position="learned",
        embedding=say("table", dropout=dropout(fields, "embed_dropout")),
        mlp=say(
            fields.read("activation_function", PLAIN, "gelu_tanh"),
            d_ff=fields.read("intermediate_size", int, 4 * d_model),
            bias=True,
        ),
        **decoders.layers(
            _kinds(fields, fields.read("num_layers", int, 24)),
            Heads(count, count, d_model // count, d_model),
            {"full": {}, "local": {"mask": local}},
            say("pre({}, mlp)", dropout=dropout(fields, "resid_dropout")),
            out_bias=True,
            scale=1.0,
            dropout=dropout(fields, "attention_dropout"),
        ),
        **decoders.ends(fields, tied=True),
    )


def hf_config(model) -> dict:
    layers = all_layers(model)
    block, attention, mlp = layers[0]
    values = decoders.common_fields(model)
    count = values.pop("num_hidden_layers")
    windows = [attention["mask"].get("window") for _, attention, _ in layers]
    return dict(
        **values,
        num_layers=count,
        num_heads=need(attention, "heads"),
        intermediate_size=need(mlp, "d_ff"),
        activation_function=word(PLAIN, mlp.name),
        attention_types=[[["global" if window is None else "local" for window in windows], 1]],
        window_size=next((window for window in windows if window is not None), 256),
        layer_norm_epsilon=need(block["norm"], "eps"),
        embed_dropout=model.embedding.get("dropout"),
        attention_dropout=attention["dropout"],
        resid_dropout=block["dropout"],
    )


HIDDEN = gpt2.HIDDEN
FAMILY = Family(
    model_type="gpt_neo",
    architecture="GPTNeoForCausalLM",
    prefix="transformer.",
    section=section,
    hf_config=hf_config,
    rows=(
        *gpt2.ENDS,
        *tensors.pre_norms(HIDDEN, "ln_1", "ln_2"),
        *tensors.heads(f"{HIDDEN}.attn.attention"),
        *tensors.out(f"{HIDDEN}.attn.attention.out_proj"),
        *tensors.mlp(f"{HIDDEN}.mlp", up="c_fc", down="c_proj"),
    ),
    buffers=(f"{HIDDEN}.attn.attention.bias", f"{HIDDEN}.attn.attention.masked_bias"),
    tied=gpt2.TIED,
    inert=("classifier_dropout", *gpt2.SUMMARY),
)
