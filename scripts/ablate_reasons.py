"""What can be known of a student's mistakes from a student that is as it is.

By its ask tokens as they begin, as many as there are, and by a network that was fitted on its state and its
probabilities to tell where it differs from the teacher: what the last state holds at all. Both against p_max.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from agents.asking import auc
from agents.joint.reading import Texts, all_states, scores
from agents.joint.shares import LIKELIEST, Places, SmallGate, places_of
from agents.joint.student import ask_log_odds, asking_student, start_asking
from agents.joint.teacher import Teacher
from tw_env.settings import Settings, encode_prompts, load_models, load_task

Row = dict[str, Any]
REASONS = (1, 16, 128, 256, 512)
NETWORK = "network"
RATE = 0.1  # at which the first rows ask
EPOCHS, BATCH, STEP, DECAY = 12, 512, 2e-3, 0.1  # of the network: passes over all places, AdamW


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
        differs = shared.argmax(1) != self._tested.tokens
        return _row(ask_log_odds(found, vocabulary), -shared.max(1).values, differs)

    def network_row(self, seed: int) -> Row:
        """AUC of a network that was fitted on the places of other words to tell where the student goes wrong."""
        fitted, tested = self._places(self._fitted), self._places(self._tested)
        network = SmallGate(fitted.features, seed=seed)
        steps = -(-len(fitted) // BATCH) * EPOCHS
        optimizer = torch.optim.AdamW(network.parameters(), lr=STEP, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        generator = np.random.default_rng(seed)
        for _ in range(EPOCHS):
            for batch in torch.from_numpy(generator.permutation(len(fitted))).split(BATCH):
                logit, _ = network(fitted.features[batch])
                loss = binary_cross_entropy_with_logits(logit, fitted.differs[batch].float())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        with torch.no_grad():
            logit, _ = network(tested.features)
        return _row(logit, -tested.features[:, -LIKELIEST - 1], tested.differs)

    def _places(self, texts: Texts) -> Places:
        return places_of(self._pair.student, self._pair.teacher, texts, self._pair.vocabulary)


def _row(score: Tensor, p_max: Tensor, differs: Tensor) -> Row:
    """AUC of a score and of -log p_max, which rise with doubt, at places where the two models differ; all (places,)."""
    wrong = differs.numpy()
    return {
        "auc": auc(score.double().numpy(), wrong), "p_max_auc": auc(p_max.double().numpy(), wrong),
        "differs": float(wrong.mean()), "places": len(wrong),
    }  # fmt: skip
