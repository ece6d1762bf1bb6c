"""`unmask bench` as a user meets it: parts, files, what an interruption leaves, one line per error."""

import json
from pathlib import Path
from typing import Any

import pytest

from unmask.bench import run as running
from unmask.cli import main

ROW = {"what": "copy", "bytes": 10, "bytes_per_second": 2e9, "seconds": 1.0, "fastest": 1.0, "slowest": 1.5, "repeats": 3}
GROWN = {"model": "toy", "forwards": 8, "prompt": 4, "answer": 32, "tokens_per_second": 3.0}
TIMED = {"seconds": 1.0, "fastest": 1.0, "slowest": 1.0, "repeats": 1}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture
def _instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Floors are one row; growth is one row and then Ctrl-C."""

    def measure(part: str, *rest: Any) -> Any:
        if part == "floors":
            yield ROW
        else:
            yield {"what": "batch", "batch": 1} | GROWN | TIMED
            raise KeyboardInterrupt

    monkeypatch.setattr(running, "_measure", measure)


@pytest.mark.usefixtures("_instant")
def test_the_document_is_printed_and_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "made" / "bench.json"
    code, out, _ = run(capsys, "floors", "--json", "-o", str(file), "--note", "busy", "--device", "cpu")
    assert code == 0
    document = json.loads(out.splitlines()[-1])
    assert document == json.loads(file.read_text())
    assert (document["finished"], document["note"], document["parts"]) == (True, "busy", {"floors": [ROW]})


@pytest.mark.usefixtures("_instant")
def test_ctrl_c_leaves_what_was_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    code, out, _ = run(capsys, "floors", "growth", "-o", str(file), "--device", "cpu")
    assert code == 130
    document = json.loads(file.read_text())
    assert not document["finished"]
    assert [len(rows) for rows in document["parts"].values()] == [1, 1]
    assert "floors of this machine" in out
    assert "growth of a replayed decode" in out
    # It can be shown, drawn and compared later.
    code, again, _ = run(capsys, "--from", str(file), "--picture", str(tmp_path / "p.png"))
    assert code == 0
    assert again == out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_instant")
def test_dated_documents_become_a_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for date in ("2026-01-01", "2026-01-02"):
        run(capsys, "floors", "growth", "-o", str(tmp_path / f"{date}-bench-cpu.json"), "--device", "cpu", "--note", date)
    made = tmp_path / "docs" / "speed.md"
    assert run(capsys, "--compare", str(tmp_path), "-o", str(made))[0] == 0
    assert "2026-01-01" in made.read_text()
    assert "![The newest run](speed.png)" in made.read_text()
    assert made.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["shape"], "unknown part 'shape': did you mean 'shapes'?"),
        (["floors", "--from", "x.json"], "--from and --compare measure nothing"),
        (["--from", "x.json", "--compare", "."], "give one of the two"),
        (["--from", "missing.json"], "missing.json: cannot be read"),
        (["--from", "README.md"], "README.md: not a document of `unmask bench -o`"),
        (["--compare", "docs", "-o", "x.md"], "docs: no *-bench-*.json there"),
        (["--compare", "benchmarks/results"], "say where with -o"),
        (["floors", "--peer", "a=b"], "--peer, --method and --time-limit belong to `unmask bench peers`"),
        (["peers", "--peer", "a="], "--peer a=: write NAME=COMMAND"),
        (["peers", "--peer", "a=b", "--peer", "a=c"], "two peers are called 'a'"),
        (["peers", "--method", "nonsense"], "unknown method 'nonsense'"),
        (["peers", "--time-limit", "0"], "--time-limit 0 must be more than 0 seconds"),
        (["floors", "--device", "nonsense"], "no device 'nonsense' here"),
        (["floors", "--quik"], "No such option"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert line in err
    assert len(err.splitlines()) == 1


def test_a_bad_peer_is_a_line_and_the_exit_status_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    peer = "bad=python -S -c 'raise SystemExit(3)'"
    code, out, err = run(capsys, "peers", "--quick", "--peer", peer, "-o", str(file), "--device", "cpu")
    assert code == 1
    assert err == "not measured: peers: peer bad ended with exit status 3 before it answered\n"
    assert [row["what"] for row in json.loads(file.read_text())["parts"]["peers"]] == ["peer", "failed", "peer"]
    assert "peers in turns, unmask-tiny" in out
