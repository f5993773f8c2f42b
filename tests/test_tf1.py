"""tf1.py: tf.estimator and tf.contrib.predictor where TensorFlow has none, and programs run so."""

import functools
import importlib
import json
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf2
from conftest import ROOT
from estimator_inference import tf1
from estimator_inference.tf1 import tf
from tensorflow.python.distribute.distribute_config import DistributeConfig

IS_2_15 = tf2.__version__.startswith('2.15.')
since_2_16 = pytest.mark.skipif(IS_2_15, reason='TensorFlow 2.15 has Estimator built in')


@pytest.fixture
def run(tmp_path):
    """Runs a Python in tmp_path, where it finds packages first: its status, stdout and stderr."""

    def run_python(*args, **environ):
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in ('TF_USE_LEGACY_KERAS', 'PYTHONWARNINGS')
        }
        return subprocess.run(
            [sys.executable, *args],
            cwd=tmp_path,
            env={**inherited, 'PYTHONPATH': os.pathsep.join([str(tmp_path), ROOT]), **environ},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run_python


@pytest.fixture
def import_error(run):
    """Runs code that ends with an ImportError of tf1, and returns its message."""

    def message(code='import estimator_inference.tf1'):
        last_line = run('-c', code).stderr.splitlines()[-1]
        assert last_line.startswith('ImportError: estimator_inference.tf1 '), last_line
        return last_line

    return message


# Names.


def test_each_public_name_of_2_15_is_there():
    """In tf.compat.v2 are the names of tf, which the file doesn't repeat."""
    text = pathlib.Path(ROOT, 'tests', 'data', 'tensorflow_2_15_names.txt').read_text()
    missing, count = [], 0
    for line in text.splitlines():
        module, names = line.split(':')
        if module.startswith('tensorflow.python'):
            importlib.import_module(module)
            continue
        modules = [module]
        if not module.startswith('tensorflow.compat'):
            modules.append(module.replace('tensorflow', 'tensorflow.compat.v2', 1))
        for name in modules:
            found = functools.reduce(getattr, name.split('.')[1:], tf2)
            missing += [
                f'{name}.{member}' for member in names.split() if not hasattr(found, member)
            ]
            count += len(names.split())
    assert missing == [] and count > 13_000


ESTIMATOR = """
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
from tensorflow.python.tpu import async_checkpoint, tpu_config, tpu_context, tpu_estimator
from tensorflow.python.tpu.tpu_config import TPUConfig
from tensorflow.compat.v1.tpu.experimental import AdamParameters
from tensorflow.data.experimental import CheckpointInputPipelineHook
""".strip().splitlines()
CONTRIB = """
from tensorflow.contrib import predictor; predictor.from_saved_model, predictor.from_estimator
import tensorflow.contrib.predictor
import tensorflow.contrib.predictor as predictor; predictor.from_saved_model
from tensorflow.contrib.predictor import from_saved_model, from_estimator
from tensorflow.contrib.predictor import predictor_factories; predictor_factories.from_estimator
from tensorflow.contrib.predictor.predictor_factories import from_saved_model
from tensorflow.contrib.predictor.saved_model_predictor import SavedModelPredictor
from tensorflow.contrib.predictor.core_estimator_predictor import CoreEstimatorPredictor
from tensorflow.contrib.predictor.predictor import Predictor
""".strip().splitlines()


def failing(spellings):
    errors = []
    for spelling in spellings:
        try:
            exec(spelling, {'tensorflow': tf2})
        except (ImportError, AttributeError) as error:
            errors.append((spelling, error))
    return errors


def test_each_spelling():
    assert failing(ESTIMATOR + CONTRIB) == []


def test_each_spelling_after_tensorflow_on_a_newer_one(run):
    """TensorFlow, and an Estimator that can't be imported yet, are imported before tf1.

    With the newest tf_keras, TensorFlow also tells a number that is newer than that.
    """
    has_newest = tf1._number(tf1._version('tf_keras')) >= tf1._NEWEST
    process = run(
        '-c',
        f"""
import tensorflow
try:
    import tensorflow_estimator
except (ImportError, AttributeError):
    pass
if {has_newest}:
    tensorflow.__version__ = '2.99.0'
import sys
import estimator_inference.tf1
print('estimator_inference.predictor' in sys.modules)
for spelling in {ESTIMATOR + CONTRIB!r}:
    exec(spelling)
print(tensorflow.keras.Model.__module__, tensorflow.compat.v1.estimator.Estimator.__module__)
from tensorflow.keras.layers import Dense
print(Dense is tensorflow.keras.layers.Dense)
""",
    )
    keras = 'keras' if IS_2_15 else 'tf_keras'
    assert process.stdout.splitlines() == [
        'False',
        f'{keras}.src.engine.training tensorflow_estimator.python.estimator.estimator',
        'True',
    ], process.stderr
    warning = 'estimator_inference.tf1 found TensorFlow 2.99.0, on which it is untested'
    assert (warning in process.stderr) is has_newest


def test_a_module_is_the_same_under_each_name():
    from tensorflow.compat.v1.estimator import Estimator
    from tensorflow.python.estimator import estimator_lib
    from tensorflow.python.estimator.estimator import EstimatorV2
    from tensorflow_estimator.python.estimator import estimator

    assert Estimator is tf.estimator.Estimator is estimator_lib.Estimator
    assert issubclass(Estimator, estimator.Estimator) and tf is tf2.compat.v1
    assert EstimatorV2 is tf2.estimator.Estimator is tf2.compat.v2.estimator.Estimator
    assert EstimatorV2 is estimator.EstimatorV2


@pytest.mark.skipif(not IS_2_15, reason='TensorFlow 2.15 has Estimator built in')
def test_2_15_keeps_what_it_has():
    from tensorflow.python.distribute import estimator_training
    from tensorflow.python.tpu import tpu_embedding

    assert all(module.__file__.endswith('.py') for module in (estimator_training, tpu_embedding))
    assert 'estimator_inference._removed' not in sys.modules
    assert 'TF_USE_LEGACY_KERAS' not in os.environ


def test_what_contrib_finds():
    from estimator_inference import Predictor, predictor
    from tensorflow.contrib import predictor as contrib_predictor
    from tensorflow.contrib.predictor import predictor as contrib_base
    from tensorflow.contrib.predictor import saved_model_predictor

    assert contrib_predictor.from_saved_model is predictor.from_saved_model
    assert contrib_predictor.from_estimator is predictor.from_estimator
    assert saved_model_predictor.SavedModelPredictor is predictor.from_saved_model
    assert contrib_base.Predictor is Predictor
    # Programs ask this to know whether it is TensorFlow 1.
    assert not hasattr(tf2, 'contrib') and not hasattr(tf, 'contrib')
    with pytest.raises(
        ImportError, match='no tensorflow.contrib.slim: of tf.contrib, .* predictor'
    ):
        from tensorflow.contrib import slim  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match='tensorflow.contrib.layers'):
        import tensorflow.contrib.layers  # noqa: F401
    # inspect, and others that go through all modules, ask for such names.
    assert not any(hasattr(sys.modules['tensorflow.contrib'], name) for name in ('__file__', '_x'))


