"""Tensors on disk as safetensors: atomic, without pickle, and equal bytes for equal content. Engineering."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cyclemimic.errors import InputError
from cyclemimic.store.atomic import write_atomically


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors of any shape and type, and strings about them, atomically.

    Tensors that share memory are stored once each: what is loaded shares nothing.
    """
    whole = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    seen: set[int] = set()
    for name, tensor in whole.items():
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            whole[name] = tensor.clone()
        seen.add(storage.data_ptr())

    def write(temporary: Path) -> None:
        save_file(whole, temporary, metadata=dict(metadata))
        _sort_metadata(temporary)

    write_atomically(path, write)


def load_tensors(path: Path | str, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file that `save_tensors` or any other safetensors writer wrote.

    Raises:
        InputError: the file is missing, cut short, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, expected="a safetensors file", got="no file", remedy="Check the path.")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            path,
            expected="a whole safetensors file",
            got=f"{path.stat().st_size} bytes that cannot be read ({error})",
            remedy="The file is cut short or of another format; copy or make it again.",
        ) from None
    # Copies: a tensor backed by the file would change or crash if somebody overwrote it in place.
    return {name: tensors[name].clone(memory_format=torch.contiguous_format) for name in sorted(tensors)}, metadata


def _sort_metadata(path: Path) -> None:
    """Give the header's strings a fixed order: the library keeps them in a randomly ordered map."""
    with path.open("rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(dict(sorted(header.items())), separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:  # never seen: both sides escape alike; an unsorted header is still right
            return
        file.seek(8)
        file.write(text.ljust(length))
