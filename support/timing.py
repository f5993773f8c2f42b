"""How a script tells what it predicted and how long that took."""

from __future__ import annotations

import statistics
from typing import Any, Mapping, Sequence

import numpy as np

from support.errors import WrongAnswer


def report(script: str, predictions: Mapping[float, Any], times: Sequence[float]) -> None:
    """Prints the first predictions, `f(100) = 200.00`, and the average time in the form of post A's scripts.

    Args:
      script: Its name.
      predictions: {number x: what was predicted for it}: an array whose one element is 2x, or a dict of arrays, as
        post B's model with a hidden layer has.
      times: Seconds an example, for each call.

    Raises:
      WrongAnswer: A prediction isn't 2x within 1%.
    """
    for number, prediction in list(predictions.items())[:3]:
        outputs = prediction if isinstance(prediction, dict) else {'': prediction}
        texts = (
            ' '.join([key, *(f'{value:.2f}' for value in outputs[key].flat)]).lstrip()
            for key in sorted(outputs)
        )
        print(f'f({number}) =', ', '.join(texts))
    for number, prediction in predictions.items():
        if not isinstance(prediction, dict) or 'predictions' in prediction:
            check([number], [number_in(prediction)])
    average = np.format_float_positional(
        statistics.fmean(times), precision=2, fractional=False, trim='-'
    )
    print(f'Average time in {script}: {average}s')
    print(
        f'({len(times):,} calls: median {seconds(statistics.median(times))}, the first {seconds(times[0])})'
    )


def number_in(prediction: Any) -> float:
    """Returns the number in a prediction: f([x, x])."""
    return (prediction['predictions'] if isinstance(prediction, dict) else prediction).item()


def check(numbers: Sequence[float], predictions: Sequence[float]) -> None:
    """Raises WrongAnswer where a prediction isn't 2x within 1%, or there are more or fewer of them than numbers."""
    if len(predictions) != len(numbers):
        raise WrongAnswer(f'{len(predictions)} predictions for {len(numbers)} numbers')
    for number, prediction in zip(numbers, predictions):
        if not abs(prediction - 2 * number) <= 1e-2 * max(number, 1):
            raise WrongAnswer(
                f'f({number}) = {prediction}, expected {2 * number}: the model has not learned 2x'
            )


def seconds(value: float) -> str:
    """Formats a time as a person reads it: 65 ms, 6.1 us."""
    for unit, factor, least in (
        ('s', 1, 0.95),
        ('ms', 1e3, 0.95),
        ('us', 1e6, 0.095),
        ('ns', 1e9, 0),
    ):
        if value * factor >= least:
            return f'{value * factor:.{1 if value * factor < 9.95 else 0}f} {unit}'
    raise ValueError(f'expected a time, got {value}')
