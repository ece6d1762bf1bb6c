"""A trace holds what the engine did, its pieces join to the text, and other files are refused."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import unmask
from unmask.engine.text import decode
from unmask.methods.table import looks
from unmask.models.toy import toy
from unmask.view.text import pieces
from unmask.view.trace import VERSION, Recorder, Trace, read, write

QUESTION = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"
LENGTH = 64
# One token per byte: every character beyond ASCII is spread over several tokens.
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
BYTES = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(ALPHABET)}, merges=[]))
BYTES.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
BYTES.decoder = decoders.ByteLevel()
BYTE_LEVEL = PreTrainedTokenizerFast(tokenizer_object=BYTES, clean_up_tokenization_spaces=False)
TINY = unmask.load("unmask-tiny-base").tokenizer


def record(method: str, prompts: list[str]) -> tuple[list[unmask.StepRecord], list[unmask.Completion], list[Trace]]:
    """The engine's records, its answers, and the traces."""
    recorder, records = Recorder(unmask.load("unmask-tiny-base"), LENGTH), list[unmask.StepRecord]()

    def observe(step: unmask.StepRecord) -> None:
        records.append(step)
        recorder(step)

    done = unmask.generate(unmask.load("unmask-tiny-base"), prompts, method=method, max_new_tokens=LENGTH, observer=observe)
    settings = unmask.method(method).to_dict()
    traces = [
        recorder.trace(index, prompt=prompt, method=method, settings=settings, completion=done[index])
        for index, prompt in enumerate(prompts)
    ]
    return records, done, traces


@pytest.mark.parametrize("method", ["vanilla", "fast-dllm", "streaming-dllm", "r2-dllm", "freedave"])
def test_a_trace_is_what_happened_to_each_row(method: str) -> None:
    records, done, traces = record(method, [QUESTION, "Compute 3 + 4."])
    for index, (completion, trace) in enumerate(zip(done, traces, strict=True)):
        steps = [(step, step.rows.index(index)) for step in records if index in step.rows]
        assert trace.forwards == completion.forwards == len(steps)
        assert sum(step.queried for step in trace.steps) == completion.query_tokens
        assert "".join(trace.pieces[: trace.tokens]) == trace.text == completion.text
        assert (trace.tokens, trace.finish_reason) == (completion.tokens, completion.finish_reason)
        written: dict[int, int] = {}
        for kept, (step, row) in zip(trace.steps, steps, strict=True):
            assert [commit.rule for commit in kept.commits] == step.rule[row]
            for commit in kept.commits:
                assert commit.place not in written
                written[commit.place] = commit.token
                place = commit.place - kept.start
                assert commit.confidence is None or commit.confidence == pytest.approx(step.confidence[row][place], abs=1e-4)
                assert commit.confidence is None or commit.token == step.candidate[row][place]
            block = range(kept.start, kept.start + len(step.block[row]))
            assert [draft.place for draft in kept.drafts] == [place for place in block if place not in written]
        assert [written[place] for place in range(trace.tokens)] == completion.token_ids[: trace.tokens]


def test_only_checked_drafts_have_no_confidence() -> None:
    plain, drafted = record("vanilla", [QUESTION])[2][0], record("freedave", [QUESTION])[2][0]
    assert all(commit.confidence is not None for step in plain.steps for commit in step.commits)
    unsure = [commit for step in drafted.steps for commit in step.commits if commit.confidence is None]
    assert 0 < len(unsure) < sum(len(step.commits) for step in drafted.steps)


def test_cells_go_from_masked_over_drafts_to_written() -> None:
    trace = record("r2-dllm", [QUESTION])[2][0]
    assert {tuple(cell) for cell in trace.cells(0)} == {(None, None, None)}
    drafted = [cell for cell in trace.cells(1) if cell.text is not None and cell.rule is None]
    assert len(drafted) == len(trace.steps[0].drafts) > 0
    end = trace.cells(trace.forwards)
    assert "".join(cell.text or "" for cell in end[: trace.tokens]) == trace.text
    assert {cell.rule for cell in end[: trace.tokens]} <= set(trace.rules)
    assert {name: looks()[name] for name in trace.rules} == trace.rules


# --- pieces ---------------------------------------------------------------------------------------------------------


def edited() -> tuple[list[unmask.StepRecord], Trace]:
    """A decode that rewrites, of a prompt that ends inside a block of the grid; tokens are shown as ids."""
    model = toy("sdar", seed=5, sharpness=3)
    recorder, records = Recorder(model, 14), list[unmask.StepRecord]()

    def observe(step: unmask.StepRecord) -> None:
        records.append(step)
        recorder(step)

    method = unmask.method("llada2.1", mode="speed")
    done = unmask.generate(model, [[3, 4, 5]], method=method, max_new_tokens=14, observer=observe)
    return records, recorder.trace(prompt="3 4 5", method="llada2.1", settings=method.to_dict(), completion=done[0])


