"""What a jointly trained student is told in the test: rules as in training, held-out ones, and words that are none."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from agents.joint.deployment import TRAINED, Told, told
from agents.joint.wording import FREE, NEVER
from tw_env.rules import Constraint, Quantity

HELD_BACK_LIMITS = (0.04, 0.08, 0.25, 0.4)  # none is trained on; the last lies beyond all that are
HELD_BACK = "held-out phrasing"
NUMBERLESS = ("ambiguous", "open")  # how rules are filed that name no limit
JUDGED = (0.03, 0.05, 0.1, 0.15, 0.2)
AMBIGUOUS = (
    "ask the teacher rarely",
    "ask for about a tenth of the tokens",
    "ask the teacher if you must",
    "ask often",
)
OPEN = {  # no template made them; judged where the tokenizer knows all of their words. What the account holds them to:
    "be thrifty, but get the hard ones right": 0.1,
    "you are on your own unless you are completely lost": 0.1,
    "roughly every twentieth token may come from your teacher": 0.05,
    "help is cheap today, do not hesitate": FREE,
    "quality matters more than anything else": FREE,
}


def readable(words: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer knows every word; one of subwords does."""
    return tokenizer.unk_token_id is None or tokenizer.unk_token_id not in tokenizer(words).input_ids


def judged_rules(tokenizer: PreTrainedTokenizerBase) -> list[Told]:
    """What the student is told in the test."""
    tenth = Constraint(Quantity.CALLS_PER_TOKEN, 0.1)  # what wordings without a number are held against
    return [
        *(told(limit) for limit in JUDGED),
        *(told(limit, HELD_BACK, True) for limit in JUDGED),
        *(told(limit, "held-out limit") for limit in HELD_BACK_LIMITS),
        *(told(limit, name, held) for limit in (NEVER, FREE) for name, held in ((TRAINED, False), (HELD_BACK, True))),
        *(Told("ambiguous", (words,), tenth) for words in AMBIGUOUS),
        *(
            Told("open", (words,), Constraint(Quantity.CALLS_PER_TOKEN, limit))
            for words, limit in OPEN.items()
            if readable(words, tokenizer)
        ),
    ]
