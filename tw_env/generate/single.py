"""One text of a causal pair: a prompt and what is written behind it are read in one pass."""

from __future__ import annotations

import numpy as np

from tw_env.decoding.texts import Caught, IntArray, LiveTexts, Reader


class SingleText(LiveTexts):
    """As `LiveTexts` for one row whose prompts do not repeat, so that none is remembered.

    At batch 1 a pass costs nearly the same for one token as for twenty. A prompt that is read by itself, to be
    remembered, would cost each model one pass more per text; a text of ten tokens has one or two teacher calls in all.
    """

    def _catch_up(self, reader: Reader, rows: IntArray | None, again: bool = False) -> Caught:
        if not reader.prompt_unread[0]:
            return super()._catch_up(reader, rows, again)
        length = int(self.length[0])
        reader.session.rewind(self._all, np.zeros(1, np.int64))
        reader.prompt_unread[0] = False
        tokens = np.concatenate((np.array(reader.prompts[0], np.int64), self.tokens[0, :length]))[None]
        hidden = reader.session.append_unchecked(None, tokens, None)
        return Caught(hidden[:, -(length + 1) :], np.array([length + 1]))
