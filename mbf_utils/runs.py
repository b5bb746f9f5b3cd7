"""A whole stream with one method: train, merge, score, store, task after task; resumed where it stopped."""
from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Callable, Generator

import torch
from accelerate import Accelerator

from . import __version__
from .adapters import Adapted, installed
from .errors import InputError
from .evaluation import Score, evaluate, general_loss
from .guards import enough_memory
from .lora import Lora, copied
from .method import Method, Task
from .methods import make_method
from .models import load_model, suggested
from .probe import Probe
from .results import Run
from .scores import score_of
from .settings import Settings
from .sharding import place, shard
from .sources import load_stream
from .store import Store, save_value, table, write_table
from .streams import Stream
from .text import check_fit, in_chat, token_ids
from .titles import name_of
from .training import accelerator_for, on_main, routed, train_task


def run_stream(stream, method="slao", model="tiny", seed: int = 0, out=None, resume: bool = True, **settings) -> Run:
    """Learns the stream's tasks in their order and returns the Run.

    stream: a Stream or what load_stream takes ("world-5", "world-5:2", a folder). method: a name in METHODS or a Method.
    model: a name, a folder or (model, tokenizer); it is given back as it was. out: the run's folder (None: a temporary
    one, gone with the Run; of several processes, with the main one's). resume: go on in a folder that holds the same run.
    settings: fields of settings.Settings.
    """
    run = None
    for run in walk_stream(stream, method, model, seed, out, resume, **settings):
        pass
    return run


def walk_stream(stream, method="slao", model="tiny", seed: int = 0, out=None, resume: bool = True, **settings) -> Generator[Run, None, None]:
    """The same, one task at a time: each `next` learns one more task. A finished run is yielded once."""
    name = method if isinstance(method, str) else name_of(method)
    method = make_method(method)
    stream = load_stream(stream)
    model, tokenizer = model if isinstance(model, tuple) else load_model(model)
    settings = settings_for(model, settings)
    stream = prepared(stream, tokenizer, model, settings)
    accelerator = accelerator_for(model)
    place(model, accelerator)
    main = partial(on_main, accelerator)
    temporary = (tempfile.TemporaryDirectory(prefix="mbf-", ignore_cleanup_errors=True)
                 if out is None and accelerator.is_main_process else None)
    folder = Path(main(lambda: temporary.name if temporary else out))
    config = config_of(stream, name, method, model, seed, settings, accelerator)
    with enough_memory("to learn", lower(settings)), \
            installed(model, targets_of(settings), settings.rank, settings.alpha, settings.dropout, settings.checkpointing) as adapted, \
            Store(folder, config, resume, main) as store:
        shard(adapted, accelerator)
        done = store.finished()
        if done:
            method.memory = store.memory(adapted.device)
        for index in range(done + 1, len(stream) + 1):
            _learn(index, stream, method, adapted, tokenizer, seed, settings, accelerator, store, resumed=index == done + 1 > 1)
            yield Run(folder, temporary)
    if done == len(stream):
        yield Run(folder, temporary)


def _learn(index: int, stream: Stream, method: Method, adapted: Adapted, tokenizer, seed: int, settings: Settings,
           accelerator: Accelerator, store: Store, resumed: bool) -> None:
    """Task `index`: train, finish, wear the result, score, commit."""
    task, log = begin(index, stream, adapted, tokenizer, seed, settings, accelerator.reduce)
    began = time.perf_counter()
    log["losses"] = train_task(adapted, method, task, tokenizer, settings, accelerator,
                               load=lambda: store.load_checkpoint(index, adapted.device),
                               save=lambda state: store.save_checkpoint(index, len(state["losses"]), state),
                               resumed=str(store.folder) if resumed else "")
    log["seconds_train"] = time.perf_counter() - began
    conclude(stream, method, task, copied(adapted.live()), adapted, tokenizer, settings, store, log)


def prepared(stream: Stream, tokenizer, model, settings: Settings) -> Stream:
    """The stream as it is learned: in the tokenizer's chat template where it is to be. Two tasks of one name are refused, a text
    with a token for which the model has no vector, and rows that training or scoring would refuse as too long."""
    if len(set(stream.names)) < len(stream):
        raise InputError(f"expected tasks of different names, found {stream.names}")
    stream = in_chat(stream, tokenizer) if stream.chat else stream
    vectors = len(model.get_input_embeddings().weight)
    if len(tokenizer) > vectors:                    # harmless where such tokens never occur
        rows = [row for task in stream for split in (task.train, task.dev, task.test) for row in split]
        texts = [text for row in rows for text in (row.prompt, *row.answers)]
        texts += [label for task in stream for label in task.labels] + [*stream.general]
        special = [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) if token is not None]
        if (largest := max(special + [token for ids in token_ids(tokenizer, texts) for token in ids])) >= vectors:
            raise InputError(f"expected a base with a vector for every token, found {vectors} vectors and token {largest} "
                             f"({tokenizer.convert_ids_to_tokens(largest)!r}): take the base's own tokenizer, or model.resize_token_embeddings")
    check_fit(tokenizer, stream, settings.max_length, ("train", settings.evaluate_on))
    return stream


def begin(index: int, stream: Stream, adapted: Adapted, tokenizer, seed: int, settings: Settings, total=lambda x: x) -> tuple[Task, dict]:
    """Task `index` and the beginning of its log. total: a tensor's sum over all processes."""
    data, log = stream[index - 1], {}
    task = Task(index, data.name, data.train, settings.rank, adapted.scaling, adapted.sites, seed, len(stream), adapted.device,
                probe=Probe(adapted, tokenizer, data.train, settings, total))
    if settings.unseen and index == 1:
        adapted.wear(task.fresh())                                   # B = 0: the base itself
        before = [_score(adapted, tokenizer, other, settings) for other in stream]
        log |= {"baseline": [score.exact for score in before], "baseline_options": [score.options for score in before],
                "baseline_score": [score.score for score in before]}
    return task, log


