"""What is measured: each scenario is the list of steps that every store takes on an empty bank.

for step in SCENARIOS["tree"](corpus): step.command(store, into)
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from child import Command
from peers import Store


@dataclass(frozen=True, slots=True)
class Step:
    """One timed command. `source` is what it puts, or what `restores` must bring back byte for byte."""

    name: str
    command: Callable[[Store, Path], Command]
    source: Path | None = None
    restores: bool = False
    # A step that only prepares the next one is kept in the rows, but another scenario reports it.
    reported: bool = True


def tree(corpus: Path) -> list[Step]:
    source = corpus / "tree"
    return [
        Step("tree: put", lambda store, _: store.put_folder("first", source), source),
        Step("tree: put again", lambda store, _: store.put_folder("second", source), source),
        Step("tree: get", lambda store, into: store.get_folder("second", into), source, restores=True),
    ]


def image(corpus: Path) -> list[Step]:
    source = corpus / "image.img"
    return [
        Step("image: put", lambda store, _: store.put_file("first", source), source),
        Step("image: put again", lambda store, _: store.put_file("second", source), source),
        Step("image: get", lambda store, into: store.get_file("second", source.name, into), source, restores=True),
    ]


def edits(corpus: Path) -> list[Step]:
    source, edited = corpus / "image.img", corpus / "image-edited.img"
    return [
        Step("edits: put the image", lambda store, _: store.put_file("first", source), source, reported=False),
        Step("edits: put the edited image", lambda store, _: store.put_file("second", edited), edited),
    ]


def stdin(corpus: Path) -> list[Step]:
    source = corpus / "image.img"
    return [
        Step("stdin: put", lambda store, _: store.put_stdin("first", source), source),
        Step("stdin: put again", lambda store, _: store.put_stdin("second", source), source),
    ]


def small(corpus: Path) -> list[Step]:
    source = corpus / "small"
    return [
        Step("small: put", lambda store, _: store.put_folder("first", source), source),
        Step("small: get", lambda store, into: store.get_folder("first", into), source, restores=True),
    ]


def empty(corpus: Path) -> list[Step]:  # noqa: ARG001  # every scenario is called alike
    return [Step("empty: list", lambda store, _: store.list_all())]


SCENARIOS: dict[str, Callable[[Path], list[Step]]] = {
    "tree": tree,
    "image": image,
    "edits": edits,
    "stdin": stdin,
    "small": small,
    "empty": empty,
}
