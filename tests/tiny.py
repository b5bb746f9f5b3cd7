"""What several tests share: a random Llama, two tokenizers and LoRA factors, all made in memory from fixed seeds."""
import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mbf_utils.lora import Pair
from mbf_utils.method import Task

WORDS = "alpha beta gamma delta one two three four five six seven eight nine ten red green blue good bad : . ?".split()
SITES = {"layer.q": (9, 5), "layer.v": (7, 6)}      # module path -> (d_in, d_out), for tests without a model


def tiny_llama(seed=0, hidden=16) -> LlamaForCausalLM:
    """2 layers, 40 tokens; norms are random too, so that no layer is special."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, hidden_size=hidden, intermediate_size=hidden + 8, num_hidden_layers=2,
                                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64))
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def word_tokenizer(**special) -> PreTrainedTokenizerFast:
    """One token a word; <unk> for others. `special` changes the special tokens (bos_token=None for none)."""
    return _tokenizer(WORDS, pre_tokenizers.Whitespace(), special)


def character_tokenizer(**special) -> PreTrainedTokenizerFast:
    """One token a character."""
    return _tokenizer(sorted(set(" ".join(WORDS))), pre_tokenizers.Split(Regex("."), "isolated"), special)


def _tokenizer(vocabulary, splitter, special) -> PreTrainedTokenizerFast:
    ids = {token: i for i, token in enumerate(["<pad>", "<unk>", "<s>", "</s>", *vocabulary])}
    raw = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    raw.pre_tokenizer = splitter
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])    # as Llama's does
    return PreTrainedTokenizerFast(tokenizer_object=raw, **{"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>",
                                                            "eos_token": "</s>", **special})


def random_lora(sites=SITES, rank=3, seed=0, dtype=torch.float64) -> dict[str, Pair]:
    """Normal factors for every site."""
    rng = torch.Generator().manual_seed(seed)
    return {path: Pair(torch.randn(rank, d_in, generator=rng, dtype=dtype), torch.randn(d_out, rank, generator=rng, dtype=dtype))
            for path, (d_in, d_out) in sites.items()}


def make_task(index=1, name=None, train=(), rank=3, seed=0, sites=SITES) -> Task:
    return Task(index, name or f"task{index}", list(train), rank, 2.0, sites, seed)


def tensors(value):
    """Every tensor inside nested dicts, lists, tuples and Pairs."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def equal(one, other) -> bool:
    """Two Loras have the same modules and bit-identical factors."""
    return list(one) == list(other) and all(torch.equal(x, y) for x, y in zip(tensors(one), tensors(other)))


def widened_by_hand(M, R, share):
    """Gradient projection memory, column by column. M (d, k), R (d, n)."""
    total = np.linalg.norm(R) ** 2
    rest = R - M @ (M.T @ R)
    U, S, _ = np.linalg.svd(rest)
    held = (total - np.linalg.norm(rest) ** 2) / total
    for u, s in zip(U.T, S):
        if held >= share:
            break
        M, held = np.hstack([M, u[:, None]]), held + s ** 2 / total
    return M
