"""Flax modules, one idea a file.

Arrays carry their shape in their name, one letter a dimension:

    B batch        T time (queries)     S time (keys)       D d_model        F d_ff
    H heads        G key-value heads    R heads per G       K head_dim       V vocabulary
    N any number of tokens    E experts            A assignments to experts        C choices of a token, or an expert's slots
    L features of a latent

`x_BTD` is the residual stream. Its dtype is the compute dtype: parameters are float32 and cast where they are used.
"""
