"""Copying and editing a line of words: repeat it, reverse it, or replace one word by another."""

import random

from unmask.tasks.problem import Problem, solved
from unmask.tasks.voice import Voice, Wording
from unmask.tasks.words import COLOURS, ITEMS


def sample(rng: random.Random, wording: Wording | None = None) -> Problem:
    """Draw one problem with a line of three to eight words, of either split.

    >>> problem = sample(random.Random(0))
    >>> problem.question
    'Write from the last word to the first: eggs blue apples pens keys cups'
    >>> problem.key
    'cups keys pens apples blue eggs'
    """
    line = [rng.choice((*COLOURS, *ITEMS)) for _ in range(rng.randint(3, 8))]
    shown = " ".join(line)
    voice = Voice(rng, wording)
    kind = rng.choice(("repeat", "reverse", "replace"))
    if kind == "repeat":
        times = rng.randint(2, 5)
        question, key = f"Write {times} times: {shown}", " ".join(line * times)
        how = voice.say("", f"We write the words {times} times.", f"The words are {shown}. We write them {times} times.")
    elif kind == "reverse":
        question, key = f"Write from the last word to the first: {shown}", " ".join(reversed(line))
        how = voice.say("", f"The last word is {line[-1]}.", f"The words are {shown}. We begin with the last word, {line[-1]}.")
    else:
        old, new = rng.choice(line), rng.choice(COLOURS)
        question = f"Write {new} for {old}: {shown}"
        key = " ".join(new if word == old else word for word in line)
        how = voice.say("", f"Every {old} becomes {new}.", f"The words are {shown}. Every {old} in them becomes {new}.")
    return solved(
        task="editing",
        question=question,
        worked=[how],
        key=key,
        steps=len(line),
    )
