"""tf1.py: Estimator where TensorFlow has none, under each of its names, and versions that can't be served."""

import json
import os
import pkgutil
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf2
from tensorflow.python.distribute.distribute_config import DistributeConfig

from estimator_inference.tf1 import tf

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IS_2_15 = tf2.__version__.startswith('2.15.')
since_2_16 = pytest.mark.skipif(IS_2_15, reason='TensorFlow 2.15 has Estimator built in')


def python(code, path='', **environ):
    """Runs code in a fresh Python that finds the repository and, before it, the directory `path`."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if key not in ('TF_USE_LEGACY_KERAS', 'PYTHONWARNINGS')
    }
    return subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**clean, 'PYTHONPATH': f'{path}:{ROOT}', **environ},
    )


def import_error(code, path='', **environ):
    """The message of the ImportError that code ends with, in a fresh Python."""
    last_line = python(code, path, **environ).stderr.splitlines()[-1]
    assert last_line.startswith('ImportError: estimator_inference.tf1 '), last_line
    return last_line


def test_estimator_is_the_real_one():
    from tensorflow_estimator.python.estimator.estimator import Estimator, EstimatorV2

    assert issubclass(tf.estimator.Estimator, Estimator) and tf is tf2.compat.v1
    assert issubclass(tf2.estimator.Estimator, EstimatorV2)
    assert {'DNNClassifier', 'train_and_evaluate', 'RunConfig', 'BestExporter'} <= set(
        dir(tf.estimator)
    )


with open(os.path.join(ROOT, 'tests', 'data', 'tensorflow_2_15_names.txt')) as file:
    NAMES = file.read().split()


def test_each_name_of_2_15_is_there():
    def is_there(name):
        try:
            return pkgutil.resolve_name(name) is not None
        except (ImportError, AttributeError):
            return False

    assert len(NAMES) > 250 and [name for name in NAMES if not is_there(name)] == []


SPELLINGS = """
tensorflow.estimator.DNNClassifier
tensorflow.compat.v1.estimator.tpu.TPUEstimator
tensorflow.compat.v2.estimator.experimental.RNNClassifier
tensorflow.compat.v1.compat.v2.estimator.Estimator
tensorflow.keras.estimator.model_to_estimator
tensorflow.compat.v1.keras.estimator.model_to_estimator
tensorflow.compat.v1.layers.dense
import tensorflow.estimator as estimator
import tensorflow.compat.v1.estimator
import tensorflow.compat.v1.estimator.inputs as inputs
import tensorflow.compat.v2.estimator
from tensorflow import estimator
from tensorflow.compat.v1 import estimator
from tensorflow.compat.v2 import estimator
from tensorflow.estimator import DNNClassifier, Estimator
from tensorflow.estimator.export import ServingInputReceiver
from tensorflow.compat.v1.estimator.tpu.experimental import EmbeddingConfigSpec
from tensorflow.keras.estimator import model_to_estimator
from tensorflow.compat.v1.keras.estimator import model_to_estimator
from tensorflow.compat.v1.keras import layers
from tensorflow.python.estimator import estimator
from tensorflow.python.estimator.canned import dnn, head
from tensorflow.python.estimator.estimator_lib import Estimator
from tensorflow.python.estimator.export.export import ServingInputReceiver
import tensorflow.python.estimator.inputs.queues.feeding_functions
""".strip().splitlines()


@pytest.mark.parametrize(
    'imports',
    [
        'import estimator_inference.tf1, tensorflow',
        """
import tensorflow
try:
    import tensorflow_estimator
except (ImportError, AttributeError):  # since 2.16
    pass
import estimator_inference.tf1""",
    ],
    ids=['tf1', 'tensorflow'],
)
def test_each_spelling_whichever_is_imported_first(imports):
    process = python(f"""
{imports}
for spelling in {SPELLINGS!r}:
    try:
        exec(spelling)
    except (ImportError, AttributeError) as error:
        print(spelling, repr(error))
