"""`tf.estimator` on TensorFlow 2.16 to 2.21, for code as it stands.

TensorFlow 2.15 is the last release with Estimator. Since TensorFlow 2.16, code that uses it stops
with "AttributeError: module 'tensorflow' has no attribute 'estimator'". The package that it came
from, tensorflow-estimator 2.15.0, is pure Python and runs on later releases once the few names that
it imports exist again. One import, anywhere before Estimator or Keras is first used, brings back
`tf.estimator`, `tf.compat.v1.estimator`, `tf.compat.v2.estimator`, `tf.keras.estimator` and
`tensorflow.python.estimator`, as attributes and as modules to import from:

    import estimator_inference.tf1
    import tensorflow as tf
    tf.estimator.DNNClassifier(...)

The module's own name `tf` is `tensorflow.compat.v1`: code for TensorFlow 1 says `from
estimator_inference.tf1 import tf` where it said `import tensorflow as tf`. `from tensorflow.contrib
import predictor` gives the predictor of this package, on TensorFlow 2.15 as well. A program that
can't be changed is run with both by

    python -m estimator_inference.tf1 program.py [argument ...]
    python -m estimator_inference.tf1 -m package.module [argument ...]

Raises ImportError where this can't work, and says what was found and what to install.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import re
import runpy
import sys
import types
import warnings
from typing import Any

_NEWEST = (2, 21)  # the newest TensorFlow that was tested, and that has a tf_keras of its number
_SERVED = (
    'TensorFlow 2.15 as it is, and TensorFlow 2.16 to 2.21 with tensorflow-estimator 2.15.0 and '
    'the tf_keras of the same number'
)
_USAGE = """usage: python -m estimator_inference.tf1 program.py [argument ...]
       python -m estimator_inference.tf1 -m package.module [argument ...]

