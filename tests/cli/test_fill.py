"""`unmask fill`: the filled file is all that stands on stdout, and a marker that does not fit is one line."""

import json
from pathlib import Path

import pytest

import unmask
from unmask.cli import main
from unmask.cli.fill import split
from unmask.view.trace import FIXED, FIXED_LOOK, read

GIVEN = "Mia starts with 23 apples.\n\n  Mia has "


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["fill", *arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(GIVEN + "<hole:2> apples.\n<hole:3>\n")
    return path


def test_the_filled_file_is_on_stdout(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    canvas = unmask.canvas(GIVEN, unmask.hole(2), " apples.\n", unmask.hole(3), "\n")
    (expected,) = unmask.generate(unmask.load(), [canvas])
    for more in ([], ["--watch"]):
        code, out, err = run(capsys, str(file), *more)
        assert (code, out) == (0, expected.text)
        assert "2 holes, 5 tokens" in err
    code, out, _ = run(capsys, str(file), "--json", "--method", "vanilla")
    document = json.loads(out)
    assert (code, len(document["holes"]), document["method"]) == (0, 2, "vanilla")
    assert document["text"] == GIVEN + document["holes"][0] + " apples.\n" + document["holes"][1] + "\n"


def test_a_saved_decode_shows_what_was_fixed(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    saved, page = tmp_path / "trace.json", tmp_path / "page.html"
    code, _, _ = run(capsys, str(file), "--trace", str(saved))
    assert code == 0
    (trace,) = read(saved)
    before, after = trace.cells(0), trace.cells(trace.forwards)
    assert {cell.rule for cell in before} == {FIXED, None}
    assert [cell.text for cell in before if cell.rule] == [cell.text for cell in after if cell.rule == FIXED]
    assert sum(cell.rule is None for cell in before) == 5
    assert run(capsys, str(file), "--trace", str(page))[0] == 0
    assert FIXED_LOOK.sentence in page.read_text()


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("nothing", [], "holds no marker such as <hole:32>"),
        ("a\nb <hole:x> c", [], ":2: '<hole:x> c' is no marker such as <hole:32>"),
        ("a <hole:0>", [], "at least 1"),
        ("a <hole:3>", ["--hole-marker", "<hole>"], "with one N"),
        ("a <hole:3>", ["--hole-marker", "N"], "with one N"),
        ("a <hole:3> b", ["--model", "unmask-tiny-block"], "cannot see what follows"),
        ("a <hole:3> b", ["--stop", "c"], "early"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, arguments: list[str], words: str
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(text)
    code, out, err = run(capsys, str(path), *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_any_marker_with_a_number_in_it() -> None:
    assert split("x{{FILL 4}}y", "{{FILL N}}", "f") == ["x", unmask.hole(4), "y"]
    assert split("<IN:7>", "<IN:N>", "f", early=True) == ["", unmask.hole(7, end="early"), ""]
