"""Train a constrained PCL gate; resumable, logged to TensorBoard.

python -m scripts.train --out runs/gate
python -m scripts.train --out runs/gate --resume
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
import tyro
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import tw_env
from agents.pcl.recipe import ENVIRONMENT, Recipe, train_pcl


@dataclass
class Options:
    """Train a gate on the policy split of a task."""

    out: Path
    """Folder of the run: checkpoint, TensorBoard log, log.jsonl, settings.json and, at the end, policy/."""
    env: str = f"{tw_env.__name__}/PronounceVerify-v0"
    """Id of the environment."""
    resume: bool = False
    """Go on from the last checkpoint; the result is that of an uninterrupted run."""
    student: str | None = None
    """Folder or hub id of the student; None takes the pair that ships."""
    teacher: str | None = None
    """Folder or hub id of the teacher."""
    data: str | None = None
    """For Text ids: JSONL with `prompt` and `reference`, or a `datasets` name."""
    metric: str = "exact"
    """For Text ids: chrf, bleu, rougeL, exact or edit."""
    rows: int = 512
    """Rows of the batched game."""
    actions: str | None = None
    """Action set; None takes the id's."""
    limit: int | None = None
    """Only the first so many prompts."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 0
    """Torch's threads; 0 leaves the default."""
    recipe: Recipe = field(default_factory=Recipe)
    """The agent's settings."""


def environment_arguments(options: Options) -> dict[str, Any]:
    """What is given to `make_vec`, without what is left at its default."""
    arguments: dict[str, Any] = {"device": options.device, **ENVIRONMENT}
    for name in ("student", "teacher", "data", "actions", "limit"):
        if (value := getattr(options, name)) is not None:
            arguments[name] = value
    if options.data is not None:
        arguments["metric"] = options.metric
    return arguments


def main(options: Options) -> None:
    """Train and save the policy."""
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    log_path = options.out / "log.jsonl"
    logged = log_path.read_text() if log_path.exists() else ""
    rounds = [json.loads(line) for line in logged[: logged.rfind("\n") + 1].splitlines()]  # a kill may tear the last
    settings = asdict(options)
    (options.out / "settings.json").write_text(json.dumps(settings, indent=2, default=str) + "\n")
    env = tw_env.make_vec(options.env, num_envs=options.rows, **environment_arguments(options))
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
    agent.save(options.out / "policy")
    print(f"policy written to {options.out / 'policy'}; evaluate it with")
    print(f"  python -m scripts.evaluate --policy {options.out / 'policy'} --rule 'ask for at most 10% of the tokens'")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
