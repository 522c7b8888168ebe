"""Make what the tasks need: `pronounce` the dictionary and the pair that ship, `debian` text data of this machine.

python -m scripts.prepare debian --pair en-it         # translation; en-fr, en-de, de-en, en-pt_BR and many more
python -m scripts.prepare debian --task summarize     # headlines of English descriptions
python -m scripts.prepare translate                   # a pair of models for the former
python -m scripts.prepare summarize                   # and for the latter
python -m scripts.prepare smollm2                     # a real pair for the latter: SmolLM2-135M and some of its layers
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from agents.supervised import SupervisedConfig
from scripts.command import run
from scripts.debian_data import Debian
from scripts.prepare_smollm2 import SmolLM2
from scripts.prepare_text import Summarize, Translate
from scripts.pronounce_data import (
    build_tokenizer,
    dictionary_folder,
    read_dictionary,
    write_notice,
    write_splits,
)
from scripts.pronounce_pair import ModelRecipe, finish, train
from tw_env.decoding.latency import measure
from tw_env.decoding.loading import load_pair, resolve_device
from tw_env.tasks.pronounce import DATA, LATENCY, STUDENT, TEACHER


@dataclass
class Pronounce:
    """The pronunciation task: dictionary, tokenizer, student and teacher; a stopped run continues."""

    work_dir: Path = Path("runs/prepare-pronounce")
    """Where the checkpoints live."""
    parts: tuple[Literal["data", "student", "teacher", "latency"], ...] = ("data", "student", "teacher", "latency")
    """What to make; the models need the data, and the latency table needs the models."""
    seed: int = 0
    """Seed of the split, of the first weights and of the order of the words."""
    teacher_steps: int = 2700
    """Updates of the teacher."""
    teacher_decay: int = 1950
    """Last updates of the teacher, over which the learning rate falls to zero."""
    student_steps: int = 14000
    """Updates of the student."""
    student_decay: int = 11000
    """Last updates of the student, over which the learning rate falls to zero."""
    workers: int = 2
    """Threads that share an update; the weights don't depend on their number."""
    device: str = "auto"
    """auto, cpu or cuda: where the models are trained; the latency table is a processor's in any case."""

    def recipes(self) -> list[ModelRecipe]:
        """The two models: 3.3 million parameters, and 60 thousand without the embeddings."""
        teacher = SupervisedConfig(
            steps=self.teacher_steps,
            decay_steps=self.teacher_decay,
            batch_size=384,
            learning_rate=6e-3,
            ema_decay=0.99,
            seed=self.seed,
            checkpoint_every=150,
        )
        student = SupervisedConfig(
            steps=self.student_steps,
            decay_steps=self.student_decay,
            batch_size=256,
            learning_rate=2e-2,
            weight_decay=0.0,
            ema_decay=0.995,
            seed=self.seed,
            checkpoint_every=1000,
        )
        return [
            ModelRecipe("teacher", width=256, layers=4, heads=4, intermediate=704, training=teacher),
            ModelRecipe("student", width=64, layers=1, heads=4, intermediate=224, training=student),
        ]

    def run(self) -> None:
        """Make the wanted parts, in an order that lets each use the one before."""
        torch.set_num_threads(1)  # the trainer's workers share the processor instead
        device = resolve_device(self.device)
        entries = read_dictionary(dictionary_folder() / "cmudict.dict")
        if "data" in self.parts:
            sizes = write_splits(entries, DATA, self.seed)
            write_notice(dictionary_folder() / "LICENSE", DATA)
            print(f"{len(entries)} words: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
        phones = sorted({phone for spoken in entries.values() for one in spoken for phone in one.split()})
        tokenizer = build_tokenizer(phones)
        for recipe in self.recipes():
            if recipe.role in self.parts:
                took = train(recipe, tokenizer, DATA / recipe.role, self.work_dir, self.workers, device)
                finish(recipe, took, DATA / recipe.role)
        if "latency" in self.parts:
            table = measure(load_pair(str(STUDENT), str(TEACHER), device="cpu"))
            table.save(LATENCY)
            print(f"latency at batch 1, one thread: {table}")


PARTS: dict[str, type[Pronounce | Debian | Translate | Summarize | SmolLM2]] = {
    "pronounce": Pronounce,
    "debian": Debian,
    "translate": Translate,
    "summarize": Summarize,
    "smollm2": SmolLM2,
}

if __name__ == "__main__":
    run(lambda wanted: wanted.run(), PARTS, __doc__)
