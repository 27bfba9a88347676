"""The licence of a base model, as its card states it."""

import pytest
from bad_input import BOMB

from stages.lib.bases import licence
from stages.lib.common import plain_yaml


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        ("---\nlicense: mit\n---\n# Model\n", "mit"),
        ("\ufeff---\r\nlanguage: ru\r\nlicense: apache-2.0\r\n---", "apache-2.0"),
        ("---\nlicense: mit\n---\n" + "text\n" * 100_000, "mit"),
        ("# No card\n", None),
        ("---\nlicense: mit\n", None),
        ("---\n: [\n---\n", None),
        ("---\n- license\n---\n", None),
        ("---\nlicense: [mit, gpl]\n---\n", None),
        ('---\nlicense: "\\e[31mmit"\n---\n', None),
        (f"---\nlicense: {'x' * 1000}\n---\n", None),
        (f"---\n{BOMB}license: *j\n---\n", None),
        (f"---\nlicense: {'[' * 50_000}\n---\n", None),
        (f"---\nlicense: {'9' * 5000}\n---\n", None),
    ],
)
def test_the_licence_is_the_one_the_folders_card_states(tmp_path, readme, expected):
    (tmp_path / "README.md").write_bytes(readme.encode())
    assert licence.stated(tmp_path) == expected


def test_a_bomb_of_aliases_is_one():
    """Or it would prove nothing: the value it stands for has more than a hundred million parts."""
    assert BOMB.count("*") == 81
    with pytest.raises(plain_yaml.Refused, match="line 2: an alias"):
        plain_yaml.parse(BOMB.encode())


def test_a_folder_without_a_card_states_none(tmp_path):
    assert licence.stated(tmp_path) is None
