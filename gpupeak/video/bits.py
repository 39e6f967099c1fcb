"""How are numbers read from the bits of a header?"""

from __future__ import annotations


class Bits:
    """Numbers one after another; ValueError past the end. `at` is how many bits of `text` have been read."""

    def __init__(self, data: bytes) -> None:
        self.text, self.at = bin(int.from_bytes(b"\1" + data, "big"))[3:], 0

    def u(self, count: int) -> int:
        start, self.at = self.at, self.at + count
        if self.at > len(self.text):
            raise ValueError("read past the end")
        return int("0" + self.text[start : self.at], 2)

    def ue(self) -> int:
        zeros = self.text.find("1", self.at) - self.at
        if zeros < 0:
            raise ValueError("read past the end")
        return self.u(2 * zeros + 1) - 1

    def skip(self, count: int) -> None:
        for _ in range(count):
            self.ue()
