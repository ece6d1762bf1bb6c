"""What collecting does with prompts that cannot be answered, with greedy answers, with block-causal models; verdicts."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

import unmask
from unmask.data.records import records
from unmask.files import read_journal
from unmask.methods import TABLE
from unmask.tasks.answers import stated_number
from unmask.train.collect import CollectConfig, collect
from unmask.train.verdict import verdicts

GOOD = '{"prompt": "Compute 3 + 4.", "answer": 7}\n'


def config(tmp_path: Path, **changes: Any) -> CollectConfig:
    settings = {"model": "unmask-tiny", "output": str(tmp_path / "out.jsonl"), "limit": 9, "max_new_tokens": 32}
    return CollectConfig.from_dict(settings | {"candidates": 1, "temperature": 0, "batch": 2} | changes)


def test_a_bad_prompt_costs_its_own_line(tmp_path: Path) -> None:
    """Too long, the mask in it, half a letter, no JSON, not UTF-8, no prompt, blank; a BOM and blank lines are no fault."""
    bad = [json.dumps({"prompt": text}) for text in ("word " * 600, "a <|mask|>", "half \ud83d")]
    lines = [b"\xef\xbb\xbf" + GOOD.encode(), *(f"{line}\n".encode() for line in bad)]
    lines += [
        b"nonsense\n",
        b'{"prompt": "caf\xe9"}\n',
        b'{"question": "Why?"}\n',
        b'{"prompt": " "}\n',
        b"\n",
        GOOD.encode(),
        b" \n",
    ]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_bytes(b"".join(lines))
    named: list[str] = []
    path = collect(config(tmp_path, prompts=str(prompts)), left_out=named.append)
    rows = read_journal(path, "collect")[1]
    assert [row["id"] for row in rows] == list(range(9))
    assert [len(row["candidates"]) for row in rows] == [1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert [row["error"] for row in rows[1:8]] == named
    said = ("exceed the model's 512", "mask id", "half a letter", "not JSON", "not UTF-8", "expected {", "expected {")
    for number, (error, words) in enumerate(zip(named, said, strict=True), start=2):
        assert error.startswith(f"{prompts}:{number}: "), error
        assert words in error
    text = path.read_text()
    for cut in (text.index('{"id": 3') + 9, text.index('{"id": 8')):
        path.write_text(text[:cut])
        again: list[str] = []
        assert collect(config(tmp_path, prompts=str(prompts)), left_out=again.append).read_text() == text
        assert again == named[2:] * (cut < text.index('{"id": 4'))  # what is on disk is not asked again


def test_a_file_without_prompts_ends_before_the_first_forward(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    for content, said in (('{"q": "Why?"}\n' * 3, r"no record is a prompt; .*prompts.jsonl:1: expected"), ("\n", "is empty")):
        prompts.write_text(content)
        with pytest.raises(unmask.ConfigError, match=said):
            collect(config(tmp_path, prompts=str(prompts)))
    with pytest.raises(unmask.ConfigError, match="no such file"):
        collect(config(tmp_path, prompts=str(tmp_path / "nowhere.jsonl")))
    assert not (tmp_path / "out.jsonl").exists()


def test_prompts_in_parquet(tmp_path: Path) -> None:
    table = pyarrow.table({"prompt": ["Compute 3 + 4.", None, "Compute 1 + 1."], "answer": [7, None, None]})
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    rows = read_journal(collect(config(tmp_path, prompts=str(tmp_path / "p.parquet"))), "collect")[1]
    assert [(row["prompt"], row["key"]) for row in rows] == [("Compute 3 + 4.", "7"), ("", None), ("Compute 1 + 1.", None)]
    assert rows[1]["error"].startswith(f"{tmp_path}/p.parquet:2: expected")
    (tmp_path / "p.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(unmask.ConfigError, match="not a parquet file"):
        list(records(tmp_path / "p.parquet"))


def test_greedy_answers(tmp_path: Path) -> None:
    """One answer per prompt at temperature 0, the one that `generate` gives; more than one would be copies."""
    row = read_journal(collect(config(tmp_path, mixture={"chain": 1.0}, limit=1)), "collect")[1][0]
    alone = unmask.generate(unmask.load("unmask-tiny"), [row["prompt"]], method="fast-dllm", max_new_tokens=32, temperature=0.0)
    assert [candidate["text"] for candidate in row["candidates"]] == [alone[0].text]
    with pytest.raises(unmask.ConfigError, match="set candidates to 1"):
        config(tmp_path, mixture={"chain": 1.0}, candidates=2)


@pytest.mark.parametrize("name", [name for name in TABLE if not name.startswith("r2-dllm")])
def test_every_method_collects_on_a_block_causal_model(name: str, tmp_path: Path) -> None:
    """Blocks on the grid, editing, moving and drafts: every token of an answer has the forward that wrote it."""
    made = collect(config(tmp_path, model="unmask-tiny-block", mixture={"chain": 1.0}, limit=2, method=name))
    for row in read_journal(made, "collect")[1]:
        (candidate,) = row["candidates"]
        assert len(candidate["steps"]) == len(candidate["token_ids"]) > 0
        assert 1 <= min(candidate["steps"]) <= max(candidate["steps"]) <= candidate["forwards"]
        if name.startswith("vanilla"):
            assert len(set(candidate["steps"])) == len(candidate["steps"])


def test_the_steps_of_a_decode_without_cache(tmp_path: Path) -> None:
    settings = {"commit": {"rule": "threshold", "threshold": 0.9}, "cache": "none", "stop_at_eos": {}}
    rows = read_journal(collect(config(tmp_path, mixture={"chain": 1.0}, limit=2, method=settings)), "collect")[1]
    assert all(candidate["steps"] for row in rows for candidate in row["candidates"])


# --- verdicts ---------------------------------------------------------------------------------------------------------

EIGHTEEN = (
    "The answer is $18.00.",
    "#### 18 dollars",
    r"\boxed{\$18}",
    r"The answer is \(18\).",
    "The answer is the number 18.",
    r"\boxed{18\text{ eggs}}",
)


@pytest.mark.parametrize("key", ["18", "18.0", "$18", " 18 ", "9 + 9 = 18\n#### 18"])
def test_answers_are_judged_as_the_evaluation_judges_them(key: str) -> None:
    assert verdicts(EIGHTEEN, key) == [stated_number(text) == 18 for text in EIGHTEEN] == [True] * 6
    assert verdicts(EIGHTEEN, "17") == [False] * 6


def test_a_majority_counts_values() -> None:
    assert verdicts([*EIGHTEEN, "The answer is 17.", "17"], None) == [True] * 6 + [False] * 2
    assert verdicts([r"\boxed{x^2}", r"so \boxed{x^2}", r"\boxed{y^2}"], None) == [True, True, False]
    assert verdicts([r"\boxed{(1, 2)}", r"\boxed{(1, 3)}"], None) == [False, False]


@pytest.mark.parametrize(
    ("key", "right", "wrong"),
    [
        ("0.5", ".5", "5"),
        ("5", "5%", "5.5"),
        ("1,007", "It is 1007.", "It is 1,008."),
        ("Paris", "The answer is **Paris**.", "The answer is Parisian."),
        ("2x", r"\boxed{2x}", "The answer is 2."),
        ("3.6", "#### 3.6", "The answer is 18/5."),
    ],
)
def test_keys(key: str, right: str, wrong: str) -> None:
    assert verdicts([right, wrong], key) == [True, False]