def test_a_contrib_that_exists_is_left_alone(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.startswith('tensorflow.contrib')]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / 'contrib').mkdir()
    (tmp_path / 'contrib' / '__init__.py').touch()
    with monkeypatch.context() as patched:
        patched.setattr(tf2, '__path__', [str(tmp_path)])
        tf1._add_contrib()
        assert 'tensorflow.contrib' not in sys.modules
    tf1._add_contrib()
    ours = sys.modules['tensorflow.contrib']
    tf1._add_contrib()
    assert sys.modules['tensorflow.contrib'] is ours


# What stands in for code that TensorFlow removed.


def test_estimator_from_keras(tmp_path):
    model = tf2.keras.Sequential([tf2.keras.layers.Dense(1, input_shape=(1,), name='dense')])
    model.compile('sgd', 'mse')
    estimator = tf2.keras.estimator.model_to_estimator(model, model_dir=str(tmp_path))
    estimator.train(lambda: tf2.data.Dataset.from_tensors(([[1.0]], [[2.0]])).repeat(3))
    assert isinstance(estimator, tf2.estimator.Estimator)
    assert estimator.latest_checkpoint().endswith('model.ckpt-3')


def test_training_goes_on_where_its_input_stood(tmp_path):
    """CheckpointInputPipelineHook: the second training starts with the fourth element."""
    read = []

    def model_fn(features, labels, mode):
        step = tf.train.get_or_create_global_step()
        with tf.control_dependencies([tf.py_func(read.append, [features], [])]):
            train_op = tf.assign_add(step, 1)
        return tf.estimator.EstimatorSpec(mode, loss=tf.constant(0.0), train_op=train_op)

    config = tf.estimator.RunConfig(str(tmp_path), save_checkpoints_steps=2)
    estimator = tf.estimator.Estimator(model_fn, config=config)
    for _ in range(2):
        hook = tf.data.experimental.CheckpointInputPipelineHook(estimator)
        estimator.train(lambda: tf2.data.Dataset.range(9), hooks=[hook], steps=3)
    assert read == [0, 1, 2, 3, 4, 5]
    assert tf.train.latest_checkpoint(str(tmp_path), 'checkpoint_input').endswith('input.ckpt-6')
    assert estimator.latest_checkpoint().endswith('model.ckpt-6')
    with pytest.raises((KeyError, ValueError), match='(?i)never'):
        tf.data.experimental.CheckpointInputPipelineHook(estimator, 'never')


