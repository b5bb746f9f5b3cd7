"""From examples to batches: encoding cuts the body alone, padding changes nothing, targets stand where they belong."""
import copy
from dataclasses import replace

import pytest
import torch
from tiny import WORDS, character_tokenizer, tiny_llama, word_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers
from toy import toy_model
from transformers import PreTrainedTokenizerFast

from mbf_utils import text
from mbf_utils.errors import InputError
from mbf_utils.streams import Example, Stream, TaskData
from mbf_utils.text import IGNORE, Encoded, answer_ids, answer_text, check_fit, collate, encode, in_chat, normalise, token_ids

TOKENIZERS = {"words": word_tokenizer, "characters": character_tokenizer}


def example(words, answer="good", frame=("alpha: ", " ? beta :")):
    """A frame around a body of `words` words."""
    body = " ".join(WORDS[k % 20] for k in range(words))
    return Example(frame[0] + body + frame[1], (answer, "bad"), (len(frame[0]), len(frame[0]) + len(body)))


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_row_is_bos_prompt_answer_eos(make):
    tokenizer = make()
    (row,) = encode(tokenizer, [example(3)], 1000)
    assert row.prompt == [tokenizer.bos_token_id] + token_ids(tokenizer, [example(3).prompt])[0]
    assert row.answer == token_ids(tokenizer, [" good"])[0] + [tokenizer.eos_token_id]    # the first answer, after a blank


def test_a_tokenizer_without_bos_puts_none():
    tokenizer = word_tokenizer(bos_token=None)
    assert encode(tokenizer, [example(3)], 1000)[0].prompt == token_ids(tokenizer, [example(3).prompt])[0]


def test_a_row_without_a_token_before_its_answer_is_refused():
    """Without bos nothing would predict the answer's first token."""
    tokenizer = word_tokenizer(bos_token=None)
    for empty, max_length in ((Example("", ("good",)), 9), (Example("alpha beta", ("good",), (0, 10)), 2)):
        with pytest.raises(InputError, match="expected a token before the answer"):
            encode(tokenizer, [empty], max_length)


def test_no_special_token_is_added_inside():
    assert token_ids(word_tokenizer(), ["alpha good", ""]) == [[4, 4 + WORDS.index("good")], []] and token_ids(None, []) == []


@pytest.mark.parametrize("prompt, expected", [("a:", " yes"), ("a: ", "yes"), ("a:\n", "yes"), ("a:\t", "yes")])
def test_an_answer_follows_a_blank_unless_the_prompt_ends_in_one(prompt, expected):
    assert answer_text(Example(prompt, ("yes",)), "yes") == expected


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("frame", [("alpha: ", " ? beta :"), ("", " ? beta :"), ("alpha: ", "")])
def test_what_is_too_long_loses_the_end_of_its_body_and_nothing_of_its_frame(name, frame):
    tokenizer = TOKENIZERS[name]()
    left, right = token_ids(tokenizer, list(frame))
    answer = token_ids(tokenizer, [" good"])[0] + [tokenizer.eos_token_id]
    least = 1 + len(left) + len(right) + len(answer)
    for words in (1, 2, 7, 40):
        whole = example(words, frame=frame)
        body = token_ids(tokenizer, [whole.prompt[slice(*whole.body)]])[0]
        full = least + len(body)
        for max_length in range(least, full + 2):
            (row,) = encode(tokenizer, [whole], max_length)
            inside = row.prompt[1 + len(left):len(row.prompt) - len(right)]
            assert row.answer == answer and row.prompt[:1 + len(left)] == [tokenizer.bos_token_id] + left
            assert row.prompt[len(row.prompt) - len(right):] == right
            if max_length >= full:
                assert inside == body
            else:
                known = inside if name == "characters" else inside[:-1]          # a cut may go through the last word
                assert len(inside) < len(body) and len(row.prompt) + len(answer) <= max_length
                assert known == body[:len(known)]
                if name == "characters":
                    assert len(row.prompt) + len(answer) == max_length           # and no more is cut than has to be


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("body", ["marked", "none"])
def test_a_frame_that_is_too_long_is_said_in_one_line(make, body):
    tokenizer, whole = make(), example(9)
    frame = 1 + sum(map(len, token_ids(tokenizer, ["alpha: ", " ? beta :", " good"]))) + 1
    if body == "none":
        whole, frame = Example(whole.prompt, whole.answers), len(sum(encode(tokenizer, [whole], 1000)[0], []))
    assert len(sum(encode(tokenizer, [whole], frame)[0], [])) <= frame
    answer = len(encode(tokenizer, [whole], 1000)[0].answer)
    for max_length in range(1 + answer, frame):
        said = r"^expected a prompt of at most \d+ tokens .*found a frame of .*: raise max_length$"
        with pytest.raises(InputError, match=said) as error:
            encode(tokenizer, [whole], max_length)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
