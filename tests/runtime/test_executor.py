"""How work is parcelled out."""

from smart.runtime.executor import map_unordered, packs


def test_packs_keep_every_item_in_order_and_are_as_large_as_asked():
    sizes = [9, 5, 3, 3, 1, 1]
    assert list(packs(range(6), lambda item: sizes[item], 6)) == [[0], [1, 2], [3, 4, 5]]
    assert list(packs([], lambda item: 1, 6)) == []


def test_packs_are_worked_on_by_threads():
    todo = packs(range(10), lambda item: 1, 4)
    squared = map_unordered(lambda pack: [i * i for i in pack], todo, 2)
    found = {tuple(pack): squares for pack, squares in squared}
    assert found == {(0, 1, 2, 3): [0, 1, 4, 9], (4, 5, 6, 7): [16, 25, 36, 49], (8, 9): [64, 81]}
