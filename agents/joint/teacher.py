"""A frozen teacher's opinion of texts, asked for once: scores kept in memory and on disk, tokens counted."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from agents.joint.losses import coarsened, written
from agents.joint.reading import Ids, Texts, chunks, join, log_distributions, states, steps_of
from agents.joint.sampling import Writer

CHUNK_TOKENS = 8192  # tokens of one scoring pass, padding included


@dataclass(frozen=True)
class Scores:
    """Log-probabilities that a teacher gives, one row per written token.

    Attributes:
        written: (steps,) of the written tokens.
        distribution: (steps, k + 1) of the k likeliest tokens, in falling order, then of all others together; or
            (steps, vocab) of every token.
        ids: (steps, k) the k likeliest tokens; None where every token stands in `distribution`. The student's side of
            a divergence is `agents.joint.losses.coarsened(student, scores.ids)`.
    """

    written: Tensor
    distribution: Tensor
    ids: Tensor | None

    def take(self, steps: Tensor) -> Scores:
        """The rows at `steps`."""
        ids = None if self.ids is None else self.ids[steps]
        return Scores(self.written[steps], self.distribution[steps], ids)

    def to(self, device: torch.device) -> Scores:
        """The same on a device."""
        ids = None if self.ids is None else self.ids.to(device)
        return Scores(self.written.to(device), self.distribution.to(device), ids)


def summarised(logprobs: Tensor, tokens: Tensor, top_k: int | None) -> Scores:
    """What is kept of whole distributions (steps, vocab): all of it, or the `top_k` likeliest tokens and the rest."""
    if top_k is None or top_k >= logprobs.shape[1]:
        return Scores(written(logprobs, tokens), logprobs, None)
    ids = logprobs.topk(top_k).indices
    return Scores(written(logprobs, tokens), coarsened(logprobs, ids), ids)


def joined_scores(parts: Sequence[Scores]) -> Scores:
    """All rows of several parts, in order."""
    ids = [part.ids for part in parts if part.ids is not None]
    return Scores(
        torch.cat([part.written for part in parts]),
        torch.cat([part.distribution for part in parts]),
        torch.cat(ids) if ids else None,
    )


@dataclass(frozen=True)
class ScoredTexts:
    """Texts with a teacher's scores; all that training needs of a teacher, so that it need not be there.

    Attributes:
        teacher_tokens: what the teacher read for them.
    """

    texts: Texts
    scores: Scores
    teacher_tokens: int

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> ScoredTexts:
        """The texts at these places; they count the tokens that they took by themselves."""
        texts = self.texts.take(rows)
        return ScoredTexts(texts, self.scores.take(steps_of(self.texts, rows)), texts.read_tokens)

    def save(self, path: Path, about: dict[str, str] | None = None) -> None:
        """Write to one safetensors file; `about` says where the texts come from."""
        prompts = [torch.tensor(prompt, dtype=torch.int32) for prompt in self.texts.prompts]
        tensors = {
            "prompts": torch.cat(prompts) if prompts else torch.zeros(0, dtype=torch.int32),
            "prompt_lengths": torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int32),
            "outputs": self.texts.tokens.int(),
            "output_lengths": torch.from_numpy(self.texts.lengths).int(),
            "written": self.scores.written.cpu().contiguous(),
            "distribution": self.scores.distribution.cpu().contiguous(),
        }
        if self.scores.ids is not None:
            tensors["ids"] = self.scores.ids.int().cpu().contiguous()
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"teacher_tokens": str(self.teacher_tokens), "about": json.dumps(about or {})}
        temporary = path.with_suffix(".tmp")
        save_file(tensors, temporary, record)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> ScoredTexts:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
        """
        if not path.is_file():
            raise FileNotFoundError(f"Expected a teacher's stored texts at {path}; found no file. Write them first.")
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            record = file.metadata()
        prompts, outputs = (
            [part.tolist() for part in tensors[f"{name}s"].split(tensors[f"{name}_lengths"].tolist())]
            for name in ("prompt", "output")
        )
        ids = tensors["ids"].long() if "ids" in tensors else None
        scores = Scores(tensors["written"], tensors["distribution"], ids)
        return cls(Texts(prompts, outputs), scores, int(record["teacher_tokens"]))


