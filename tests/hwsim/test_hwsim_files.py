import os

import pytest

from hwsim import files
from hwsim.errors import UserError


def test_writes_whole_file_and_leaves_no_temporary(tmp_path):
    target = tmp_path / "deep" / "plan.json"
    files.write_text(target, "grün")
    files.write_text(target, "new")
    assert target.read_text(encoding="utf-8") == "new"
    assert os.listdir(target.parent) == ["plan.json"]


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "plan.json"
    files.write_text(target, "old")

    def full_disk(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match="No space left on device") as caught:
        files.write_text(target, "new")
    assert "\n" not in str(caught.value)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["plan.json"]


def test_directory_in_the_way_of_the_output(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        files.write_text(tmp_path / "file" / "plan.json", "x")


def test_a_plan_is_named_by_its_file_or_its_directory(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    assert files.plan_file(tmp_path, "--plan") == files.plan_file(tmp_path / "plan.json", "--plan")
    with pytest.raises(UserError, match=r"--plan .*no such file"):
        files.plan_file(tmp_path / "other", "--plan")


def test_samples_are_looked_for_under_the_flag_that_names_them(tmp_path):
    files.existing_data(str(tmp_path), "--data")
    (tmp_path / "feed.py").write_text("")
    files.existing_data(f"{tmp_path}/feed.py:samples", "--data")
    with pytest.raises(UserError, match=r"--data .*gone.py:samples: no such file or folder"):
        files.existing_data(f"{tmp_path}/gone.py:samples", "--data")