def test_an_answer_that_is_too_long_is_said_in_one_line_and_never_a_number_below_0(make):
    tokenizer, whole = make(), example(2, answer="good red green")
    answer = len(encode(tokenizer, [whole], 1000)[0].answer) - 1
    for max_length in range(0, 1 + answer + 1):                      # bos, answer and eos do not fit
        with pytest.raises(InputError, match=rf"^expected an answer of at most {max(0, max_length - 2)} tokens and its eos within "
                                             rf"max_length {max_length}, found one of {answer} \('good red green', to the prompt "
                                             r"'alpha: .*'\): raise max_length, or leave the row out$") as error:
            encode(tokenizer, [whole], max_length)
        assert "\n" not in str(error.value)


def test_a_tokenizer_without_eos_or_pad_is_refused_at_its_first_use():
    with pytest.raises(InputError, match="^expected a tokenizer with an eos token, .*: set tokenizer.eos_token"):
        encode(word_tokenizer(eos_token=None), [example(3)], 1000)
    tokenizer = word_tokenizer(pad_token=None)
    with pytest.raises(InputError, match="^expected a tokenizer with a pad token, found none: set tokenizer.pad_token"):
        collate(encode(tokenizer, [example(3), example(4)], 1000), tokenizer.pad_token_id)


def test_rows_come_in_the_order_of_the_examples_and_only_long_ones_are_cut():
    tokenizer = word_tokenizer()
    examples = [example(2), example(30), example(4)]
    rows = encode(tokenizer, examples, 20)
    alone = [encode(tokenizer, [one], 20)[0] for one in examples]
    assert rows == alone and rows[0] == encode(tokenizer, examples, 1000)[0] and rows[2] == encode(tokenizer, examples, 1000)[2]


def checked(rows, max_length, labels=(), split="test", tokenizer=None):
    check_fit(tokenizer or word_tokenizer(), Stream("s", "1", (TaskData("t", [], [], [], ()), replace(TaskData("t", [], [], [], labels), **{split: rows}))),
              max_length, ("train", "test"))


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("make", [lambda whole: whole, lambda whole: replace(whole, body=None), lambda whole: replace(whole, body=(0, len(whole.prompt)))],
                         ids=["framed", "no text", "all text"])
@pytest.mark.parametrize("bos", [True, False])
def test_the_check_before_training_refuses_what_encoding_refuses_and_nothing_else(name, make, bos):
    tokenizer = TOKENIZERS[name](**({} if bos else {"bos_token": None}))
    rows = [make(example(2)), make(example(9))]
    for max_length in range(1, len(sum(encode(tokenizer, rows[1:], 1000)[0], [])) + 2):
        try:
            encode(tokenizer, rows, max_length)
            said = None
        except InputError as error:
            said = str(error)
        if said is None:
            checked(rows, max_length, tokenizer=tokenizer)
        else:
            with pytest.raises(InputError) as caught:
                checked(rows, max_length, tokenizer=tokenizer)
            assert str(caught.value) == said


def test_the_check_asks_for_every_answer_that_is_scored_and_for_no_other_split():
    short, long = Example("alpha :", ("good", "one two three four five six"), (0, 7)), Example("alpha : " * 9, ("good",))
    checked([short], 8)                                              # free text: only the first answer is written
    checked([long], 8, split="dev")
    for rows, labels, split in (([short], ("good", "one two three four five six"), "test"), ([long], (), "test"), ([long], (), "train")):
        with pytest.raises(InputError, match="raise max_length"):
            checked(rows, 7, labels, split)


