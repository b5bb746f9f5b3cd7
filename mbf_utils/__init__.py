"""Continual learning of language models with one LoRA: SLAO, its rivals and the geometry behind them.

The face is lazy (PEP 562): `import mbf_utils` loads neither torch nor transformers.
"""
from importlib import import_module

__version__ = "0.1.0"

_FACE = {
    "Pair": "lora", "Lora": "lora", "Start": "lora",
    "Example": "streams", "TaskData": "streams", "Stream": "streams",
    "Method": "method", "METHODS": "methods",
    "load_stream": "sources", "load_model": "models",
    "Run": "results", "run_stream": "runs", "walk_stream": "runs", "compare": "comparison",
    "merge_adapters": "merging", "Continual": "continual", "make_base": "pretrain",
    "chat_rows": "chats", "merge_into_base": "serving", "InputError": "errors", "Worse": "errors",
}
_MODULES = ("abreast", "adapter_files", "adapters", "anatomy", "beliefs", "chats", "checks", "cluster", "comparison", "continual", "contract",
            "evaluation", "explorers", "explorers_tasks", "explorers_views", "findings", "folders", "geometry", "goals",
            "lessons", "loops", "lora", "merging", "method", "methods", "metrics", "models", "plots", "plots_bench",
            "plots_example", "plots_explore", "plots_geometry", "plots_merge", "plots_pairs", "plots_results", "plots_similarity",
            "plots_views", "presets", "pretrain", "probe", "published", "remerge", "reports", "reproduce", "results", "rouge",
            "rows", "runs", "scores", "search", "serving", "settings", "sharding", "similarity", "sources", "store", "streams",
            "subspaces", "tables", "text", "theory", "titles", "training", "updates", "versions", "widgets", "world")
__all__ = [*_FACE, *_MODULES]


def __getattr__(name):
    if name in _FACE:
        return getattr(import_module(f"{__name__}.{_FACE[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
