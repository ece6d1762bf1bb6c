"""What a request that is over has come to."""

from unmask.engine.request import Completion
from unmask.engine.state import RequestState


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
