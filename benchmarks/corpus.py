"""Make the benchmark corpus from files that this machine already has.

    python benchmarks/corpus.py --out DIR [--seed S] [--text-mb 400] [--elf-mb 300] [--image-mib 512]

For one machine image, seed and set of sizes the result is the same byte for byte; MANIFEST.json, written last, holds
the hashes that show it:

    tree/              source text and ELF binaries under the paths they came from, exact duplicates left out
    image.img          like a disk image: the tree's files padded to 4 KiB in a shuffled order, one eighth random bytes
    image-edited.img   the image after small insertions, deletions and overwrites
    small/             JSON files of 1 to 4 KiB in 256 folders

Only roots that stay the same between two runs are read, never installed Python packages, which come and go.
"""

import argparse
import hashlib
import json
import mmap
import os
import random
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

MIB = 2**20
BLOCK_BYTES = 4096
TEXT_FILE_BYTES_MAX = 2 * MIB
ELF_FILE_BYTES_MIN = 16 * 2**10
ELF_FILE_BYTES_MAX = 64 * MIB
# One MiB of random bytes after every seven of files: what is compressed or encrypted already on a real disk.
IMAGE_RANDOM_EVERY_BYTES = 7 * MIB
SMALL_BYTES_MIN, SMALL_BYTES_MAX = 1024, 4096

ROOTS = (
    ("lib", Path("/usr/lib")),
    ("share", Path("/usr/share")),
    ("include", Path("/usr/include")),
    ("bin", Path("/usr/bin")),
    ("python", Path(sysconfig.get_path("stdlib"))),
)
SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages"})
SOURCE_SUFFIXES = {
    ".py",
    ".pyi",
    ".c",
    ".h",
    ".cc",
    ".cpp",
    ".hpp",
    ".rs",
    ".go",
    ".js",
    ".ts",
    ".java",
    ".sh",
    ".pl",
    ".pm",
}
PROSE_SUFFIXES = {
    ".txt",
    ".md",
    ".rst",
    ".html",
    ".xml",
    ".json",
    ".toml",
    ".cfg",
    ".tcl",
    ".po",
    ".css",
    ".yaml",
    ".yml",
}
TEXT_SUFFIXES = SOURCE_SUFFIXES | PROSE_SUFFIXES


@dataclass(frozen=True, slots=True)
class CorpusSizes:
    """What the corpus is made from; two equal values on one machine give equal corpora."""

    seed: str = "casbank-1"
    text_mb: int = 400
    elf_mb: int = 300
    image_mib: int = 512
    edits: int = 500
    edit_bytes_max: int = 4096
    small_count: int = 20_000


class Tally:
    """Counts and hashes what a part is made of: names and contents, in the order they were written."""

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0
        self._digest = hashlib.sha256()

    def add(self, name: str, data: bytes) -> None:
        self.files += 1
        self.bytes += len(data)
        self._digest.update(f"{name}\0{len(data)}\0".encode() + data)

    def summary(self) -> dict[str, Any]:
        return {"files": self.files, "bytes": self.bytes, "sha256": self._digest.hexdigest()}


class HashedWriter:
    """Writes one file and hashes it on the way."""

    def __init__(self, out: BinaryIO) -> None:
        self.bytes = 0
        self._out = out
        self._digest = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        self._out.write(data)
        self._digest.update(data)
        self.bytes += len(data)

    def summary(self) -> dict[str, Any]:
        return {"files": 1, "bytes": self.bytes, "sha256": self._digest.hexdigest()}


def ensure_corpus(out: Path, sizes: CorpusSizes) -> dict[str, Any]:
    """The manifest of the corpus at `out`, which is made first when it is not there yet.

    An existing corpus is used as it is, whatever its sizes: the report names them.
    """
    manifest = out / "MANIFEST.json"
    if not manifest.exists():
        make_corpus(out, sizes)
    loaded: dict[str, Any] = json.loads(manifest.read_text())
    return loaded


