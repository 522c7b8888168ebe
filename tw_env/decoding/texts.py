"""The texts of many rows, and what the student and the teacher say about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from tw_env.decoding import asking, distributions
from tw_env.decoding.conventions import conventions_of
from tw_env.decoding.loading import Pair
from tw_env.decoding.session import NEVER, Session

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


class Reader:
    """One model over the rows' texts; it catches up with what was written only when it is asked.

    Attributes:
        prompts: as this model reads them; what an encoder reads, if there is one.
        prompt_length: (rows,) tokens that it reads before what is written, an encoder-decoder's opening included.
        before: (rows,) those of them that its session holds.
        prompt_unread: (rows,) whether the session must begin anew.
    """

    def __init__(self, model: PreTrainedModel, rows: int, longest_prompt: int, max_new_tokens: int) -> None:
        self.opening = conventions_of(model).opening
        self.session = Session(model, rows, (len(self.opening) or longest_prompt) + max_new_tokens)
        self.prompts: list[Sequence[int]] = [()] * rows
        self.prompt_length = np.zeros(rows, np.int64)
        self.before = np.full(rows, len(self.opening)) if self.opening else self.prompt_length
        self.prompt_unread = np.ones(rows, bool)

    def start(self, rows: IntArray, prompts: Sequence[Sequence[int]]) -> None:
        """New texts in these rows; nothing is computed yet."""
        for row, prompt in zip(rows.tolist(), prompts, strict=True):
            self.prompts[row] = prompt
        self.prompt_length[rows] = [len(prompt) + len(self.opening) for prompt in prompts]
        self.prompt_unread[rows] = True

    def read_prompts(self, rows: IntArray) -> None:
        """Read these rows' prompts but for the last token before what is written, which counts as text."""
        end = None if self.opening else -1  # a source is read whole: the last token is the opening's
        self.session.reset(rows, [self.prompts[row][:end] for row in rows.tolist()])
        self.prompt_unread[rows] = False


@dataclass
class Caught:
    """What a model saw while it caught up with r rows; the last token before what is written counts as text."""

    hidden: Tensor | None  # (r, w, hidden) after each token that was new to it; None without any
    counts: IntArray  # (r,) how many of the w are real