@since_2_16
def test_embeddings_on_tpus_are_refused():
    with pytest.raises(NotImplementedError, match='TensorFlow 2.15 is the last'):
        tf.tpu.experimental.AdamParameters(0.1)


def test_a_cluster_without_a_strategy(monkeypatch):
    cluster = {'chief': ['localhost:1'], 'worker': ['localhost:2']}
    config = {'cluster': cluster, 'task': {'type': 'chief', 'index': 0}}
    monkeypatch.setenv('TF_CONFIG', json.dumps(config))
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
            experimental_distribute=DistributeConfig(
                train_distribute=strategy, remote_cluster=cluster
            )
        )
    config = {'cluster': cluster, 'task': {'type': 'chief', 'index': 0}}
    monkeypatch.setenv('TF_CONFIG', json.dumps(config))
    run_config = tf.estimator.RunConfig(train_distribute=strategy)
    estimator = tf.estimator.LinearRegressor([], str(tmp_path), config=run_config)
    with pytest.raises(ValueError, match='call tf.estimator.train_and_evaluate'):
        estimator.train(lambda: None)


STRATEGY = """
import sys
from estimator_inference.tf1 import tf
import tensorflow as tf2

def input_fn():
    return tf2.data.Dataset.from_tensors((dict(x=[[1.], [2.]]), [[2.], [4.]])).repeat()

strategy = eval(sys.argv[1])
config = tf.estimator.RunConfig('model', train_distribute=strategy)
columns = [tf2.feature_column.numeric_column('x')]
estimator = tf.estimator.LinearRegressor(columns, config=config)
tf.estimator.train_and_evaluate(estimator, tf.estimator.TrainSpec(input_fn, max_steps=5),
                                tf.estimator.EvalSpec(input_fn, steps=1))
"""


EACH_WORKER = 'tf2.distribute.MultiWorkerMirroredStrategy()'
# The first worker trains, and the others serve it.
ONE_GRAPH = 'tf.distribute.MirroredStrategy(cross_device_ops=tf.distribute.ReductionToOneDevice())'


@pytest.mark.slow
@pytest.mark.parametrize('strategy', [EACH_WORKER, ONE_GRAPH])
def test_a_strategy_over_a_cluster(python, tmp_path, free_port, strategy):
    cluster = {'worker': [f'127.0.0.1:{free_port()}', f'127.0.0.1:{free_port()}']}
    processes = []
    for index in range(2):
        config = {'cluster': cluster, 'task': {'type': 'worker', 'index': index}}
        processes.append(python('-c', STRATEGY, strategy, TF_CONFIG=json.dumps(config)))
    for process in processes[: 1 if strategy == ONE_GRAPH else 2]:
        assert process.wait(300) == 0, process.printed()
    assert tf.train.load_variable(str(tmp_path / 'model'), 'global_step') == 5


