"""Train a constrained PCL gate; resumable, logged to TensorBoard.

python -m scripts.train --out runs/gate
python -m scripts.train --out runs/gate --resume
python -m scripts.train --out runs/timed --rule "at most 25 ms per output" "at most 35 ms per output"
"""

from __future__ import annotations

import json
import shlex
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import tw_env
from agents.checkpoint import FILE
from agents.learning_env import learning_env
from agents.limits import soft_limits
from agents.pcl.recipe import Recipe, train_pcl
from scripts.command import run
from scripts.runs import POLICY, SETTINGS, located, record, task_of, write_settings

OF_THE_GAME = (  # what a run can't change
    "env", "student", "teacher", "data", "metric", "template", "chat", "split", "rows", "actions", "hidden", "limit",
    "max_new_tokens", "rule", "latency",
)  # fmt: skip
SHOWN = "demonstrations", "exploration"  # settings of the recipe: episodes that learning begins with


@dataclass
class Options:
    """Train a gate on the policy split of a task."""

    out: Path
    """Folder of the run: checkpoint, TensorBoard log, log.jsonl, settings.json and, at the end, policy/."""
    env: str = f"{tw_env.__name__}/PronounceVerify-v0"
    """Id of the environment."""
    resume: bool = False
    """Go on from the last checkpoint, if there is one; the result is that of an uninterrupted run."""
    student: str | None = None
    """Folder or hub id of the student; None takes the pair that ships."""
    teacher: str | None = None
    """Folder or hub id of the teacher."""
    data: str | None = None
    """JSONL with `prompt` and `reference`, or a `datasets` name; for Translate ids also two languages: en-it."""
    metric: str | None = None
    """chrf, bleu, rouge1, rouge2, rougeL, exact or edit; None takes the task's."""
    template: str | None = None
    """What models read, with {text} where the text goes; None leaves the wording to the task."""
    chat: bool = False
    """Write each prompt as a user's turn in the tokenizer's chat template."""
    rule: tuple[str, ...] = ()
    """What the gate learns to keep: soft limits on one quantity, such as "at most 30 ms per output"; of time or calls
    the policy keeps any between the least and the largest of them. Without, it learns every share of the tokens."""
    latency: str | None = None
    """JSON file with a latency table, by which time is modelled; None takes that of the pair that ships, if it plays.
    `tw_env.decoding.latency.measure` makes one."""
    rows: int = 512
    """Rows of the batched game."""
    actions: str | None = None
    """Action set; None takes the id's."""
    hidden: bool = False
    """Show the gate the student's last hidden state, too."""
    split: str = "policy"
    """Part of the data that the gate learns on: none that the models were fitted on."""
    limit: int | None = None
    """Only the first so many prompts."""
    max_new_tokens: int | None = None
    """Cap on new tokens; None takes the task's."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 0
    """Torch's threads; 0 leaves the default."""
    recipe: Recipe = field(default_factory=Recipe)
    """The agent's settings."""


def environment_arguments(options: Options) -> dict[str, Any]:
    """What is given to `make_vec`, without what is left at its default."""
    arguments: dict[str, Any] = {
        "device": options.device, "hidden": options.hidden, "chat": options.chat, "split": options.split,
    }  # fmt: skip
    for name in ("student", "teacher", "data", "metric", "template", "actions", "limit", "max_new_tokens", "latency"):
        if (value := getattr(options, name)) is not None:
            arguments[name] = value
    if options.rule:
        arguments["rule"] = list(options.rule)
    return arguments


def check_resumed(options: Options) -> None:
    """Refuse to go on with another game than the run began with; the agent's own settings stand in its checkpoint.

    Raises:
        ValueError: settings of the environment or of the demonstrations that differ.
    """
    path = options.out / SETTINGS
    if not options.resume or not path.is_file():
        return
    older: dict[str, Any] = {"split": "policy", "chat": False, "rule": []}  # what runs did before these could be set
    before, now = older | located(json.loads(path.read_text())), record(options)
    for settings in (before, now):
        for name in SHOWN:
            settings[name] = settings["recipe"].get(name, 0)
    changed = [name for name in (*OF_THE_GAME, *SHOWN) if before.get(name) != now[name]]
    if changed:
        told = ", ".join(f"{name} {before.get(name)!r} before, {now[name]!r} now" for name in changed)
        raise ValueError(
            f"Expected the settings of the run in {options.out}; {told}. "
            "Give the same settings to resume, or another folder to start anew."
        )


def evaluation_of(options: Options) -> str:
    """The command that judges the trained policy on the pair and the task that it learned on."""
    command = ["python", "-m", "scripts.evaluate", "--policy", str(options.out / POLICY)]
    command += ["--rule", *(options.rule or ("ask for at most 10% of the tokens",))]
    for name in ("student", "teacher", "data", "metric", "template", "latency"):
        if (value := getattr(options, name)) is not None:
            command += [f"--{name}", value]
    if options.chat:
        command.append("--chat")
    if (task := task_of(record(options))) not in (None, "pronounce"):
        command += ["--task", str(task)]
    return shlex.join(command)


def main(options: Options) -> None:
    """Train and save the policy."""
    if options.threads:
        torch.set_num_threads(options.threads)
    check_resumed(options)
    if options.resume and not (options.out / FILE).is_file():
        print(f"no {FILE} in {options.out}, nothing to go on from: the run starts with its first round")
    options.out.mkdir(parents=True, exist_ok=True)
    log_path = options.out / "log.jsonl"
    logged = log_path.read_text() if log_path.exists() else ""
    rounds = [json.loads(line) for line in logged[: logged.rfind("\n") + 1].splitlines()]  # a kill may tear the last
    env = learning_env(options.env, options.rows, **environment_arguments(options))
    if soft_limits(env) is None:
        raise ValueError(
            f"Expected --rule to be soft limits on one quantity, above 0 and below what a call at every token costs; "
            f"got {', '.join(map(repr, options.rule))}."
        )
    write_settings(options.out, record(options))
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=options.recipe.pcl.iterations, desc="rounds", unit="round"))
        opened: list[tuple[SummaryWriter, TextIO]] = []

        def log(iteration: int, numbers: dict[str, float]) -> None:
            if not opened:  # what a killed run logged behind its last checkpoint is played again
                writer = SummaryWriter(str(options.out / "tensorboard"), purge_step=iteration)
                stack.callback(writer.close)
                lines: TextIO = stack.enter_context(log_path.open("w"))
                lines.writelines(json.dumps(old) + "\n" for old in rounds if old["round"] < iteration)
                opened.append((writer, lines))
            writer, lines = opened[0]
            bar.update(iteration + 1 - bar.n)
            for name, value in numbers.items():
                writer.add_scalar(name, value, iteration)
            lines.write(json.dumps({"round": iteration, **numbers}) + "\n")
            lines.flush()

        agent = train_pcl(env, options.recipe, options.out, options.resume, log, stage=bar.set_description)
    agent.save(options.out / POLICY)
    print(f"policy written to {options.out / 'policy'}; evaluate it with")
    print(f"  {evaluation_of(options)}")


if __name__ == "__main__":
    run(main, Options, __doc__)
