"""Write texts with a policy under a rule in words, every token marked by who wrote it.

python -m scripts.generate --prompt hello pneumonia --rule "ask the teacher for at most 20% of the tokens"
python -m scripts.generate --policy runs/mine --prompt "..." --task text --student my/small --teacher my/big
python -m scripts.generate --policy speculative-4 --prompts-file words.txt --rule "as often as you like"
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from scripts.command import run
from scripts.evaluate import read_policy
from scripts.runs import TaskName, asking_folder, policy_folder, settled
from scripts.time_tables import TimeTable, time_table
from tw_env import policies
from tw_env.decoding.loading import Pair, load_pair
from tw_env.decoding.prompts import encode
from tw_env.generate import Assisted, MarkedStreamer, assisted
from tw_env.render import legend, marked, wants_colour
from tw_env.rules import Constraint, Quantity, parse
from tw_env.settings import DEFAULT_RULE
from tw_env.tasks import pronounce, summarize, translate
from tw_env.tasks.shipped import shipped_pair
from tw_env.tasks.text import first_words
from tw_env.tasks.wording import Wording, fill, worded


@dataclass
class Options:
    """Write texts with a policy under a rule."""

    policy: str | None = None
    """A run, a saved policy's folder, a shipped one's name, student, teacher, speculative, speculative-K, or a student
    with an ask token of its own; None takes the gate that ships for the task and such rules."""
    rule: str = DEFAULT_RULE
    """A rule in words; it binds the average over all texts. A student that asks by itself takes those on what it was
    trained on: shares of the tokens."""
    words: str | None = None
    """What a student that reads rules is told instead of the rule, which then only keeps the account; any words."""
    prompt: tuple[str, ...] = ()
    """Prompts."""
    prompts_file: Path | None = None
    """File with a prompt a line, after those of --prompt; - reads standard input."""
    task: TaskName = "auto"
    """Whose pair writes, and how a prompt is put to it: pronounce spells a word (hello becomes h e l l o >), translate
    and summarize say what is wanted unless the pair has an encoder, text leaves it be; auto takes the run's, or
    else pronounce."""
    template: str | None = None
    """What the models read, with {text} where a prompt goes; None leaves it to the run, or else to the task."""
    chat: bool | None = None
    """Write each prompt as a user's turn in the tokenizer's chat template; None leaves it to the run."""
    data: str | None = None
    """Of translate: two languages, or data whose name tells them, in which a causal model is asked; None takes the
    run's, or else en-it."""
    student: str | None = None
    """Folder or hub id of the student; None takes the run's, or the one that ships."""
    teacher: str | None = None
    """Folder or hub id of the teacher; None takes the run's, or the one that ships."""
    max_new_tokens: int | None = None
    """Cap on new tokens; None takes the policy's own, else the task's."""
    sampled: bool = False
    """Draw actions from the policy's probabilities; else its calibrated cut decides, or the likeliest action."""
    decoding: Literal["greedy", "sampling"] = "greedy"
    """How both models choose their tokens: the likeliest, or a draw at temperature 1."""
    accept: str = "exact"
    """Which pending tokens VERIFY keeps: exact, probability:P or distance:D."""
    hard: bool = False
    """Mask calls that the rule can't afford."""
    stream: bool = False
    """Print each text while it is written, one after the other, marked by writer as without. A token appears once no
    VERIFY can change it or its writer: as soon as it is written only where the policy never verifies."""
    latency: str | None = None
    """JSON file with a latency table, by which time is modelled; None takes that of the pair that ships, if it plays,
    or a student with the layers of its student, such as scripts.joint trains from it."""
    prices: tuple[float, float, float] | None = None
    """What the teacher costs per call, per token that it reads and per token that it writes, such as 0.01 1e-5 3e-5;
    each text then says its price."""
    color: Literal["auto", "always", "never"] = "auto"
    """Colours or brackets by writer; auto colours on a terminal, unless NO_COLOR is set."""
    seed: int = 0
    """Of all that is drawn."""
    rows: int = 64
    """Texts that are written at a time."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 0
    """Torch's threads; 0 leaves the default."""


# ---- prompts ---------------------------------------------------------------------------------------------------


