"""Train a student together with its asking, under rules that it reads in words; resumable.

python -m scripts.joint --out runs/joint
python -m scripts.joint --out runs/joint-ask --config.call ASK --rows runs/joint.json
python -m scripts.joint --out runs/joint-whole --config.call ASK --config.objective whole \
    --config.alpha 1 --config.alpha-end 1 --config.price 2 --config.price-step 0.05 --config.price-largest 10
accelerate launch --num_processes 4 --mixed_precision bf16 -m scripts.joint --out runs/joint
python -m scripts.joint --out runs/joint-summarize --task summarize --config.embedding-rate 20
python -m scripts.evaluate --policy runs/joint
"""

from __future__ import annotations

import copy
import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from agents.checkpoint import drop_checkpoint
from agents.evaluation import Row
from agents.joint.config import JointData
from agents.joint.deployment import MODEL, TRAINED, fit_cut, ranking, rows_of
from agents.joint.parallel import Processes
from agents.joint.student import REASONS, asking_student, set_doubt
from agents.joint.teacher import Teacher
from agents.joint.trainer import Joint, Log
from agents.joint.training_cost import FILE, TrainingCost, fingerprint
from agents.learning_env import reward_scale
from scripts.answers import answers
from scripts.command import run
from scripts.export import export
from scripts.joint_games import GameOptions, game, original_ends, original_game, sampled_game, settings_of
from scripts.joint_rules import NUMBERLESS, judged_rules
from scripts.rows import read_rows
from scripts.runs import record, write_settings
from scripts.stored_texts import stored_texts
from tw_env.decoding.loading import Pair
from tw_env.policies import AskToken
from tw_env.settings import WORDED, encode_prompts, load_models, load_task
from tw_env.tasks.translate import language_pair

CUT_EVERY = 2  # of the limits that are trained on, every so manyth has a cut of its own


@dataclass
class RunOptions:
    """Where a run lies, and what is written there."""

    out: Path
    """Folder of the run: checkpoint, TensorBoard log, settings.json and, at the end, model/ (student, tokenizer, policy
    and training.json: what it took, and what the run of --student took before)."""
    resume: bool = False
    """Go on from the last checkpoint, if there is one; the result is that of an uninterrupted run."""
    rows: Path | None = None
    """JSON file to which rows of the benchmark on the test split are added; None measures nothing."""


@dataclass
class Options(GameOptions, RunOptions):  # in --help, those of the last one stand first
    """Train one student together with its asking."""

    name: str | None = None
    """How its rows are called; None: joint, or joint+verify. Those of its words alone have " words" behind."""
    asks: int = REASONS
    """Ask tokens that a student without any is given, each a reason to ask."""
    doubt: float | None = None
    """Weight of log((1 - p_max) / p_max) in the student's log-odds of asking, beside its ask tokens, which begin anew
    where it changes; None leaves what --student has, and gives a new one none."""
    held: int = 2000
    """Prompts of the policy split that nothing is trained on: the cut is found on them."""
    stored: Path | None = None
    """File of the teacher's texts, written there if it is missing; None keeps it in the run's folder."""
    half: bool = False
    """Write model/ in half precision, for half the space; it is loaded in single precision all the same."""
    teacher_log: bool = True
    """Whether the teacher scores a few own drafts now and then, for the TensorBoard log alone."""
    threads: int = 1
    """Torch's threads."""


def load_data(options: Options, pair: Pair) -> JointData:
    """Training prompts, their references and the teacher's texts: those that the pair was fitted on, then others.

    Raises:
        ValueError: fewer prompts than `held` needs.
    """
    prepared = options.task in WORDED and (options.data is None or language_pair(options.data) is not None)
    splits = ("pair", "policy") if options.task == "pronounce" or prepared else ("policy",)
    tasks = [load_task(settings_of(options, split)) for split in splits]
    cap = options.max_new_tokens or tasks[0].max_new_tokens
    prompts = [prompt for task in tasks for prompt in encode_prompts(task, pair, cap)]
    gold = [answer for task in tasks for answer in answers(task, pair)]
    policy = np.arange(len(prompts) - len(tasks[-1].prompts), len(prompts))
    if len(policy) <= options.held:
        raise ValueError(f"Expected more than {options.held} prompts to learn asking on (held), got {len(policy)}.")
    asking = policy[: len(policy) - options.held]
    first = np.cumsum([0, *(len(task.prompts) for task in tasks)])

    def quality(index: int, text: Any) -> float:
        part = int(np.searchsorted(first, index, side="right")) - 1
        words = pair.tokenizer.decode(list(text), skip_special_tokens=True)
        return float(tasks[part].quality(index - int(first[part]), words))

    known = prompts[: asking[-1] + 1]
    path = options.stored or options.out / "teacher.safetensors"
    teacher = Teacher(pair.teacher, pair.vocabulary, top_k=1)
    whole, places = stored_texts(path, teacher, known, cap, pair.end_tokens)
    found = whole.take(places)
    scale = 1.0 if options.task == "pronounce" else reward_scale(original_game(options, "policy"))
    return JointData(
        known, gold[: len(known)], found.texts.outputs, asking, np.arange(len(known)), quality, pair.end_tokens, cap,
        scale=scale, teacher_tokens={fingerprint(whole.texts): found.teacher_tokens},
    )  # fmt: skip