print(tensorflow.keras.Model.__module__, tensorflow.compat.v1.estimator.Estimator.__module__)""")
    keras = 'keras' if IS_2_15 else 'tf_keras'
    assert (
        process.stdout
        == f'{keras}.src.engine.training tensorflow_estimator.python.estimator.estimator\n'
    ), process


def test_a_module_is_the_same_under_each_name():
    from tensorflow.compat.v1.estimator import Estimator
    from tensorflow.python.estimator import estimator_lib
    from tensorflow.python.estimator.estimator import EstimatorV2

    assert Estimator is tf.estimator.Estimator and EstimatorV2 is tf2.estimator.Estimator
    assert tf2.estimator.Estimator is tf2.compat.v2.estimator.Estimator
    assert estimator_lib.Estimator is tf.estimator.Estimator


def test_estimator_from_keras(tmp_path):
    model = tf2.keras.Sequential([tf2.keras.layers.Dense(1, input_shape=(1,), name='dense')])
    model.compile('sgd', 'mse')
    estimator = tf2.keras.estimator.model_to_estimator(model, model_dir=str(tmp_path))
    estimator.train(lambda: tf2.data.Dataset.from_tensors(([[1.0]], [[2.0]])).repeat(3))
    assert isinstance(estimator, tf2.estimator.Estimator)
    assert estimator.latest_checkpoint().endswith('model.ckpt-3')


def test_names_that_the_export_decorator_gave():
    from tensorflow.python.util import tf_export

    assert 'estimator.DNNClassifier' in tf_export.get_v1_names(tf.estimator.DNNClassifier)
    assert 'estimator.DNNClassifier' in tf_export.get_v2_names(tf2.estimator.DNNClassifier)
    assert 'nn.relu' in tf_export.get_v1_names(tf.nn.relu) and tf_export.get_v1_names(1) == []


def test_the_file_alone_is_enough(tmp_path):
    shutil.copy(os.path.join(ROOT, 'estimator_inference', 'tf1.py'), tmp_path)
    code = 'from tf1 import tf; import tf1; print(tf.estimator.Estimator.__name__, tf1.__file__)'
    process = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert process.stdout == f'Estimator {tmp_path}/tf1.py\n', process.stderr


@pytest.mark.skipif(not IS_2_15, reason='TensorFlow 2.15 has Estimator built in')
def test_nothing_is_added_to_tensorflow_2_15():
    from tensorflow.python.distribute import estimator_training
    from tensorflow.python.tpu import tpu_embedding

    assert all(module.__file__.endswith('.py') for module in (estimator_training, tpu_embedding))
    assert 'TF_USE_LEGACY_KERAS' not in os.environ


@since_2_16
@pytest.mark.parametrize(
    'use',
    [
        'tf.keras.Model',
        *(
            pytest.param(use, marks=pytest.mark.slow)
            for use in ('tf.optimizers.Adam', 'from tensorflow.keras import layers')
        ),
    ],
)
def test_keras_3_was_used_before(use):
    message = import_error(f'import tensorflow as tf\n{use}\nimport estimator_inference.tf1')
    assert 'is Keras 3' in message and 'TF_USE_LEGACY_KERAS=1' in message


@since_2_16
@pytest.mark.slow
def test_keras_2_was_used_before():
    code = 'import tensorflow as tf; tf.keras.Model; import estimator_inference.tf1; print(tf.estimator.Estimator)'
    assert 'EstimatorV2' in python(code, TF_USE_LEGACY_KERAS='1').stdout


def fake_tensorflow(directory, source):
    (directory / 'tensorflow').mkdir()
    (directory / 'tensorflow' / '__init__.py').write_text(source)
    return directory


def fake_package(directory, name, version):
    """What importlib.metadata finds before the package that is installed."""
    (directory / f'{name}-{version}.dist-info').mkdir()
    (directory / f'{name}-{version}.dist-info' / 'METADATA').write_text(
        f'Name: {name}\nVersion: {version}\n'
    )


@pytest.mark.parametrize('version', ['2.14.1', '2.9.0', '1.15.5'])
def test_a_tensorflow_that_is_not_served(version, tmp_path):
    fake_tensorflow(tmp_path, f'__version__ = {version!r}')
    assert import_error('import estimator_inference.tf1', tmp_path).startswith(
        f'ImportError: estimator_inference.tf1 found TensorFlow {version}; it serves TensorFlow 2.15 as it is, and '
        'TensorFlow 2.16 to 2.21 with tensorflow-estimator 2.15.0'
    )


@pytest.mark.parametrize(
    'estimator, keras', [('2.14.0', '2.19.0'), ('2.15.0', '2.20.1'), ('2.15.0', '2.1.9')]
)
def test_packages_that_do_not_belong_together(estimator, keras, tmp_path):
    fake_tensorflow(tmp_path, '__version__ = "2.19.1"')
    fake_package(tmp_path, 'tensorflow_estimator', estimator)
    fake_package(tmp_path, 'tf_keras', keras)
    assert import_error('import estimator_inference.tf1', tmp_path).endswith(
        f'found TensorFlow 2.19.1 with tensorflow-estimator {estimator} and tf_keras {keras}: '
        "pip install tensorflow-estimator==2.15.0 'tf_keras==2.19.*'"
    )


def test_packages_that_are_missing(tmp_path):
    fake_tensorflow(tmp_path, '__version__ = "2.16.2"')
    assert import_error(
        """
