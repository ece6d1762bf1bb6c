"""The answers on disk: in any order, through any kill, once each, and in the lines' order at the end."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.errors import ConfigError
from unmask.serve.ledger import Ledger, Totals

MADE = {"input": "a"}


def said(number: int) -> str:
    return json.dumps({"id": number, "text": f"é{number}", "tokens": number, "forwards": 2})


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


@given(st.integers(0, 12), st.randoms(use_true_random=False))
def test_killed_anywhere_it_holds_every_answer_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, count: int, rng: random.Random
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "deep" / "out.jsonl"
    journal = path.with_name("out.jsonl.journal")
    kept: set[int] = set()
    while len(kept) < count:
        with Ledger(path, MADE, count) as ledger:
            missing = list(ledger.missing)
            assert missing == sorted(set(range(count)) - kept)
            rng.shuffle(missing)
            ledger.append((number, said(number)) for number in missing[: rng.randint(1, 4)])
            assert not path.exists()
        # A kill while the last few bytes were on their way.
        whole = journal.read_bytes()
        left = whole[: len(whole) - rng.choice([0, 0, 5, 90])]
        journal.write_bytes(left)
        kept = {json.loads(line)["line"] for line in left.splitlines(keepends=True)[1:] if line.endswith(b"\n")}
    totals = Totals(count, 0, sum(range(count)), 2 * count)
    with Ledger(path, MADE, count) as ledger:
        assert ledger.finish() == totals
    assert lines(path) == [said(number) for number in range(count)]
    with Ledger(path, MADE, count) as again:
        assert (list(again.missing), again.totals, again.finish()) == ([], totals, totals)
    assert sorted(place.name for place in path.parent.iterdir()) == ["out.jsonl", "out.jsonl.journal"]
    assert len(lines(journal)) == 2


def test_killed_between_the_output_and_the_journals_end_it_writes_the_output_again(tmp_path: Path) -> None:
    path, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.journal"
    with Ledger(path, MADE, 2) as ledger:
        ledger.append([(1, said(1)), (0, said(0))])
        kept = journal.read_bytes()
        ledger.finish()
    journal.write_bytes(kept)
    path.write_text("")
    with Ledger(path, MADE, 2) as again:
        assert list(again.missing) == []
        again.finish()
    assert lines(path) == [said(0), said(1)]


def test_errors_are_counted(tmp_path: Path) -> None:
    with Ledger(tmp_path / "out.jsonl", MADE, 2) as ledger:
        ledger.append([(0, '{"id": 1, "error": "no"}'), (1, said(1))])
        assert ledger.finish() == Totals(2, 1, 1, 2)


def test_another_jobs_work_is_refused_while_it_grows_and_when_it_is_done(tmp_path: Path) -> None:
    path, other = tmp_path / "out.jsonl", {"input": "b"}
    with Ledger(path, MADE, 1) as ledger:
        ledger.append([(0, said(0))])
    with pytest.raises(ConfigError, match=r"out.jsonl.journal was made with other settings: use another output or delete it"):
        Ledger(path, other, 1)
    with Ledger(path, MADE, 1) as done:
        done.finish()
    with pytest.raises(ConfigError, match="other settings"):
        Ledger(path, other, 1)
    assert lines(path) == [said(0)]
    path.unlink()  # then there is nothing to protect any more
    with Ledger(path, other, 1) as new:
        assert list(new.missing) == [0]


def test_a_file_that_is_not_from_here_is_left_alone(tmp_path: Path) -> None:
    path, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.journal"
    path.write_text("mine\n")
    with pytest.raises(ConfigError, match=r"out.jsonl is there already and has no journal: use another output or delete it"):
        Ledger(path, MADE, 1)
    assert path.read_text() == "mine\n"
    path.unlink()
    journal.write_text("my own\njournal\n")
    with pytest.raises(ConfigError, match="other settings"):
        Ledger(path, MADE, 1)
    assert journal.read_text() == "my own\njournal\n"


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/out.jsonl: cannot be written \((Not a directory|File exists)\)"):
        Ledger(tmp_path / "file" / "out.jsonl", MADE, 1)
    (tmp_path / "out.jsonl.journal").mkdir()
    with pytest.raises(ConfigError, match=r"out.jsonl: cannot be written \(Is a directory\)"):
        Ledger(tmp_path / "out.jsonl", MADE, 1)


def test_two_processes_do_not_write_one_output(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Ledger(path, MADE, 1) as first:
        with pytest.raises(ConfigError, match="is being written by another process"):
            Ledger(path, MADE, 1)
        first.append([(0, said(0))])
    with Ledger(path, MADE, 1) as second:
        second.finish()
    assert lines(path) == [said(0)]


@pytest.mark.parametrize(
    "line", ['{"line": 2, "answer": {}}', '{"line": -1, "answer": {}}', '{"line": "0", "answer": {}}', "{}"]
)
def test_a_line_of_another_file_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "out.jsonl"
    with Ledger(path, {}, 2) as ledger:
        ledger.append([(0, '{"text": "a"}')])
    journal = tmp_path / "out.jsonl.journal"
    journal.write_text(f"{journal.read_text()}{line}\n")
    with pytest.raises(ConfigError, match=r"out\.jsonl\.journal:3: "):
        Ledger(path, {}, 2)
