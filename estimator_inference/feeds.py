"""Casts and checks what a caller feeds, for the predictor and for FastPredict.

A value is cast as `tf.Session.run` casts it. Where it can't be, it is refused before it reaches the graph:

    input 'number': expected float32 [None, 1], got the shape [3]
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping

import numpy as np
import tensorflow.compat.v1 as tf

# What `np.asarray` raises for what it can't cast; NotImplementedError for a symbolic tensor.
_NO_CAST = (
    TypeError,
    ValueError,
    OverflowError,
    RecursionError,
    NotImplementedError,
    np.ma.MaskError,
)


class Missing(ValueError):
    """A value that isn't there: None."""


class Feed:
    """A tensor to feed.

    Attributes:
      name: What messages call it.
      tensor: The `tf.Tensor` (or a `tf.TensorSpec`, which will do to check values).
      array: A function from a value to the array that `check` returns, faster for a shape that has been checked before.
    """

    def __init__(self, name: str, tensor: Any) -> None:
        self.name, self.tensor = name, tensor
        self._shapes: set = set()
        self.array = _faster(self.check, tensor.dtype.as_numpy_dtype, self._shapes)

    def check(self, value: Any) -> np.ndarray:
        """Returns a value as an array of the tensor's dtype: of objects, str or bytes, for a string.

        Args:
          value: A scalar, a list, an array, str or bytes.

        Raises:
          Missing: It is None.
          ValueError: It can't be cast, or its shape doesn't fit. What `Session.run` would cast is cast; but a number
            of Python's that the dtype can't hold is refused, as NumPy 2 does and NumPy 1 did not.
        """
        if value is None:
            raise Missing(f'{self.expected}, got None')
        try:
            array = np.asarray(value, self.tensor.dtype.as_numpy_dtype)
            if type(value) is int and array != value:
                raise OverflowError('it does not fit')
        except _NO_CAST as error:
            raise ValueError(f'{self.expected}, got {shown(value)}: {error!s:.200}') from None
        if not self.tensor.shape.is_compatible_with(array.shape):
            raise ValueError(f'{self.expected}, got the shape {list(array.shape)}')
        if len(self._shapes) < 1000:
            self._shapes.add(array.shape)
        return array

    @property
    def expected(self) -> str:
        return f'{self.name}: expected {described(self.tensor)}'

    def check_strings(self, array: np.ndarray) -> None:
        """Raises ValueError where an array of objects has one that is neither str nor bytes."""
        try:
            np.vectorize(tf.compat.as_bytes, otypes=[object])(array)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f'{self.expected}, got {shown(array.tolist())}: {error!s:.200}'
            ) from None


def _faster(check, dtype, shapes):
    asarray, slow = np.asarray, frozenset([int, type(None)])

    def array(value):
        try:
            array = asarray(value, dtype)
            if array.shape in shapes and type(value) not in slow:
                return array
        except _NO_CAST:
            pass  # it is told by check
        return check(value)

    return array


def check_keys(given: Iterable, feeds: Mapping[str, Feed]) -> None:
    """Raises ValueError where a key is given that no feed has."""
    unknown = [key for key in given if key not in feeds]
    if unknown:
        raise ValueError(f'unknown inputs {shown(unknown)}: expected {list(feeds)}')


def described(tensor: Any) -> str:
    """Returns the dtype and the shape of a tensor as messages show them."""
    shape = tensor.shape.as_list() if tensor.shape.rank is not None else 'of any shape'
    return f'{tensor.dtype.base_dtype.name} {shape}'


def shown(value: Any) -> str:
    """Returns a value as messages show it, whatever it is."""
    try:
        return f'{value!r:.200}'
    except (
        Exception
    ):  # nested too deep, an int of more digits than Python prints, or an error of its own
        return f'something of type {type(value).__name__}'