class LiveTexts:
    """Rows of text that both models read on demand.

    At every place j of a row's text the student proposes a token (`look`) and the teacher, once it has read that
    far (`read`), has its own choice and a score for the proposal. Both are kept as arrays over (rows, places), so
    that a game can look back; what lies behind a `rewind` is overwritten.

    Attributes:
        tokens, length: (rows, places) the written token ids and (rows,) how many count.
        proposal, surprise: (rows, places) the student's token at each place and its -log p_S.
        best, best_logprob: (rows, places) the teacher's choice there and its log p_T.
        score: (rows, places) log p_T of the student's proposal. kl: KL(p_S || p_T), if it is asked for.
        view: (rows, 1 + features) what the student showed last, see `distributions.student_view`.
        extras: (rows, size) the log-odds of the student's ask token, if it has one, and its last hidden state, if it is
            asked for.
        prompt_length: (rows,) tokens of the prompt, as the teacher reads it; of the source and the opening, for an
            encoder-decoder.
        teacher_tokens: tokens that the teacher has processed so far, scoring included.

    Args:
        longest_prompt: in tokens. rule_tokens: room for a rule that the student alone reads before it.
    """

    def __init__(
        self,
        pair: Pair,
        rows: int,
        longest_prompt: int,
        max_new_tokens: int,
        *,
        rule_tokens: int = 0,
        sampling: bool = False,
        top_k: int = 5,
        hidden: bool = False,
        kl: bool = False,
    ) -> None:
        self.pair, self.rows, self.sampling, self.top_k, self.with_kl = pair, rows, sampling, top_k, kl
        self.places = places = max_new_tokens + 1
        self._student = Reader(pair.student, rows, longest_prompt + rule_tokens, max_new_tokens)
        self._teacher = Reader(pair.teacher, rows, longest_prompt, max_new_tokens)
        self.prompt_length = self._teacher.prompt_length
        self._text = np.zeros((rows, places + 1), np.int64)  # the last token before what is written, and that
        self.tokens = self._text[:, 1:]
        self._flat_text = self._text.reshape(-1)  # one index is faster than two
        self._first_place = np.arange(rows) * (places + 1)
        self.length = np.zeros(rows, np.int64)
        self.proposal = np.zeros((rows, places), np.int64)
        self.surprise = np.zeros((rows, places))
        self.best = np.zeros((rows, places), np.int64)
        self.best_logprob = np.zeros((rows, places))
        self.score = np.zeros((rows, places))
        self.kl = np.zeros((rows, places))
        self.view = np.zeros((rows, 1 + distributions.width(top_k)), np.float32)
        self._last_token = pair.conventions.last
        self._asks = int(bool(pair.ask_tokens))
        shown = self._asks + (self._student.session.hidden_size if hidden else 0)
        self.extras = np.zeros((rows, shown), np.float32)
        self.teacher_tokens = 0
        self._all = np.arange(rows)
        if sampling:  # acceptance and its residual need whole distributions
            shape, device = (rows, places, pair.vocabulary), pair.student.device
            self._student_logprobs = torch.zeros(shape, device=device)
            self._teacher_logprobs = torch.zeros(shape, device=device)

    @property
    def hidden(self) -> NDArray[np.float32]:
        """(rows, size) the student's last hidden state; size 0 if it isn't asked for."""
        return self.extras[:, self._asks :]

    # ---- writing ---------------------------------------------------------------------------------------------

    def reset(
        self, rows: IntArray, prompts: Sequence[Sequence[int]], student_prompts: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Start new texts; nothing is computed yet.

        Args:
            prompts: token ids for each row. student_prompts: the same as the student reads them, a rule before them
                perhaps; their last token must be the prompt's.
        """
        self._teacher.start(rows, prompts)
        self._student.start(rows, student_prompts or prompts)
        opening = self._teacher.opening
        self._text[rows, 0] = opening[-1] if opening else [prompt[-1] for prompt in prompts]
        self.length[rows] = 0

    def forget_prompts(self) -> None:
        """Drop the prompts' remembered keys and values; what is read next does not depend on what was read before."""
        for reader in (self._student, self._teacher):
            reader.session.forget_prompts()
        self._forget(self._all)

    def _forget(self, rows: IntArray) -> None:
        for reader in (self._student, self._teacher):
            reader.prompt_unread[rows] = True

    def write(self, tokens: IntArray, continues: BoolArray) -> None:
        """Append one token (rows,) to every row; rows that do not continue are never looked at again."""
        self._flat_text[self._first_place + self.length + 1] = tokens
        self.length += 1

    def rewind(self, rows: IntArray, lengths: IntArray) -> None:
        """Keep only the first `lengths` tokens of these rows."""
        self.length[rows] = lengths
        for reader in (self._student, self._teacher):
            read = ~reader.prompt_unread[rows]
            kept = rows[read]
            ends = reader.before[kept] + lengths[read]
            reader.session.rewind(kept, np.minimum(reader.session.lengths[kept], ends))

    # ---- reading ---------------------------------------------------------------------------------------------

    def _catch_up(self, reader: Reader, rows: IntArray | None, again: bool = False) -> Caught:
        """Feed a model what it has not read of these rows (None: all); `again`, their last token at least."""
        at = slice(None) if rows is None else rows  # a slice copies nothing
        selected = self._all if rows is None else rows
        if reader.prompt_unread[at].any():
            reader.read_prompts(selected[reader.prompt_unread[at]])
        length = self.length[at]
        first = reader.session.lengths[at] - reader.before[at] + 1  # of the text, what was read before
        counts = length - first + 1
        if (counts == 1).all() and counts.size:
            tokens = self._flat_text[self._first_place[at] + length][:, None]
            return Caught(reader.session.append_unchecked(rows, tokens, None), counts)
        width = int(counts.max(initial=0))
        if again and (counts == 0).any():
            read = selected[counts == 0]
            reader.session.rewind(read, reader.session.lengths[read] - 1)
            return self._catch_up(reader, rows)
        if width == 0:
            return Caught(None, counts)
        tokens = self._text[selected[:, None], np.minimum(first[:, None] + np.arange(width), self.places)]
        return Caught(reader.session.append_unchecked(rows, tokens, counts), counts)

    @torch.inference_mode()
    def look(self, rows: IntArray | None = None, uniforms: FloatArray | None = None) -> None:
        """Let the student propose the next token of these rows (None: all).

        Args:
            uniforms: (r,) numbers in [0, 1) for the inverse CDF; sampling only.
        """
        caught = self._catch_up(self._student, rows, again=True)
        assert caught.hidden is not None
        if caught.hidden.shape[1] == 1:
            last = caught.hidden[:, 0]
        else:
            last = caught.hidden[torch.arange(len(caught.counts)), torch.from_numpy(caught.counts - 1)]
        scores = self._student.session.head(last)
        logits = scores[:, : self.pair.vocabulary]
        selected = self._all if rows is None else rows
        if self._asks:
            log_odds = asking.log_odds(scores[:, list(self.pair.ask_tokens)], logits, self.pair.ask_doubt)
            self.extras[selected, 0] = log_odds.cpu().numpy()
        if self._last_token is not None:
            logits = self._end_at_cap(logits, self.length[selected])
        if uniforms is None:
            view = distributions.student_view(logits, self.top_k)
        else:
            view, logprobs = distributions.sampled_view(logits, self.top_k, uniforms)
            at = (torch.from_numpy(selected), torch.from_numpy(self.length[selected]))
            self._student_logprobs[at] = logprobs.float()
        self._show(selected, view)
        if self.extras.shape[1] > self._asks:
            self.extras[selected, self._asks :] = last.float().cpu().numpy()

    def _end_at_cap(self, logits: Tensor, places: IntArray) -> Tensor:
        """Logits (m, vocab) at `places` (m,) with one token left for the last place, as the conventions say."""
        at = np.flatnonzero(places == self.places - 2)
        if at.size:
            ended = torch.full_like(logits[0], NEVER)
            ended[self._last_token] = 0.0
            logits = logits.index_copy(0, torch.from_numpy(at).to(logits.device), ended.expand(at.size, -1))
        return logits

    def _show(self, rows: IntArray, view: NDArray[np.floating]) -> None:
        if len(rows) == self.rows:  # all of them, in order
            self.view = np.asarray(view, np.float32)
        else:
            self.view[rows] = view
        at = (rows, self.length[rows])
        self.proposal[at] = view[:, 0]
        self.surprise[at] = view[:, -1]

    @torch.inference_mode()
    def read(self, rows: IntArray | None = None) -> None:
        """Let the teacher read these rows (None: all) to their ends and judge the proposals on the way."""
        fresh = self._teacher.prompt_unread if rows is None else self._teacher.prompt_unread[rows]
        selected = self._all if rows is None else rows
        self.teacher_tokens += int((self.prompt_length[selected[fresh]] - 1).sum())
        caught = self._catch_up(self._teacher, rows)
        if caught.hidden is None:
            return
        counts, width = caught.counts, caught.hidden.shape[1]
        self.teacher_tokens += int(counts.sum())
        which, column = np.nonzero(np.arange(width) < counts[:, None])
        owner = selected[which]
        place = self.length[owner] + 1 - counts[which] + column
        if width == 1 and len(which) == len(counts):
            states = caught.hidden[:, 0]
        else:
            states = caught.hidden[torch.from_numpy(which), torch.from_numpy(column)]
        logits = self._teacher.session.head(states)[:, : self.pair.vocabulary]
        if self._last_token is not None:
            logits = self._end_at_cap(logits, place)
        logprobs = logits.log_softmax(-1)  # (m, vocab)
        proposal = torch.from_numpy(self.proposal[owner, place]).to(logprobs.device)
        judged = distributions.teacher_view(logprobs, proposal).cpu().numpy()
        self.best[owner, place] = judged[:, 0]
        self.best_logprob[owner, place] = judged[:, 1]
        self.score[owner, place] = judged[:, 2]
        if self.sampling:
            at = (torch.from_numpy(owner), torch.from_numpy(place))
            self._teacher_logprobs[at] = logprobs.float()
            if self.with_kl:
                divergence = distributions.kl(self._student_logprobs[at], self._teacher_logprobs[at])
                self.kl[owner, place] = divergence.cpu().numpy()

    # ---- sampling --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def draw(self, rows: IntArray, places: IntArray, uniforms: FloatArray, residual: BoolArray) -> IntArray:
        """(r,) tokens from the teacher's distribution at these places; sampling only.

        Where `residual` holds, from max(p_T - p_S, 0) normalised: what speculative sampling draws from after a
        rejection (Leviathan et al. 2023, arXiv 2211.17192, Algorithm 1).
        """
        at = (torch.from_numpy(rows), torch.from_numpy(places))
        teacher, student = self._teacher_logprobs[at].double().exp(), self._student_logprobs[at].double().exp()
        rest = (teacher - student).clamp(min=0.0)
        use = torch.from_numpy(residual).to(rest.device) & (rest.sum(-1) > 0)
        weights = torch.where(use[:, None], rest, teacher)
        return distributions.inverse_cdf(weights, uniforms).cpu().numpy()
