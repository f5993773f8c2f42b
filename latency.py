"""The service that asks for predictions, the timing of its answers, and how a timing is printed. Needs no TensorFlow."""
from __future__ import annotations

import time
from typing import Callable, ContextManager, Iterator, NamedTuple, Sequence

import numpy as np


UNCHECKED = object()
"""What a `get_prediction` returns whose answer isn't meant to be 2x."""


class WrongAnswer(SystemExit):
    """A prediction that isn't 2x. Ends a script with a line and status 1, unless it is caught."""


class Timing(NamedTuple):
    """What one way to predict took. All times in seconds.

    Attributes:
      load: From nothing to ready for the first call.
      first: The first call.
      examples: For each later call its time, divided by the examples in it: float64 [calls].
      batch: The examples in a call.
    """
    load: float
    first: float
    examples: np.ndarray
    batch: int

    def __str__(self) -> str:
        examples = len(self.examples) * self.batch
        batch = f' in calls of {self.batch}' if self.batch > 1 else ''
        return (f'{seconds(self.examples.mean())} per example (median {seconds(np.median(self.examples))}, '
                f'p99 {seconds(np.percentile(self.examples, 99))}, {examples:,} examples{batch}; '
                f'load {seconds(self.load)}, first call {seconds(self.first)})')


def my_service(examples: int) -> Iterator[int]:
    """The posts' fake service: yields numbers, one at a time, from 100 on."""
    yield from range(100, 100 + examples)


def measure(opened: ContextManager[Callable], examples: int, batch: int = 1) -> Timing:
    """Times a way to predict, and checks each of its answers against 2x.

    Args:
      opened: A context manager; to enter it is to load the model. Gives `get_prediction`: a function of one number
        that returns its prediction or, where `batch` is over 1, of a list of numbers that returns a list.
      examples: How many numbers to ask for, at least; the first call not counted.
      batch: How many numbers to ask for in a call.

    Raises:
      WrongAnswer: A prediction is more than 0.1% off.
    """
    tic = time.perf_counter()
    with opened as get_prediction:
        load = time.perf_counter() - tic
        times = []
        calls = 1 + -(-examples // batch)  # the first, which is timed apart, and as many as the examples need
        numbers = list(my_service(calls * batch))
        for start in range(0, len(numbers), batch):
            asked = numbers[start:start + batch]
            tic = time.perf_counter()
            predictions = get_prediction(asked) if batch > 1 else [get_prediction(asked[0])]
            times.append(time.perf_counter() - tic)
            check(asked, predictions)
    return Timing(load, times[0], np.array(times[1:]) / batch, batch)


def check(numbers: Sequence[int], predictions: Sequence[float]) -> None:
    """Raises WrongAnswer where a prediction isn't 2x within 0.1%, or there are more or fewer of them than numbers."""
    if len(predictions) != len(numbers):
        raise WrongAnswer(f'{len(predictions)} predictions for {len(numbers)} numbers')
    for number, prediction in zip(numbers, predictions):
        if prediction is not UNCHECKED and not abs(prediction - 2 * number) <= 1e-3 * max(number, 1):
            raise WrongAnswer(f'f({number}) = {prediction}, expected {2 * number}')


def seconds(value: float) -> str:
    """Formats a time as a person reads it: 65 ms, 6.1 us."""
    unit, factor = next(((unit, factor) for unit, factor in (('s', 1), ('ms', 1e3)) if value * factor >= 0.95),
                        ('us', 1e6))
    return f'{value * factor:.{1 if value * factor < 9.95 else 0}f} {unit}'
