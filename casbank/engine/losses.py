"""Which objects a repair has written down as lacking bytes.

Rule: that is the repair's word, in the journal; it is taken back when the object is whole again, or gone.
"""

from casbank.engine.follow import Follower
from casbank.format.loss import INCOMPLETE_PREFIX, incomplete_root


def incomplete_roots(follower: Follower) -> set[bytes]:
    """The roots of objects that are known to lack bytes."""
    with follower.read() as snapshot:
        keys = [key for key in snapshot.config_keys(INCOMPLETE_PREFIX) if snapshot.config(key) is not None]
    return {root for key in keys if (root := incomplete_root(key)) is not None}
