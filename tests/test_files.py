"""Journals and folders: a file cut by a kill is repaired, another run's is refused; one writer at a time."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.errors import ConfigError
from unmask.files import Journal, move_aside, read_journal, write_atomically, writing

ROOT = Path(__file__).parents[1]


def rows(path: Path, provenance: dict[str, Any]) -> list[dict[str, Any]]:
    with Journal(path, provenance, "made") as journal:
        return [row for _, row in journal]


def begun(path: Path, provenance: dict[str, Any], *new: dict[str, Any]) -> None:
    with Journal(path, provenance, "made") as journal:
        journal.append(new)


@given(st.lists(st.text(max_size=5), max_size=4), st.data())
def test_a_journal_cut_anywhere_goes_on_behind_its_last_whole_line(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("journal") / "deep" / "answers.jsonl"
    lines = [{"text": text} for text in texts]
    begun(path, {"model": "é"}, *lines)
    whole = path.read_bytes()
    left = whole[: data.draw(st.integers(0, len(whole)))]
    path.write_bytes(left)
    with Journal(path, {"model": "é"}, "made") as journal:
        kept = max(0, left.count(b"\n") - 1)
        assert [row for _, row in journal] == lines[:kept]
        places = journal.append(lines[kept:])
        assert [journal.read(place) for place in places] == lines[kept:]
        assert [place for place, _ in journal][kept:] == places
    assert path.read_bytes() == whole
    assert read_journal(path, "nothing") == ({"model": "é"}, lines)


def test_a_cut_line_longer_than_a_block_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    begun(path, {}, {"text": "a"})
    with path.open("a") as file:
        file.write(json.dumps({"text": "x" * 200_000}))
    assert rows(path, {}) == [{"text": "a"}]


def test_lines_of_another_provenance_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    begun(path, {"seed": 1})
    assert rows(path, {"seed": 2}) == []  # there was nothing to protect
    begun(path, {"seed": 2}, {"text": "a"})
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"answers.jsonl was made with other settings: use another output or delete it"):
        Journal(path, {"seed": 1}, "made")
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["mine", "mine\n", "mine\ntoo\n", '{"id": 1}\n'])
def test_a_file_that_is_not_a_journal_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"notes.txt was not made here"):
        Journal(path, {}, "made")
    assert path.read_text() == text


def test_a_damaged_line_is_named_by_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    begun(path, {}, {"text": "a"}, {"text": "b"}, {"text": "c"})
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1] + lines[2][3:] + lines[3])
    for reading in (lambda: rows(path, {}), lambda: read_journal(path, "nothing")):
        with pytest.raises(ConfigError, match=r"answers.jsonl:3: this line is damaged"):
            reading()


def test_opening_a_journal_again_leaves_it_untouched(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    begun(path, {}, {"text": "a"})
    os.utime(path, (1, 1))
    assert rows(path, {}) == [{"text": "a"}]
    assert path.stat().st_mtime == 1


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with Journal(path, {}, "made") as first:
        with pytest.raises(ConfigError, match=r"answers.jsonl is being written by another process"):
            Journal(path, {}, "made")
        first.append([{"text": "a"}])
    assert rows(path, {}) == [{"text": "a"}]


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "results"
    with writing(folder):
        with pytest.raises(ConfigError, match=r"results is being written by another process"), writing(folder):
            pass
        with pytest.raises(ConfigError, match=r"results is being written by another process"):
            move_aside(folder)
    with writing(folder):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file: cannot be written \(File exists\)"), writing(tmp_path / "file"):
        pass


def test_a_killed_writer_frees_its_folder_and_its_journal(tmp_path: Path) -> None:
    code = (
        "import itertools, sys; from pathlib import Path; from unmask.files import Journal, writing\n"
        "with writing(Path('.')), Journal(Path('answers.jsonl'), {}, 'made') as journal:\n"
        "    for number in itertools.count():\n"
        "        journal.append([{'number': number}]); print(number, flush=True)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said = [int(child.stdout.readline()) for _ in range(20)]
        with pytest.raises(ConfigError, match="is being written by another process"), writing(tmp_path):
            pass
        with pytest.raises(ConfigError, match="is being written by another process"):
            Journal(tmp_path / "answers.jsonl", {}, "made")
        child.send_signal(signal.SIGKILL)
    with writing(tmp_path):
        kept = rows(tmp_path / "answers.jsonl", {})
    assert [row["number"] for row in kept[:20]] == said
    assert [row["number"] for row in kept] == list(range(len(kept)))


def test_a_folder_is_moved_aside_to_the_first_free_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "results"
    assert move_aside(folder) is None
    assert not folder.exists()
    for number in (1, 2):
        folder.mkdir()
        (folder / "notes.txt").write_text(f"mine {number}")
        assert move_aside(folder) == tmp_path / f"results.{number}"
    assert [(tmp_path / f"results.{number}" / "notes.txt").read_text() for number in (1, 2)] == ["mine 1", "mine 2"]
    (folder / "deep").mkdir(parents=True)
    monkeypatch.chdir(folder / "deep")
    for path in (folder, Path(".."), Path("../../results")):
        with pytest.raises(ConfigError, match="holds the current folder"):
            move_aside(path)


def test_an_atomic_write_leaves_the_old_file_where_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert write_atomically(path, lambda place: place.write_text("old")) == 3
    with pytest.raises(ZeroDivisionError):
        write_atomically(path, lambda place: place.write_text("new") / 0)
    assert path.read_text() == "old"


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sync fails as on a disk without space, which names no file."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)


def test_a_full_disk_is_named_by_the_file_and_leaves_no_part_of_it(tmp_path: Path, full_disk: None) -> None:
    path = tmp_path / "page.html"
    with pytest.raises(OSError, match=r"No space left on device: '.*page\.html'") as caught:
        write_atomically(path, lambda place: place.write_text("new"))
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_library_in_rust_says_it_in_its_own_words(tmp_path: Path) -> None:
    def write(place: Path) -> None:
        place.write_text("half")
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match=r"No space left on device: '.*weights'"):
        write_atomically(tmp_path / "weights", write)
    with pytest.raises(RuntimeError, match="other"):
        write_atomically(tmp_path / "weights", lambda place: (_ for _ in ()).throw(RuntimeError("other")))
    assert list(tmp_path.iterdir()) == []


def test_a_journal_on_a_full_disk_keeps_the_lines_that_it_had(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    begun(path, {}, {"text": "a"})
    with Journal(path, {}, "made") as journal, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match=r"answers\.jsonl"):
            journal.append([{"text": "b" * 9000}, {"text": "c"}])
    assert rows(path, {}) == [{"text": "a"}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full device")
def test_a_device_that_is_full_for_real(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: '.*out'"):
        write_atomically(tmp_path / "out", lambda place: Path("/dev/full").write_text("x"))


def test_what_is_called_on_disk_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, real = list[str](), os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write_atomically(tmp_path / "page.html", lambda place: place.write_text("new"))
    assert synced == ["page.html.partial", tmp_path.name]
    synced.clear()
    with Journal(tmp_path / "answers.jsonl", {}, "made") as journal:
        assert synced == [tmp_path.name]
        journal.append([{"text": "a"}, {"text": "b"}])
    assert synced == [tmp_path.name, "answers.jsonl"]


@pytest.mark.parametrize("foreign", ['{"other": 1}', '{"text": 3}', "[]", '{"text": "cut', "\\x00" * 9])
def test_a_line_of_another_file_is_named_by_file_and_number(tmp_path: Path, foreign: str) -> None:
    path = tmp_path / "answers.jsonl"
    begun(path, {}, {"text": "a"})
    path.write_text(path.read_text() + foreign + "\n")
    with Journal(path, {}, "made", fields={"text": str}) as journal, pytest.raises(ConfigError, match=r"answers\.jsonl:3: "):
        list(journal)
    with pytest.raises(ConfigError, match=r"answers\.jsonl:3: "):
        read_journal(path, "nothing", {"text": str})
