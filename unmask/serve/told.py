"""What a response tells of each token: OpenAI's logprobs, and the forward, rule and confidence of `diffusion.tokens`. Pure.

A log-probability is that of the token at the forward that committed it, when other positions may still have been masked; in
a hole that must be filled it is among the tokens that end no text. Of a token that moved there, or was filled in, there is
none: null.
"""

import math
from typing import Any

from unmask.engine.request import Alternative, Completion
from unmask.view.text import pieces
from unmask.view.trace import told

LEAST = -9999.0  # OpenAI's for a probability that rounds to 0: JSON has no infinity


def chat_logprobs(completion: Completion, tokenizer: Any) -> dict[str, Any]:
    """The `logprobs` of a chat's choice."""
    tops = completion.alternatives or [[]] * len(completion.steps)
    content = [
        _token(commit["text"], _log(commit["confidence"])) | {"top_logprobs": _tops(top, tokenizer)}
        for commit, top in zip(told(completion, tokenizer), tops, strict=True)
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(completion: Completion, tokenizer: Any) -> dict[str, Any]:
    """The `logprobs` of a choice of the older endpoint; `text_offset` counts from the text's beginning."""
    commits = told(completion, tokenizer)
    tops = [{one["token"]: one["logprob"] for one in _tops(top, tokenizer)} for top in completion.alternatives]
    lengths = [len(commit["text"]) for commit in commits]
    return {
        "tokens": [commit["text"] for commit in commits],
        "token_logprobs": [_log(commit["confidence"]) for commit in commits],
        "top_logprobs": tops or None,
        "text_offset": [sum(lengths[:number]) for number in range(len(lengths))],
    }


def _tops(top: list[Alternative], tokenizer: Any) -> list[dict[str, Any]]:
    return [_token(pieces(tokenizer, [one.token])[0], max(LEAST, one.logprob)) for one in top]


def _token(text: str, logprob: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _log(confidence: float | None) -> float | None:
    """A probability's logarithm.

    >>> _log(1.0), _log(0.0), _log(None)
    (0.0, -9999.0, None)
    """
    return None if confidence is None else math.log(confidence) if confidence > 0 else LEAST
