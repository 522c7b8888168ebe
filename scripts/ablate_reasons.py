"""What ask tokens can know of a student that is as it is: their first rows, as many as there are, against p_max."""

from __future__ import annotations

from typing import Any

import torch

from agents.asking import auc
from agents.joint.reading import Texts, all_states, scores
from agents.joint.student import ask_log_odds, asking_student, start_asking
from agents.joint.teacher import Teacher
from tw_env.settings import Settings, encode_prompts, load_models, load_task

Row = dict[str, Any]
REASONS = (1, 16, 128, 256, 512)
RATE = 0.1  # at which the first rows ask


class ReasonBench:
    """The shipped pronunciation pair at the places of the teacher's greedy texts.

    Args:
        fitted: words of the policy split that the rows begin with. tested: held-out words.
    """

    def __init__(self, fitted: int, tested: int, device: str) -> None:
        self._pair = load_models(Settings(task="pronounce", device=device))
        self._fitted, self._tested = self._texts("policy", fitted), self._texts("test", tested)

    def _texts(self, split: str, words: int) -> Texts:
        pair, task = self._pair, load_task(Settings(task="pronounce", split=split, limit=words))
        prompts = encode_prompts(task, pair, task.max_new_tokens)
        return (
            Teacher(pair.teacher, pair.vocabulary, top_k=1).write(prompts, task.max_new_tokens, pair.end_tokens).texts
        )

    @torch.no_grad()
    def row(self, reasons: int) -> Row:
        """AUC with which this many ask tokens, and p_max, rank the places where the student would go wrong."""
        student, _ = asking_student(self._pair.student, self._pair.tokenizer, reads_rules=False, reasons=reasons)
        start_asking(student, self._fitted, RATE)
        found = scores(student, all_states(student, self._tested)).cpu()
        vocabulary = self._pair.vocabulary
        shared = found[:, :vocabulary].log_softmax(-1)
        differs = (shared.argmax(1) != self._tested.tokens).numpy()
        ask, p_max = ask_log_odds(found, vocabulary), -shared.max(1).values
        return {
            "auc": auc(ask.double().numpy(), differs), "p_max_auc": auc(p_max.double().numpy(), differs),
            "differs": float(differs.mean()), "places": len(differs),
        }  # fmt: skip
