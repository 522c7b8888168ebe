"""Text metrics in [0, 1], higher is better: chrF, BLEU, ROUGE-1, -2 and -L, exact match and edit rate.

`metric(name)` scores one text, which is what a reward needs. `corpus(name, texts, references)` scores many
texts the way papers report them: BLEU, chrF and the edit rate pool their counts over the corpus, which is
*not* the mean over the texts.

chrF and BLEU come from sacrebleu and ROUGE from rouge-score. They are imported at the first use, so that
`exact` and `edit` work without the extra `metrics`.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import NamedTuple

Metric = Callable[[str, list[str]], float]
"""Takes a text and its references; returns a score in [0, 1]."""


class CorpusScore(NamedTuple):
    """A corpus score in [0, 1] and the signature: every setting that another person needs to repeat it."""

    score: float
    signature: str

    def __str__(self) -> str:
        """Percent and signature, the form in which machine translation reports scores."""
        return f"{100 * self.score:.2f} ({self.signature})"


def metric(name: str) -> Metric:
    """The sentence-level metric called `name`; the same object at every call.

    * `chrf`: character n-gram F-score, n up to 6, beta 2, best reference (Popovic, WMT 2015).
    * `bleu`: sentence BLEU, 13a tokens, exponential smoothing, orders that the text is too short for left out
      (Papineni et al., ACL 2002; Post, WMT 2018).
    * `rouge1`, `rouge2`, `rougeL`: F1 of common words, of common word pairs and of the longest common subsequence,
      Porter stems, best reference (Lin, 2004). Their tokens are runs of a-z and 0-9, so they are of no use for other
      scripts.
    * `exact`: 1 if the text equals a reference, runs of white space counting as one blank.
    * `edit`: 1 - edits / reference length in words split at white space, closest reference, never below 0.
      Edits are insertions, deletions and substitutions (Levenshtein, 1966): where no text is worse than
      empty, 1 - `edit` is the word (or phone) error rate.

    Names are read without regard to case and hyphens: `chrF`, `BLEU` and `ROUGE-L` are fine.

    Raises:
        ValueError: unknown name.
        ImportError: the metric needs a package of the extra `metrics` that is not installed.
    """
    return _sentence(_canonical(name))


def corpus(name: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> CorpusScore:
    """Score of all `texts` together, with its signature.

    Args:
        name: as in `metric`.
        texts: one text per prompt.
        references: for each text its references; their number may differ from text to text.

    Raises:
        ValueError: unknown name, nothing to score, lengths that differ, or a text without a reference.
        ImportError: as in `metric`.
    """
    name = _canonical(name)
    if len(texts) != len(references) or not texts:
        raise ValueError(
            f"Expected one list of references per text, and a text; got {len(references)} and {len(texts)}."
        )
    bare = next((i for i, accepted in enumerate(references) if not accepted), None)
    if bare is not None:
        raise ValueError(f"Expected at least one reference for every text, got none for text {bare}.")
    if name in ("bleu", "chrf"):
        return _sacrebleu_corpus(name, texts, references)
    if name == "edit":
        counts = [closest(text, accepted) for text, accepted in zip(texts, references, strict=True)]
        edits, length = sum(e for e, _ in counts), sum(n for _, n in counts)
        return CorpusScore(max(0.0, 1 - edits / length), "edit|agg:corpus|tok:whitespace|refs:closest")
    score = _sentence(name)
    mean = sum(score(text, list(accepted)) for text, accepted in zip(texts, references, strict=True)) / len(texts)
    if name in ROUGE:
        return CorpusScore(mean, f"{ROUGE[name]}|agg:mean|stem:yes|refs:best|version:{version('rouge_score')}")
    return CorpusScore(mean, "exact|agg:mean|case:mixed|space:normalised|refs:any")


def edit_distance(hypothesis: Sequence[str], reference: Sequence[str]) -> int:
    """Insertions, deletions and substitutions between two token sequences (Levenshtein, 1966)."""
    row = list(range(len(reference) + 1))  # distance of the prefix read so far to every prefix of the reference
    for i, token in enumerate(hypothesis, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(reference, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (token != other))
    return row[-1]


def closest(text: str, references: Sequence[str]) -> tuple[int, int]:
    """Edits to the reference with the lowest edit rate, and that reference's length; tokens stand between blanks."""
    tokens = text.split()
    counts = [(edit_distance(tokens, wanted), max(1, len(wanted))) for wanted in map(str.split, references)]
    return min(counts, key=lambda count: count[0] / count[1])


def _canonical(name: str) -> str:
    key = name.lower().replace("-", "").replace("_", "") if isinstance(name, str) else name
    if key not in _BUILDERS:
        raise ValueError(f"Expected the metric to be one of {', '.join(METRICS)}, got {name!r}.")
    return key


@cache
def _sentence(name: str) -> Metric:
    return _BUILDERS[name]()


def _extra(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise ImportError(
            f"This metric needs the package {package}, which is not installed; add the extra `metrics`: "
            "pip install 'training-wheels[metrics]'. The metrics `exact` and `edit` need no extra."
        ) from error


def _unit(score: float) -> float:
    return min(1.0, max(0.0, float(score)))  # rounding inside the libraries may leave [0, 1] by 1e-16


def _chrf() -> Metric:
    scorer = _extra("sacrebleu.metrics").CHRF()
    return lambda text, references: _unit(scorer.sentence_score(text, references).score / 100)


def _bleu() -> Metric:
    scorer = _extra("sacrebleu.metrics").BLEU(effective_order=True)
    return lambda text, references: _unit(scorer.sentence_score(text, references).score / 100)


def _rouge(name: str) -> Metric:
    scorer = _extra("rouge_score.rouge_scorer").RougeScorer([name], use_stemmer=True)
    return lambda text, references: _unit(scorer.score_multi(references, text)[name].fmeasure)


def _exact() -> Metric:
    def score(text: str, references: list[str]) -> float:
        return float(text.split() in [reference.split() for reference in references])

    return score


def _edit() -> Metric:
    def score(text: str, references: list[str]) -> float:
        edits, length = closest(text, references)
        return max(0.0, 1 - edits / length)

    return score


def _sacrebleu_corpus(name: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> CorpusScore:
    metrics = _extra("sacrebleu.metrics")
    scorer = metrics.CHRF() if name == "chrf" else metrics.BLEU(force=True)  # no warning about tokenised text
    most = max(map(len, references))
    # sacrebleu wants one list per reference position, with None where a text has fewer references than others
    columns = [[accepted[i] if i < len(accepted) else None for accepted in references] for i in range(most)]
    score = scorer.corpus_score(list(texts), columns).score / 100
    return CorpusScore(_unit(score), str(scorer.get_signature()))


ROUGE = {"rouge1": "rouge1", "rouge2": "rouge2", "rougel": "rougeL"}  # our key -> the name that rouge-score has
_BUILDERS: dict[str, Callable[[], Metric]] = {
    "chrf": _chrf,
    "bleu": _bleu,
    **{key: partial(_rouge, name) for key, name in ROUGE.items()},
    "exact": _exact,
    "edit": _edit,
}
METRICS = ("chrf", "bleu", "rouge1", "rouge2", "rougeL", "exact", "edit")
"""The names that `metric` and `corpus` know."""
