"""How a script tells what it predicted and how long that took."""
from __future__ import annotations

from typing import Any, Mapping, Sequence

from support.errors import WrongAnswer


def report(script: str, predictions: Mapping[float, Any], times: Sequence[float]) -> None:
    """Prints the first predictions, `f(100) = 200.00`, and the average time in the form of post A's scripts.

    Args:
      script: Its name.
      predictions: {number x: what was predicted for it}: an array whose one element is 2x, or a dict of arrays, as
        post B's model with a hidden layer has.
      times: Seconds an example, for each call. The first call, in which TensorFlow warms up, is told apart.

    Raises:
      WrongAnswer: A prediction isn't 2x within 1%.
    """
    import numpy as np
    for number, prediction in list(predictions.items())[:3]:
        outputs = prediction if isinstance(prediction, dict) else {'': prediction}
        print(f'f({number}) = ' + ', '.join(
            f'{key} ' * bool(key) + ' '.join(f'{value:.2f}' for value in np.ravel(output))
            for key, output in sorted(outputs.items())))
    for number, prediction in predictions.items():
        if not isinstance(prediction, dict) or 'predictions' in prediction:
            check([number], [number_in(prediction)])
    first, *later = times
    print(f'Average time in {script}: {seconds(float(np.mean(later or times)))} (median '
          f'{seconds(float(np.median(later or times)))}, '
          f'{len(later or times):,} calls; first call {seconds(first)})')


def number_in(prediction: Any) -> float:
    """Returns the number in a prediction: f([x, x])."""
    if isinstance(prediction, dict):
        prediction = prediction['predictions']
    return prediction.item()


def check(numbers: Sequence[float], predictions: Sequence[float]) -> None:
    """Raises WrongAnswer where a prediction isn't 2x within 1%, or there are more or fewer of them than numbers."""
    if len(predictions) != len(numbers):
        raise WrongAnswer(f'{len(predictions)} predictions for {len(numbers)} numbers')
    for number, prediction in zip(numbers, predictions):
        if not abs(prediction - 2 * number) <= 1e-2 * max(number, 1):
            raise WrongAnswer(f'f({number}) = {prediction}, expected {2 * number}: the model has not learned 2x')


def seconds(value: float) -> str:
    """Formats a time as a person reads it: 65 ms, 6.1 us."""
    for unit, factor, least in (('s', 1, 0.95), ('ms', 1e3, 0.95), ('us', 1e6, 0.095), ('ns', 1e9, 0)):
        if value * factor >= least:
            return f'{value * factor:.{1 if value * factor < 9.95 else 0}f} {unit}'
    raise ValueError(f'expected a time, got {value}')
