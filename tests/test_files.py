"""Journals: whatever a kill leaves of one is mended, and never taken for another's."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.errors import ConfigError
from unmask.files import Journal, read_journal, write_atomically


@given(st.lists(st.text(max_size=5), max_size=4), st.data())
def test_a_journal_cut_anywhere_goes_on_behind_its_last_whole_line(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("journal") / "deep" / "answers.jsonl"
    rows = [{"text": text} for text in texts]
    Journal(path, {"model": "é"}, "made").append(rows)
    whole = path.read_bytes()
    left = whole[: data.draw(st.integers(0, len(whole)))]
    path.write_bytes(left)
    journal = Journal(path, {"model": "é"}, "made")
    kept = max(0, left.count(b"\n") - 1)
    assert journal.rows == rows[:kept]
    journal.append(rows[kept:])
    assert path.read_bytes() == whole
    assert read_journal(path, "nothing") == ({"model": "é"}, rows)


def test_a_cut_line_longer_than_a_block_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Journal(path, {}, "made").append([{"text": "a"}])
    with path.open("a") as file:
        file.write(json.dumps({"text": "x" * 200_000}))
    assert Journal(path, {}, "made").rows == [{"text": "a"}]


def test_lines_of_another_provenance_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Journal(path, {"seed": 1}, "made")
    assert Journal(path, {"seed": 2}, "made").rows == []  # there was nothing to protect
    Journal(path, {"seed": 2}, "made").append([{"text": "a"}])
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"answers.jsonl was made with other settings: use another output or delete it"):
        Journal(path, {"seed": 1}, "made")
    assert path.read_bytes() == before


def test_an_atomic_write_leaves_the_old_file_where_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert write_atomically(path, lambda place: place.write_text("old")) == 3
    with pytest.raises(ZeroDivisionError):
        write_atomically(path, lambda place: place.write_text("new") / 0)
    assert path.read_text() == "old"
