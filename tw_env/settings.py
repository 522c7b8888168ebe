"""The arguments of the environments, checked and turned into a game."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any

from tw_env.actions import Action, parse_actions
from tw_env.costs import CostModel, LatencyTable, Prices
from tw_env.decoding import prompts
from tw_env.decoding.accept import parse_accept
from tw_env.decoding.loading import Pair, load_pair
from tw_env.decoding.reading import RULE_TOKENS, rule_reader
from tw_env.decoding.texts import LiveTexts
from tw_env.decoding.tree import NODES, RememberedTexts
from tw_env.game import Game, GameSpec
from tw_env.observations import GameLayout
from tw_env.rewards import parse_reward
from tw_env.rules import Constraint
from tw_env.schedule import Schedule
from tw_env.tasks.pronounce import Pronounce
from tw_env.tasks.shipped import shipped_pair
from tw_env.tasks.summarize import Summarize
from tw_env.tasks.task import Task, check_task
from tw_env.tasks.text import TextPairs
from tw_env.tasks.translate import Translate
from tw_env.tasks.wording import prompts_for

WORDED: dict[str, type[Translate] | type[Summarize]] = {"translate": Translate, "summarize": Summarize}
"""Tasks that say in words what they want of a model; where no pair ships with one, the user gives it."""
DEFAULT_RULE = "ask the teacher for at most 10% of the tokens"


@dataclass(frozen=True)
class Settings:
    """Every argument of the environments; `tw_env.vector_env` describes the game that they shape.

    Args:
        task: "pronounce", "translate", "summarize", "text", or any object with the shape of `tw_env.tasks.task.Task`.
        split: which part of the task's prompts is played; None for all of a text task.
        limit: only the first so many prompts of the split.
        student, teacher: folder or hub id of a model; None for the pair that ships with the task.
        data: for all but "pronounce": JSONL file or `datasets` name; for "translate" also two languages whose texts
            were prepared on this machine. None for the sample that ships, "en-it" and the prepared headlines.
        metric: how outputs are scored; None for "exact" (text), "chrf" (translate) and "rougeL" (summarize).
        template: what models read, with `{text}` where the text goes; None leaves the wording to the task.
        chat: write each prompt as a user's turn in the tokenizer's chat template, for instruction-tuned models; a rule
            that the student reads stands before it.
        rule: a sentence, a `Constraint`, a list of either (drawn anew for each episode), or "sample" (limits on calls
            per token, drawn at random).
        hard: mask calls that the rule can't afford, instead of asking the agent to keep it in expectation.
        actions: "SELF/ASK", "SELF/VERIFY" or "SELF/ASK/VERIFY".
        decoding: "greedy" or "sampling" (temperature 1).
        reward: "quality", "regret", "kl", "expected_kl", or weights by name; None for "regret" when greedy and "kl"
            when sampling.
        accept: which pending tokens VERIFY keeps: "exact", "probability:P" or "distance:D".
        scoring: "eager" (the teacher scores every row at every step), "lazy" (only when called, and at the end), or
            "auto" (eager for SELF/ASK).
        latency: a `LatencyTable`, its numbers by name, or a JSON file; None takes the table of the pair that ships, and
            for other pairs means that no rule can limit time.
        prices: `Prices` or its numbers by name; None where no rule limits money.
        max_new_tokens: cap on new tokens, end token included; None for the task's own.
        max_episode_steps: truncation; None for as many as take-backs that make progress can need.
        hidden: show the student's last hidden state in the observation.
        top_k: how many of the student's log-probabilities are shown.
        remember: most prefixes to remember (greedy decoding only); 0 decodes everything anew.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "float32", "float64", "bfloat16" or "float16".
    """

    task: str | Task = "pronounce"
    split: str | None = "policy"
    limit: int | None = None
    student: str | None = None
    teacher: str | None = None
    data: str | None = None
    metric: str | None = None
    template: str | None = None
    chat: bool = False
    rule: str | Constraint | Sequence[str | Constraint] = DEFAULT_RULE
    hard: bool = False
    actions: str | Sequence[str] = "SELF/ASK"
    decoding: str = "greedy"
    reward: str | Mapping[str, float] | None = None
    accept: str = "exact"
    scoring: str = "auto"
    latency: LatencyTable | Mapping[str, float] | str | None = None
    prices: Prices | Mapping[str, float] | None = None
    max_new_tokens: int | None = None
    max_episode_steps: int | None = None
    hidden: bool = False
    top_k: int = 5
    remember: int = NODES
    device: str = "auto"
    dtype: str = "float32"

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Settings:
        """From keyword arguments; unknown names are refused with the list of known ones."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(arguments) - set(known))
        if unknown:
            raise TypeError(f"Expected arguments out of {', '.join(known)}; got {', '.join(unknown)}.")
        return cls(**arguments)

    def __post_init__(self) -> None:
        _one_of("decoding", self.decoding, ("greedy", "sampling"))
        _one_of("scoring", self.scoring, ("auto", "eager", "lazy"))
        leasts = {"limit": 1, "max_new_tokens": 1, "max_episode_steps": 1, "top_k": 2, "remember": 0}
        for name, least in leasts.items():
            value = getattr(self, name)
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            if value is not None and not (whole and value >= least):
                raise ValueError(f"Expected a whole number as {name}, and {name} >= {least}; got {value!r}.")
        for name in ("hard", "hidden", "chat"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"Expected {name} to be True or False, got {getattr(self, name)!r}.")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"Expected {name} to be one of {', '.join(choices)}; got {value!r}.")


