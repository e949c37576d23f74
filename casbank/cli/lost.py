"""What is said of objects that were fetched with holes."""

from casbank import limits
from casbank.cli.console import Console, printable
from casbank.cli.sizes import human_count
from casbank.engine.objectfile import ObjectFile


def summary(source: ObjectFile) -> str | None:
    """How much of what was read is lost; None if all was there."""
    holes, omitted = source.holes, source.holes_omitted_bytes
    if not holes:
        return None
    lost = sum(hole.length for hole in holes) + omitted
    where = human_count(len(holes), "hole") + (f" and more, {omitted} bytes of it not listed" if omitted else "")
    return f"{human_count(lost, 'byte')} lost in {where}; zeros stand in their place"


def show_map(console: Console, source: ObjectFile) -> None:
    """A line for each hole; nothing with ``--json``, whose document has them."""
    if not console.json:
        for hole in source.holes:
            console.complain(f"{source.name}: hole at {hole.start}, {human_count(hole.length, 'byte')}")


def map_document(source: ObjectFile) -> dict[str, object]:
    """What ``--json`` shows of the holes of one object."""
    return {
        "holes": [hole._asdict() for hole in source.holes],
        "holes_omitted_bytes": source.holes_omitted_bytes,
    }


class LostMap:
    """The holes of many objects, for one document: at most ``limits.HOLES_MAX``, behind which bytes are counted."""

    def __init__(self) -> None:
        self._holes: list[dict[str, object]] = []
        self._omitted_bytes = 0

    def add(self, source: ObjectFile) -> None:
        """All holes that were met in it."""
        holes = source.holes
        space = limits.HOLES_MAX - len(self._holes)
        name = printable(source.name)
        self._holes += [{"name": name, **hole._asdict()} for hole in holes[:space]]
        self._omitted_bytes += source.holes_omitted_bytes + sum(hole.length for hole in holes[space:])

    def document(self) -> dict[str, object]:
        """What ``--json`` shows of them."""
        return {"holes": self._holes, "holes_omitted_bytes": self._omitted_bytes}
