"""Any tokenizer as pieces, canonical bytes and spans.

from fusion_core import load_tokenizer

tokenizer = load_tokenizer("qwen")
encoding = tokenizer.encode("Two tokenizers, one text.")
encoding.to_frame()
"""

from fusion_core.tokenizers._encoding import Encoding
from fusion_core.tokenizers._loader import BESIDE, NAME_FORMS, load_tokenizer
from fusion_core.tokenizers._samples import SAMPLES, Sample
from fusion_core.tokenizers._tokenizer import Tokenizer
from fusion_core.tokenizers._vocabulary import EntryKind, Vocabulary

__all__ = [
    "BESIDE",
    "NAME_FORMS",
    "SAMPLES",
    "Encoding",
    "EntryKind",
    "Sample",
    "Tokenizer",
    "Vocabulary",
    "load_tokenizer",
]
