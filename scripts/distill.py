"""Distil a student with every loss: the same start, data, updates and teacher tokens, one table.

python -m scripts.distill --out results/distillation.json
python -m scripts.distill --task text --student FOLDER --teacher FOLDER --data FILE.jsonl --metric edit --out rows.json
accelerate launch --num_processes 2 --mixed_precision bf16 -m scripts.distill --out rows.json

Several processes share each update and give the rows of one, up to rounding; the main one alone judges and writes.
"""

from __future__ import annotations

import copy
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from transformers import PreTrainedModel

from agents.checkpoint import drop_checkpoint
from agents.joint.distillation import Distillation, Log
from agents.joint.distillation_config import DistillationConfig, DistillationData
from agents.joint.losses import coarsened, cross_entropy, reverse_kl
from agents.joint.objective import Loss
from agents.joint.parallel import Precision, Processes
from agents.joint.reading import Texts, chunks, log_distributions, states
from agents.joint.sampling import Writer
from agents.joint.teacher import CHUNK_TOKENS, ScoredTexts, Teacher
from agents.supervised import Trainer
from scripts.answers import answers
from scripts.command import run
from scripts.kept_rows import Row, Table
from scripts.prepare import Pronounce as Pair
from scripts.pronounce_pair import encode
from scripts.stored_texts import stored_texts
from tw_env.settings import Settings, encode_prompts, load_models, load_task
from tw_env.tasks.pronounce import Pronounce
from tw_env.tasks.task import Task

SAMPLED = 300  # prompts whose sampled texts tell how far a student is from its teacher
REMEMBERED = 200_000  # texts whose scores stay in memory, for all runs together
NOT_COMPARED = ("out", "work", "losses", "seeds", "threads", "device")  # may differ when a table is taken up again


@dataclass
class Options:
    """Distil with every loss and seed, and write a row of each."""

    out: Path = Path("results/distillation.json")
    """Where the rows go; a run that finds some there does those that are missing."""
    work: Path = Path("runs/distillation")
    """Checkpoints, TensorBoard logs, the start, the teacher's texts, and the distilled students."""
    losses: tuple[Annotated[Loss, tyro.conf.EnumChoicesFromValues], ...] = tuple(Loss)
    """What is compared."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each loss."""
    updates: int = 300
    """Gradient steps of each run."""
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Learning rates, of which each loss takes the one that is best on the dev split after `search_updates`."""
    search_updates: int = 150
    """Gradient steps of a run that tries a rate; its seed is none of the others."""
    start_updates: int = 1500
    """Gradient steps of the common start, if no student is named (pronunciation only)."""
    prompts: int = 19_200
    """Training prompts: the first so many of the split."""
    held_out: int | None = None
    """Only the first so many prompts of dev and test; None takes all."""
    task: Literal["pronounce", "text"] = "pronounce"
    """The task."""
    student: str | None = None
    """Folder or hub id of the student that all runs start from; None trains one, with the shipped pair's recipe."""
    teacher: str | None = None
    """Folder or hub id of the teacher; None takes the shipped one."""
    data: str | None = None
    """For the task `text`: JSONL with `prompt` and `reference`, or a `datasets` name."""
    metric: str = "exact"
    """For the task `text`: chrf, bleu, rougeL, exact or edit."""
    split: str | None = None
    """Training split; None takes `pair` of the pronunciation task, `policy` of others."""
    max_new_tokens: int | None = None
    """Cap on new tokens; None takes the task's."""
    config: DistillationConfig = field(default_factory=DistillationConfig)
    """The rest of the loop's settings, the same for all losses; loss, updates, rate and seed are set by the above."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 1
    """Torch's threads."""


def _needs_stored(loss: Loss, share: float | None = None) -> bool:
    """Whether a loss learns from texts that the teacher wrote."""
    return loss is not Loss.SUPERVISED and (loss.own_share if share is None else share) < 1.0


