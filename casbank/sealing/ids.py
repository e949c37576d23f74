"""Ids of chunks and manifest nodes (format, section 5).

Rule: chunks and nodes are hashed in different contexts, so that a chunk can never be taken for a node.
"""

from dataclasses import dataclass

from blake3 import blake3

from casbank.format.seal import IdOf
from casbank.model import Buffer

_NODE_CONTEXT = "casbank v1 manifest node id"
_CHUNK_KEY_CONTEXT = "casbank v1 chunk id key"
_NODE_KEY_CONTEXT = "casbank v1 manifest node id key"


@dataclass(frozen=True, slots=True)
class Ids:
    """How a bank names what it stores."""

    chunk: IdOf
    node: IdOf


def _chunk_id(plain: Buffer) -> bytes:
    return blake3(plain).digest()


def _node_id(plain: Buffer) -> bytes:
    return blake3(plain, derive_key_context=_NODE_CONTEXT).digest()


PLAIN_IDS = Ids(_chunk_id, _node_id)
"""Ids of an unencrypted bank: a chunk's is plain BLAKE3-256, comparable with b3sum."""


def keyed_ids(dedup_secret: bytes) -> Ids:
    """Ids of an encrypted bank: without the secret nobody can tell whether a known content is in it."""
    return Ids(_keyed(dedup_secret, _CHUNK_KEY_CONTEXT), _keyed(dedup_secret, _NODE_KEY_CONTEXT))


def _keyed(dedup_secret: bytes, context: str) -> IdOf:
    key = blake3(dedup_secret, derive_key_context=context).digest()

    def id_of(plain: Buffer) -> bytes:
        return blake3(plain, key=key).digest()

    return id_of
