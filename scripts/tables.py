"""Tables of the page: agents by rules, standings, paired differences, and every row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from agents.comparison import BOUND, Difference
from scripts.rows import GAMES, OURS, Row, by_rule, mean, name_of, percent, rules_of, spends_too_much
from scripts.summary import Game, Standing


def table(rows: Sequence[Row], game: str) -> str:
    """Agents by rules: the recovered share of the gap, and below it what was spent."""
    mine = [row for row in rows if row["actions"] == game]
    columns = rules_of(mine)
    cells = {agent: by_rule([row for row in mine if row["agent"] == agent]) for agent in
             dict.fromkeys(str(row["agent"]) for row in mine)}  # fmt: skip
    best = {rule: best_gap([found[rule] for found in cells.values() if rule in found]) for rule, _ in columns}
    head = "".join(f'<th title="{escape(rule)}">{escape(short)}</th>' for rule, short in columns)
    body = []
    for agent, found in cells.items():
        line = "".join(cell(found.get(rule, ()), best[rule]) for rule, _ in columns)
        unruled = by_limit(found, None) or by_limit(found, 0.0)
        body.append(
            f'<tr class="{"ours" if agent == OURS else ""}"><td>{escape(name_of(agent))}</td>{line}{cell(unruled)}</tr>'
        )
    return (
        f"<h3>{escape(GAMES.get(game, game))}</h3>"
        '<p class="soft">Recovered share of the teacher\'s advantage under each rule, its 95% interval, and the calls '
        "per token that were really spent; shaded: the best that keeps that rule without seeing the teacher.</p>"
        + grid(f"<th>policy</th>{head}<th>without a limit</th>", body)
    )


def by_limit(groups: Mapping[str, Sequence[Row]], limit: float | None) -> list[Row]:
    """The rows of all rules with this limit."""
    return [row for group in groups.values() for row in group if row["limit"] == limit]


def grid(head: str, body: Sequence[str]) -> str:
    """A table that scrolls where it is too wide."""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def best_gap(groups: Sequence[Sequence[Row]]) -> float:
    """The best recovered gap under one rule of agents that keep it and don't see the teacher."""
    fair = [group for group in groups if group[0]["kind"] != "oracle" and not spends_too_much(group)]
    return max((mean(group, "recovered_gap") for group in fair), default=math.inf)


def cell(rows: Sequence[Row], best: float = math.inf) -> str:
    """One agent under one rule, a mean over seeds."""
    if not rows:
        return "<td></td>"
    gap, spent = mean(rows, "recovered_gap"), mean(rows, "calls_per_token")
    low, high = mean(rows, "recovered_gap_low"), mean(rows, "recovered_gap_high")
    used = f'<span class="over">{spent:.1%}, too many</span>' if spends_too_much(rows) else f"{spent:.1%} calls"
    interval = "" if math.isnan(low) or low == high else f"{low:.0%} to {high:.0%}"
    return (
        f'<td class="{"best" if gap == best else ""}">{percent(gap)}<small>{interval}</small><small>{used}</small></td>'
    )


# ---- standings -----------------------------------------------------------------------------------------------

STANDINGS = (
    ("policy", ""),
    ("area", f"mean recovered share over 0 to {BOUND:.0%} calls per token"),
    ("distance", "points of the recovered share below the reference at equal calls, mean over the rules"),
    ("within rule", "share of outputs that, taken alone, spent no more than allowed, mean over the rules"),
    ("AUC of asking", "how well the policy's score ranks states where the teacher would write another token"),
    ("env steps", "of one run, which serves all rules"),
    ("teacher tokens", "that the teacher read while the agent learned or was calibrated"),
    ("time", "processor time of one run"),
)


