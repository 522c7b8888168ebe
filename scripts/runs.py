"""What the folder of a run tells: where its policy lies, and the pair and the task that it was made for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args

import tw_env
from agents.joint.deployment import MODEL
from tw_env.policies.policy import CONFIG
from tw_env.tasks.shipped import shipped_pair

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    class Playing(DataclassInstance, Protocol):
        """Options of a script that plays a policy."""

        task: TaskName


PlayingT = TypeVar("PlayingT", bound="Playing")
SETTINGS = "settings.json"  # in the folder of a run, beside policy/ or model/
POLICY = "policy"  # folder of a gate in that of its run
TaskName = Literal["auto", "pronounce", "translate", "summarize", "text"]
TASKS = get_args(TaskName)[1:]
OF_THE_PAIR = ("student", "teacher", "original", "latency")
OF_THE_TASK = ("data", "metric", "template", "chat")
PLACES = (*OF_THE_PAIR, "data")  # settings that may name a folder or a file


def record(options: DataclassInstance) -> dict[str, Any]:
    """All settings as they stand in a file."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(options), default=str))
    return located(settings)


def located(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose folders and files are found from anywhere; hub ids and other names stay."""
    places = {one: settings.get(one) for one in PLACES}
    return settings | {one: str(Path(at).absolute()) for one, at in places.items() if at and Path(at).exists()}


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Keep the settings of a run in its folder."""
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")


def task_of(settings: dict[str, Any]) -> str | None:
    """The task of a run, by its name or its environment's id; None for a task of somebody's own."""
    id_ = str(settings.get("env", ""))
    name = settings.get("task")
    if name is None and id_.startswith(f"{tw_env.__name__}/"):
        name = id_.partition("/")[2].partition("-v")[0].removesuffix("Verify").lower()
    return name if name in TASKS else None


def policy_folder(name: str | Path) -> Path | None:
    """Where the policy of a run lies, or the folder itself where it holds one; None where there is none."""
    homes = (Path(name), Path(name) / POLICY, Path(name) / MODEL)
    return next((home for home in homes if (home / CONFIG).is_file()), None)


def asking_folder(name: str | Path) -> Path | None:
    """Where the student of a run lies that has ask tokens, or the folder itself; None where there is none."""
    return next((home for home in (Path(name), Path(name) / MODEL) if _asks(home)), None)


def _asks(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and json.loads(config.read_text()).get("ask_token_ids") is not None


def original_of(settings: Mapping[str, Any]) -> str:
    """The student whose gap is recovered, by the settings of scripts.joint: folder or hub id.

    The one that is named, or else that of a pair of one's own, or else the one that ships.
    """
    own = settings["student"] if settings["teacher"] else None
    return settings["original"] or own or str(shipped_pair(settings["task"]).student)


def told(name: str | Path) -> dict[str, Any]:
    """What a run, or a folder in it, says of the task and the pair that its policy was made for.

    A student that asks by itself is its own policy, wherever the settings say that it began; the student whose gap it
    recovers is the `original`.
    """
    folder = Path(name)
    homes = (folder, folder.absolute().parent) if folder.absolute().name in (POLICY, MODEL) else (folder,)
    path = next((home / SETTINGS for home in homes if (home / SETTINGS).is_file()), None)
    settings = {} if path is None else json.loads(path.read_text())
    found = {one: settings[one] for one in (*OF_THE_PAIR, *OF_THE_TASK) if settings.get(one) is not None}
    if "original" in settings:
        found["original"] = original_of(settings)
    task, model = task_of(settings), asking_folder(folder)
    if task is not None:
        found["task"] = task
    if model is not None:
        found["student"] = str(model)
    return found


def settled(options: PlayingT, name: str | Path | None) -> PlayingT:
    """The options of a script, what they leave open taken from a policy's run; and then the default task.

    Args:
        options: with `task`, "auto" where it is left open, `student` and `teacher`, and maybe others that a run tells.
        name: of the policy; None, or what is no run, tells nothing.
    """
    known, asked = {} if name is None else told(name), options.task
    theirs = known.pop("task", None)
    task = (theirs or "pronounce") if asked == "auto" else asked
    if theirs not in (None, task):  # how another task is scored and put into words says nothing of this one
        known = {one: value for one, value in known.items() if one in OF_THE_PAIR}
    if name is not None and asking_folder(name) is not None and "teacher" not in known:
        known["teacher"] = str(shipped_pair(task).teacher)
    if getattr(options, "student", None) is not None:  # the run's student doesn't play: gap and time are another's
        known.pop("original", None)
        known.pop("latency", None)
    given = {one: value for one, value in known.items() if getattr(options, one, "") is None}
    return replace(options, task=task, **given)
