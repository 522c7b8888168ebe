"""Progress bars of a program with several stages: one for the stage, one for the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm

Advance = Callable[[int], object]


class Stages:
    """Two bars, each with the time that is left; the whole is weighed by what the stages usually take.

    Args:
        seconds: usual seconds of every stage, by its name. Only their ratios matter.

    Raises:
        KeyError: `stage` is given a name that is not among them.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._seconds = dict(seconds)
        width = max(map(len, self._seconds))
        self._width = width
        shape = "{desc} {percentage:3.0f}% |{bar:24}| {elapsed} gone, {remaining} left"
        self._whole = tqdm(total=sum(seconds.values()), desc="everything".ljust(width), bar_format=shape, position=1)
        self._shape = shape

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """Yields a function that is called with each further amount done, out of `total`."""
        before, share = float(self._whole.n), self._seconds[name]
        with tqdm(total=total, desc=name.ljust(self._width), bar_format=self._shape, position=0) as bar:

            def advance(amount: int) -> None:
                bar.update(min(amount, total - bar.n))
                self._whole.update(before + share * bar.n / total - self._whole.n)

            yield advance
            advance(total)
        self._whole.refresh()

    def close(self) -> None:
        """End the bar of the whole."""
        self._whole.close()
