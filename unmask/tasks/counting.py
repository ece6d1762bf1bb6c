"""Letter counting: how often a letter occurs in a spelt word, counted letter by letter."""

import random

from unmask.tasks.problem import Problem, solved
from unmask.tasks.voice import Voice, Wording
from unmask.tasks.words import LETTERS


def sample(rng: random.Random, wording: Wording | None = None) -> Problem:
    """Draw one problem with a word of three to six letters, of either split.

    >>> problem = sample(random.Random(0))
    >>> problem.question
    'How many times does g occur in a d d h d?'
    >>> problem.key
    '0'
    """
    alphabet = rng.sample(LETTERS, 4)
    target = alphabet[0]
    word = [target if rng.random() < 0.3 else rng.choice(alphabet) for _ in range(rng.randint(3, 6))]
    voice = Voice(rng, wording)
    count = 0
    worked = [voice.say("", f"We look for {target}.", f"We go through the word and look for {target}.")]
    for letter in word:
        found = letter == target
        count += found
        worked.append(
            voice.say(
                f"{letter} {count}.",
                f"Letter {letter} makes {count}." if found else f"Letter {letter} keeps {count}.",
                f"The next letter is {letter}, which is {target}, so we have {count}."
                if found
                else f"The next letter is {letter}, which is not {target}, so we keep {count}.",
            )
        )
    return solved(
        task="counting",
        question=f"How many times does {target} occur in {' '.join(word)}?",
        worked=worked,
        key=str(count),
        steps=len(word),
    )
