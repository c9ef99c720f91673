"""Personal data in texts: e-mail addresses, telephone numbers, payment cards, bank accounts, access keys.

    personal(texts)             # FINDINGS, one a kind: personal_email, personal_phone, …
    masked(texts, ("email",))   # the texts with <EMAIL> in place of each, and how many

What looks like one must also prove to be one: cards by issuer, length and Luhn's sum, accounts by country, length and
mod 97, telephone numbers by their country's plan (phonenumbers); so neither a long number in a proof nor an example.com
is taken for a person's. Polars screens all texts; Python looks at those few that the screen leaves, each once.

National telephone numbers are known for the United States and Canada alone; others by their + form. Deliberately
absent: names and addresses of people, which no pattern tells from those of authors and places.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from warehouse.curation.findings import FINDINGS, finding

KINDS = ("key", "email", "iban", "card", "phone")
"""In this order: an address or a key is taken out whole before digits in it could pass for a number."""
REASONS = {
    "personal_email": "An e-mail address. Masked as <EMAIL>; set `email` in the policy to reject, warn or off.",
    "personal_phone": "A telephone number. Masked as <PHONE>; set `phone` in the policy to reject, warn or off.",
    "personal_card": "A payment card's number. Masked as <CARD>; set `card` in the policy to reject, warn or off.",
    "personal_iban": "A bank account's number. Masked as <IBAN>; set `iban` in the policy to reject, warn or off.",
    "personal_key": "An access key or a private key. Masked as <KEY>; tell its owner, for it must be revoked.",
}
_RESERVED = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|org|net|edu))?|test|invalid|localhost|local)$", re.IGNORECASE)
_TOP_LEVEL = frozenset(
    [
        "com",
        "org",
        "net",
        "edu",
        "gov",
        "mil",
        "int",
        "info",
        "biz",
        "name",
        "pro",
        "coop",
        "museum",
        "aero",
        "jobs",
        "mobi",
        "travel",
        "app",
        "dev",
        "online",
        "site",
        "tech",
        "cloud",
        "email",
        "blog",
        "shop",
        "xyz",
        "academy",
        "agency",
        "group",
        "team",
        "world",
        "live",
        "news",
        "media",
        "health",
        "law",
        "bank",
    ]
)
_ROLE = frozenset(("git", "noreply", "no-reply", "donotreply", "do-not-reply", "mailer-daemon"))  # nobody's own
_IBAN_LENGTH = {
    "AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "BR": 29, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18,
    "EE": 20, "ES": 24, "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26,
    "IT": 27, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25,
    "RO": 24, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "TR": 26, "UA": 29,
}  # fmt: skip


@dataclass(frozen=True)
class _Kind:
    screen: str  # a Rust pattern that holds wherever `pattern` may
    pattern: re.Pattern[str]
    real: Callable[[str], bool]


def personal(texts: pl.DataFrame, kinds: Sequence[str] = KINDS) -> pl.DataFrame:
    """FINDINGS for `texts` (findings.TEXTS): `personal_<kind>`, how many of the kind the text holds."""
    found = [FINDINGS.to_frame()]
    for kind in kinds:
        suspect = texts.filter(pl.col("text").str.contains(_KINDS[kind].screen))
        counts = pl.Series([mask(text, (kind,))[1] for text in suspect["text"]], dtype=pl.UInt32)
        counted = suspect.with_columns(hits=counts)
        said = pl.format("{} found", "hits")
        found.append(finding(counted, pl.col("hits") > 0, f"personal_{kind}", pl.col("hits"), 0.0, said))
    return pl.concat(found)


def masked(texts: pl.Series, kinds: Sequence[str] = KINDS) -> pl.Series:
    """The texts with a mark such as <EMAIL> in place of every hit; nulls stay."""
    if not kinds:
        return texts
    screen = "|".join(f"(?:{_KINDS[kind].screen})" for kind in kinds)
    frame = texts.alias("text").to_frame()
    suspect = frame.filter(pl.col("text").str.contains(screen)).unique()
    new = pl.Series([mask(text, kinds)[0] for text in suspect["text"]], dtype=pl.String)
    changed = suspect.with_columns(new=new)
    joined = frame.join(changed, on="text", how="left", maintain_order="left")
    return joined.select(pl.coalesce("new", "text").alias(texts.name)).to_series()


def mask(text: str, kinds: Sequence[str] = KINDS) -> tuple[str, int]:
    """One text with marks, and how many hits there were. Masking again changes nothing."""
    total = 0
    while True:
        hits = 0
        for kind in KINDS:
            if kind in kinds:
                text, count = _once(text, kind)
                hits += count
        if not hits:  # a mark may lay bare a number that stood against what it replaced, hence the loop
            return text, total
        total += hits


def luhn(digits: str) -> bool:
    """Whether a number of a card passes Luhn's test (ISO/IEC 7812-1, annex B)."""
    places = [int(digit) for digit in reversed(digits)]
    return sum(places[0::2]) % 10 == -sum(sum(divmod(2 * digit, 10)) for digit in places[1::2]) % 10


