"""Networks: one file per family, and the parts that they share.

To add a family: its file (a subclass of Network that reads the config and names the modules) and a line of TABLE.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Family(NamedTuple):
    """Where a family's network is, and what config.json calls its type (several families may share one)."""

    network: str  # "module:Class"
    model_type: str


# Architecture, as config.json names it first -> its family. Nothing is imported before a checkpoint asks for it.
TABLE: Mapping[str, Family] = {
    "LLaDAModelLM": Family("unmask.models.llada:LLaDA", "llada"),
    "DreamModel": Family("unmask.models.dream:Dream", "Dream"),
    "SDARForCausalLM": Family("unmask.models.sdar:SDAR", "sdar"),
}
