"""Every target by its name: ``TARGETS[name](data)`` returns, or raises what was found."""

from collections.abc import Callable

from casbank.chunking import KERNEL
from fuzz import file_targets, index_targets, journal_targets, pack_targets, text_targets

Target = Callable[[bytes], None]

TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        file_targets.header,
        file_targets.seal,
        file_targets.bank,
        file_targets.key_slot,
        file_targets.keyring,
        file_targets.recovery,
        file_targets.record,
        file_targets.block,
        pack_targets.entry,
        pack_targets.toc,
        pack_targets.trailer,
        pack_targets.manifest,
        pack_targets.descriptor,
        pack_targets.msgpack,
        pack_targets.compression,
        journal_targets.frames,
        journal_targets.frame_head,
        journal_targets.mark,
        index_targets.index_rows,
        index_targets.marker,
        text_targets.bank_url,
        text_targets.profile,
        text_targets.byte_range,
        text_targets.byte_count,
    )
}

if KERNEL == "native":  # where there was no compiler, there are no two to compare
    from fuzz.kernel_targets import kernel

    TARGETS["kernel"] = kernel

# Their input is one msgpack value, and is changed as such now and then (mutator.py).
MESSAGES = frozenset({"bank", "key_slot", "keyring", "recovery", "record", "block", "descriptor", "msgpack"})
