"""A page as a parser of HTML reads it: a tree of elements."""

from __future__ import annotations

from html.parser import HTMLParser
from xml.etree.ElementTree import Element, TreeBuilder

_EMPTY = ("img", "input", "link", "meta")


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tree = TreeBuilder()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tree.start(tag, {name: value or "" for name, value in attrs})
        if tag in _EMPTY:
            self.tree.end(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _EMPTY:
            self.tree.end(tag)

    def handle_data(self, data: str) -> None:
        self.tree.data(data)


def parsed(text: str) -> Element:
    """The root element; `text` of each is its own, up to what is in it."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    return parser.tree.close()
