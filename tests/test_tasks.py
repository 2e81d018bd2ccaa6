"""The pages of configs/tasks: they load by name, read whole, and their texts name fields that the datasets have."""

import importlib
import pathlib
import string

import pytest

from taxonomy import config as config_lib
from taxonomy import registry
from taxonomy.training.plan import make_plan

FOLDER = pathlib.Path(__file__).parent.parent / "configs" / "tasks"
TASKS = [
    f"tasks/{page.stem}:{size}"
    for page in sorted(FOLDER.glob("[!_]*.py"))
    for size in config_lib.sizes(f"tasks/{page.stem}")
    if size.endswith("tiny")
]
# Their builders need TensorFlow until the dataset is prepared.
UNREADABLE = {"super_glue/boolq", "super_glue/cb", "super_glue/copa", "super_glue/rte", "super_glue/wic"}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_a_plan(name):
    config = config_lib.load_config(name)
    plan = make_plan(config, 1)
    assert config_lib.to_json(config_lib.from_json(config_lib.to_json(config))) == config_lib.to_json(config)
    assert plan.model == make_plan(config_lib.load_config("t5:tiny"), 1).model and plan.lengths.inputs
    assert config.evaluation.metrics and plan.tokens_before(1) == config.train.batch_tokens
    source = registry.create("source", config.data.source, "config.data.source")
    if not hasattr(source, "dataset") or source.dataset in UNREADABLE:
        return
    import tensorflow_datasets as tfds

    for package in ("text", "translate", "summarization"):  # in the older layout
        importlib.import_module(f"tensorflow_datasets.{package}")
    features = tfds.builder(source.dataset).info.features
    for text in (source.input, source.target):
        fields = [field for _, field, _, _ in string.Formatter().parse(text) if field]
        assert fields and set(fields) <= set(features)


def test_a_task_is_found_by_name_and_by_file():
    by_name, by_file = (config_lib.load_config(name) for name in ("tasks/glue:mnli", str(FOLDER / "glue.py") + ":mnli"))
    assert config_lib.to_json(by_name) == config_lib.to_json(by_file)
    assert by_name.name == "glue:mnli" and by_name.model.d_model == 768
    assert config_lib.load_config("tasks/glue:mnli-small").model.d_model == 512
    assert not {"glue", "tasks"} & set(config_lib.families())
