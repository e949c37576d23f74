"""Show the main job on real files: a folder into a bank, deduplicated, listed, range-read and restored.

Run as ``python tools/quickstart.py [FOLDER]``; without a folder it takes this project's own ``docs``. Everything is
done in a temporary folder that is removed at the end. Each command is printed before it runs; the program ends with a
non-zero status if a byte comes back differently.
"""

import filecmp
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from casbank import Bank

PROJECT = Path(__file__).resolve().parent.parent


def run(*words: str) -> None:
    """Print and run one casbank command."""
    print(f"\n$ casbank {shlex.join(words)}", flush=True)
    # -P: the casbank that was installed, not the source that we may stand in.
    subprocess.run([sys.executable, "-P", "-m", "casbank", *words], check=True)


def files_below(folder: Path) -> list[Path]:
    """Regular files, as relative paths."""
    return sorted(
        (Path(base) / name).relative_to(folder)
        for base, _, names in os.walk(folder)
        for name in names
        if (Path(base) / name).is_file() and not (Path(base) / name).is_symlink()
    )


def compare(source: Path, target: Path) -> None:
    """End with a message unless both folders hold the same files, byte for byte."""
    wanted, found = files_below(source), files_below(target)
    _, different, unreadable = filecmp.cmpfiles(source, target, wanted, shallow=False)
    if wanted != found or different or unreadable:
        sys.exit(f"restored files differ: {different or unreadable or set(wanted) ^ set(found)}")
    print(f"{len(wanted)} files came back byte for byte")


def from_python(bank: Path, folder: Path) -> None:
    """The same job without a command line."""
    print("\nfrom Python:")
    first = files_below(folder)[0]
    with Bank.open(bank) as opened:
        opened.put("copies/one", folder / first, metadata={"from": str(first)})
        assert opened.get("copies/one") == (folder / first).read_bytes()
        with opened.open_object("copies/one") as file:
            file.seek(-10, os.SEEK_END)
            print(f"  the last 10 bytes of {first}: {file.read()!r}")
        print(f"  {len(opened)} objects, {opened.stats().stored_bytes} bytes in packs")


def main(folder: Path) -> None:
    """The tour."""
    with tempfile.TemporaryDirectory(prefix="casbank-quickstart-") as scratch:
        bank, restored = Path(scratch, "bank"), Path(scratch, "restored")
        run("init", str(bank))
        run("put", str(bank), "--recursive", str(folder), "--prefix", "first/")
        run("put", str(bank), "--recursive", str(folder), "--prefix", "again/")
        run("ls", str(bank), "first/", "--limit", "5", "--long")
        run("get", str(bank), f"first/{files_below(folder)[0]}", "--range", "0-79")
        restored.mkdir()
        print()
        run("get", str(bank), "--recursive", "first/", "-o", str(restored))
        compare(folder, restored / "first")
        from_python(bank, folder)
        run("info", str(bank))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else PROJECT / "docs").resolve())
