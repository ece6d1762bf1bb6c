"""A method from outside the package, with a rule, a state and a look of its own, goes everywhere; a client's never does."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import unmask
from tests.cli.test_cli import run
from tests.serve.live import running
from unmask.evals.space import space
from unmask.methods import load
from unmask.methods.method import Method
from unmask.models.toy import toy
from unmask.serve.lines import Job, request
from unmask.serve.options import Options
from unmask.serve.protocol import Diffusion
from unmask.serve.requests import choose
from unmask.view.trace import Recorder

QUESTION = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"
NAME = "outside_patience:patience"
SOURCE = '''
"""A position goes once it has been sure enough at any step of its block."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from unmask.decode.memory import Real, Whole, empty
from unmask.decode.rule import Commit, Look, best
from unmask.decode.settings import number_field, whole_field
from unmask.methods.method import Method
from unmask.methods.parts import StopAtEos


class Peak(NamedTuple):
    seen: Whole
    surest: Real

    @classmethod
    def empty(cls, rows, length, device, dtype):
        return empty(cls, rows, length, device, dtype)


@dataclass(frozen=True, kw_only=True)
class Patience(Commit):
    name: ClassVar[str] = "patience"
    look: ClassVar[Look] = Look(label="much patience", sentence="what was sure enough at any step", terminal="blue",
                                light="#123456", dark="#abcdef")
    state = Peak
    level: float = number_field(0.0, 1.0, default=0.9, search=(0.5, 1.0))
    sights: int = whole_field(1, default=1, search="one is enough to show the seam")

    def __call__(self, proposal, memory):
        again_BL = (proposal.step_B > 0)[:, None]
        seen_BL = memory.seen * again_BL + 1
        surest_BL = torch.maximum(memory.surest * again_BL, proposal.confidence_BL)
        sure_BL = proposal.open_BL & (surest_BL >= self.level) & (seen_BL >= self.sights)
        return sure_BL | best(proposal.confidence_BL, proposal.open_BL), Peak(seen_BL, surest_BL)


def patience(*, level=0.9):
    return Method(name="patience", cache="dual", commit=Patience(level=level), stop_at_eos=StopAtEos())


@dataclass(frozen=True, kw_only=True)
class Stubborn(Patience):
    name: ClassVar[str] = "stubborn"
    level: float = number_field(0.0, 1.0, default=0.9, search="it never changes its mind")


def stubborn():
    return Method(name="stubborn", commit=Stubborn())


def strict(level):
    return patience(level=level)


def nothing():
    return "patience"