def spelled(word: str) -> str:
    """A word letter by letter, unless it is so already."""
    return word if word.endswith(" >") else pronounce.prompt(word)


CAPS = {
    "pronounce": pronounce.MAX_NEW_TOKENS, "translate": translate.MAX_NEW_TOKENS,
    "summarize": summarize.MAX_NEW_TOKENS, "text": 32,
}  # fmt: skip
"""On new tokens, of each task."""


def wording_of(options: Options) -> Wording | None:
    """How the task puts a text to a model; None as it is."""
    if options.task == "translate":
        return translate.wording_of(options.data or translate.PAIR)
    return summarize.WORDING if options.task == "summarize" else None


def as_read(options: Options, prompts: Sequence[str], pair: Pair) -> list[str]:
    """The prompts as the task, or the template, puts them to the models."""
    if options.template is not None:
        return fill(options.template, prompts)
    if options.task == "pronounce":
        return [spelled(prompt) for prompt in prompts]
    if options.task == "summarize":
        prompts = [first_words(prompt, summarize.SOURCE_WORDS) for prompt in prompts]
    return worded(prompts, wording_of(options), pair.encoder_decoder, bool(options.chat))


def read_prompts(options: Options) -> list[str]:
    """The prompts of the command line, then those of the file.

    Raises:
        OSError: a file that can't be read.
        ValueError: no prompts.
    """
    prompts = list(options.prompt)
    if options.prompts_file is not None:
        read = sys.stdin.read() if str(options.prompts_file) == "-" else options.prompts_file.read_text("utf-8")
        prompts += [line.strip() for line in read.splitlines()]
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise ValueError("Expected prompts, got none. Give --prompt with one or more, or --prompts-file.")
    return prompts


def padded(prompts: Sequence[Sequence[int]], filler: int) -> dict[str, Tensor]:
    """The prompts as a batch, padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[filler] * (width - len(one)) + list(one) for one in prompts])
    real = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
    return {"input_ids": ids, "attention_mask": real}


# ---- what plays ------------------------------------------------------------------------------------------------


@dataclass
class Players:
    """Two models, the policy between them (an object, a name, or None for the student's own), and what models time."""

    pair: Pair
    policy: Any
    table: TimeTable | None


def gate_of(task: str, rule: str) -> str:
    """The shipped gate of a task: the one that learned rules on time for such a rule.

    Raises:
        ValueError: there is none, or the rule is no rule (see `tw_env.rules.parse`).
    """
    timed = parse(rule).quantity == Quantity.LATENCY_MS
    name = f"{'pronounce' if task == 'text' else task}-pcl" + ("-time" if timed else "")
    if name not in policies.shipped():
        known = ", ".join(policies.shipped())
        raise ValueError(f"Expected --policy, since no gate ships for --task {task}; these ship: {known}.")
    return name


def players_of(options: Options) -> Players:
    """What `--policy`, `--student` and `--teacher` mean.

    Args:
        options: with a task, see `scripts.runs.settled`.

    Raises:
        FileNotFoundError, ValueError: see `tw_env.decoding.loading.load_pair` and `scripts.evaluate.read_policy`.
    """
    name = gate_of(options.task, options.rule) if options.policy is None else options.policy
    student, teacher = options.student, options.teacher
    policy: Any = name
    if policy_folder(name) is not None:
        policy = read_policy(name)
    elif asking_folder(name) is not None:
        policy = None
    table = time_table(options.task, student, teacher, options.latency)
    if student is None or teacher is None:
        ours = shipped_pair(options.task)
        student, teacher = student or str(ours.student), teacher or str(ours.teacher)
    return Players(load_pair(student, teacher, device=options.device), policy, table)


# ---- texts -----------------------------------------------------------------------------------------------------


@dataclass
class Text:
    """One text and its account; milliseconds and money are None where nobody measures them."""

    prompt: str
    shown: str
    calls: int
    tokens: int
    spent: float
    allowed: float
    milliseconds: float | None
    money: float | None


def write(options: Options, players: Players, prompts: Sequence[str], colour: bool) -> Iterator[Text]:
    """The texts in order, `rows` at a time, or one at a time where they stream."""
    pair, cap = players.pair, CAPS[options.task]
    cap = options.max_new_tokens or (players.policy.layout.cap if hasattr(players.policy, "layout") else cap)
    latency = None if players.table is None else players.table.path
    prices = None if options.prices is None else dict(zip(("call", "read", "written"), options.prices, strict=True))
    encoded = encode(as_read(options, prompts, pair), pair, bool(options.chat))
    filler = pair.end_tokens[0]
    count = 1 if options.stream else options.rows
    drawing = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} if options.decoding == "sampling" else {}
    for first in range(0, len(prompts), count):
        inputs = {
            name: part.to(pair.student.device) for name, part in padded(encoded[first : first + count], filler).items()
        }
        streamer: BaseStreamer | None = None
        if options.stream:
            print(prompts[first])
            streamer = MarkedStreamer(pair.tokenizer, colour)
        out: Assisted = pair.student.generate(
            **inputs, custom_generate=partial(assisted, tokenizer=pair.tokenizer, streamer=streamer),
            teacher=pair.teacher, policy=players.policy, rule=options.rule, words=options.words,
            deterministic=not options.sampled, accept=options.accept, hard=options.hard, latency=latency,
            prices=prices, seed=options.seed + first, max_new_tokens=cap, do_sample=options.decoding == "sampling",
            pad_token_id=filler, return_dict_in_generate=True, **drawing,
        )  # fmt: skip
        for row, prompt in enumerate(prompts[first : first + count]):
            yield text_of(out, row, prompt, pair, colour)


