"""`unmask calibrate`: find the settings of a method with the fewest forwards within a budget of accuracy."""

import json
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.cli.choose import (
    AddBos,
    Device,
    Dtype,
    Json,
    Model,
    Settings,
    Template,
    own_method,
    read_method,
)
from unmask.cli.console import progress
from unmask.errors import ConfigError, require

if TYPE_CHECKING:
    from unmask.evals.calibrate import Calibration, Plan, Report
    from unmask.evals.search import Standing
    from unmask.methods.method import Method
    from unmask.models.denoiser import Denoiser

GENERATED = 2000  # items of a generated task, which has no end, unless the budget needs more


def command(
    task: Annotated[str, typer.Argument(help="A task of `unmask eval`: arithmetic, mixture ...; gsm8k ... with --data.")],
    budget: Annotated[float, typer.Option(help="Largest loss of accuracy, in points.")],
    method: Annotated[
        str | None, typer.Option(help="The preset or settings file to tune; default: the model's own, or r2-dllm.")
    ] = None,
    settings: Settings = None,
    against: Annotated[
        str | None,
        typer.Option(help="The baseline of the loss, a preset or a settings file; default: METHOD as it is."),
    ] = None,
    model: Model = "unmask-tiny",
    data: Annotated[
        Path | None, typer.Option(help="The task's data: a file, a folder, or a data set of the hub such as openai/gsm8k.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Number of items; default: all, or of a generated task 2000, for a budget below 2 points more."),
    ] = None,
    trials: Annotated[int, typer.Option(help="Number of candidates that the search tries.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the choice of items, of their split and of the search.")] = 0,
    shots: Annotated[int | None, typer.Option(help="Worked examples in the prompt; default: the task's usual number.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Length of every answer in tokens.")] = None,
    chat_template: Template = True,
    add_bos: AddBos = False,
    batch: Annotated[int, typer.Option(help="Prompts decoded at once.", min=1)] = 16,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The settings file to write; default: one beside the answers.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where answers are kept; default: a folder under runs/calibrate.")] = None,
    save: Annotated[
        bool,
        typer.Option(
            "--save", help="Write what was certified into MODEL's folder (unmask.json), where it becomes the default."
        ),
    ] = False,
    as_json: Json = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Find the settings of a method with the fewest forwards that lose at most BUDGET points, with 95 % confidence.

    30 % of the items are used to search, 40 % to test the candidates one after the other, and 30 % to report the accuracy
    of the result. The result is a settings file for --method; if nothing is certified, it holds the method as it was.

    A smaller budget needs more items: 2 points need about 450 if no answer changes, and 1900 if a tenth of the answers
    change, half of them for the better; 1 point needs 900 and 7100, half a point 1800 and 28000. Without --limit a generated
    task has as many as the second number, and 2000 or more. The search takes most of the time: about TRIALS / 2 answers to
    30 % of the items.

    The same command resumes a calibration that was stopped; another budget on the same items reuses its answers.
    """
    import unmask
    from unmask.engine.own import completed
    from unmask.evals import TABLE, calibrate, load
    from unmask.evals.task import Source
    from unmask.files import write_atomically, writing
    from unmask.methods.settings import ENDINGS
    from unmask.models.loading import described, fingerprint, locate

    method = method or own_method(model)
    facts = described(model)
    start = completed(facts, read_method(method, settings))
    place = _own_folder(model, method) if save else None
    if limit is None and task not in TABLE and 0 < budget <= 100:
        limit = max(GENERATED, calibrate.usual_limit(budget))
    plan = calibrate.Plan(
        task=load(task, Source(data=data, limit=limit, seed=seed, shots=shots)),
        method=start,
        against=completed(facts, read_method(against)) if against else start,
        budget=budget,
        trials=trials,
        seed=seed,
        max_new_tokens=max_new_tokens,
        block=start.block_length if facts.spec.block is not None else None,
    )
    require("calibrating", "optuna", "eval")
    denoiser = unmask.load(model, device=device, dtype=dtype, chat_template=chat_template, add_bos=add_bos)
    weights = fingerprint(locate(model))
    folder = folder or _folder(denoiser, plan, weights, batch)
    with writing(folder), _bar() as report:
        found = calibrate.calibrate(denoiser, plan, folder=folder / "answers", weights=weights, batch=batch, report=report)
    of = Path(method).stem if Path(method).suffix in ENDINGS else method.replace(":", ".")
    name = f"{of}-{budget:g}"
    output = output or folder / f"{name}.yaml"
    baseline = against or f"{method} as it was"
    verdict = conclude(plan, found, baseline)
    document = {"task": task, "model": model, "method": method, "against": against or method, **describe(plan, found)}
    text = json.dumps(document | {"file": str(output)})
    chosen = "".join(f" --set {pair}" for pair in settings or ())
    chosen += " --no-chat-template" * (not chat_template) + " --add-bos" * add_bos
    header = (
        f"unmask calibrate {task} --method {method}{chosen} --budget {budget:g} on {model}: {trials} trials, seed {seed},",
        f"{' + '.join(str(len(part)) for part in plan.parts)} items to search, validate and report.",
        verdict,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, lambda place: place.write_text(settings_file(result(plan, found), header)))
    write_atomically(folder / f"{name}.json", lambda place: place.write_text(text + "\n"))
    if place is not None and found.certified is not None:
        _save(place, method, result(plan, found), facts)
    if as_json:
        print(text)
    else:
        _show(document, verdict, output)
        if place is not None:
            print(f"saved: {place}" if found.certified else f"not saved: {place} keeps what it had")


def _own_folder(model: str, method: str) -> Path:
    """The file that `--save` writes. Raises ConfigError before hours of work where there would be nothing to write."""
    from unmask.methods import TABLE
    from unmask.models.own import FILE

    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"--save writes into the model's folder, and {model} is none: name a local checkpoint folder")
    if method not in TABLE or method.endswith("-official"):
        plain = [name for name in TABLE if not name.endswith("-official")]
        raise ConfigError(f"--save keeps settings of a preset, and {method} is none: take one of {', '.join(plain)}")
    return folder / FILE


def _save(place: Path, name: str, certified: "Method", facts: "Denoiser") -> None:
    """Make what sets the certified method apart from its preset the folder's own, and the preset its default."""
    import dataclasses

    from unmask.engine.own import completed
    from unmask.methods import load
    from unmask.methods.settings import differences
    from unmask.models import own

    found = own.read(place.parent)
    usual = completed(dataclasses.replace(facts, own=own.Own(settings=found.settings)), load(name))
    settings = differences(usual.to_dict(), certified.to_dict())
    own.write(place.parent, dataclasses.replace(found, method=name, presets={**found.presets, name: settings}))


def result(plan: "Plan", found: "Calibration") -> "Method":
    """The certified method, or the method as it was."""
    return found.certified.method if found.certified else plan.method


def describe(plan: "Plan", found: "Calibration") -> dict[str, Any]:
    """A calibration as plain data; losses are shares, only the budget is in points."""
    from unmask.evals.summary import against, table

    def row(method: "Method", standing: "Standing", **said: bool) -> dict[str, Any]:
        stood = {"loss": standing.loss, "loss_bound": standing.bound(), "forwards_ratio": standing.forwards}
        counts = {"n": standing.n, "lost": standing.lost, "gained": standing.gained}
        return {"numbers": plan.numbers(method), **counts, **stood, **said}

    rows = table(found.runs)
    runs = {run.name: run for run in found.runs}
    if "calibrated" in runs and "against" in runs:
        rows[-1]["against_default"] = against(runs["calibrated"], runs["default"])
    return {
        "budget": plan.budget,
        "passed": found.certified is not None,
        "n": len(plan.task.items),
        "parts": {name: len(part) for name, part in plan.parts._asdict().items()},
        "settings": result(plan, found).to_dict(),
        "search": [row(trial.method, trial.standing, finished=trial.finished) for trial in found.trials],
        "validation": [row(test.method, test.standing, passed=test.passed) for test in found.tests],
        "rows": rows,
    }


def conclude(plan: "Plan", found: "Calibration", baseline: str) -> str:
    """One sentence: what was certified, or why nothing was and what would help."""
    from unmask.evals.calibrate import limit

    if found.certified:
        now = found.certified.standing
        return (
            f"Certified on {now.n} items: {100 * now.loss:.1f} points lost against {baseline}, with 95 % confidence at most "
            f"{100 * now.bound():.1f}; {1 - now.forwards:.0%} fewer forwards."
        )
    if not found.tests:
        return f"Nothing certified: no trial was faster than {baseline}. The method is kept as it was; more --trials may help."
    now = found.tests[0].standing
    share = plan.budget / 100
    remedy = f"about --limit {limit(now.enough(share))}" if now.loss < share else "a larger --budget"
    return (
        f"Nothing certified: the safest of the faster candidates lost {100 * now.loss:.1f} points against {baseline} on "
        f"{now.n} items, perhaps as many as {100 * now.bound():.1f}. The method is kept as it was; {remedy} may help."
    )


def settings_file(method: "Method", header: Iterable[str]) -> str:
    """YAML that --method reads, with comment lines above it."""
    import yaml

    comments = "".join(f"# {part}\n" for line in header for part in textwrap.wrap(line, 100))
    return comments + yaml.safe_dump(method.to_dict(), sort_keys=False)


def _folder(model: "Denoiser", plan: "Plan", weights: str, batch: int) -> Path:
    """A folder that depends on items and model, not on the budget: its answers are found by their method's settings."""
    from unmask.files import digest

    items = [[item.id, item.prompt] for item in plan.task.items]
    asked = [model.prompting.to_dict()] if model.prompting.to_dict() else []
    key = digest([weights, model.device.type, str(model.dtype), items, plan.max_new_tokens, batch, *asked])
    return Path("runs") / "calibrate" / f"{plan.task.name}-{key[:8]}"


@contextmanager
def _bar() -> "Iterator[Report]":
    """A progress bar on stderr, one line per stage; silent if stderr is not a terminal."""
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[step]}"), TimeElapsedColumn())
    with progress(*columns) as display:
        stages: dict[str, TaskID] = {}

        def report(stage: str, done: float, steps: int) -> None:
            if stage not in stages:
                stages[stage] = display.add_task(stage, total=steps, step="")
            display.update(stages[stage], completed=done, step=f"{int(done)}/{steps}")

        yield report


def _show(document: dict[str, Any], verdict: str, output: Path) -> None:
    from unmask.cli.console import Column, console, numbers, print_table

    names = {"default": f"{document['method']} as it was", "against": document["against"]}
    rows = []
    for row in document["rows"]:
        change = row.get("against_first")
        cells = (
            names.get(row["method"], row["method"]),
            f"{row['accuracy']:.1%} ({100 * row['accuracy_low']:.0f}-{100 * row['accuracy_high']:.0f})",
            f"{100 * change['accuracy_change']:+.1f}, p {change['mcnemar_p']:.2g}" if change else "",
            f"{row['forwards_mean']:.2f} ({row['forwards_low']:.2f}-{row['forwards_high']:.2f})",
            f"{change['forwards_ratio'] - 1:+.1%}" if change else "",
        )
        rows.append(cells)
    columns = (Column("method"), *numbers("right (95 %)", "points, p", "forwards (95 %)", "change"))
    title = f"{document['task']}, {document['parts']['report']} items that neither search nor validation has seen"
    print_table(columns, rows, title=title)
    out = console()
    out.print(verdict, soft_wrap=True)
    out.print(f"settings: {output}", soft_wrap=True)
