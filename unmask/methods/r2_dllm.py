"""R2-dLLM (arXiv 2604.18995): do not spend a forward on what neighbours or the last steps already tell.

    unmask.method("r2-dllm")
    unmask.method("r2-dllm", cluster_threshold=0.85, temporal_threshold=0.85)        # the paper's HumanEval settings
    unmask.method("r2-dllm", temporal_steps=None)                                    # without temporal finalisation

Three rules take what the threshold left: a window that is sure on average goes as a whole (confidence cluster), a run of
one prediction commits one position (token cluster), a prediction that stays is final (temporal).

What ours mends, besides what fast-dllm mends: runs are settled before windows, and at most one commit per run of equal
predictions in a step, whichever rule it is; the published order can write two or three copies of a word at once.
"""

from unmask.decode.rules import ConfidenceCluster, Metric, Pick, Temporal, TokenCluster
from unmask.methods.method import CommitThreshold, Method, StopAtEos, published


def r2_dllm(
    *,
    threshold: float = 0.9,
    cluster_size: int | None = 3,
    cluster_threshold: float = 0.8,
    cluster_max_unmasked: int | None = 1,
    token_threshold: float | None = 0.8,
    token_min_length: int = 2,
    token_pick: Pick = "confidence",
    temporal_steps: int | None = 3,
    temporal_threshold: float = 0.7,
    temporal_metric: Metric = "last",
) -> Method:
    """The paper's settings for GSM8K on LLaDA (table 8).

    Args:
        cluster_size: window of the confidence cluster in tokens; None turns the rule off.
        token_threshold: a run counts if its best confidence exceeds this; None turns the rule off.
        temporal_steps: steps that a prediction must stay the same; None turns the rule off.
    """
    return Method(
        name="r2-dllm",
        cache="dual",
        commit=CommitThreshold(threshold=threshold),
        confidence_cluster=None
        if cluster_size is None
        else ConfidenceCluster(size=cluster_size, threshold=cluster_threshold, max_unmasked=cluster_max_unmasked),
        token_cluster=None
        if token_threshold is None
        else TokenCluster(threshold=token_threshold, min_length=token_min_length, pick=token_pick),
        temporal=None
        if temporal_steps is None
        else Temporal(steps=temporal_steps, threshold=temporal_threshold, metric=temporal_metric),
        stop_at_eos=StopAtEos(),
    )


# The published decoder, every block decoded to its end, with the settings of its scripts (not quite the paper's table 8).
official = published(r2_dllm, stop_at_eos=None, temporal_threshold=0.8)
