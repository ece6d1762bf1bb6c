"""A made-up conversation file: a shop's assistant that adds, answers briefly, and says what it has in stock."""

import json
import random
from pathlib import Path

ITEMS = ("apples", "pens", "cups", "hats", "books", "keys")


def conversation(rng: random.Random) -> list[dict[str, str]]:
    """One to three questions and their answers, every second time with a system turn before them."""
    item, stock = rng.choice(ITEMS), rng.randint(10, 60)
    turns = [{"role": "system", "content": f"The shop has {stock} {item}."}] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 3)):
        more = rng.randint(2, 9)
        turns += [
            {"role": "user", "content": f"{stock} {item} and {more} more?"},
            {"role": "assistant", "content": f"{stock} + {more} = {stock + more}. The answer is {stock + more}."},
        ]
        stock += more
    return turns


def write(path: Path, count: int = 300, seed: int = 0) -> Path:
    """A JSONL file of such conversations; returns its path."""
    rng = random.Random(seed)
    lines = [json.dumps({"messages": conversation(rng)}) for _ in range(count)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path