def test_what_fits_is_not_read_row_by_row(monkeypatch):
    """A big file costs no more than its different frames and answers."""
    tokenizer, asked = word_tokenizer(), []
    monkeypatch.setattr(text, "encode", lambda tokenizer, rows, max_length: asked.extend(rows))
    monkeypatch.setattr(text, "token_ids", lambda tokenizer, texts, literal=False: asked.extend(texts) or token_ids(tokenizer, texts, literal))
    checked([example(k) for k in range(1, 200)], 40, tokenizer=tokenizer)
    assert len(asked) < 10


def rows_of(*lengths):
    """Rows of random tokens, of prompt and answer lengths as given."""
    rng = torch.Generator().manual_seed(0)
    return [Encoded(*(torch.randint(1, 40, (n,), generator=rng).tolist() for n in pair)) for pair in lengths]


BATCHES = [rows_of((3, 2)), rows_of((3, 2), (1, 5)), rows_of((9, 1), (2, 1), (5, 3)), rows_of((4, 2), (4, 2)), rows_of((1, 1))]


@pytest.mark.parametrize("rows", BATCHES)
def test_ids_mask_and_targets_are_those_of_a_literal_loop(rows):
    batch = collate(rows, pad=0)
    longest = max(len(row.prompt) + len(row.answer) for row in rows)
    assert batch.ids.shape == batch.mask.shape == (len(rows), longest)
    wanted = {}                                                      # (row, column) -> the next token, where it is of the answer
    for i, row in enumerate(rows):
        sequence = row.prompt + row.answer
        for column in range(longest):
            assert batch.ids[i, column] == (sequence[column] if column < len(sequence) else 0)
            assert batch.mask[i, column] == (column < len(sequence))
            if len(row.prompt) <= column + 1 < len(sequence):
                wanted[i, column] = sequence[column + 1]
    assert batch.keep.tolist() == sorted({column for _, column in wanted})
    for i in range(len(rows)):
        for k, column in enumerate(batch.keep.tolist()):
            assert batch.targets[i, k] == wanted.get((i, column), IGNORE)
    assert batch.tokens == len(wanted) == sum(len(row.answer) for row in rows)


@pytest.mark.parametrize("pad", [0, 7])
@pytest.mark.parametrize("rows", BATCHES)
def test_padding_changes_no_logit_of_a_real_token(rows, pad):
    model = tiny_llama()
    with torch.no_grad():
        batch = collate(rows, pad)
        together = model(input_ids=batch.ids).logits
        kept = model(input_ids=batch.ids, logits_to_keep=batch.keep).logits
        for i, row in enumerate(rows):
            alone = model(input_ids=torch.tensor([row.prompt + row.answer])).logits[0]
            torch.testing.assert_close(together[i, batch.mask[i]], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(kept, together[:, batch.keep], atol=1e-4, rtol=1e-4)


def test_the_loss_of_a_batch_is_the_mean_over_the_answer_tokens_of_its_rows():
    model, rows = tiny_llama(), rows_of((9, 1), (2, 4), (5, 3))

    def loss(rows, reduction):
        batch = collate(rows, 0)
        logits = model(input_ids=batch.ids, logits_to_keep=batch.keep).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction=reduction, ignore_index=IGNORE)

    torch.testing.assert_close(loss(rows, "mean"), sum(loss([row], "sum") for row in rows) / 8)


@pytest.mark.parametrize("answer, expected", [
    ("Sci/Tech", "scitech"), ("Science and Technology", "science and technology"), ("very  negative\n", "very negative"),
    ("Company.", "company"), ("  World ", "world"), ("don't", "dont"), ("no-one", "noone"), ("\tYES!\n", "yes"), ("", ""), ("?!", ""),
    ("是。", "是。"), ("Ａ，ｂ", "ａ，ｂ"),                                 # full-width punctuation is kept
    ("Ünïcode", "ünïcode"), ("3.5", "35"), ("a . b", "a b")])
