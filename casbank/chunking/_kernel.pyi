from casbank.model import Buffer

def cut(
    data: Buffer, table: bytes, sizes: tuple[int, int, int], masks: tuple[int, int], final: bool, /
) -> list[int]: ...
