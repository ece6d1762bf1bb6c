"""What a watched forward is told as: one record of each row."""

from dataclasses import replace

from unmask.engine.decision import Evidence
from unmask.engine.request import StepOutput, StepRecord
from unmask.engine.state import RequestState


def record_of(row: RequestState, output: StepOutput | None, evidence: Evidence | None) -> StepRecord:
    """The record of a row that has not committed the step yet; one that decided nothing has no evidence."""
    turn, begin = row.turn(), row.window.start
    queries = [] if turn.clean is None else [row.canvas.tokens[place] for place in turn.clean.queried]
    if turn.block is not None and evidence is not None:
        for state in evidence.states[: row.tried(len(evidence.states))]:
            tokens = [*row.canvas.tokens[:begin], *state, *row.canvas.tokens[begin + len(state) :]]
            queries += [tokens[position] for position in turn.block.queried]
    taken = [] if output is None else output.taken
    new = {begin + offset: (output.block[offset], rule) for offset, rule in enumerate(taken) if rule and output}
    new = dict(sorted((row.filled | new).items()))
    return StepRecord(
        forward=row.forwards,
        rows=[0],
        refresh=[row.refreshes],
        query_tokens=[queries],
        committed=[list(new)],
        tokens=[[token for token, _ in new.values()]],
        rule=[[row.recipe.rules[rule - 1].name for _, rule in new.values()]],
        prompt=[row.canvas.prompt],
        start=[begin],
        block=[row.block()],
        candidate=[row.block() if evidence is None else evidence.candidate],
        confidence=[[0.0] * row.recipe.width if evidence is None else evidence.confidence],
        refused=[[] if evidence is None else evidence.refused],
        looks=[{rule.name: rule.look for rule in row.recipe.rules}],
    )


def filled_in(record: StepRecord, row: RequestState) -> StepRecord:
    """The record of the row's last forward, with what a constraint has filled in since."""
    new = sorted(row.filled.items())
    return replace(
        record,
        committed=[record.committed[0] + [place for place, _ in new]],
        tokens=[record.tokens[0] + [token for _, (token, _) in new]],
        rule=[record.rule[0] + [row.recipe.rules[rule - 1].name for _, (_, rule) in new]],
    )