Runs a program as python does, with tf.estimator and tf.contrib.predictor."""


def run_program(arguments: list[str]) -> None:
    """Runs a program with the arguments, `__main__`, exit status and traceback that `python` has.

    Args:
      arguments: What would follow `python`: the path of a program, or '-m' and a module; arguments.

    Raises:
      SystemExit: The program raised it, or failed with an exception, whose traceback was printed.
    """
    if arguments[:1] in (['-h'], ['--help']):
        print(_USAGE)
        return
    is_module = arguments[:1] == ['-m']
    program = arguments[is_module:]
    if not program or program[0].startswith('-'):
        sys.exit(_USAGE)
    sys.argv = program
    try:
        if is_module:
            runpy.run_module(program[0], run_name='__main__', alter_sys=True)
        else:
            path = os.path.abspath(program[0])
            sys.path[0] = os.path.dirname(os.path.realpath(path))
            runpy.run_path(path, run_name='__main__')
    except Exception as error:
        # What python's traceback wouldn't show.
        ours = __file__, runpy.run_path.__code__.co_filename
        traceback = error.__traceback__
        while traceback and traceback.tb_frame.f_code.co_filename in ours:
            traceback = traceback.tb_next
        sys.excepthook(type(error), error.with_traceback(traceback), traceback)
        sys.exit(1)


# All that follows is done once, by the module that the program may import too.
if __name__ == '__main__':
    from estimator_inference import tf1

    tf1.run_program(sys.argv[1:])
    sys.exit()

# Estimator is built on Keras 2. Since TensorFlow 2.16, tf.keras is Keras 3 unless this is set, best
# before TensorFlow is imported, which then doesn't load Keras 3 at all; _use_keras_2 serves those
# who imported it earlier. TensorFlow 2.15's tf.keras is Keras 2, and needs tf_keras if this is set.
if importlib.util.find_spec('tf_keras'):
    os.environ['TF_USE_LEGACY_KERAS'] = '1'

try:
    import tensorflow
except ModuleNotFoundError as error:
    raise ImportError(
        f'{error} in {sys.executable}; {__name__} serves {_SERVED}: pip install '
        "'tensorflow==2.21.*' tensorflow-estimator==2.15.0 'tf_keras==2.21.*' tensorboard"
    ) from None


def _check_versions() -> None:
    """Raises ImportError unless the packages belong together; warns of an untested TensorFlow."""
    found = f'{__name__} found TensorFlow {tensorflow.__version__}'
    number = _number(tensorflow.__version__)
    if number < (2, 15):
        raise ImportError(f'{found}; it serves {_SERVED}')
    estimator, keras = _version('tensorflow-estimator'), _version('tf_keras')
    untested = number > _NEWEST
    fits = _number(keras) >= _NEWEST if untested else _number(keras) == number
    if estimator != '2.15.0' or not fits:
        wanted = '>=2.21' if untested else f'=={number[0]}.{number[1]}.*'
        # Without --no-deps, tf_keras brings a tensorflow of its number, also beside tf-nightly.
        raise ImportError(
            f'{found} with tensorflow-estimator {estimator} and tf_keras {keras}: '
            f"pip install --no-deps tensorflow-estimator==2.15.0 'tf_keras{wanted}'"
        )
    if number == (2, 20) and _number(_version('protobuf')) >= (7,):
        raise ImportError(
            f'{found} with protobuf {_version("protobuf")}, whose text format lacks an argument '
            "that this TensorFlow passes: pip install 'protobuf<7'"
        )
    if untested:
        warnings.warn(f'{found}, on which it is untested; it serves {_SERVED}', stacklevel=2)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'none'


def _number(version: str) -> tuple[int, ...]:
    """Returns (2, 21) for '2.21.0', () for 'none'."""
    return tuple(map(int, re.findall('[0-9]+', version)[:2]))


def _use_keras_2() -> None:
    """Makes Keras 2 what `tf.keras` is, also where TensorFlow was imported first.

    The attribute `tf.keras` is lazy: TensorFlow reads the variable when it is first used. But since
    2.16, where `from tensorflow.keras import ...` looks is settled in the packages' search paths
    when TensorFlow is imported. It would still give Keras 3, or nothing under tensorflow.compat.v1.
    """
    import tf_keras

    directory = os.path.dirname(tf_keras.__file__)
    for name, module in list(sys.modules.items()):
        if name.partition('.')[0] == 'tensorflow' and hasattr(module, '__path__'):
            module.__path__ = [
                re.sub(r'.*[/\\]keras(?=[/\\]api[/\\]_v[12])', lambda _: directory, path)
                for path in module.__path__
            ]
    # To use each of them here also spares two threads from using one first at the same time, as a
    # strategy's threads may do: in TensorFlow 2.16 to 2.21 that ends in a RecursionError.
    tf, tf1, tf2 = tensorflow, tensorflow.compat.v1, tensorflow.compat.v2
    keras = tf.keras.Model, tf1.keras.Model, tf2.keras.Model, tf1.layers.Dense
    others = tf.losses.Loss, tf.metrics.Metric, tf.optimizers.Optimizer, tf.initializers.Zeros
    if {used.__module__.partition('.')[0] for used in keras + others} != {'tf_keras'}:
        raise ImportError(
            f'tf.keras was used before {__name__} was imported, and is Keras 3, while Estimator '
            f'needs Keras 2: import {__name__} first, or set the environment variable '
            'TF_USE_LEGACY_KERAS=1'
        )


def _add_what_estimator_imports() -> None:
    """Puts back what tensorflow-estimator 2.15.0 and programs import and TensorFlow lacks."""
    from tensorflow.python.util import tf_export

    from estimator_inference import _removed

    # Since 2.16: the entry for Estimator in the tables of @estimator_export, the decorator of its
    # public names. Without it, no module of Estimator can be imported.
    if not hasattr(tf_export, 'ESTIMATOR_API_NAME'):
        for name in [name for name in sys.modules if name.startswith('tensorflow_estimator')]:
            del sys.modules[name]  # what an earlier import, which failed, has left
    attributes = type(tf_export.API_ATTRS['tensorflow'])
    names, constants = '_estimator_api_names', '_estimator_api_constants'
    tf_export.ESTIMATOR_API_NAME = 'estimator'
    tf_export.API_ATTRS['estimator'] = attributes(names, constants)
    tf_export.API_ATTRS_V1['estimator'] = attributes(f'{names}_v1', f'{constants}_v1')

    # Since 2.16: these modules. Estimator imports all but async_checkpoint, which programs import.
    _alias('tensorflow.python.distribute.estimator_training', _removed)
    for name in ('session_support', 'tpu_embedding', 'tpu_embedding_gradient', 'async_checkpoint'):
        _alias(f'tensorflow.python.tpu.{name}', _removed)

    # Since 2.16: public names that went with Estimator.
    for module in _public('.data.experimental').values():
        vars(module)['CheckpointInputPipelineHook'] = _removed.CheckpointInputPipelineHook
    for api, module in _public('.tpu.experimental').items():
        if '.v1.' in api:
            for name in ('Adagrad', 'Adam', 'Ftrl', 'StochasticGradientDescent'):
                vars(module)[f'{name}Parameters'] = _removed.TpuParameters


def _add_estimator() -> None:
    """Makes Estimator's modules importable under the names that they have in TensorFlow 2.15."""
    estimator = 'tensorflow_estimator.python.estimator'
    for name in ('estimator_lib', 'keras_lib', 'api._v1.estimator', 'api._v2.estimator'):
        importlib.import_module(f'{estimator}.{name}')
    originals = {
        'tensorflow.python.estimator': estimator,
        'tensorflow.python.estimator.keras': f'{estimator}.keras_lib',
    }
    for name in ('tpu_config', 'tpu_context', 'tpu_estimator', 'error_handling', 'util'):
        originals[f'tensorflow.python.tpu.{name}'] = f'{estimator}.tpu.{name}'
    for name in _public(''):
        version = 'v1' if name.endswith('v1') else 'v2'
        originals[f'{name}.estimator'] = f'{estimator}.api._{version}.estimator'
    # Sorted, so that parents come first.
    loaded = sorted(name for name in sys.modules if name.startswith(estimator))
    for name, original in originals.items():
        for module in loaded:
            if f'{module}.'.startswith(f'{original}.'):
                _alias(name + module[len(original) :], sys.modules[module])


