"""One model's predictions in another model's tokens.

from fusion_core.models import load_model
from fusion_core.transfer import build_index, transfer

source, target = load_model("gemma-3-270m"), load_model("smollm2-135m")
index = build_index(source.tokenizer, target.tokenizer)
own = target.predict(text)
carried = transfer(source.predict(text), own.encoding, index, method="byte-exact", own=own)
carried.ledger                                    # where the probability went, per position
"""

from fusion_core.transfer._index import TransferIndex, build_index
from fusion_core.transfer._marginal import marginal
from fusion_core.transfer._methods import METHODS, Method, transfer
from fusion_core.transfer._places import Places, find_places
from fusion_core.transfer._predictions import Predictions
from fusion_core.transfer._result import LEDGER, Transfer
from fusion_core.transfer._transport import Plan, transport_plan

__all__ = [
    "LEDGER",
    "METHODS",
    "Method",
    "Places",
    "Plan",
    "Predictions",
    "Transfer",
    "TransferIndex",
    "build_index",
    "find_places",
    "marginal",
    "transfer",
    "transport_plan",
]
