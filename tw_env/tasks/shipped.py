"""Pairs of models that come with the package, one for each task that has one."""

from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"
"""What ships, a folder for each task."""


@dataclass(frozen=True)
class ShippedPair:
    """Where a task's models lie, in Hugging Face format, tokenizers included, and their `tw_env.costs.LatencyTable`."""

    folder: Path

    @property
    def student(self) -> Path:
        """Folder of the student."""
        return self.folder / "student"

    @property
    def teacher(self) -> Path:
        """Folder of the teacher."""
        return self.folder / "teacher"

    @property
    def latency(self) -> Path:
        """JSON file of the pair's milliseconds at batch 1."""
        return self.folder / "latency.json"


def shipped_pair(task: object) -> ShippedPair:
    """The pair of a task by its name; that of the pronunciation task for "text", whose sample it can read, and for
    task objects.

    Raises:
        ValueError: none ships for this task.
    """
    pair = ShippedPair(DATA / (task if isinstance(task, str) and task != "text" else "pronounce"))
    if not (pair.student.is_dir() and pair.teacher.is_dir()):
        raise ValueError(
            f"Expected student and teacher, since no pair ships for the task {task!r}; got neither. Give two folders "
            "or hub ids of one vocabulary: student='google-t5/t5-small', teacher='google-t5/t5-base'."
        )
    return pair