def load_task(settings: Settings) -> Task:
    """The task that the settings name, with its prompts.

    Raises:
        ValueError: an unknown name, or a task without prompts.
    """
    if not isinstance(settings.task, str):
        return check_task(settings.task)
    if settings.task == "pronounce":
        return check_task(Pronounce(split=settings.split or "policy", limit=settings.limit))
    if settings.task == "text":
        split = None if settings.data is None else settings.split
        metric, cap = settings.metric or "exact", settings.max_new_tokens or 32
        return check_task(TextPairs(settings.data, split, metric, cap, settings.limit, template=settings.template))
    if settings.task in WORDED:
        names = ("data", "metric", "max_new_tokens")
        given = {name: value for name in names if (value := getattr(settings, name)) is not None}
        return check_task(
            WORDED[settings.task](split=settings.split, limit=settings.limit, template=settings.template, **given)
        )
    known = ", ".join(map(repr, ("pronounce", "text", *WORDED)))
    raise ValueError(f"Expected task to be one of {known}, or a task object; got {settings.task!r}.")


def load_models(settings: Settings) -> Pair:
    """The pair that the settings name; both models or neither must be given."""
    if (settings.student is None) != (settings.teacher is None):
        raise ValueError(
            f"Expected both student and teacher, or neither for the pair that ships; got "
            f"student={settings.student!r}, teacher={settings.teacher!r}."
        )
    student, teacher = settings.student, settings.teacher
    if student is None or teacher is None:
        shipped = shipped_pair(settings.task)
        student, teacher = str(shipped.student), str(shipped.teacher)
    return load_pair(student, teacher, device=settings.device, dtype=settings.dtype)


def encode_prompts(task: Task, pair: Pair, cap: int, chat: bool = False) -> list[tuple[int, ...]]:
    """Token ids of all prompts, see `tw_env.decoding.prompts.encode`.

    Raises:
        ValueError: a prompt without tokens, or one that leaves a model too few positions for `cap` new tokens; a chat
            that the tokenizer has no template for.
    """
    encoded = prompts.encode(prompts_for(task, pair.encoder_decoder, chat), pair, chat)
    prompts.check_rooms(encoded, pair, cap)
    return encoded


@dataclass
class Setup:
    """A game that is ready to be played, and what it is played on."""

    game: Game
    task: Task
    pair: Pair
    schedule: Schedule


def build(rows: int, settings: Settings) -> Setup:
    """Load the models and the task, and set up `rows` rows of the game.

    Raises:
        ValueError: any setting that is out of range, or that doesn't fit another.
    """
    if rows < 1:
        raise ValueError(f"Expected num_envs >= 1, got {rows}.")
    actions = parse_actions(settings.actions)
    sampling = settings.decoding == "sampling"
    reward = parse_reward(settings.reward, settings.decoding)
    accept = parse_accept(settings.accept)
    prices = None if settings.prices is None else Prices.load(settings.prices)
    task = load_task(settings)
    pair = load_models(settings)
    costs = CostModel(_latency(settings), prices)
    cap = settings.max_new_tokens or task.max_new_tokens
    encoded = encode_prompts(task, pair, cap, settings.chat)
    verify = Action.VERIFY in actions
    eager = reward.scored and (settings.scoring == "eager" or (settings.scoring == "auto" and not verify))
    spec = GameSpec(
        actions=actions,
        accept=accept,
        reward=reward,
        costs=costs,
        max_new_tokens=cap,
        max_steps=settings.max_episode_steps or (cap * (cap + 3) // 2 if verify else cap),
        sampling=sampling,
        eager=eager,
        hard=settings.hard,
    )
    longest = max(len(prompt) for prompt in encoded)
    top_k, hidden = settings.top_k, settings.hidden
    texts: LiveTexts
    shown: dict[str, Any] = {"top_k": top_k, "hidden": hidden, "rule_tokens": RULE_TOKENS if pair.reads_rules else 0}
    if settings.remember and not sampling:
        texts = RememberedTexts(pair, rows, longest, cap, nodes=settings.remember, **shown)
    else:
        kl = bool(reward.weights.get("expected_kl"))
        texts = LiveTexts(pair, rows, longest, cap, sampling=sampling, kl=kl, **shown)
    layout = GameLayout(top_k, pair.vocabulary, cap, texts.hidden.shape[1], bool(pair.ask_tokens))

    def quality(prompt: int, tokens: Sequence[int]) -> float:
        return float(task.quality(prompt, pair.tokenizer.decode(tokens, skip_special_tokens=True)))

    game = Game(texts, spec, layout, quality, pair.end_tokens)
    schedule = Schedule(encoded, settings.rule, rule_reader(pair))
    for rule in schedule.rules:
        game.budget.check(rule.constraint)
    return Setup(game, task, pair, schedule)


def _latency(settings: Settings) -> LatencyTable | None:
    if settings.latency is not None:
        return LatencyTable.load(settings.latency)
    return LatencyTable.load(shipped_pair(settings.task).latency) if settings.student is None else None
