"""GPT-J: attention and feed-forward share one norm; rotary pairs are neighbours; the head has a bias."""

from taxonomy.interop import gpt2, tensors
from taxonomy.interop.decoders import dropout
from taxonomy.interop.family import Family, Fields, first_layer, say


def section(fields: Fields) -> dict:
    sizes = gpt2.sizes(fields, 50400, 4096, 2048, 0.0)
    return dict(
        **sizes,
        position=say("rope", dims=fields.read("rotary_dim", int), interleaved=True),
        attention=say("mha", heads=fields.read("n_head", int, 16), dropout=dropout(fields, "attn_pdrop")),
        mlp=gpt2.mlp(fields, sizes["d_model"]),
        blocks=dict(block=say("parallel(attention, mlp)", dropout=dropout(fields, "resid_pdrop"))),
        decoder=f"{fields.read('n_layer', int, 28)}*block",
        head=say("tied" if fields.read("tie_word_embeddings", bool, False) else "untied", bias=True),
        initializer=say("normal", std=fields.read("initializer_range", float, 0.02)),
    )


def hf_config(model) -> dict:
    _, attention, mlp = first_layer(model)
    rotary_dim = attention["position"].get("dims") or attention["head_dim"]
    return dict(**gpt2.sizes_fields(model), **gpt2.mlp_fields(mlp), rotary_dim=rotary_dim)


HIDDEN = gpt2.HIDDEN
FAMILY = Family(
    model_type="gptj",
    architecture="GPTJForCausalLM",
    prefix="transformer.",
    section=section,
    hf_config=hf_config,
    rows=(
        *tensors.ends("transformer.wte", "transformer.ln_f"),
        *tensors.shared_norm(f"{HIDDEN}.ln_1"),
        *tensors.heads(f"{HIDDEN}.attn"),
        *tensors.out(f"{HIDDEN}.attn.out_proj"),
        *tensors.mlp(f"{HIDDEN}.mlp", up="fc_in", down="fc_out"),
    ),
    buffers=(*gpt2.BUFFERS, f"{HIDDEN}.attn.embed_positions"),
    tied=gpt2.TIED,
    inert=gpt2.SUMMARY,
    # Fields of the released checkpoint that its code has since dropped.
    fixed={"rotary": True, "scale_attn_weights": True},
)
