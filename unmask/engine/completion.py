"""What a request has come to: its completion, and what others may have of it."""

from unmask.engine.request import Completion, Told
from unmask.engine.state import RequestState
from unmask.engine.text import read, within


def complete(row: RequestState) -> Completion:
    """The completion of a request that is over. What a constraint holds is complete, whether an end stands behind it or not."""
    assert row.ended is not None, "the request is not over"
    ids, answer, recipe, prompt = row.final[: row.request.length], row.answer(), row.recipe, row.canvas.prompt
    if recipe.ending in ("first", "written"):
        kept = answer.tokens + (answer.tokens < len(ids) and ids[answer.tokens] in recipe.ends)
    else:
        kept = min(row.finished - prompt, len(ids)) if row.has_ended else len(ids)
    places = [place for place in row.reader.counted(answer) if prompt + place in row.notes.steps]
    return Completion(
        text=answer.text,
        token_ids=row.reader.whole(ids, answer, kept, recipe.filler),
        tokens=answer.tokens,
        forwards=row.forwards,
        query_tokens=row.query_tokens,
        finish_reason="stop" if answer.stopped or row.constraint is not None else "length",
        seconds=row.ended - row.began,
        method=row.request.method,
        commits={rule.name: row.commits[number] for number, rule in enumerate(recipe.rules, start=1)},
        cached_tokens=row.lease.cached,
        holes=list(answer.holes),
        places=places,
        steps=[row.notes.told(prompt + place, recipe.rules) for place in places],
        alternatives=[row.notes.alternatives.get(prompt + place, []) for place in places] if row.request.alternatives else [],
    )


def told(row: RequestState, since: int, text: str) -> Told:
    """What is told of an answer's tokens from the place `since` on whose text lies within the settled `text`."""
    end = within(row.final[: row.answer().tokens], row.model.tokenizer, len(text))
    begin, places = row.canvas.prompt, range(since, max(since, end))
    return Told(
        token_ids=row.final[since:end],
        steps=[row.notes.told(begin + place, row.recipe.rules) for place in places],
        alternatives=[row.notes.alternatives.get(begin + place, []) for place in places] if row.request.alternatives else [],
    )


def publishable(row: RequestState) -> int:
    """Tokens from its beginning whose keys and values are final, and which do not lie behind the answer's end."""
    prompt = row.canvas.prompt
    if row.request.layout is not None:
        return row.kept
    answer = read(row.canvas.tokens[prompt : row.kept], None, row.recipe.ends, fixed=row.request.fixed)
    return prompt + answer.tokens + 1 if answer.stopped else row.kept


def settled_text(row: RequestState) -> str:
    """The text so far that can no longer change."""
    return row.reader.settled(row.final)
