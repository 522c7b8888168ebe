"""Which stored tokens each token may look at, as additive attention masks, relative position bias included."""

from __future__ import annotations

import torch
from torch import Tensor

KEPT_NUMBERS = 2048**2  # larger tables of masks are built anew in every pass


class Masks:
    """Additive masks for texts of up to `places` tokens.

    Args:
        places: how many tokens a text can hold.
        dtype, device: of the keys and values.
        bias: (places, heads) what attention adds to the score of a key so many places behind the query; None for
            models that tell places in another way.

    Attributes:
        single: for each reach, the mask of one token that looks at `reach` tokens, itself the last of them:
            (1, 1 or heads, 1, reach).
    """

    def __init__(self, places: int, dtype: torch.dtype, device: torch.device, bias: Tensor | None = None) -> None:
        self._columns = torch.arange(places, device=device)
        self._bias = bias
        self._open = torch.zeros((), dtype=dtype, device=device)
        self._shut = torch.full_like(self._open, torch.finfo(dtype).min)
        heads = 1 if bias is None else bias.shape[1]
        if bias is None:
            row = torch.zeros((1, 1, 1, places), dtype=dtype, device=device)
        else:
            row = bias.flip(0).T[None, :, None]
        self.single = [row[..., places - reach :] for reach in range(places + 1)]
        self._kept: Tensor | None = None  # (places, heads, places) by position of the query
        if places * places * heads <= KEPT_NUMBERS:
            self._kept = self._build(self._columns[None])[0].transpose(0, 1).contiguous()

    def at(self, positions: Tensor, reach: int) -> Tensor:
        """Masks of tokens at `positions`, (r, w) -> (r, 1 or heads, w, reach)."""
        if self._kept is None:
            return self._build(positions)[..., :reach]
        masks = self._kept.index_select(0, positions.flatten())
        if self._bias is None:
            return masks.view(len(positions), 1, -1, masks.shape[-1])[..., :reach]
        return masks.view(*positions.shape, *masks.shape[1:]).transpose(1, 2)[..., :reach]

    def _build(self, positions: Tensor) -> Tensor:
        """(r, w) -> (r, 1 or heads, w, places)."""
        behind = positions[:, :, None] - self._columns  # (r, w, places)
        seen = self._open if self._bias is None else self._bias[behind.clamp(min=0)].movedim(-1, 1)
        return torch.where((behind < 0)[:, None], self._shut, seen)
