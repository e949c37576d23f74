"""What collections cost: against restic's prune, beside puts and gets, and by the number of chunks.

    python benchmarks/collection.py prune --work DIR [--rounds 3] [--files 1600]
    python benchmarks/collection.py beside --work DIR [--seconds 20]
    python benchmarks/collection.py curve --work DIR [--chunks 1M,4M,16M]

``prune``: both take in one corpus of whole objects, half of it is removed at random, and the space is freed: restic by
``forget --prune`` (of a snapshot of all, while one of the other half stays), casbank by ``rm`` and ``gc`` with both
graces 0. Removing and freeing is timed together, whole processes, in turns.

``beside``: puts and gets a second, with a collection in a process of its own running all the while, and without one, in
turns of some seconds.

``curve``: a bank of that many chunks whose data packs exist in the journal and the index only (marking never reads
them) and whose manifests are real; time to plan, and the largest RssAnon, sampled every 20 ms. Linux only.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from blake3 import blake3
from machine import describe
from memory_curve import watch
from table import print_table

from casbank import Bank
from casbank.engine.engine import Engine
from casbank.engine.packing import PackBuilder, make_group
from casbank.engine.rules import Reliance
from casbank.format.descriptor import Descriptor, encode_descriptor
from casbank.format.header import Kind
from casbank.format.manifest import ManifestBuilder
from casbank.format.pack import Toc, pack_name
from casbank.format.record import Packs, Put
from casbank.index.apply import Contents
from casbank.model import ChunkRow, EntryRow, EntryType, PackInfo

MIB = 2**20
UNITS = {"K": 10**3, "M": 10**6}
PACK_CHUNKS = 512
CHUNK_BYTES = 64 * 1024
OBJECT_CHUNKS = 100_000


# --- prune -------------------------------------------------------------------------------------------------------


def make_files(folder: Path, seed: int, count: int) -> list[Path]:
    """Files of 16 KiB to 4 MiB, half text-like, half random."""
    rnd = random.Random(seed)
    words = [rnd.randbytes(rnd.randrange(2, 9)).hex().encode() for _ in range(4000)]
    folder.mkdir(parents=True)
    made = []
    for number in range(count):
        size = int(16 * 1024 * 256 ** rnd.random())
        text = b" ".join(rnd.choices(words, k=size // 9 + 1))[:size]
        data = rnd.randbytes(size) if number % 2 else text
        path = folder / f"{number:04d}"
        path.write_bytes(data)
        made.append(path)
    return made


def prune(work: Path, rounds: int, count: int) -> None:
    """Free half of a corpus, side by side."""
    if shutil.which("restic") is None:
        raise SystemExit("restic is not in PATH")
    rows = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            folder = Path(scratch)
            files = make_files(folder / "files", number, count)
            gone = random.Random(number).sample(files, len(files) // 2)
            # Python starts from bytecode, as it does where pip has installed it.
            inherited = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
            environment = inherited | {"RESTIC_PASSWORD": "x", "RESTIC_CACHE_DIR": str(folder / "cache")}
            environment |= {"CASBANK_CACHE_DIR": str(folder / "cache")}
            turns = [("casbank", casbank_turn), ("restic", restic_turn)]
            for name, turn in turns if number % 2 else reversed(turns):
                rows.append((name, *turn(folder, files, gone, environment)))
    table = []
    for name in ("casbank", "restic"):
        mine = [row for row in rows if row[0] == name]
        table.append([name, *(f"{median(row[column] for row in mine):.2f}" for column in (1, 2, 3))])
    ratios = [
        mine[1] / theirs[1]
        for mine, theirs in zip(
            [row for row in rows if row[0] == "casbank"], [row for row in rows if row[0] == "restic"], strict=True
        )
    ]
    print_table(["store", "remove and free, s", "stored before, MB", "stored after, MB"], table)
    print(f"casbank / restic, by round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; median {median(ratios):.2f}")


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def stored(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def casbank_turn(folder: Path, files: list[Path], gone: list[Path], environment: dict[str, str]) -> list[float]:
    bank, program = folder / "casbank", [sys.executable, "-m", "casbank"]
    run([*program, "init", str(bank), "--keep-deleted", "0"], environment)
    run([*program, "put", str(bank), "--recursive", str(files[0].parent)], environment)
    os.sync()
    before, start = stored(bank / "packs"), time.perf_counter()
    run([*program, "rm", str(bank), *(path.name for path in gone)], environment)
    run([*program, "gc", str(bank), "--reader-grace", "0"], environment)
    return [time.perf_counter() - start, before, stored(bank / "packs")]


def restic_turn(folder: Path, files: list[Path], gone: list[Path], environment: dict[str, str]) -> list[float]:
    repository, program = folder / "restic", ["restic", "--repo", str(folder / "restic"), "--quiet"]
    run([*program, "init"], environment)
    kept = [path for path in files if path not in set(gone)]
    # All of them at once, so that what goes and what stays lie in the same packs, as in a bank.
    run([*program, "backup", "--tag", "gone", *map(str, files)], environment)
    run([*program, "backup", "--tag", "kept", *map(str, kept)], environment)
    os.sync()
    before, start = stored(repository / "data"), time.perf_counter()
    run([*program, "forget", "--tag", "gone", "--keep-tag", "kept", "--prune", "--max-unused", "5%"], environment)
    return [time.perf_counter() - start, before, stored(repository / "data")]


# --- beside ------------------------------------------------------------------------------------------------------

COLLECTOR = """
import sys
from casbank import Bank
with Bank.open(sys.argv[1]) as bank:
    while True:
        bank.collect(bank.plan_collection(0, 0))