def shows(trace: Trace, records: list[unmask.StepRecord], mask_id: int) -> None:
    """Assert that before every forward the cells are the block that it began with."""
    for forward, step in enumerate(records):
        cells = trace.cells(forward)
        for place, token in enumerate(step.block[0], step.start[0] - step.prompt[0]):
            if 0 <= place < trace.length:
                shown = cells[place].text if cells[place].rule else None
                assert shown == (None if token == mask_id else f" {token}")


def test_rewritten_tokens_stand_in_the_cells_of_their_time() -> None:
    records, trace = edited()
    shows(trace, records, toy("sdar").spec.mask_id)
    rewritten = [commit for step in trace.steps for commit in step.commits if commit.text is not None]
    assert rewritten
    ends = trace.cells(trace.forwards)
    assert {commit.place for commit in rewritten} <= {place for place, cell in enumerate(ends) if cell.before is not None}
    assert all(cell.rule == "edit" for cell in ends if cell.before is not None)


def test_a_block_that_begins_in_the_prompt_begins_with_the_answer() -> None:
    records, trace = edited()
    assert records[0].start[0] < records[0].prompt[0]
    assert [trace.steps[0].start, trace.steps[0].drafts[0].place if trace.steps[0].drafts else 0] == [0, 0]
    assert min(commit.place for step in trace.steps for commit in step.commits) == 0


def test_a_deleted_token_leaves_its_place() -> None:
    model = toy("sdar")
    recorder, mask_id = Recorder(model, 4), model.spec.mask_id
    first = unmask.StepRecord(
        forward=0,
        rows=[0],
        refresh=[True],
        query_tokens=[[mask_id] * 4],
        committed=[[0, 1, 2]],
        tokens=[[7, 8, 9]],
        rule=[["indel"] * 3],
        prompt=[0],
        start=[0],
        block=[[mask_id] * 4],
        candidate=[[7, 8, 9, 6]],
        confidence=[[0.9, 0.8, 0.7, 0.2]],
    )
    # The token at 0 goes, and what stood behind it moves to the left.
    second = dataclasses.replace(
        first, forward=1, refresh=[False], tokens=[[8, 9, mask_id]], block=[[7, 8, 9, mask_id]], candidate=[[5, 8, 9, 6]]
    )
    recorder(first)
    recorder(second)
    trace = recorder.trace()
    assert [cell.text for cell in trace.cells(1)] == [" 7", " 8", " 9", " 6"]
    assert trace.cells(2) == [(" 8", "indel", " 7"), (" 9", "indel", " 8"), (None, None, None), (None, None, None)]
    assert trace.steps[1].emptied == (2,)
    assert [commit.confidence for commit in trace.steps[1].commits] == [None, None]
    assert Trace.from_dict(json.loads(json.dumps(trace.to_dict()))) == trace


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_a_decode_that_deletes_and_splits_is_shown_as_it_was(seed: int) -> None:
    model = toy("llada2_2", seed=seed, sharpness=3)
    recorder, records = Recorder(model, 30), list[unmask.StepRecord]()

    def observe(step: unmask.StepRecord) -> None:
        records.append(step)
        recorder(step)

    unmask.generate(model, [[3, 4, 5]], method="llada2.2", max_new_tokens=30, observer=observe)
    trace = recorder.trace()
    shows(trace, records, model.spec.mask_id)
    assert any(step.emptied for step in trace.steps)


def test_what_a_grammar_refuses_is_in_the_trace(tmp_path: Path) -> None:
    """Of each forward the likeliest token of every masked position that no text of the grammar can have there."""
    model, records = unmask.load("unmask-tiny-base"), list[unmask.StepRecord]()
    recorder = Recorder(model, LENGTH)

    def observe(step: unmask.StepRecord) -> None:
        records.append(step)
        recorder(step)

    settings = {"method": "fast-dllm", "max_new_tokens": LENGTH}
    held, _ = unmask.generate(model, [QUESTION, QUESTION], regex=["[a-z ]*[.]", None], observer=observe, **settings)
    trace, likely = recorder.trace(completion=held), records[0].candidate[1]  # the free row's, before anything is written
    assert len(trace.steps[0].refused) > 3
    assert all(likely[refused.place] == refused.token for refused in trace.steps[0].refused)
    for step, record in zip(trace.steps, (record for record in records if 0 in record.rows), strict=True):
        written = {commit.place for commit in step.commits} | {draft.place for draft in step.drafts}
        assert {refused.place for refused in step.refused} <= written
        assert not any(re.fullmatch("[a-z ]+", refused.text) for refused in step.refused)
        assert len(record.refused) == len(record.rows)
    assert not recorder.trace(1).steps[0].refused
    path = tmp_path / "held.json"
    write(path, [trace])
    assert read(path) == (trace,)


