"""R2-dLLM (arXiv 2604.18995): do not spend a forward on what neighbours or the last steps already tell.

    unmask.method("r2-dllm")
    unmask.method("r2-dllm", cluster_threshold=0.85, temporal_threshold=0.85)        # the paper's HumanEval settings
    unmask.method("r2-dllm", temporal_steps=None)                                    # without temporal finalisation

Three rules take what the threshold left: a window that is sure on average goes as a whole (confidence cluster), a run of
one prediction commits one position (token cluster), a prediction that stays is final (temporal).

What ours mends, besides what fast-dllm mends: runs are settled before windows, and at most one commit per run of equal
predictions in a step, whichever rule it is; the published order can write two or three copies of a word at once.
"""

from unmask.decode.redundancy import ConfidenceCluster, Temporal, TokenCluster
from unmask.decode.rules import Threshold
from unmask.methods.method import Method, published
from unmask.methods.parts import StopAtEos


def r2_dllm() -> Method:
    """The paper's settings for GSM8K on LLaDA (table 8).

    Its options are `threshold`, `cluster_size` (None turns the rule off), `cluster_threshold`, `cluster_max_unmasked`,
    `token_threshold` (None turns the rule off), `token_min_length`, `token_pick`, `temporal_steps` (None turns the rule off),
    `temporal_threshold` and `temporal_metric`.
    """
    return Method(
        name="r2-dllm",
        cache="dual",
        commit=Threshold(),
        confidence_cluster=ConfidenceCluster(size=3, threshold=0.8, max_unmasked=1),
        token_cluster=TokenCluster(threshold=0.8),
        temporal=Temporal(steps=3, threshold=0.7),
        stop_at_eos=StopAtEos(),
    )


# The published decoder, every block decoded to its end, with the settings of its scripts (not quite the paper's table 8).
official = published(r2_dllm, stop_at_eos=None, settings={"temporal.threshold": 0.8})