class Teacher:
    """A frozen model that scores texts and writes some, and counts the tokens it reads.

    Args:
        model: the teacher, in evaluation mode.
        vocabulary: how many token ids student and teacher share (`Pair.vocabulary`).
        top_k: how many tokens of each distribution are kept; None keeps all.
        memory: texts whose scores are remembered, so that none of them is scored twice; the least recently used goes
            out first.

    Attributes:
        tokens: what the teacher has read so far. A text from memory costs none.
    """

    def __init__(
        self, model: PreTrainedModel, vocabulary: int | None = None, top_k: int | None = 16, memory: int = 50_000
    ) -> None:
        self.model, self.vocabulary, self.top_k = model, vocabulary, top_k
        self.tokens = 0
        self._memory: OrderedDict[tuple[tuple[int, ...], tuple[int, ...]], Scores] = OrderedDict()
        self._limit = memory

    def score(self, texts: Texts) -> ScoredTexts:
        """Score every written token; scores stand on the teacher's device."""
        keys = [(tuple(p), tuple(o)) for p, o in zip(texts.prompts, texts.outputs, strict=True)]
        known = {key: self._memory[key] for key in keys if key in self._memory}
        fresh = list(dict.fromkeys(key for key in keys if key not in known))
        unread = Texts([prompt for prompt, _ in fresh], [output for _, output in fresh])
        for rows in chunks(unread, CHUNK_TOKENS):
            part = unread.take(rows)
            found = self._read(part)
            starts = part.starts.tolist()
            for place, row in enumerate(rows.tolist()):
                known[fresh[row]] = found.take(torch.arange(starts[place], starts[place + 1]))
        self.tokens += unread.read_tokens
        self._remember({key: known[key] for key in keys})
        return ScoredTexts(texts, joined_scores([known[key] for key in keys]), unread.read_tokens)

    @torch.inference_mode()
    def _read(self, texts: Texts) -> Scores:
        logprobs = log_distributions(self.model, states(self.model, texts), self.vocabulary)
        return summarised(logprobs, texts.tokens.to(logprobs.device), self.top_k)

    def _remember(self, known: dict[tuple[tuple[int, ...], tuple[int, ...]], Scores]) -> None:
        for key, scores in known.items():
            self._memory[key] = scores
            self._memory.move_to_end(key)
        while len(self._memory) > self._limit:
            self._memory.popitem(last=False)

    def write(
        self,
        prompts: Sequence[Ids],
        max_new_tokens: int,
        end_tokens: Sequence[int],
        generator: np.random.Generator | None = None,
        temperature: float = 1.0,
        rows: int = 256,
        finished: Callable[[int], object] | None = None,
    ) -> ScoredTexts:
        """Write a text for each prompt, greedily or, with a generator, by sampling; scored in the same passes.

        Args:
            finished: called with the number of texts that have just come to their end.
        """
        longest = max(map(len, prompts))
        writer = Writer(self.model, longest, max_new_tokens, end_tokens, self.vocabulary, rows, finished=finished)
        owners: list[NDArray[np.int64]] = []
        found: list[Scores] = []

        def watch(texts: NDArray[np.int64], logprobs: Tensor, tokens: Tensor) -> None:
            owners.append(texts.copy())
            found.append(summarised(logprobs, tokens, self.top_k))

        if generator is None:
            texts = writer.greedy(prompts, watch)
        else:
            texts = writer.sample(prompts, generator, temperature, watch)
        self.tokens += texts.read_tokens
        order = np.argsort(np.concatenate(owners), kind="stable")  # places of one text came in order
        return ScoredTexts(texts, joined_scores(found).take(torch.from_numpy(order)), texts.read_tokens)


def joined(parts: Sequence[ScoredTexts]) -> ScoredTexts:
    """All texts of several parts, in order."""
    tokens = sum(part.teacher_tokens for part in parts)
    return ScoredTexts(join([part.texts for part in parts]), joined_scores([part.scores for part in parts]), tokens)
