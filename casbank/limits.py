"""Every bound of casbank, with its unit last in its name and its reason beside it.

A length that comes from stored bytes is compared with one of these before any memory is allocated for it.
"""

KIB = 2**10
MIB = 2**20
GIB = 2**30

# --- objects -----------------------------------------------------------------------------------------------------

# S3 allows 1,024 bytes a key; a bank must be able to hold what a bucket held.
NAME_BYTES_MAX = 1024
# The size of metadata travels in every record and every list; S3 allows 2 KiB, tags and small sidecars want more.
METADATA_BYTES_MAX = 64 * KIB
METADATA_KEYS_MAX = 1024
# One put of so little is one record and one fdatasync, without a pack.
INLINE_BYTES_MAX = 2 * KIB
# In a batch small contents share a compressed group; below this size a chunk's table rows would outweigh the content.
INLINE_BATCH_BYTES_MAX = 128

# --- chunks, entries, packs --------------------------------------------------------------------------------------

# The window of the gear hash is 64 bytes: no chunk may be shorter (but the last of an object).
CHUNK_BYTES_MIN = 64
# The ``archive`` preset's maximum; a fixed profile may ask for as much.
CHUNK_BYTES_MAX = 8 * MIB
# A range read opens a whole group, and the index keeps this number in 16 bits.
GROUP_CHUNKS_MAX = 4096
ENTRY_RAW_BYTES_MAX = CHUNK_BYTES_MAX
# zstd's and the tag's overhead on incompressible input is far below this.
ENTRY_STORED_BYTES_MAX = ENTRY_RAW_BYTES_MAX + 64 * KIB
# Others pack 16-64 MiB; object storage wants at least 5 MiB a part.
PACK_BYTES_TARGET = 32 * MIB
PACK_BYTES_MAX = 1 * GIB
PACK_ENTRIES_MAX = 2**20
# Bounds the table that a reader holds while it indexes one pack: 44 bytes a row.
PACK_CHUNKS_MAX = 2**20
# A pack of tiny chunks is closed at this many, so that the table stays small beside the pack.
PACK_CHUNKS_TARGET = 2**17

# --- manifests ---------------------------------------------------------------------------------------------------

NODE_ROWS_MIN = 128
NODE_ROWS_MAX = 2048
# Nine bits: a node of 128 + 512 rows on average.
NODE_BOUNDARY_MASK = 0x1FF
# 128 rows a node at the least: eight levels reach further than any object will.
MANIFEST_DEPTH_MAX = 8
OBJECT_BYTES_MAX = 2**63 - 1

# --- journal -----------------------------------------------------------------------------------------------------

# A record is read and checked whole, so it must fit in memory several times.
RECORD_BYTES_MAX = 64 * MIB
RECORD_OPS_MAX = 2**20
# What compression saves below this is eaten by its frame.
RECORD_COMPRESS_BYTES_MIN = 512
# A group commit stops taking in further callers here: latency for the first, bounded memory for all.
GROUP_COMMIT_BYTES_MAX = 8 * MIB
# Large enough that growing is rare, small enough that an empty bank costs nothing that anyone notices.
SEGMENT_GROW_BYTES = 1 * MIB
SEGMENT_BYTES_MAX = 64 * MIB
# A checkpoint is written when the journal behind the last one exceeds this, or half of that checkpoint: the work of
# checkpoints stays in proportion to what was written.
CHECKPOINT_JOURNAL_BYTES_MIN = 64 * MIB
# Changes are sorted in runs of about this much memory before they are merged.
CHECKPOINT_RUN_BYTES = 32 * MIB
CHECKPOINT_BLOCK_BYTES = 1 * MIB
# One row (a descriptor with full metadata) may exceed the target by itself.
CHECKPOINT_BLOCK_BYTES_MAX = 4 * MIB

# --- keys --------------------------------------------------------------------------------------------------------

# A key slot is written by whoever can write the store: what it asks for is bounded before any work.
ARGON2_MEMORY_KIB_MAX = 4 * 2**20
ARGON2_ITERATIONS_MAX = 64
ARGON2_LANES_MAX = 64
# Each passphrase slot costs a derivation to try.
KEY_SLOTS_MAX = 32
# Files that are looked at in search of them: whoever can write the store can leave any number there.
KEY_FILES_MAX = 1024
KEY_LABEL_BYTES_MAX = 255
# What a key management service returns for 32 wrapped bytes is some hundred bytes.
KEY_TOKEN_BYTES_MAX = 64 * KIB
KEY_SLOT_BYTES_MAX = 128 * KIB
# Less cannot be a random key; more is somebody's disk image.
KEY_FILE_BYTES_MIN = 32
KEY_FILE_BYTES_MAX = 1 * MIB
KEY_COMMAND_S_MAX = 60
# A rotation every day for ten years; each costs some 50 bytes of every keyring.
KEY_EPOCHS_MAX = 4096
KEYRING_BYTES_MAX = 1 * MIB
# Keyrings that are read at most: official ones, and what rotations left that lost a race or died.
KEYRINGS_MAX = 2 * KEY_EPOCHS_MAX