class Bench:
    """What all runs share: tasks, models, the teacher's texts; `options.device` is that of this very process."""

    def __init__(self, options: Options) -> None:
        self.options, self.processes = options, Processes(cpu=options.device == "cpu")
        (self.train, self.dev, self.test), pair = self._load(options)
        self.pair = pair
        self.cap = options.max_new_tokens or self.train.max_new_tokens
        self.teacher = Teacher(pair.teacher, pair.vocabulary, memory=REMEMBERED)
        with self.processes.main_first():  # it trains the start; the others find it done
            self.start = copy.deepcopy(pair.student) if options.student else self._start()
        prompts = encode_prompts(self.train, pair, self.cap)
        gold = answers(self.train, pair, self.cap)
        self.data = DistillationData(prompts, pair.end_tokens, self.cap, gold, None, pair.vocabulary)
        share = options.config.on_policy_share
        with self.processes.main_first():  # it writes the teacher's texts
            stored = self._stored() if any(_needs_stored(loss, share) for loss in options.losses) else None
        self.data = DistillationData(prompts, pair.end_tokens, self.cap, gold, stored, pair.vocabulary)

    @staticmethod
    def _load(options: Options) -> tuple[list[Task], Any]:
        shared: dict[str, Any] = {
            "task": options.task, "data": options.data, "metric": options.metric, "device": options.device,
            "max_new_tokens": options.max_new_tokens,
        }  # fmt: skip
        first = options.split or ("pair" if options.task == "pronounce" else "policy")
        limits = ((first, options.prompts), ("dev", options.held_out), ("test", options.held_out))
        tasks = [load_task(Settings(**shared, split=split, limit=limit)) for split, limit in limits]
        models = load_models(Settings(**shared, student=options.student, teacher=options.teacher))
        return tasks, models

    def _start(self) -> PreTrainedModel:
        """The shipped student's recipe, broken off early: a student that still has much to learn."""
        if self.options.task != "pronounce":
            raise ValueError("Expected a student for the task 'text'; give --student and --teacher.")
        recipe = Pair().recipes()[1]
        prompts, targets = encode(self.pair.tokenizer, Pronounce("pair"))
        trainer = Trainer(
            recipe.new_model(self.pair.tokenizer), prompts, targets, recipe.training, self.options.work / "start"
        )
        if self.processes.main:
            print(f"start: {trainer.step} of {self.options.start_updates} updates are done")
        return trainer.run(until=self.options.start_updates).to(self.pair.teacher.device)

    def _stored(self) -> ScoredTexts:
        """The teacher's greedy text for each training prompt, written once."""
        path = self.options.work / "teacher.safetensors"
        found, places = stored_texts(path, self.teacher, self.data.prompts, self.cap, self.data.end_tokens)
        return found.take(places)

    def judge(self, model: PreTrainedModel, task: Task, sampled: int = SAMPLED) -> Row:
        """Quality of greedy texts, nats per token of the first reference, KL to the teacher per own sampled token.

        Args:
            sampled: prompts whose sampled texts tell the KL; with 0 it is left out.
        """
        model.eval()
        prompts = encode_prompts(task, self.pair, self.cap)
        writer = Writer(model, max(map(len, prompts)), self.cap, self.pair.end_tokens, self.pair.vocabulary)
        outputs = [list(output) for output in writer.greedy(prompts).outputs]
        texts = self.pair.tokenizer.batch_decode(outputs, skip_special_tokens=True)
        found = {"quality": float(np.mean([task.quality(i, text) for i, text in enumerate(texts)]))}
        gold = Texts(prompts, [texts[0] for texts in answers(task, self.pair, self.cap)])
        nats = 0.0
        with torch.inference_mode():
            for rows in chunks(gold, CHUNK_TOKENS):
                part = gold.take(rows)
                logprobs = log_distributions(model, states(model, part), self.pair.vocabulary)
                nats += float(cross_entropy(logprobs, part.tokens.to(logprobs.device)).sum())
            found["nats"] = nats / len(gold.tokens)
            if sampled:
                own = writer.sample(prompts[:sampled], np.random.default_rng(0))
                theirs = Teacher(self.pair.teacher, self.pair.vocabulary).score(own).scores
                mine = coarsened(log_distributions(model, states(model, own), self.pair.vocabulary), theirs.ids)
                found["kl"] = float(reverse_kl(mine, theirs.distribution).mean())
        return found

    def distil(
        self, config: DistillationConfig, task: Task, sampled: int, bar: tqdm[None], name: str | None = None
    ) -> tuple[Row, PreTrainedModel]:
        """One run and its row, see `judge`; goes on from its checkpoint, under a name, if it was broken off.

        Processes train together; the main one judges and tells the others the row.
        """
        name = name or f"{config.loss}-{config.learning_rate:g}-{config.seed}-{config.updates}"
        folder = self.options.work / name
        own = None if config.own_share == 0.0 else self.teacher
        began = time.process_time()
        distillation = Distillation(copy.deepcopy(self.start), self.data, config, own, folder)
        bar.set_description(folder.name)
        bar.update(distillation.update)
        with ExitStack() as stack:
            student = distillation.run(_log(folder, distillation.update, bar, stack) if self.processes.main else None)
        seconds = self.processes.total([time.process_time() - began])
        row: Row = {}
        if self.processes.main:
            row = {
                "loss": str(config.loss), "seed": config.seed, "learning_rate": config.learning_rate,
                "on_policy_share": config.own_share, **self.judge(student, task, sampled), "updates": config.updates,
                "texts": config.updates * config.batch, "tokens": distillation.teacher_tokens,
                "seconds": round(seconds, 1),
            }  # fmt: skip
            drop_checkpoint(folder)
        return self.processes.told(row), student


