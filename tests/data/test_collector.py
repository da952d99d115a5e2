import gc
import weakref
from collections.abc import Iterator

import pytest

from xmas_job.data.collector import collector_paused


class Cycle:
    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_nothing_is_collected_inside_and_what_was_made_is_set_aside() -> None:
    with collector_paused():
        assert not gc.isenabled()
        made = weakref.ref(Cycle())
    assert gc.isenabled()
    gc.collect()
    assert made() is not None
    gc.unfreeze()
    gc.collect()
    assert made() is None


def test_collection_goes_on_after_an_error_and_stays_off_where_it_was_off() -> None:
    with pytest.raises(ZeroDivisionError), collector_paused():
        _ = 1 / 0
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