"""


def beside(work: Path, seconds: float) -> None:
    """Puts and gets a second, with and without a collection beside them."""
    rates: dict[tuple[str, bool], list[float]] = {}
    with tempfile.TemporaryDirectory(dir=work) as scratch, Bank.create(Path(scratch) / "bank") as bank:
        rnd = random.Random(1)
        for number in range(2000):
            bank.put(f"kept/{number}", rnd.randbytes(100_000))
        for turn in range(6):
            with_collector = bool(turn % 2)
            child = None
            if with_collector:
                child = subprocess.Popen([sys.executable, "-c", COLLECTOR, str(Path(scratch) / "bank")])
            for name, work_of in (("put", put_one), ("get", get_one)):
                rates.setdefault((name, with_collector), []).append(rate(bank, rnd, work_of, seconds / 12))
            if child is not None:
                child.terminate()
                child.wait()
    rows = []
    for name in ("put", "get"):
        alone, both = median(rates[name, False]), median(rates[name, True])
        rows.append([name, f"{alone:.0f}", f"{both:.0f}", f"{both / alone:.2f}"])
    print_table(["objects of 100 kB a second", "alone", "beside a collection", "ratio"], rows)


def put_one(bank: Bank, rnd: random.Random) -> None:
    # Overwritten again and again, so that there is always something to collect.
    bank.put(f"fresh/{rnd.randrange(200)}", rnd.randbytes(100_000))


def get_one(bank: Bank, rnd: random.Random) -> None:
    bank.get(f"kept/{rnd.randrange(2000)}")


def rate(bank: Bank, rnd: random.Random, work_of: Callable[[Bank, random.Random], None], seconds: float) -> float:
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        work_of(bank, rnd)
        count += 1
    return count / (time.perf_counter() - start)


# --- curve -------------------------------------------------------------------------------------------------------

PLANNER = """
import sys, time
from casbank import Bank
with Bank.open(sys.argv[1]) as bank:
    start = time.perf_counter()
    plan = bank.plan_collection(0, 0)
    print(f"{time.perf_counter() - start:.1f} {plan.live_bytes} {plan.sweep_packs}", flush=True)
