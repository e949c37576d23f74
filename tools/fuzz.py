"""Fuzz casbank's decoders, and the chunking kernel against its twin (docs/reliability.md, "Fuzzing").

    python tools/fuzz.py TARGET|all --seconds 60 [--save]      needs atheris: pip install 'casbank[fuzz]'
    python tools/fuzz.py TARGET --input FILE                   one input, without atheris: how a finding is reproduced

Each target runs in a process of its own, from the corpus in tests/fuzz/corpus. What it finds new stays in a temporary
folder; with --save, the smallest inputs that add coverage are added to the corpus. A finding is kept in
build/fuzz/TARGET, and the command that reproduces it is printed. Ends with 1 if there was one, 2 without atheris.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
TESTS = PROJECT / "tests"
PATHS = [str(PROJECT), str(TESTS), str(TESTS / "format")]
sys.path[:0] = PATHS

from fuzz.targets import TARGETS  # noqa: E402  # found by the line above

CORPUS = TESTS / "fuzz" / "corpus"
FINDINGS = PROJECT / "build" / "fuzz"
# Every interesting case of these formats fits; longer inputs cost speed and are not kept.
INPUT_BYTES_MAX = 2048
# Beside what tracemalloc sees: memory of C libraries. The fuzzer itself takes some 70 MiB.
MEMORY_MIB_MAX = 512
ONE_INPUT_S_MAX = 10


def libfuzzer(target: str, *arguments: str) -> int:
    """Run one target in a process of its own; libFuzzer's exit code."""
    tokens = f"-dict={TESTS / 'fuzz' / 'tokens.dict'}"
    limits = (f"-max_len={INPUT_BYTES_MAX}", f"-rss_limit_mb={MEMORY_MIB_MAX}", f"-timeout={ONE_INPUT_S_MAX}")
    # -P: a script's own folder comes first otherwise, and has a fuzz.py that is not tests/fuzz.
    command = [sys.executable, "-P", str(PROJECT / "tools" / "fuzz_target.py"), target, tokens, *limits, *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)}
    return subprocess.run(command, env=environment, check=False).returncode


def findings(target: str) -> set[tuple[Path, int]]:
    """What was found by now, and when: a run that finds the same again writes the same file."""
    return {(path, path.stat().st_mtime_ns) for path in (FINDINGS / target).glob("*")}


def fuzz(target: str, seconds: int, *, save: bool) -> bool:
    """Fuzz one target; whether it held."""
    saved, before = CORPUS / target, findings(target)
    (FINDINGS / target).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="casbank-fuzz-") as scratch:
        prefix = f"-artifact_prefix={FINDINGS / target}/"
        code = libfuzzer(target, f"-max_total_time={seconds}", prefix, "-print_final_stats=1", scratch, str(saved))
        if save and code == 0:
            libfuzzer(target, "-merge=1", str(saved), scratch)
    for path, _ in sorted(findings(target) - before):
        print(f"\nfound in {target}; reproduce it with\n    python tools/fuzz.py {target} --input {path}", flush=True)
    return code == 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fuzz casbank's decoders, and its kernel against its twin.")
    parser.add_argument("target", choices=["all", *TARGETS])
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--save", action="store_true", help="add what covers more to tests/fuzz/corpus")
    parser.add_argument("--input", type=Path, metavar="FILE", help="run the target once over this file; no atheris")
    arguments = parser.parse_args()
    if arguments.input and arguments.target == "all":
        parser.error("--input is for one target")
    return arguments


def main() -> int:
    """Fuzz, or reproduce."""
    arguments = parse()
    if arguments.input:
        TARGETS[arguments.target](arguments.input.read_bytes())
        print(f"{arguments.target} holds for {arguments.input}")
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("fuzzing needs atheris, which is not installed: pip install 'casbank[fuzz]'", file=sys.stderr)
        return 2
    names = list(TARGETS) if arguments.target == "all" else [arguments.target]
    held = [fuzz(name, arguments.seconds, save=arguments.save) for name in names]
    print(f"\n{sum(held)} of {len(held)} targets held for {arguments.seconds} s each")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