# Versions that can't be served.


def fake_tensorflow(directory, version):
    (directory / 'tensorflow').mkdir()
    (directory / 'tensorflow' / '__init__.py').write_text(f'__version__ = {version!r}')


def fake_package(directory, name, version):
    """What importlib.metadata finds before the package that is installed."""
    metadata = directory / f'{name}-{version}.dist-info' / 'METADATA'
    metadata.parent.mkdir()
    metadata.write_text(f'Name: {name}\nVersion: {version}\n')


@pytest.mark.parametrize('version', ['2.14.1', '2.9.0', '1.15.5'])
def test_a_tensorflow_that_is_not_served(version, import_error, tmp_path):
    fake_tensorflow(tmp_path, version)
    assert import_error().startswith(
        f'ImportError: estimator_inference.tf1 found TensorFlow {version}; it serves TensorFlow '
        '2.15 as it is, and TensorFlow 2.16 to 2.21 with tensorflow-estimator 2.15.0'
    )


@pytest.mark.parametrize(
    'tensorflow, estimator, keras, wanted',
    [
        ('2.19.1', '2.14.0', '2.19.0', '==2.19.*'),
        ('2.19.1', '2.15.0', '2.20.1', '==2.19.*'),
        ('2.19.1', '2.15.0', '2.1.9', '==2.19.*'),
        ('2.21.0', '2.15.0', '2.22.0', '==2.21.*'),
        ('2.22.0-rc0', '2.15.0', '2.20.1', '>=2.21'),
        ('2.23.0-dev20261026', '2.14.0', '2.21.0', '>=2.21'),
    ],
)
def test_packages_that_do_not_belong_together(
    tensorflow, estimator, keras, wanted, import_error, tmp_path
):
    fake_tensorflow(tmp_path, tensorflow)
    fake_package(tmp_path, 'tensorflow_estimator', estimator)
    fake_package(tmp_path, 'tf_keras', keras)
    assert import_error().endswith(
        f'TensorFlow {tensorflow} with tensorflow-estimator {estimator} and tf_keras {keras}: '
        f"pip install --no-deps tensorflow-estimator==2.15.0 'tf_keras{wanted}'"
    )


def test_packages_that_are_missing(import_error, tmp_path):
    fake_tensorflow(tmp_path, '2.16.2')
    assert import_error(
        """
import sys, importlib.metadata
sys.path = [path for path in sys.path if 'site-packages' not in path]
import estimator_inference.tf1"""
    ).endswith(
        'found TensorFlow 2.16.2 with tensorflow-estimator none and tf_keras none: '
        "pip install --no-deps tensorflow-estimator==2.15.0 'tf_keras==2.16.*'"
    )


@pytest.mark.parametrize('protobuf, refused', [('7.34.0', True), ('6.33.6', False)])
def test_tensorflow_2_20_with_protobuf_7(protobuf, refused, import_error, tmp_path):
    fake_tensorflow(tmp_path, '2.20.0')
    fake_package(tmp_path, 'tensorflow_estimator', '2.15.0')
    fake_package(tmp_path, 'tf_keras', '2.20.1')
    fake_package(tmp_path, 'protobuf', protobuf)
    # Where it isn't refused, the fake lacks what Estimator needs.
    assert import_error().endswith("pip install 'protobuf<7'") == refused


def test_no_tensorflow(run):
    code = 'import sys; sys.modules["tensorflow"] = None; import estimator_inference.tf1'
    last_line = run('-c', code).stderr.splitlines()[-1]
    assert last_line.startswith('ImportError: ') and last_line.endswith(
        "pip install 'tensorflow==2.21.*' tensorflow-estimator==2.15.0 'tf_keras==2.21.*' "
        'tensorboard'
    )


