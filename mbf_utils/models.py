"""Load a base model and its tokenizer: a built-in one, a local folder, or one of the Hugging Face Hub.

Built in, made by `pretrain.make_base` and lying in `mbf_utils/bases`: "tiny" and "small", little Llamas of 0.19 and 0.95
million parameters that know the offline world. They take the same path as a Llama of the Hub.
"""
from __future__ import annotations

import importlib.util
import os
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging

from mbf_utils.errors import InputError
from mbf_utils.guards import enough_memory, is_want_of_memory
from mbf_utils.rows import json_of
from mbf_utils.settings import Settings
from mbf_utils.sharding import wanted

BASES = Path(__file__).parent / "bases"
BUILT_IN = ("tiny", "small")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str = "auto") -> str:
    """"auto" is the first there is of cuda, mps and cpu, of several cards this process's own; any other name is taken as it is,
    but meta, on which weights have no values."""
    if str(device).partition(":")[0] == "meta":
        raise InputError(f"expected a device that holds values, as cpu, cuda or mps, found {str(device)!r}: leave it out")
    if device != "auto":
        return str(device)
    rank = os.environ.get("LOCAL_RANK")
    if torch.cuda.is_available():
        return f"cuda:{int(rank) % torch.cuda.device_count()}" if rank else "cuda"      # a process may see its own card alone
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_dtype(dtype="auto", device: str = "cpu") -> torch.dtype:
    """"auto": bfloat16 where CUDA has it in hardware, float16 on older CUDA, float32 elsewhere. Else a dtype or its name."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        if not device.startswith("cuda"):
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if dtype not in DTYPES:
        raise InputError(f"dtype is auto, {', '.join(DTYPES)} or a torch.dtype, not {dtype!r}.")
    return DTYPES[dtype]


@contextmanager
def no_bars(wanted: bool = True):
    """Without the progress bars of transformers: reading local files is a moment."""
    shown = logging.is_progress_bar_enabled()
    if wanted:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _quantization(quantize, device: str, dtype: torch.dtype):
    if quantize is None:
        return None
    if quantize not in (4, 8):
        raise InputError(f"quantize is None, 4 or 8 (bits), not {quantize!r}.")
    if not device.startswith("cuda"):
        raise InputError(f"quantize={quantize} needs a CUDA device, found {device}; leave it out to load the whole weights.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"quantize={quantize} needs the package bitsandbytes; install it with pip install 'mbf-utils[gpu]'.")
    if quantize == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=dtype)


def _place(name: str) -> str:
    """Where a name's files are: a built-in base's folder, a local folder, or the name itself for the Hub."""
    if name in BUILT_IN:
        return str(BASES / name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"the folder {name} holds no config.json; give a folder written by save_pretrained.")
        return str(folder)
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise InputError(f"no model {name!r}: it is neither built in ({', '.join(BUILT_IN)}), nor a folder that exists, "
                         "nor of the form owner/name as on the Hub.")
    return name


def load_model(name_or_path="tiny", device="auto", dtype="auto", quantize=None):
    """Load (model, tokenizer), ready to wear a LoRA: in eval mode, every weight frozen.

    name_or_path: "tiny" or "small" (built in), a local folder, or owner/name on the Hub. device: auto is cuda, mps or
    cpu, the first there is. dtype: auto is bfloat16 on CUDA with bfloat16 in hardware, float16 on other CUDA, float32
    elsewhere, and for the built-in bases, which are small: the same numbers on a card as on a CPU. Attention is SDPA wherever the architecture has it (Gemma 2 has not). quantize: None, or 4 or 8 bits by
    bitsandbytes (CUDA only). Only safetensors weights are read and no code of a repository is run. A tokenizer without a pad
    token pads with its unk, else its eos token: padding is masked, so any will do, but eos is also an answer's end. Whatever
    cannot be loaded raises InputError.
    """
    name = str(name_or_path)
    place, device = _place(name), choose_device(device)
    dtype = torch.float32 if dtype == "auto" and name in BUILT_IN else choose_dtype(dtype, device)
    quantization = _quantization(quantize, device, dtype)
    local = place != name or Path(place).is_dir()
    failed = None
    with enough_memory(f"for the model {name!r}", "take a smaller one, dtype bfloat16, or quantize=4 on CUDA"):
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=local, trust_remote_code=False)
            with no_bars(local):
                model, about = AutoModelForCausalLM.from_pretrained(
                    place, dtype=dtype, quantization_config=quantization, use_safetensors=True, output_loading_info=True,
                    ignore_mismatched_sizes=True,                # they are refused below, by name
                    trust_remote_code=False, local_files_only=local, device_map={"": device} if quantization else None)
            if not quantization:
                model.to("cpu" if wanted() else device)          # sharding takes it from there
        except Exception as error:                  # of whatever kind: each library has its own for a damaged or missing file
            if is_want_of_memory(error):
                raise
            failed = (str(error).strip() or type(error).__name__).splitlines()[0]
    if failed is not None:
        raise InputError(f"the model {name!r} could not be loaded ({failed}); check the name, and when offline that it is "
                         "already in the Hugging Face cache, or give a local folder.")
    _expect_whole(name, about)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    if name in BUILT_IN:                                        # an adapter saved from it then names no path of this machine
        model.name_or_path = model.config._name_or_path = tokenizer.name_or_path = name
    return model.eval().requires_grad_(False), tokenizer


def _expect_whole(name: str, about: dict) -> None:
    """Refuses what transformers fills with random numbers: weights (other than tied ones) that the files lack, or hold in another shape.
    about: its output_loading_info."""
    odd = sorted(about["missing_keys"]) + sorted(key if isinstance(key, str) else key[0] for key in about["mismatched_keys"])
    if odd:
        raise InputError(f"expected all weights of the model {name!r}, found {len(odd)} missing or of another shape ({', '.join(odd[:3])}"
                         f"{', ...' * (len(odd) > 3)}), which would be random: bring its files back whole, or mend its config.json")


def suggested(model) -> dict:
    """The LoRA settings that travel with a base, as `lora.json` beside its weights; {} where it has none.

    Found by the model's own name_or_path, so a model that was loaded from a folder finds it there. Raises InputError where the
    file is no object of fields of settings.Settings.
    """
    name = model.config._name_or_path
    file = (BASES / name if name in BUILT_IN else Path(name)) / "lora.json"
    if not file.is_file():
        return {}
    found, known = json_of(file), {field.name for field in fields(Settings)}
    if not isinstance(found, dict) or found.keys() - known:
        raise InputError(f"expected an object of settings ({', '.join(sorted(known))}) in {file}, found "
                         f"{', '.join(sorted(found.keys() - known)) if isinstance(found, dict) else type(found).__name__}: mend or remove it")
    return found
