"""What a repair sets aside: blobs under new names in ``quarantine/``, which nothing reads.

Rule: the new name is durable before the old one goes.
"""

from casbank.errors import NotFoundError
from casbank.format.pack import pack_name
from casbank.storage.base import Store


def keep_pack(store: Store, pack_id: bytes, entropy: bytes) -> str:
    """Keep a pack as it is, whatever becomes of its own name; under which one. Raises NotFoundError, StoreError."""
    target = f"quarantine/pack-{pack_id.hex()}-{entropy.hex()}"
    store.copy(pack_name(pack_id), target)
    return target


def set_aside(store: Store, name: str, entropy: bytes) -> str | None:
    """Move a blob to the quarantine, and say under which name; None if it is not there. Raises StoreError."""
    target = f"quarantine/{name.replace('/', '-')}-{entropy.hex()}"
    try:
        store.copy(name, target)
    except NotFoundError:
        return None
    store.delete(name)
    return target
