"""What a response tells of each token: OpenAI's logprobs, and the forward, rule and confidence of `diffusion.tokens`. Pure.

A log-probability is that of the token at the forward that committed it, when other positions may still have been masked; in
a hole that must be filled it is among the tokens that end no text. Of a token that moved there, or was filled in, there is
none: null.
"""

import math
from typing import Any

from unmask.engine.request import Alternative, Completion, Told
from unmask.view.text import pieces
from unmask.view.trace import told

_LOOK_BACK = 16  # tokens that a decoder may look back at
LEAST = -9999.0  # OpenAI's for a probability that rounds to 0: JSON has no infinity


def chat_logprobs(completion: Completion, tokenizer: Any) -> dict[str, Any]:
    """The `logprobs` of a chat's choice."""
    return _chat(told(completion, tokenizer), completion.alternatives, tokenizer)


def completion_logprobs(completion: Completion, tokenizer: Any) -> dict[str, Any]:
    """The `logprobs` of a choice of the older endpoint; `text_offset` counts from the text's beginning."""
    return _older(told(completion, tokenizer), completion.alternatives, tokenizer, 0)


class LogprobStream:
    """The `logprobs` of a choice as its text comes: each token's with the chunk in which its text is complete."""

    def __init__(self, tokenizer: Any, *, chat: bool) -> None:
        self._tokenizer, self._chat = tokenizer, chat
        self._ids, self._letters = list[int](), 0

    def fresh(self, new: Told) -> dict[str, Any] | None:
        """Of the tokens that the engine tells of; None where there is none."""
        if not new.token_ids:
            return None
        before = self._ids[-_LOOK_BACK:]
        texts = pieces(self._tokenizer, [*before, *new.token_ids])[len(before) :]
        commits = [{"text": text, "confidence": step.confidence} for text, step in zip(texts, new.steps, strict=True)]
        made = self._made(commits, new.alternatives)
        self._ids += new.token_ids
        self._letters += sum(map(len, texts))
        return made

    def rest(self, completion: Completion) -> dict[str, Any]:
        """At the end: of all tokens of which nothing has been told yet."""
        count = len(self._ids)
        return self._made(told(completion, self._tokenizer)[count:], completion.alternatives[count:])

    def _made(self, commits: list[dict[str, Any]], alternatives: list[list[Alternative]]) -> dict[str, Any]:
        if self._chat:
            return _chat(commits, alternatives, self._tokenizer)
        return _older(commits, alternatives, self._tokenizer, self._letters)


def _chat(commits: list[dict[str, Any]], alternatives: list[list[Alternative]], tokenizer: Any) -> dict[str, Any]:
    tops = alternatives or [[]] * len(commits)
    content = [
        _token(commit["text"], _log(commit["confidence"])) | {"top_logprobs": _tops(top, tokenizer)}
        for commit, top in zip(commits, tops, strict=True)
    ]
    return {"content": content, "refusal": None}


def _older(commits: list[dict[str, Any]], alternatives: list[list[Alternative]], tokenizer: Any, begin: int) -> dict[str, Any]:
    tops = [{one["token"]: one["logprob"] for one in _tops(top, tokenizer)} for top in alternatives]
    lengths = [len(commit["text"]) for commit in commits]
    return {
        "tokens": [commit["text"] for commit in commits],
        "token_logprobs": [_log(commit["confidence"]) for commit in commits],
        "top_logprobs": tops or None,
        "text_offset": [begin + sum(lengths[:number]) for number in range(len(lengths))],
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
