"""What the journal keeps of one object: size, root, metadata, and small content itself (format, section 5)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from casbank import limits
from casbank.errors import CorruptionError, ErrorKind
from casbank.format import messages

_VERSION = 1
_FIELDS = 9
# Full metadata and inline content take less than 96 KiB; a reader that bounds them loosely reads what a later
# release with larger bounds writes.
DESCRIPTOR_BYTES_MAX = 256 * limits.KIB


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One version of an object.

    ``root`` is the 32-byte id of the manifest's root, or with depth 0 of the only chunk; ``digest`` BLAKE3 of the whole
    content or None; ``profile`` the number of the chunking profile in the bank descriptor; ``inline`` the content
    itself, in which case nothing else is stored of it.
    """

    size: int
    root: bytes
    digest: bytes | None
    depth: int
    profile: int
    created_ns: int
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    inline: bytes | None = None


def encode_descriptor(value: Descriptor) -> bytes:
    """msgpack of ``[1, size, root, digest, depth, profile, created ns, metadata, inline]``."""
    return messages.encode(
        [
            _VERSION,
            value.size,
            value.root,
            value.digest,
            value.depth,
            value.profile,
            value.created_ns,
            value.metadata,
            value.inline,
        ]
    )


def decode_descriptor(data: bytes) -> Descriptor:
    """Raises CorruptionError, or UnsupportedFormatError for a later version."""
    if len(data) > DESCRIPTOR_BYTES_MAX:
        raise CorruptionError(f"an object descriptor of {len(data)} bytes", kind=ErrorKind.RECORD)
    fields = messages.decode(data, "object descriptor", ErrorKind.RECORD)
    messages.check_version(fields[0], _VERSION, "object descriptor")
    if len(fields) != _FIELDS or not _plausible(*fields[1:]):
        raise CorruptionError("object descriptor has an impossible field", kind=ErrorKind.RECORD)
    return Descriptor(*fields[1:])


def _plausible(*fields: Any) -> bool:
    # Once for every put and every row of a list. Not isinstance, to which True is an int.
    size, root, digest, depth, profile, created_ns, metadata, inline = fields
    return (
        (type(size) is type(depth) is type(profile) is type(created_ns) is int)
        and 0 <= size <= limits.OBJECT_BYTES_MAX
        and 0 <= depth <= limits.MANIFEST_DEPTH_MAX
        and 0 <= profile <= 255
        and 0 <= created_ns < 2**63
        and type(root) is bytes
        and len(root) == 32
        and (digest is None or (type(digest) is bytes and len(digest) == 32))
        and type(metadata) is dict
        and (not metadata or all(type(key) is str and type(item) in (str, bytes) for key, item in metadata.items()))
        and (inline is None or (type(inline) is bytes and len(inline) == size and depth == 0))
    )
