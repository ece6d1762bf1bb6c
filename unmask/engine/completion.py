"""What a request has come to: its completion, and what others may have of it."""

from unmask.engine.request import Completion
from unmask.engine.state import RequestState
from unmask.engine.text import read, settled


def complete(row: RequestState) -> Completion:
    """The completion of a request that is over. What a constraint holds is complete, whether an end stands behind it or not."""
    assert row.ended is not None, "the request is not over"
    ids, answer, recipe = row.final[: row.limit], row.answer(), row.recipe
    if recipe.ending in ("first", "written"):
        kept = answer.tokens + (answer.tokens < len(ids) and ids[answer.tokens] in recipe.ends)
    else:
        kept = min(row.finished - row.canvas.prompt, len(ids)) if row.has_ended else len(ids)
    return Completion(
        text=answer.text,
        token_ids=ids[:kept] + [recipe.filler] * (row.limit - kept),
        tokens=answer.tokens,
        forwards=row.forwards,
        query_tokens=row.query_tokens,
        finish_reason="stop" if answer.stopped or row.constraint is not None else "length",
        seconds=row.ended - row.began,
        method=row.request.method,
        commits={rule.name: row.commits[number] for number, rule in enumerate(recipe.rules, start=1)},
        cached_tokens=row.lease.cached,
    )


def publishable(row: RequestState) -> int:
    """Tokens from its beginning whose keys and values are final, and which do not lie behind the answer's end."""
    prompt = row.canvas.prompt
    answer = read(row.canvas.tokens[prompt : row.kept], None, row.recipe.ends, fixed=row.request.fixed)
    return prompt + answer.tokens + 1 if answer.stopped else row.kept


def settled_text(row: RequestState) -> str:
    """The text so far that can no longer change."""
    request = row.request
    return settled(row.final[: row.limit], row.model.tokenizer, row.recipe.ends, request.stop, request.fixed)
