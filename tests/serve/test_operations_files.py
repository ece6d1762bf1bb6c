"""The files that an operator copies name only what exists."""

import configparser
import json
import re
import shlex
from pathlib import Path

import pytest

from unmask.cli import app as command_line
from unmask.serve.metrics import Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"


def options_of_serve() -> set[str]:
    import typer.main

    command = typer.main.get_command(command_line).commands["serve"]  # type: ignore[attr-defined]
    return {name for parameter in command.params for name in parameter.opts}


def test_the_dashboard_asks_for_metrics_that_are_there() -> None:
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    asked = set(re.findall(r"unmask_\w+", " ".join(target["expr"] for panel in panels for target in panel["targets"])))
    metrics = Metrics()
    metrics.request("/v1/completions", 200, 0.1)
    told = set(re.findall(r"^# TYPE (\w+)", metrics.render().decode(), re.MULTILINE))
    told |= {f"{name}_bucket" for name in told}
    assert len(asked) > 12
    assert asked <= told


@pytest.mark.parametrize("name", ["unmask.service", "Containerfile"])
def test_the_commands_have_options_that_are_there(name: str) -> None:
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (DEPLOY / name).read_text()))
    foreign = {"--device", "--build-arg", "--no-cache-dir", "--index-url", "--constraint", "--create-home", "--now"}
    foreign |= {"--start-period", "--interval", "--format"}
    assert used - foreign <= options_of_serve()


def test_the_unit_leaves_more_time_than_the_server_takes_to_end() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "unmask.service")
    words = shlex.split(unit["Service"]["ExecStart"])
    assert int(unit["Service"]["TimeoutStopSec"]) > int(words[words.index("--drain-seconds") + 1])
