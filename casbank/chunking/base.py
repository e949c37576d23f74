"""What every chunker owes its callers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # profile.py makes the chunkers, so here it can only be named
    from casbank.chunking.profile import Profile
    from casbank.model import Buffer


class Chunker(Protocol):
    """Cuts byte streams by one profile; may be shared by any number of streams and threads."""

    @property
    def profile(self) -> Profile:
        """The profile it cuts by."""

    def cut(self, data: Buffer, *, final: bool) -> list[int]:
        """Lengths in bytes of the chunks at the start of ``data``, in order.

        The bytes behind their sum are not decided yet, and fewer than ``profile.max_bytes``: the caller passes them
        again at the start of the next call, with more bytes behind them. With ``final`` everything is cut, and the
        last chunk may be shorter than ``profile.min_bytes``. No length is 0; no data gives no chunks.

        MUST NOT depend on how the input was split into calls. Undecided bytes are scanned again, so blocks should be
        several times ``profile.max_bytes``.
        """
