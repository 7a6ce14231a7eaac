"""Which entries of one vocabulary stand for which of another.

from fusion_core import load_tokenizer, map_vocabulary

source, target = load_tokenizer("qwen"), load_tokenizer("deepseek")
mapping = map_vocabulary(source, target, kind="soft")
mapping.to_frame(source, target)
"""

from fusion_core.mapping._entries import FORMS
from fusion_core.mapping._figures import BREAKDOWNS, breakdown, disagreements, nearest_targets, occurrences
from fusion_core.mapping._kinds import HAS_PIECE_FORM, KINDS, NEEDS_TEXTS, map_vocabulary
from fusion_core.mapping._mapping import OUTCOMES, Provenance, VocabularyMapping
from fusion_core.mapping._nearest import Progress, all_nearest, nearest, neighbours
from fusion_core.mapping._storage import load as load_mapping
from fusion_core.mapping._storage import save as save_mapping

__all__ = [
    "BREAKDOWNS",
    "FORMS",
    "HAS_PIECE_FORM",
    "KINDS",
    "NEEDS_TEXTS",
    "OUTCOMES",
    "Progress",
    "Provenance",
    "VocabularyMapping",
    "all_nearest",
    "breakdown",
    "disagreements",
    "load_mapping",
    "map_vocabulary",
    "nearest",
    "nearest_targets",
    "neighbours",
    "occurrences",
    "save_mapping",
]
