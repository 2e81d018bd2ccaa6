"""The isoFLOP curves of the Chinchilla paper over its own ladder of models, for pods; nine budgets and a prediction beyond.

MassiveText is not public, so C4 stands in. As in approach 2 the learning rate decays over each run to a tenth.
"""

from taxonomy.scaling.study import Study

# Of Table A9, whose neighbours differ by as little as 1%.
SIZES = (
    "44m",
    "74m",
    "106m",
    "163m",
    "251m",
    "425m",
    "587m",
    "816m",
    "1143m",
    "1609m",
    "2298m",
    "3530m",
    "4516m",
    "6796m",
    "9293m",
)
STUDY = Study(
    base="chinchilla:sweep-{size}",
    settings={
        "data.source": "tfds('c4/en')",
        # Published are 2e-4 for the smallest and 1.25e-4 for the largest model.
        "train.schedule": "cosine(peak={2e-4*(params/44e6)**-0.08:.3g}, warmup='2%', final=0.1)",
        "evaluation.every": "100%",
        "evaluation.max_tokens": 4e6,
        "checkpoint.every": "1000 steps",
        "checkpoint.keep": 1,
        "mesh": "fsdp:-1",
    },
    ladder=tuple(dict(size=size) for size in SIZES),
    budgets=(6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21),
    sizes=7,
    holdout=(3e22,),
    count="total",
    flops="appendix_f",
    least_steps=1000,
    # Four passes are nearly worth new text (Muennighoff et al. 2023, arXiv:2305.16264).
    most_epochs=4.0,
    # Dodge et al. 2021, arXiv:2104.08758: 156 billion tokens of English.
    corpus_tokens=1.56e11,
)
