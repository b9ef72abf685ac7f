"""Regular expressions of declarations: those that Java understands and that no text can make run without end.

Java tries every way to divide a text between repeats, and recurses for each repeat whose matches differ in
length: of a group with a choice, and of a dot in a group, since a letter may be one or two units of UTF-16.
`ways` bounds the first and `depth` the second by the expression alone.
"""

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from anabranch.values.names import folded

LETTERS = 10_000
"""Texts of more letters are not searched by regular expressions."""
_FEWEST = 200  # letters that every expression must be able to search
_STEPS = 2.01e7  # about a tenth of a second
_DEPTH = 4000  # calls, for which a stack of a megabyte suffices, interpreted and within Spark
_TOKEN = re.compile(
    r"(?P<repeat>(?:[*+?]|\{\d+(?:,\d*)?\})[?+]?)|(?P<open>\((?:\?(?:<?[=!]|>|<\w+>|[a-zA-Z-]*:?))?)"
    r"|(?P<close>\))|(?P<or>\|)|(?P<bare>[$^]|\\[bBAzZG])"
    r"|(?P<one>\\[pP](?:\{\w+\}|\w)|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.)",
    re.DOTALL,
)
_POSIX = "Lower|Upper|ASCII|Alpha|Digit|Alnum|Punct|Graph|Print|Blank|Cntrl|XDigit|Space"
_VARIED = re.compile(  # tokens that match letters of one and of two units of UTF-16
    rf"\.|\[\^|\\[RXDWSHVN]|\\P|\\p(?!\{{(?:{_POSIX})\}})"
    r"|\[.*(?:[^\x00-\uffff]|\\[DWSHVpP]|\\u[dD][89abAB])",
    re.DOTALL,
)


@dataclass(frozen=True)
class _Piece:
    """A sequence of parts, alternatives, one letter or none, and how often it is repeated."""

    kind: str  # "all", "any", "one", "bare"
    parts: tuple["_Piece", ...] = ()
    letters: frozenset[str] = frozenset()
    least: int = 1
    most: float = 1
    firm: bool = False
    """Whether nothing within is tried again once it has matched."""
    varied: bool = False
    """Whether one match may be of several lengths in UTF-16, such as that of a dot."""
    steep: bool = False
    """Whether Java recurses where one letter and the next differ in length."""

    @cached_property
    def empty(self) -> bool:
        """Whether it may match no letter."""
        if self.kind == "any":
            return self.least == 0 or any(part.empty for part in self.parts)
        return self.least == 0 or (self.kind == "all" and all(part.empty for part in self.parts))

    @cached_property
    def first(self) -> frozenset[str]:
        """The letters with which it may begin."""
        found = self.letters
        for part in self.parts:
            found |= part.first
            if self.kind == "all" and not part.empty:
                break
        return found

    @cached_property
    def choice(self) -> bool:
        """Whether its matches may have several lengths, in UTF-16."""
        return (
            self.varied
            or self.kind == "any"
            or any(part.choice or part.least != part.most for part in self.parts)
        )

    @cached_property
    def longest(self) -> float:
        """The most letters that it may match."""
        found = [part.longest for part in self.parts]
        once = {"all": sum(found), "any": max(found, default=0)}.get(self.kind, float(self.kind == "one"))
        return once * self.most if once else 0

    @cached_property
    def depth(self) -> float:
        """How deep Java recurses, in calls."""
        if self.kind not in ("all", "any"):
            return self.most if self.steep else 1
        inner = [part.depth for part in self.parts]
        once = 2 + (sum(inner) if self.kind == "all" else 1 + max(inner))
        return self.most * (once + 1) if self.choice and self.most > 1 and not self.firm else once

    def ways(self, letters: int, after: frozenset[str]) -> float:
        """A bound of the ways to match a text of so many letters before one of `after`."""
        again = self.first | after if self.most > 1 else after
        if self.firm:
            return self._once(letters, again)
        most = min(self.most, letters)
        if self.least == most:
            return float(self._once(letters, again) ** min(most, 30))
        apart = not self.first & after and (not self.parts or not self.choice)
        if apart and not self.empty_once:
            return 1.0
        once = self._once(letters, again)
        return float(most - self.least + 1) if once == 1 else once ** min(most, 30) * (most - self.least + 1)

    @cached_property
    def empty_once(self) -> bool:
        """Whether one repeat may match no letter."""
        return replace(self, least=1).empty

    def _once(self, letters: int, after: frozenset[str]) -> float:
        if self.kind == "any":
            found = [part.ways(letters, after) for part in self.parts]
            seen = sum(len(part.first) for part in self.parts)
            plain = len(self.first) == seen and not self.empty_once
            return min(max(found) if plain else sum(found), 1e9)
        total = 1.0
        for part in reversed(self.parts):
            total *= part.ways(letters, after)
            after = part.first | after if part.empty else part.first
        return min(total, 1e9)


