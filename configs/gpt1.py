"""GPT: the first decoder pre-trained on text and then tuned to tasks; the Transformer's norms, learned positions, books."""

from taxonomy.config import TINY_TRAINING, experiment

SIZES = {  # layers, d_model, heads, dropout
    "117m": (12, 768, 12, 0.1),
    "tiny": (2, 64, 4, 0.0),
}


def get_config(size="117m"):
    layers, d_model, heads, dropout = SIZES[size]
    tiny = size == "tiny"
    return experiment(
        model=dict(
            vocab=512 if tiny else 40478,
            d_model=d_model,
            context=64 if tiny else 512,
            norm="layernorm(eps=1e-5)",
            position="learned",
            embedding=f"table(dropout={dropout})",
            attention=f"mha(heads={heads}, bias=True, dropout={dropout})",
            mlp="gelu_tanh(d_ff=4*d_model, bias=True)",
            blocks=dict(block=f"post(attention, mlp, dropout={dropout})"),
            decoder=f"{layers}*block",
            head="tied",
            initializer="normal(std=0.02)",
        ),
        # 100 epochs of about a billion tokens of books.
        train=TINY_TRAINING
        if tiny
        else dict(
            tokens=100e9,
            batch_tokens=64 * 512,
            optimizer="adamw(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01)",
            schedule="cosine(peak=2.5e-4, warmup='2000 steps')",
        ),
        about=dict(
            paper="Radford et al. 2018, Improving Language Understanding by Generative Pre-Training",
            facts="gpt-1" if not tiny else "gpt-1-tiny",
            published=None if tiny else 117e6,
            sources=("openai/finetune-transformer-lm train.py", "the paper, section 4.1"),
            unsure=("training.tokens", "training.clip"),
            notes="Fine-tuning added the language-modelling loss times 0.5 to the task's, at a peak rate of 6.25e-5.",
            verified_against="transformers.OpenAIGPTLMHeadModel",
        ),
    )
