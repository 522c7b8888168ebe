"""The demo runs from end to end, replaces what an earlier one left, and shows the time that is left."""

import json
from pathlib import Path

import numpy as np
import pytest

import tw_env
from agents.learning_env import ENVIRONMENT
from scripts import demo
from scripts.progress import Stages
from tw_env import policies, rules


@pytest.mark.slow
def test_the_demo_writes_everything_it_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a folder"
    (out / "tensorboard").mkdir(parents=True)
    (out / "tensorboard" / "events.old").touch()
    (out / "mine.txt").touch()
    demo.main(demo.Options(
        out, words=12, rounds=2, demonstrations=40, calibration=10, rows=8, device="cpu", threads=1,
    ))  # fmt: skip
    assert {path.name for path in out.iterdir()} == {*demo.OUTPUT, "mine.txt"}
    assert [path.name for path in (out / "tensorboard").iterdir() if path.name == "events.old"] == []
    rows = json.loads((out / "rows.json").read_text())
    agents = dict.fromkeys(row["agent"] for row in rows)
    assert list(agents) == [*demo.ALONE, *demo.HEURISTICS, "pcl"]
    assert len(rows) == len(demo.ALONE) + len(demo.RULES) * (len(demo.HEURISTICS) + 1)
    by_agent = {row["agent"]: row for row in rows}
    assert by_agent["student"]["calls_per_token"] == 0
    assert by_agent["teacher"]["calls_per_token"] == 1
    assert by_agent["speculative"]["quality"] == by_agent["teacher"]["quality"]
    page = (out / "page.html").read_text(encoding="utf-8")
    assert all(f"<q>{rule}</q>" in page for rule in demo.RULES)
    assert 'class="token student"' in page
    shown = capsys.readouterr().out
    assert "PCL gate (learned)" in shown
    assert str(out / "page.html") in shown
    env = tw_env.make_vec(demo.GAME, 1, split="test", limit=1, **ENVIRONMENT)
    observations, _ = env.reset(seed=0)
    action, _ = policies.load(out / "policy").predict(observations, deterministic=True)
    assert env.action_space.contains(np.asarray(action))


def test_its_rules_in_words_rise_and_have_calibrated_cuts_on_both_sides() -> None:
    limits = [rules.parse(rule).limit for rule in demo.RULES]
    assert limits == sorted(limits)
    assert demo.LIMITS[0] <= limits[0]
    assert limits[-1] <= demo.LIMITS[-1]
    assert set(demo.SHOWN) <= set(demo.RULES)


def test_quick_is_smaller_in_everything_that_takes_time() -> None:
    full = demo.Options()
    small = full.small()
    for name in ("words", "rounds", "demonstrations", "calibration", "rows"):
        assert getattr(small, name) < getattr(full, name)


def test_stages_move_the_whole_by_their_share_and_never_beyond() -> None:
    stages = Stages({"first": 30, "second": 10})
    with stages.stage("first", 3) as advance:
        advance(1)
        assert stages.done == pytest.approx(10)
        advance(5)
        assert stages.done == pytest.approx(30)
    with stages.stage("second", 7) as advance:
        for _ in range(3):
            advance(1)
    assert stages.done == pytest.approx(40), "a stage that ends is done"
    stages.close()
    with pytest.raises(KeyError), stages.stage("third", 1):
        pass
