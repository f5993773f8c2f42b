"""Casts and checks what a caller feeds, for the predictor and for FastPredict.

A value is cast as `tf.Session.run` casts it. Where that can't be, it is refused before it reaches
the graph:

    input 'number': expected float32 [None, 1], got the shape [3]
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Mapping, Set, Tuple

import numpy as np
import numpy.typing as npt
import tensorflow.compat.v1 as tf

Array = npt.NDArray[Any]

# What `np.asarray` raises for what it can't cast; NotImplementedError for a symbolic tensor.
_NO_CAST = (TypeError, ValueError, OverflowError, NotImplementedError)


class Missing(ValueError):
    """A value that isn't there: None."""


class Feed:
    """A tensor to feed.

    Attributes:
      name: What messages call it.
      tensor: The `tf.Tensor`.
      array: A function from a value to what `check` returns, which takes some 5 us less for a shape
        that was checked before.
    """

    def __init__(self, name: str, tensor: Any) -> None:
        self.name, self.tensor = name, tensor
        self._shapes: Set[Tuple[int, ...]] = set()
        self.array = self._make_array()

    def check(self, value: Any) -> Array:
        """Returns a value as an array of the tensor's dtype: for a string, of str or bytes.

        Args:
          value: A scalar, a list, an array, str or bytes.

        Raises:
          Missing: It is None.
          ValueError: It can't be cast, or its shape doesn't fit. A number of Python's that the
            dtype can't hold is refused, as NumPy 2 does and NumPy 1 did not.
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

    def _make_array(self) -> Callable[[Any], Array]:
        asarray, dtype, shapes = np.asarray, self.tensor.dtype.as_numpy_dtype, self._shapes

        def array(value: Any) -> Array:
            try:
                array = asarray(value, dtype)
                if array.shape in shapes and type(value) is not int and value is not None:
                    return array
            except _NO_CAST:
                pass  # `check` tells why
            return self.check(value)

        return array

    @property
    def expected(self) -> str:
        return f'{self.name}: expected {described(self.tensor)}'

    def copy(self, array: Array) -> Array:
        """Returns a copy of what is fed, with strings as bytes, as they are in TensorFlow.

        Raises:
          ValueError: An array for a string has something other than str and bytes.
        """
        if self.tensor.dtype != tf.string:
            return array.copy()
        try:
            as_bytes: Array = np.vectorize(tf.compat.as_bytes, otypes=[object])(array)
            return as_bytes
        except (TypeError, ValueError, RecursionError) as error:
            got = shown(array.tolist())
            raise ValueError(f'{self.expected}, got {got}: {error!s:.200}') from None


def check_keys(given: Iterable[Any], feeds: Mapping[str, Feed]) -> None:
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
    except Exception:  # nested too deep, too long an int, or an error of its own
        return f'something of type {type(value).__name__}'
