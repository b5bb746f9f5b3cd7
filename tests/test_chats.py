"""Conversations as rows: which tokens carry loss, under templates that write turns in different ways."""
import json

import pytest
from tiny import word_tokenizer

from mbf_utils.chats import chat_rows, in_batches, read_chats
from mbf_utils.errors import InputError

PLAIN = ("{% for m in messages %}{% if m['role'] == 'user' %}one {{ m['content'] }} two {% else %}{{ m['content'] }} </s>\n"
         "{% endif %}{% endfor %}")
# the way of templates that write a turn's beginning themselves, and drop the thoughts of all but the last turn
THINKS = ("{% for m in messages %}{% if m['role'] == 'user' %}one {{ m['content'] }} two {% else %}three "
          "{{ m['content'].split('six')[-1] if not loop.last else m['content'] }} </s> {% endif %}{% endfor %}"
          "{% if add_generation_prompt %}three {% endif %}")
CHAT = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "good six bad"},
        {"role": "user", "content": "green blue"}, {"role": "assistant", "content": "bad"}]


def tokenizer_of(template):
    tokenizer = word_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def shown(tokenizer, rows):
    """Each row's words, those with loss in brackets."""
    found = []
    for row in rows:
        assert set(row["attention_mask"]) == {1} and len(row["attention_mask"]) == len(row["input_ids"]) == len(row["labels"])
        assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"]))
        words = tokenizer.convert_ids_to_tokens(row["input_ids"])
        found.append(" ".join(word if label == -100 else f"[{word}]" for word, label in zip(words, row["labels"])))
    return found


def test_the_assistants_turns_and_their_ends_carry_the_loss_and_nothing_else():
    tokenizer = tokenizer_of(PLAIN)
    expected = ["one red two [good] [six] [bad] [</s>] one green blue two [bad] [</s>]"]
    for given in ({"messages": CHAT}, CHAT):
        assert shown(tokenizer, chat_rows(tokenizer, [given])) == expected
    unanswered = [*CHAT, {"role": "user", "content": "five"}]
    assert shown(tokenizer, chat_rows(tokenizer, [unanswered])) == expected


def test_where_earlier_turns_are_written_in_another_way_every_turn_is_a_row():
    tokenizer = tokenizer_of(THINKS)
    assert shown(tokenizer, chat_rows(tokenizer, [CHAT])) == ["one red two three [good] [six] [bad] [</s>]",
                                                              "one red two three bad </s> one green blue two three [bad] [</s>]"]


def quoting(*contents):
    return [{"role": role, "content": content} for role, content in zip(("user", "assistant") * 2, contents)]


@pytest.mark.parametrize("template", [PLAIN, THINKS])
@pytest.mark.parametrize("quote", ["</s>", "<s>", "<pad>", "</s></s>", "\ue000 </s>"])
def test_a_message_that_quotes_a_special_token_does_not_hold_it(template, quote):
    """As if another word stood there, of the user or of the assistant: no turn ends before the template ends it."""
    tokenizer = tokenizer_of(template)
    chats = [quoting(f"red {word} blue", f"good {word} six {word} bad {word}", "green", f"{word} bad") for word in (quote, "xyzzy")]
    rows, plain = (chat_rows(tokenizer, [chat]) for chat in chats)
    special = [tokenizer.convert_tokens_to_ids(token) for token in ("</s>", "<s>", "<pad>")]
    for row, other in zip(rows, plain):
        for key in ("input_ids", "labels"):
            assert [token for token in row[key] if token in special] == [token for token in other[key] if token in special]
        assert row["labels"][-1] == tokenizer.eos_token_id and len(row["labels"]) > len(other["labels"])
        words = [token for token in row["input_ids"] if token != tokenizer.unk_token_id]
        assert words == [token for token in other["input_ids"] if token != tokenizer.unk_token_id]        # the rest is read as ever
    assert len(rows) == len(plain) == (1 if template == PLAIN else 2)


