"""Rules for answers that refuse, and for answers that were never filled in: one table each, to be read and extended.

A rule is a pattern. It is looked for in the whole answer, in its first characters, or it must be the whole answer; so
a story in which someone says that he cannot help is no refusal, and a text about things to do is no placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

BEGINNING = 120
"""Characters at the begin of an answer in which a rule of the kind `begins` is looked for."""

CANNOT = r"(?:can(?:no|['’])t|can not|am (?:unable|not able) to|['’]m (?:unable|not able) to)"
TASKS = (
    r"(?:provide|fulfil|fulfill|assist|help|answer|comply|complete|access|browse|generate|create|write|engage|process"
    r"|view|see|open|discuss|share|give|support|continue|respond|perform|do that|satisfy)"
)
AI = r"(?:an? )?(?:AI|A\.I\.|artificial intelligence|(?:large )?language model|chat ?bot|virtual assistant)"


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        name: what the rule finds.
        where: whether the pattern may be anywhere, begins within the first characters, or is the whole answer.
        pattern: the pattern; case counts only where it says so. It takes time linear in the length of any answer.
        behind: it is looked for only behind the last place of this pattern, if there is one.
    """

    name: str
    where: Literal["anywhere", "begins", "whole"]
    pattern: re.Pattern[str]
    behind: re.Pattern[str] | None = None


def _rule(name: str, where: Literal["anywhere", "begins", "whole"], text: str, flags: int = re.IGNORECASE) -> Rule:
    return Rule(name, where, re.compile(text, flags))


REFUSALS: Sequence[Rule] = (
    _rule("as an AI, I", "anywhere", rf"\bas {AI}(?: (?:language )?model| assistant)?,? (?:I|my|it is|it['’]s)\b"),
    _rule("I am an AI", "begins", rf"\bI(?:['’]m| am) (?:sorry,? but I(?:['’]m| am) )?(?:just |only )?{AI}\b"),
    _rule(
        "sorry, I cannot",
        "begins",
        rf"^\W*(?:(?:I['’]m|I am) )?(?:very |so )?(?:sorry|afraid)\b.{{0,30}}?\bI ?{CANNOT}",
    ),
    _rule(
        "sorry, I have no",
        "begins",
        r"^\W*(?:(?:I['’]m|I am) )?sorry\b.{0,20}?\bI (?:do not|don['’]t) (?:have|know|under)",
    ),
    _rule(
        "unfortunately, I cannot",
        "begins",
        rf"^\W*(?:unfortunately|(?:my )?apologies|i apologi[sz]e)\b.{{0,20}}?\bI ?{CANNOT}",
    ),
    _rule("I cannot do", "begins", rf"^\W*I ?{CANNOT} {TASKS}\b"),
    _rule("as an AI (Chinese)", "begins", r"作为(?:一个|一名|一款)?(?:人工智能|AI|语言模型|大型语言模型|聊天机器人)"),
    _rule(
        "sorry, I cannot (Chinese)",
        "begins",
        r"^\W*(?:非常|很)?(?:抱歉|对不起|遗憾)[，,]?\s*(?:但)?我(?:无法|不能|没有办法)",
    ),
)

PLACEHOLDERS: Sequence[Rule] = (
    _rule(
        "[Your Name]",
        "anywhere",
        r"\[(?:your|insert|enter|fill in|my|recipient|sender|customer|client|company|employer|hiring manager|manager)"
        r"(?:['’]s)?\b[^\]\n]{0,40}\](?!\()|\[(?:name|full name|first name|last name|date|address|city|email|phone"
        r"|title|signature|position|amount)\](?!\()",
    ),
    _rule("<your name>", "anywhere", r"<(?:your|insert|enter)[ _-][\w -]{1,30}>"),
    Rule(
        "<output>",
        "anywhere",
        re.compile(r"<(?:no ?)?(?:in|out)put>", re.IGNORECASE),
        behind=re.compile(r"</(?:in|out)put>", re.IGNORECASE),
    ),
    _rule("TODO:", "anywhere", r"(?:(?:#|//|/\*|<!--)\s*|^[^\S\n]*)(?:TODO|FIXME)\b\s*(?:[:(]|$)", re.MULTILINE),
    _rule(
        "code here",
        "anywhere",
        r"(?:#|//|/\*|<!--)\s*(?:(?:add|write|put|insert) )?(?:your|the rest of the|some) code(?: goes)? here\b",
    ),
    _rule("lorem ipsum", "anywhere", r"\blorem ipsum\b"),
    _rule(
        "not available",
        "whole",
        r"\W*(?:n/?a|nan|null|undefined|tbd|todo|fixme|not available|no (?:in|out)put|placeholder)\W*",
    ),
    _rule("dots", "whole", r"[\s.…_?-]+"),
)


def found(answer: str, rules: Sequence[Rule]) -> tuple[int, int] | None:
    """Return where the first of the rules that an answer meets is met, as begin and end; None if it meets none."""
    beginning = answer[:BEGINNING]
    for rule in rules:
        if rule.where == "whole":
            place = rule.pattern.fullmatch(answer) if len(answer) <= BEGINNING else None
        else:
            start = 0
            for closed in rule.behind.finditer(answer) if rule.behind is not None else ():
                start = closed.end()
            place = rule.pattern.search(beginning if rule.where == "begins" else answer, start)
        if place is not None:
            return place.span()
    return None