def conclude(stream: Stream, method: Method, task: Task, tuned: Lora, adapted: Adapted, tokenizer, settings: Settings,
             store: Store, log: dict) -> None:
    """After the training of `task`, which gave the factors `tuned`: finish, wear the result, score, commit."""
    began, index = time.perf_counter(), task.index
    result = method.finish(tuned, task)
    log["seconds_train"], began = log["seconds_train"] + time.perf_counter() - began, time.perf_counter()
    row, whole = [], index % settings.score_every == 0 or index == len(stream)
    with routed(adapted, method, task) as see:
        for other in stream if settings.unseen else stream[:index]:
            if whole or other.name == task.name:
                adapted.wear(method.worn(other.name, result))
                row.append(_score(adapted, tokenizer, other, settings, see))
            else:
                row.append(Score(*[float("nan")] * 3))
        adapted.wear(result)
        log["general_loss"] = general_loss(adapted.model, tokenizer, stream.general, settings.max_length,
                                           settings.eval_batch_size, see)
    if method.card.routes:                          # what the adapter is worth where nobody runs the router
        log["plain_exact"] = [_score(adapted, tokenizer, other, settings).exact for other in stream[:index]]
    log["modules"] = list(task.sites)               # in the model's order, in which a fresh start is drawn; adapters hold them sorted
    log["rows"] = [len(getattr(other, settings.evaluate_on)) for other in stream]
    log["seconds_evaluate"] = time.perf_counter() - began

    def write(folder: Path) -> None:
        adapted.save(result, folder / "result")
        adapted.save(tuned, folder / "tuned")
        save_value(method.memory, folder / "memory")
        tables = {"matrix.csv": [score.exact for score in row], "matrix-options.csv": [score.options for score in row]}
        if any(score_of(name, settings.scores) != "exact" for name in stream.names):
            tables["matrix-score.csv"] = [score.score for score in row]
        for name, scores in tables.items():
            write_table(table(store.rows(name) + [scores], stream.names), folder / name)
        (folder / "log.json").write_text(json.dumps(_strict(log), indent=1, allow_nan=False))

    store.commit_task(index, task.name, write, settings.keep)
    method.memory = store.memory(adapted.device)    # go on from what is stored, as a resumed run does


def _score(adapted: Adapted, tokenizer, task, settings: Settings, *see):
    return evaluate(adapted.model, tokenizer, task, settings.evaluate_on, settings.max_length, settings.eval_batch_size,
                    settings.max_new_tokens, settings.scores, *see)


def lower(settings: Settings) -> str:
    """What to lower where memory is short."""
    return (f"lower batch_size ({settings.batch_size}; raise accumulation ({settings.accumulation}) as much, and this run goes on), "
            f"max_length ({settings.max_length}), eval_batch_size ({settings.eval_batch_size}) or rank ({settings.rank}), or take a smaller "
            "base or quantize; finished tasks are kept")


def _strict(value):
    """NaN as null, which JSON has."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def targets_of(settings: Settings):
    return settings.targets if isinstance(settings.targets, str) else list(settings.targets)


def settings_for(model, given: dict) -> Settings:
    known = {field.name for field in dataclasses.fields(Settings)}
    if odd := sorted(given.keys() - known):
        raise InputError(f"expected settings among {', '.join(sorted(known))}, found {', '.join(odd)}")
    return Settings(**{**suggested(model), **given})


def config_of(stream: Stream, name: str, method: Method, model, seed: int, settings: Settings, accelerator) -> dict:
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}
    values = {key: [value(i) for i in range(1, len(stream) + 1)] if isinstance(value, Callable) else value
              for key, value in fields.items()}     # a schedule as its values
    return {
        "stream": {"name": stream.name, "order": stream.order, "named": stream.named,
                   "tasks": stream.names, "fingerprint": stream.fingerprint()},
        "method": {"name": name, "class": type(method).__name__, **values},
        "model": {"name": model.name_or_path, "fingerprint": fingerprint(model)},
        "seed": seed,
        "settings": settings.record(),
        "effective_batch": settings.batch_size * settings.accumulation * accelerator.num_processes,
        "device": str(accelerator.device),
        "versions": {"python": platform.python_version(), "mbf-utils": __version__,      # which need not be installed
                     **{package: version(package) for package in ("torch", "transformers", "peft", "accelerate")}},
        "record": stream.drawn | {
            "dtype": str(model.dtype).removeprefix("torch."), "quantize": _bits(model), "threads": torch.get_num_threads(),
            "card": torch.cuda.get_device_name(accelerator.device) if accelerator.device.type == "cuda" else None},
    }


def _bits(model) -> int | None:
    """Bits of the weights of a base that load_model quantized."""
    quantization = getattr(model.config, "quantization_config", None)
    return next((bits for bits in (4, 8) if getattr(quantization, f"load_in_{bits}bit", False)), None)


def fingerprint(model) -> str:
    """A hash of names, shapes and some values of every parameter: cheap also for large models."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        values = parameter.detach().flatten()
        some = values[::max(1, len(values) // 64)][:64].float().cpu().tolist()
        digest.update(f"{name} {tuple(parameter.shape)} {some}".encode())
    return digest.hexdigest()[:16]
