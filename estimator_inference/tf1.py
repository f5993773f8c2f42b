"""`tf.estimator` on TensorFlow 2.16 to 2.21, for code as it stands.

TensorFlow 2.15 is the last release with Estimator, and there this module adds nothing. TensorFlow 2.16 removed it, and
since then code that uses it stops with "AttributeError: module 'tensorflow' has no attribute 'estimator'". The package
that it came from, tensorflow-estimator 2.15.0, is pure Python and runs on later releases once the few names that it
imports exist again. One import, anywhere before Estimator or Keras is first used, brings back `tf.estimator`,
`tf.compat.v1.estimator`, `tf.compat.v2.estimator`, `tf.keras.estimator` and `tensorflow.python.estimator`, as
attributes and as modules to import from:

    import estimator_inference.tf1
    import tensorflow as tf
    tf.estimator.DNNClassifier(...)

The module's own name `tf` is `tensorflow.compat.v1`: code for TensorFlow 1 says `from estimator_inference.tf1 import
tf` where it said `import tensorflow as tf`.

Raises ImportError where this can't work, and says what was found and what to install.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import types
import warnings
from typing import Any, Callable

_SERVED = (
    'TensorFlow 2.15 as it is, and TensorFlow 2.16 to 2.21 with tensorflow-estimator 2.15.0 and the tf_keras of '
    'the same number'
)

# Estimator is built on Keras 2. From TensorFlow 2.16 on, tf.keras is Keras 3 unless this is set. It is best set before
# TensorFlow is imported, which then doesn't load Keras 3 at all; _use_keras_2 serves those who imported it earlier.
# TensorFlow 2.15's tf.keras is Keras 2, and looks for tf_keras, in vain, when this is set and tf_keras isn't installed.
if importlib.util.find_spec('tf_keras'):
    os.environ['TF_USE_LEGACY_KERAS'] = '1'

try:
    import tensorflow
except ModuleNotFoundError as error:
    raise ImportError(
        f'{error} in {sys.executable}; {__name__} serves {_SERVED}: pip install '
        "'tensorflow==2.21.*' tensorflow-estimator==2.15.0 'tf_keras==2.21.*'"
    ) from None


def _check_versions() -> None:
    """Raises ImportError unless the installed packages belong together, and warns of an untested TensorFlow."""
    release = '.'.join(tensorflow.__version__.split('.')[:2])
    number = tuple(map(int, release.split('.')))
    if number < (2, 15):
        raise ImportError(
            f'{__name__} found TensorFlow {tensorflow.__version__}; it serves {_SERVED}'
        )
    found = {name: _version(name) for name in ('tensorflow-estimator', 'tf_keras', 'protobuf')}
    if found['tensorflow-estimator'] != '2.15.0' or not found['tf_keras'].startswith(f'{release}.'):
        raise ImportError(
            f'{__name__} found TensorFlow {tensorflow.__version__} with tensorflow-estimator '
            f'{found["tensorflow-estimator"]} and tf_keras {found["tf_keras"]}: '
            f"pip install tensorflow-estimator==2.15.0 'tf_keras=={release}.*'"
        )
    if release == '2.20' and int(found['protobuf'].split('.')[0]) >= 7:
        raise ImportError(
            f'{__name__} found TensorFlow {tensorflow.__version__} with protobuf {found["protobuf"]}, '
            "whose text format lacks an argument that this TensorFlow passes: pip install 'protobuf<7'"
        )
    if number > (2, 21):
        warnings.warn(
            f'{__name__} is untested on TensorFlow {tensorflow.__version__}; it serves {_SERVED}',
            stacklevel=2,
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'none'


def _use_keras_2() -> None:
    """Makes Keras 2 what `tf.keras` is, also when TensorFlow was imported before TF_USE_LEGACY_KERAS was set.

    The attribute `tf.keras` is lazy: TensorFlow reads the variable when it is first used. But where `from
    tensorflow.keras import ...` looks is settled in the packages' search paths when TensorFlow is imported, since
    2.16. Without this, such an import would still give Keras 3, or nothing under tensorflow.compat.v1.
    """
    import tf_keras

    directory = os.path.dirname(tf_keras.__file__)
    for name, module in list(sys.modules.items()):
        if name.partition('.')[0] == 'tensorflow' and hasattr(module, '__path__'):
            module.__path__ = [
                re.sub(r'.*[/\\]keras(?=[/\\]api[/\\]_v[12])', lambda _: directory, path)
                for path in module.__path__
            ]
    # To use each of them here also spares two threads from using one first at the same time, as a strategy's threads
    # may do: in TensorFlow 2.16 to 2.21 that ends in a RecursionError.
    for used in (
        tensorflow.keras.Model,
        tensorflow.compat.v1.keras.Model,
        tensorflow.compat.v2.keras.Model,
        tensorflow.losses.Loss,
        tensorflow.metrics.Metric,
        tensorflow.optimizers.Optimizer,
        tensorflow.initializers.Initializer,
        tensorflow.compat.v1.layers.Dense,
    ):
        if used.__module__.partition('.')[0] != 'tf_keras':
            raise ImportError(
                f'tf.keras was used before {__name__} was imported, and is Keras 3, while Estimator '
                f'needs Keras 2: import {__name__} first, or set the environment variable '
                'TF_USE_LEGACY_KERAS=1'
            )


def _add_what_estimator_imports() -> None:
    """Puts back what tensorflow-estimator 2.15.0 imports from TensorFlow and TensorFlow no longer has."""
    # Since 2.16: the entry for Estimator in the tables of @estimator_export, the decorator of its public names.
    # Without it, no module of Estimator can be imported.
    from tensorflow.python.util import tf_export

    if not hasattr(tf_export, 'ESTIMATOR_API_NAME'):
        for name in [
            name for name in sys.modules if name.partition('.')[0] == 'tensorflow_estimator'
        ]:
            del sys.modules[name]  # what an earlier import, which failed, has left
    attributes = type(tf_export.API_ATTRS['tensorflow'])
    tf_export.ESTIMATOR_API_NAME = 'estimator'
    tf_export.API_ATTRS['estimator'] = attributes(
        '_estimator_api_names', '_estimator_api_constants'
    )
    tf_export.API_ATTRS_V1['estimator'] = attributes(
        '_estimator_api_names_v1', '_estimator_api_constants_v1'
    )
    # Since 2.16, these two leave out the names that the decorator gave. Nothing in Estimator calls them, its tests do.
    tf_export.get_v1_names = _with_names('_estimator_api_names_v1', tf_export.get_v1_names)
    tf_export.get_v2_names = _with_names('_estimator_api_names', tf_export.get_v2_names)

    # Since 2.16: how RunConfig, train and train_and_evaluate have a tf.distribute strategy run the cluster of
    # TF_CONFIG. Without it, Estimator can't be imported.
    _add_module(
        'tensorflow.python.distribute.estimator_training',
        init_run_config=_init_run_config,
        should_run_distribute_coordinator=_should_run_distribute_coordinator,
        train_and_evaluate=_train_and_evaluate,
        estimator_train=_refuse,
        estimator_evaluate=_refuse,
    )

    # Since 2.16, what Estimators for TPUs alone use. Without it, Estimator can't be imported; those for TPUs fail.
    optimizers = (
        'Adagrad',
        'Adam',
        'Ftrl',
        'Momentum',
        'ProximalAdagrad',
        'RMSProp',
        'StochasticGradientDescent',
    )
    _add_module('tensorflow.python.tpu.session_support')
    _add_module(
        'tensorflow.python.tpu.tpu_embedding', **{f'{name}Parameters': None for name in optimizers}
    )
    _add_module('tensorflow.python.tpu.tpu_embedding_gradient')


def _init_run_config(config: Any, tf_config: dict[str, Any]) -> None:
    """Completes a tf.estimator.RunConfig that has a tf.distribute strategy, given TF_CONFIG."""
    for name in ('train_distribute', 'eval_distribute'):
        strategy = getattr(config._experimental_distribute, name, None)
        if strategy and getattr(config, f'_{name}'):
            raise ValueError(f'either {name} or experimental_distribute.{name} can be set')
        if strategy:
            setattr(config, f'_{name}', strategy)
    if getattr(config._experimental_distribute, 'remote_cluster', None):
        raise ValueError(
            'experimental_distribute.remote_cluster needs TensorFlow 2.15; instead, start the program on '
            'each machine of the cluster, with TF_CONFIG set'
        )
    cluster = tf_config.get('cluster', {})
    if cluster and config._train_distribute and 'master' not in cluster:
        config._init_distributed_setting_from_environment_var({})
        config._cluster_spec = tensorflow.train.ClusterSpec(cluster)
        config._distribute_coordinator_mode = 'independent_worker'
    else:
        config._init_distributed_setting_from_environment_var(tf_config)
        config._maybe_overwrite_session_config_for_distributed_training()
        config._distribute_coordinator_mode = None


def _should_run_distribute_coordinator(config: Any) -> bool:
    return getattr(config, '_distribute_coordinator_mode', None) == 'independent_worker'


def _train_and_evaluate(
    estimator: Any, train_spec: Any, eval_spec: Any, executor_class: type
) -> None:
    """What tf.estimator.train_and_evaluate does under a strategy: trains or evaluates, as this process's task says.

    TensorFlow 2.21 still has the coordinator, which starts the process's server and configures the strategy.
    """
    from tensorflow.python.distribute import distribute_coordinator, distribute_coordinator_context

    def of_this_task(**strategy: Any) -> Any:
        task = distribute_coordinator_context.get_current_worker_context()
        cluster = (
            {} if task.task_type == 'evaluator' else task.cluster_spec.as_dict()
        )  # the evaluator stays apart
        jobs = sorted(cluster, key=lambda job: (job != 'chief', job == 'ps', job))
        before = jobs[: jobs.index(task.task_type)] if task.task_type in jobs else []
        copied = copy.deepcopy(estimator)
        vars(copied).update({f'_{name}_distribution': value for name, value in strategy.items()})
        vars(copied._config).update(
            {f'_{name}_distribute': value for name, value in strategy.items()}
        )
        vars(copied._config).update(
            _distribute_coordinator_mode=None,
            _service=None,
            _cluster_spec=tensorflow.train.ClusterSpec(cluster),
            _task_type=task.task_type,
            _task_id=task.task_id,
            _is_chief=task.is_chief,
            _master=task.master_target,
            _evaluation_master=task.master_target,
            _num_ps_replicas=len(cluster.get('ps', [])),
            _num_worker_replicas=len(cluster.get('chief', [])) + len(cluster.get('worker', [])),
            _global_id_in_cluster=sum(len(cluster[job]) for job in before) + (task.task_id or 0)
            if cluster
            else None,
        )
        return copied

    def train(strategy: Any) -> None:
        of_this_task(train=strategy).train(
            train_spec.input_fn, list(train_spec.hooks), max_steps=train_spec.max_steps
        )

    def evaluate(strategy: Any) -> None:
        executor_class(
            of_this_task(eval=strategy), train_spec, eval_spec
        )._start_continuous_evaluation()

    config = estimator.config
    distribute_coordinator.run_distribute_coordinator(
        train,
        config.train_distribute,
        evaluate,
        config.eval_distribute,
        mode=config._distribute_coordinator_mode,
        session_config=config.session_config,
    )


def _refuse(*args: object) -> None:
    raise ValueError(
        'train and evaluate do not run a tf.distribute strategy over the cluster of TF_CONFIG: call '
        'tf.estimator.train_and_evaluate'
    )


def _with_names(attribute: str, get_names: Callable) -> Callable:
    return lambda symbol: [*get_names(symbol), *getattr(symbol, '__dict__', {}).get(attribute, [])]


def _add_module(name: str, **members: object) -> None:
    module = types.ModuleType(
        name, f'Stands in, by {__name__}, for what TensorFlow {tensorflow.__version__} lacks.'
    )
    vars(module).update(members)
    _alias(name, module)


def _alias(name: str, module: types.ModuleType) -> None:
    """Makes a module importable under a name, and an attribute of the name's parent."""
    parent, _, child = name.rpartition('.')
    setattr(importlib.import_module(parent), child, module)
    sys.modules[name] = module


