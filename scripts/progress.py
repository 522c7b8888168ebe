"""Progress bars of a program with several stages: one for the stage, one for the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm


class Advance:
    """Moves a stage's bar and, by the stage's share, that of the whole."""

    def __init__(self, total: float, move: Callable[[float], object]) -> None:
        self.done, self._total, self._move = 0.0, total, move

    def __call__(self, amount: float) -> None:
        """So much more is done; never beyond the total."""
        amount = min(amount, self._total - self.done)
        self.done += amount
        self._move(amount / self._total)


class Stages:
    """Two bars, each with the time that is left; the whole is weighed by what the stages usually take.

    Args:
        seconds: usual seconds of every stage, by its name. Only their ratios matter.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._seconds, self._width = dict(seconds), max(map(len, seconds))
        self._whole = self._bar("everything", sum(seconds.values()), position=1)

    @property
    def done(self) -> float:
        """What is done of the whole, in the stages' usual seconds."""
        return float(self._whole.n)

    def _bar(self, name: str, total: float, position: int) -> tqdm[None]:
        shape = "{desc} {percentage:3.0f}% |{bar:24}| {elapsed} gone, {remaining} left"
        # smoothing=0: the time left follows the mean speed, since stages differ in how they move
        return tqdm(total=total, desc=name.ljust(self._width), bar_format=shape, position=position, smoothing=0)

    @contextmanager
    def stage(self, name: str, total: float) -> Iterator[Advance]:
        """Yields what is called with each further amount done, out of `total`.

        Raises:
            KeyError: a name that is not among the stages.
        """
        seconds = self._seconds[name]
        with self._bar(name, 1.0, position=0) as bar:

            def move(share: float) -> None:
                for one, more in ((bar, share), (self._whole, seconds * share)):
                    one.update(min(more, one.total - one.n))  # sums of shares may end a hair above 1

            advance = Advance(total, move)
            yield advance
            advance(total)
        self._whole.refresh()

    def close(self) -> None:
        """End the bar of the whole."""
        self._whole.close()
