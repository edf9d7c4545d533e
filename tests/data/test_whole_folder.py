"""A folder that is written hidden: what is in it at first, and what is left of it."""

import pytest

from data.whole_folder import hidden_folder


@pytest.mark.parametrize("keep", [False, True])
def test_what_a_killed_process_left_is_kept_where_asked_for(tmp_path, keep):
    hidden = tmp_path / ".set.packing"
    hidden.mkdir()
    (hidden / "left").write_text("")
    with hidden_folder(tmp_path / "set", keep=keep) as folder:
        assert [path.name for path in folder.iterdir()] == ["left"] * keep
    assert not hidden.exists()


@pytest.mark.parametrize(
    ("keep", "error", "stays"),
    [
        (True, KeyboardInterrupt, True),
        (False, KeyboardInterrupt, False),
        (True, OSError, False),
        (False, OSError, False),
    ],
)
def test_only_an_interrupt_leaves_what_is_kept(tmp_path, keep, error, stays):
    with pytest.raises(error), hidden_folder(tmp_path / "set", keep=keep) as folder:
        (folder / "written").write_text("")
        raise error
    assert (tmp_path / ".set.packing" / "written").exists() == stays
