"""The agents of the benchmark. A new one is a file of its own and one line in `FIELD`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any

from agents.baselines.actor_critic import ActorCritic, ActorCriticConfig
from agents.baselines.calibration import CalibrationConfig, calibrate
from agents.baselines.dqn_lagrangian import DQNLagrangian, DQNLagrangianConfig
from agents.baselines.heuristic import Heuristic
from agents.baselines.maskable_ppo import MaskablePPOAgent
from agents.baselines.optimum import Optimum
from agents.baselines.oracles import Oracle
from agents.baselines.ppo import PPOConfig
from agents.baselines.ppo_fixed_price import PPOFixedPrice, PPOFixedPriceConfig
from agents.baselines.ppo_lagrangian import PPOLagrangian, PPOLagrangianConfig
from agents.baselines.router import Router, RouterConfig
from agents.baselines.router_policy import Target
from agents.pcl.logged import log_behaviour
from agents.pcl.offline import OfflineConfig, cut_offline, learn_offline
from agents.pcl.recipe import Recipe, train_pcl
from agents.rollout import Predicts
from tw_env.policies import speculative, student_alone, teacher_alone

ASKING, VERIFYING = "SELF/ASK", "SELF/ASK/VERIFY"
GAMES = (ASKING, VERIFYING)
# Rollback thresholds of Big-Little decoding, on -log p_T of the student's token: 1, 2.3 and 4 nats.
STRICT, MEDIUM, LOOSE = "probability:0.368", "probability:0.1", "probability:0.0183"
CONFIDENCE = 0.4  # p_max below which a draft stops; assisted generation in transformers begins with it, too


class Kind(StrEnum):
    """Where an agent's decisions come from."""

    FIXED = "fixed"
    HEURISTIC = "heuristic"  # a score of the observation, calibrated on the policy split
    LEARNED = "learned"
    ORACLE = "oracle"  # sees the teacher


class Rules(StrEnum):
    """Which rules an agent can be asked to keep."""

    ALL = "all"
    NEVER = "never"  # only "never": it calls no one
    FREE = "free"  # only "as often as you like": it can't be told to call less


@dataclass
class Arena:
    """One game: where agents learn and calibrate, and where they are judged. Both remember the same prefixes."""

    train: Any  # a `Recorded` environment, as is `test`
    test: Any


@dataclass(frozen=True)
class Effort:
    """How much each agent may learn and calibrate; the same for all games."""

    recipe: Recipe = field(default_factory=Recipe)
    """Of constrained PCL."""
    offline: OfflineConfig = field(default_factory=OfflineConfig)
    """Of constrained PCL from logged play; its `pcl` is that of `recipe`, its limits are those of `calibration`."""
    logged: int = 80_000
    """Episodes that are logged for it."""
    ppo: PPOLagrangianConfig = field(default_factory=PPOLagrangianConfig)
    """Of PPO-Lagrangian."""
    fixed_price: PPOFixedPriceConfig = field(default_factory=PPOFixedPriceConfig)
    """Of PPO with a fixed price."""
    masked: PPOConfig = field(default_factory=PPOConfig)
    """Of MaskablePPO."""
    dqn: DQNLagrangianConfig = field(default_factory=DQNLagrangianConfig)
    """Of DQN-Lagrangian."""
    router: RouterConfig = field(default_factory=RouterConfig)
    """Of the routers."""
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    """Of the cuts of heuristics and learned agents."""


Progress = Callable[..., object]  # told the finished share of making an agent, from 0 to 1, and numbers for its log
Make = Callable[[Arena, int, Effort, Progress], Predicts]


@dataclass(frozen=True)
class Entry:
    """An agent of the benchmark.

    Attributes:
        name: in the rows. kind: in the rows.
        make: (arena, seed, effort, progress) -> what plays.
        games: action sets that it plays. accept: which pending tokens VERIFY keeps in its game.
        hard: whether its game masks what can't be afforded.
        hidden: whether it sees the student's last hidden state, too.
        rules: which rules it is played under.
        seeded: whether its result depends on the seed, so that several are run.
        weight: how long it takes to make, relative to playing all test prompts once; for the estimate of time.
    """

    name: str
    kind: Kind
    make: Make
    games: tuple[str, ...] = GAMES
    accept: str = "exact"
    hard: bool = False
    hidden: bool = False
    rules: Rules = Rules.ALL
    seeded: bool = False
    weight: float = 0.0


