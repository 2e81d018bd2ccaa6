"""Mixture-of-Depths: a decoder of which every second block is passed by seven of eight tokens."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, share of the tokens, hidden layer of the predictor, vocab, context
    "220m": (14, 1024, 16, 0.125, 256, 32768, 2048),
    "tiny": (4, 64, 4, 0.5, 16, 512, 64),
}


def get_config(size="220m"):
    layers, d_model, heads, capacity, d_predictor, vocab, context = SIZES[size]
    return experiment(
        model=dict(
            vocab=vocab,
            d_model=d_model,
            context=context,
            norm="rmsnorm(eps=1e-6)",
            position="rope",
            attention=f"mha(heads={heads})",
            mlp="gelu(d_ff=4*d_model)",
            blocks=dict(
                full="pre(attention, mlp)",
                routed=f"depths(pre(attention, mlp), capacity={capacity}, d_predictor={d_predictor})",
            ),
            decoder=f"{layers // 2}*(full + routed)",
            head="tied",
            initializer="normal(std=0.02)",
        ),
        # The paper compares models by their training FLOPs; these tokens are about the 6e18 of the smallest budget.
        train=TINY_TRAINING
        if size == "tiny"
        else dict(
            tokens=6.7e9,
            batch_tokens=262_144,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="cosine(peak=1e-3, warmup='1%', final=0.1)",
        ),
        about=dict(
            paper="Raposo et al. 2024, arXiv:2404.02258",
            facts="mixture-of-depths" if size != "tiny" else "",
            sources=("arXiv:2404.02258, sections 3 and 4",),
            unsure=("all numbers but the share of the tokens and every second block", "position", "norm", "mlp", "training"),
            notes="The paper trains models of 60M to 3B at equal FLOPs and publishes no table of them; this one stands in.",
        ),
    )
