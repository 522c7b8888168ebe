"""Conformance checks for your own task, pair, environment or policy; each raises AssertionError and says why.

>>> from tw_env.testing import check_env, check_task
>>> check_env("tw_env/Pronounce-v0", rule="at most 3 calls", hard=True)  # doctest: +SKIP
>>> check_task(my_task)  # doctest: +SKIP

They cover what Gymnasium's and stable-baselines3's own `check_env` don't know about: run those as well.
"""

from tw_env.testing.environments import check_env, check_vector_env
from tw_env.testing.pairs import check_pair
from tw_env.testing.policies import check_policy
from tw_env.testing.tasks import check_task

__all__ = ["check_env", "check_pair", "check_policy", "check_task", "check_vector_env"]