def _add_estimator() -> None:
    """Makes Estimator's modules importable under the names that they have in TensorFlow 2.15."""
    for name in ('estimator_lib', 'keras_lib', 'api._v1.estimator', 'api._v2.estimator'):
        importlib.import_module(f'tensorflow_estimator.python.estimator.{name}')
    originals = {
        'tensorflow.python.estimator': 'tensorflow_estimator.python.estimator',
        'tensorflow.python.estimator.keras': 'tensorflow_estimator.python.estimator.keras_lib',
    }
    # TensorFlow has several modules of tf.compat.v1 and tf.compat.v2, that of tf.compat.v1.compat.v2 among them.
    for name in ('tensorflow.compat.v1', 'tensorflow.compat.v2'):
        importlib.import_module(name)
    for name in list(sys.modules):
        if re.fullmatch(r'tensorflow|tensorflow(\._api\.v2)?(\.compat\.v[12])+', name):
            version = 'v1' if name.endswith('v1') else 'v2'
            originals[f'{name}.estimator'] = (
                f'tensorflow_estimator.python.estimator.api._{version}.estimator'
            )
    loaded = sorted(
        name for name in sys.modules if name.startswith('tensorflow_estimator.')
    )  # parents come first
    for name, original in originals.items():
        for module in loaded:
            if f'{module}.'.startswith(f'{original}.'):
                _alias(name + module[len(original) :], sys.modules[module])


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

tf = tensorflow.compat.v1
