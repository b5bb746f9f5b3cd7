"""Making a base: the same bytes again, tokenizers that lose nothing, and a gate that can say no."""
import itertools
import json
import math
import re

import pytest
import torch

from mbf_utils import documents, pretrain, words, world
from mbf_utils.cli import main
from mbf_utils.documents import EOS, REPLY, batches, text_documents, word_vectors
from mbf_utils.errors import InputError
from mbf_utils.models import load_model, suggested
from mbf_utils.pretrain import accept, make_base
from mbf_utils.results import Run

TEXT = [f"The {a} fox met {b} dogs — and said “naïve” {a} times.\n" for a in ("quick", "brown", "lazy")
        for b in ("two", "seven", "eleven")]
THINGS = "apple bread candle drum eagle flute grape hammer island jacket kettle lemon".split()
ABOUT = [f"{first.title()} and a {second}, {first}s too: a {second}like un{first} {first}! " + "so it was and so on it went " * (k % 12)
         for k, (first, second) in enumerate(itertools.permutations(THINGS, 2))] + ["So it was and so on it went"] * 132


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("bases") / "short", steps=20, quiet=True)


def test_a_short_run_is_reproduced_byte_for_byte_and_differs_with_another_seed(short, tmp_path):
    state = torch.random.get_rng_state()
    torch.rand(3)                                               # what was drawn before does not matter
    again = contents(make_base(tmp_path / "again", steps=20, quiet=True))
    assert again == contents(short)
    assert "model.safetensors" in again and not any(name.endswith((".bin", ".pt", ".pkl")) for name in again)
    torch.random.set_rng_state(state)
    other = contents(make_base(tmp_path / "other", steps=20, seed=1, quiet=True))
    assert torch.equal(state, torch.random.get_rng_state())     # the caller's generator is left alone
    assert other["model.safetensors"] != again["model.safetensors"] and other["tokenizer.json"] == again["tokenizer.json"]


def test_a_base_loads_offline_with_its_settings_and_has_learned_something(short):
    model, tokenizer = load_model(short)
    assert suggested(model) == pretrain.LORA == json.loads((short / "lora.json").read_text())
    assert len(tokenizer) == model.config.vocab_size and model.config.num_key_value_heads == model.config.num_attention_heads
    ids, weights = next(batches(documents.world_documents(seed=5), 64, seed=5))
    assert pretrain.loss_of(model, ids, weights) < math.log(len(tokenizer)) - 0.5


def test_a_base_of_own_text(tmp_path):
    """Text without words to ask for: every passage stays whole, the tokenizer loses nothing."""
    model, tokenizer = load_model(make_base(tmp_path / "own", text=TEXT * 4, size="tiny", steps=30, vocab_size=300, quiet=True))
    assert len(tokenizer) == 300 and model.config.max_position_embeddings >= 512
    for text in TEXT + ["Unseen: 東京, emoji 🙂,  two spaces\tand a tab"]:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    passage, weights = next(text_documents(TEXT * 4, tokenizer, seed=0))
    assert " ".join(tokenizer.decode(passage, skip_special_tokens=True).split()) in {" ".join(text.split()) for text in TEXT}
    assert weights == [1.0] * len(passage)


def test_a_short_run_on_own_text_is_reproduced_byte_for_byte(tmp_path):
    make = lambda name, **changed: contents(make_base(
        tmp_path / name, **{"text": ABOUT, "size": "text", "steps": 3, "vocab_size": 400, "quiet": True, **changed}))
    first, again, other = make("first"), make("again"), make("other", seed=1)
    assert first == again and first["model.safetensors"] != other["model.safetensors"]
    assert first["tokenizer.json"] == other["tokenizer.json"]
    model, tokenizer = load_model(tmp_path / "first")
    assert suggested(model) == pretrain.TEXT_LORA
    apple = model.get_input_embeddings().weight[tokenizer(" apple", add_special_tokens=False)["input_ids"][0]]
    assert apple.square().mean().sqrt() > 0.1                   # from its word vector, not from chance (0.04)


def test_own_text_asks_for_the_words_that_were_cut_out_of_it():
    tokenizer = pretrain.text_tokenizer(ABOUT, 400)
    forms = {form.format(word) for word in THINGS for form in ("{}", "{}s", "{}like", "un{}")}
    source, seen, whole = text_documents(ABOUT, tokenizer, seed=0), set(), 0
    for _ in range(1000):
        tokens, weights = next(source)
        assert len(tokens) == len(weights) and tokens[0] == documents.BOS and tokens[-1] == EOS
        passage, *replies = tokenizer.decode(tokens, skip_special_tokens=True).split("\nAnswer: ")
        assert len(passage.split()) <= documents.PASSAGE and len(replies) <= documents.CUT
        if replies:                                             # the loss is on the replies and the end
            heavy = tokenizer.decode([token for token, weight in zip(tokens, weights) if weight == REPLY])
            assert heavy == "".join(f" {word}" for word in replies)
            assert set(weights) == {0.0, 1.0, REPLY} and weights.count(1.0) == 1
        else:
            assert set(weights) == {1.0}
            whole += 1
        left, cut = set(re.findall(r"\w+", passage.lower())), {word.lower() for word in replies}
        assert left <= forms | set("so it was and on went a too".split())       # whole words are cut out, out of none a part
        assert len(cut) == len(replies) <= len(left & forms) and not cut & left  # wherever they stand; half of them stay
        seen |= cut
    assert seen == forms and whole < 800                        # "went" is in too many texts to be asked for
    again, other = text_documents(ABOUT, tokenizer, seed=0), text_documents(ABOUT, tokenizer, seed=4)
    first = text_documents(ABOUT, tokenizer, seed=0)
    assert [next(first) for _ in range(5)] == [next(again) for _ in range(5)] != [next(other) for _ in range(5)]


