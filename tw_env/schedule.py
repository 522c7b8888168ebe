"""Which prompt and which rule the next episode gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tw_env.rules import Constraint, parse, sample

RuleLike = str | Constraint
SAMPLE = "sample"


def read_rules(rule: RuleLike | Sequence[RuleLike]) -> list[Constraint]:
    """Constraints from a sentence, a constraint, or a list of either; empty for "sample".

    Raises:
        ValueError: a sentence that is no rule (see `tw_env.rules.parse`), or an empty list.
    """
    if isinstance(rule, str) and rule.strip().lower() == SAMPLE:
        return []
    several = isinstance(rule, Iterable) and not isinstance(rule, str)
    rules: list[RuleLike] = list(rule) if several else [rule]  # type: ignore[list-item, arg-type]
    if not rules:
        raise ValueError("Expected at least one rule, got an empty list.")
    return [one if isinstance(one, Constraint) else parse(one) for one in rules]


class Schedule:
    """Draws prompts and rules, or hands them out in the order of `options`.

    Args:
        prompts: token ids of all prompts.
        rule: see `Settings.rule`.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], rule: RuleLike | Sequence[RuleLike]) -> None:
        self.prompts = prompts
        self.rules = read_rules(rule)
        self._queue: list[int] = []
        self._queued_rules: list[Constraint] = []

    def follow(self, options: Mapping[str, Any] | None) -> None:
        """Take the order of the next episodes from a reset's `options`.

        Options:
            prompts: indices of prompts, one for each coming episode in the order in which rows become free.
            rules: as many rules beside them, or one for all; without it they are drawn.
        When the list is used up, prompts are drawn at random again.

        Raises:
            ValueError: unknown options, indices out of range, or lists whose lengths differ.
        """
        options = options or {}
        unknown = sorted(set(options) - {"prompts", "rules"})
        if unknown:
            raise ValueError(f"Expected reset options 'prompts' and 'rules', got {', '.join(unknown)}.")
        queue = [int(index) for index in np.atleast_1d(np.asarray(options.get("prompts", []), np.int64))]
        for index in queue:
            if not 0 <= index < len(self.prompts):
                raise ValueError(f"Expected prompt indices from 0 to {len(self.prompts) - 1}, got {index}.")
        if "rules" in options and not queue:
            raise ValueError("Expected reset option 'prompts' beside 'rules', got none: name the rules' prompts.")
        rules = read_rules(options["rules"]) if "rules" in options else []
        if len(rules) == 1:
            rules = rules * len(queue)
        if rules and len(rules) != len(queue):
            raise ValueError(f"Expected one rule for each of the {len(queue)} prompts, got {len(rules)}.")
        self._queue, self._queued_rules = queue[::-1], rules[::-1]

    def next(self, generators: Sequence[np.random.Generator]) -> tuple[NDArray[np.int64], list[Constraint]]:
        """A prompt and a rule for each of these rows, in their order."""
        prompts, rules = [], []
        for generator in generators:
            prompts.append(self._queue.pop() if self._queue else int(generator.random() * len(self.prompts)))
            rules.append(self._queued_rules.pop() if self._queued_rules else self._draw_rule(generator))
        return np.array(prompts, np.int64), rules

    def _draw_rule(self, generator: np.random.Generator) -> Constraint:
        if not self.rules:
            return sample(generator)
        return self.rules[int(generator.integers(len(self.rules)))] if len(self.rules) > 1 else self.rules[0]
