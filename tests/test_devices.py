"""Every method on another device than the CPU: nothing that it makes is left behind on the wrong one."""
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from accelerate import DistributedType
from elsewhere import PLACE, Elsewhere, There
from tiny import tensors, tiny_llama, word_tokenizer
from toy import FAST, rows

from mbf_utils.adapters import Adapted
from mbf_utils.lora import Pair, copied, each
from mbf_utils.method import Method, Task
from mbf_utils.methods import METHODS
from mbf_utils.probe import Probe
from mbf_utils.settings import Settings
from mbf_utils.store import pack, unpack
from mbf_utils.text import collate, encode
from mbf_utils.training import routed, train_task

SETTINGS = Settings(**{**FAST, "targets": ("q_proj", "v_proj"), "dropout": 0.0, "batch_size": 4, "accumulation": 1})
ROWS = [rows(4, answers, f"elsewhere {i}") for i, answers in enumerate([("good", "bad"), ("red", "green", "blue")])]


class Plain:
    """As much of an Accelerator as one process without a GPU needs."""
    num_processes, process_index, is_main_process, scaler, distributed_type = 1, 0, True, None, DistributedType.NO

    def __init__(self, device):
        self.device = torch.device(device)

    def prepare_optimizer(self, optimizer):
        return optimizer

    def autocast(self):
        return nullcontext()

    def unscale_gradients(self):
        pass

    def no_sync(self, model):
        return nullcontext()

    def backward(self, loss):
        loss.backward()

    def reduce(self, value):
        return value

    def clip_grad_norm_(self, parameters, size):
        torch.nn.utils.clip_grad_norm_(parameters, size, foreach=False)

    def unwrap_model(self, model, **_):
        return model

    def free_memory(self, *things):
        return [None] * len(things)


def moved(model):
    """All that the model holds, elsewhere; `model.to` leaves what is there already."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None and not isinstance(tensor.data, Elsewhere):
                    away = Elsewhere(tensor.data)
                    held[name] = torch.nn.Parameter(away, False) if held is module._parameters else away
    return model


def life(method: Method, device) -> None:
    """Two tasks: trained, finished, worn and asked, the memory stored and read again."""
    model, tokenizer = tiny_llama(), word_tokenizer()
    adapted = Adapted(model if device == "cpu" else moved(model), list(SETTINGS.targets), SETTINGS.rank, SETTINGS.alpha)
    if device != "cpu":                             # PEFT leaves an adapter that is added to a model on this very device on the CPU
        add, adapted.model.add_adapter = adapted.model.add_adapter, lambda *given: (add(*given), moved(adapted.model))
    for index, some in enumerate(ROWS, 1):
        task = Task(index, f"task{index}", some, SETTINGS.rank, adapted.scaling, adapted.sites, 0, 2, adapted.device,
                    probe=Probe(adapted, tokenizer, some, SETTINGS))
        train_task(adapted, method, task, tokenizer, SETTINGS, Plain(device))
        result = method.finish(copied(adapted.live()), task)
        assert all(tensor.device == torch.device(device) for tensor in tensors(result))
        with routed(adapted, method, task) as see, torch.no_grad():
            adapted.wear(method.worn("task1", result))
            batch = collate(encode(tokenizer, some, 32), 0, device)
            see(batch)
            assert adapted.model(input_ids=batch.ids).logits.isfinite().all()
        tree, stored = pack(method.memory)
        method.memory = unpack(tree, {name: tensor.clone().to(device) for name, tensor in stored.items()})


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith(("slao_", "ema_"))])     # those differ in numbers
def test_a_method_learns_elsewhere(name):
    with There():
        life(METHODS[name](), PLACE)


@dataclass
class Stayer(Method):
    """Makes a tensor where nobody asked for it."""
    def finish(self, tuned, task):
        self.memory["tuned"] = each(lambda pair: Pair(pair.A, pair.B + torch.zeros(*pair.B.shape)), tuned)
        return self.memory["tuned"]


def test_a_tensor_left_on_the_cpu_is_noticed():
    life(Stayer(), "cpu")
    with There(), pytest.raises(RuntimeError, match="two devices"):
        life(Stayer(), PLACE)