def test_answers_are_normalised_as_in_the_field(answer, expected):
    assert normalise(answer) == expected


@pytest.mark.parametrize("answer", ["Sci/Tech", "A  b. C", "是。", " - ", "İstanbul"])
def test_normalising_twice_changes_nothing(answer):
    assert normalise(normalise(answer)) == normalise(answer)


# --- chat templates
TEMPLATE = "{{ bos_token }}{% for m in messages %}<turn>{{ m['role'] }} {{ m['content']MARK }}</turn>\n{% endfor %}<turn>assistant "


@pytest.mark.parametrize("trim", ["", " | trim"])
def test_a_prompt_in_the_chat_template_keeps_its_body(trim):
    _, tokenizer = toy_model()
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATE.replace("MARK", trim)
    row = Example(" pick one: a b c \nAnswer:\n", ("one",), (0, 16))
    stream = Stream("s", "1", (TaskData("t", [row], [replace(row, body=None)], [row], ("one",)),), chat=True)
    found = in_chat(stream, tokenizer)
    text = row.prompt.strip() if trim else row.prompt
    assert not found.chat and found[0].train == found[0].test
    assert found[0].train[0].prompt == f"<turn>user {text}</turn>\n<turn>assistant " and found[0].train[0].answers == ("one",)
    assert found[0].train[0].prompt[slice(*found[0].train[0].body)] == row.prompt[:16].lstrip(" " * bool(trim))
    assert found[0].dev[0].body is None and found[0].dev[0].prompt == found[0].train[0].prompt
    assert stream[0].train == [row]                                  # the given stream is left as it was


def test_without_a_chat_template_or_with_one_that_loses_the_prompt_there_is_no_chat():
    _, tokenizer = toy_model()
    stream = Stream("s", "1", (TaskData("t", [Example("a b", ("one",))], [], []),), chat=True)
    with pytest.raises(InputError, match="tokenizer with a chat template, found none"):
        in_chat(stream, tokenizer)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "hello"
    with pytest.raises(InputError, match="found 'hello'"):
        in_chat(stream, tokenizer)


# ---- special tokens in the data's own text
def quoting(quote: str) -> Example:
    return Example(f"alpha : one {quote} two ? good", ("bad",), (8, len(f"alpha : one {quote} two")))


@pytest.mark.parametrize("quote", ["</s>", "<s>", "<pad>"])
def test_a_text_that_quotes_a_special_token_does_not_hold_it(quote):
    tokenizer = word_tokenizer()
    special = tokenizer.convert_tokens_to_ids(quote)
    assert special in token_ids(tokenizer, [quoting(quote).prompt])[0]              # as a tokenizer alone reads it
    (row,) = encode(tokenizer, [quoting(quote)], 100)
    assert special not in row.prompt[1:] and row.prompt[0] == tokenizer.bos_token_id
    words = token_ids(tokenizer, ["alpha : one", "two ? good"])
    assert row.prompt[1:4] == words[0] and row.prompt[-3:] == words[1]              # the rest is read as ever
    (again,) = encode(tokenizer, [quoting("three")], 100)
    assert again.prompt[1:] == token_ids(tokenizer, [quoting("three").prompt])[0]   # nothing stays switched


def test_an_answer_that_quotes_a_special_token_ends_once():
    tokenizer = word_tokenizer()
    (row,) = encode(tokenizer, [Example("alpha :", ("good </s> bad",))], 100)
    assert row.answer.count(tokenizer.eos_token_id) == 1 == row.answer.index(tokenizer.eos_token_id) / (len(row.answer) - 1)


def test_in_a_chat_template_the_templates_tokens_stay_and_the_texts_are_text():
    tokenizer = word_tokenizer()
    prompt = "<s> alpha : one </s> two </s> beta"
    (row,) = encode(tokenizer, [Example(prompt, ("good",), (12, 24))], 100)
    assert prompt[12:24] == "one </s> two" and row.prompt.count(tokenizer.eos_token_id) == 1 == row.prompt[1:].count(tokenizer.bos_token_id)
    assert row.prompt[-2:] == [tokenizer.eos_token_id, *token_ids(tokenizer, ["beta"])[0]]


