"""Conversations as people keep them, and their tokens: what the model sees, and which tokens of it the assistant wrote.

    {"messages": [{"role": "system", "content": "..."}, {"role": "user", ...}, {"role": "assistant", ...}, ...]}
    {"prompt": "...", "completion": "..."}
    {"instruction": "...", "input": "...", "output": "..."}
    {"question": "...", "answer": "..."}

Every shape but the first may have a "system" too. The checkpoint's chat template writes the conversation, and an answer
is what it writes behind the prompt that it would give the model for it, to the end of the turn. So training shows just the
tokens that decoding sees.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unmask.engine.template import render
from unmask.errors import RequestError
from unmask.models.denoiser import Denoiser

PAIRS = (("prompt", "completion"), ("prompt", "response"), ("instruction", "output"), ("question", "answer"))
SHAPES = '"messages", or ' + ", ".join(f'"{asked}" and "{said}"' for asked, said in PAIRS)


class Turn(NamedTuple):
    """One turn; `learned`: the model is to learn to write it."""

    role: str
    content: str
    learned: bool


class Piece(NamedTuple):
    """A part of an example's tokens: who speaks, and whether the model learns to write it."""

    role: str
    tokens: list[int]
    learned: bool


def turns(values: Mapping[str, Any]) -> list[Turn]:
    """The turns of a record, up to the last one that the assistant speaks. Raises RequestError that says what is wrong.

    >>> turns({"question": "3 + 4?", "answer": "7"})
    [Turn(role='user', content='3 + 4?', learned=False), Turn(role='assistant', content='7', learned=True)]
    """
    if values.get("messages") is not None:
        found = _listed(values["messages"], "messages")
    else:
        pair = next((pair for pair in PAIRS if values.get(pair[0]) and pair[1] in values), None)
        if pair is None:
            raise RequestError(f"expected {SHAPES}; got {', '.join(map(str, values)) or 'nothing'}")
        asked, said = (_listed(values[name], name, role) for name, role in zip(pair, ("user", "assistant"), strict=True))
        if pair[0] == "instruction" and values.get("input"):
            asked = [*asked[:-1], _turn("user", f"{asked[-1].content}\n\n{values['input']}", "input")]
        system = [_turn("system", values["system"], "system")] if values.get("system") else []
        found = [*system, *asked, *said]
    learned = [place for place, turn in enumerate(found) if turn.learned]
    if not learned:
        raise RequestError("no turn of the assistant, so there is nothing to learn")
    return found[: learned[-1] + 1]


def _listed(value: Any, name: str, role: str | None = None) -> list[Turn]:
    """A list of messages, or one text of a role."""
    if role is not None and not isinstance(value, list):
        return [_turn(role, value, name)]
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) and turn.get("role") for turn in value):
        raise RequestError(f'{name} must be a list of {{"role": ..., "content": ...}}')
    return [_turn(turn["role"], turn.get("content"), name, turn.get("weight")) for turn in value]


def _turn(role: Any, content: Any, name: str, weight: Any = None) -> Turn:
    """One turn. As in OpenAI's files content may be text parts, and an answer with a weight of 0 is not learned."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise RequestError(f"{name}: the content of a turn must be text, got {content!r:.40}")
    if role == "assistant" and not content.strip():
        raise RequestError(f"{name}: a turn of the assistant is empty")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{name}: half a letter, {content[error.start]!r}, at place {error.start} of a turn") from None
    return Turn(str(role), content, role == "assistant" and weight != 0)


# --- tokens -----------------------------------------------------------------------------------------------------------


def encode(model: Denoiser, conversation: Sequence[Turn]) -> list[list[Piece]]:
    """The examples of a conversation, each as pieces whose last one is learned: the end of the turn is in it, EOS is not.

    It is one example, unless the template rewrites earlier answers when it writes later ones, as those of reasoning models
    do: then every answer is learned behind the prompt that it really had.

    Raises RequestError where the template refuses the turns, or for a text that holds the mask token.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise RequestError(f"{model.name} has no tokenizer")
    if tokenizer.chat_template is None:
        examples = [_plain(model, conversation)]
    else:
        open_turns, examples = [place for place, turn in enumerate(conversation) if turn.learned], []
        while open_turns:
            pieces, learned = _written(model, conversation[: open_turns[-1] + 1], open_turns)
            examples.insert(0, pieces)
            open_turns = [place for place in open_turns if place not in learned]
    if any(model.spec.mask_id in piece.tokens for pieces in examples for piece in pieces):
        raise RequestError(f"the text holds the mask token, {tokenizer.convert_ids_to_tokens(model.spec.mask_id)}")
    return examples


