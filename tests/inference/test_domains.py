"""A model with an expert for every dataset writes with the one it is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy import model as model_lib
from taxonomy.data.tokenizers import BytesTokenizer
from taxonomy.errors import UserError
from taxonomy.inference import decode, domains

MOE = "moe(experts=3, top_k=1, router=domain, expert=swiglu(d_ff=32))"
SOURCE = "mixture(text(glob='a.txt'), text(glob='b.txt'), stdlib)"


@pytest.fixture(scope="module")
def one(random_params):
    config = config_lib.load_config("llama:tiny", {"model.mlp": MOE, "data.source": SOURCE})
    model = model_lib.build(config.model)
    return config, model, random_params(model, **model_lib.blank(model.spec, time=8))


def test_each_expert_writes_as_it_does_alone(one):
    """As the whole text read at once with its domain does; by number and by name."""
    config, model, params = one
    tokenizer = BytesTokenizer()
    begun = [tokenizer.document_start, *tokenizer.encode("def ").tolist()]
    read = jax.jit(lambda tokens, number: model.apply({"params": params}, tokens, domains=number))
    texts = []
    for number, name in ((1, "text(glob='b.txt')"), (2, "stdlib")):
        (new,) = decode.generate_tokens(domains.model(config, number), params, [begun], max_new_tokens=6, vocab_size=257)
        logits = np.asarray(read(jnp.array([[*begun, *new]]), jnp.array([number])))[0, :, :257]
        assert logits.argmax(-1)[len(begun) - 1 : -1].tolist() == new
        assert domains.model(config, name) == domains.model(config, str(number)) == domains.model(config, number)
        texts.append(new)
    assert texts[0] != texts[1]
    (text,) = decode.generate(
        config, params, ["def "], tokenizer=tokenizer, domain="stdlib", max_new_tokens=6, to_document_end=False
    )
    assert tokenizer.decode([*begun, *texts[1]]) == "def " + text


@pytest.mark.parametrize("domain", ["stdlb", 3, "-1"])
def test_there_is_no_such_dataset(one, domain):
    with pytest.raises(UserError, match=r"domain: no dataset .*, nor a number below 3.*stdlib"):
        domains.model(one[0], domain)


def test_the_model_does_not_ask():
    with pytest.raises(UserError, match="domain: 0, but no router of the model asks"):
        domains.model(config_lib.load_config("llama:tiny"), 0)