def _public(api: str) -> dict[str, types.ModuleType]:
    """Returns all modules that TensorFlow has of an API: of tf for '', of '.data.experimental'.

    There are those of tf, tf.compat.v1, tf.compat.v1.compat.v2 and so on, and some of them twice.
    """
    for name in ('tensorflow', 'tensorflow.compat.v1', 'tensorflow.compat.v2'):
        importlib.import_module(f'{name}{api}')
    pattern = rf'tensorflow(\._api\.v2)?(\.compat\.v[12])*{re.escape(api)}'
    return {name: module for name, module in sys.modules.items() if re.fullmatch(pattern, name)}


def _alias(name: str, module: types.ModuleType) -> None:
    """Makes a module importable under a name, and an attribute of the name's parent."""
    parent, _, child = name.rpartition('.')
    setattr(importlib.import_module(parent), child, module)
    sys.modules[name] = module


# What programs import from tf.contrib.predictor, and its names in estimator_inference.predictor.
_FACTORIES = {'from_estimator': 'from_estimator', 'from_saved_model': 'from_saved_model'}
_CONTRIB: dict[str, dict[str, str]] = {
    'tensorflow.contrib': {},
    'tensorflow.contrib.predictor': _FACTORIES,
    'tensorflow.contrib.predictor.predictor_factories': _FACTORIES,
    'tensorflow.contrib.predictor.predictor': {'Predictor': 'Predictor'},
    'tensorflow.contrib.predictor.saved_model_predictor': {
        'SavedModelPredictor': 'from_saved_model'
    },
    'tensorflow.contrib.predictor.core_estimator_predictor': {
        'CoreEstimatorPredictor': 'from_estimator'
    },
}


def _add_contrib() -> None:
    """Makes tf.contrib.predictor importable, where there is no tf.contrib.

    These are entries in `sys.modules` alone, and tf gets no attribute: programs ask
    `hasattr(tf, 'contrib')` to know whether this is TensorFlow 1.
    """
    if 'tensorflow.contrib' in sys.modules or importlib.util.find_spec('tensorflow.contrib'):
        return
    for name in _CONTRIB:
        module = types.ModuleType(name, f'Stands in, by {__name__}, for what TensorFlow 1 had.')
        vars(module).update(__path__=[], __getattr__=functools.partial(_contrib_member, name))
        sys.modules[name] = module


def _contrib_member(module: str, name: str) -> Any:
    """Returns a member of a module of _CONTRIB. The predictor is imported when it is asked for."""
    if f'{module}.{name}' in _CONTRIB:
        return sys.modules[f'{module}.{name}']
    if name in _CONTRIB[module]:
        predictor = importlib.import_module('estimator_inference.predictor')
        return getattr(predictor, _CONTRIB[module][name])
    if name.startswith('_'):  # what Python and its tools ask a module for
        raise AttributeError(f'module {module!r} has no attribute {name!r}')
    raise ImportError(
        f'no {module}.{name}: of tf.contrib, {__name__} has predictor alone, with from_estimator, '
        'from_saved_model, SavedModelPredictor and Predictor'
    )


if not tensorflow.__version__.startswith('2.15.'):
    _check_versions()
    try:
        _use_keras_2()
        _add_what_estimator_imports()
        _add_estimator()
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f'{__name__} found TensorFlow {tensorflow.__version__}, but {error}'
        ) from error
_add_contrib()

tf = tensorflow.compat.v1