import sys, importlib.metadata
sys.path = [path for path in sys.path if 'site-packages' not in path]
import estimator_inference.tf1""",
        tmp_path,
    ).endswith(
        'found TensorFlow 2.16.2 with tensorflow-estimator none and tf_keras none: '
        "pip install tensorflow-estimator==2.15.0 'tf_keras==2.16.*'"
    )


@pytest.mark.parametrize('version, refused', [('7.34.0', True), ('6.33.6', False)])
def test_tensorflow_2_20_with_protobuf_7(version, refused, tmp_path):
    fake_tensorflow(tmp_path, '__version__ = "2.20.0"')
    for name, number in {
        'tensorflow_estimator': '2.15.0',
        'tf_keras': '2.20.1',
        'protobuf': version,
    }.items():
        fake_package(tmp_path, name, number)
    message = import_error('import estimator_inference.tf1', tmp_path)
    assert (
        message.endswith("pip install 'protobuf<7'") == refused
    )  # else the fake lacks all that Estimator needs


def test_no_tensorflow():
    process = python('import sys; sys.modules["tensorflow"] = None; import estimator_inference.tf1')
    assert process.stderr.splitlines()[-1].startswith('ImportError: ')
    assert (
        "pip install 'tensorflow==2.21.*' tensorflow-estimator==2.15.0 'tf_keras==2.21.*'"
        in process.stderr
    )


@since_2_16
@pytest.mark.parametrize(
    'code, missing',
    [
        ('pass', ''),
        *(
            pytest.param(*arguments, marks=pytest.mark.slow)
            for arguments in [
                (
                    'from tensorflow.python.saved_model import model_utils; del model_utils.get_temp_export_dir',
                    "cannot import name 'get_temp_export_dir' from 'tensorflow.python.saved_model.model_utils'",
                ),
                (
                    'sys.modules["tensorflow.python.ops.clustering_ops"] = None',
                    'tensorflow.python.ops.clustering_ops',
                ),
            ]
        ),
    ],
)
def test_a_newer_tensorflow_is_tried(code, missing, tmp_path):
    fake_package(tmp_path, 'tf_keras', '2.99.0')
    process = python(
        f"""
import sys, tensorflow
tensorflow.__version__ = '2.99.0'
{code}
import estimator_inference.tf1
print(tensorflow.estimator.DNNClassifier.__name__)""",
        tmp_path,
    )
    assert 'UserWarning: estimator_inference.tf1 is untested on TensorFlow 2.99.0' in process.stderr
    if missing:
        last_line = process.stderr.splitlines()[-1]
        assert last_line.startswith(
            'ImportError: estimator_inference.tf1 found TensorFlow 2.99.0, but '
        )
        assert missing in last_line
    else:
        assert process.stdout == 'DNNClassifierV2\n', process.stderr


def test_a_cluster_without_a_strategy(monkeypatch):
    cluster = {
        'cluster': {'chief': ['localhost:1'], 'worker': ['localhost:2']},
        'task': {'type': 'chief', 'index': 0},
    }
    monkeypatch.setenv('TF_CONFIG', json.dumps(cluster))
    assert tf.estimator.RunConfig().num_worker_replicas == 2


def test_where_a_strategy_is_set():
    strategy = tf2.distribute.MirroredStrategy()
    in_config = DistributeConfig(train_distribute=strategy)
    assert tf.estimator.RunConfig(experimental_distribute=in_config).train_distribute is strategy
    with pytest.raises(ValueError, match='train_distribute'):
        tf.estimator.RunConfig(experimental_distribute=in_config, train_distribute=strategy)


@since_2_16
def test_what_a_strategy_over_a_cluster_does_not_do(monkeypatch, tmp_path):
    cluster = {'chief': ['localhost:1'], 'worker': ['localhost:2']}
    strategy = tf2.distribute.MirroredStrategy()
    with pytest.raises(ValueError, match='remote_cluster needs TensorFlow 2.15'):
        tf.estimator.RunConfig(
            experimental_distribute=DistributeConfig(strategy, remote_cluster=cluster)
        )
    monkeypatch.setenv(
        'TF_CONFIG', json.dumps({'cluster': cluster, 'task': {'type': 'chief', 'index': 0}})
    )
    config = tf.estimator.RunConfig(train_distribute=strategy)
    estimator = tf.estimator.LinearRegressor([], str(tmp_path), config=config)
    with pytest.raises(ValueError, match='call tf.estimator.train_and_evaluate'):
        estimator.train(lambda: None)


@pytest.mark.slow
def test_a_strategy_over_a_cluster(tmp_path, free_port):
    workers = [f'127.0.0.1:{free_port()}', f'127.0.0.1:{free_port()}']
    code = f"""
from estimator_inference.tf1 import tf
import tensorflow as tf2

def input_fn():
    return tf2.data.Dataset.from_tensors((dict(x=[[1.], [2.]]), [[2.], [4.]])).repeat()

config = tf.estimator.RunConfig({str(tmp_path)!r}, train_distribute=tf2.distribute.MultiWorkerMirroredStrategy())
estimator = tf.estimator.LinearRegressor([tf2.feature_column.numeric_column('x')], config=config)
tf.estimator.train_and_evaluate(estimator, tf.estimator.TrainSpec(input_fn, max_steps=5),
                                tf.estimator.EvalSpec(input_fn, steps=1))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', code],
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                'PYTHONPATH': ROOT,
                'TF_CONFIG': json.dumps(
                    {'cluster': {'worker': workers}, 'task': {'type': 'worker', 'index': index}}
                ),
            },
        )
        for index in range(2)
    ]
    try:
        logs = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], logs
    assert tf.train.load_variable(str(tmp_path), 'global_step') == 5
