"""The words and set phrases that rules are made of, by the role each plays in a sentence."""

from __future__ import annotations

from enum import Enum, auto
from fractions import Fraction
from itertools import product


class Role(Enum):
    """What a phrase does in a rule."""

    # comparisons
    AT_MOST = auto()  # "up to"
    BELOW = auto()  # "less than"
    ABOVE = auto()  # "more than": an upper limit only together with NOT
    NO_MORE = auto()  # "more" without an amount after it, as in "3 calls and no more"
    NOT = auto()
    # amounts
    NUMBER = auto()  # a number that names no unit itself
    SHARE = auto()  # of the written tokens
    COUNT = auto()  # of calls
    TOKEN_COUNT = auto()
    TIME = auto()  # milliseconds
    MONEY = auto()  # currency units
    WINDOW = auto()  # "per 20 tokens"
    EVERY = auto()  # "every 20 tokens": a window that is a whole rate by itself
    NONE = auto()  # "on your own"
    UNLIMITED = auto()  # "as often as you like"
    # subjects
    ASK = auto()
    CALLS = auto()
    TEACHER = auto()
    YOU = auto()
    WRITE = auto()
    WRITTEN = auto()
    TOKENS = auto()
    OF_TOKENS = auto()
    OF_TEXT = auto()
    PER_OUTPUT = auto()
    TEXT = auto()  # "the output" as a subject
    LATENCY = auto()
    MILLISECONDS = auto()  # "latency_ms", which names the unit of a bare number
    PRICE = auto()
    COST = auto()
    PAY = auto()
    # manner
    HARD = auto()
    HARD_NOT = auto()  # "under no circumstances"
    AVERAGE = auto()
    HEDGE = auto()  # "if you must"
    SELDOM = auto()  # "rarely"
    MUST = auto()
    KEEP = auto()
    FOR = auto()
    EQUALS = auto()
    FILLER = auto()
    PAUSE = auto()  # a comma or colon
    BREAK = auto()  # a full stop, "but": what follows stands by itself
    # refused wherever they stand
    LOWER = auto()
    EXACT = auto()
    VAGUE = auto()
    ROUGHLY = auto()
    STUDENT = auto()
    UNIT = auto()  # things the game doesn't count


def _phrases(*parts: str) -> str:
    """Every combination of the alternatives: 'a | b', 'c | d' -> 'a c | a d | b c | b d'."""
    return " | ".join(" ".join(choice) for choice in product(*(part.split("|") for part in parts)))


_LIKE = _phrases(
    "as",
    "often | much | long | many times | frequently | much time | much money | many calls | many questions",
    "as you",
    "like | want | want to | wish | please | care to | choose | would like",
)
_SPARE = _phrases(
    "as",
    "little | rarely | seldom | few times | few calls | infrequently | sparingly",
    "as",
    "possible | you can | you like | you want | you please",
)
_WHENEVER = _phrases("whenever you", "like | want | want to | wish | please | choose")

