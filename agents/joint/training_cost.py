"""What making a student took: kept in a file beside it, and summed over the runs that led to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agents.joint.reading import Texts

FILE = "training.json"
PLAY = "play"


@dataclass(frozen=True)
class TrainingCost:
    """What one run took, or several together. The pair that ships costs nothing here: it is where all begin.

    Attributes:
        seconds: processor seconds of updates, of all processes; what is told to the log now and then is in them.
        updates: gradient steps.
        env_steps: steps of the game: tokens that the student wrote in its episodes, and what a cut was fitted with.
        teacher_tokens: what the teacher read, by what for: under a data set's `fingerprint`, to write all
            of its stored texts, once each, however many of them an update came to; under PLAY, in calls,
            and what scoring own walks takes. What it reads for the log alone is left out.
    """

    seconds: float = 0.0
    updates: int = 0
    env_steps: int = 0
    teacher_tokens: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: TrainingCost) -> TrainingCost:
        """Of both; texts that both learnt from were written once, and the larger part of them counts."""
        tokens = dict(self.teacher_tokens)
        for name, count in other.teacher_tokens.items():
            tokens[name] = tokens.get(name, 0) + count if name == PLAY else max(tokens.get(name, 0), count)
        return TrainingCost(
            self.seconds + other.seconds, self.updates + other.updates, self.env_steps + other.env_steps, tokens
        )

    def with_play(self, env: Any, seconds: float) -> TrainingCost:
        """And what a `Recorded` environment has played since it was made, as when a cut was fitted in it."""
        return self + TrainingCost(seconds, 0, env.env_steps, {PLAY: env.teacher_tokens})

    def fields(self) -> dict[str, Any]:
        """As `agents.evaluation.make_row` takes it."""
        return {
            "training_teacher_tokens": sum(self.teacher_tokens.values()),
            "training_env_steps": self.env_steps,
            "training_seconds": round(self.seconds, 2),
        }

    def save(self, folder: Path, before: TrainingCost | None = None) -> None:
        """Write it beside a model, and `before`, what the model took that this run began from."""
        record = asdict(self) | {"before": None if before is None else asdict(before)}
        (folder / FILE).write_text(json.dumps(record, indent=1) + "\n")

    @classmethod
    def read(cls, folder: str | Path | None) -> TrainingCost | None:
        """What a model took from the pair that ships on; None where nothing was kept, as with that pair itself."""
        if folder is None or not (Path(folder) / FILE).is_file():
            return None
        record = json.loads((Path(folder) / FILE).read_text())
        before = record.pop("before")
        return cls(**record) if before is None else cls(**record) + cls(**before)


def fingerprint(texts: Texts) -> str:
    """The same for the same prompts and outputs, in whatever file they lie."""
    digest = hashlib.sha256()
    for ids in (*texts.prompts, *texts.outputs):
        digest.update(np.array([len(ids), *ids], np.int64).tobytes())
    return digest.hexdigest()[:16]
