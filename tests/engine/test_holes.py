"""Canvases: fixed text survives every method, and holes are decoded as their rows alone would be."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unmask
from tests.bytewise import Bytes
from tests.reference import alone, forwards_of, same_forward
from unmask.engine.engine import Engine, Limits
from unmask.engine.generate import answer, make_request
from unmask.engine.holes import CanvasPrompt, Hole
from unmask.engine.request import Request
from unmask.methods import TABLE
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS, MASK, toy

MODELS = {
    ("llada", None): toy("llada", seed=5, sharpness=3, dtype=torch.float64),
    ("dream", None): toy("dream", seed=5, sharpness=3, dtype=torch.float64),
    ("sdar", 4): toy("sdar", seed=5, sharpness=3, dtype=torch.float64),
    ("llada2_2", 4): toy("llada2_2", seed=5, sharpness=3, dtype=torch.float64),
    ("fast_dllm_v2", 4): toy("fast_dllm_v2", seed=5, sharpness=3, dtype=torch.float64),
}
CANVASES = {
    "in the middle": ([1, 2, 3], Hole(5), [4, 5, 6]),
    "at the beginning": (Hole(3), [4, 5]),
    "at the end": ([1, 2], Hole(6)),
    "next to each other": ([1], Hole(2), Hole(3, "early"), Hole(2), [7]),
    "across block borders": ([1, 2, 3], Hole(11), [4], Hole(13, "early"), [5, 6]),
    "one token": ([1, 2], Hole(1), [3, 4]),
    "nothing else": (Hole(4), Hole(9, "early")),
    "an end among the text": ([1, EOS], Hole(3), [EOS, 5], Hole(10, "early"), [EOS]),
    "whole blocks of text": ([1], Hole(2), [3] * 20, Hole(2)),
}


def canvas(name: str) -> CanvasPrompt:
    return unmask.canvas(*CANVASES[name], blind=True)


def request(model: Denoiser, canvas: CanvasPrompt, name: str, **options: Any) -> Request:
    length = {} if model.spec.block is not None else {"block_length": 8}
    return make_request(model, canvas, method=unmask.method(name, **length, **options))


def expect_whole(model: Denoiser, asked: Request, done: unmask.Completion) -> None:
    """What every answer to a canvas has: its fixed tokens, full holes, and filler behind the ends of those that ended."""
    assert asked.layout is not None
    assert len(done.token_ids) == asked.limit
    assert {offset: done.token_ids[offset] for offset in asked.fixed if offset < len(done.token_ids)} == {
        offset: token for offset, token in asked.fixed.items() if offset < len(done.token_ids)
    }
    assert MASK not in done.token_ids
    ends, tokens = (EOS,), 0
    for gap in asked.layout.gaps:
        ids = done.token_ids[gap.start : gap.end]
        used = next((place for place, token in enumerate(ids) if token in ends), len(ids)) if gap.early else len(ids)
        assert gap.early or EOS not in ids
        assert all(token == EOS for token in ids[used:])
        tokens += used
    assert done.tokens == tokens
    assert len(done.holes) == len(asked.layout.gaps)
    if done.method.edit is None and not done.method.official:  # those take rounds that write nothing new
        assert done.forwards <= sum(gap.end - gap.start for gap in asked.layout.gaps)


@pytest.mark.parametrize("where", MODELS)
@pytest.mark.parametrize("name", TABLE)
def test_fixed_text_survives_every_method(name: str, where: tuple[str, int | None]) -> None:
    """In one batch, few at a time and ahead of the host: what the reference loop makes of each alone."""
    model = MODELS[where]
    turn = (list(TABLE).index(name) + list(MODELS).index(where)) % 3  # every third canvas: all of them come up with each model
    requests = [request(model, canvas(one), name) for one in list(CANVASES)[turn::3]]
    limits = Limits.fitting(model, requests, rows=2)
    expected = [alone(model, one) for one in requests]
    for done in (answer(model, requests), Engine(model, limits, ahead=True).generate(requests)):
        assert [dataclasses.replace(row, seconds=0.0) for row in done] == expected
    for asked, row in zip(requests, expected, strict=True):
        expect_whole(model, asked, row)


@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fast-dllm", {"cache": "prefix"}),
        ("fast-dllm", {"cache": "none", "draft_steps": 3}),
        ("r2-dllm", {"cache": "dual", "draft_steps": 4}),
        ("freedave-official", {}),
        ("streaming-dllm", {"suffix_window": 2, "suffix_tail": 1}),
        ("fast-dllm", {"blocks": {"count": 3, "add": 0.2}}),
        ("r2-dllm", {"blocks": {"count": 2, "add": 0.5}, "draft_steps": 3}),
        ("vanilla", {"steps": None, "schedule": "timestep", "score": "margin"}),
        ("vanilla", {"temperature": 1.0, "top_p": 0.8}),
        ("llada2.1", {}),
        ("localleap", {}),
    ],
)
def test_contexts_drafts_and_several_blocks_change_nothing(
    name: str, options: dict[str, Any], family: str, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Denoiser, "replayable", stays)
    model = MODELS[family, None]
    method = unmask.method(name, block_length=8, **options)
    requests = [make_request(model, canvas(one), method=method) for one in list(CANVASES)[int(stays) :: 2]]
    plain = [make_request(model, [1, 2, 3], method=method, max_new_tokens=16)]
    records: list[unmask.StepRecord] = []
    done = answer(model, [*requests, *plain], records.append)
    for asked, row in zip(requests, done, strict=False):
        assert dataclasses.replace(row, seconds=0.0) == alone(model, asked)
        expect_whole(model, asked, row)
    assert dataclasses.replace(done[-1], seconds=0.0) == alone(model, plain[0])
    engine = Engine(model)
    for asked in requests:
        engine.submit(asked, watch=True)
        seen = [progress.record for _ in range(200) if engine.busy for progress in engine.step()]
        forwards = forwards_of(model, asked).forwards
        assert all(same_forward(record, forward) for record, forward in zip(seen, forwards, strict=True) if record)


def test_a_draft_of_a_canvas_changes_no_token() -> None:
    saved = 0
    model = toy("llada", seed=3, sharpness=4, dtype=torch.float64)
    for name in ("vanilla", "fast-dllm", "r2-dllm"):
        for one in CANVASES:
            base, drafted = (
                answer(model, [request(model, canvas(one), name, **options)])[0] for options in ({}, {"draft_steps": 4})
            )
            assert drafted.token_ids == base.token_ids
            saved += base.forwards - drafted.forwards
    assert saved > 0


parts = st.one_of(
    st.lists(st.integers(0, EOS), max_size=9),
    st.builds(Hole, st.integers(1, 12), st.sampled_from(["filled", "early"])),
)


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(parts, min_size=1, max_size=6).filter(lambda pieces: any(pieces)),
    name=st.sampled_from(sorted(TABLE)),
    family=st.sampled_from(["llada", "dream"]),
    block=st.sampled_from([1, 3, 8, None]),
    seed=st.integers(0, 3),
)
def test_any_canvas_in_any_blocks(pieces: list[Any], name: str, family: str, block: int | None, seed: int) -> None:
    model = MODELS[family, None]
    method = unmask.method(name, block_length=block, temperature=float(seed > 1))
    asked = make_request(model, unmask.canvas(*pieces), method=method, seed=seed)
    (done,) = answer(model, [asked])
    expect_whole(model, asked, done)
    if any(isinstance(piece, Hole) for piece in pieces):
        assert dataclasses.replace(done, seconds=0.0) == alone(model, asked)
    else:
        assert (done.forwards, done.finish_reason, done.holes, done.token_ids) == (0, "stop", [], [])


def test_a_canvas_without_holes_costs_no_forward_beside_others() -> None:
    model = dataclasses.replace(MODELS["llada", None], tokenizer=Bytes())
    whole, plain = unmask.canvas("abc", [3], "é"), [1, 2, 3]
    records: list[unmask.StepRecord] = []
    done = unmask.generate(model, [whole, plain, whole], method="vanilla", observer=records.append)
    assert [(row.text, row.forwards, row.finish_reason) for row in (done[0], done[2])] == [("abcdé", 0, "stop")] * 2
    assert len(records) == done[1].forwards > 0
    assert all(record.rows == [1] for record in records)
    engine = Engine(model)
    engine.submit(make_request(model, whole))
    assert [progress.text for progress in engine.step()] == ["abcdé"]
    assert not engine.busy


# --- text -------------------------------------------------------------------------------------------------------------


def test_the_text_is_the_canvas_with_its_holes_filled_and_comes_piece_by_piece() -> None:
    model = dataclasses.replace(MODELS["llada", None], tokenizer=Bytes())
    asked = unmask.canvas("ab ", unmask.hole(9), " é", unmask.hole(12, end="early"), [9, 8], unmask.hole(2), " d")
    for name in ("vanilla", "fast-dllm", "llada2.1"):
        made = make_request(model, asked, method=unmask.method(name, block_length=8))
        engine = Engine(model)
        engine.submit(made, watch=True)
        text = ""
        while engine.busy:
            for progress in engine.step():
                text += progress.text
                if progress.draft is not None:
                    assert progress.draft.start == len(text)
        done = progress.completion
        assert done is not None
        first, second, third = done.holes
        assert text == done.text == f"ab {first} é{second}\ufffd {third} d" or text == done.text
        assert done.text.startswith(f"ab {first} é{second}")
        assert done.text.endswith(f"{third} d")
        assert first.encode(errors="replace")


def test_a_hole_reads_as_the_tokenizer_writes_it_behind_what_precedes() -> None:
    model = unmask.load("unmask-tiny")
    question = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"
    given = "Mia starts with 23 apples. On Monday Mia buys 8, so"
    (done,) = unmask.generate(model, [unmask.canvas(given, unmask.hole(8), " The answer is 31.", chat=question)])
    assert done.text == given + done.holes[0] + " The answer is 31."
    (whole,) = unmask.generate(model, [unmask.canvas(unmask.hole(64, end="early"), chat=question)])
    assert whole.text == whole.holes[0] == unmask.generate(model, [question])[0].text
    assert whole.finish_reason == "stop"


def test_a_stop_string_ends_a_hole_that_may_end_early() -> None:
    model = unmask.load("unmask-tiny")
    question = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"
    asked = unmask.canvas("Mia", unmask.hole(64, end="early"), chat=question)
    whole, cut = (unmask.generate(model, [asked], method=unmask.method("vanilla"), stop=stop)[0] for stop in ([], [" On"]))
    assert cut.holes == [whole.holes[0][: whole.holes[0].index(" On")]]
    assert cut.text == "Mia" + cut.holes[0]
    assert cut.finish_reason == "stop"
    assert cut.forwards < whole.forwards
    assert len(cut.token_ids) == 64
    with pytest.raises(unmask.ConfigError, match="early"):
        unmask.generate(model, [unmask.canvas("Mia", unmask.hole(4))], stop=["."])


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_block_causal_model_fills_what_it_cannot_see_around_only_by_name() -> None:
    model = MODELS["sdar", 4]
    seen = unmask.canvas([1, 2], unmask.hole(9))  # nothing stands behind the hole
    assert len(unmask.generate(model, [seen])[0].token_ids) == 9
    with pytest.raises(unmask.RequestError, match="cannot see what follows"):
        unmask.generate(model, [unmask.canvas([1, 2], unmask.hole(9), [3])])
    (done,) = unmask.generate(model, [unmask.canvas([1, 2], unmask.hole(9), [3], blind=True)])
    assert done.token_ids[-1] == 3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: unmask.hole(0), "at least 1"),
        (lambda: unmask.hole(3, end="later"), "filled, early"),
        (lambda: unmask.canvas("a", 3.5), "a string, a list of token ids or a hole"),
        (lambda: unmask.canvas(""), "empty"),
        (lambda: unmask.canvas([]), "empty"),
        (lambda: unmask.canvas("a", chat=3), "a question, or a list of turns"),
        (lambda: unmask.generate(MODELS["llada", None], [unmask.canvas([1], Hole(2))], max_new_tokens=8), "max_new_tokens"),
        (lambda: unmask.generate(MODELS["llada", None], [unmask.canvas("a", Hole(2))]), "no tokenizer"),
        (lambda: unmask.generate(MODELS["llada", None], [unmask.canvas([MASK], Hole(2))]), "mask id"),
        (lambda: unmask.generate(MODELS["llada", None], [unmask.canvas(Hole(2), [MASK])]), "fixed text holds the id 23"),
        (lambda: unmask.generate(MODELS["llada", None], [unmask.canvas(Hole(600))]), "exceed the model's 512"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make: Any, words: str) -> None:
    with pytest.raises(unmask.UnmaskError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
