"""Peers: the plain loop writes our tokens in as many forwards, and whatever a bad peer does is one line."""

import asyncio
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import unmask
from unmask.bench import ours, plain
from unmask.bench.peer import Command, Peer, PeerError
from unmask.bench.peers import Peers, Point, compare
from unmask.errors import ConfigError
from unmask.models.toy import CONFIGS, toy

PROMPTS = [[1, 2, 3, 4, 5], [7, 8], [9, 10, 11, 9, 10, 11, 4]]


def point(**changed: Any) -> Point:
    asked = {"rows": 2, "prompts": PROMPTS, "new_tokens": 4, "method": {}, "mask_id": 23, "eos_ids": [22]}
    return Point(**{**asked, **changed})


# --- the plain loop


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy's checkpoint."""
    place = tmp_path_factory.mktemp("toy")
    (place / "config.json").write_text(json.dumps({**CONFIGS["llada"], "rope_theta": 10000.0}))
    weights = toy().network.state_dict()
    weights["model.transformer.ff_out.weight"] = 4 * weights["model.transformer.ff_out.weight"]  # sure of itself
    save_file(weights, place / "model.safetensors")
    return place


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fast-dllm-official", {"threshold": 0.6, "block_length": 8}),
        ("fast-dllm-official", {"threshold": 0.6, "block_length": 8, "cache": "none"}),
        ("vanilla-official", {"block_length": 8}),
        ("vanilla-official", {"block_length": 8, "steps": 6, "cache": "dual"}),
    ],
)
def test_the_plain_loop_writes_our_tokens(folder: Path, name: str, options: dict[str, Any], padded: bool) -> None:
    method = unmask.method(name, **options).to_dict()
    line = point(rows=3, new_tokens=16, method=method).lines()[0]
    mine = ours.answer(unmask.load(str(folder)), line)
    theirs = plain.answer(plain.Plain(folder), line, padded=padded)
    assert theirs["tokens"] == mine["tokens"]
    if not padded:
        assert theirs["forwards"] == mine["forwards"]
    else:  # rows of a padded batch take every forward together
        assert len(set(theirs["forwards"])) == 1
        assert theirs["forwards"][0] >= max(mine["forwards"])
    assert min(mine["cpu_seconds"], theirs["cpu_seconds"]) > 0


def test_the_plain_loop_says_what_it_cannot(folder: Path, tmp_path: Path) -> None:
    line = point(method=unmask.method("r2-dllm", cache="prefix").to_dict()).lines()[0]
    with pytest.raises(SystemExit, match="threshold or quota, with cache none or dual"):
        plain.answer(plain.Plain(folder), line, padded=False)
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["dream"]))
    with pytest.raises(SystemExit, match="LLaDAModelLM alone"):
        plain.Plain(tmp_path)


# --- any peer

# Answers every prompt with `tokens`; {extra} may do something else.
SCRIPT = """
import json, sys, time
for line in sys.stdin:
    asked = json.loads(line)
    {extra}
    count, length = len(asked["prompts"]), asked["max_new_tokens"]
    answer = {{"tokens": [[5] * length] * count, "forwards": [2] * count, "cpu_seconds": {cpu}}}
    print(json.dumps(answer), flush=True)
"""


def peer(name: str, extra: str = "pass", *, cpu: str = "0.5", limit: float = 20.0) -> Peer:
    return Peer(Command(name, ("python", "-S", "-c", SCRIPT.format(extra=extra, cpu=cpu))), Path(), limit=limit)


def rows(*peers: Peer, **changed: Any) -> list[dict[str, Any]]:
    return list(compare(peers, [point(**changed)], lambda line: None, rounds=2, seconds=60.0))


def test_peers_take_turns_and_each_turn_is_a_ratio(tmp_path: Path) -> None:
    log = tmp_path / "log"
    mine = peer("a", f"open({str(log)!r}, 'a').write('a')")
    other = peer("b", f"open({str(log)!r}, 'a').write('b')", cpu="0.5 * len(asked['prompts'][0])")
    first, second = rows(mine, other)
    # Two lines for three prompts, a warm turn and two that count.
    assert log.read_text() == "aabb" * 3
    assert (first["times"], first["repeats"], first["same"]) == (1.0, 2, 3)
    assert second["cpu_seconds"] == 0.5 * (5 + 7)
    assert (second["times"], second["times_least"], second["times_most"]) == (6.0, 6.0, 6.0)
    assert (second["forwards"], second["forwards_ratio"], second["note"]) == (2, 1.0, "")


