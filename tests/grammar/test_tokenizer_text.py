"""What tokenizers write, and the automata over their tokens: against the tokenizers' own `decode`."""

import random
import re
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import unmask
from unmask.errors import GrammarError
from unmask.grammar.dfa import compiled
from unmask.grammar.expression import Expression
from unmask.grammar.language import choice, grammar, json_schema, regex, tools
from unmask.grammar.lift import lifted
from unmask.grammar.regex import whole
from unmask.grammar.text import TextMap, text_map


def byte_level(decoder: Any = None, **options: Any) -> PreTrainedTokenizerFast:
    """GPT-2's letters for bytes, some of two, and a special token."""
    letters = [chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144))]
    words = [*letters, "Ġan", "Ġ1", "Ã¤", "Ãł", "<|end|>"]
    made = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    made.decoder = decoder or decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", **options)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return unmask.load("unmask-tiny").tokenizer


def test_the_map_writes_what_the_tokenizer_decodes(tiny: Any) -> None:
    draw = random.Random(7)
    for tokenizer in (tiny, byte_level()):
        made = text_map(tokenizer)
        plain = [number for number, token in enumerate(made.tokens) if token and token.isascii()]
        for _ in range(200):
            ids = draw.choices(plain, k=9)
            assert made.write(ids) == tokenizer.decode(ids, skip_special_tokens=True)
        for text in ("ä€😀", "a = -5", "Mia has 23."):
            ids = tokenizer.encode(text, add_special_tokens=False)
            if tokenizer is tiny:
                assert made.write(ids) == tokenizer.decode(ids)


def test_special_tokens_and_bytes_that_have_a_token_write_nothing(tiny: Any) -> None:
    made = text_map(tiny)
    assert [made.tokens[number] for number in range(5)] == [None] * 5
    assert made.tokens[tiny.convert_tokens_to_ids("<0x41>")] is None
    assert made.tokens[tiny.convert_tokens_to_ids("A")] == b"A"
    assert made.tokens[tiny.convert_tokens_to_ids("<0xC3>")] == b"\xc3"


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        (object(), "no tokenizer of the tokenizers library"),
        (byte_level(decoders.WordPiece()), "it has the step"),
        (byte_level(decoders.Replace("ab", "c")), "it has the step"),
        (byte_level(clean_up_tokenization_spaces=True), "clean_up_tokenization_spaces"),
    ],
)
def test_a_decoder_that_is_not_known_is_refused(tokenizer: Any, words: str) -> None:
    with pytest.raises(GrammarError, match=words):
        text_map(tokenizer)


def accepted(expression: Expression, text: TextMap, ids: list[int], vocabulary: int, end: int) -> bool:
    made = lifted(compiled(expression), text, ends=(end,), mask_id=vocabulary - 1, vocabulary=vocabulary)
    state = made.walk(ids)
    return state >= 0 and made.least(state) == 0


@pytest.mark.parametrize("pattern", ["(.|\n)*", "[a-z ]+", "(ab?)+ ?1", "an? 1.*", "[^ä]*"])
def test_the_automaton_accepts_what_the_decoded_text_says(pattern: str, tiny: Any) -> None:
    draw, tokenizer = random.Random(3), byte_level()
    for name, one, end, vocabulary in (("tiny", tiny, 1, 509), ("bytes", tokenizer, 327, 330)):
        text = text_map(one)
        short = [number for number, token in enumerate(text.tokens) if token and re.fullmatch(rb"[ab1n ]+|\xc3\xa4", token)]
        assert len(short) > 4, name
        for _ in range(40):
            ids = draw.choices(short, k=draw.randint(1, 4))
            expected = bool(re.fullmatch(pattern, one.decode(ids)))
            assert accepted(whole(pattern), text, ids, vocabulary, end) == expected, (name, ids)


def test_a_language_needs_its_tokens_and_says_how_many(tiny: Any) -> None:
    facts = {"ends": (1,), "mask_id": 2, "vocabulary": 509}
    made = grammar(regex("The answer is [0-9]+\\."), tiny, **facts, limit=5)
    assert made.least == 5
    assert grammar(regex("The answer is [0-9]+\\."), tiny, **facts, limit=9).automaton is made.automaton
    with pytest.raises(GrammarError, match="needs at least 5 tokens, and the answer may have 4"):
        grammar(regex("The answer is [0-9]+\\."), tiny, **facts, limit=4)
    with pytest.raises(GrammarError, match="cannot write any text of it"):
        grammar(regex("x7"), tiny, **facts, limit=9)  # its decoder puts a space between


def test_many_tokens_of_one_class_are_one() -> None:
    text = TextMap((*(bytes([byte]) for byte in range(256)), None, None))
    made = lifted(compiled(whole("[a-f]*[0-9]")), text, ends=(256,), mask_id=257, vocabulary=300)
    assert len(made.next_CS) == 4  # nothing, a letter, a digit, the end
    assert np.count_nonzero(made.classes.class_V.numpy()) == 17


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: choice(["one"]), "at least two"),
        (lambda: choice(["one", "one"]), "at least two"),
        (lambda: choice(["one", ""]), "none of them empty"),
        (lambda: choice("ab"), "must be a list"),
        (lambda: regex(7), "must be a string"),
        (lambda: regex("\ud800"), "half a letter"),
        (lambda: json_schema("{"), "is no JSON"),
        (lambda: json_schema("[1]"), "must be an object"),
        (lambda: json_schema({"a": {1, 2}}), "is no JSON"),
        (lambda: json_schema({}, depth=7), "from 1 to 6"),
    ],
)
def test_a_broken_language_is_one_line(make: Any, words: str) -> None:
    with pytest.raises(GrammarError, match=words):
        make()


def test_a_call_of_a_tool_or_free_text() -> None:
    made = compiled(tools({"add": {"type": "object", "properties": {"a": {"type": "integer"}}}}, free=True).expression())
    texts = ['{"name": "add", "arguments": {"a":1}}', '{"name": "add"}', "Hello", "", "{"]
    assert [made.accepts(text.encode()) for text in texts] == [True, False, True, True, False]
