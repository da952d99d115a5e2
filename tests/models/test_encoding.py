"""Answer labels, image placeholders, truncation and batches, against tokens worked out by hand."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import LLAVA_TEMPLATE, tiny_llava, tiny_qwen
from xmas_job.data.examples import Example, Turn
from xmas_job.errors import BadDataError
from xmas_job.models.adapter import IGNORED_LABEL, LVLM, Encoded

PICTURE = Image.new("RGB", (48, 48), (200, 30, 30))
TWO_TURNS = Example(
    "two turns",
    (Turn("user", "Which?", 1), Turn("assistant", "red"), Turn("user", "How many?"), Turn("assistant", "two squares")),
    ("a",),
)
TEXT_ONLY = Example("text", (Turn("system", "yes no"), Turn("user", "Which?"), Turn("assistant", "red")))
TWO_IMAGES = Example(
    "two images",
    (Turn("user", "Which?", 1), Turn("assistant", "red"), Turn("user", "And?", 1), Turn("assistant", "green")),
    ("a", "b"),
)
# As llava-hf writes it: a blank after every text, and no end of turn.
LLAVA_HF_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@pytest.fixture(scope="module")
def llava() -> LVLM:
    return tiny_llava()


@pytest.fixture(scope="module")
def qwen() -> LVLM:
    return tiny_qwen()


def tokens_of(lvlm: LVLM, ids: torch.Tensor) -> list[str]:
    return list(lvlm.processor.tokenizer.convert_ids_to_tokens(ids))


def labelled(lvlm: LVLM, encoded: Encoded) -> list[str]:
    mask = encoded.labels != IGNORED_LABEL
    assert torch.equal(encoded.labels[mask], encoded.input_ids[mask])
    return tokens_of(lvlm, encoded.labels[mask])


def shown(lvlm: LVLM, encoded: Encoded) -> str:
    """Tokens joined; labelled ones in square brackets, image placeholders as dots."""
    parts = []
    for token, label in zip(tokens_of(lvlm, encoded.input_ids), encoded.labels.tolist(), strict=True):
        mark = "·" if token == lvlm.processor.image_token else token
        parts.append(mark if label == IGNORED_LABEL else f"[{mark}]")
    return "".join(parts)


def test_llava_labels_are_the_answers_and_their_ends(llava: LVLM) -> None:
    encoded = llava.encode(TWO_TURNS, [PICTURE])
    assert shown(llava, encoded) == (
        "USER:Ġ················ĊĠWhich?ĊASSISTANT:[Ġred][</s>]USER:ĠHowĠmany?ĊASSISTANT:[Ġtwo][Ġsquares][</s>]"
    )
    assert int(encoded.image_token_mask.sum()) == 16


def test_qwen_labels_stop_at_the_end_of_turn_token(qwen: LVLM) -> None:
    """The line feed after <|im_end|> is no part of the answer: generation stops before it."""
    encoded = qwen.encode(TWO_TURNS, [PICTURE])
    assert shown(qwen, encoded) == (
        "<|im_start|>userĊ<|vision_start|>·········<|vision_end|>Which?<|im_end|>Ċ"
        "<|im_start|>assistantĊ[re][d][<|im_end|>]Ċ"
        "<|im_start|>userĊHowĠmany?<|im_end|>Ċ<|im_start|>assistantĊ[t][wo][Ġsquares][<|im_end|>]Ċ"
    )


def test_text_only_example_has_labels_and_no_image_inputs(llava: LVLM) -> None:
    encoded = llava.encode(TEXT_ONLY, [])
    assert shown(llava, encoded) == "SYSTEM:ĠyesĠnoĊUSER:ĠWhich?ĊASSISTANT:[Ġred][</s>]"
    assert encoded.image_inputs == {}
    assert not encoded.image_token_mask.any()


def test_template_without_end_of_turn_gets_one_after_the_last_answer() -> None:
    lvlm = tiny_llava(chat_template=LLAVA_HF_TEMPLATE)
    encoded = lvlm.encode(TWO_TURNS, [PICTURE])
    assert labelled(lvlm, encoded) == ["Ġred", "Ġtwo", "Ġsquares", "</s>"]
    assert tokens_of(lvlm, encoded.input_ids)[-3:] == ["Ġtwo", "Ġsquares", "</s>"]


def test_prompt_is_the_beginning_of_its_conversation(llava: LVLM, qwen: LVLM) -> None:
    for lvlm in (llava, qwen):
        whole, prompt = lvlm.encode(TWO_TURNS, [PICTURE]), lvlm.encode_prompt(TWO_TURNS, [PICTURE])
        assert torch.equal(whole.input_ids[: len(prompt.input_ids)], prompt.input_ids)
        assert (whole.labels != IGNORED_LABEL).nonzero()[-1] > len(prompt.input_ids)
        answer = whole.input_ids[len(prompt.input_ids) :]
        assert lvlm.decode(answer).strip() == lvlm.answer_text(TWO_TURNS) == "two squares"
        assert (prompt.labels == IGNORED_LABEL).all()
        assert int(prompt.image_token_mask.sum()) == int(whole.image_token_mask.sum())


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE that knows no word borders: 'a' + line feed is one token, and so is line feed + 'b'."""
    merges = [("a", "Ċ"), ("Ċ", "b")]
    letters = [*pre_tokenizers.ByteLevel.alphabet(), "aĊ", "Ċb"]
    special = ["<pad>", "</s>", "<image>"]
    vocabulary = {token: index for index, token in enumerate([*special, *sorted(letters)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")


def merging_llava(chat_template: str) -> LVLM:
    lvlm = tiny_llava(chat_template=chat_template)
    lvlm.processor.tokenizer = merging_tokenizer()
    return LVLM(lvlm.model, lvlm.processor)


LINES_TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] + ':' }}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + '\n' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
)


