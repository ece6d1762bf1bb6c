"""A request in the engine, and what its client is told after each forward."""

from dataclasses import dataclass
from typing import NamedTuple

from unmask.engine.completion import complete, settled_text, told
from unmask.engine.records import filled_in
from unmask.engine.request import Draft, Progress, StepRecord
from unmask.engine.state import RequestState
from unmask.errors import LogitsError


@dataclass(kw_only=True, eq=False)
class Entry:
    """A request in the engine."""

    number: int
    state: RequestState
    watch: bool
    sent: str = ""  # the text handed out so far
    told: int = 0  # the tokens of which all has been told


class Finished(NamedTuple):
    """What a forward made of one request."""

    entry: Entry
    record: StepRecord | None
    over: bool


def settled(entry: Entry, record: StepRecord | None) -> Finished:
    """What a forward made of a request; its record tells of all that a constraint has filled in by the end."""
    state, over = entry.state, entry.state.settle()
    if over and record is not None:
        record = filled_in(record, state)
    return Finished(entry, record, over)


def progress(entry: Entry, record: StepRecord | None, over: bool) -> Progress:
    """What a forward made of one request, which has settled since."""
    state = entry.state
    if state.broken:
        return Progress(number=entry.number, text="", error=LogitsError(no_numbers(state)))
    completion = complete(state) if over else None
    text = settled_text(state) if completion is None else completion.text
    fresh = text[len(entry.sent) :]
    entry.sent = text
    draft = None if record is None or completion is not None else _draft(entry, record)
    facts = told(state, entry.told, text) if state.request.tells and fresh and completion is None else None
    entry.told += 0 if facts is None else len(facts.token_ids)
    return Progress(number=entry.number, text=fresh, completion=completion, told=facts, record=record, draft=draft)


def no_numbers(state: RequestState, place: int | None = None) -> str:
    """The message for a broken row; `place` among the prompts, where there are others."""
    whose = "" if place is None else f" of prompt {place}"
    return (
        f"the model's logits are no numbers (NaN or infinite) in forward {state.forwards - 1}{whose}: "
        f"check the weights of {state.model.name}, or try dtype float32"
    )


def _draft(entry: Entry, record: StepRecord) -> Draft | None:
    """The guess at what is not written yet of the forward's block; None where nothing of it is open, or nothing was guessed."""
    state, begin = entry.state, record.start[0]
    tokens = state.canvas.tokens[: begin + state.recipe.width]
    places = [place for place in range(begin, len(tokens)) if tokens[place] == state.canvas.mask_id]
    for place in places:
        tokens[place] = record.candidate[0][place - begin]
    prompt = state.canvas.prompt
    text = state.reader.read(tokens[prompt:]).text
    if not places or state.canvas.mask_id in record.candidate[0]:
        return None
    return Draft(
        start=len(entry.sent),
        text=text[len(entry.sent) :],
        masked=[place - prompt for place in places if place - prompt < state.request.length],
        forward=record.forward,
    )
