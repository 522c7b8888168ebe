"""Which prompt and which rule the next episode gets, and how the rule is worded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tw_env.decoding.reading import RuleReader
from tw_env.rules import Constraint, Quantity, paraphrases, parse, sample

RuleLike = str | Constraint
SAMPLE = "sample"
NEVER = Constraint(Quantity.CALLS_PER_TOKEN, 0.0)


class Rule(NamedTuple):
    """What limits the help, and the sentence that said so; None where none did."""

    constraint: Constraint
    words: str | None


FILLING = Rule(NEVER, NEVER.text)  # of episodes behind a list that nobody waits for


class Starts(NamedTuple):
    """What begins in r rows.

    Attributes:
        prompts: (r,) indices. prompt_ids: their token ids.
        rules: the constraints.
        student_ids: the prompts as the student reads them, rule included; None if it reads the same as the teacher.
    """

    prompts: NDArray[np.int64]
    prompt_ids: list[Sequence[int]]
    rules: list[Constraint]
    student_ids: Sequence[Sequence[int]] | None


def read_rules(rule: RuleLike | Sequence[RuleLike]) -> list[Rule]:
    """Rules from a sentence, a constraint, or a list of either; empty for "sample".

    Raises:
        ValueError: a sentence that is no rule (see `tw_env.rules.parse`), or an empty list.
    """
    if isinstance(rule, str) and rule.strip().lower() == SAMPLE:
        return []
    several = isinstance(rule, Iterable) and not isinstance(rule, str)
    rules: list[RuleLike] = list(rule) if several else [rule]  # type: ignore[list-item, arg-type]
    if not rules:
        raise ValueError("Expected at least one rule, got an empty list.")
    return [Rule(one, None) if isinstance(one, Constraint) else Rule(parse(one), one) for one in rules]


class Schedule:
    """Draws prompts and rules, or hands them out in the order of `options`.

    Args:
        prompts: token ids of all prompts.
        rule: see `Settings.rule`.
        reader: of a student that reads its rule. A rule without words is told in a random phrasing that training may
            use (`tw_env.rules.paraphrases` with held_out=False).
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        rule: RuleLike | Sequence[RuleLike],
        reader: RuleReader | None = None,
    ) -> None:
        self.prompts, self.reader = prompts, reader
        self.rules = read_rules(rule)
        self._queue: list[int] = []
        self._queued_rules: list[Rule] = []
        self._filler: int | None = None

    def follow(self, options: Mapping[str, Any] | None) -> None:
        """Take the order of the next episodes from a reset's `options`.

        Options:
            prompts: indices of prompts, one for each coming episode in the order in which rows become free.
            rules: as many rules beside them, or one for all; without it they are drawn.
            words: as many sentences, or one for all, that a student which reads rules is told instead of the rule's
                own words. They need not be rules: the game keeps to `rules`.
            afterwards: index of a prompt that all episodes behind the list get, under the rule "never", which costs
                next to nothing once it was played.
        Without it, prompts are drawn at random again when the list is used up.

        Raises:
            ValueError: unknown options, indices out of range, or lists whose lengths differ.
        """
        options = options or {}
        unknown = sorted(set(options) - {"prompts", "rules", "words", "afterwards"})
        if unknown:
            raise ValueError(
                f"Expected reset options 'prompts', 'rules', 'words' and 'afterwards', got {', '.join(unknown)}."
            )
        queue = [int(index) for index in np.atleast_1d(np.asarray(options.get("prompts", []), np.int64))]
        filler = options.get("afterwards")
        for index in queue if filler is None else [*queue, int(filler)]:
            if not 0 <= index < len(self.prompts):
                raise ValueError(f"Expected prompt indices from 0 to {len(self.prompts) - 1}, got {index}.")
        if "rules" in options and not queue:
            raise ValueError("Expected reset option 'prompts' beside 'rules', got none: name the rules' prompts.")
        rules = _one_each(read_rules(options["rules"]) if "rules" in options else [], len(queue), "rule")
        if "words" in options:
            words = options["words"]
            said = _one_each([words] if isinstance(words, str) else list(words), len(queue), "sentence")
            if not rules or not said:
                raise ValueError("Expected reset options 'prompts' and 'rules' beside 'words', got neither or one.")
            rules = [Rule(rule.constraint, sentence) for rule, sentence in zip(rules, said, strict=True)]
        self._queue, self._queued_rules = queue[::-1], rules[::-1]
        self._filler = None if filler is None else int(filler)

    def next(self, generators: Sequence[np.random.Generator]) -> Starts:
        """A prompt and a rule for each of these rows, in their order."""
        prompts, rules, told = [], [], []
        for generator in generators:
            filling = not self._queue and self._filler is not None
            prompts.append(self._queue.pop() if self._queue else self._draw_prompt(generator))
            rule = (
                FILLING if filling else self._queued_rules.pop() if self._queued_rules else self._draw_rule(generator)
            )
            rules.append(rule.constraint)
            if self.reader is not None:
                told.append(self.reader.before(rule.words or _worded(rule.constraint, generator), self._ids(prompts)))
        ids = [self.prompts[index] for index in prompts]
        return Starts(np.array(prompts, np.int64), ids, rules, told or None)

    def _ids(self, prompts: list[int]) -> Sequence[int]:
        return self.prompts[prompts[-1]]

    def _draw_prompt(self, generator: np.random.Generator) -> int:
        return int(generator.random() * len(self.prompts)) if self._filler is None else self._filler

    def _draw_rule(self, generator: np.random.Generator) -> Rule:
        if not self.rules:
            return Rule(sample(generator), None)
        return self.rules[int(generator.integers(len(self.rules)))] if len(self.rules) > 1 else self.rules[0]


def _one_each(given: list[Any], count: int, what: str) -> list[Any]:
    """As many as there are prompts, from as many or from one for all."""
    given = given * count if len(given) == 1 else given
    if given and len(given) != count:
        raise ValueError(f"Expected one {what} for each of the {count} prompts, got {len(given)}.")
    return given


def _worded(constraint: Constraint, generator: np.random.Generator) -> str:
    sentences = paraphrases(constraint, held_out=False)
    return sentences[int(generator.integers(len(sentences)))]
