"""A second device without one: tensors that say that they lie elsewhere, and refuse to meet those of the CPU."""
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

PLACE = torch.device("meta")                        # a device that every build of torch knows; here its tensors hold numbers
MOVES = ("_to_copy", "copy_", "_copy_from")         # what may cross
INDEXED = ("index", "index_put", "index_put_")      # a tensor elsewhere may be indexed from here, as on a GPU


class Elsewhere(torch.Tensor):
    """A CPU tensor in disguise."""
    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), strides=inner.stride(), dtype=inner.dtype, device=PLACE,
                                                   storage_offset=inner.storage_offset())
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def data_ptr(self):
        return self.inner.data_ptr()

    def tolist(self):
        return self.detach().inner.tolist()

    def __repr__(self):
        return f"Elsewhere({self.inner})"


def run(func, args, kwargs):
    name, wanted = func.overloadpacket.__name__, kwargs.get("device")
    given = [item for item in tree_flatten((args, kwargs))[0] if isinstance(item, torch.Tensor)]
    first = isinstance(args[0], Elsewhere) if args else False
    away = any(isinstance(item, Elsewhere) for item in given)
    if away and name not in MOVES and not (name in INDEXED and first):
        here = [tuple(item.shape) for item in given if not isinstance(item, Elsewhere) and item.dim()]
        if here:
            raise RuntimeError(f"{func} meets tensors of two devices: those on the CPU have shapes {here}")
    goes = torch.device(wanted) == PLACE if wanted is not None else first if name in MOVES else away
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    known = {id(item.inner): item for item in given if isinstance(item, Elsewhere)}
    found = func(*tree_map(lambda x: x.inner if isinstance(x, Elsewhere) else x, args),
                 **tree_map(lambda x: x.inner if isinstance(x, Elsewhere) else x, kwargs))
    if not goes:
        return found
    return tree_map(lambda x: known[id(x)] if id(x) in known else Elsewhere(x) if isinstance(x, torch.Tensor) else x, found)


class There(TorchDispatchMode):
    """While open, what is made on PLACE is made elsewhere."""
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def __enter__(self):
        self.tensor = torch.tensor                  # which asks no mode where it makes things
        torch.tensor = lambda data, *, device="cpu", **options: self.tensor(data, **options).to(device)
        return super().__enter__()

    def __exit__(self, *error):
        torch.tensor = self.tensor
        return super().__exit__(*error)