def test_other_tokens_are_said_and_still_measured() -> None:
    wrong = SCRIPT.replace("[[5] * length] * count", "[[5] * length] * (count - 1) + [[5, 6] * (length // 2)]")
    other = Peer(Command("b", ("python", "-S", "-c", wrong.format(extra="pass", cpu="1.5"))), Path(), limit=20.0)
    row = rows(peer("a"), other)[1]
    assert (row["what"], row["same"], row["times"]) == ("peer", 1, 3.0)
    assert row["note"] == "other tokens in 2 of 3 answers, first in answer 1 at token 1: 6 instead of 5"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ("sys.exit('no such model')", "ended with exit status 1 before it answered: no such model"),
        ("raise OSError('full')", "ended with exit status 1 before it answered: OSError: full"),
        ("print('Loading checkpoint')", "wrote 'Loading checkpoint', which is not JSON"),
        ("print('[]')", "wrote '[]', which lacks tokens, forwards, cpu_seconds"),
        ('print(\'{"tokens": [], "forwards": []}\')', "which lacks cpu_seconds"),
        ("asked['prompts'] = [[1]]", "must answer 3 prompts with 3 lists of token ids in 'tokens'"),
        ("asked['max_new_tokens'] = 3", "wrote an answer of 3 tokens; 4 were asked for"),
        ("sys.stdout.write('x' * 2**20 * 70)", "wrote a line of more than 64 MB"),
        ("import os; os.kill(os.getpid(), 9)", "ended with exit status -9 before it answered"),
    ],
)
def test_a_bad_peer_is_one_line_and_the_others_go_on(extra: str, reason: str) -> None:
    made = rows(peer("a"), peer("bad", extra), peer("c"), rows=3)
    assert [row["what"] for row in made] == ["peer", "failed", "peer"]
    assert made[1]["reason"].startswith("peer bad ")
    assert reason in made[1]["reason"]
    assert "\n" not in made[1]["reason"]


@pytest.mark.parametrize("cpu", ["0", "-1.0", "float('nan')", "True", "'1'"])
def test_processor_seconds_are_a_number_above_zero(cpu: str) -> None:
    assert "cpu_seconds" in rows(peer("a"), peer("bad", cpu=cpu))[1]["reason"]


@pytest.mark.parametrize("extra", ["time.sleep(99)", "sys.stdout.close(); time.sleep(99)", "sys.stdin.close(); time.sleep(99)"])
def test_a_peer_that_hangs_is_ended(extra: str) -> None:
    began = time.monotonic()
    made = rows(peer("a"), peer("bad", extra, limit=1.0))
    assert "gave no answer within 1 s (--time-limit)" in made[1]["reason"]
    assert time.monotonic() - began < 30


def test_a_peer_that_never_reads_does_not_block_us() -> None:
    deaf = Peer(Command("deaf", ("python", "-S", "-c", "import time; time.sleep(99)")), Path(), limit=1.0)
    made = rows(peer("a"), deaf, prompts=[list(range(100_000))])
    assert "gave no answer" in made[1]["reason"]


def test_what_cannot_be_started() -> None:
    missing = Peer(Command("x", ("no-such-program",)), Path(), limit=1.0)
    with pytest.raises(PeerError, match="peer x cannot be started: no-such-program: No such file"):
        asyncio.run(missing.turn(point().lines()))


def test_without_ours_there_is_nothing_to_compare() -> None:
    assert [row["what"] for row in rows(peer("a", "sys.exit(3)"), peer("b"))] == ["failed"]


def test_names_tell_peers_apart() -> None:
    with pytest.raises(ConfigError, match="two peers are called 'a'"):
        Peers(commands=[Command("a", ("x",)), Command("a", ("y",))])
    with pytest.raises(ConfigError, match="two peers are called 'unmask'"):
        Peers(commands=[Command("unmask", ("x",))])
    with pytest.raises(ConfigError, match="must be more than 0 seconds"):
        Peers(limit=0.0)
    with pytest.raises(ConfigError, match="write NAME=COMMAND"):
        Command.parse("a=")
    with pytest.raises(ConfigError, match="No closing quotation"):
        Command.parse("a='b")


BESIDE = Path(__file__).parents[2] / "benchmarks" / "peers"
ADAPTERS = sorted(path for path in BESIDE.glob("*.py") if path.stem != "lines")


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.stem)
def test_adapters_that_have_never_run_say_so(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = subprocess.run([sys.executable, "-S", str(adapter), "--help"], capture_output=True, text=True, check=True).stdout
    assert "This adapter has NEVER RUN here." in " ".join(shown.split())
    monkeypatch.syspath_prepend(BESIDE)
    assert "never run" in str(runpy.run_path(str(adapter))["NOTE"])  # what the table shows


def test_what_adapters_share_answers_a_line_per_line() -> None:
    loop = "import lines; lines.serve(lambda ids, asked: (print('a word') or ids[:1] * asked['max_new_tokens'], 3), 'a note')"
    asked = [json.dumps({"prompts": [[4, 5], [6]], "max_new_tokens": count}) for count in (2, 1)]
    done = subprocess.run(
        [sys.executable, "-S", "-c", loop], cwd=BESIDE, input="\n".join(asked), capture_output=True, text=True, check=True
    )
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["tokens"], first["forwards"], first["note"]) == ([[4, 4], [6, 6]], [3, 3], "a note")
    assert second["tokens"] == [[4], [6]]
    assert done.stderr.split("\n")[:2] == ["a word", "a word"]  # what a decoder prints is no answer


def test_bfloat16_keeps_its_type(folder: Path) -> None:
    assert plain.Plain(folder, torch.bfloat16)(torch.tensor([[1, 2]]))[0].dtype == torch.bfloat16
