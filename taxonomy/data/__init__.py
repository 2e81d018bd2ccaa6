"""Data: text from a source, tokens from a tokenizer, batches that are a pure function of (seed, index).

`sources` yield documents, `tokenizers` turn them into ids, `prepare` writes the ids to disk once, `pipeline` cuts fixed
windows. The state of the iterator is the index of the next sequence, so resuming is exact on any number of hosts.

Shape suffixes: N tokens of a whole split, B sequences of a batch, T tokens of a sequence.
"""

from taxonomy.data.pipeline import Windows, evaluation_batches
from taxonomy.data.prepare import Prepared
from taxonomy.data.tokenizers import Tokenizer, load_tokenizer

__all__ = ["Prepared", "Tokenizer", "Windows", "evaluation_batches", "load_tokenizer"]
