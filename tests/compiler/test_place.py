"""Places in memory: what lives at the same time never shares a byte."""

from hypothesis import given
from hypothesis import strategies as st

from knerex_jax.compiler.place import Region, overlaps, place


@st.composite
def regions(draw: st.DrawFn) -> list[Region]:
    found = []
    for _ in range(draw(st.integers(1, 30))):
        first = draw(st.integers(0, 20))
        found.append(Region(draw(st.integers(1, 200)), first, draw(st.integers(first, 25))))
    return found


@given(regions())
def test_what_lives_together_lies_apart(found):
    offsets, top = place(found)
    for i, (a, x) in enumerate(zip(found, offsets, strict=True)):
        assert x % 16 == 0 and x + a.size <= top
        for b, y in zip(found[:i], offsets, strict=False):
            together = a.first <= b.last and b.first <= a.last
            assert not together or x + a.size <= y or y + b.size <= x


@given(regions())
def test_the_check_finds_what_is_put_on_top_of_each_other(found):
    pairs = {
        (i, j)
        for j in range(len(found))
        for i in range(j)
        if found[i].first <= found[j].last and found[j].first <= found[i].last
    }
    assert {tuple(sorted(p)) for p in overlaps(found, [0] * len(found))} == pairs


def test_room_is_used_again():
    offsets, top = place([Region(64, 0, 1), Region(64, 2, 3), Region(32, 1, 2)])
    assert offsets == [0, 0, 64] and top == 96
