"""Checkpoints and files: whole or not at all, and nothing in them is executed."""

import os
import pickle

import pytest
import torch

from spm_runtime.errors import ModelError
from spm_training.checkpoint import load_checkpoint, save_checkpoint
from spm_training.files import replacing, write_atomically


def test_a_state_comes_back(tmp_path):
    file = tmp_path / "last.pt"
    save_checkpoint(file, {"epoch": 3, "weights": {"a": torch.arange(4)}, "best": float("inf"), "sums": {}})
    state = load_checkpoint(file)
    assert (state["epoch"], state["best"], state["sums"]) == (3, float("inf"), {})
    assert torch.equal(state["weights"]["a"], torch.arange(4))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path):
    file = tmp_path / "last.pt"
    save_checkpoint(file, {"epoch": 1})
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        save_checkpoint(file, {"epoch": 2, "cannot be pickled": lambda: None})
    assert load_checkpoint(file)["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    file = tmp_path / "metrics.json"
    write_atomically(file, b"old")

    def power_cut():
        with replacing(file) as half:
            half.write(b"ne")
            assert file.read_bytes() == b"old"
            raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="power"):
        power_cut()
    assert file.read_bytes() == b"old"
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_unusable_files_are_named(tmp_path):
    file = tmp_path / "last.pt"
    with pytest.raises(ModelError, match=r"last\.pt: not found"):
        load_checkpoint(file)
    file.write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match=r"last\.pt: cannot be read"):
        load_checkpoint(file)
    save_checkpoint(file, {"epoch": 1})
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ModelError, match=r"last\.pt: cannot be read"):
        load_checkpoint(file)
    torch.save({"format": 99}, file)
    with pytest.raises(ModelError, match="format 99; expected 1"):
        load_checkpoint(file)
    torch.save([1, 2], file)
    with pytest.raises(ModelError, match="format None"):
        load_checkpoint(file)


class Bomb:
    def __init__(self, target) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_a_checkpoint_cannot_run_code(tmp_path):
    file = tmp_path / "last.pt"
    torch.save({"format": 1, "weights": Bomb(tmp_path / "executed")}, file)
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(file)
    assert not (tmp_path / "executed").exists()
