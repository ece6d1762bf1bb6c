"""Networks: one file per family, and the parts that they share.

To add a family: its file (a subclass of Network that reads the config and names the modules) and a line of TABLE.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Family(NamedTuple):
    """Where a family's network is, and what config.json calls its type.

    Several families may share a type. None: transformers has a class of its own for that architecture, which stays.
    """

    network: str  # "module:Class"
    model_type: str | None


# Architecture, as config.json names it first -> its family. Nothing is imported before a checkpoint asks for it.
TABLE: Mapping[str, Family] = {
    "LLaDAModelLM": Family("unmask.models.llada:LLaDA", "llada"),
    "DreamModel": Family("unmask.models.dream:Dream", "Dream"),
    "LLaDAMoEModelLM": Family("unmask.models.llada_moe:LLaDAMoE", "llada"),
    "SDARForCausalLM": Family("unmask.models.sdar:SDAR", "sdar"),
    "SDARMoeForCausalLM": Family("unmask.models.sdar:SDARMoe", "sdar_moe"),
    "LLaDA2MoeModelLM": Family("unmask.models.llada2:LLaDA2", "llada2_moe"),
    "Fast_dLLM_QwenForCausalLM": Family("unmask.models.fast_dllm_v2:FastDLLM", "Fast_dLLM_Qwen"),
    "LlamaForCausalLM": Family("unmask.models.stable_diffcoder:StableDiffCoder", None),
}

# Architectures that are refused, and why.
_CAUSAL = "its context is causal, token by token, which is another attention pattern than full or block-causal"
REFUSED: Mapping[str, str] = {
    "NemotronLabsDiffusionModel": _CAUSAL,
    "PanguEmbeddedForCausalLM": _CAUSAL,
    "WeDLMForCausalLM": "it attends causally to tokens that are moved, which is another attention pattern",
    "DiffusionGemmaForBlockDiffusion": "it has no mask token: its noise is uniform, and its context is causal",
}