_SOURCE: dict[Role, str] = {
    Role.AT_MOST: """
        at most | at the most | at the very most | at max | max | maximum | maximal | maximally | at a maximum |
        up to | upper limit | upper bound | limit | limits | limited to | limit of | a limit of | maximum of |
        max of | cap | caps | capped at | capped to | cap of | ceiling | ceiling of | budget | budget of | quota |
        quota of | allowance | allowance of | or less | or fewer | or below | or under | or lower | tops | within |
        only | just |
        restrict | restricted to | as many as | as much as | at or below | at or under | <= | less than or equal to |
        fewer than or equal to | smaller than or equal to | below or equal to | up to and including | stop after |
        stop asking after | stop at | stop asking at | no higher""",
    Role.BELOW: """
        less than | fewer than | smaller than | lower than | under | below | < | strictly less than |
        strictly fewer than | strictly below | strictly under | faster than | quicker than | shorter than |
        cheaper than | less often than""",
    Role.ABOVE: """
        more than | over | above | beyond | past | exceed | exceeds | exceeding | exceeded | greater than |
        higher than | bigger than | larger than | longer than | slower than | more often than | more frequently than
        | oftener than | more expensive than | >""",
    Role.NO_MORE: """
        more than that | more than this | more often than that | more often | over that | above that | above it""",
    Role.NOT: """
        not | no | never | don't | do not | does not | doesn't | cannot | can't | mustn't | shouldn't | won't |
        may not | without | forbidden | prohibited | not once | never once | not even once | not a single |
        not one single | not one | not even a | not even one | not even a single | no single | none | nothing |
        not any | isn't | aren't | never ever | refrain from""",
    Role.NONE: "on your own | by yourself | all by yourself | all on your own | unaided | unassisted",
    Role.UNLIMITED: f"""{_LIKE} | {_WHENEVER} |
        any number of times | any number of | any amount of | unlimited | limitless | unrestricted | without limit |
        without limits | without any limit | without limitation | without restriction | without restrictions |
        without any restriction | no limit | no limits | no upper limit | no restriction | no restrictions |
        not limited | freely | infinite | infinity | infinitely | infinitely often | infinitely many | inf | ∞ |
        no time limit | no price limit | no call limit""",
    Role.ASK: """
        ask | asks | asked | asking | consult | consults | consulted | consulting | query | querying | call on |
        turn to | bother | bothered | request | requested | help | helps | assistance | advice | helped | called |
        calling | queried | invoke | invoked | invoking | consultation""",
    Role.CALLS: "call | calls | question | questions | queries | requests | consultations | lookups | invocations",
    Role.TEACHER: """
        teacher | the teacher | teacher's | big model | bigger model | large model | larger model | expert | tutor""",
    Role.YOU: "you | yourself | you're | you'd | you've | you'll",
    Role.WRITE: """
        write | writes | writing | answer | answers | answering | respond | responds | come from | comes from |
        coming from | contribute | contributes | supply | supplies | provide | provides""",
    Role.WRITTEN: "written | contributed | supplied | provided",
    Role.TOKENS: "token | tokens",
    Role.LATENCY: "latency | of latency | delay | time | latency of | delay of | wait | waiting",
    Role.MILLISECONDS: "latency ms | latency in ms | latency in milliseconds",
    Role.PRICE: "price | a price of | price of | the price of",
    Role.COST: "cost | costs | cost of | costing | expense | expenses",
    Role.PAY: "pay | pays | paying | money | charge",
    Role.HARD: """
        strictly | strict | hard | hard limit of | absolutely | absolute | under any circumstances |
        under all circumstances | in any case | no matter what | without exception | without exceptions |
        no exceptions | without any exception | guaranteed""",
    Role.HARD_NOT: "under no circumstances | in no case | on no account | under no circumstance | by no means",
    Role.AVERAGE: "on average | in expectation | on the average | average",
    Role.HEDGE: f"""{_SPARE} |
        if you can help it | if you can | if you must | if you have to | if possible | if at all possible |
        if needed | if necessary | if you need | if you need to | if you need it | if you like | if you want |
        if need be | when needed | when necessary | where needed | where necessary | when in doubt | if in doubt |
        if unsure | when unsure | when you are unsure | if you are unsure | when you need it | when you need to |
        when you must""",
    Role.MUST: "must | have to | has to | need to | needs to | should | required to | required | shall | ought to",
    Role.KEEP: "keep | keeps | keeping | kept",
    Role.FOR: "for",
    Role.EQUALS: "= | ==",
    Role.FILLER: """
        please | kindly | thanks | thank you | dear | hey | hi | hello | ok | okay | well | so | rule | rules | the
        | a total of | total of | in total | total | in all | altogether | overall | your | may | might | can |
        could | would | will | to | is | are | be | been | being | do | does | that | this | it | its | them | him |
        her | i | we | want | would like | like | i'd | let | lets | let's | allow | allows | allowed | permit |
        permits | permitted | feel free | use | uses | using | used | spend | spends | spending | take | takes |
        taking | get | gets | getting | make | makes | making | have | has | having | set | stay | stays | go | run
        | runs | there | available | left | enough | fine | at all | ever | even | any | anything | by | from | with
        | on | in | at a rate of | rate | a rate of | a | an | at | while writing | when writing | while you write |
        when you write | such | seek | us | me | frequency | share | percentage | fraction | portion | part
        | ratio | amount | everything | there's | that's | it's | i'm | we'd | done | finish | finished | ready |
        last | lasts | a share of | a fraction of | number of | the number of | needs | need""",
    Role.BREAK: "but | however | though | although | and | then | &",
    Role.LOWER: """
        at least | at the least | at the very least | minimum | minimum of | min | minimally | minimal | or more |
        or above | or over | or higher | or greater | and up | upwards | >= | greater than or equal to |
        more than or equal to | not less than | no less than | no fewer than | not fewer than | always | between |
        lower limit | lower bound""",
    Role.EXACT: "exactly | precisely | equal to | equals | exact",
    Role.SELDOM: """
        rarely | sometimes | seldom | occasionally | sparingly | infrequently | frugally | economically | moderately
        | now and then""",
    Role.VAGUE: """
        often | little | few | some | several | many | much | mostly | usually | hardly | scarcely | a bit | bit |
        a little | a few | a couple | couple | every now and then | once in a while | from time to time | frequently
        | regularly | barely | somewhat | lots | a lot | plenty | dozens | hundreds | thousands | generously |
        not often | unless | too | at once | all at once | for once | once more""",
    Role.ROUGHLY: """
        about | around | roughly | approximately | approx | circa | ca | ~ | nearly | almost | close to | or so |
        no need | more or less |
        don't need to | do not need to | don't have to | do not have to | not have to | not need to |
        not required | not necessary | don't need | do not need | needn't | need not | might not""",
    Role.STUDENT: "student | the student | student's | small model | smaller model",
    Role.UNIT: """
        word | words | letter | letters | character | characters | step | steps | phone | phones | line | lines |
        sentence | sentences | paragraph | paragraphs | memory | ram | outputs | texts | prompts | prompt tokens |
        day | days | hour | hours | page | pages | batch | mb | gb | watts | energy | parameters""",
}

