"""What users can get wrong, where answers end, and what an observer sees."""

import copy
import dataclasses

import pytest

import unmask
from unmask.engine.generate import answer, make_request
from unmask.engine.text import read
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS, MASK, toy

MODEL = toy("llada", seed=5, sharpness=3)


@pytest.mark.parametrize(
    ("prompts", "options", "kind", "words"),
    [
        ([[]], {}, unmask.EmptyPrompt, ["empty"]),
        ([[1, MASK]], {}, unmask.MaskInPrompt, ["mask id 23", "position 1"]),
        ([[1] * 500], {}, unmask.PromptTooLong, ["500 prompt tokens", "512", "by 116"]),
        ([[1, 99]], {}, unmask.RequestError, ["99", "0 to 23"]),
        ([[1]], {"method": unmask.method("vanilla", steps=30)}, unmask.ConfigError, ["steps 30", "use 32"]),
        ([[1]], {"max_new_tokens": 0}, unmask.ConfigError, ["max_new_tokens"]),
        ([[1]], {"temperature": -1.0}, unmask.ConfigError, ["temperature"]),
        ([[1]], {"top_p": 2.0}, unmask.ConfigError, ["top_p"]),
        ([[1]], {"method": "r2dllm"}, unmask.ConfigError, ["did you mean 'r2-dllm'"]),
        ([[1]], {"stop": ["x"]}, unmask.ConfigError, ["tokenizer"]),
        ([[1]], {"seed": -1}, unmask.ConfigError, ["seed", "-1"]),
        ([[{"role": "user"}]], {}, unmask.ConfigError, ["token ids"]),
        ([[1]], {"seed": [1, 2]}, unmask.ConfigError, ["2 seeds", "1 prompts"]),
        (["hello"], {}, unmask.ConfigError, ["no tokenizer"]),
        ("hello", {}, unmask.ConfigError, ["[prompt]"]),
    ],
)
def test_bad_requests_are_named_before_the_first_forward(
    prompts: list[list[int]], options: dict[str, object], kind: type[Exception], words: list[str]
) -> None:
    calls: list[unmask.StepRecord] = []
    with pytest.raises(kind) as caught:
        unmask.generate(MODEL, prompts, observer=calls.append, **options)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)
    assert not calls


@pytest.mark.parametrize("name", unmask.methods.TABLE)
@pytest.mark.parametrize("limit", [1, 11, 16, 29, 32])
def test_a_limit_cuts_the_answer_at_any_token(name: str, limit: int) -> None:
    request = make_request(MODEL, [1, 2], method=unmask.method(name, block_length=8), max_new_tokens=32)
    whole, cut = answer(MODEL, [request, dataclasses.replace(request, limit=limit)])
    assert cut.token_ids == whole.token_ids[:limit]
    assert cut.tokens == min(whole.tokens, limit)
    assert cut.finish_reason == ("stop" if whole.tokens < limit else "length")
    assert cut.forwards <= whole.forwards


def test_a_turns_end_is_an_end_for_ours_and_for_every_count() -> None:
    """A token that ends a chat turn: ours leaves there, the published decoder goes on, both count up to it."""
    whole = unmask.generate(MODEL, [[1, 2]], method=unmask.method("vanilla", block_length=16), max_new_tokens=32)[0]
    turn = whole.token_ids[5]
    place = whole.token_ids.index(turn)
    network = copy.copy(MODEL.network)
    network.spec = dataclasses.replace(MODEL.spec, turn_ids=(turn,))
    model = Denoiser(network=network, tokenizer=None, name="turns")
    ours = unmask.generate(model, [[1, 2]], method=unmask.method("vanilla", block_length=16), max_new_tokens=32)[0]
    published = unmask.generate(model, [[1, 2]], method=unmask.method("vanilla-official", block_length=16), max_new_tokens=32)[
        0
    ]
    assert (ours.tokens, ours.finish_reason) == (place, "stop")
    assert ours.forwards < whole.forwards
    assert published.forwards == 32
    assert published.token_ids[published.tokens] in (turn, EOS)


def test_a_custom_eos_cuts_text_and_tokens_too() -> None:
    whole = unmask.generate(MODEL, [[1, 2]], method=unmask.method("vanilla", block_length=16), max_new_tokens=32)[0]
    eos = whole.token_ids[3]
    settings = unmask.method("vanilla", block_length=16).to_dict() | {"stop_at_eos": {"check": "every step", "eos_id": eos}}
    cut = unmask.generate(MODEL, [[1, 2]], method=unmask.Method.from_dict(settings), max_new_tokens=32)[0]
    assert cut.tokens == whole.token_ids.index(eos)
    assert set(cut.token_ids[cut.tokens :]) == {eos}
    assert cut.finish_reason == "stop"


