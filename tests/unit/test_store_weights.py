import subprocess
import sys

import pytest
import torch

from cyclemimic.errors import InputError
from cyclemimic.store.weights import load_tensors, save_tensors


def test_tensors_and_strings_come_back(tmp_path):
    tensors = {
        "b": torch.arange(35.0).reshape(5, 7).T,  # not contiguous
        "a": torch.tensor([1, 2, 3]),
        "h": torch.randn(2, 3, dtype=torch.bfloat16),
        "scalar": torch.tensor(2.5, requires_grad=True),
        "empty": torch.zeros(0, 3),
    }
    save_tensors(tmp_path / "w.safetensors", tensors, {"made_by": "test", "ü": 'quote " \n'})
    loaded, metadata = load_tensors(tmp_path / "w.safetensors")
    assert metadata == {"made_by": "test", "ü": 'quote " \n'}
    assert list(loaded) == sorted(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded[name], tensor.detach(), rtol=0, atol=0)


def test_tensors_that_share_memory_are_stored_each(tmp_path):
    whole = torch.arange(12.0)
    save_tensors(tmp_path / "w", {"whole": whole, "tied": whole, "part": whole[3:5]}, {})
    loaded, _ = load_tensors(tmp_path / "w")
    assert loaded["tied"].tolist() == whole.tolist() and loaded["part"].tolist() == [3.0, 4.0]
    loaded["whole"].zero_()
    assert loaded["tied"].sum() > 0


def test_equal_content_gives_equal_bytes_in_every_process(tmp_path):
    code = (
        "import sys, torch; from cyclemimic.store.weights import save_tensors;"
        "save_tensors(sys.argv[1], {n: torch.ones(5) for n in sys.argv[2]}, {n: n for n in sys.argv[2]})"
    )
    for name, order in (("one", "abcdefgh"), ("two", "hgfedcba")):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name), order], check=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("damage", ["cut header", "cut data", "foreign", "zero", "absent"])
def test_a_bad_file_is_named(tmp_path, damage):
    path = tmp_path / "w.safetensors"
    save_tensors(path, {"a": torch.arange(50.0)}, {"k": "v"})
    content = path.read_bytes()
    new = {"cut header": content[:20], "cut data": content[:-9], "foreign": b"PK\x03\x04" * 30, "zero": b""}
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(new[damage])
    with pytest.raises(InputError, match=r"w\.safetensors"):
        load_tensors(path)


def test_an_interrupted_save_keeps_the_old_file(tmp_path):
    save_tensors(tmp_path / "w", {"a": torch.ones(3)}, {})
    with pytest.raises(TypeError):
        save_tensors(tmp_path / "w", {"a": torch.zeros(3)}, {"k": 3})
    assert load_tensors(tmp_path / "w")[0]["a"].sum() == 3
    assert [p.name for p in tmp_path.iterdir()] == ["w"]
