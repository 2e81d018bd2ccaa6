"""The best learning rate at widths 64 to 512, without a parametrization and by muP: it falls as the width grows, or it stays."""

from taxonomy.scaling import study

STUDY = study.load("isoflop_stdlib").but(
    settings={"train.schedule": "cosine(peak={rate:.4g}, warmup='5%', final=0.1)"},
    axes={
        "model.parametrization": (None, "mup(d_model=64, head_dim=16)"),
        "rate": (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016),
    },
    # Heads are widened, so that scores of attention go with 1/d by muP, too.
    ladder=tuple(dict(width=width, depth=2, heads=4) for width in (64, 128, 256, 512)),
    # 200 steps at every width: a rate is compared with others of the same width alone.
    tokens="200*512",
    budgets=(),
    sizes=None,
    centre=None,
    holdout=(),
    least_steps=200,
)