def text_of(out: Assisted, row: int, prompt: str, pair: Pair, colour: bool) -> Text:
    """A row of what `generate` returned."""
    length, new = int(out.tokens[row]), out.writers.shape[1]
    tokens = out.sequences[row, out.sequences.shape[1] - new :][:length].tolist()
    shown = marked(pair.tokenizer, tokens, out.writers[row, :length].tolist(), colour)
    times = [None if values is None else float(values[row]) for values in (out.latency_ms, out.price)]
    return Text(prompt, shown, int(out.calls[row]), length, float(out.spent[row]), float(out.allowed[row]), *times)


def account(texts: Sequence[Text]) -> str:
    """What one or more texts took: calls and tokens as sums, time and money as means."""
    calls, tokens = sum(text.calls for text in texts), sum(text.tokens for text in texts)
    told = f"{calls} call{'s' * (calls != 1)}, {tokens} tokens, {calls / tokens:.3f} calls per token"
    each = " a text" if len(texts) > 1 else ""
    for values, words in (
        ([t.milliseconds for t in texts], "{:.1f} ms"),
        ([t.money for t in texts], "a price of {:.4g}"),
    ):
        known = [value for value in values if value is not None]
        if known:
            told += ", " + words.format(sum(known) / len(known)) + each
    return told


def against(rule: Constraint, texts: Sequence[Text]) -> str:
    """What was spent on average, beside what the rule allows."""
    spent, allowed = (sum(getattr(text, name) for text in texts) / len(texts) for name in ("spent", "allowed"))
    unit = {Quantity.LATENCY_MS: " ms", Quantity.PRICE: ""}.get(rule.quantity, " calls")
    kept = "kept" if spent <= allowed + 1e-9 else "exceeded on these texts; it binds the average over many"
    return f"rule {str(rule)!r}: {spent:.4g}{unit} spent a text, {allowed:.4g} allowed: {kept}"


def main(options: Options) -> None:
    """Write and print."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.rows < 1:
        raise ValueError(f"Expected --rows of at least 1, got {options.rows}.")
    rule = parse(options.rule)  # what can't be read is refused before anything is loaded
    prompts = read_prompts(options)
    colour = wants_colour(sys.stdout) if options.color == "auto" else options.color == "always"
    options = settled(options, options.policy)
    players = players_of(options)
    print(f"written by: {legend(colour)}\n")
    texts = []
    for text in write(options, players, prompts, colour):
        if not options.stream:
            print(f"{text.prompt}\n{text.shown}")
        print(f"    {account([text])}\n")
        texts.append(text)
    if len(texts) > 1:
        print(f"{len(texts)} texts: {account(texts)}")
    print(against(rule, texts))
    if players.table is not None:
        print(players.table.note)


if __name__ == "__main__":
    run(main, Options, __doc__)
