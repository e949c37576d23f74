"""The golden bank, read by casbank and by a stranger's reader that knows nothing but docs/format.md."""

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stranger
from blake3 import blake3
from stranger import CorruptError, RefusedError, State, StrangerBank

from casbank import Bank, CorruptionError

GOLDEN = Path(__file__).parent / "v1.0"
CHECKPOINTS_AT = [13, 19]
CHECKPOINT_AT = CHECKPOINTS_AT[-1]


@pytest.fixture
def contents() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((GOLDEN / "contents.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy: whoever opens a bank writes its index and locks into it."""
    return shutil.copytree(GOLDEN / "bank", tmp_path / "bank")


def described(info: Any, content: bytes) -> dict[str, Any]:
    """An object as contents.json has it: casbank's ObjectInfo or the stranger's StoredObject."""
    return {
        "name": info.name,
        "size": info.size,
        "etag": info.etag,
        "digest": info.digest,
        "version": info.version,
        "created_ns": info.created_ns,
        "metadata": {
            key: value if isinstance(value, str) else {"hex": value.hex()} for key, value in info.metadata.items()
        },
        "blake3": blake3(content).hexdigest(),
    }


def by_stranger(folder: Path, *, from_checkpoint: bool = False) -> list[dict[str, Any]]:
    bank = StrangerBank(folder, from_checkpoint=from_checkpoint)
    return [described(item, item.content) for item in bank.objects()]


def by_casbank(bank: Bank) -> list[dict[str, Any]]:
    return [described(info, bank.get(info.name)) for info in bank.list()]


def files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def flipped(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


# --- the stranger reads the golden bank ------------------------------------------------------------------------------


@pytest.mark.parametrize("from_checkpoint", [False, True])
def test_stranger_finds_exactly_the_contents(
    golden: Path, contents: list[dict[str, Any]], from_checkpoint: bool
) -> None:
    bank = StrangerBank(golden, from_checkpoint=from_checkpoint)
    assert bank.started_at == (CHECKPOINT_AT if from_checkpoint else 0)
    assert by_stranger(golden, from_checkpoint=from_checkpoint) == contents


def checkpoint_operations(bank: StrangerBank) -> list[Any]:
    return [operation for record in bank.records for operation in record.operations if operation[0] == 10]


def test_checkpoint_is_the_state_that_replay_reaches(golden: Path) -> None:
    bank = StrangerBank(golden)
    operations = checkpoint_operations(bank)
    assert [operation[1] for operation in operations] == CHECKPOINTS_AT
    for operation in operations:
        replayed = State()
        for record in bank.records[: operation[1]]:
            replayed.apply(record, bank.secrets)
        assert stranger.load_checkpoint(golden, bank.secrets, operation) == replayed


def test_journal_that_begins_behind_a_checkpoint(golden: Path, contents: list[dict[str, Any]]) -> None:
    """Cut the journal as section 7 allows it: both readers must begin with the checkpoint."""
    segment = golden / "journal" / f"{1:020d}.log"
    data, at = segment.read_bytes(), 0
    for _ in range(CHECKPOINT_AT):
        at += 24 + int.from_bytes(data[at + 4 : at + 8], "little")
    behind = segment.with_name(f"{CHECKPOINT_AT + 1:020d}.log")
    behind.write_bytes(data[at:])
    assert by_stranger(golden) == contents
    segment.unlink()
    assert by_stranger(golden) == contents
    with Bank.open(golden) as bank:
        assert by_casbank(bank) == contents


def frame(seq: int, body: bytes) -> bytes:
    """A frame that is valid as far as section 7 goes."""
    head = stranger.FRAME_MAGIC + (len(body) + 32).to_bytes(4, "little") + seq.to_bytes(8, "little")
    return head + blake3(head).digest()[:8] + body + blake3(body).digest()


LAST = 21
TAILS = {
    "space allocated ahead": (bytes(5000), True),
    "frame head torn": (b"\xcb\x4a\x52\x4c torn", True),
    "junk": (b"\x01" * 100, True),
    "record torn, a journal in it": (frame(LAST + 1, b"object" + frame(LAST + 2, b"inner") * 2)[:-32], True),
    "journal of another in junk": (b"\x01" * 100 + frame(LAST + 1000, b"inner"), True),
    "the same number in junk": (b"\x01" * 100 + frame(LAST + 1, b"inner"), True),
    "later frame behind damage": (b"\x01" * 100 + frame(LAST + 2, b"later"), False),
    "later frame behind a torn record": (frame(LAST + 1, b"x")[:-1] + b"?" + frame(LAST + 2, b"later"), False),
}


@pytest.mark.parametrize("tail", TAILS)
def test_tail_of_the_journal(golden: Path, contents: list[dict[str, Any]], tail: str) -> None:
    data, ignored = TAILS[tail]
    with (golden / "journal" / f"{1:020d}.log").open("ab") as segment:
        segment.write(data)
    if ignored:
        assert by_stranger(golden) == contents
        with Bank.open(golden) as bank:
            assert by_casbank(bank) == contents
    else:
        with pytest.raises(CorruptError):
            StrangerBank(golden)
        with pytest.raises(CorruptionError):
            Bank.open(golden)


def read_all(bank: Path, path: Path) -> None:
    """Read what is in the file at ``path``; a damaged checkpoint would be passed over for the one before."""
    reader = StrangerBank(bank)
    for operation in checkpoint_operations(reader):
        if operation[2] == f"checkpoints/{path.name}":
            stranger.load_checkpoint(bank, reader.secrets, operation)


@pytest.mark.parametrize("path", [path.relative_to(GOLDEN) for path in files(GOLDEN / "bank")], ids=lambda p: p.name)
def test_stranger_notices_damage(golden: Path, path: Path) -> None:
    victim = golden.parent / path
    whole = victim.read_bytes()
    # Damage in the last frame of a journal looks like a writer that died: not counted here.
    last = whole.rindex(stranger.FRAME_MAGIC) if victim.suffix == ".log" else len(whole)
    for at in {*range(0, min(last, 128), 8), *range(0, last, last // 16 + 1), last - 1}:
        flipped(victim, at)
        with pytest.raises((CorruptError, RefusedError)):
            read_all(golden, path)
        victim.write_bytes(whole)


def test_chunks_are_cut_as_the_document_says(golden: Path) -> None:
    bank = StrangerBank(golden)
    least, average, most = map(int, bank.descriptor[2][0].removeprefix("gear:").split("/"))
    depths = set()
    for item in bank.objects():
        _, _, root, _, depth, _, _, _, inline = stranger.parse_descriptor(bank.state.names[item.name][1], bank.secrets)
        if inline is None:
            found = [item.content] if depth == 0 else list(bank.chunks(root, depth))
            assert found == list(stranger.cuts(item.content, least, average, most))
            depths.add(depth)
    assert depths == {0, 1, 2}


def test_vectors_of_the_document() -> None:
    """Section 15 says what the files and the stranger say."""
    document = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    lines = document[document.index("## 15.") :].replace("00 (32 times)", "00 " * 32).splitlines()
    # Behind three spaces stands what the bytes mean.
    vectors = re.sub(r"\s", "", "".join(line.lstrip().split("   ")[0] for line in lines))
    leaf = stranger.chunk_id(b"abc") + (3).to_bytes(8, "little")
    for known in (stranger.chunk_id(b"abc"), leaf, stranger.node_id(leaf)):
        assert known.hex() in re.sub(r"\s", "", document)
    table = stranger.gear_table()
    assert f"first 16   {table[:16].hex()} " in document
    assert f"BLAKE3     {blake3(table).hexdigest()}\n" in document
    lengths = [len(chunk) for chunk in stranger.cuts(bytes(range(256)) * 4 + b"!" * 1025, 64, 256, 1024)]
    assert lengths == [222, 256, 256, 256, 1024, 35]
    data = (GOLDEN / "bank" / "journal" / f"{1:020d}.log").read_bytes()
    assert data[: 24 + int.from_bytes(data[4:8], "little")].hex() in vectors
    assert (GOLDEN / "bank" / "BANK").read_bytes()[128:].hex() in vectors
    assert blake3(data[24 : 24 + 128]).hexdigest() + "03" + "00" * 11 in vectors


# --- casbank reads it, and goes on with it ---------------------------------------------------------------------------


def test_casbank_finds_exactly_the_contents(golden: Path, contents: list[dict[str, Any]]) -> None:
    with Bank.open(golden) as bank:
        assert by_casbank(bank) == contents


@pytest.mark.parametrize("from_checkpoint", [False, True])
def test_casbank_writes_into_it_and_the_stranger_reads_that(golden: Path, from_checkpoint: bool) -> None:
    content = random.Random(1).randbytes(50_000)
    with Bank.open(golden) as bank:
        bank.put("new", content, metadata={"from": "today", "raw": b"\xfe"}, digest=True)
        bank.put("overwritten", b"third version")
        bank.delete("noise")
        bank.copy("tree", "another/tree")
        expected = by_casbank(bank)
    found = by_stranger(golden, from_checkpoint=from_checkpoint)
    assert found == expected
    names = {entry["name"]: entry for entry in found}
    assert names["new"]["blake3"] == names["new"]["digest"] == blake3(content).hexdigest()
    assert names["overwritten"]["blake3"] == blake3(b"third version").hexdigest()
    assert names["another/tree"]["etag"] == names["tree"]["etag"]
    assert "noise" not in names


# --- a bank of today -------------------------------------------------------------------------------------------------


def test_stranger_reads_a_bank_of_today(tmp_path: Path) -> None:
    generator = random.Random(2)
    written = {
        "empty": b"",
        "inline": b"x" * 2048,
        "one chunk": generator.randbytes(5000),
        "random": generator.randbytes(3_000_000),
        "text": b"".join(b"line %d, square %d\n" % (number, number**2) for number in range(60_000)),
        "zeros": bytes(1_000_000),
    }
    with Bank.create(tmp_path / "bank") as bank:
        for name, content in written.items():
            bank.put(name, content, metadata={"name": name}, digest=True)
        with bank.batch() as batch:
            for number in range(50):
                batch.put(f"batch/{number}", generator.randbytes(100 * number))
        expected = by_casbank(bank)
    found = StrangerBank(tmp_path / "bank")
    assert [described(item, item.content) for item in found.objects()] == expected
    assert {item.name: item.content for item in found.objects() if "/" not in item.name} == written
