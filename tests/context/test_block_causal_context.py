"""Plans of block-causal models: what is made final when, who sees whom, and which row predicts a block's first token."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.context.plan import Query, assemble
from unmask.context.policy import Window, block_causal, clean, keeping, least_tokens, most_slots, most_tokens, sub_block
from unmask.models.attention import block_causal as mask_of

CPU = torch.device("cpu")


@given(
    block=st.sampled_from([1, 4, 8, 32]),
    begin=st.integers(0, 20),
    lacking=st.integers(1, 40),
    how=st.sampled_from(["along", "own", "one by one"]),
    spare=st.none() | st.integers(0, 200),
)
def test_every_block_is_made_final_once_in_forwards_that_hold_it(
    block: int, begin: int, lacking: int, how: str, spare: int | None
) -> None:
    room = None if spare is None else 2 * block + spare
    done, end, sizes = begin * block, (begin + lacking) * block, []
    while (plan := keeping(done, end, block=block, how=how, room=room)) is not None:
        assert (plan.query.start, plan.positions, plan.block) == (done, list(range(plan.query.stop)), block)
        sizes.append(plan.tokens)
        done = plan.query.stop
    assert done == end
    assert all(size % block == 0 and size > 0 for size in sizes)
    if how == "one by one":
        assert set(sizes) == {block}
    elif room is None:
        assert sizes == [lacking * block]
    else:
        last = block if how == "along" else 0  # the block's own query goes with the last
        assert all(size <= room for size in sizes[:-1])
        assert sizes[-1] + last <= room
        assert len(sizes) <= -(-lacking * block // (room // block * block)) + 1


@given(written=st.lists(st.booleans(), min_size=16, max_size=16), length=st.sampled_from([2, 4, 8, 16]))
def test_a_sub_block_that_is_queried_alone_holds_the_first_mask(written: list[bool], length: int) -> None:
    window = Window(prompt=17, start=16, end=32, total=48, origin=0)
    plan, tokens = block_causal(16)(window, 1), [1 if one else 9 for one in written]
    made = sub_block(plan, window, tokens, length, 9)
    masks = [place for place, token in enumerate(tokens, window.start) if token == 9]
    assert made.positions == plan.positions
    assert made == plan or made.tokens == length
    if masks:
        assert made.query.start <= masks[0] < made.query.stop
        begins = masks[0] - masks[0] % length
        assert (made == plan) == (masks[0] == begins or length == 16)


@given(block=st.sampled_from([2, 4]), rows=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), min_size=1, max_size=4))
def test_a_token_sees_its_own_and_earlier_blocks(block: int, rows: list[tuple[int, int]]) -> None:
    """As a mask and as queries of one block each, with pages anywhere."""
    asked, free = [], list(range(200))[::-1]
    for before, blocks in rows:
        plan = clean(before * block, (before + blocks) * block, block)
        pages = tuple(free.pop() for _ in range(-(-plan.query.stop // 16)))
        asked.append(Query(plan=plan, tokens=[1] * plan.tokens, start=plan.query.start, length=0, pages=pages))
    _, forward = assemble(asked, device=CPU)
    seen: dict[int, list[list[int]]] = {}
    place = 0
    for group in forward.groups:
        past = group.past
        if past is None:  # a row's first block by itself
            assert group.length == block
            for first in range(place, place := place + group.queries * block, block):
                own = forward.slots_M[first : first + block].tolist()
                seen |= {slot: [own] for slot in own}
            continue
        shown_BQS = past.visible
        for row in range(group.queries):
            for query in range(group.length):
                shown = torch.ones(past.longest, dtype=torch.bool)
                if shown_BQS is not None:
                    shown = shown_BQS[row, query if shown_BQS.shape[1] > 1 else 0]
                seen.setdefault(int(forward.slots_M[place]), []).append(past.keys[row][shown].tolist())
                place += 1
        if group.block is not None:
            apart = past.apart
            for number, count in enumerate(apart.seen_B.tolist()):
                first = forward.slots_M[place - group.queries * group.length + number * block]
                assert apart.keys[number][:count].tolist() == seen[int(first)][0]
    for query in asked:
        slots = [query.pages[slot // 16] * 16 + slot % 16 for slot in range(query.plan.query.stop)]
        shown_QQ = mask_of(torch.arange(query.plan.query.stop), block)
        for position in query.plan.queried:
            expected = [slot for slot, one in zip(slots, shown_QQ[position].tolist(), strict=True) if one]
            assert seen[slots[position]] == [expected]


def test_a_blocks_first_token_is_predicted_by_the_query_before_it() -> None:
    """However the forward packs them; beside other rows, and where the block itself is not queried."""
    block = 4
    policy = block_causal(block)

    def asked(row: int, start: int, *, follows: bool, alone: bool = False) -> list[Query]:
        window = Window(prompt=start, start=start, end=start + block, total=start + block, origin=0)
        plan = policy(window, 0)
        if alone:
            plan = plan._replace(query=slice(start, start))
        own = Query(plan=plan, tokens=[9] * plan.tokens, start=start, length=block, pages=(row,), follows=follows)
        if not follows:
            return [own]
        before = clean(0, start, block)
        return [Query(plan=before, tokens=list(range(start)), start=0, length=0, pages=(row,)), own]

    queries = [*asked(0, 4, follows=True), *asked(1, 4, follows=False), *asked(2, 8, follows=True, alone=True)]
    tokens_N, plan = assemble(queries, device=CPU)
    positions = plan.positions_N[plan.before_R].tolist()
    assert positions[:4] == [3, 4, 5, 6]
    assert positions[4:8] == [4, 4, 5, 6]  # the first has no row before it
    assert positions[8:] == [7] * 4
    assert tokens_N[plan.before_R[0]] == 3
    assert tokens_N[plan.before_R[8]] == 7
    assert len(tokens_N) == 4 + 4 + 4 + 8


def test_what_a_row_can_need() -> None:
    assert most_slots("block", 96, 32, 1) == 96
    assert most_slots("block", 96, 32, 4) == 96 + 3 * 32
    assert (least_tokens("block", 96, 32, 1), most_tokens("block", 96, 32, 1)) == (64, 96)
    assert least_tokens("block", 32, 32, 1) == 32
    assert least_tokens("none", 96, 32, 1) == 96
