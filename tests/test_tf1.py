"""tf1.py and quiet.py: Estimator where TensorFlow has none, versions that can't be served, and what is left unsaid."""
import json
import os
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT
from tf1 import tf

import tensorflow as tf2

IS_2_15 = tf2.__version__.startswith('2.15.')


def python(code, path='', **environ):
    """Runs code in a fresh Python that finds the repository and, before it, the directory `path`."""
    clean = {key: value for key, value in os.environ.items() if key not in ('TF_USE_LEGACY_KERAS', 'PYTHONWARNINGS')}
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120,
                          env={**clean, 'PYTHONPATH': f'{path}:{ROOT}', **environ})


def test_estimator_is_the_real_one():
    from tensorflow_estimator.python.estimator.estimator import Estimator
    assert issubclass(tf.estimator.Estimator, Estimator) and tf is tf2.compat.v1
    assert {'DNNClassifier', 'train_and_evaluate', 'RunConfig', 'BestExporter'} <= set(dir(tf.estimator))


def test_the_two_files_alone_are_enough(tmp_path):
    for name in ('tf1.py', 'quiet.py'):
        shutil.copy(os.path.join(ROOT, name), tmp_path)
    code = 'from tf1 import tf; import tf1, quiet; print(tf.estimator.Estimator.__name__, tf1.__file__, quiet.__file__)'
    process = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert process.stdout == f'Estimator {tmp_path}/tf1.py {tmp_path}/quiet.py\n', process.stderr


@pytest.mark.skipif(not IS_2_15, reason='TensorFlow 2.15 has Estimator built in')
def test_nothing_is_added_to_tensorflow_2_15():
    from tensorflow.python.distribute import estimator_training
    from tensorflow.python.tpu import tpu_embedding
    assert all(module.__file__.endswith('.py') for module in (estimator_training, tpu_embedding))
    assert 'TF_USE_LEGACY_KERAS' not in os.environ


def fake_tensorflow(directory, source):
    (directory / 'tensorflow').mkdir()
    (directory / 'tensorflow' / '__init__.py').write_text(source)
    return directory


@pytest.mark.parametrize('version', ['2.16.2', '2.20.0', '2.22.0', '1.15.5'])
def test_a_tensorflow_that_is_not_served(version, tmp_path):
    fake_tensorflow(tmp_path, f'import logging\n__version__ = {version!r}\nget_logger = logging.getLogger')
    process = python('import tf1', tmp_path)
    assert process.stderr.splitlines()[-1].startswith(f'ImportError: tf1.py found TensorFlow {version}; it serves '
                                                      'TensorFlow 2.21 with tensorflow-estimator 2.15.0')


@pytest.mark.skipif(IS_2_15, reason='not needed by TensorFlow 2.15')
def test_a_tensorflow_estimator_that_is_not_served():
    process = python('''
import importlib.metadata
version = importlib.metadata.version
importlib.metadata.version = lambda name: '2.14.0' if name == 'tensorflow-estimator' else version(name)
import tf1''')
    assert 'tensorflow-estimator 2.14.0 and tf_keras 2.21' in process.stderr.splitlines()[-1]


def test_no_tensorflow():
    process = python('import sys; sys.modules["tensorflow"] = None; import tf1')
    assert process.stderr.splitlines()[-1].startswith('ImportError: ') and 'make run' in process.stderr


def test_start_up_is_silent_unless_asked_for():
    code = 'from tf1 import tf; tf.Session(graph=tf.Graph()); tf.estimator.RunConfig()'
    assert python(code).stderr == ''
    assert 'cpu_feature_guard' in python(code, TF_CPP_MIN_LOG_LEVEL='0').stderr
    assert 'Instructions for updating' in python(code, PYTHONWARNINGS='default').stderr


def test_last_words_of_an_import_that_kills_python_come_through(tmp_path):
    fake_tensorflow(tmp_path, "import os\nos.write(2, b'I0000 noise\\nF0000 last words\\n')\nos.abort()")
    process = python('import quiet', tmp_path)
    assert process.stderr == 'F0000 last words\n' and process.returncode < 0


@pytest.mark.skipif(IS_2_15, reason='TensorFlow 2.15 can')
def test_a_strategy_over_a_cluster_is_refused(monkeypatch):
    cluster = {'cluster': {'chief': ['localhost:1'], 'worker': ['localhost:2']}, 'task': {'type': 'chief', 'index': 0}}
    monkeypatch.setenv('TF_CONFIG', json.dumps(cluster))
    assert tf.estimator.RunConfig().num_worker_replicas == 2
    with pytest.raises(ValueError, match='needs TensorFlow 2.15'):
        tf.estimator.RunConfig(train_distribute=tf2.distribute.MirroredStrategy())
