"""The parameters that a token's path goes through: as published, and as the shapes of all parameters have them."""

import functools
import math

import pytest

from taxonomy import config as config_lib
from taxonomy import spec
from taxonomy.scaling import accounting

TABLE = "published without the table of the input's tokens"
# Counted from the published tables, not by this code; what the authors say; and why that is not the first one rounded.
ACTIVE = {
    "deepseek_r1:671b": (37_552_282_624, 37e9, TABLE),
    "deepseek_v2:236b": (21_375_800_320, 21e9, ""),
    "deepseek_v2:lite-16b": (2_661_150_208, 2.4e9, "2.45B without the table of the input's tokens, cut and not rounded"),
    "deepseek_v3:3.1-671b": (37_552_282_624, 37e9, TABLE),
    "deepseek_v3:671b": (37_552_282_624, 37e9, TABLE),
    "glam:0.1b-64e": (152_296_704, 145e6, "the label is 5% below what the table gives, as that of the dense size beside it is"),
    "glam:1.7b-128e": (1_880_733_696, 1.881e9, ""),
    "glam:1.7b-256e": (1_883_879_424, 1.886e9, "0.1% above what the table gives, which the sizes with fewer experts meet"),
    "glam:1.7b-32e": (1_878_374_400, 1.878e9, ""),
    "glam:1.7b-64e": (1_879_160_832, 1.879e9, ""),
    "glam:64b-64e": (96_604_528_640, 96.6e9, ""),
    "glam:8b-64e": (9_799_241_728, 9.8e9, ""),
    "gpt_oss:120b": (5_711_982_912, 5.13e9, TABLE),
    "gpt_oss:20b": (4_187_440_704, 3.61e9, TABLE),
    "grok1:314b": (83_756_587_008, 0.25 * 314e9, "published as about a quarter of the weights"),
    "kimi_k2:1t": (
        32_861_477_888,
        32.6e9,
        "the fields of the weights give a little more, and in all less than the report",
    ),
    "llama4:maverick": (17_184_691_200, 17e9, ""),
    "llama4:scout": (17_172_894_720, 17e9, ""),
    "mixtral:8x22b": (39_161_468_928, 39e9, ""),
    "mixtral:8x7b": (12_879_925_248, 12.9e9, ""),
    "qwen3_moe:235b-a22b": (22_190_763_520, 22e9, ""),
    "qwen3_moe:30b-a3b": (3_353_032_704, 3.3e9, "cut and not rounded"),
}
OURS = (":tiny", ":quickstart")


@functools.cache
def experts(name: str):
    """The mixtures in a model."""
    model = spec.model(config_lib.load_config(name).model)
    return [part for part in model.components() if part.name == "moe"]


def sizes():
    names = [f"{family}:{size}" for family in config_lib.families() for size in config_lib.sizes(family)]
    return [name for name in names if not name.endswith(OURS) and experts(name)]


@pytest.mark.parametrize("name", sizes())
def test_active_parameters(name):
    """All but the experts of a layer that a token does not go to; of what the shapes say and, where published, of that."""
    model = spec.model(config_lib.load_config(name).model).alone
    found = accounting.count(model)
    (share,) = {part["router"]["top_k"] / part["experts"] for part in experts(name)}
    leaves = [leaf for _, leaf in accounting.declarations(model) if leaf.role != "selection"]
    taken = (math.prod(leaf.value.shape) * (share if "experts" in leaf.names else 1) for leaf in leaves)
    assert found.active_parameters == round(sum(taken))
    if name in ACTIVE:
        counted, published, reason = ACTIVE[name]
        assert found.active_parameters == counted
        digits = len(f"{published:g}".partition("e")[0].replace(".", ""))
        assert reason or float(f"{counted:.{digits - 1}e}") == published
        if reason == TABLE:
            table = model.vocab * model.d_model
            assert float(f"{counted - table:.{digits - 1}e}") == published


def test_all_published_counts_are_here():
    """Of the others nobody says how many are active, or the widths are placeholders."""
    others = {name for name in sizes() if name not in ACTIVE}
    assert {name.partition(":")[0] for name in others} == {"switch", "gshard", "afm_server"}
    assert set(ACTIVE) <= set(sizes())