def test_no_prompts_no_completions() -> None:
    assert unmask.generate(MODEL, []) == []


def test_an_argument_wins_over_the_method() -> None:
    method = unmask.method("r2-dllm", max_new_tokens=64, temperature=0.7, block_length=16)
    assert len(unmask.generate(MODEL, [[1, 2]], method=method)[0].token_ids) == 64
    cold = unmask.generate(MODEL, [[1, 2]], method=method, max_new_tokens=32, temperature=0.0)[0]
    plain = unmask.generate(MODEL, [[1, 2]], method=unmask.method("r2-dllm", block_length=16), max_new_tokens=32)[0]
    assert cold.token_ids == plain.token_ids


def test_ours_stops_at_the_first_eos_and_the_published_goes_on() -> None:
    model = toy("dream", seed=5, sharpness=3)
    prompts = [[token, token + 3] for token in range(16)]
    ours = unmask.generate(model, prompts, method=unmask.method("fast-dllm", block_length=16), max_new_tokens=64)
    stopped = [row for row in ours if row.finish_reason == "stop"]
    assert stopped
    for row in stopped:
        assert row.token_ids[row.tokens] == EOS
        assert set(row.token_ids[row.tokens :]) == {EOS}
        assert EOS not in row.token_ids[: row.tokens]
        assert row.tokens_per_forward == row.tokens / row.forwards
    published = unmask.generate(model, prompts, method=unmask.method("fast-dllm-official", block_length=16), max_new_tokens=64)
    saved = [(row.forwards, other.forwards) for row, other in zip(ours, published, strict=True) if row.tokens < 16]
    assert all(mine < theirs for mine, theirs in saved)
    assert saved


def test_an_observer_sees_every_commit_once() -> None:
    for name in ("r2-dllm", "freedave", "r2-dllm-official"):
        records: list[unmask.StepRecord] = []
        prompts = [[1, 2, 3], [4] * 9]
        rows = unmask.generate(
            MODEL, prompts, method=unmask.method(name, block_length=16), max_new_tokens=32, observer=records.append
        )
        assert [record.forward for record in records] == list(range(len(records)))
        for index, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            mine = [(record, record.rows.index(index)) for record in records if index in record.rows]
            assert len(mine) == row.forwards
            assert sum(len(record.query_tokens[at]) for record, at in mine) == row.query_tokens
            places = [place for record, at in mine for place in record.committed[at]]
            tokens = [token for record, at in mine for token in record.tokens[at]]
            rules = [rule for record, at in mine for rule in record.rule[at]]
            assert len(places) == len(set(places)) == len(tokens) == len(rules)
            answer = dict(zip(places, tokens, strict=True))
            for place in range(len(prompt), len(prompt) + row.tokens):
                assert answer[place] == row.token_ids[place - len(prompt)]
            assert set(rules) <= {"threshold", "confidence_cluster", "token_cluster", "temporal", "quota"}


class Letters:
    """A tokenizer of one letter a token."""

    chat_template = None

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(97 + token) for token in ids if token < EOS)

    def encode(self, text: str, verbose: bool = True) -> list[int]:
        return [ord(letter) - 97 for letter in text]


def test_answers_are_cut_at_the_first_of_eos_and_stop_strings() -> None:
    assert read([0, 1, 2, EOS, 3], Letters(), (EOS,))[:3] == ("abc", 3, True)
    assert read([0, 1, 2, 3], Letters(), (EOS,), ["cd", "z"])[:3] == ("ab", 2, True)
    assert read([0, 1, 2, 3], Letters(), (EOS,), ["d", "b"])[:3] == ("a", 1, True)
    assert read([0, 1, 2, 3], Letters(), (EOS,))[:3] == ("abcd", 4, False)
    assert read([0, 1, EOS], None, (EOS,))[:3] == ("", 2, True)


def test_a_stop_string_ends_a_row_early() -> None:
    model = Denoiser(network=MODEL.network, tokenizer=Letters(), name="letters")
    method = unmask.method("vanilla", block_length=16)
    whole = unmask.generate(model, ["abc"], method=method, max_new_tokens=48)[0]
    stop = whole.text[3:5]
    cut = unmask.generate(model, ["abc"], method=method, max_new_tokens=48, stop=[stop])[0]
    assert cut.text == whole.text[: whole.text.find(stop)]
    assert cut.finish_reason == "stop"
    assert cut.forwards < whole.forwards
    assert len(cut.token_ids) == 48
    assert set(cut.token_ids[cut.tokens :]) == {EOS}