def standings(game: Game) -> str:
    """What one number can say of each agent, and what it took to make it."""
    head = "".join(f'<th title="{escape(told)}">{escape(name)}</th>' for name, told in STANDINGS)
    against = ", ".join(map(name_of, game.reference))
    told = (
        f"Area: the frontier's mean height over 0 to {BOUND:.0%} calls per token, by straight lines from the student "
        "alone (no calls, nothing recovered) through the points of all rules, level beyond the last. "
        f"{f'Distance: how many points lie between a policy and {against} at equal calls. ' if against else ''}"
        "AUC of asking: the chance that a state of the student's own text where the teacher would write another token "
        "scores above one where it would not; .5 is blind. The last three columns: what one run of training or "
        "calibration took, for all rules together."
    )
    body = [standing(one) for one in game.standings if one.area is not None]
    return (
        f'<h3>Standings: {escape(GAMES.get(game.game, game.game))}</h3><p class="soft">{escape(told)}</p>'
        f"{grid(head, body)}"
    )


def standing(one: Standing) -> str:
    """A line of the standings."""
    cells = [
        "" if one.area is None else f"{one.area:.1%}",
        "" if one.mean_distance is None else f"{100 * one.mean_distance:.1f}",
        "" if one.within is None else f"{one.within:.0%}",
        "" if one.asking_auc is None else f"{one.asking_auc:.3f}",
        counted(one.env_steps),
        counted(one.teacher_tokens),
        f"{one.seconds:.0f} s" if one.seconds and one.env_steps else "",
    ]
    inner = "".join(f"<td>{text}</td>" for text in cells)
    return f'<tr class="{"ours" if one.agent == OURS else ""}"><td>{escape(name_of(one.agent))}</td>{inner}</tr>'


def counted(number: float | None) -> str:
    """A count in thousands or millions; nothing for none."""
    if not number:
        return ""
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"


# ---- paired differences --------------------------------------------------------------------------------------


def differences(game: Game, rows: Sequence[Row]) -> str:
    """Ours minus each other agent at equal calls per token; empty without paired tests."""
    if not game.paired:
        return ""
    columns = [
        (rule, short)
        for rule, short in rules_of([row for row in rows if row["actions"] == game.game])
        if any(rule in found for found in game.paired.values())
    ]
    head = "<th>against</th>" + "".join(f'<th title="{escape(rule)}">{escape(short)}</th>' for rule, short in columns)
    body = [
        f"<tr><td>{escape(name_of(agent))}</td>{''.join(difference(found.get(rule)) for rule, _ in columns)}</tr>"
        for agent, found in game.paired.items()
    ]
    told = (
        f"{name_of(OURS)} under each rule, minus the other policy at the same calls per token: points of the recovered "
        "share and their 95% interval, from a bootstrap over the prompts that both wrote. The other policy is read "
        "between its two nearest rules. p: two-sided, by flipping signs. Shaded: the interval leaves out 0. "
        "†: the other policy never spends as much; its last point is taken."
    )
    return (
        f'<h3>Paired differences: {escape(GAMES.get(game.game, game.game))}</h3><p class="soft">{escape(told)}</p>'
        f"{grid(head, body)}"
    )


def difference(found: Difference | None) -> str:
    """One paired difference in points, with its interval and p-value."""
    if found is None or found.gap.value is None or found.gap.low is None or found.gap.high is None:
        return "<td></td>"
    kind = "best" if found.gap.low > 0 else "over" if found.gap.high < 0 else ""
    mark = "" if found.reached else "†"
    p_value = "p < .001" if found.p_value < 0.001 else f"p = {found.p_value:.3f}".replace("0.", ".")
    return (
        f'<td class="{kind}">{100 * found.gap.value:+.1f}{mark}'
        f"<small>{100 * found.gap.low:+.1f} to {100 * found.gap.high:+.1f}</small><small>{p_value}</small></td>"
    )


# ---- everything ----------------------------------------------------------------------------------------------


def all_rows(rows: Sequence[Row]) -> str:
    """Every row as it stands in the file, folded away."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{escape(plain(row.get(name)))}</td>' for name in names)}</tr>" for row in rows)
    return (
        f"<details><summary>All {len(rows)} rows of the file</summary>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


def plain(value: object) -> str:
    """A number with few digits, anything else as it is."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
