import pytest

from . import common


@pytest.fixture
def desk(tmp_path):
    return common.Desk(tmp_path)
