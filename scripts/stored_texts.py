"""A teacher's greedy texts in a file: written once, behind a bar, and read by every run that needs no others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from agents.joint.teacher import ScoredTexts, Teacher


def stored_texts(
    path: Path, teacher: Teacher, prompts: Sequence[Sequence[int]], cap: int, end_tokens: Sequence[int]
) -> tuple[ScoredTexts, list[int]]:
    """All texts of the file, and the places of these prompts among them.

    A file that lacks one of the prompts is written anew, with the texts of these prompts alone.
    """
    wanted = [tuple(prompt) for prompt in prompts]
    if path.is_file():
        found = ScoredTexts.load(path)
        places = {tuple(prompt): place for place, prompt in enumerate(found.texts.prompts)}
        if places.keys() >= set(wanted):
            return found, [places[prompt] for prompt in wanted]
    with tqdm(total=len(prompts), unit="text", desc="the teacher writes, once") as bar:
        found = teacher.write(wanted, cap, end_tokens, finished=bar.update)
    found.save(path, {"decoding": "greedy"})
    print(f"the teacher's texts are written to {path}")
    return found, list(range(len(wanted)))