PHRASES: dict[tuple[str, ...], Role] = {
    tuple(phrase.split()): role for role, source in _SOURCE.items() for phrase in source.split("|")
}
LONGEST_PHRASE = max(map(len, PHRASES))

TIMES = {"once": 1, "twice": 2, "thrice": 3}
COUNTED = frozenset(  # what a number of calls may be called
    "ask asks call calls consultation consultations invocations lookups queries query question questions request "
    "requests time times x".split()
)
MILLISECONDS = {
    **dict.fromkeys("ms msec msecs millisecond milliseconds millis".split(), Fraction(1)),
    **dict.fromkeys("s sec secs second seconds".split(), Fraction(1000)),
    **dict.fromkeys("min mins minute minutes".split(), Fraction(60_000)),
    **dict.fromkeys("us microsecond microseconds".split(), Fraction(1, 1000)),
}
CURRENCY = {
    **dict.fromkeys("$ € £ dollar dollars euro euros usd eur gbp pound pounds".split(), Fraction(1)),
    **dict.fromkeys("cent cents ct ¢ penny pennies pence".split(), Fraction(1, 100)),
}
PREFIXES = frozenset("$ € £ usd eur gbp".split())  # currencies that may stand before the number
PERCENT = {("%",): 100, ("percent",): 100, ("per", "cent"): 100, ("pct",): 100, ("‰",): 1000, ("per", "mille"): 1000}
OUTPUTS = frozenset(  # what a limit counts by
    "output text answer response reply translation summary prompt input episode completion generation example result "
    "item pronunciation".split()
)
DETERMINERS = frozenset(
    "the a an each every any one single this that your my whole entire all its these those written".split()
)
PREPOSITIONS = frozenset("per for in during within over on of / at out".split())