def test_outside_the_body_a_special_token_is_one():
    """As a chat template writes it, and as one may write it oneself into a prompt without a body."""
    tokenizer = word_tokenizer()
    for body in ((9, 14), None):
        (row,) = encode(tokenizer, [Example("<s> one : three </s> two", ("bad",), body)], 100)
        assert row.prompt.count(tokenizer.eos_token_id) == 1 and row.prompt[1] == tokenizer.bos_token_id


@pytest.mark.parametrize("room", [12, 20, 40])
def test_a_long_text_that_quotes_special_tokens_is_cut_as_any_other(room):
    tokenizer = word_tokenizer()
    text = "one </s> " * 40
    (row,) = encode(tokenizer, [Example(f"alpha : {text}? beta", ("good",), (8, 8 + len(text)))], room)
    assert len(row.prompt + row.answer) <= room and tokenizer.eos_token_id not in row.prompt
    assert row.prompt[1:3] == token_ids(tokenizer, ["alpha :"])[0] and row.prompt[-1:] == token_ids(tokenizer, ["beta"])[0]


# ---- tokenizers that begin every text with a blank of their own
def llama_2_tokenizer():
    """As Llama 2's: a blank before every text, blanks as tokens' first characters, none of it cut into words before."""
    words = ["\u2581", ":", "\u2581alpha", "\u2581:", "\u2581good", "good", "\u2581green", "\u2581red", "red", "\u2581a", "a", "\n"]
    raw = Tokenizer(models.Unigram([("<unk>", -9.0), *((word, -1.0) for word in words)], unk_id=0))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    raw.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("prompt, answers", [("alpha :", ("good", "red", "red green")), ("alpha :\n", ("good", "red"))])
def test_between_prompt_and_answer_stands_one_blank_or_none(prompt, answers):
    """The row is what the whole text is for the tokenizer; each part alone would begin with a blank more."""
    tokenizer = llama_2_tokenizer()
    for answer in answers:
        example = Example(prompt, (answer,))
        (row,) = encode(tokenizer, [example], 50)
        whole = token_ids(tokenizer, [prompt + answer_text(example, answer)])[0]
        assert row.prompt + row.answer == [tokenizer.bos_token_id, *whole, tokenizer.eos_token_id]
        assert row.answer[:-1] != token_ids(tokenizer, [answer_text(example, answer)])[0]


def test_a_text_that_quotes_a_special_token_gets_no_blanks_of_the_tokenizers_own():
    tokenizer = llama_2_tokenizer()
    text = "alpha : good </s> red : red"
    (row,) = encode(tokenizer, [Example(text, ("good",), (8, 22))], 50)
    assert tokenizer.eos_token_id not in row.prompt
    assert row.prompt[1:] == token_ids(tokenizer, [text], literal=True)[0]


def test_other_tokenizers_read_an_answer_as_it_stands():
    for make in TOKENIZERS.values():
        texts = [" good", "good", " red green", ""]
        assert answer_ids(make(), texts) == token_ids(make(), texts)


def test_collate_writes_what_a_loop_over_the_rows_writes():
    rows = [Encoded([1, 5, 6], [7, 2]), Encoded([1], [8, 9, 9, 2]), Encoded([1, 4, 4, 4, 4], [2])]
    ids, targets = torch.full((3, 6), 0), torch.full((3, 6), IGNORE)
    for i, (prompt, answer) in enumerate(rows):
        for place, token in enumerate(prompt + answer):
            ids[i, place] = token
        for place, token in enumerate(answer):
            targets[i, len(prompt) - 1 + place] = token
    batch = collate(rows, 0)
    assert torch.equal(batch.ids, ids) and torch.equal(batch.targets, targets[:, batch.keep])
    assert batch.keep.tolist() == [place for place in range(6) if (targets[:, place] != IGNORE).any()]
    assert batch.mask.sum(1).tolist() == [5, 5, 6] and batch.prompt.sum(1).tolist() == [3, 1, 5]