# ---- how each is made ------------------------------------------------------------------------------------------


def _alone(arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    return student_alone(arena.test.layout, arena.test.game.spec.actions)


def _teacher(arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    return teacher_alone(arena.test.layout, arena.test.game.spec.actions)


def _speculative(
    draft: int | None, confidence: float | None, arena: Arena, seed: int, effort: Effort, progress: Progress
) -> Predicts:
    return speculative(arena.test.layout, arena.test.game.spec.actions, draft, confidence)


def _threshold(score: str, arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    """Calls, by the last call of the game's action set, where the score lies above the cut that keeps the rule."""
    rounds = effort.calibration.rounds
    return Heuristic(score, config=effort.calibration).learn(arena.train, lambda done: progress(done / rounds))


def _oracle(arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    return Oracle(arena.test)


def _pcl(
    reads: Mapping[str, Any], at_end: bool | None, arena: Arena, seed: int, effort: Effort, progress: Progress
) -> Predicts:
    """`reads` are settings of a gate that reads more than the heuristics' observations; empty for one that doesn't."""
    pcl = replace(effort.recipe.pcl, seed=seed, at_end=at_end, **reads)
    explored = 4 * effort.recipe.demonstrations if reads else 0
    recipe = replace(effort.recipe, pcl=pcl, exploration=explored)
    rounds = max(recipe.pcl.iterations, 1)
    return train_pcl(arena.train, recipe, log=lambda done, numbers: progress(0.8 * (done + 1) / rounds, numbers))


def _pcl_offline(arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    """Only the log is made by play; learning and cuts see nothing else."""
    pcl = replace(effort.recipe.pcl, seed=seed)
    config = replace(effort.offline, pcl=pcl, limits=effort.calibration.limits)
    play, rounds = log_behaviour(arena.train, effort.logged, seed + 17), max(pcl.iterations, 1)
    progress(0.3)
    agent = learn_offline(play, config, lambda done, numbers: progress(0.3 + 0.6 * (done + 1) / rounds, numbers))
    cut_offline(agent, play, config)
    return agent


def _from_sb3(kind: Any, settings: str, arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    config = replace(getattr(effort, settings), seed=seed)
    agent = kind(config).learn(
        arena.train, log=lambda done, numbers: progress(0.8 * min(done / config.steps, 1.0), numbers)
    )
    calibrate(agent.policy, arena.train, effort.calibration)
    return agent


def _actor_critic(arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    pcl = replace(effort.recipe.pcl, seed=seed)
    rounds = max(pcl.iterations, 1)
    agent = ActorCritic(ActorCriticConfig(pcl)).learn(
        arena.train, log=lambda done, numbers: progress(0.8 * (done + 1) / rounds, numbers)
    )
    assert agent.policy is not None
    calibrate(agent.policy, arena.train, effort.calibration)
    return agent


def _router(target: Target, episode: bool, arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    config = replace(effort.router, target=target, episode=episode, seed=seed, calibration=effort.calibration)
    return Router(config).learn(arena.train, progress)


def _optimum(arena: Arena, seed: int, effort: Effort, progress: Progress) -> Predicts:
    return Optimum(arena.test, progress=progress)


# ---- the field -------------------------------------------------------------------------------------------------

READS_MORE = {"dropout": 0.3, "fresh": 0.0, "gate_lr": 2e-3}  # without dropout it learns its prompts by heart
READS_TEXTS = {"whole_text": True, **READS_MORE}

_CALIBRATED = 40.0  # playing a few thousand prompts under many limits, eleven times
_LEARNED = _SB3 = 150.0
_ROUTER = 100.0
_SEARCHED = 150.0

FIELD: tuple[Entry, ...] = (
    Entry("student", Kind.FIXED, _alone, rules=Rules.NEVER),
    Entry("teacher", Kind.FIXED, _teacher, rules=Rules.FREE),
    Entry("random", Kind.HEURISTIC, partial(_threshold, "random"), seeded=True, weight=_CALIBRATED),
    Entry("p-max", Kind.HEURISTIC, partial(_threshold, "p_max"), weight=_CALIBRATED),
    Entry("entropy", Kind.HEURISTIC, partial(_threshold, "entropy"), weight=_CALIBRATED),
    Entry("margin", Kind.HEURISTIC, partial(_threshold, "margin"), weight=_CALIBRATED),
    Entry("chain-surprise", Kind.HEURISTIC, partial(_threshold, "chain_surprise"), weight=_CALIBRATED),
    Entry("surprise-at-end", Kind.HEURISTIC, partial(_threshold, "surprise_at_end"), (VERIFYING,), weight=_CALIBRATED),
    Entry("unsure-draft", Kind.HEURISTIC, partial(_threshold, "unsure_draft"), (VERIFYING,), weight=_CALIBRATED),
    Entry("big-little", Kind.HEURISTIC, partial(_threshold, "p_max"), (VERIFYING,), MEDIUM, weight=_CALIBRATED),
    Entry("big-little-strict", Kind.HEURISTIC, partial(_threshold, "p_max"), (VERIFYING,), STRICT, weight=_CALIBRATED),
    Entry("big-little-loose", Kind.HEURISTIC, partial(_threshold, "p_max"), (VERIFYING,), LOOSE, weight=_CALIBRATED),
    Entry("speculative", Kind.FIXED, partial(_speculative, None, None), (VERIFYING,), rules=Rules.FREE),
    Entry("speculative-2", Kind.FIXED, partial(_speculative, 2, None), (VERIFYING,), rules=Rules.FREE),
    Entry("speculative-4", Kind.FIXED, partial(_speculative, 4, None), (VERIFYING,), rules=Rules.FREE),
    Entry("speculative-8", Kind.FIXED, partial(_speculative, 8, None), (VERIFYING,), rules=Rules.FREE),
    Entry("speculative-sure", Kind.FIXED, partial(_speculative, None, CONFIDENCE), (VERIFYING,), rules=Rules.FREE),
    Entry("oracle", Kind.ORACLE, _oracle, rules=Rules.FREE),
    Entry("optimum", Kind.ORACLE, _optimum, weight=_SEARCHED),
    Entry(
        "router", Kind.LEARNED, partial(_router, Target.DISAGREEMENT, False), hidden=True, seeded=True, weight=_ROUTER
    ),
    Entry("router-gain", Kind.LEARNED, partial(_router, Target.GAIN, False), hidden=True, seeded=True, weight=_ROUTER),
    Entry(
        "router-episode",
        Kind.LEARNED,
        partial(_router, Target.DISAGREEMENT, True),
        hidden=True,
        seeded=True,
        weight=_ROUTER,
    ),
    Entry(
        "information-limit", Kind.LEARNED, partial(_router, Target.GAIN, True), hidden=True, seeded=True, weight=_ROUTER
    ),
    Entry("pcl", Kind.LEARNED, partial(_pcl, {}, None), seeded=True, weight=_LEARNED),
    Entry("pcl-hidden", Kind.LEARNED, partial(_pcl, READS_MORE, None), hidden=True, seeded=True, weight=_LEARNED),
    Entry("pcl-whole-text", Kind.LEARNED, partial(_pcl, READS_TEXTS, None), hidden=True, seeded=True, weight=_LEARNED),
    Entry("pcl-anywhere", Kind.LEARNED, partial(_pcl, {}, False), (VERIFYING,), seeded=True, weight=_LEARNED),
    Entry("pcl-offline", Kind.LEARNED, _pcl_offline, (VERIFYING,), seeded=True, weight=_CALIBRATED),
    Entry("actor-critic", Kind.LEARNED, _actor_critic, seeded=True, weight=_LEARNED),
    Entry("ppo-lagrangian", Kind.LEARNED, partial(_from_sb3, PPOLagrangian, "ppo"), seeded=True, weight=_SB3),
    Entry(
        "ppo-fixed-price", Kind.LEARNED, partial(_from_sb3, PPOFixedPrice, "fixed_price"), seeded=True, weight=_LEARNED
    ),
    Entry(
        "maskable-ppo",
        Kind.LEARNED,
        partial(_from_sb3, MaskablePPOAgent, "masked"),
        hard=True,
        seeded=True,
        weight=_LEARNED,
    ),
    Entry("dqn-lagrangian", Kind.LEARNED, partial(_from_sb3, DQNLagrangian, "dqn"), seeded=True, weight=_SB3),
)


def choose(names: tuple[str, ...] = ()) -> tuple[Entry, ...]:
    """The entries with these names, all without any.

    Raises:
        ValueError: an unknown name.
    """
    known = {entry.name: entry for entry in FIELD}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"Expected agents out of {', '.join(known)}; got {', '.join(unknown)}.")
    return tuple(known[name] for name in names) if names else FIELD
