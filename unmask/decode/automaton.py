"""A finite automaton over tokens, as tensors: which texts an answer may be. grammar/lift.py makes one. Pure.

Shapes: S states, C token classes (tokens that do the same in every state), P pairs of states with a token between them, N sets
of classes that pairs have, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from unmask.kernels.vocabulary import Classes, Segments


@dataclass(frozen=True, kw_only=True, eq=False)
class Automaton:
    """State 0 begins. Class 0 leads nowhere: no position becomes one of its tokens, the mask among them.

    Attributes:
        next_CS: the state behind each class, -1 where there is none; on the host.
        classes: the tokens of each class.
        from_P, to_P, set_P: the pairs, by their first state, and the set of classes that leads from one to the other.
        member_NC: the classes of each set; `members` are the same as segments.
        left_S: tokens of the shortest way to where an answer may end.
        single_C: the only token of a class, or of the class of `ends` the first of them; -1 where there are several.
        ends: ids that end an answer.
        end_P: the pairs behind which there are only ends.
    """

    next_CS: Tensor
    classes: Classes
    from_P: Tensor
    to_P: Tensor
    set_P: Tensor
    member_NC: Tensor
    members: Segments
    left_S: Tensor
    single_C: Tensor
    ends: tuple[int, ...]
    end_P: Tensor
    mask_id: int
    _copies: dict[torch.device, "Automaton"] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        *,
        next_CS: Tensor,
        class_V: Tensor,
        from_P: Tensor,
        to_P: Tensor,
        set_P: Tensor,
        member_NC: Tensor,
        left_S: Tensor,
        ends: Sequence[int],
        mask_id: int,
    ) -> Self:
        """With all that follows from the rest."""
        count = len(next_CS)
        end_class = int(class_V[ends[0]])
        size_C, first_C = class_V.bincount(minlength=count), torch.full((count,), -1)
        first_C[class_V.flip(0)] = torch.arange(len(class_V)).flip(0)
        single_C = torch.where(size_C == 1, first_C, -1)
        only_ends = bool((class_V == end_class).sum() == len(set(ends))) and end_class > 0
        if only_ends:
            single_C[end_class] = ends[0]
        set_N, class_N = member_NC.nonzero(as_tuple=True)
        # A hand-made automaton may have no such class: there every pair is as good behind the end.
        ends_N = member_NC[:, end_class] & (member_NC.sum(dim=1) == 1) if only_ends else member_NC.any(dim=1)
        return cls(
            next_CS=next_CS,
            classes=Classes.of(class_V, count, mask_id),
            from_P=from_P,
            to_P=to_P,
            set_P=set_P,
            member_NC=member_NC,
            members=Segments.of(class_N, set_N, len(member_NC)),
            left_S=left_S,
            single_C=single_C,
            ends=tuple(ends),
            end_P=ends_N[set_P],
            mask_id=mask_id,
        )

    @property
    def states(self) -> int:
        """S."""
        return len(self.left_S)

    def least(self, state: int = 0) -> int:
        """Tokens of the shortest answer from a state on."""
        return int(self.left_S[state])

    def walk(self, tokens: Sequence[int], state: int = 0) -> int:
        """The state behind tokens; -1 where the automaton does not allow them."""
        for token in tokens:
            state = int(self.next_CS[self.classes.class_V[token], state]) if state >= 0 else -1
        return state

    def on(self, device: torch.device) -> "Automaton":
        """The automaton with its tensors there, copied once."""
        if device.type == "cpu":
            return self
        if device not in self._copies:
            moved: dict[str, Any] = {
                part.name: _moved(getattr(self, part.name), device)
                for part in fields(self)
                if part.name not in ("next_CS", "ends", "mask_id", "_copies")
            }
            self._copies[device] = replace(self, **moved, _copies={})
        return self._copies[device]


def _moved(part: Any, device: torch.device) -> Any:
    """A tensor there, or a tuple with all its tensors there."""
    if isinstance(part, Tensor):
        return part.to(device)
    return type(part)(*(_moved(one, device) for one in part)) if isinstance(part, tuple) else part