def test_token_that_merges_the_answer_with_what_follows_belongs_to_the_answer() -> None:
    lvlm = merging_llava(LINES_TEMPLATE)
    turns = (Turn("user", "x"), Turn("assistant", "ya"), Turn("user", "x"), Turn("assistant", "y"))
    assert shown(lvlm, lvlm.encode(Example("m", turns), [])) == "u:xĊa:[y][aĊ]u:xĊa:[y][</s>]"


def test_token_that_merges_the_prompt_with_the_answer_is_refused() -> None:
    """The prompt ends in a line feed and the answer begins with 'b': no label is right for their one token."""
    lvlm = merging_llava(LINES_TEMPLATE.replace("+ ':'", "+ ':\n'").replace("'a:'", "'a:\n'"))
    with pytest.raises(BadDataError, match="uid-b: the chat template cannot be masked: a token spans"):
        lvlm.encode(Example("uid-b", (Turn("user", "x"), Turn("assistant", "b"))), [])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            LLAVA_TEMPLATE.replace("{{ ' ' + part['text'] }}", "{{ ' ' + part['text'] | upper }}"),
            "and then the turn's text",
        ),
        (LLAVA_TEMPLATE.replace("'ASSISTANT:'", "'ANSWER:'"), "does not begin with the template's generation prompt"),
        (
            LLAVA_TEMPLATE.replace("{{ ' ' + part['text'] }}", "{{ ' note: ' + part['text'] }}"),
            "and then the turn's text",
        ),
    ],
)
def test_template_that_cannot_be_masked_is_refused(template: str, message: str) -> None:
    with pytest.raises(BadDataError, match=message):
        tiny_llava(chat_template=template).encode(TEXT_ONLY, [])


def test_images_that_do_not_fit_the_turns_are_refused(llava: LVLM) -> None:
    with pytest.raises(BadDataError, match="two turns shows 1 images in its turns but 2 were given"):
        llava.encode(TWO_TURNS, [PICTURE, PICTURE])


def test_placeholder_written_in_a_text_is_refused(llava: LVLM) -> None:
    example = Example("literal", (Turn("user", "What is <image> for?"), Turn("assistant", "red")))
    with pytest.raises(BadDataError, match="literal: the rendered conversation holds 1 '<image>' for 0 images"):
        llava.encode(example, [])


def test_prompt_of_an_example_without_answer_is_refused(llava: LVLM) -> None:
    with pytest.raises(BadDataError, match="has no assistant turn"):
        llava.encode_prompt(Example("mute", (Turn("user", "Which?"),)), [])


def test_prompt_takes_only_the_images_before_the_last_answer(qwen: LVLM) -> None:
    turns = (*TWO_TURNS.turns, Turn("user", "Bye", 1))
    prompt = qwen.encode_prompt(Example("late", turns, ("a", "b")), [PICTURE, Image.new("RGB", (96, 96))])
    assert prompt.image_inputs["image_grid_thw"].tolist() == [[1, 6, 6]]


def test_truncation_cuts_on_the_right(llava: LVLM) -> None:
    whole = llava.encode(TWO_TURNS, [PICTURE])
    cut = llava.encode(TWO_TURNS, [PICTURE], max_length=len(whole.input_ids) - 2)
    assert torch.equal(cut.input_ids, whole.input_ids[:-2])
    assert labelled(llava, cut) == ["Ġred", "</s>", "Ġtwo"]
    assert torch.equal(llava.encode(TWO_TURNS, [PICTURE], max_length=1000).input_ids, whole.input_ids)