@since_2_16
@pytest.mark.parametrize(
    'code, missing',
    [
        (
            'from tensorflow.python.saved_model import model_utils as m; del m.get_temp_export_dir',
            "cannot import name 'get_temp_export_dir' from 'tensorflow.python.saved_model",
        ),
        ('sys.modules["tensorflow.python.ops.clustering_ops"] = None', 'clustering_ops'),
    ],
)
@pytest.mark.slow
def test_a_newer_tensorflow_that_lacks_something(code, missing, import_error):
    message = import_error(
        'import sys, tensorflow\ntensorflow.__version__ = "2.99.0"\n'
        f'{code}\nimport estimator_inference.tf1'
    )
    assert 'estimator_inference.tf1 found TensorFlow 2.99.0, but ' in message and missing in message


@since_2_16
@pytest.mark.parametrize(
    'use',
    [
        'tf.keras.Model',
        pytest.param('tf.optimizers.Adam', marks=pytest.mark.slow),
        pytest.param('from tensorflow.keras import layers', marks=pytest.mark.slow),
    ],
)
def test_keras_3_was_used_before(use, import_error):
    message = import_error(f'import tensorflow as tf\n{use}\nimport estimator_inference.tf1')
    assert 'is Keras 3' in message and 'TF_USE_LEGACY_KERAS=1' in message


@since_2_16
@pytest.mark.slow
def test_keras_2_was_used_before(run):
    code = 'import tensorflow as tf; tf.keras.Model; import estimator_inference.tf1; tf.estimator'
    assert run('-c', code, TF_USE_LEGACY_KERAS='1').returncode == 0


# Programs as they stand.

PROGRAM = """
import atexit, sys
import tensorflow as tf
import estimator_inference.tf1
from tensorflow.contrib import predictor
import beside

print(sys.argv[1:], __name__, __file__, sys.path[0])
print(sys.modules['__main__'].predictor is predictor, beside.name)
tf.estimator.Estimator(lambda features: None)
"""


@pytest.fixture
def program(tmp_path):
    """Makes a program in a directory of its own, as a package with a module beside it."""

    def make(code):
        directory = tmp_path / 'programs'
        directory.mkdir()
        for name, text in {'__init__': '', 'beside': 'name = __name__', 'program': code}.items():
            (directory / f'{name}.py').write_text(text)
        return directory / 'program.py'

    return make


def test_a_program_as_a_script(run, program):
    """What follows the program is its own; its exit status is that of the process."""
    path = program(PROGRAM + 'sys.exit(int(sys.argv[2]))')
    process = run(
        '-m', 'estimator_inference.tf1', os.path.join('programs', path.name), '--help', '7'
    )
    assert process.stdout.splitlines() == [
        f"['--help', '7'] __main__ {path} {path.parent}",
        'True beside',
    ], process.stderr
    assert process.returncode == 7


def test_a_program_that_fails(run, program):
    """It is run as a module. The traceback is that of the program as a script."""
    path = program('import sys\nprint(sys.argv, __package__)\ndef f():\n    {}["key"]\nf()\n')
    process, python = (
        run('-m', *runner, 'programs.program', 'x')
        for runner in (['estimator_inference.tf1', '-m'], [])
    )
    assert process.stdout == python.stdout == f"[{str(path)!r}, 'x'] programs\n", process.stderr
    assert process.returncode == python.returncode == 1
    traceback = process.stderr[process.stderr.index('Traceback') :]
    script = run(str(path))
    assert traceback == script.stderr


def test_usage(capsys):
    tf1.run_program(['--help'])
    assert capsys.readouterr().out.startswith('usage: python -m estimator_inference.tf1 program.py')
    for arguments in [], ['-m'], ['--verbose', 'program.py']:
        with pytest.raises(SystemExit, match='usage: '):
            tf1.run_program(arguments)


@pytest.mark.slow
def test_pytest_plugin(run, tmp_path):
    (tmp_path / 'test_program.py').write_text(
        'import tensorflow as tf\ndef test(): assert tf.estimator.Estimator\n'
    )
    process = run('-m', 'pytest', '-q', '-p', 'estimator_inference.tf1', 'test_program.py')
    assert process.returncode == 0 and '1 passed' in process.stdout, process
