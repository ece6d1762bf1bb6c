"""Which files of a folder or of a data set on the hub hold a split, and data files as the hub has them."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

import unmask
from tests.hub import Hub
from unmask.data.layout import choose, files, training
from unmask.data.records import records
from unmask.errors import ConfigError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    with Hub() as served:
        served.use(monkeypatch, tmp_path / "cache")
        yield served


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue().to_pybytes())


ONE = "00000-of-00001.parquet"
ROW = {"question": "How many?", "answer": "#### 1"}
LINE = json.dumps(ROW) + "\n"


@pytest.mark.parametrize(
    ("names", "test", "train"),
    [
        ([f"main/test-{ONE}", f"main/train-{ONE}", f"socratic/test-{ONE}"], [0], [1]),
        (["data/test-00000-of-00002-ab.parquet", "data/test-00001-of-00002-cd.parquet", f"data/train-{ONE}"], [0, 1], [2]),
        (["test.jsonl", "train.jsonl", "README.md"], [0], [1]),
        (["test/a.json", "train/a.json"], [0], [1]),
        (["full/test/0000.parquet", "main/test/0000.parquet"], [1], []),
        (["gsm8k_test.csv", "contest.csv", "train_small.csv"], [0], [2]),
        (["test.jsonl", "test.parquet"], [1], []),
        (["one.jsonl", "two.jsonl"], [], [0, 1]),
        (["one.jsonl", "validation.jsonl"], [], []),
    ],
)  # fmt: skip
def test_layouts(names: list[str], test: list[int], train: list[int]) -> None:
    for split, wanted in (("test", test), ("train", train)):
        found = choose([name for name in names if name != "README.md"], split, ["main"], "here")
        assert found == [names[place] for place in wanted]


def test_several_configurations_are_named() -> None:
    names = ["easy/train.jsonl", "hard/train.jsonl"]
    with pytest.raises(ConfigError, match="org/sums has several configurations, easy, hard: name one, as org/sums/easy"):
        choose(names, "train", (), "org/sums")
    assert choose(names, "train", ("hard",), "org/sums") == ["hard/train.jsonl"]


def test_a_data_set_of_the_hub_and_the_folder_that_holds_it_are_read_alike(hub: Hub, tmp_path: Path) -> None:
    held = {
        "README.md": "#",
        "main/test-00000-of-00001.parquet": parquet([ROW]),
        "socratic/test-00000-of-00001.parquet": parquet([ROW, ROW]),
    }
    hub.add("org/sums", held, "datasets")
    for name, data in held.items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    for place in ("org/sums", "copy"):
        assert [one.name for one in files(Path(place), "test", configs=("main",))] == ["test-00000-of-00001.parquet"]
        for inner in ("socratic", "socratic/test-00000-of-00001.parquet"):
            (found,) = files(Path(place) / inner, "test")
            assert len(list(records(found))) == 2
    assert hub.downloads().count("main/test-00000-of-00001.parquet") == 1


def test_a_revision_and_files_by_a_pattern(hub: Hub) -> None:
    stored = hub.add(
        "org/chat", {"README.md": "#", "data/train_a.jsonl": LINE, "data/train_b.jsonl": LINE * 2, "c.jsonl": LINE}, "datasets"
    )
    stored.revisions["old"] = {"README.md": b"#", "train.jsonl": LINE.encode() * 3}
    (old,) = training("org/chat@old")
    assert len(list(records(old))) == 3
    assert [path.name for path in training("org/chat/data/train_*.jsonl")] == ["train_a.jsonl", "train_b.jsonl"]
    assert [path.name for path in training(["org/chat/data", "org/chat/c.jsonl"])] == [
        "train_a.jsonl",
        "train_b.jsonl",
        "c.jsonl",
    ]


def test_only_the_split_is_downloaded(hub: Hub) -> None:
    hub.add("org/chat", {"README.md": "#", "train.jsonl": LINE, "test.jsonl": LINE, "images/0.png": b"x"}, "datasets")
    training("org/chat")
    assert sorted(hub.downloads()) == ["README.md", "train.jsonl"]


def test_a_data_set_is_read_from_the_cache_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.data import hub as module

    hub.add("org/chat", {"README.md": "#", "train.jsonl": LINE, "test.jsonl": LINE}, "datasets")
    (online,) = training("org/chat")
    for seen in (module._COMMITS, module._FOLDERS, module._LISTS):
        seen.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert training("org/chat") == [online]
    with pytest.raises(
        ConfigError, match="cannot download 'org/other': offline, as HF_HUB_OFFLINE says, and neither a folder here nor"
    ):
        training("org/other")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (
            "nowhere.jsonl",
            "nowhere.jsonl: no such file or folder, and no id of a data set on the hub, which looks like owner/name",
        ),
        ("/nowhere/at/all", "/nowhere/at/all: no such file or folder, and no id"),
        ("org/none", "no data set 'org/none' on the Hugging Face hub, nor a folder of that name here"),
        ("org/held", "org/held: this data set holds no data file of a split train"),
        ("org/two", "org/two has several configurations, a, b: name one, as org/two/a"),
        ("org/held@v2", "'org/held' has no revision 'v2' on the Hugging Face hub; it has main, and commits"),
        ("org/gated", "'org/gated' is gated: accept its licence at "),
    ],
)
def test_what_cannot_be_had_is_one_line(hub: Hub, place: str, said: str) -> None:
    hub.add("org/held", {"README.md": "#", "test.jsonl": LINE}, "datasets")
    hub.add("org/two", {"README.md": "#", "a/train.jsonl": LINE, "b/train.jsonl": LINE}, "datasets")
    hub.add("org/gated", {"README.md": "#", "train.jsonl": LINE}, "datasets", access="gated")
    with pytest.raises(unmask.ConfigError) as caught:
        training(place)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert place != "org/gated" or f"{hub.url}/datasets/org/gated" in str(caught.value)


def test_formats_are_told_by_their_first_bytes(tmp_path: Path) -> None:
    """Parquet and gzip under other names, and names that promise what is not there."""
    (tmp_path / "a.jsonl").write_bytes(parquet([ROW]))
    (tmp_path / "b.jsonl").write_bytes(gzip.compress(LINE.encode()))
    (tmp_path / "c.csv").write_bytes(b"\xef\xbb\xbfquestion,answer\nHow many?,#### 1\n")
    for name in "a.jsonl", "b.jsonl", "c.csv":
        assert [dict(record.values) for record in records(tmp_path / name)] == [ROW]
    (tmp_path / "d.parquet").write_text(LINE)
    (tmp_path / "e.jsonl.gz").write_text(LINE)
    (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress(LINE.encode() * 9)[:-9])
    for name, said in (
        ("d.parquet", "not a parquet file, or damaged"),
        ("e.jsonl.gz", "not a gzip file"),
        ("f.jsonl.gz", "cut short"),
    ):
        with pytest.raises(ConfigError, match=said):
            list(records(tmp_path / name))


def test_a_csv_row_of_another_width_costs_itself(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3\n4,5,6\n7,8\n")
    assert [record.error is None for record in records(tmp_path / "x.csv")] == [True, False, False, True]
