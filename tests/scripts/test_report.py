"""Rows become lines, pictures and a self-contained page."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.field import FIELD
from scripts import learning_curves, outcomes, pictures, report
from scripts.examples import Example, Group, Ink, Piece, Played
from scripts.page import Page
from scripts.rows import by_rule, lines_of, rules_of
from scripts.tables import table

GAME = "SELF/ASK/VERIFY"


def row(agent: str, limit: float | None, calls: float, gap: float | None, **more: Any) -> dict[str, Any]:
    kind = {"pcl": "learned", "student": "fixed", "speculative": "fixed", "oracle": "oracle"}.get(agent, "heuristic")
    rule = "as often as you like" if limit is None else f"at most {100 * limit:g}% of the tokens"
    low, high = (None, None) if gap is None else (gap - 0.1, gap + 0.1)
    return {
        "task": "letters", "actions": "SELF/ASK/VERIFY", "accept": "exact", "agent": agent, "kind": kind, "seed": 0,
        "rule": rule, "quantity": "calls_per_token", "limit": limit, "quality": 0.5, "recovered_gap": gap,
        "recovered_gap_low": low, "recovered_gap_high": high, "calls_per_token": calls, "prompts": 10, **more,
    }  # fmt: skip


ROWS = [
    row("speculative", None, 0.2, 1.0),
    row("pcl", 0.1, 0.1, 0.8, seed=0),
    row("pcl", 0.1, 0.08, 0.6, seed=1),
    row("pcl", 0.05, 0.05, 0.4),
    row("p-max", 0.1, 0.13, 0.5),
    row("p-max", 0.1, 0.09, 0.3, actions="SELF/ASK"),
]


def test_a_line_has_a_point_for_each_rule_in_the_order_of_its_spending() -> None:
    ours = {line.agent: line for line in lines_of(ROWS, "SELF/ASK/VERIFY")}["pcl"]
    np.testing.assert_allclose(ours.limit, [0.05, 0.1])
    np.testing.assert_allclose(ours.calls, [0.05, 0.09])  # a mean over the two seeds
    np.testing.assert_allclose(ours.gap, [0.4, 0.7])
    np.testing.assert_allclose(ours.high, [0.5, 0.8])


def test_ours_is_drawn_last_and_so_on_top() -> None:
    assert [line.agent for line in lines_of(ROWS, "SELF/ASK/VERIFY")] == ["speculative", "p-max", "pcl"]


def test_rules_are_ordered_from_tight_to_loose_and_no_limit_is_no_column() -> None:
    assert [short for _, short in rules_of(ROWS)] == ["5%", "10%"]
    assert {rule: len(group) for rule, group in by_rule(ROWS[:4]).items()} == {
        "as often as you like": 1, "at most 10% of the tokens": 2, "at most 5% of the tokens": 1,
    }  # fmt: skip


def test_the_frontier_has_a_panel_for_each_game_and_leaves_out_the_two_ends() -> None:
    figure = pictures.frontier([*ROWS, row("student", 0.0, 0.0, 0.0), row("teacher", None, 1.0, 1.0)])
    assert len(figure.axes) == 2
    assert figure.axes[0].get_xlim()[1] < 0.5, "the teacher's point at 100% calls would squeeze everything else"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0].startswith("PCL")
    assert len(labels) == len(set(labels)) == 3


def test_an_agent_looks_the_same_in_every_picture() -> None:
    full = pictures.styles_of(lines_of(ROWS, "SELF/ASK/VERIFY"), dark=False)
    fewer = pictures.styles_of(lines_of(ROWS, "SELF/ASK"), dark=False)
    assert full["p-max"] == fewer["p-max"]
    assert full["pcl"]["color"] not in {style["color"] for name, style in full.items() if name != "pcl"}


def test_no_two_agents_look_alike() -> None:
    lines = lines_of([row(agent, 0.1, 0.1, 0.5) for agent in ("pcl", *(e.name for e in FIELD), *"abcde")], GAME)
    looks = [tuple(str(style.get(key, "-")) for key in ("color", "marker", "linestyle"))
             for style in pictures.styles_of(lines, dark=False).values()]  # fmt: skip
    assert len(set(looks)) == len(looks)


def test_fixed_agents_alone_can_be_drawn() -> None:
    rows = [row("student", 0.0, 0.0, 0.0, within_rule=1.0), row("speculative", None, 0.2, 1.0, within_rule=1.0)]
    for draw in (pictures.frontier, pictures.spend, pictures.within):
        assert pictures.png(draw(rows)).startswith(b"\x89PNG")
    assert "Is the rule kept?" not in Page(rows).html()


def test_what_gets_beyond_the_teacher_is_seen_unless_it_is_an_oracle() -> None:
    beyond = [row("pcl", 0.2, 0.2, 1.3), row("oracle", None, 0.3, 3.0)]
    assert 1.3 < pictures.frontier([*ROWS, *beyond]).axes[0].get_ylim()[1] < 2.0


def test_the_legend_of_a_crowd_stays_within_the_picture() -> None:
    rows = [row(f"an agent with quite a long name, number {index}", 0.1, 0.1, 0.1) for index in range(26)]
    figure = pictures.frontier(rows)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_window_extent().width <= figure.bbox.width
    assert figure.axes[0].get_window_extent().height > 0.3 * figure.bbox.height


def test_only_the_wanted_agents_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row("pcl", 0.1, 0.1, 0.5), row("p-max", 0.1, 0.1, 0.3)]))
    assert [one["agent"] for one in report.rows_of(report.Options(path, tmp_path, agents=("p-max",)))] == ["p-max"]
    assert len(report.rows_of(report.Options(path, tmp_path))) == 2
    with pytest.raises(ValueError, match="out of pcl, p-max; got nobody"):
        report.rows_of(report.Options(path, tmp_path, agents=("nobody",)))


def test_curves_of_a_resumed_run_count_the_repeated_rounds_once(tmp_path: Path) -> None:
    lines = [(0, 1.0), (1, 2.0), (2, 3.0), (1, 5.0), (2, 6.0)]
    log = "".join(json.dumps({"round": at, "return": value, "lambda/0.1": 0.3}) + "\n" for at, value in lines)
    (tmp_path / "log.jsonl").write_text(log)
    curves = learning_curves.read_curves(tmp_path / "log.jsonl")
    np.testing.assert_allclose(curves["return"], [[0, 1, 2], [1, 5, 6]])
    assert pictures.png(learning_curves.learning(curves)).startswith(b"\x89PNG")


def test_the_page_needs_nothing_from_outside_and_escapes_what_it_is_given() -> None:
    played = Played("5%", [Piece("<b>", Ink.DROPPED), Piece("x", Ink.TEACHER, instead='"y"')], 1, 0.0)
    example = Example("<script>", ["a & b"], [played])
    page = Page(ROWS, title="<i>", examples=[(Group("kind", 0.5, np.array([0])), [example])]).html()
    assert not re.search(r"(src|href|srcset)=\"(?!data:)", page)
    assert "url(" not in page
    assert "@import" not in page
    for raw in ("<script>", "<i>", "<b>x", 'written: "y"'):
        assert raw not in page
    assert '<span class="token dropped">&lt;b&gt;</span>' in page
    assert "a &amp; b" in page
    assert "✗ wrong" in page


def test_the_table_marks_spending_above_the_rule_and_only_that() -> None:
    assert table(ROWS, "SELF/ASK/VERIFY").count("too many") == 1  # p-max spends 13% where 10% are allowed


def test_rows_without_a_gap_are_shown_as_a_dash() -> None:
    rows = [row("p-max", 0.1, 0.1, None)]
    assert pictures.frontier(rows).axes
    shown = table(rows, "SELF/ASK/VERIFY")
    assert "nan" not in shown
    assert "\N{EN DASH}" in shown


def test_the_report_writes_page_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    run = tmp_path / "runs" / "gate"
    run.mkdir(parents=True)
    (run / "log.jsonl").write_text('{"round": 0, "return": 0.5}\n')
    report.main(report.Options(tmp_path / "rows.json", tmp_path / "out", runs=tmp_path / "runs"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "page.html", "summary.json", "frontier.png", "spend.png", "learning-gate.png",
    }  # fmt: skip
    assert "page.html" in capsys.readouterr().out


def test_the_page_says_which_commands_made_rows_and_page(tmp_path: Path) -> None:
    options = report.Options(tmp_path / "a b.json", Path("out"), policy="pronounce-pcl", rules=("never", "once"))
    said = "python -m scripts.benchmark --sweep scripts/sweeps/pronounce.toml --agents pcl"
    outcomes.keep_command(tmp_path, said)
    rows = shlex.quote(str(tmp_path / "a b.json"))
    own = f"python -m scripts.report --rows {rows} --out out --policy pronounce-pcl --rules never once"
    assert report.made_by(options, tmp_path).splitlines() == [said, own]
    assert report.made_by(options, tmp_path / "none").splitlines() == [own]


@pytest.mark.parametrize(
    ("text", "message"),
    [("nothing", "as JSON"), ("[]", "at least one row"), ('[{"agent": "pcl"}]', "row 0 .*missing: .*'recovered_gap'")],
)
def test_what_is_no_benchmark_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        report.read_rows(tmp_path / "rows.json")


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"log\.jsonl"):
        report.read_runs(tmp_path, tmp_path)