def pattern_fault(text: str, groups: int = 0) -> str | None:
    """Why a regular expression cannot be used, None when it can; `groups` it must have."""
    java = re.sub(r"\\[pP](\{\w+\}|\w)", "x", text)
    java = re.sub(r"\\[hHvVRXzZG]", "x", java)
    java = re.sub(r"\(\?<(?![=!])\w+>", "(", java)
    outside = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "x", java, flags=re.DOTALL)
    if re.search(r"\(\?[a-zA-Z]*x", java):
        return "has comments or spaces that mean nothing, by the flag x: write it without"
    if "(?P" in java or "(?(" in java or re.search(r"\{(?!\d+(,\d*)?\})", outside):
        return "is not one of Java's"
    if any(re.search(r"(?<!\\)\[|&&", one[1:]) for one in re.findall(r"\\.|(\[(?:\\.|[^\]\\])*\])", text)):
        return r"has a class within a class: write one class, or \[ and \&"
    try:
        found = re.compile(java)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is not understood: {error}"
    if found.groups < groups:
        return f"has {found.groups} groups, not {groups}"
    if _read(text).depth > _DEPTH:
        return (
            "repeats what may have several lengths (a group with repeats or alternatives, a dot or [^a] in "
            "a group or in {5,}): write [ab]* for (a|b)*, .* for (.)*, .{5}.* for .{5,}, few repeats such as "
            "{0,20}, or *+ where nothing has to be tried again"
        )
    if most_letters(text) < _FEWEST:
        return (
            f"can divide a text of {_FEWEST} letters in too many ways: begin with ^, or write [^,]* for "
            ".* before a comma"
        )
    return None


@lru_cache(maxsize=4096)
def most_letters(text: str) -> int:
    """The length of the longest text that a regular expression may search, at most LETTERS."""
    part = _read(text)
    starts = part.kind == "all" and part.parts[:1] == (_bare("^"),)

    def steps(letters: int) -> float:
        walked = min(letters, max(1, part.longest))
        return max(walked, part.ways(letters, frozenset())) * (1 if starts else letters)

    low, high = 0, LETTERS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if steps(middle) <= _STEPS else (low, middle - 1)
    return low


def _bare(name: str) -> _Piece:
    return _Piece("bare", letters=frozenset({"^" if name == r"\A" else name}))


def _read(text: str) -> _Piece:
    alphabet = frozenset({*map(chr, range(256)), *text, *text.swapcase()})
    # Each open group: its alternatives, which are lists of parts, and how it was opened.
    groups: list[tuple[list[list[_Piece]], str]] = [([[]], "")]
    for token in _TOKEN.finditer(text):
        kind, found = token.lastgroup, token.group()
        parts = groups[-1][0][-1]
        if kind == "open":
            groups.append(([[]], found))
        elif kind == "or":
            groups[-1][0].append([])
        elif kind == "close":
            alternatives, opened = groups.pop()
            group = replace(_joined(alternatives), firm=opened in ("(?>", "(?=", "(?!", "(?<=", "(?<!"))
            if group.firm and opened != "(?>":  # looks around, and may be followed by any letter
                group = replace(group, parts=(*group.parts, _Piece("bare", letters=alphabet)))
            groups[-1][0][-1].append(group)
        elif kind == "repeat":
            parts[-1] = _repeated(parts[-1], found)
        elif kind == "bare":
            parts.append(_bare(found) if found in ("^", r"\A") else _Piece("bare", letters=alphabet))
        else:
            one = _Piece("one", letters=_matched(found, alphabet), varied=bool(_VARIED.match(found)))
            parts.append(replace(one, steep=found in (r"\R", r"\X")))
    return _joined(groups[0][0])


def _joined(alternatives: list[list[_Piece]]) -> _Piece:
    made = [_Piece("all", tuple(parts)) for parts in alternatives]
    return made[0] if len(made) == 1 else _Piece("any", tuple(made))


def _repeated(part: _Piece, sign: str) -> _Piece:
    bounds = sign.rstrip("+?") or sign[0]
    if bounds in "*+?":
        least, most = {"*": (0, math.inf), "+": (1, math.inf), "?": (0, 1.0)}[bounds]
    else:
        low, comma, high = bounds[1:-1].partition(",")
        least, most = int(low), float(high) if high else math.inf if comma else float(low)
    firm = len(sign) > len(bounds) and sign.endswith("+")
    greedy = len(sign) == len(bounds)
    steep = part.varied and greedy and most > 1 and (part.steep or bounds not in "*+")
    if part.least != 1 or part.most != 1 or part.firm:
        part = _Piece("all", (part,))
    return replace(part, least=least, most=most, firm=firm, steep=steep)


def _matched(token: str, alphabet: frozenset[str]) -> frozenset[str]:
    """The letters of the alphabet that one token may match, whatever the flags; all for an unknown one."""
    try:
        one = re.compile(token, re.IGNORECASE | re.DOTALL | re.ASCII)
    except re.error:
        return alphabet
    cases = {folded(letter) for letter in alphabet if one.fullmatch(letter)}  # by the flag u they are one
    return frozenset(letter for letter in alphabet if folded(letter) in cases)


def sought(text: str) -> str:
    """The shortest expression that is found in the same texts: without .* at either end, which costs most."""
    part = _read(text)
    if part.kind != "all" or pattern_fault(text) is not None:
        return text
    flags, rest = re.fullmatch(r"((?:\(\?[a-z]+\))?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    inner = re.sub(r"(?<!\\)(?:\.\*\??)+\Z", "", re.sub(r"^(?:\.\*\??)+(?![*+?{])", "", rest))
    return f"{flags}{inner}" if inner and pattern_fault(f"{flags}{inner}") is None else text
