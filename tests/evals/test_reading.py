"""Data files: the accepted formats, and one clear line for every kind of error."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.errors import ConfigError
from unmask.evals.reading import files, number, read

FIELDS = {"question": str, "level": int, "share": float}
ROWS = [{"question": "a\u2028b", "level": 1, "share": 0.5}, {"question": "ü", "level": 2, "share": 3, "more": None}]


def written(tmp_path: Path, text: str | bytes, name: str = "x.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
        "\ufeff" + "\r\n\r\n".join(json.dumps(row) for row in ROWS),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
    ],
    ids=["lines", "windows", "list", "indented list"],
)
def test_json_lines_and_a_json_list(tmp_path: Path, text: str) -> None:
    assert [row.values for row in read(written(tmp_path, text), FIELDS)] == ROWS


def test_csv(tmp_path: Path) -> None:
    path = written(tmp_path, 'a,b\n0102,"x\ny"\n\n3,4\n', "x.csv")
    rows = read(path, {"a": str, "b": str})
    assert [(row["a"], row["b"]) for row in rows] == [("0102", "x\ny"), ("3", "4")]


GOOD = '{"question": "q", "level": 1, "share": 0.5}\n'
SHAPE = '{"question": text, "level": whole number, "share": number}'


@pytest.mark.parametrize(
    ("text", "place", "fault"),
    [
        (GOOD + "{", ":2: not JSON: Expecting property name", ""),
        (GOOD + '"text"', ":2: expected a JSON object, got 'text'", ""),
        (GOOD + "\n" + GOOD.replace("question", "Question"), ":3: ", 'there is no "question", only "Question"'),
        (GOOD.replace('"q"', '" "'), ":1: ", '"question" is blank'),
        (GOOD.replace('"q"', "7"), ":1: ", '"question" is 7, which is no text'),
        (GOOD.replace('"q"', "null"), ":1: ", '"question" is None, which is no text'),
        (GOOD.replace("1", "1.5"), ":1: ", '"level" is 1.5, which is no whole number'),
        (GOOD.replace("1", "true"), ":1: ", '"level" is True, which is no whole number'),
        (GOOD.replace("1", '"1"'), ":1: ", "\"level\" is '1', which is no whole number"),
        (GOOD.replace("0.5", "NaN"), ":1: ", '"share" is nan, which is no number'),
        (GOOD.replace("1", "1" * 5000), ":1: not JSON: Exceeds the limit", ""),
        (GOOD + '{"a":' * 100_000, ":2: not JSON: maximum recursion", ""),
        ("[" + GOOD + ', {"question": "q"}]', ": entry 2: ", 'there is no "level"'),
        (" \n", ": empty; expected rows of ", ""),
        ("[]", ": empty; expected rows of ", ""),
    ],
)
def test_a_wrong_file_is_one_line_with_the_place_the_shape_and_the_field(
    tmp_path: Path, text: str, place: str, fault: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read(path, FIELDS)
    said = str(caught.value)
    if fault:
        assert said == f"{path}{place}expected {SHAPE}, but {fault}"
    else:
        assert said.startswith(f"{path}{place}")
        assert said.endswith(SHAPE)
    assert "\n" not in said


def test_a_list_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.jsonl: begins like a JSON list and is none"):
        read(written(tmp_path, "[" + GOOD), FIELDS)


def test_numbers_may_be_written_as_text_where_the_task_allows_it(tmp_path: Path) -> None:
    path = written(tmp_path, '{"n": "145.0"}\n{"n": 3}\n{"n": "1,450"}\n')
    assert [number(row["n"]) for row in read(path, {"n": Decimal})] == [145, 3, 1450]
    with pytest.raises(ConfigError, match=r"x\.jsonl:1: expected \{\"n\": number\}, but \"n\" is 'many', which is no number"):
        read(written(tmp_path, '{"n": "many"}'), {"n": Decimal})


def test_several_files_are_one(tmp_path: Path) -> None:
    paths = [written(tmp_path, GOOD, "a.jsonl"), written(tmp_path, GOOD.replace('"q"', '"p"'), "b.jsonl")]
    assert [row["question"] for row in read(paths, FIELDS, unique="question")] == ["q", "p"]


@pytest.mark.parametrize("text", ["a,c\n1,2\n", "a,b\n1\n", "a,b\n1,2,3\n", 'a,b\n1,"2\n', 'a,b\n1,"2"3\n'])
def test_wrong_csv(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text, "x.csv")
    with pytest.raises(ConfigError, match=r'x\.csv:[23]: .*expected \{"a": text, "b": text\}') as caught:
        read(path, {"a": str, "b": str})
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.jsonl: cannot be read \(No such file"):
        read(tmp_path / "none.jsonl", FIELDS)
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory"):
        read(tmp_path, FIELDS)
    with pytest.raises(ConfigError, match=r"x\.jsonl:1: not UTF-8 text: byte 1 of the line"):
        read(written(tmp_path, b"a\xff"), FIELDS)


def test_a_field_that_no_two_rows_share(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + GOOD.replace('"q"', '"p"') + GOOD)
    assert len(read(path, FIELDS)) == 3
    with pytest.raises(ConfigError, match=r"x\.jsonl:3: expected another \"question\" in every row, but 'q' came before"):
        read(path, FIELDS, unique="question")


@given(text=st.text() | st.binary())
def test_whatever_a_file_holds_it_is_rows_or_a_config_error(
    text: str | bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for name in ("any.jsonl", "any.csv"):
        path = folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="replace"))
        try:
            outcome = read(path, {"a": str})[0].where
        except ConfigError as error:
            outcome = str(error)
        assert outcome.startswith(str(path))


def test_a_folder_or_the_file_itself(tmp_path: Path) -> None:
    for name in ("cd10.jsonl", "cd9.jsonl", "other.jsonl", "x.csv"):
        written(tmp_path, GOOD, name)
    assert [path.name for path in files(tmp_path, "cd*.jsonl", "cd9*", "*.csv")] == ["x.csv", "cd9.jsonl", "cd10.jsonl"]
    assert files(tmp_path / "other.jsonl", "cd*.jsonl") == [tmp_path / "other.jsonl"]
    with pytest.raises(ConfigError, match=r"this folder holds no a\.json or b\.json"):
        files(tmp_path, "a.json", "b.json")
    with pytest.raises(ConfigError, match=r"nowhere: no such file or folder; expected a\.json, or its folder"):
        files(tmp_path / "nowhere", "a.json")
    with pytest.raises(ConfigError, match=r"with --data: a\.json, or its folder$"):
        files(None, "a.json")