def test_a_mark_that_the_template_looks_for_is_the_templates():
    """Thoughts end at a token of the tokenizer's own: the template has to find it, and drops them but for the last turn."""
    tokenizer = tokenizer_of(THINKS.replace("'six'", "'<six>'"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<six>"]})
    expected = ["one red two three [good] [<six>] [bad] [</s>]", "one red two three bad </s> one green two three [bad] [</s>]"]
    assert shown(tokenizer, chat_rows(tokenizer, [quoting("red", "good <six> bad", "green", "bad")])) == expected
    quoted = chat_rows(tokenizer, [quoting("red", "good <six> bad </s>", "green", "bad")])
    assert [row["input_ids"].count(tokenizer.eos_token_id) for row in quoted] == [1, 2]


def test_messages_in_parts_quote_too_and_are_left_as_they_are():
    tokenizer = tokenizer_of(PLAIN.replace("{{ m['content'] }} two", "{{ m['content'][0]['text'] }} two"))
    given = [{"role": "user", "content": [{"type": "text", "text": "red </s>"}]}, {"role": "assistant", "content": "bad"}]
    row, = chat_rows(tokenizer, [given])
    assert row["input_ids"].count(tokenizer.eos_token_id) == 1 and given[0]["content"][0]["text"] == "red </s>"


def test_too_long_a_conversation_loses_its_last_turns_whole():
    tokenizer = tokenizer_of(PLAIN)
    first = ["one red two [good] [six] [bad] [</s>]"]
    assert [shown(tokenizer, chat_rows(tokenizer, [CHAT], n)) for n in (7, 12)] == [first, first]
    assert len(chat_rows(tokenizer, [CHAT], 13)[0]["labels"]) == 13
    with pytest.raises(InputError, match="a first turn of at most 6 tokens in conversation 1, found a longer one"):
        chat_rows(tokenizer, [CHAT[2:], CHAT], 6)


@pytest.mark.parametrize("template, given, sentence", [
    (None, CHAT, "a tokenizer with a chat template"), (PLAIN, CHAT[:1], "a turn of the assistant in conversation 0"),
    (PLAIN, {"prompt": "x"}, "found {'prompt': 'x'}"), (PLAIN, ["hi"], "each an object with role and content, in conversation 0"),
    (PLAIN, [*CHAT, {"content": "red"}], "each an object with role"), (PLAIN, [*CHAT, {"role": 3, "content": "red"}], "each an object with role"),
    (PLAIN, [*CHAT, {"role": "user"}], "a text as content of each message in conversation 0"),
    (PLAIN, [*CHAT, {"role": "user", "content": 3}], "a text as content"), (PLAIN, [*CHAT, {"role": "user", "content": ["red"]}], "a text as content"),
    (PLAIN, [*CHAT, {"role": "user", "content": "\ud800"}], "whole characters in conversation 0"),
    ("{{ messages[0].content + 3 }}", CHAT, "that the chat template takes in conversation 0"),
    ("{{ raise_exception('roles must alternate') }}", CHAT, "found: roles must alternate"),
    (PLAIN + "{% if add_generation_prompt %}three {% endif %}", CHAT, "begins the assistant's turn with its generation prompt")])
def test_what_cannot_be_read_is_a_sentence(template, given, sentence):
    with pytest.raises(InputError, match=sentence):
        chat_rows(tokenizer_of(template), [given])


def test_batches_are_padded_on_the_right_and_files_are_told_by_their_first_line(tmp_path):
    tokenizer = tokenizer_of(PLAIN)
    rows = chat_rows(tokenizer, [CHAT, CHAT[2:], CHAT[:2]])
    batches = in_batches(rows, 2, pad=0)
    assert [tuple(batch["labels"].shape) for batch in batches] == [(2, 13), (1, 7)]
    assert batches[0]["input_ids"][1].tolist() == rows[1]["input_ids"] + [0] * 7 and batches[0]["labels"][1, 6:].eq(-100).all()
    assert batches[0]["attention_mask"].sum(1).tolist() == [13, 6]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in (CHAT, CHAT[:2])))
    assert [row["messages"] for row in read_chats(file)] == [CHAT, CHAT[:2]]
    (tmp_path / "other.jsonl").write_text('{"prompt": "x", "answer": "y"}\n')
    assert read_chats(tmp_path / "other.jsonl") is None and read_chats("world-5") is None


@pytest.mark.parametrize("line, sentence", [
    ('{"messages": ["hi"]}', "each an object with role and content, in line 3 of"), ("[]", r"found \[\] on line 3; write an object with messages"),
    ('{"prompt": "x"}', "on line 3; write an object with messages"), ("{", "found something else .* on line 3; write one whole object a line"),
    ("[" * 100_000, "found something else .* on line 3"), ('{"messages": [{"role": "user", "content": "red"}]}', "turn of the assistant in line 3 of"),
    ('{"messages": [{"role": "assistant", "content": "\\ud800"}]}', "whole characters in line 3 of"),
    ('{"messages": [{"role": "assistant", "content": 3}]}', "a text as content of each message in line 3 of")])
def test_a_line_that_is_no_conversation_is_named(tmp_path, line, sentence):
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"messages": CHAT}) + f"\n\n{line}\n")
    with pytest.raises(InputError, match=sentence) as error:
        read_chats(file)
    assert str(file) in str(error.value)


def test_a_call_of_tools_needs_no_text():
    tokenizer = tokenizer_of(PLAIN.replace("{{ m['content'] }} </s>", "{{ m['content'] or m['tool_calls'][0] }} </s>"))
    call = {"role": "assistant", "content": None, "tool_calls": ["bad"]}
    assert shown(tokenizer, chat_rows(tokenizer, [[CHAT[0], call]])) == ["one red two [bad] [</s>]"]
