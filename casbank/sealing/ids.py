"""Ids of chunks and manifest nodes (format, section 5).

Rule: chunks and nodes are hashed in different contexts, so that a chunk can never be taken for a node.
"""

from dataclasses import dataclass

from blake3 import blake3

from casbank.format.seal import IdOf
from casbank.model import Buffer

_NODE_CONTEXT = "casbank v1 manifest node id"


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