number = 3
'''


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the path with the module, and with one that must not be imported."""
    place = tmp_path_factory.mktemp("outside")
    (place / "outside_patience.py").write_text(SOURCE)
    (place / "outside_trap.py").write_text("raise SystemError('imported')\n")
    sys.path.insert(0, str(place))
    yield place
    sys.path.remove(str(place))


def test_generate_in_a_batch_as_alone_with_its_own_state_and_look() -> None:
    model, method = unmask.load("unmask-tiny"), unmask.method(NAME, level=0.8)
    assert method.named == {"commit.level"}
    prompts = [QUESTION, "Compute 12 - 9."]
    recorder = Recorder(model, 64)
    done = unmask.generate(model, prompts, method=method, max_new_tokens=64, observer=recorder)
    for prompt, row in zip(prompts, done, strict=True):
        alone = unmask.generate(model, [prompt], method=method, max_new_tokens=64)[0]
        assert (alone.token_ids, alone.forwards) == (row.token_ids, row.forwards)
        assert set(row.commits) == {"patience"}
    assert recorder.trace().look("patience").label == "much patience"
    drafted = unmask.generate(model, prompts, method=method.change(**{"draft.steps": 3}), max_new_tokens=64)
    assert [row.token_ids for row in drafted] == [row.token_ids for row in done]
    behind = unmask.method(NAME, temporal={"steps": 2, "threshold": 0.1})
    assert {"patience", "temporal"} == set(unmask.generate(model, prompts, method=behind, max_new_tokens=64)[0].commits)


def test_settings_go_to_plain_data_and_back() -> None:
    method = unmask.method(NAME, level=0.7, sights=2)
    data = method.to_dict()
    assert data["commit"] == {"rule": "outside_patience:Patience", "level": 0.7, "sights": 2}
    assert Method.from_dict(json.loads(json.dumps(data))) == method
    assert space(method, 64) == {"commit.level": (0.5, 1.0, None)}


def test_compare(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("compare", QUESTION, "--methods", f"vanilla,{NAME}", "--max-new-tokens", "64", "--json")
    code, out, err = run(capsys, *command)
    assert (code, err) == (0, "")
    vanilla, ours = json.loads(out.splitlines()[-1])["rows"]
    assert ours["method"] == NAME
    assert ours["forwards"] < vanilla["forwards"]


def test_calibrate(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("calibrate", "chain", "--method", NAME, "--max-new-tokens", "64", "--limit", "20", "--trials", "2")
    code, out, err = run(capsys, *command, "--budget", "80", "-o", "found.yaml", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out.splitlines()[-1])
    assert document["search"][0]["numbers"] == {"commit.level": 0.9}
    assert load("found.yaml").to_dict() == document["settings"]


def test_view_as_a_page_and_in_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page, trace = tmp_path / "decode.html", tmp_path / "decode.json"
    for output in (page, trace):
        code, _, err = run(capsys, "view", QUESTION, "--methods", NAME, "--max-new-tokens", "32", "-o", str(output))
        assert (code, err) == (0, "")
    assert all(word in page.read_text() for word in ("much patience", "#123456", "#abcdef"))
    rules = json.loads(trace.read_text())["traces"][0]["rules"]
    assert rules["patience"]["terminal"] == "blue"
    code, out, _ = run(capsys, "generate", QUESTION, "--method", NAME, "--max-new-tokens", "32", "--watch")
    assert code == 0
    assert "₁ much patience" in out


def test_the_operator_serves_it_and_a_client_may_set_it_but_not_name_it() -> None:
    with running(unmask.load("unmask-tiny"), options=Options(method=NAME)) as server:
        answer = server.chat(diffusion={"level": 0.7})
        assert answer.status_code == 200
        with server.http() as client:
            assert "much patience" in client.get("/").text
        for method in ("outside_patience:patience", {"commit": {"rule": "outside_patience:Patience"}}):
            answer = server.chat(diffusion={"method": method})
            assert answer.status_code == 400
            assert "would have to be imported" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "asked",
    [
        {"method": "outside_trap:method"},
        {"method": {"commit": {"rule": "outside_trap:Rule"}}},
        {"method": "vanilla", "commit": {"rule": "outside_trap:Rule"}},
        {"method": "vanilla", "commit.rule": "outside_trap:Rule"},
        {"commit": {"rule": "outside_trap:Rule"}},
        {"commit.rule": "outside_trap:Rule"},
    ],
)
def test_nothing_that_a_client_names_is_imported(asked: dict[str, object]) -> None:
    with pytest.raises(unmask.ConfigError, match="outside_trap:"):
        choose(Diffusion.model_validate(asked), Options())
    if set(asked) == {"method"}:
        with pytest.raises(unmask.ConfigError, match="would have to be imported"):
            request(toy(), {"token_ids": [1], **asked}, Job(model="toy", method=load("vanilla"), max_new_tokens=32))
    assert "outside_trap" not in sys.modules


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("outside_nowhere:method", "No module named 'outside_nowhere'; is its folder on PYTHONPATH?"),
        ("outside_trap:method", "outside_trap cannot be imported (SystemError: imported)"),
        ("outside_patience:patient", "the module outside_patience has no patient"),
        ("outside_patience:", "the module outside_patience has no object of an empty name"),
        (":patience", "write it as package.module:function"),
        ("outside_patience:nothing", "expected a Method, got 'patience'"),
        ("outside_patience:number", "expected a function that returns a Method, got 3"),
        ("outside_patience:strict", "every argument of the function needs a default, and level has none"),
        ("outside_patience.patience", "unknown method 'outside_patience.patience'"),
    ],
)
def test_what_is_wrong_with_a_name_is_said_in_one_line(name: str, said: str) -> None:
    with pytest.raises(unmask.ConfigError) as caught:
        unmask.method(name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_of_settings_must_be_a_rule() -> None:
    with pytest.raises(unmask.ConfigError, match="expected a subclass of unmask"):
        Method.from_dict({"commit": {"rule": "outside_patience:Peak"}})
    with pytest.raises(unmask.ConfigError, match="unknown commit rule 'patience'"):
        Method.from_dict({"commit": {"rule": "patience"}})
    with pytest.raises(unmask.ConfigError, match=r"unknown option of outside_patience:patience 'levle': did you mean 'level'"):
        unmask.method(NAME, levle=0.5)


def test_a_calibration_with_nothing_to_search_says_what_could_be(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("calibrate", "chain", "--method", "outside_patience:stubborn", "--limit", "20", "--budget", "80")
    code, _, err = run(capsys, *command)
    assert code == 2
    assert err.startswith("error: stubborn has no number to search; parts with numbers are commit.steps, ")
    assert "commit.threshold, " in err
    assert err.count("\n") == 1
