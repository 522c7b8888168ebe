"""What a student would write behind every stretch of a stored teacher text: all that a greedy game with calls needs.

In greedy decoding, what is left after `VERIFY` is a beginning of the teacher's own text, and so is what stands after
`ASK` where nothing went wrong before. A student that has its whole text verified again and again therefore writes a
chain of *drafts*: each begins with such a stretch and goes on alone, and is worth what the metric says of it if nobody
looks again. The chain is what an episode of the game shows that calls `VERIFY` at every end (a test holds it against
one), and it needs no live teacher, only the texts that it wrote once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.joint.reading import Ids, Texts
from agents.joint.sampling import Writer

Quality = Callable[[int, Ids], float]
"""(prompt index, output without the end token) -> the task's metric."""


@dataclass(frozen=True)
class Drafts:
    """The chains of several episodes, one after the other; a draft's text stands after the student's whole prompt.

    Attributes:
        texts: of each draft, the settled beginning included.
        episode: (drafts,) the episode of each. number: (drafts,) its place in the chain.
        first: (drafts,) how many tokens were settled before it. kept: (drafts,) how many the teacher would keep, at
            least `first`; all of them where it agrees to the end.
        quality: (drafts,) of the text if it stays as it is.
        final_quality, final_length: (episodes,) of the teacher's text, which stands at the end of every chain.
    """

    texts: Texts
    episode: NDArray[np.int64]
    number: NDArray[np.int64]
    first: NDArray[np.int64]
    kept: NDArray[np.int64]
    quality: NDArray[np.float64]
    final_quality: NDArray[np.float64]
    final_length: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(drafts,) tokens of each text."""
        return self.texts.lengths

    @property
    def agrees(self) -> NDArray[np.bool_]:
        """(drafts,) whether the teacher would keep it to the end."""
        return self.kept == self.lengths

    @property
    def chain(self) -> NDArray[np.int64]:
        """(episodes + 1,) where each episode's drafts begin, and their number."""
        return np.concatenate([np.flatnonzero(self.number == 0), [len(self.number)]])


def write_drafts(
    writer: Writer,
    prompts: Sequence[Ids],
    stored: Sequence[Ids],
    indices: Sequence[int] | NDArray[np.int64],
    quality: Quality,
    end_tokens: Sequence[int],
) -> Drafts:
    """Let the student write its chains.

    Args:
        prompts: the student's whole prompt of each episode, rule included. stored: the teacher's greedy text of each,
            end token included where it ended. indices: of the task's prompts.
        writer: of the student, with the cap that the stored texts have.
    """
    ends = set(end_tokens)

    def worth(episode: int, text: Ids) -> float:
        return quality(int(indices[episode]), text[:-1] if text[-1] in ends else text)

    found: list[tuple[int, int, int, int, float, Ids]] = []  # episode, number, first, kept, quality, text
    settled: list[Ids] = [()] * len(prompts)
    going, number = list(range(len(prompts))), 0
    while going:
        written = writer.greedy([prompts[i] for i in going], begun=[settled[i] for i in going]).outputs
        following = []
        for i, rest in zip(going, written, strict=True):
            text = [*settled[i], *rest]
            kept = _agreement(text, stored[i])
            found.append((i, number, len(settled[i]), kept, worth(i, text), text))
            if kept < len(text) and kept + 1 < len(stored[i]):  # the teacher writes on, and not the last token
                settled[i] = stored[i][: kept + 1]
                following.append(i)
        going, number = following, number + 1
    found.sort(key=lambda draft: draft[:2])
    episode, numbers, first, kept_, worths, texts = zip(*found, strict=True)
    return Drafts(
        Texts([prompts[i] for i in episode], texts),
        np.array(episode), np.array(numbers), np.array(first), np.array(kept_), np.array(worths),
        np.array([worth(i, text) for i, text in enumerate(stored)]), np.array([len(text) for text in stored]),
    )  # fmt: skip


def _agreement(text: Ids, other: Ids) -> int:
    """How many tokens two texts have in common from the left."""
    for place, (one, another) in enumerate(zip(text, other, strict=False)):
        if one != another:
            return place
    return min(len(text), len(other))
