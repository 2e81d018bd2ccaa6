"""DeepSeek-V2: latent attention, and after a dense first layer 160 narrow experts beside two that all tokens share."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, query_rank, d_ff, experts, top_k, d_ff_expert, vocab, context
    "236b": (60, 5120, 128, 1536, 12288, 160, 6, 1536, 102400, 131072),
    "lite-16b": (27, 2048, 16, None, 10944, 64, 6, 1408, 102400, 32768),
    "tiny": (3, 64, 4, 24, 160, 8, 3, 48, 512, 64),
}
ROUTERS = {
    "236b": "softmax(scale=16, groups=8, group_limit=3, balance=0.003)",
    "lite-16b": "softmax(balance=0.001)",
    "tiny": "softmax(scale=2, groups=4, group_limit=2, balance=0.003)",
}
RECIPES = {  # tokens, sequences, ramp, peak, when the rate falls
    "236b": (8.1e12, 9216, "linear(start=2304*4096, over='225e9 tokens')", 2.4e-4, ("60%", "90%")),
    "lite-16b": (5.7e12, 4608, None, 4.2e-4, ("80%", "90%")),
}
WIDTHS = ("head_dim=128, rotary_dim=64, kv_rank=512", "factor=40, original_context=4096")
TINY_WIDTHS = ("head_dim=12, rotary_dim=8, kv_rank=32", "factor=4, original_context=16")


def recipe(tokens, sequences, ramp, peak, falls):
    return dict(
        tokens=tokens,
        context=4096,
        batch_tokens=sequences * 4096,
        batch_ramp=ramp,
        optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
        schedule=f"stages(peak={peak}, warmup='2000 steps', later='0.316 at {falls[0]}, 0.1 at {falls[1]}')",
    )


def get_config(size="236b"):
    layers, d_model, heads, query_rank, d_ff, experts, top_k, d_ff_expert, vocab, context = SIZES[size]
    tiny = size == "tiny"
    widths, stretch = TINY_WIDTHS if tiny else WIDTHS
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-6)",
            position=f"rope(interleaved=True, scaling=yarn({stretch}, magnitude=1, sharpening=0.707))",
            attention=f"latent(heads={heads}, {widths}, query_rank={query_rank})",
            mlp=f"swiglu(d_ff={d_ff})",
            moe=f"moe(experts={experts}, top_k={top_k}, router={ROUTERS[size]}, "
            f"expert=swiglu(d_ff={d_ff_expert}), shared=swiglu(d_ff={2 * d_ff_expert}))",
            blocks=dict(dense="pre(attention, mlp)", sparse="pre(attention, moe)"),
            decoder=f"dense + {layers - 1}*sparse",
            head="untied",
            initializer="normal(std=0.006)",
        ),
        train=TINY_TRAINING if tiny else recipe(*RECIPES[size]),
        about=dict(
            paper="DeepSeek-AI 2024, arXiv:2405.04434",
            facts=f"deepseek-v2-{size}",
            published={"236b": 236e9, "lite-16b": 15.7e9}.get(size),
            sources=("arXiv:2405.04434, sections 2 and 3.1 and appendix B", "deepseek-ai/DeepSeek-V3, inference/configs"),
            notes="The model after its extension to long contexts; until then it was trained without yarn. The losses that balance "
            "devices and their communication, and the dropping of tokens where a device is full, are left out. "
            "The 2.4B active parameters of lite are those without the token table.",
            verified_against="transformers.DeepseekV2ForCausalLM",
        ),
    )