def test_a_trace_of_version_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "two.json"
    trace = record("r2-dllm", [QUESTION])[2][0]
    write(path, [trace])
    document = json.loads(path.read_text()) | {"version": 2}
    for step in document["traces"][0]["steps"]:
        del step["emptied"], step["refused"]
        step["commits"] = [commit[:4] for commit in step["commits"]]
    path.write_text(json.dumps(document))
    assert read(path) == (trace,)


def test_a_character_of_several_tokens_belongs_to_its_last() -> None:
    ids = BYTE_LEVEL.encode("a€ 😀!")
    assert pieces(BYTE_LEVEL, ids) == ["a", "", "", "€", " ", "", "", "", "😀", "!"]


def test_a_leading_space_belongs_to_its_word() -> None:
    assert pieces(TINY, TINY.encode("So Mia has 33 apples.")) == ["So", " Mia", " has", " 3", "3", " apples", "."]


@given(st.text(max_size=40))
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(pieces(BYTE_LEVEL, BYTE_LEVEL.encode(text))) == text


@given(st.lists(st.integers(0, 255), max_size=40))
def test_pieces_join_to_whatever_a_model_wrote(token_ids: list[int]) -> None:
    assert "".join(pieces(BYTE_LEVEL, token_ids)) == decode(BYTE_LEVEL, token_ids)


@given(st.lists(st.integers(3, len(TINY) - 1).filter(lambda token: not TINY.convert_ids_to_tokens(token).startswith("<"))))
def test_pieces_join_with_a_decoder_that_looks_around(token_ids: list[int]) -> None:
    assert "".join(pieces(TINY, token_ids)) == decode(TINY, token_ids)


@given(st.text(max_size=40))
def test_pieces_join_where_unknown_characters_fall_back_to_bytes(text: str) -> None:
    token_ids = TINY.encode(text, add_special_tokens=False)
    assert "".join(pieces(TINY, token_ids)) == decode(TINY, token_ids)


def test_a_model_without_a_tokenizer_shows_ids() -> None:
    model = toy(sharpness=4.0)
    recorder = Recorder(model, 16)
    done = unmask.generate(
        model, [[3, 4, 5]], method=unmask.method("r2-dllm", block_length=8), max_new_tokens=16, observer=recorder
    )
    trace = recorder.trace(completion=done[0])
    shown = "".join(trace.pieces[: done[0].tokens])
    assert shown.split() == [str(token) for token in done[0].token_ids[: done[0].tokens]]


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_gives_back_the_same_traces(tmp_path: Path) -> None:
    traces = record("r2-dllm", [QUESTION])[2] + record("freedave", [QUESTION])[2]
    write(tmp_path / "kept.json", traces)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.json"]
    for kept, trace in zip(read(tmp_path / "kept.json"), traces, strict=True):
        assert kept == trace
        assert Trace.from_dict(trace.to_dict()) == trace


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda document: [], "not a trace"),
        (lambda document: {"text": "an answer"}, "not a trace; `unmask generate PROMPT --trace"),
        (lambda document: document | {"version": VERSION + 1}, f"version {VERSION + 1}; this unmask reads version {VERSION}"),
        (lambda document: document | {"traces": []}, "holds no trace"),
        (lambda document: document | {"traces": [{}]}, "damaged"),
        (lambda document: document | {"traces": 3}, "damaged"),
    ],
)
def test_a_file_that_is_not_a_trace_is_refused(change: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    write(path, record("fast-dllm", [QUESTION])[2])
    path.write_text(json.dumps(change(json.loads(path.read_text()))))  # type: ignore[operator]
    with pytest.raises(unmask.ConfigError, match=r"kept\.json: ") as raised:
        read(path)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("commit", "said"),
    [
        ([0, 5, "", 0.9], "a rule without a name"),
        ([0, 5, ["threshold"], 0.9], "a rule without a name"),
        ([LENGTH, 5, "threshold", 0.9], "outside the answer"),
        ([0, 5, "threshold", 1.5], "from 0 to 1"),
        ([0, 5, "threshold", float("nan")], "from 0 to 1"),
        ([0, 5, "threshold"], "damaged"),
        (["0", 5, "threshold", 0.9], "damaged"),
    ],
)
def test_a_damaged_commit_is_found(commit: list[object], said: str, tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    write(path, record("fast-dllm", [QUESTION])[2])
    document = json.loads(path.read_text())
    document["traces"][0]["steps"][0]["commits"][0] = commit
    path.write_text(json.dumps(document))
    with pytest.raises(unmask.ConfigError, match=r"kept\.json: ") as raised:
        read(path)
    assert said in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(unmask.ConfigError, match="No such file"):
        read(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\x00")
    with pytest.raises(unmask.ConfigError, match="not a trace"):
        read(tmp_path / "binary.json")


def test_a_trace_is_a_value() -> None:
    trace = record("r2-dllm", [QUESTION])[2][0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        trace.tokens = 3  # type: ignore[misc]
