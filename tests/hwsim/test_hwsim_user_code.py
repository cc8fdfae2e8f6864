"""Files of the user's own may import what lies beside them, from any working directory."""

import sys

import pytest

from hwsim.errors import UserError
from hwsim.user_code import run_file, user_function


def test_imports_what_lies_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_the_user_file.py").write_text("VALUE = 7\n")
    (tmp_path / "mine.py").write_text("from beside_the_user_file import VALUE\n")
    assert run_file(tmp_path / "mine.py").VALUE == 7


def test_hides_nothing_that_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "colorsys.py").write_text("raise AssertionError\n")
    (tmp_path / "mine.py").write_text("import colorsys\n")
    assert hasattr(run_file(tmp_path / "mine.py").colorsys, "rgb_to_hsv")


def test_an_error_in_the_file_comes_through(tmp_path):
    (tmp_path / "mine.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        run_file(tmp_path / "mine.py")


def test_a_slip_in_the_functions_name_is_answered(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text("def make(): pass\n")
    with pytest.raises(UserError, match="no function 'mak'; did you mean 'make'"):
        user_function(tmp_path / "mine.py", "mak", "--model")