def _log(folder: Path, update: int, bar: tqdm[None], stack: ExitStack) -> Log:
    """What shows and writes down the numbers of updates behind this one."""
    writer = stack.enter_context(SummaryWriter(str(folder / "tensorboard"), purge_step=update + 1))

    def log(update: int, numbers: dict[str, float]) -> None:
        bar.update()
        for name, value in numbers.items():
            writer.add_scalar(name, value, update)

    return log


def print_table(content: dict[str, Any]) -> None:
    """Means over seeds, with the standard deviation of the quality, and what a run took.

    That is updates, tokens that the teacher read (each text that was learnt from once) and processor seconds, in which
    writing the teacher's stored texts is not counted: it is done once for all runs.
    """
    print(
        f"{'loss':13}{'rate':>8}{'own':>6}{'quality':>9}{'sd':>7}{'nats':>8}{'KL':>8}{'updates':>9}{'tokens':>10}{'s':>7}"
    )
    for name, row in content["ends"].items():
        print(f"{name:27}{row['quality']:9.4f}{'':7}{row['nats']:8.4f}{row['kl']:8.4f}")
    for loss in dict.fromkeys(row["loss"] for row in content["rows"]):
        rows = [row for row in content["rows"] if row["loss"] == loss]
        mean = {n: float(np.mean([r[n] for r in rows])) for n in ("quality", "nats", "kl", "tokens", "seconds")}
        spread = float(np.std([row["quality"] for row in rows], ddof=1)) if len(rows) > 1 else float("nan")
        print(
            f"{loss:13}{rows[0]['learning_rate']:8g}{rows[0]['on_policy_share']:6.2f}{mean['quality']:9.4f}{spread:7.4f}"
            f"{mean['nats']:8.4f}{mean['kl']:8.4f}{rows[0]['updates']:9}{mean['tokens']:10.0f}{mean['seconds']:7.0f}"
        )


def main(options: Options) -> None:
    """Search a learning rate for each loss, train all, write the rows and print the table."""
    processes = Processes(cpu=options.device == "cpu")
    device = processes.device_for(options.device)
    torch.set_num_threads(options.threads)
    table = Table(options.out, writes=processes.main)
    precision = Precision(options.config.precision, torch.device(device)).kind
    table.keep_to({**asdict(options), "config": options.config.deciding(precision)}, NOT_COMPARED)
    bench = Bench(replace(options, device=device))
    ends = table.content["ends"]
    for name, model in (("start", bench.start), ("teacher", bench.pair.teacher)):
        if name not in ends and processes.main:
            ends[name] = bench.judge(model, bench.test)
            table.write()
    search_seed, rates = max(options.seeds, default=0) + 1, options.rates
    trials = options.search_updates * len(rates) if len(rates) > 1 else 0
    total = len(options.losses) * (trials + options.updates * len(options.seeds))
    with tqdm(total=total, unit="update", disable=not processes.main) as bar:

        def row_of(kind: str, task: Task, config: DistillationConfig) -> Row:
            wanted = {"loss": str(config.loss), "seed": config.seed, "learning_rate": config.learning_rate}
            if (row := table.find(kind, **wanted)) is not None:
                bar.update(config.updates)
                return row
            row, student = bench.distil(config, task, SAMPLED if kind == "rows" else 0, bar)
            if kind == "rows" and processes.main:
                folder = options.work / f"{config.loss}-{config.seed}"
                student.save_pretrained(folder)
                bench.pair.tokenizer.save_pretrained(folder)
            return table.add(kind, row)

        def config_of(loss: Loss, updates: int, rate: float, seed: int) -> DistillationConfig:
            changed = {"loss": loss, "updates": updates, "learning_rate": rate, "seed": seed}
            return DistillationConfig(**{**vars(options.config), **changed})

        chosen = {}
        for loss in options.losses:
            tried = [
                row_of("search", bench.dev, config_of(loss, options.search_updates, rate, search_seed))
                for rate in (rates if len(rates) > 1 else ())
            ]
            chosen[loss] = max(tried, key=lambda row: row["quality"])["learning_rate"] if tried else rates[0]
        for seed in options.seeds:
            for loss in options.losses:
                row_of("rows", bench.test, config_of(loss, options.updates, chosen[loss], seed))
    processes.part()
    if processes.main:
        print_table(table.content)
        print(f"rows written to {options.out}")


if __name__ == "__main__":
    run(main, Options, __doc__)
