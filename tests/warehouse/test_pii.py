"""Personal data: what is one, what only looks like one, and masks that leave nothing behind."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from warehouse.curation.findings import TEXTS
from warehouse.curation.pii import KINDS, REASONS, luhn, mask, masked, personal

# In two parts, so that no scanner takes this file for a leak.
AWS, GITHUB, OPENAI = "AKIA" + "IOSFODNN7EXAMPLE", "ghp_" + "a1B2" * 9, "sk-" + "proj-" + "Zx9_" * 8
PEM = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIB\nabc=\n-----END RSA " + "PRIVATE KEY-----"
REAL = {
    "email": ["jane.doe+lists@mail.uni-bonn.de", "info@walsheim-brauerei.de", "a@b.com"],
    "phone": ["+49 30 901820", "+44 20 7946 0958", "(202) 456-1111", "212-736-5000", "1-800-356-9377", "212.736.5000"],
    "card": ["4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "3782 822463 10005", "6011111111111117"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819", "FR14 2004 1010 0505 0001 3M02 606"],
    "key": [AWS, GITHUB, OPENAI, PEM],
}
SEEMING = [
    "user@example.com", "a@mail.example.org", "root@localhost", "git@github.com", "x = A@B.transpose()", "@app.route",
    "4111 1111 1111 1112", "1234567890123456", "3.4111111111111111", "x^{4111111111111111}", "n = 7363998587187151",
    "DE89 3704 0044 0532 0130 01", "XX89370400440532013000", "US20020069091A1", "+12", "1 +250 000", "555-1234",
    "2020-11-24", "123-456-7890", "10.1000/182", "sk-learn", "f(+49)", "(100) 200-3000", "2^127 - 1",
]  # fmt: skip
CASES = [(kind, text) for kind, texts in REAL.items() for text in texts]


def frame(*texts: str) -> pl.DataFrame:
    return pl.DataFrame([("d", str(n), text) for n, text in enumerate(texts)], schema=TEXTS, orient="row")


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_what_is_personal_is_found_by_its_kind_and_masked_whole(kind: str, text: str) -> None:
    sentence = f"Write or call {text}, if you can."
    found = personal(frame(sentence))
    assert found.select("reason", "value").rows() == [(f"personal_{kind}", 1.0)]
    assert masked(pl.Series([sentence])).to_list() == [f"Write or call <{kind.upper()}>, if you can."]


@pytest.mark.parametrize("text", SEEMING)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert personal(frame(text, f"See {text}.")).is_empty()
    assert mask(text) == (text, 0)


def test_hits_of_a_text_are_counted_by_kind() -> None:
    found = personal(frame("a@b.com and c@d.org, or +49 30 901820", "nothing here", "c@d.org"))
    assert found.select("id", "reason", "value").rows() == [
        ("0", "personal_email", 2.0), ("2", "personal_email", 1.0), ("0", "personal_phone", 1.0),
    ]  # fmt: skip


def test_only_the_kinds_asked_for_are_masked_and_nulls_stay() -> None:
    texts = pl.Series("query", ["a@b.com +49 30 901820", None, "plain", "a@b.com +49 30 901820"])
    assert masked(texts, ("email",)).to_list() == ["<EMAIL> +49 30 901820", None, "plain", "<EMAIL> +49 30 901820"]
    assert masked(texts, ()).to_list() == texts.to_list()
    assert masked(texts).name == "query"


def test_every_kind_has_an_explanation() -> None:
    assert set(REASONS) == {f"personal_{kind}" for kind in KINDS} == {f"personal_{kind}" for kind in REAL}


PIECES = st.sampled_from(
    [text for _, text in CASES] + SEEMING + [" ", "", "@", "+", "-", ".", ",", "<", "\n", "é", "0", "1 ", "b.com"]
)
NOISE = st.text(st.sampled_from("0123456789+-. ()@abcDE<>_/"), max_size=40)


@given(st.lists(PIECES | NOISE, max_size=8).map("".join))
@example("a@b.com@c.org")
@example("+1 202 456 1111 202-456-1111")
def test_masking_is_idempotent_leaves_no_hit_and_the_screen_misses_none(text: str) -> None:
    once, hits = mask(text)
    assert mask(once) == (once, 0)
    assert personal(frame(once)).is_empty()
    assert masked(pl.Series([text])).to_list() == [once]
    assert (personal(frame(text)).height > 0) is (hits > 0)


@given(st.text("0123456789", min_size=12, max_size=18))
def test_luhn_takes_exactly_one_check_digit_and_sees_every_wrong_digit(body: str) -> None:
    right = [digit for digit in "0123456789" if luhn(body + digit)]
    assert len(right) == 1
    whole = body + right[0]
    for place in range(len(whole)):
        wrong = whole[:place] + str((int(whole[place]) + 1) % 10) + whole[place + 1 :]
        assert not luhn(wrong)


@pytest.mark.parametrize("number", ["79927398713", "4539578763621486", "0"])
def test_luhn_knows_the_published_examples(number: str) -> None:
    assert luhn(number)


@given(st.integers(200, 999), st.integers(200, 999), st.integers(0, 9999))
def test_a_masked_telephone_number_is_one_that_its_country_may_give_out(area: int, exchange: int, line: int) -> None:
    import phonenumbers

    text = f"({area}) {exchange}-{line:04d}"
    valid = phonenumbers.is_valid_number(phonenumbers.parse(text, "US"))
    assert mask(text) == (("<PHONE>", 1) if valid else (text, 0))
