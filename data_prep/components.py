"""Which of many items are joined, directly or through others."""


class Components:
    """Union-find; a component is called by its first item.

    Args:
        count: of the items, each by itself at first.
    """

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, item: int) -> int:
        """The first item of this one's component."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, one: int, other: int) -> None:
        """Makes one component of two."""
        low, high = sorted((self.find(one), self.find(other)))
        self._parent[high] = low