def make_corpus(out: Path, sizes: CorpusSizes) -> None:
    if out.exists() and any(out.iterdir()):
        # What stands there may be anything; the caller removes it, not we.
        raise SystemExit(f"{out} is not empty: remove it first")
    out.mkdir(parents=True, exist_ok=True)
    parts = {
        "tree": make_tree(out / "tree", sizes, avoid=out.resolve()),
        "image.img": make_image(out / "image.img", out / "tree", sizes),
        "image-edited.img": make_edited(out / "image-edited.img", out / "image.img", sizes),
        "small": make_small(out / "small", sizes),
    }
    manifest = {"parameters": asdict(sizes), "parts": parts}
    (out / "MANIFEST.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def make_tree(out: Path, sizes: CorpusSizes, *, avoid: Path) -> dict[str, Any]:
    """Copy files, whole folders at a time in a shuffled order, until both kinds have their size."""
    left = {"text": sizes.text_mb * 10**6, "elf": sizes.elf_mb * 10**6}
    seen: set[bytes] = set()
    tally = Tally()
    for name, path in shuffled_files(sizes.seed, avoid):
        kind = kind_of(path)
        if kind is None or left[kind] <= 0:
            continue
        data = path.read_bytes()
        key = hashlib.blake2b(data, digest_size=16).digest()
        if key in seen or len(data) > left[kind]:
            continue
        seen.add(key)
        write_file(out / name, data)
        tally.add(name, data)
        left[kind] -= len(data)
    return tally.summary() | {"missing_bytes": left}


def shuffled_files(seed: str, avoid: Path) -> Iterator[tuple[str, Path]]:
    folders = [found for label, root in ROOTS for found in folders_below(label, root, avoid)]
    random.Random(f"{seed}/tree").shuffle(folders)
    for name, folder in folders:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.is_symlink():
                yield f"{name}/{path.name}", path


def folders_below(label: str, root: Path, avoid: Path) -> Iterator[tuple[str, Path]]:
    for folder, names, _ in os.walk(root):
        here = Path(folder)
        names[:] = sorted(n for n in names if n not in SKIPPED_FOLDERS and (here / n).resolve() != avoid)
        yield str(label / here.relative_to(root)), here


def kind_of(path: Path) -> str | None:
    """'text', 'elf', or None for a file that the corpus leaves out."""
    try:
        size = path.stat().st_size
        if path.suffix.lower() in TEXT_SUFFIXES:
            return "text" if 0 < size <= TEXT_FILE_BYTES_MAX else None
        if not ELF_FILE_BYTES_MIN <= size <= ELF_FILE_BYTES_MAX:
            return None
        with path.open("rb") as file:
            return "elf" if file.read(4) == b"\x7fELF" else None
    except OSError:
        return None


def make_image(out: Path, tree: Path, sizes: CorpusSizes) -> dict[str, Any]:
    size = sizes.image_mib * MIB
    with out.open("wb") as file:
        writer = HashedWriter(file)
        for extent in image_extents(tree, sizes.seed):
            writer.write(extent[: size - writer.bytes])
            if writer.bytes == size:
                break
        while writer.bytes < size:
            # A machine with few files gets the rest as an empty disk would have it.
            writer.write(bytes(min(MIB, size - writer.bytes)))
        return writer.summary()


def image_extents(tree: Path, seed: str) -> Iterator[bytes]:
    rng = random.Random(f"{seed}/image")
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    rng.shuffle(files)
    since_random = 0
    for path in files:
        data = path.read_bytes()
        yield data + bytes(-len(data) % BLOCK_BYTES)
        since_random += len(data)
        while since_random >= IMAGE_RANDOM_EVERY_BYTES:
            yield rng.randbytes(MIB)
            since_random -= IMAGE_RANDOM_EVERY_BYTES


def make_edited(out: Path, image: Path, sizes: CorpusSizes) -> dict[str, Any]:
    """The image with edits at random places: a third each inserts, deletes, overwrites."""
    rng = random.Random(f"{sizes.seed}/edits")
    new_bytes, at = 0, 0
    with image.open("rb") as source, out.open("wb") as file:
        data = memoryview(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))
        writer = HashedWriter(file)
        for place in sorted(rng.sample(range(len(data) - sizes.edit_bytes_max), sizes.edits)):
            kind = rng.choice(("insert", "delete", "overwrite"))
            # Log-uniform: as many edits below 64 bytes as above, as in text and databases.
            length = round(sizes.edit_bytes_max ** rng.random())
            start = max(place, at)
            writer.write(data[at:start])
            fresh = b"" if kind == "delete" else rng.randbytes(length)
            writer.write(fresh)
            new_bytes += len(fresh)
            at = start if kind == "insert" else start + length
        writer.write(data[at:])
    return writer.summary() | {"edits": sizes.edits, "new_bytes": new_bytes}


def make_small(out: Path, sizes: CorpusSizes) -> dict[str, Any]:
    rng = random.Random(f"{sizes.seed}/small")
    words = [rng.randbytes(16).hex()[: 3 + number % 9] for number in range(2000)]
    tally = Tally()
    for number in range(sizes.small_count):
        name = f"{number % 256:02x}/{number:06d}.json"
        data = small_record(rng, words)
        write_file(out / name, data)
        tally.add(name, data)
    return tally.summary()


def small_record(rng: random.Random, words: list[str]) -> bytes:
    """One JSON document of about a random size between the two bounds."""
    size = rng.randint(SMALL_BYTES_MIN, SMALL_BYTES_MAX - 256)
    record = {"id": rng.getrandbits(64), "kind": rng.choice(words[:20]), "tags": rng.sample(words, 3)}
    rows: list[str] = []
    while sum(map(len, rows)) < size - 100:
        rows.append(json.dumps({"k": rng.choice(words), "v": rng.random(), "n": rng.randint(0, 9999)}))
    return (json.dumps(record)[:-1] + ', "rows": [' + ", ".join(rows) + "]}").encode()


def write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def add_size_options(parser: argparse.ArgumentParser) -> None:
    """One option a field of CorpusSizes."""
    for name, value in asdict(CorpusSizes()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--force", action="store_true", help="remove an older corpus at --out first")
    add_size_options(parser)
    options = vars(parser.parse_args())
    out, force = options.pop("out"), options.pop("force")
    if force and (out / "MANIFEST.json").exists():
        shutil.rmtree(out)
    json.dump(ensure_corpus(out, CorpusSizes(**options)), sys.stdout, indent=2, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
