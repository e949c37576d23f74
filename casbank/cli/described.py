"""Objects as JSON. Times are ISO 8601 in UTC; metadata that is bytes is ``{"base64": "..."}``."""

import base64

from casbank.cli.sizes import moment
from casbank.model import ObjectInfo


def described(info: ObjectInfo) -> dict[str, object]:
    """What ``--json`` shows of an object; ``removed`` of a removed version only."""
    removed = {} if info.removed_ns is None else {"removed": moment(info.removed_ns).isoformat()}
    return {
        "name": info.name,
        "size": info.size,
        "etag": info.etag,
        "digest": info.digest,
        "version": info.version,
        "created": info.created.isoformat(),
        "metadata": {key: _value(value) for key, value in info.metadata.items()},
        **removed,
    }


def _value(value: str | bytes) -> object:
    return value if isinstance(value, str) else {"base64": base64.b64encode(value).decode()}