# --- leases and collection ---------------------------------------------------------------------------------------

# Karbor's defaults.
LEASE_TTL_S_DEFAULT = 600
# A year: who needs longer renews.
LEASE_TTL_S_MAX = 366 * 86_400
LEASE_TEXT_BYTES_MAX = 1 * KIB
# Two hosts' wall clocks may differ by so much before a living lease is fenced by mistake; which costs work, never data.
LEASE_MARGIN_S = 300
# What one LEASE operation pins at most; more goes into the next one.
LEASE_PINS_MAX = 4096
# A put that has read so much holds a lease and pins what it relies on; one that has read less reads its sources again.
UNPINNED_BYTES_MAX = 64 * MIB
# A stream of no more than this is kept in memory until it is committed, and needs no lease.
STREAM_KEPT_BYTES_MAX = 8 * MIB
READER_GRACE_S_DEFAULT = 3600
# Packs that are named in one SWEEP record: other writers wait while its rows are removed.
SWEEP_PACKS_MAX = 32
SWEEP_CHUNKS_MAX = 2**15
# Rewriting is worth it from this share of dead bytes on, and goes on until no more than that share is left. With a
# third dead of each pack of three large objects, 0.40 would leave two thirds of a bank of which half was removed.
REWRITE_DEAD_SHARE = 0.25
DEAD_SHARE_LEFT = 0.05
# So many small packs must fit into one before they are merged.
MERGE_PACKS_MIN = 8
# An orphan is swept when it is older than this; more of them than that share of all packs is a wrong journal.
ORPHAN_AGE_S = 86_400
ORPHAN_SHARE_MAX = 0.10

# --- index -------------------------------------------------------------------------------------------------------

# LMDB keys end at 511 bytes; longer names share a bucket.
NAME_KEY_BYTES_MAX = 480
# Sparse: costs address space, no disk.
INDEX_MAP_BYTES_DEFAULT = 64 * GIB
INDEX_READERS_MAX = 512
# Rows of a list that are read in one transaction: an old transaction keeps pages from being used again.
LIST_PAGE_ROWS = 1000

# --- writer and reader -------------------------------------------------------------------------------------------

# A submit to a pool costs some 36 us: batches, never chunks.
BATCH_BYTES = 4 * MIB
# Neighbouring new chunks are compressed together up to this size; docs/performance.md has the measurement.
GROUP_BYTES_TARGET = 256 * KIB
# In groups of 256 KiB level 2 stores some 3 % less than level 1, and both are faster than what a disk takes in; level 3
# adds 1 % for 13 % of the speed (docs/performance.md).
COMPRESSION_LEVEL_DEFAULT = 2
# A session publishes its packs when it has this many, or has seen this many new chunks: what it must remember of
# itself stays the same for 1 GiB and for 100 GiB.
SESSION_PACKS_MAX = 16
SESSION_CHUNKS_MAX = 2**17
# Ranges of one pack whose gap is smaller are fetched as one.
COALESCE_GAP_BYTES = 128 * KIB
COALESCE_BYTES_MAX = 4 * MIB
# What was opened lately, so that neighbours in one group are opened once.
ENTRY_CACHE_BYTES = 16 * MIB
# What is read of a hole at once, however long it is.
HOLE_PIECE_BYTES = 1 * MIB
# A map of so many takes some 10 MiB; each hole of one chunk, they are 4 GiB that were lost here and there.
HOLES_MAX = 2**16
# A recursive put commits when it has either.
RECURSIVE_BATCH_OBJECTS = 10_000
RECURSIVE_BATCH_BYTES = 16 * MIB

KEEP_DELETED_S_DEFAULT = 86_400

# --- fsck --------------------------------------------------------------------------------------------------------

# A wholly destroyed bank must not fill the memory of who looks at it.
FINDINGS_MAX = 100_000
FINDING_NAMES_MAX = 100_000
# What is read of a pack at once: large enough for a disk, and one for each thread.
FSCK_READ_BYTES = 8 * MIB
# A check that was interrupted is gone on with for so long; afterwards the disk may have changed its mind.
FSCK_RESUME_S_MAX = 7 * 86_400
# Chunks of packs that are live no more in which a repair looks for what it misses: some 500 MB of Python objects.
SPARE_CHUNKS_MAX = 2**20
# Ranges of lost records that are asked of the index: a command line is not endless.
RESCUE_RANGES_MAX = 1000
# BANK, slots and keyrings whose flipped bit is looked for: each bit is tried, so the work grows with the square. A slot
# has some 250 bytes, a keyring of 300 epochs has so many.
MEND_BYTES_MAX = 16 * KIB
# What is hashed for it in one run, all such files together: some five seconds, whatever somebody put into keys/.
MEND_HASHED_BYTES_MAX = 8 * GIB
