"""One target under atheris, in a process of its own: libFuzzer ends the process with its run.

``tools/fuzz.py`` starts this as ``python -P fuzz_target.py TARGET [libFuzzer's arguments]``, with casbank and the tests
on the path.
"""

import sys

import atheris

with atheris.instrument_imports(include=["casbank"]):
    from fuzz.mutator import mutate
    from fuzz.targets import MESSAGES, TARGETS


def by_value(data: bytes, max_bytes: int, seed: int) -> bytes:
    """What libFuzzer calls for its next input."""
    return mutate(data, max_bytes, seed, atheris.Mutate)


def main(name: str, arguments: list[str]) -> None:
    """Fuzz until libFuzzer's arguments say stop. It does not return."""
    # libFuzzer starts itself anew to merge a corpus, by this word, through a shell.
    command = f"{sys.executable} -P {__file__} {name}"
    mutators = {"custom_mutator": by_value} if name in MESSAGES else {}
    atheris.Setup([command, *arguments], TARGETS[name], **mutators)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
