"""A whole run at a toy's size: every part and every row, and the tables and the page made from them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from unmask.bench import decode, grammars, growth, page, presets, report, run, types, workload
from unmask.bench.peers import Peers
from unmask.bench.picture import draw
from unmask.bench.workload import Load
from unmask.errors import ConfigError
from unmask.methods import load
from unmask.models.llada import LLaDA

CPU = torch.device("cpu")
TOY = {"d_model": 32, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 48, "vocab_size": 24}
IDS = {"eos_token_id": 22, "mask_token_id": 23, "max_sequence_length": 512}
SMALL = Load(
    shapes=("toy",),
    dtype=torch.float32,
    batches=(1, 2),
    prompts=(4,),
    decodes=(1, 2),
    start={"batch": 1, "prompt": 4, "answer": 32},
    growth={"batch": (1, 2), "prompt": (4, 8), "answer": (32, 64)},
    copied=2**16,
    square=16,
    problems=1,
    methods=(),
    whole=True,
    repeats=2,
    seconds=0.0,
    turns=0.0,
)
TIMING = {"seconds", "fastest", "slowest", "repeats"}
POINT = {"model", "variant", "batch", "prompt", "answer"}
AGAINST = {"bytes", "flops", "floor", "ratio"} | TIMING
FORWARD = POINT | AGAINST
SHAPE = {
    "width",
    "layers",
    "heads",
    "kv_heads",
    "mlp",
    "vocab",
    "theta",
    "eps",
    "qkv_bias",
    "bias",
    "tied",
    "head_size",
    "rotary",
    "qk_norm",
    "moe",
}
GROWN = {"model", "forwards", "batch", "prompt", "answer", "tokens_per_second"} | TIMING
SCHEMA = {
    "floors": {
        "copy": {"bytes", "bytes_per_second"} | TIMING,
        "product": {"dtype", "rows", "inputs", "outputs", "flops_per_second", "weight_bytes_per_second"} | TIMING,
    },
    "shapes": {
        "shape": {"model", "parameters", "bytes", "dtype"} | SHAPE,
        "refresh": FORWARD,
        "block forward": FORWARD,
        "decision": FORWARD,
        "decode": {"schedule", "forwards", "extrapolated_from", "tokens_per_second", "published_seconds", "peak_bytes"}
        | FORWARD,
    },
    "decode": {
        "decision": {"rows", "length", "vocabulary", "plain", "ratio"} | TIMING,
        "held decision": {"language", "compile_seconds", "states", "classes", "pairs", "free", "ratio"} | TIMING,
        "held together": {"rows", "free", "ratio"} | TIMING,
        "preset": {"method", "problems", "forwards", "refreshes", "tokens_per_second", "tokens_per_second_batch"}
        | {"times_vanilla", "times_no_cache", "times_alone"}
        | TIMING,
        "network": {"batch", "times_one", "times_one_refresh", "refresh", "decision", "decision_share"} | TIMING,
        "memory": {"blocks", "tokens", "peak_bytes"},
    },
    "types": {"type": {"dtype", "rows", "prompts", "same", "times", "tokens_per_second"} | TIMING},
    "growth": {"batch": GROWN, "prompt": GROWN, "answer": GROWN},
    "profile": {"operation": {"model", "name", "calls", "seconds", "share"}},
    "peers": {
        "peer": {"peer", "rows", "prompts", "answer", "cpu_seconds", "seconds", "forwards", "forwards_ratio", "same", "note"}
        | {"times", "times_least", "times_most", "times_wall", "repeats"},
    },
}


def quiet(line: str) -> None: ...


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(workload.SHAPES, "toy", (LLaDA, TOY | IDS))
    monkeypatch.setattr(run, "workload", lambda device, quick: SMALL)
    monkeypatch.setattr(decode, "SHAPES", ((1, 32, 500),))
    monkeypatch.setattr(grammars, "VOCABULARY", 1500)
    monkeypatch.setattr(presets, "load_method", lambda name, **options: load(name, max_new_tokens=32, **options))
    monkeypatch.setattr(presets, "TABLE", ("vanilla", "r2-dllm", "fast-dllm-official"))
    monkeypatch.setattr(presets, "BATCH", 2)
    monkeypatch.setattr(types, "native", lambda: True)
    monkeypatch.setattr(types, "BATCH", 2)
    monkeypatch.setattr(presets, "_peak", lambda model, blocks: 1000)


def measured(parts: list[str], load: Callable[[], Any] = unmask.load, asked: Peers | None = None) -> dict[str, Any]:
    document = run.start(parts, CPU, model="unmask-tiny", date="2026-01-02", quick=True, note="a test")
    run.run(document, CPU, load, quiet, asked)
    return document


def test_blocks_are_those_of_the_model() -> None:
    def answered(model: str, prompt: list[int], **options: Any) -> int:
        method = unmask.method("vanilla", **options)
        denoiser = unmask.load(model)
        done = unmask.generate(denoiser, [prompt], method=method.change(stop_at_eos=None), max_new_tokens=32)[0]
        whole = replace(done, tokens=32)  # as if no end of text were in it
        return presets.begun(whole, len(prompt) if denoiser.spec.block else 0)

    assert answered("unmask-tiny", [40] * 13) == 1
    assert answered("unmask-tiny", [40] * 13, block_length=8) == 4
    assert answered("unmask-tiny-block", [40] * 16) == 4
    assert answered("unmask-tiny-block", [40] * 13) == 5  # the first block holds five tokens of the prompt


def test_the_document_is_whole(tmp_path: Path) -> None:
    document = json.loads(json.dumps(measured([*run.PARTS], asked=Peers(commands=()))))
    assert document["finished"]
    assert list(document["parts"]) == list(SCHEMA)
    for part, kinds in SCHEMA.items():
        rows = document["parts"][part]
        assert {row["what"] for row in rows} == set(kinds), part
        for row in rows:
            assert set(row) == {"what", *kinds[row["what"]]}, (part, row["what"])
            assert all(row[time] > 0 for time in TIMING & set(row))
    decodes = report.found(document, "shapes", "decode")
    published = ["vanilla", "fast-dllm", "r2-dllm", "r2-dllm, tuned"]
    first = [*((1, name) for name in published), (2, "r2-dllm")]
    assert [(row["batch"], row["schedule"]) for row in decodes] == [*first, *first[1:]]
    assert [row["extrapolated_from"] for row in decodes] == [8, *[None] * 8]
    assert [row["variant"] for row in decodes] == ["dual cache"] * 5 + ["prompt kept"] * 4
    for row in decodes:
        assert row["tokens_per_second"] == pytest.approx(row["batch"] * 256 / row["seconds"])
        assert row["ratio"] == pytest.approx(row["seconds"] / row["floor"])
    preset = {row["method"]: row for row in report.found(document, "decode", "preset")}
    assert preset["vanilla"]["times_vanilla"] == 1
    assert {row["refreshes"] for row in preset.values()} == {1}
    assert preset["r2-dllm"]["forwards"] < preset["vanilla"]["forwards"]
    assert preset["vanilla"]["times_no_cache"] is None
    assert preset["fast-dllm-official"]["tokens_per_second_batch"] is None

    titles = [table.title for table in report.tables(document)]
    assert len(titles) == len(set(titles)) == 15
    for table in report.tables(document):
        assert all(len(row) == len(table.columns) for row in table.rows), table.title
    asked = next(table for table in report.tables(document) if table.title == "asked for")
    assert len(asked.rows) == 4
    draw(document, tmp_path / "all.svg")
    drawn = (tmp_path / "all.svg").read_text()
    assert drawn.count('id="axes_') == 4
    assert {row["published_seconds"] for row in decodes} == {None}
    for row in decodes:
        row["published_seconds"] = 2.3
    draw(document, tmp_path / "published.png")
    text = page.page([document | {"date": "2026-01-01"}, document], "speed.png")
    assert text.count("|  | 2026-01-01 cpu | 2026-01-02 cpu |") == 1
    assert text.count("## 2026-01-02") == 1
    assert "## 2026-01-01" not in text


def test_shapes_add_floors_and_unknown_parts_are_named() -> None:
    assert list(run.start(["shapes"], CPU, model="m", date="d")["parts"]) == ["floors", "shapes"]
    assert list(run.start([], CPU, model="m", date="d")["parts"]) == ["floors", "shapes", "decode", "types", "growth"]
    with pytest.raises(ConfigError, match="unknown part 'floor': did you mean 'floors'"):
        run.start(["floor"], CPU, model="m", date="d")


def test_other_parts_go_on_after_a_failure() -> None:
    def broken() -> Any:
        raise RuntimeError("no weights\nhere")

    document = run.start(["floors", "decode", "growth"], CPU, model="m", date="d")
    assert run.run(document, CPU, broken, quiet) == ["decode: RuntimeError: no weights here"]
    assert not document["finished"]
    assert [len(rows) for rows in document["parts"].values()] == [7, 1, 6]
    assert report.tables(document)[-1].rows == [("decode", "failed", "RuntimeError: no weights here")]


def test_what_does_not_fit_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: Any, method: Any, load: Any, *, batch: int, prompt: int, answer: int) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(growth, "decode", full)
    document = measured(["growth"])
    assert {row["what"] for row in document["parts"]["growth"]} == {"out of memory"}
    assert document["finished"]


def test_peak_memory_is_of_the_decode_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    peak = presets._peak(unmask.load(), 8)
    # Keys and values of 384 tokens in 4 layers of width 160, and the activations of a refresh: megabytes, without the model.
    assert peak is None or 2 * 4 * 384 * 160 * 4 < peak < 2**24


def test_a_type_is_recommended_where_it_pays_and_keeps_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    document = measured(["types"])
    rows = report.found(document, "types", "type")
    assert [(row["dtype"], row["rows"], row["prompts"]) for row in rows] == [
        ("float32", 1, 1),
        ("bfloat16", 1, 1),
        ("float32", 2, 2),
        ("bfloat16", 2, 2),
    ]
    assert [row["same"] for row in rows if row["dtype"] == "float32"] == [1, 2]
    assert report.tables(document)[0].title.startswith("types, unmask-tiny; recommended: ")
    monkeypatch.setattr(types, "native", lambda: False)
    assert measured(["types"])["parts"]["types"] == []


def test_forwards_of_a_block_causal_model() -> None:
    from unmask.bench.shapes import forwards
    from unmask.models.toy import toy

    found = forwards(toy("sdar"), SMALL, "exact cache", batch=2, prompt=8, answer=32)
    assert {"refresh", "block forward", "decision"} <= set(found)
    # The block before rides along.
    assert found["refresh"][0].flops > 1.5 * found["block forward"][0].flops
