import hashlib
import json
from typing import get_args

from hypothesis import example, given
from hypothesis import strategies as st

from xmas_job.data.defects import REASONS, Reason
from xmas_job.data.examples import Turn, compute_digests, compute_uid, normalise_text

CAT = "0b1c" * 16
turns = st.lists(st.builds(Turn, st.sampled_from(["user", "assistant", "system"]), st.text(), st.integers(0, 3)))


def test_uid_is_the_digest_of_the_literal_canonical_string() -> None:
    canonical = (
        '{"images":["' + CAT + '"],"turns":[["user","Wo ist „die Katze“?\\n",1],["assistant","auf dem Stuhl",0]]}'
    )
    conversation = (Turn("user", "Wo ist „die Katze“?\n", 1), Turn("assistant", "auf dem Stuhl"))
    assert compute_uid(conversation, [CAT]) == hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:32]


def test_uid_of_a_text_only_example_has_an_empty_image_list() -> None:
    canonical = b'{"images":[],"turns":[["user","2+2?",0],["assistant","4",0]]}'
    assert compute_uid((Turn("user", "2+2?"), Turn("assistant", "4")), []) == hashlib.sha256(canonical).hexdigest()[:32]


@given(turns, st.lists(st.sampled_from([CAT, "ff" * 32])))
def test_digests_equal_those_of_the_json_library(conversation: list[Turn], images: list[str]) -> None:
    listed = [[turn.role, turn.text, turn.num_images] for turn in conversation]

    def digest(value: object) -> str:
        canonical = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()

    uid, text_sha256 = compute_digests(tuple(conversation), images)
    assert uid == digest({"turns": listed, "images": images})[:32]
    assert text_sha256 == digest(listed)


def test_uid_depends_on_role_text_number_and_order_of_images() -> None:
    base = (Turn("user", "a", 2), Turn("assistant", "b"))
    others = [
        compute_uid((Turn("system", "a", 2), Turn("assistant", "b")), ["1", "2"]),
        compute_uid((Turn("user", "a", 1), Turn("assistant", "b")), ["1", "2"]),
        compute_uid((Turn("user", "A", 2), Turn("assistant", "b")), ["1", "2"]),
        compute_uid(base, ["2", "1"]),
        compute_uid(base, ["1"]),
    ]
    assert len({compute_uid(base, ["1", "2"]), *others}) == 6


def test_normalise_text_takes_out_placeholders_crlf_and_outer_whitespace_only() -> None:
    assert normalise_text(" <image>\r\nTwo  <b>cats</b>\r\n\there\r\n") == "Two  <b>cats</b>\n\there"
    assert normalise_text("a\rb\n\n c") == "a\rb\n\n c"


@given(st.lists(st.sampled_from(["<image>", "<ima", "ge>", "\r", "\n", " ", "x", "\u3000", "<"])).map("".join))
@example("a\r\r\nb")
@example("<ima<image>ge>")
def test_normalise_text_twice_changes_nothing(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once
    assert "<image>" not in once
    assert "\r\n" not in once


def test_every_reason_code_has_one_line_that_explains_it() -> None:
    assert set(REASONS) == set(get_args(Reason))
    assert all(line.endswith(".") and "\n" not in line and len(line) > 20 for line in REASONS.values())
