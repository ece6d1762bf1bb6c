"""What a grammar adds to a decision, with a vocabulary of LLaDA's size, and what rows that decide together save.

Each language's decision and the same without a grammar take turns on the same logits. All positions are masked, and the most
probable tokens are such as the grammar may not allow, which is the longest that a decision takes.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from unmask.bench.measure import Timing, rounds
from unmask.bench.workload import Load, Report
from unmask.decode.automaton import Automaton
from unmask.decode.constraint import Placed, held
from unmask.decode.step import BlockFacts, StepSettings, decide
from unmask.grammar.constraint import Grammar
from unmask.grammar.dfa import compiled
from unmask.grammar.language import Language, json_object, json_schema, regex
from unmask.grammar.lift import lifted
from unmask.grammar.text import TextMap
from unmask.methods import load as load_method

VOCABULARY, LENGTH, ANSWER = 126464, 32, 256  # the mask is the vocabulary's last token, and the end of text the one before
_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "email": {"type": "string", "format": "email"},
        "roles": {"type": "array", "items": {"enum": ["admin", "author", "reader"]}},
        "address": {"type": "object", "properties": {"street": {"type": "string"}, "zip": {"type": "integer"}}},
        "height": {"type": "number"},
    },
    "required": ["name", "email", "roles", "address", "height"],
}
_STEPS = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}, "steps": {"type": "array", "items": {"type": "string"}}},
    "required": ["answer", "steps"],
}
LANGUAGES: dict[str, Callable[[], Language]] = {
    "a sentence with one number to choose": lambda: regex(
        r"(So )?[A-Z][a-z]+ has [0-9]{2} (apples|hats)\. The answer is [0-9]{2}\."
    ),
    "free text, then `The answer is [0-9]+\\.`": lambda: regex(r"(.*)The answer is [0-9]+\."),
    "{answer: integer, steps: [string]}": lambda: json_schema(_STEPS),
    "a person: e-mail, enum, nested object, number": lambda: json_schema(_PERSON),
    "any JSON object, nested up to 4 deep": lambda: json_object(depth=4),
}
TOGETHER = (1, 4, 16)  # rows


def text_map(vocabulary: int) -> TextMap:
    """A made-up vocabulary as byte-level ones are: bytes, numbers, words with and without a space, code, Chinese characters.

    >>> made = text_map(1000)
    >>> len(made.tokens), made.tokens[65], made.tokens[-1] is None
    (1000, b'A', True)
    """
    draw = random.Random(0)
    syllables = [first + vowel for first in "bcdfghjklmnprstvwyz" for vowel in "aeiou"]
    found: dict[bytes, None] = dict.fromkeys(bytes([byte]) for byte in range(256))
    found |= dict.fromkeys(str(number).encode() for number in range(10, 1000))
    code = [" ", "  ", "\n", "\t", "(", ")", "[", "]", "{", "}", '"', "'", ":", ",", ";", ".", "=", "-", "_", "/", "\\"]
    found |= dict.fromkeys("".join(pair).encode() for size in (2, 3) for pair in itertools.product(code, repeat=size))
    found |= dict.fromkeys(chr(0x4E00 + number).encode() for number in range(6000))
    while len(found) < vocabulary - 2:
        word = "".join(draw.choices(syllables, k=draw.randint(1, 4)))
        word = draw.choice([word, word, word.capitalize(), word.upper()])
        word = draw.choice(["", " ", " "]) + word + draw.choice(["", "", "", "n", "ing", "ed"])
        if draw.random() < 0.1:
            word = "".join(chr(0x4E00 + draw.randrange(6000)) for _ in range(2))
        found[word.encode()] = None
    return TextMap((*itertools.islice(found, vocabulary - 2), None, None))


@dataclass(frozen=True, kw_only=True)
class Held:
    """An automaton over the made-up vocabulary, and the seconds that making it took."""

    automaton: Automaton
    seconds: float

    @classmethod
    def of(cls, language: Language, text: TextMap) -> "Held":
        began = time.perf_counter()
        size, byte_dfa = len(text.tokens), compiled(language.expression())
        made = lifted(byte_dfa, text, ends=(size - 2,), mask_id=size - 1, vocabulary=size)
        return cls(automaton=made, seconds=time.perf_counter() - began)


def evidence(rows: int, vocabulary: int, seed: int = 0) -> Tensor:
    """Logits [B, L, V] in which one token of each position stands out, more or less."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, LENGTH, vocabulary, generator=generator)
    likely = torch.randint(0, vocabulary - 2, (rows, LENGTH, 1), generator=generator)
    return logits.scatter_(2, likely, 8 + 12 * torch.rand(rows, LENGTH, 1, generator=generator))


def decision(logits_BLV: Tensor, automata: list[Automaton]) -> Callable[[], list[int]]:
    """One decision of rows that are all masked; held to an automaton each, or free where there is none."""
    (rows, _, vocabulary), device = logits_BLV.shape, logits_BLV.device
    mask_id = vocabulary - 1
    settings = StepSettings(rules=load_method("fast-dllm").rules(ANSWER, shifted=False), ending="first")
    window_BKL = torch.full((rows, 1, LENGTH), mask_id, device=device)
    zero_B = torch.zeros(rows, dtype=torch.int64, device=device)
    facts = BlockFacts(torch.zeros_like(window_BKL[:, 0], dtype=torch.bool), zero_B, zero_B, None)
    end_E, behind = torch.tensor([vocabulary - 2], device=device), (mask_id,) * (ANSWER - LENGTH)
    placed = [Placed(Grammar(automaton=one, limit=ANSWER), LENGTH, 0, behind) for one in automata]

    def step() -> list[int]:
        _, left_B = decide(
            settings,
            logits_BLV,
            window_BKL,
            facts,
            (None,) * len(settings.rules),
            mask_id=mask_id,
            eos_E=end_E,
            constraint=held(placed) if placed else None,
        )
        left: list[int] = left_B.tolist()
        return left

    return step


def constrained(device: torch.device, load: Load, report: Report) -> Iterator[dict[str, Any]]:
    """A row per language, `ratio` being the decision's time divided by that of the free one; then rows that decide together."""
    text, logits = text_map(VOCABULARY), evidence(max(TOGETHER), VOCABULARY).to(device)
    found = {}
    for name, language in LANGUAGES.items():
        report(f"a decision held to {name}")
        found[name] = made = Held.of(language(), text)
        one = made.automaton
        sides = (decision(logits[:1], [one]), decision(logits[:1], []))
        mine, free = _timed(sides, device, load)
        sizes = {"states": one.states, "classes": one.next_CS.shape[0], "pairs": len(one.from_P)}
        yield {"what": "held decision", "language": name, "compile_seconds": made.seconds} | sizes | _against(mine, free)
    for rows in TOGETHER:
        report(f"{rows} rows held to different languages")
        automata = [one.automaton for one in itertools.islice(itertools.cycle(found.values()), rows)]
        automata.sort(key=id)  # as the engine sorts them
        sides = (decision(logits[:rows], automata), decision(logits[:rows], []))
        mine, free = _timed(sides, device, load)
        yield {"what": "held together", "rows": rows} | _against(mine, free)


def _timed(sides: tuple[Callable[[], list[int]], ...], device: torch.device, load: Load) -> list[Timing]:
    with torch.inference_mode():
        return rounds(sides, device, repeats=load.repeats, seconds=load.seconds)


def _against(mine: Timing, free: Timing) -> dict[str, Any]:
    return asdict(mine) | {"free": asdict(free), "ratio": mine.seconds / free.seconds}
