"""GainLoRA on InfLoRA: the gates of gainlora.py, and LoRAs whose A_t is designed as in inflora.py. Liang and Li, NeurIPS 2025,
arXiv 2505.15424.

    h = W x + s sum_i a_i B_i A_i x,   A_t from the task's inputs off what earlier tasks' inputs use, only B_t and the gate train

One of the paper's two pairings, the other is O-LoRA (row gainlora_olora). Ours: the inputs that A_t is designed from, and those
that count as used afterwards, are taken with every earlier gate wide open.
"""
from dataclasses import dataclass
from typing import ClassVar

from ..method import Card
from .gainlora import GainLoRA
from .inflora import InfLoRA


@dataclass
class GainInfLoRA(GainLoRA, InfLoRA):
    card: ClassVar[Card] = GainLoRA.card._replace(
        differs="gates as in gainlora; the inputs that InfLoRA looks at are taken with all gates open, and s = alpha/r")