def _plain(model: Denoiser, conversation: Sequence[Turn]) -> list[Piece]:
    """Prompt and completion of a model without a chat template, as it is prompted."""
    if [turn.role for turn in conversation] != ["user", "assistant"]:
        raise RequestError(f"{model.name} has no chat template: give a prompt and its completion")
    asked, said = (turn.content for turn in conversation)
    encoded = model.tokenizer.encode(asked, verbose=False)
    return [Piece("user", encoded, False), Piece("assistant", _tokens(model, said), True)]


def _written(model: Denoiser, conversation: Sequence[Turn], wanted: Sequence[int]) -> tuple[list[Piece], list[int]]:
    """The pieces of a conversation that ends with an answer, and the places of the wanted turns that stand in it unchanged."""
    whole, pieces, learned, place = _render(model, conversation), list[Piece](), list[int](), 0
    for number, turn in enumerate(conversation):
        end = _end(model, conversation[: number + 1], whole)
        if end <= place:
            continue  # rewritten: its text goes along with the next piece
        begin = _end(model, conversation[:number], whole, prompting=True) if number in wanted else -1
        if place <= begin < end:
            pieces.append(Piece(turn.role, _tokens(model, whole[place:begin]), False))
            pieces += _answer(model, whole[begin:end], last=turn is conversation[-1])
            learned.append(number)
        else:
            pieces.append(Piece(turn.role, _tokens(model, whole[place:end]), False))
        place = end
    if len(conversation) - 1 not in learned:
        raise RequestError("the chat template does not write an answer behind the prompt that it gives the model for it")
    return [piece for piece in pieces if piece.tokens], learned


def _end(model: Denoiser, conversation: Sequence[Turn], whole: str, *, prompting: bool = False) -> int:
    """Where the text of these first turns ends in that of all of them; 0 if it does not stand there."""
    try:
        text = _render(model, conversation, prompting=prompting)
    except RequestError:
        return 0  # some templates refuse a conversation that stops halfway
    return len(text) if whole.startswith(text) else 0


def _answer(model: Denoiser, text: str, *, last: bool) -> list[Piece]:
    """An answer to the end of its turn, and what the template writes behind that; behind the last one there is nothing."""
    tokens, spec = _tokens(model, text), model.spec
    ends = [place for place, token in enumerate(tokens) if token in spec.eos_ids + spec.turn_ids]
    end = ends[-1] + 1 if ends else len(tokens)
    if not last:
        return [Piece("assistant", tokens[:end], True), Piece("assistant", tokens[end:], False)]
    filler = end > 0 and tokens[end - 1] == spec.eos_ids[0]  # what the row is filled up with in any case
    return [Piece("assistant", tokens[: end - filler], True)]


def _tokens(model: Denoiser, text: str) -> list[int]:
    return list(model.tokenizer.encode(text, add_special_tokens=False, verbose=False))


def _render(model: Denoiser, conversation: Sequence[Turn], *, prompting: bool = False) -> str:
    """The text of a conversation; with `prompting` up to where the assistant's next turn begins."""
    said = [{"role": turn.role, "content": turn.content} for turn in conversation]
    return render(model.tokenizer, said, prompting=prompting)
