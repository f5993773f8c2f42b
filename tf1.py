"""TensorFlow's 1.x names, `tf.estimator` included, on today's TensorFlow.

A script says `from tf1 import tf` where the posts say `import tensorflow as tf`.

`tf` is `tensorflow.compat.v1`. TensorFlow 2.15 is the last release with `tf.estimator` built in; there this module
adds nothing. TensorFlow 2.16 removed it, but the package it came from, tensorflow-estimator 2.15.0, is pure Python
and runs on TensorFlow 2.21 once the few names below, which it imports, exist again.

Raises ImportError on a TensorFlow or tensorflow-estimator that it can't serve, saying which it can.
"""
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import types
from typing import Any

_SERVED = ('TensorFlow 2.21 with tensorflow-estimator 2.15.0 and tf_keras 2.21 (pip install -r requirements.txt), '
           'or TensorFlow 2.15')

# Estimator is built on Keras 2. From TensorFlow 2.16 on, tf.keras is Keras 3 unless this is set before the import;
# TensorFlow 2.15's tf.keras is Keras 2 and looks for tf_keras, in vain, when it is set.
if importlib.util.find_spec('tf_keras'):
    os.environ['TF_USE_LEGACY_KERAS'] = '1'

try:
    import quiet  # noqa: F401
    import tensorflow
except ModuleNotFoundError as error:
    raise ImportError(f'{error} in {sys.executable}: run a script with `.venv/bin/python` after `make run`, '
                      f'or install {_SERVED}') from None


def _restore_estimator() -> None:
    """Puts back what tensorflow-estimator 2.15.0 imports and TensorFlow no longer has, and imports it."""
    # Since 2.16: the entry for Estimator in the tables of @estimator_export, the decorator of its public names.
    from tensorflow.python.util import tf_export
    attributes = type(tf_export.API_ATTRS['tensorflow'])
    tf_export.ESTIMATOR_API_NAME = 'estimator'
    tf_export.API_ATTRS['estimator'] = attributes('_estimator_api_names', '_estimator_api_constants')
    tf_export.API_ATTRS_V1['estimator'] = attributes('_estimator_api_names_v1', '_estimator_api_constants_v1')

    # Since 2.16: how RunConfig and train ask whether a tf.distribute strategy runs the cluster. Without one, the
    # answer is no, and RunConfig reads TF_CONFIG itself.
    def init_run_config(config, tf_config):
        if tf_config.get('cluster') and config.train_distribute:
            raise ValueError('a tf.distribute strategy over a TF_CONFIG cluster needs TensorFlow 2.15: leave out '
                             'train_distribute, and the parameter servers of TF_CONFIG do the work')
        config._distribute_coordinator_mode = None
        config._init_distributed_setting_from_environment_var(tf_config)
        config._maybe_overwrite_session_config_for_distributed_training()

    _add_module('tensorflow.python.distribute.estimator_training', init_run_config=init_run_config,
                should_run_distribute_coordinator=lambda config: False)

    # Imported for TPU estimators alone, which nothing here makes.
    optimizers = ('Adagrad', 'Adam', 'Ftrl', 'Momentum', 'ProximalAdagrad', 'RMSProp', 'StochasticGradientDescent')
    _add_module('tensorflow.python.tpu.session_support')
    _add_module('tensorflow.python.tpu.tpu_embedding', **{f'{name}Parameters': None for name in optimizers})
    _add_module('tensorflow.python.tpu.tpu_embedding_gradient')

    tensorflow.compat.v1.estimator = importlib.import_module('tensorflow_estimator._api.v1.estimator')


def _add_module(name: str, **members: Any) -> None:
    module = types.ModuleType(name, f'Stands in, by tf1.py, for what TensorFlow {tensorflow.__version__} lacks.')
    vars(module).update(members)
    parent, _, child = name.rpartition('.')
    sys.modules[name] = module
    setattr(importlib.import_module(parent), child, module)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'none'


if tensorflow.__version__.startswith('2.21.'):
    if (_version('tensorflow-estimator'), _version('tf_keras')[:5]) != ('2.15.0', '2.21.'):
        raise ImportError(f'tf1.py found TensorFlow {tensorflow.__version__}, tensorflow-estimator '
                          f'{_version("tensorflow-estimator")} and tf_keras {_version("tf_keras")}; '
                          f'it serves {_SERVED}')
    _restore_estimator()
elif not tensorflow.__version__.startswith('2.15.'):
    raise ImportError(f'tf1.py found TensorFlow {tensorflow.__version__}; it serves {_SERVED}')

tf = tensorflow.compat.v1