def _once(text: str, kind: str) -> tuple[str, int]:
    count = 0

    def mark(match: re.Match[str]) -> str:
        nonlocal count
        if not _KINDS[kind].real(match[0]):
            return match[0]
        count += 1
        return f"<{kind.upper()}>"

    return _KINDS[kind].pattern.sub(mark, text), count


def _real_email(text: str) -> bool:
    local, _, domain = text.rpartition("@")
    ending = domain.rpartition(".")[2].lower()
    known = len(ending) == 2 or ending in _TOP_LEVEL
    return known and not _RESERVED.search(domain) and local.lower() not in _ROLE


def _real_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    head, length = int(digits[:4]), len(digits)
    issued = (
        (length == 16 and (4000 <= head < 5000 or 5100 <= head < 5600 or 2221 <= head <= 2720))
        or (length == 16 and (head == 6011 or 6440 <= head < 6600 or 3528 <= head <= 3589))
        or (length == 15 and head // 100 in (34, 37))
        or (length == 14 and (head // 100 in (36, 38) or 3000 <= head < 3060))
    )
    return issued and len(set(digits)) > 1 and luhn(digits)


def _real_iban(text: str) -> bool:
    account = text.replace(" ", "")
    if _IBAN_LENGTH.get(account[:2]) != len(account):
        return False
    turned = account[4:] + account[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1


def _real_phone(text: str) -> bool:
    import phonenumbers

    try:
        number = phonenumbers.parse(text, None if text.startswith("+") else "US")
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(number)


def _any(_: str) -> bool:
    return True


_KEY = "|".join(
    (
        r"sk-(?:ant-|proj-|or-)?[A-Za-z0-9_-]{20,200}", r"(?:AKIA|ASIA)[0-9A-Z]{16}", r"gh[pousr]_[A-Za-z0-9]{36,80}",
        r"github_pat_[A-Za-z0-9_]{22,100}", r"glpat-[A-Za-z0-9_-]{20,60}", r"AIza[0-9A-Za-z_-]{35}",
        r"xox[abprs]-[A-Za-z0-9-]{10,120}", r"hf_[A-Za-z0-9]{34,60}", r"npm_[A-Za-z0-9]{36}",
        r"[rs]k_live_[0-9a-zA-Z]{24,120}", r"pypi-AgE[A-Za-z0-9_-]{50,300}",
        r"eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,2000}",
    )
)  # fmt: skip
_PEM = r"-----BEGIN (?:[A-Z]{2,10} )?PRIVATE KEY-----[A-Za-z0-9+/=\s]+(?:-----END (?:[A-Z]{2,10} )?PRIVATE KEY-----)?"


_KINDS = {
    "key": _Kind(
        r"(?:sk-|AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|AIza|xox[abprs]-|hf_|npm_|[rs]k_live_|pypi-AgE|eyJ)"
        r"[A-Za-z0-9_-]{10}|-----BEGIN [A-Z ]*PRIVATE KEY",
        re.compile(rf"(?<![A-Za-z0-9_-])(?:{_KEY})(?![A-Za-z0-9_-])|{_PEM}"),
        _any,
    ),
    "email": _Kind(
        r"[A-Za-z0-9._%+-]@[A-Za-z0-9-]+\.[A-Za-z0-9-]",
        re.compile(
            r"(?<![\w.%+/:-])[A-Za-z0-9][A-Za-z0-9_.%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}(?![\w@(-])"
        ),
        _real_email,
    ),
    "iban": _Kind(
        r"[A-Z]{2}[0-9]{2} ?[0-9A-Z]{4} ?[0-9A-Z]{4}",
        re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?(?![A-Za-z0-9])"),
        _real_iban,
    ),
    "card": _Kind(
        r"[2-6](?:[ -]?[0-9]){13,15}",
        re.compile(
            r"(?<![\w.^{-])(?:[0-9]{4}([ -]?)(?:[0-9]{4}\1){2}[0-9]{4}|3[0-9]{3}([ -]?)[0-9]{6}\2[0-9]{4,5})"
            r"(?![\w-]|\.[0-9])"
        ),
        _real_card,
    ),
    "phone": _Kind(
        r"\+[1-9][0-9 .()-]{6}|\(?[2-9][0-9]{2}\)?[ .-]{0,2}[2-9][0-9]{2}[ .-][0-9]{4}",
        re.compile(
            r"(?<![\w.+/=^*)}-])(?:\+[1-9][0-9]{0,2}(?:[ .-]?\(?[0-9]{1,4}\)?){2,6}"
            r"|(?:1[ .-])?(?:\([2-9][0-9]{2}\)[ .-]?|[2-9][0-9]{2}([.-]))[2-9][0-9]{2}[.-][0-9]{4})(?![\w-]|\.[0-9])"
        ),
        _real_phone,
    ),
}
