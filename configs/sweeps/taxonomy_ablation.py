"""One idea at a time: how positions are told, at equal FLOPs over four sizes with two seeds, everything else as it is."""

from taxonomy.scaling import study

STUDY = study.load("isoflop_stdlib").but(
    axes={"model.position": ("rope", "alibi", "t5_bias")},
    ladder=(dict(width=16, depth=2), dict(width=24, depth=2), dict(width=32, depth=2), dict(width=48, depth=2)),
    # C = 6 N D with 60 tokens a parameter, of the first idea.
    compute="6*params*60*params",
    budgets=(),
    holdout=(),
    seeds=(0, 1),
)
