"""The service that asks for predictions, the timing of its answers, and how a timing is printed. No TensorFlow."""
from __future__ import annotations

import itertools
import sys
import time
from typing import Any, Callable, ContextManager, Iterator, NamedTuple, Optional, Sequence

import numpy as np


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


class Stopwatch:
    """Times one way to predict, and checks each of its answers against 2x.

    To enter it is to load the model and to make the first call, which are timed apart.
    """

    def __init__(self, opened: ContextManager[Callable], batch: int = 1) -> None:
        """Takes a way to predict.

        Args:
          opened: A context manager; to enter it is to load the model. It gives `get_predictions`, a function from a
            list of numbers to their predictions.
          batch: How many numbers to ask for in a call.
        """
        self._opened, self._batch = opened, batch
        self._times: list[float] = []

    def __enter__(self) -> Stopwatch:
        tic = time.perf_counter()
        self._get_predictions = self._opened.__enter__()
        self._load = time.perf_counter() - tic
        try:
            self.ask(self._batch)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._opened.__exit__(*exc_info)

    def ask(self, examples: int) -> None:
        """Asks for `examples` numbers, rounded up to whole calls.

        Raises:
          WrongAnswer: A prediction is more than 0.1% off.
        """
        get_predictions, batch = self._get_predictions, self._batch
        numbers = my_service(-(-examples // batch) * batch)
        while asked := list(itertools.islice(numbers, batch)):
            tic = time.perf_counter()
            predictions = get_predictions(asked)
            self._times.append(time.perf_counter() - tic)
            check(asked, predictions)

    @property
    def timing(self) -> Timing:
        """The times until now."""
        return Timing(self._load, self._times[0], np.array(self._times[1:]) / self._batch, self._batch)


def measure(opened: ContextManager[Callable], examples: int, batch: int = 1) -> Timing:
    """Times a way to predict over `examples` numbers; see Stopwatch."""
    with Stopwatch(opened, batch) as stopwatch:
        stopwatch.ask(examples)
        return stopwatch.timing


def check(numbers: Sequence[int], predictions: Optional[Sequence[float]]) -> None:
    """Raises WrongAnswer where a prediction isn't 2x within 0.1%, or there are more or fewer of them than numbers.

    Predictions that are None aren't meant to be 2x, and pass.
    """
    if predictions is None:
        return
    if len(predictions) != len(numbers):
        raise WrongAnswer(f'{len(predictions)} predictions for {len(numbers)} numbers')
    for number, prediction in zip(numbers, predictions):
        if not abs(prediction - 2 * number) <= 1e-3 * max(number, 1):
            raise WrongAnswer(f'f({number}) = {prediction}, expected {2 * number}')


def seconds(value: float) -> str:
    """Formats a time as a person reads it: 65 ms, 6.1 us."""
    for unit, factor, least in (('s', 1, 0.95), ('ms', 1e3, 0.95), ('us', 1e6, 0.095), ('ns', 1e9, 0)):
        if value * factor >= least:
            return f'{value * factor:.{1 if value * factor < 9.95 else 0}f} {unit}'
    raise ValueError(f'expected a time, got {value}')
