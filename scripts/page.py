"""One self-contained HTML page about benchmark rows: headline, frontier, table, coloured texts, training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from scripts import learning_curves, pictures
from scripts.examples import Example, Group, Ink, Piece, Played
from scripts.rows import OURS, Row, games_of, mean, percent, rules_of
from scripts.summary import Game
from scripts.tables import all_rows, differences, standings, table

STYLE = Path(__file__).with_name("page.css")
PIXELS_PER_INCH = 85  # of a picture on the page

LEGEND = (
    (Ink.STUDENT, "written by the student, read by nobody"),
    (Ink.ACCEPTED, "written by the student, checked and kept by the teacher"),
    (Ink.TEACHER, "written by the teacher"),
    (Ink.DROPPED, "written by the student, taken back by the teacher"),
)


@dataclass
class Page:
    """What the page shows; empty parts are left out.

    Attributes:
        rows: as `scripts.benchmark` writes them, or with their seeds pooled.
        games: standings and paired tests.
        title, introduction: plain text; the introduction is a list of paragraphs.
        examples: groups of texts.
        curves: of a training run, by the name of the run.
        made_by: the commands that made it.
        raw: rows as they stand in the file, if `rows` are pooled.
    """

    rows: Sequence[Row]
    games: Sequence[Game] = ()
    title: str = "When should a small model ask a big one?"
    introduction: Sequence[str] = ()
    examples: Sequence[tuple[Group, Sequence[Example]]] = ()
    curves: dict[str, learning_curves.Curves] = field(default_factory=dict)
    made_by: str = ""
    raw: Sequence[Row] = ()

    def html(self) -> str:
        """The whole page, without any outside resource."""
        parts = [
            f"<h1>{escape(self.title)}</h1>",
            *(f"<p>{escape(paragraph)}</p>" for paragraph in self.introduction),
            tiles(self.rows),
            rules(self.rows),
            "<h2>Quality against help</h2>",
            picture(partial(pictures.frontier, self.rows), "frontier", FRONTIER_CAPTION),
            *(table(self.rows, game) for game in games_of(self.rows)),
            *(standings(game) for game in self.games),
            *(differences(game, self.rows) for game in self.games),
            texts(self.examples),
        ]
        if any(row["quantity"] == "calls_per_token" and row["limit"] for row in self.rows):
            parts += [
                "<h2>Is the rule kept?</h2>",
                picture(partial(pictures.spend, self.rows), "spending against the rule", SPEND_CAPTION),
            ]
            if all("within_rule" in row for row in self.rows):
                parts.append(picture(partial(pictures.within, self.rows), "outputs within the rule", WITHIN_CAPTION))
        for name, curves in self.curves.items():
            parts += [
                f"<h2>How it learned{': ' + escape(name) if len(self.curves) > 1 else ''}</h2>",
                picture(partial(learning_curves.learning, curves), "learning curves", LEARNING_CAPTION),
            ]
        parts.append(all_rows(self.raw or self.rows))
        if self.made_by:
            parts.append(f"<h2>Made by</h2><pre>{escape(self.made_by)}</pre>")
        return SKELETON.format(title=escape(self.title), style=STYLE.read_text(), body="\n".join(filter(None, parts)))


SKELETON = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

FRONTIER_CAPTION = (
    "Left is cheaper, up is better. 0% is the student alone, 100% the teacher alone, who is called at every token. "
    "Each point is one rule; bands are 95% bootstrap intervals over prompts and seeds, where lines are many, those "
    "of learned policies only. The table has them all."
)
SPEND_CAPTION = (
    "Along the dotted line a policy spends just what its rule allows. Below it, it spends less; "
    "in the shaded region it breaks the rule by more than one point."
)
WITHIN_CAPTION = (
    "A rule limits the average, so a good policy spends much on some outputs and nothing on others. This is the share "
    "of outputs that, each taken alone, spent no more than the rule allows."
)
LEARNING_CAPTION = (
    "All rules are learned at once. The multiplier of a limit rises while its texts spend more than it allows, "
    "and falls while they spend less. Thin lines: single rounds; thick lines: running means."
)


def picture(draw: Callable[[bool], Figure], what: str, caption: str) -> str:
    """A figure in two versions, of which the browser shows the one that fits its theme."""
    figures = [draw(theme) for theme in (False, True)]
    width = round(PIXELS_PER_INCH * figures[0].get_figwidth())
    light, dark = (pictures.data_uri(pictures.png(figure)) for figure in figures)
    return (
        f'<figure><picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" width="{width}" alt="{escape(what)}"></picture>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def rules(rows: Sequence[Row]) -> str:
    """The rules in words."""
    sentences = [rule for rule, _ in rules_of(rows)]
    if not sentences:
        return ""
    quotes = "".join(f"<q>{escape(sentence)}</q>" for sentence in sentences)
    told = "How much help a policy may use on average is said in words, and one policy serves all of these rules:"
    return f'<h2>The rules</h2><p>{told}</p><div class="rules">{quotes}</div>'


def tiles(rows: Sequence[Row]) -> str:
    """The numbers to remember."""
    cells: list[tuple[str, str, str]] = []
    game = games_of(rows)[-1] if rows else ""
    alone = {agent: [row for row in rows if row["agent"] == agent] for agent in ("student", "teacher")}
    cells += [("", f"{mean(found, 'quality'):.1%}", f"quality of the {a} alone") for a, found in alone.items() if found]
    ours = [row for row in rows if row["agent"] == OURS and row["actions"] == game and row["limit"]]
    for limit in sorted({row["limit"] for row in ours if row["quantity"] == "calls_per_token"}):
        if limit in (0.05, 0.1):
            same = [row for row in ours if row["limit"] == limit]
            told = (
                f"of the teacher's advantage is recovered by the learned policy with calls at {limit:.0%} of the tokens"
            )
            cells.append(("ours", percent(mean(same, "recovered_gap")), told))
    if found := [row for row in rows if row["agent"] == "speculative" and row["actions"] == game]:
        told = "calls per token: speculative decoding, which writes just what the teacher would"
        cells.append(("", f"{mean(found, 'calls_per_token'):.1%}", told))
    inner = "".join(
        f'<div class="tile {kind}"><b>{number}</b><span>{escape(told)}</span></div>' for kind, number, told in cells
    )
    return f'<div class="tiles">{inner}</div>' if cells else ""


# ---- texts ---------------------------------------------------------------------------------------------------


def texts(groups: Sequence[tuple[Group, Sequence[Example]]]) -> str:
    """Single texts under several rules side by side, every token in the colour of its writer."""
    if not groups:
        return ""
    legend = "".join(
        f'<span><span class="token {ink.value}">token</span> {escape(told)}</span>' for ink, told in LEGEND
    )
    parts = [
        "<h2>Token by token</h2>",
        "<p>The learned policy on prompts that nothing was trained on, under looser rules from left to right. "
        "\N{END OF PROOF} is the end of the text. Point at a teacher's token to see what the student would have "
        "written there.</p>",
        f'<div class="legend">{legend}</div>',
    ]
    for group, examples in groups:
        parts.append(f'<h3>{escape(group.title)} <span class="soft">({group.share:.1%} of all prompts)</span></h3>')
        head = "".join(f"<th>{escape(played.title)}</th>" for played in examples[0].played)
        body = "".join(
            f'<tr><td><div class="word">{escape(example.prompt)}</div>'
            f"<small>{escape(' or '.join(example.references))}</small></td>"
            f"{''.join(map(played_cell, example.played))}</tr>"
            for example in examples
        )
        parts.append(
            f'<div class="scroll"><table class="examples"><thead><tr><th>prompt and reference</th>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )
    return "\n".join(parts)


def played_cell(played: Played) -> str:
    """One text as coloured tokens, whether it is right, and how many calls it took."""
    if played.quality in (0.0, 1.0):
        right = played.quality == 1.0
        mark = f'<span class="{"right" if right else "wrong"}">{"✓ right" if right else "✗ wrong"}</span>'
    else:
        mark = f"quality {played.quality:.2f}"
    calls = f"{played.calls} call{'' if played.calls == 1 else 's'}"
    return f'<td>{"".join(map(token, played.pieces))}<span class="mark">{mark} · {calls}</span></td>'


def token(piece: Piece) -> str:
    """One token as a coloured chip."""
    text = "\N{END OF PROOF}" if piece.end else piece.text.strip() or "\N{OPEN BOX}"
    title = f' title="the student would have written: {escape(piece.instead)}"' if piece.instead else ""
    return f'<span class="token {piece.ink.value}"{title}>{escape(text)}</span>'