"""


def curve(work: Path, sizes: list[int]) -> None:
    """Time and memory of a plan, by the number of chunks."""
    rows = []
    for chunks in sizes:
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            place = Path(scratch) / "bank"
            synthetic(place, chunks)
            with (Path(scratch) / "said").open("w+") as said:
                child = subprocess.Popen([sys.executable, "-c", PLANNER, str(place)], stdout=said)
                sample = watch(child)
                said.seek(0)
                took = float(said.read().split()[0])
            index = sum(path.stat().st_blocks * 512 for path in (place / "index").rglob("*") if path.is_file())
            manifests = stored(place / "packs")
            rows.append(
                [
                    f"{chunks / 1e6:g} M",
                    f"{chunks // PACK_CHUNKS:,}",
                    f"{took:.1f}",
                    f"{took / chunks * 1e6:.1f}",
                    f"{sample.anonymous_bytes / MIB:.0f}",
                    f"{manifests:.0f}",
                    f"{index / 1e9:.1f}",
                ]
            )
    print_table(["chunks", "packs", "plan, s", "us a chunk", "RssAnon, MiB", "manifests, MB", "index, GB"], rows)


def synthetic(place: Path, chunks: int) -> None:
    """A bank of that many chunks, in objects of 100,000, of which every second is removed again."""
    with Bank.create(place, keep_deleted_s=0) as bank:
        engine = bank._engine
        assert engine is not None
        made, number = 0, 0
        while made < chunks:
            count = min(OBJECT_CHUNKS, chunks - made)
            synthetic_object(engine, f"object/{number:06d}", count, number)
            made, number = made + count, number + 1
        for other in range(1, number, 2):
            bank.delete(f"object/{other:06d}")


def synthetic_object(engine: Engine, name: str, count: int, seed: int) -> None:
    """One object: real manifest packs, and data packs that are named and indexed but not stored."""
    stream = blake3(f"chunks {seed}".encode()).digest(32 * count)
    ids = [stream[at : at + 32] for at in range(0, len(stream), 32)]
    nodes: list[tuple[EntryType, bytes, bytes]] = []

    def keep(kind: EntryType, node: bytes) -> bytes:
        node_id = engine.resources.ids.node(node)
        nodes.append((kind, node_id, node))
        return node_id

    builder = ManifestBuilder(keep)
    for chunk_id in ids:
        builder.add(chunk_id, CHUNK_BYTES)
    tree = builder.finish()
    infos, contents = [], {}
    pack = PackBuilder(Kind.META_PACK, engine.resources.sealing, engine.world, bytearray(64 * MIB))
    for kind, node_id, node in nodes:
        pack.add(make_group(kind, node, [(node_id, len(node))], None))
    finished = pack.finish()
    engine.resources.store.put_new(pack_name(finished.info.id), finished.parts)
    infos.append(finished.info)
    contents[finished.info.id] = finished.contents
    for start in range(0, count, PACK_CHUNKS):
        part = ids[start : start + PACK_CHUNKS]
        pack_id = os.urandom(16)
        rows = [EntryRow(EntryType.CHUNKS, 0, CHUNK_BYTES + 16, CHUNK_BYTES, 1) for _ in part]
        toc = Toc(rows, [ChunkRow(chunk_id, at, 0, CHUNK_BYTES) for at, chunk_id in enumerate(part)])
        raw = CHUNK_BYTES * len(part)
        infos.append(PackInfo(pack_id, Kind.DATA_PACK, raw, bytes(32), len(part), raw))
        seal = engine.resources.sealing.create(Kind.DATA_PACK, pack_id, bytes(16))
        contents[pack_id] = Contents(seal.header_bytes, toc)
    item = Descriptor(tree.size, tree.root, None, tree.depth, 0, 1, {}, None)
    ops = [Packs(tuple(infos)), Put(name, encode_descriptor(item))]
    engine.commit(lambda _: ops, contents, Reliance((), engine.follower.seen.seq))


def count_of(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prune", "beside", "curve"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=1600)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--chunks", default="1M,4M,16M")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for fact, value in describe(options.work).items():
        print(f"{fact}: {value}")
    match options.what:
        case "prune":
            prune(options.work, options.rounds, options.files)
        case "beside":
            beside(options.work, options.seconds)
        case "curve":
            curve(options.work, [count_of(text) for text in options.chunks.split(",")])


if __name__ == "__main__":
    main()
