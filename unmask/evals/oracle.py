"""The fewest forwards that a greedy commit rule could need: the headroom of every method.

An oracle knows vanilla's answer. At each forward of a block it commits every masked position that already predicts that
answer's token; if there is none, it writes the answer's token at the position of highest confidence. It is greedy, so it
bounds rules that look at one forward at a time; it does not prove a minimum.
"""

import torch

from unmask.context.plan import assemble, entire
from unmask.engine.prompt import encode
from unmask.evals.run import Record, Run
from unmask.files import Journal
from unmask.kernels.vocabulary import evidence
from unmask.models.denoiser import Denoiser


def oracle(model: Denoiser, vanilla: Run, journal: Journal | None = None) -> list[int]:
    """Forwards of the oracle for every item that fits into the model, in the blocks of `vanilla`, without a cache.

    Like every method it stops once EOS is written with nothing masked before it. Items that `journal` holds are not decoded
    again.
    """
    asked = [record for record in vanilla.records if record.asked]
    counted: dict[str, int] = {row["id"]: row["forwards"] for _, row in journal or ()}
    for record in asked:
        if record.id not in counted:
            counted[record.id] = _forwards(model, vanilla, record)
            if journal is not None:
                journal.append([{"id": record.id, "forwards": counted[record.id]}])
    return [counted[record.id] for record in asked]


@torch.inference_mode()
def _forwards(model: Denoiser, vanilla: Run, record: Record) -> int:
    prompt, answer = encode(model, record.prompt), record.token_ids
    mask_id, device = model.spec.mask_id, model.device
    # The EOS itself is written too, if there is one.
    needed = min(record.tokens + 1, len(answer))
    truth_T = torch.tensor([*prompt, *answer], device=device)
    tokens_T = torch.tensor([*prompt, *[mask_id] * len(answer)], device=device)
    forwards = 0
    for start in range(0, needed, length := vanilla.method.block_length or len(answer)):
        block_L = len(prompt) + torch.arange(start, min(start + length, needed), device=device)
        while (tokens_T[block_L] == mask_id).any():
            begin = len(prompt) + start
            query = entire(tokens_T.tolist(), begin, begin + len(block_L), block=model.spec.block)
            logits_LV = model.forward(*assemble([query], device=device), None)
            candidate_L, confidence_L, *_ = evidence(logits_LV, mask_id)
            open_L = tokens_T[block_L] == mask_id
            taken_L = open_L & (candidate_L == truth_T[block_L])
            if not taken_L.any():
                taken_L[confidence_L.where(open_L, -1.0).argmax()] = True
            tokens_T[block_L[taken_L]] = truth_T[block_L[taken_L]]
            forwards += 1
    return forwards
