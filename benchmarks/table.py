"""Markdown tables: print(markdown_table(("size", "MB/s"), [("1 GiB", "250")])), or line by line as rows come in."""

from collections.abc import Iterable, Iterator, Sequence


def table_lines(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The first column to the left, the others, being figures, to the right."""
    rule = ["---"] + ["---:"] * (len(headings) - 1)
    yield line(headings)
    yield line(rule)
    for row in rows:
        yield line(row)


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(table_lines(headings, rows))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Show each row when it is there: some take minutes."""
    for text in table_lines(headings, rows):
        print(text, flush=True)
