"""The best learning rate at widths 64 to 512, without a parametrization and by muP: it falls as the width grows, or it stays."""

from taxonomy.scaling import study

STUDY = study.load("isoflop_stdlib").but(
    settings={"model.attention": "mha(heads={width/16})", "train.schedule": "cosine(peak={rate:.4g}, warmup='5%', final=0.1)"},
    axes={
        "model.parametrization": (None, "mup(d_model=64)"),
        "rate": (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016),
    },
    ladder=(dict(width=64, depth=2), dict(width=128, depth=2), dict(width=256, depth=2), dict(width=512, depth=2)),
    # 200 steps at every width: a rate is compared with others of the same width alone.
    tokens="200*512",
    budgets=(),
    sizes=None,
    centre=None,
    holdout=(),
    least_steps=200,
)