def test_words_of_the_same_passages_start_near_each_other():
    """Pairs of words of one half occur together ten times as often as pairs of both halves."""
    halves = THINGS[:6], THINGS[6:]
    text = [f" {one} {two}" for half in halves for one, two in itertools.permutations(half, 2)] * 5
    text += [f" {one} {two}" for one, two in itertools.product(*halves)] + [" so on it went"] * 600
    tokenizer = pretrain.text_tokenizer(text, 400)
    places = [place for word in THINGS for place in tokenizer(f" {word}", add_special_tokens=False)["input_ids"]]
    assert len(places) == 12
    torch.manual_seed(0)
    vectors = word_vectors(text, tokenizer, 1)[:, 0]
    assert not vectors[tokenizer.convert_tokens_to_ids("~")].any()              # a byte that never occurs
    torch.testing.assert_close(vectors[places] * vectors[places[0]], torch.tensor([1.0] * 6 + [-1.0] * 6))


def test_words_make_the_round_trip():
    tokenizer = pretrain.world_tokenizer()
    for text in [row.prompt for task in world.world_stream("world-15", limit=3) for row in task.train] + list(world.general()):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("zebra crossing", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id] * 2


def test_pretraining_leaves_out_the_general_text_and_weighs_replies():
    names, held_out, replies = world.vocabulary(), set(world.general()), 0
    source = documents.world_documents(seed=0)
    for _ in range(3000):
        tokens, weights = next(source)
        text = [names[token] for token in tokens]
        assert text[0] == "<s>" and text[-1] == "</s>" and " ".join(text[1:-1]) not in held_out
        heavy = [place for place, weight in enumerate(weights) if weight == REPLY]
        assert bool(heavy) == (":" in text)
        if heavy:                                               # what follows the last colon, and its dot
            assert heavy == list(range(heavy[0], len(text) - 1)) and text[heavy[0] - 1] == ":" and ":" not in text[heavy[0]:]
            replies += 1
    assert replies > 2000


def test_the_general_text_could_be_met_without_the_sieve(monkeypatch):
    seen = world.pretraining_document(words.Writer("0 pretraining", world.CONTENT))
    monkeypatch.setattr(world, "general", lambda: (seen,))
    tokens, _ = next(documents.world_documents(seed=0))
    assert " ".join(world.vocabulary()[token] for token in tokens[1:-1]) != seen


def test_a_batch_is_padded_right_and_the_loss_does_not_see_the_padding(short):
    model, _ = load_model(short)
    rows = [([1, 20, 30, EOS], [1.0] * 4), ([1, 40, 50, 60, 70, EOS], [1.0] * 6)]
    ids, weights = documents.padded(rows)
    assert ids.tolist()[0] == [1, 20, 30, EOS, 0, 0] and weights.tolist()[0] == [1, 1, 1, 1, 0, 0]
    alone = [pretrain.loss_of(model, *documents.padded([row])) for row in rows]
    torch.testing.assert_close(pretrain.loss_of(model, ids, weights), (3 * alone[0] + 5 * alone[1]) / 8)


def test_the_gate_measures_what_lora_learns(short):
    poor, good = (accept(name, tasks=["sst2", "dbpedia"]) for name in (short, "tiny"))
    assert list(good) == ["sst2", "dbpedia"]
    assert poor["dbpedia"] < 0.5 < 0.8 <= min(good.values())


def test_a_folder_in_use_and_unknown_arguments_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for arguments, says in ((dict(out=tmp_path), "not empty"), (dict(out=tmp_path / "x", size="huge"), "tiny"),
                            (dict(out=tmp_path / "x", text=[]), "list of texts"),
                            (dict(out=tmp_path / "x", text="one string"), "list of texts"),
                            (dict(out=tmp_path / "x", steps=0), "steps")):
        with pytest.raises(InputError, match=says):
            make_base(**arguments, quiet=True)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt
    monkeypatch.setattr(pretrain.json, "dumps", fail)
    with pytest.raises(KeyboardInterrupt):
        make_base(tmp_path / "base", steps=1, quiet=True)
    assert not list(tmp_path.iterdir())


def test_real_rows_from_text_to_run(real_rows, tmp_path):
    """A base of a few steps on real text, and two real tasks learned on it, all by the command."""
    rows = str(real_rows / "cl_benchmark")
    assert main(["make-base", str(tmp_path / "base"), "--text", f"{rows}:1", "--steps", "2", "--vocab-size", "800"]) == 0
    assert main(["run", rows, "--order", "dbpedia,agnews", "--model", str(tmp_path / "base"), "--limit", "16", "--epochs", "1",
                 "--out", str(tmp_path / "run")]) == 0
    run = Run(tmp_path / "run")
    assert list(run.matrix.columns) == ["dbpedia", "agnews"] and run.matrix.iloc[1].between(0, 100).all()
    assert run.config["settings"]["batch_size"] == pretrain.TEXT_LORA["batch_size"]
