"""Three isoFLOP curves in some three minutes: do minima lie inside, and does the best size grow with the budget?"""

from taxonomy.scaling import study

STUDY = study.load("isoflop_stdlib").but(
    settings={"evaluation.max_tokens": 32768, "checkpoint.every": "100%"},
    budgets=(1.5e11, 2.7e11, 4.8e11),
    sizes=4,
    # A little lower than where the best size is, so that what is held out has the depth of all others.
    centre="22e3*(flops/1.5e11)**0.65",
    holdout=(1.5e12,),
    holdout_sizes=1,
    least_steps=400,
)
