"""A scalar autograd engine: numbers that remember how they were made, and pass gradients back."""

# Written by `make export` from a_one_page.ipynb; change it there.

import math

__all__ = [
    "Value",
    "as_value",
    "dot",
]

# %% a_one_page.ipynb #fa3f56ff
class Value:
    """A float that remembers its parents, and its slope (partial derivative) along each.

    data: the number. grad: d(loss)/d(this) after loss.backward(). A Value without parents is a leaf: its grad
    adds up over several calls until it is set to 0, as in PyTorch. The order is that of Kahn 1962.
    """

    __slots__ = ("data", "grad", "parents", "slopes", "uses")

    def __init__(self, data, parents=(), slopes=()):
        self.data, self.grad, self.uses = data, 0.0, 0
        self.parents, self.slopes = parents, slopes

    def __repr__(self):
        return f"Value({self.data:g}, grad={self.grad:g})"

    def __add__(self, other):
        other = as_value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        other = as_value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, exponent):
        """The exponent is a number, not a Value."""
        return Value(self.data**exponent, (self,), (exponent * self.data ** (exponent - 1),))

    def exp(self):
        result = math.exp(self.data)
        return Value(result, (self,), (result,))

    def log(self):
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def tanh(self):
        result = math.tanh(self.data)
        return Value(result, (self,), (1 - result**2,))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + -other

    def __rsub__(self, other):
        return -self + other

    def __truediv__(self, other):
        return self * as_value(other) ** -1

    def __rtruediv__(self, other):
        return other * self**-1

    def backward(self):
        """Add d(self)/d(leaf) to the grad of every leaf, and set the grad of every number between."""
        found = [self]
        while found:  # count how often each number is used
            for parent in found.pop().parents:
                if not parent.uses and parent.parents:
                    parent.grad = 0.0  # of an earlier backward
                    found.append(parent)
                parent.uses += 1
        self.grad, ready = 1.0, [self]
        while ready:  # all users of these have reported
            node = ready.pop()
            for parent, slope in zip(node.parents, node.slopes):
                parent.grad += slope * node.grad
                parent.uses -= 1
                if not parent.uses and parent.parents:
                    ready.append(parent)

# %% a_one_page.ipynb #699d990c
def as_value(number):
    """A Value stays what it is; a float or an int becomes a leaf."""
    return number if isinstance(number, Value) else Value(number)

# %% a_one_page.ipynb #15be0aa6
def dot(a, b):
    """The sum of a[i] * b[i] as one Value: two lists of n Values -> a Value with 2n parents.

    ValueError for lists of different length, of which one would be cut silently.
    """
    if len(a) != len(b):
        raise ValueError(f"dot of {len(a)} and {len(b)} values; expected as many of each")
    xs, ys = [x.data for x in a], [y.data for y in b]
    return Value(sum([x * y for x, y in zip(xs, ys)]), (*a, *b), (*ys, *xs))
