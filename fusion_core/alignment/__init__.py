"""Which tokens of two tokenizers belong together on a text.

from fusion_core import align, load_tokenizer

alignment = align(load_tokenizer("qwen"), load_tokenizer("deepseek"), text="Two tokenizers, one text.")
alignment.quality.shared_boundaries
alignment.to_frame()
"""

from fusion_core.alignment._alignment import KINDS, Alignment, Quality, align
from fusion_core.alignment._compare import Difference, difference
from fusion_core.alignment._dtw import COSTS, cost_matrix, dtw
from fusion_core.alignment._methods import COMPARES, METHODS, Options, warp_strings

__all__ = [
    "COMPARES",
    "COSTS",
    "KINDS",
    "METHODS",
    "Alignment",
    "Difference",
    "Options",
    "Quality",
    "align",
    "cost_matrix",
    "difference",
    "dtw",
    "warp_strings",
]
