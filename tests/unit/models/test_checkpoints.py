import random

import numpy as np
import torch

from sluice.models.checkpoints import CheckpointFolder, random_state, set_random_state


def state(value):
    return {"weights": torch.full((50, 3), float(value)), "rows": [{"epoch": value}], "random": random_state()}


def test_the_newest_is_loaded_and_two_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path, "digest")
    for step in (10, 20, 30):
        folder.save(step, state(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000000020.ckpt", "step_000000030.ckpt"]
    assert folder.load()["rows"] == [{"epoch": 30}]


def test_a_damaged_checkpoint_falls_back_to_the_older_one(tmp_path, capsys):
    folder = CheckpointFolder(tmp_path, "digest")
    folder.save(10, state(10))
    newest = folder.save(20, state(20))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert folder.load()["rows"] == [{"epoch": 10}]
    assert "damaged" in capsys.readouterr().err
    newest.write_bytes(bytes(content[:100]))
    assert folder.load()["rows"] == [{"epoch": 10}]


def test_other_settings_start_anew(tmp_path):
    CheckpointFolder(tmp_path, "one").save(10, state(10))
    other = CheckpointFolder(tmp_path, "two")
    assert other.load() is None
    other.save(5, state(5))
    assert other.load()["rows"] == [{"epoch": 5}]


def test_random_numbers_go_on_where_they_were(tmp_path):
    folder = CheckpointFolder(tmp_path, "digest")
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    torch.randn(7), np.random.rand(7), random.random()
    folder.save(1, state(1))
    expected = torch.randn(5).tolist(), np.random.rand(5).tolist(), random.random()
    set_random_state(folder.load()["random"])
    assert (torch.randn(5).tolist(), np.random.rand(5).tolist(), random.random()) == expected
