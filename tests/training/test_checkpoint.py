"""Checkpoints: what is torn, empty, foreign or too new is passed over with a word, and the one before is taken."""

from __future__ import annotations

import pytest
import torch

from rainbow_ray.training.checkpoint import FORMAT, MAX_CHECKPOINTS, CheckpointManager
from rainbow_ray.utils.errors import InputError


@pytest.fixture
def state(tmp_path):
    state = CheckpointManager(tmp_path)
    for step in (3, 7, 12):
        state.save(step, {"step": step, "model": {"a": torch.full((500,), float(step))}})
    return state


def test_the_newest_is_taken_and_old_ones_go(state):
    found, words = state.load_latest()
    assert found["step"] == 12
    assert words == []
    assert len(list(state.folder.glob("step-*.pt"))) == MAX_CHECKPOINTS


DAMAGE = {
    "torn": lambda whole: whole[:-100],
    "short": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "garbage": lambda whole: b"garbage",
    "a pickle": lambda whole: b"\x80\x04garbage",
    "one bit": lambda whole: (
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_one_is_passed_over_with_a_word(state, how):
    path = state.folder / "step-0000000012.pt"
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    found, words = state.load_latest()
    assert found["step"] == 7
    assert len(words) == 1
    assert str(path) in words[0]
    assert "is skipped" in words[0]
    (state.folder / "step-0000000007.pt").write_bytes(b"")
    assert state.load_latest()[0] is None


def test_a_foreign_one_is_passed_over_and_a_newer_format_stops(state):
    path = state.folder / "step-0000000012.pt"
    torch.save({"weights": torch.ones(3)}, path)
    found, words = state.load_latest()
    assert found["step"] == 7
    assert "not a checkpoint of rainbow_ray" in words[0]
    torch.save({"format": FORMAT + 1}, path)
    with pytest.raises(InputError, match="newer than this version"):
        state.load_latest()


def test_files_of_code_are_never_run(state, tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = state.folder / "step-0000000012.pt"
    torch.save({"format": FORMAT, "x": Evil()}, path, pickle_module=pickle)
    assert state.load_latest()[0]["step"] == 7
    assert not (tmp_path / "ran").exists()


def test_the_best_stays_while_a_checkpoint_speaks_of_it(tmp_path):
    state = CheckpointManager(tmp_path)
    state.save_best(2, {"model": {}}, keep=set())
    state.save_best(5, {"model": {}}, keep={2})
    assert state.load_best(2) is not None
    state.save_best(6, {"model": {}}, keep={5})
    assert state.load_best(2) is None
    assert state.load_best(5) is not None
    assert state.load_best(6) is not None


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"\x80\x04garbage"])
def test_a_damaged_result_is_none(tmp_path, garbage):
    state = CheckpointManager(tmp_path)
    assert state.load_result() is None
    (tmp_path / "result.npz").write_bytes(garbage)
    assert state.load_result() is None


def test_what_was_passed_over_does_not_crowd_out_what_comes(state):
    for step in (7, 12):
        (state.folder / f"step-{step:010d}.pt").write_bytes(b"torn")
    assert state.load_latest()[0] is None
    state.quarantine(-1)
    state.save(2, {"step": 2})
    state.save(4, {"step": 4})
    assert state.load_latest()[0]["step"] == 4
    assert len(list(state.folder.glob("*.refused"))) == 2


def test_an_objection_leads_to_the_one_before(state):
    found, words = state.load_latest(lambda one: "it is too good" if one["step"] == 12 else "")
    assert found["step"] == 7
    assert "too good" in words[0]
