"""Find personal data and secrets in a text, each with a check: of its domain, its digits, its country's numbers.

Only the kinds and the number are kept, never the values. Kinds: email, phone (the numbers that the package phonenumbers
holds valid), card (Luhn), iban (ISO 7064), ssn (of the United States), secret (`runtime/redaction.py`, private keys).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from ....runtime.redaction import SHAPES

EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@((?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24})(?![\w-])")
DUMMY = re.compile(
    r"(?:^|\.)(?:example|test|invalid|localhost)$|(?:^|\.)(?:example|e?mail|domain|company|website|test|yourdomain|xyz|abc)"
    r"\.(?:com|org|net|edu)$",
    re.IGNORECASE,
)
"""Domains of examples: those of RFC 2606, and others that stand for any."""
DIGITS = re.compile(r"(?<![\w.,])[+(]?\d[\d ().\-]{6,}\d")
PHONE = re.compile(
    r"(?<![\w.,/$€£=+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[ .-]\d{4})(?![\w/%]|[.,-]\d)"
)
"""A number with the code of a country, or in the form of North America."""
CARD = re.compile(r"(?<![\w.,-])[3-6]\d{3}(?:[ -]?\d){9,15}(?![\w-]|[.,]\d)")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
SSN = re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
SAMPLES = frozenset({"123-45-6789", "078-05-1120", "219-09-9999", "111-11-1111"})
"""Numbers of advertisements and examples."""
KEY = re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY(?: BLOCK)?-----")


def is_installed() -> bool:
    """Return whether the package is installed."""
    return find_spec("phonenumbers") is not None


@dataclass(frozen=True)
class Finding:
    """A place in a text.

    Attributes:
        kind: what was found: email, phone, card, iban, ssn or secret.
        start: index of its first character.
        stop: index behind its last character.
    """

    kind: str
    start: int
    stop: int


def findings(text: str) -> list[Finding]:
    """Return what is found in a text, in order; of two that overlap the first."""
    found = sorted(_all(text), key=lambda each: (each.start, -each.stop))
    kept: list[Finding] = []
    for each in found:
        if not kept or each.start >= kept[-1].stop:
            kept.append(each)
    return kept


def _all(text: str) -> Iterator[Finding]:
    if "@" in text:
        for place in EMAIL.finditer(text):
            if not DUMMY.search(place[1]):
                yield Finding("email", *place.span())
    for pattern in (SHAPES, KEY):
        for place in pattern.finditer(text):
            yield Finding("secret", *place.span())
    if DIGITS.search(text):
        for place in PHONE.finditer(text):
            if _is_phone(place[0]):
                yield Finding("phone", *place.span())
        for place in CARD.finditer(text):
            if is_card(place[0]):
                yield Finding("card", *place.span())
        for place in SSN.finditer(text):
            if place[0] not in SAMPLES:
                yield Finding("ssn", *place.span())
    for place in IBAN.finditer(text):
        if is_iban(place[0]):
            yield Finding("iban", *place.span())


def _is_phone(text: str) -> bool:
    """Return whether a number is one that its country gives out; without a code it is of North America."""
    import phonenumbers

    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(text, "US")))
    except phonenumbers.NumberParseException:
        return False


def is_card(text: str) -> bool:
    """Return whether the digits of a text are a number of a payment card: 13 to 19, not few alike, and Luhn's sum."""
    digits = [int(each) for each in text if each.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) < 4:
        return False
    doubled = [2 * each - 9 * (each > 4) for each in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_iban(text: str) -> bool:
    """Return whether a text is an account number by its check digits (ISO 7064, mod 97-10)."""
    plain = text.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(each, 36)) for each in plain[4:] + plain[:4])) % 97 == 1


def masked(text: str) -> str:
    """Return a text with each value that is found as its first character and three stars."""
    for each in reversed(findings(text)):
        text = f"{text[: each.start]}{text[each.start]}***{text[each.stop :]}"
    return text