def train(options: Options, pair: Pair, processes: Processes) -> tuple[Joint, PreTrainedTokenizerBase]:
    """Train, all processes together."""
    with processes.main_first():  # it writes the teacher's texts if they are missing
        data = load_data(options, pair)
    student, tokenizer = copy.deepcopy(pair.student), pair.tokenizer
    if not pair.ask_tokens:
        student, tokenizer = asking_student(student, tokenizer, reasons=options.asks)
    if options.doubt is not None:
        set_doubt(student, options.doubt)
    if not options.resume and processes.main:
        drop_checkpoint(options.out)
    processes.wait()
    teacher = Teacher(pair.teacher, pair.vocabulary) if options.teacher_log else None
    played = sampled_game(options, student, tokenizer) if options.config.objective == "whole" else None
    joint = Joint(student, tokenizer, data, options.config, options.out, teacher, played)
    with ExitStack() as stack:
        log = show(options, joint.update, stack) if processes.main else None
        joint.run(log)
    return joint, tokenizer


def show(options: Options, update: int, stack: ExitStack) -> Log:
    """What shows and writes down the numbers of updates, from this one on."""
    bar = stack.enter_context(tqdm(total=options.config.updates, initial=update, unit="update"))
    writer = SummaryWriter(str(options.out / "tensorboard"), purge_step=update)
    stack.callback(writer.close)

    def log(update: int, numbers: dict[str, float]) -> None:
        bar.update(update - bar.n)
        bar.set_description(str(options.config.stage(update - 1)))
        if update % 10 == 0:
            for name, value in numbers.items():
                writer.add_scalar(name, value, update)

    return log


def save(options: Options, joint: Joint, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Write the student, its tokenizer and what it took; the folder."""
    folder = options.out / MODEL
    if options.half:
        export(joint.averaged(), tokenizer, folder)
    else:
        joint.averaged().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    joint.cost.save(folder, taken_before(options.student))
    return folder


def fitted(options: Options, folder: Path) -> tuple[AskToken, TrainingCost]:
    """The policy of the student in a folder, its cut found on the held-back prompts, and what that took."""
    env = game(options, "policy", folder, f"SELF/{options.config.call}")
    policy = AskToken(env.layout, env.game.spec.actions, at_end=options.config.call == "VERIFY")
    held = np.arange(len(env.task.prompts))[-options.held :]
    began = time.process_time()
    cut = fit_cut(policy, env, held.tolist(), sorted(options.config.limits)[::CUT_EVERY])
    print(
        f"the student in {folder} calls where the log-odds lie above {cut.default:.2f}, under limits above {cut.cuts}"
    )
    return policy, TrainingCost().with_play(env, time.process_time() - began)


def deploy(options: Options, joint: Joint, tokenizer: PreTrainedTokenizerBase) -> tuple[Path, TrainingCost]:
    """Save the student with its policy as one checkpoint, and say what it took, earlier runs and its cut included."""
    folder = save(options, joint, tokenizer)
    policy, play = fitted(options, folder)
    policy.save(folder)
    print(f"student, tokenizer and policy written to {folder}")
    return folder, (TrainingCost.read(folder) or joint.cost) + play


def taken_before(student: str | None) -> TrainingCost | None:
    """What the student to begin with took; said on the terminal where that isn't known."""
    cost = TrainingCost.read(student)
    if student is not None and cost is None:
        print(f"no {FILE} in {student}: what it took before isn't counted")
    return cost


def judge(options: Options, folder: Path, cost: TrainingCost) -> list[Row]:
    """Rows on the test split, and how well asking follows disagreement."""
    config = options.config
    env = game(options, "test", folder, f"SELF/{config.call}")
    policy = AskToken.read(folder)
    ends = original_ends(options)
    agent = options.name or ("joint" if config.call == "ASK" else "joint+verify")
    rules = judged_rules(env.pair.tokenizer)
    by_words = [rule for rule in rules if rule.name == TRAINED or rule.name in NUMBERLESS]
    numbered = [rule for rule in rules if rule.name not in NUMBERLESS]
    rows = rows_of(policy, env, ends, numbered, agent, config.seed, **cost.fields())
    rows += rows_of(policy.by_words(), env, ends, by_words, f"{agent} words", config.seed, **cost.fields())
    auc = ranking(env, np.arange(min(3000, len(env.task.prompts))), 0.1, config.seed)
    return [{**row, "asking_auc": auc["ask"], "p_max_auc": auc["p_max"]} for row in rows]


def add_rows(path: Path, rows: list[Row]) -> None:
    """Write rows into a file, in place of older ones of the same agents, games and seeds."""
    old = read_rows(path) if path.is_file() else []
    mine = {(row["agent"], row["actions"], row["seed"]) for row in rows}
    kept = [row for row in old if (row["agent"], row["actions"], row["seed"]) not in mine]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*kept, *rows], indent=1) + "\n")


def main(options: Options) -> None:
    """Train, save, measure; with several processes, the main one alone saves and measures."""
    processes = Processes(cpu=options.device == "cpu")
    options = replace(options, device=processes.device_for(options.device))
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    if processes.main:
        write_settings(options.out, record(options))
    pair = load_models(settings_of(options, "policy"))
    joint, tokenizer = train(options, pair, processes)
    processes.part()
    if not processes.main:
        return
    folder, cost = deploy(options, joint, tokenizer)
    if options.rows is None:
        return
    rows = judge(options, folder, cost)
    add_rows(options.rows, rows)
    for row in rows:
        gap = row["recovered_gap"]
        shown = "-" if gap is None else f"{gap:.1%}"
        print(
            f"{row['told']:18} {row['words'][:56]:56} calls/token {row['calls_per_token']:.3f} quality "
            f"{row['quality']:.3f} recovered {shown}"
        )
    for name in ("asking_auc", "p_max_auc"):
        print(f"{name} {rows[0][name]:.3f}" if rows[0][name] is not None else f"{name} -")


if __name__ == "__main__":
    run(main, Options, __doc__)
