"""Quickstart: a LLaMA-style decoder of three million parameters on the Python standard library, minutes on two cores."""

from taxonomy.config import experiment


def get_config():
    return experiment(
        model=dict(
            vocab=4096,
            d_model=192,
            context=256,
            norm="rmsnorm(eps=1e-5)",
            position="rope",
            attention="gqa(heads=6, kv_heads=2)",
            mlp="swiglu(d_ff=512)",
            blocks=dict(block="pre(attention, mlp)"),
            decoder="5*block",
            head="tied",
            initializer="normal(std=0.02, residual_std=0.02*(2*layers)**-0.5)",
        ),
        train=dict(
            steps=480,
            log_every=5,
            batch_tokens=2048,
            optimizer="adamw(b1=0.9, b2=0.95, weight_decay=0.1)",
            schedule="wsd(peak=4e-3, warmup='40 steps', decay='40%', final=0.05)",
            dtype="float32",
            scan=False,
        ),
        evaluation=dict(every="10%", max_tokens=16384),
        report=dict(prompts=("def read_", "class ", '"""Return '), new_tokens=96, compressors=True),
        about=dict(notes="What to try next: --config.model.position=alibi, or any other idea of `describe --list`."),
    )