@pytest.mark.parametrize("family", ["llava", "qwen"])
def test_image_at_the_cut_is_dropped_whole(family: str, request: pytest.FixtureRequest) -> None:
    lvlm: LVLM = request.getfixturevalue(family)
    pictures = [PICTURE, Image.new("RGB", (64, 32), (0, 200, 0))]
    whole = lvlm.encode(TWO_IMAGES, pictures)
    only_first = lvlm.encode(TWO_TURNS, [PICTURE])
    second_begins = int(whole.image_token_mask.nonzero()[int(only_first.image_token_mask.sum()), 0])
    for max_length in (second_begins, second_begins + 1, int(whole.image_token_mask.nonzero()[-1, 0])):
        cut = lvlm.encode(TWO_IMAGES, pictures, max_length=max_length)
        assert torch.equal(cut.input_ids, whole.input_ids[:second_begins])
        for name, tensor in only_first.image_inputs.items():
            assert torch.equal(cut.image_inputs[name], tensor)
        lvlm.model(**lvlm.collate([cut]).model_inputs)
    untouched = lvlm.encode(TWO_IMAGES, pictures, max_length=int(whole.image_token_mask.nonzero()[-1, 0]) + 1)
    assert torch.equal(untouched.image_inputs["pixel_values"], whole.image_inputs["pixel_values"])


def test_collate_pads_on_either_side(qwen: LVLM) -> None:
    long, short = qwen.encode(TWO_TURNS, [PICTURE]), qwen.encode(TEXT_ONLY, [])
    gap = len(long.input_ids) - len(short.input_ids)
    pad_id = qwen.processor.tokenizer.pad_token_id
    for side, padding, real in (
        ("right", slice(-gap, None), slice(None, -gap)),
        ("left", slice(gap), slice(gap, None)),
    ):
        batch = qwen.collate([long, short], padding_side=side)
        assert batch.uids == ("two turns", "text")
        assert batch.lengths.tolist() == [len(long.input_ids), len(short.input_ids)]
        assert torch.equal(batch.model_inputs["input_ids"][0], long.input_ids)
        assert torch.equal(batch.model_inputs["input_ids"][1, real], short.input_ids)
        assert (batch.model_inputs["input_ids"][1, padding] == pad_id).all()
        assert torch.equal(batch.model_inputs["attention_mask"].sum(dim=1), batch.lengths)
        assert (batch.model_inputs["attention_mask"][1, padding] == 0).all()
        assert torch.equal(batch.labels[1, real], short.labels)
        assert (batch.labels[1, padding] == IGNORED_LABEL).all()
        assert torch.equal(batch.image_token_mask[0], long.image_token_mask)
        assert torch.equal(batch.model_inputs["mm_token_type_ids"].bool(), batch.image_token_mask)


def test_collate_concatenates_images_in_example_order(qwen: LVLM) -> None:
    other = Example("other", (Turn("user", "And?", 1), Turn("assistant", "red")), ("c",))
    encoded = [
        qwen.encode(TWO_IMAGES, [PICTURE, Image.new("RGB", (64, 32))]),
        qwen.encode(TEXT_ONLY, []),
        qwen.encode(other, [Image.new("RGB", (32, 32))]),
    ]
    batch = qwen.collate(encoded)
    assert batch.model_inputs["image_grid_thw"].tolist() == [[1, 6, 6], [1, 4, 8], [1, 4, 4]]
    assert len(batch.model_inputs["pixel_values"]) == 36 + 32 + 16
    assert "image_grid_thw" not in qwen.collate(encoded[1:2]).model_inputs


@pytest.mark.parametrize("family", ["llava", "qwen"])
def test_left_padded_batch_generates_what_each_prompt_generates_alone(
    family: str, request: pytest.FixtureRequest
) -> None:
    lvlm: LVLM = request.getfixturevalue(family)
    prompts = [lvlm.encode_prompt(TWO_TURNS, [PICTURE]), lvlm.encode_prompt(TEXT_ONLY, [])]

    def generate(encoded: list[Encoded]) -> torch.Tensor:
        batch = lvlm.collate(encoded, padding_side="left")
        return lvlm.model.generate(**batch.model_inputs, max_new_tokens=6, do_sample=False)[:, -6:]

    together = generate(prompts)
    for row, prompt in zip(together, prompts, strict=True):
        assert torch.equal(generate([prompt])[0], row)
