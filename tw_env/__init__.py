"""Gymnasium environments in which a policy decides, token by token, when a student should ask its teacher.

>>> import gymnasium, tw_env
>>> env = gymnasium.make("tw_env/Pronounce-v0", rule="ask the teacher for at most 10% of the tokens")
>>> observation, info = env.reset(seed=0)

The ids that end in `Verify` add the action VERIFY. `gymnasium.make_vec` gives the batched game itself. Importing this
package registers the ids and loads no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import gymnasium
from gymnasium.envs.registration import register

if TYPE_CHECKING:
    from tw_env.vector_env import AssistedDecodingVectorEnv

__version__ = "0.1.0"

_TASKS = {"Pronounce": "pronounce", "Text": "text"}
_PREPARED_TASKS = {"Translate": "translate", "Summarize": "summarize"}
_ACTIONS = {"": "SELF/ASK", "Verify": "SELF/ASK/VERIFY"}

#: Ids that play as they are.
IDS = tuple(f"tw_env/{task}{suffix}-v0" for task in _TASKS for suffix in _ACTIONS)
#: Ids that need data, prepared on the user's machine (`scripts.prepare debian`) or given.
PREPARED_IDS = tuple(f"tw_env/{task}{suffix}-v0" for task in _PREPARED_TASKS for suffix in _ACTIONS)

for _task, _name in (_TASKS | _PREPARED_TASKS).items():
    for _suffix, _actions in _ACTIONS.items():
        register(
            id=f"tw_env/{_task}{_suffix}-v0",
            entry_point="tw_env.env:AssistedDecodingEnv",
            vector_entry_point="tw_env.vector_env:AssistedDecodingVectorEnv",
            kwargs={"task": _name, "actions": _actions},
        )


def make_vec(name: str, num_envs: int, **settings: Any) -> AssistedDecodingVectorEnv:
    """`gymnasium.make_vec` for an id of this package, with the type of what comes back."""
    return cast("AssistedDecodingVectorEnv", gymnasium.make_vec(name, num_envs=num_envs, **settings))
