"""One idea at a time: how positions are told, at equal FLOPs over four sizes with two seeds, everything else as it is."""

from taxonomy.scaling import study

STUDY = study.load("isoflop_stdlib").but(
    axes={"model.position": ("rope", "alibi", "t5_bias")},
    ladder=tuple(dict(width=width, depth=2, heads=heads) for width, heads in ((16, 1), (24, 1), (32, 2), (48, 2))),
    # C = 6 N D with 60 tokens a parameter, of the first idea.
    compute="6*params*60*params",
    budgets=(),
    holdout=(),
    seeds=(0, 1),
)
