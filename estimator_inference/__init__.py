"""Fast inference with `tf.estimator`.

    from estimator_inference import predictor  # was: from tensorflow.contrib import predictor
    from estimator_inference import FastPredict  # one Estimator, kept open
    from estimator_inference import tf  # tensorflow.compat.v1 with tf.estimator

Each of these is imported when it is first asked for: the predictor needs no Estimator.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from estimator_inference import exports, predictor, remote, tf1
    from estimator_inference.fast_predict import FastPredict
    from estimator_inference.predictor import Predictor
    from estimator_inference.remote import RemotePredictor
    from estimator_inference.tf1 import tf

__all__ = [
    'FastPredict',
    'Predictor',
    'RemotePredictor',
    'exports',
    'predictor',
    'remote',
    'tf',
    'tf1',
]

_MODULES = {
    'FastPredict': 'fast_predict',
    'Predictor': 'predictor',
    'RemotePredictor': 'remote',
    'tf': 'tf1',
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(
            f'module {__name__!r} has no attribute {name!r}: expected one of {__all__}'
        )
    module = importlib.import_module(f'{__name__}.{_MODULES.get(name, name)}')
    return getattr(module, name) if name in _MODULES else module
