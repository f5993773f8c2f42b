"""What the tests share: one training for all workers of a run, processes, SavedModels."""

import contextlib
import os
import pathlib
import random
import socket
import subprocess
import sys
import time

import support  # noqa: F401  it sets what TensorFlow reads when it is imported
import filelock
import numpy as np
import pytest
from estimator_inference import tf

ROOT = str(pathlib.Path(__file__).resolve().parent.parent)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    random.seed(1)  # Keras's initializers draw their seeds there, and not from the RunConfig


@pytest.fixture(autouse=True)
def default_graph():
    """No test leaves a graph of its own behind as the default, where the next would build."""
    yield
    assert not tf.get_default_graph().finalized


# What is made once in a run.


def snapshot(directory):
    """Returns {path: contents} of all files below a directory."""
    return {
        path: path.read_bytes() for path in pathlib.Path(directory).rglob('*') if path.is_file()
    }


@pytest.fixture(scope='session')
def once(tmp_path_factory):
    """Makes a directory once in a run, whichever worker needs it first: once('model', function).

    No test may change it: others use it at the same time.
    """
    made = {}
    directory = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        directory = directory.parent

    def make(name, function):
        path = directory / 'once' / name
        path.parent.mkdir(exist_ok=True)
        with filelock.FileLock(f'{path}.lock'):
            if not path.exists():
                function(f'{path}.temp')
                os.rename(f'{path}.temp', path)
            made[path] = snapshot(path)
        return str(path)

    yield make
    for path, files in made.items():
        assert snapshot(path) == files, f'a test changed {path}'


@pytest.fixture(scope='session')
def trained(once):
    """The directory of a model that was trained by train.py."""
    import train

    return once('model', lambda model_dir: train.main(['--model-dir', model_dir]))


@pytest.fixture(scope='session')
def exported(trained, once):
    """The directory with one export of it by export.py."""
    import export

    return once(
        'saved_model', lambda path: export.main(['--model-dir', trained, '--export-dir', path])
    )


@pytest.fixture(scope='session')
def hidden(once):
    """The directory of a model with post B's hidden layer of 4 units."""
    import train

    return once('hidden', lambda path: train.main(['--model-dir', path, '--hidden-units', '4']))


# Processes.


class Python(subprocess.Popen):
    """A Python in a process of its own: a script of the repository, '-m', a module, or '-c', code.

    `printed()` is what it has printed until now, stdout and stderr together.
    """

    def __init__(self, output, *args, cwd=None, **environ):
        self.output = output
        command = [sys.executable, *map(str, args)]
        if command[1].endswith('.py'):
            command[1] = os.path.join(ROOT, command[1])
        environ = {**os.environ, 'PYTHONPATH': ROOT, **environ}
        with open(output, 'wb') as file:
            super().__init__(command, cwd=cwd, env=environ, stdout=file, stderr=subprocess.STDOUT)

    def printed(self):
        return self.output.read_text()

    def wait_for(self, words, timeout=120):
        """Waits until it has printed these words; fails where it ends without."""
        end = time.monotonic() + timeout
        while words not in self.printed():
            assert self.poll() is None and time.monotonic() < end, self.printed()
            time.sleep(0.01)


@pytest.fixture
def python(tmp_path, tmp_path_factory):
    """Starts a Python, in an empty directory: python('predict.py', '--examples', 3) -> Python.

    It is killed at the end of the test, if it still runs. `python(...).wait()` waits for its end.
    """
    with contextlib.ExitStack() as stack:

        def start(*args, cwd=tmp_path, **environ):
            output = tmp_path_factory.mktemp('output') / 'printed'
            process = Python(output, *args, cwd=cwd, **environ)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture(scope='session')
def free_port():
    """A function that returns a port of 127.0.0.1 that nobody else is given during this run."""
    with contextlib.ExitStack() as stack:

        def make():
            bound = stack.enter_context(socket.socket())
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server may bind it too
            bound.bind(('127.0.0.1', 0))
            return bound.getsockname()[1]

        yield make


# SavedModels.


def signature_def(inputs, outputs):
    return tf.saved_model.build_signature_def(
        *(
            {key: tf.saved_model.build_tensor_info(tensor) for key, tensor in tensors.items()}
            for tensors in (inputs, outputs)
        ),
        'tensorflow/serving/predict',
    )


@pytest.fixture
def save(tmp_path):
    """Saves the graph that `build` makes.

    It returns (inputs, outputs), or {signature: (inputs, outputs)}.
    """
    graphs = []  # the functions of tf.py_func live as long as the graph they were made in

    def run(build, *args, tags=(('serve',),), path=None, as_text=False, config=None):
        export_dir = str(path or tmp_path / f'export-{len(os.listdir(tmp_path))}')
        builder = tf.saved_model.builder.SavedModelBuilder(export_dir)
        graphs.append(tf.Graph())
        with graphs[-1].as_default(), tf.Session(config=config) as session:
            signatures = build(*args)
            if isinstance(signatures, tuple):
                signatures = {'serving_default': signatures}
            signatures = {key: signature_def(*tensors) for key, tensors in signatures.items()}
            session.run([tf.global_variables_initializer(), tf.tables_initializer()])
            builder.add_meta_graph_and_variables(
                session,
                tags[0],
                signatures,
                main_op=tf.tables_initializer(),
                assets_collection=tf.get_collection(tf.GraphKeys.ASSET_FILEPATHS),
            )
            for more in tags[1:]:
                builder.add_meta_graph(more, signatures)
            builder.save(as_text)
        return export_dir

    return run


def session_run(export_dir, inputs, key='serving_default'):
    """What a plain session answers: the reference."""
    with tf.Session(
        graph=tf.Graph()
    ) as session:  # made within a graph, it would not have soft placement
        signature = tf.saved_model.loader.load(session, ['serve'], export_dir).signature_def[key]
        return session.run(
            {key: info.name for key, info in signature.outputs.items()},
            {signature.inputs[key].name: value for key, value in inputs.items()},
        )


def assert_same(ours, theirs):
    """Asserts equal answers, in dicts and lists: their types, dtypes, shapes and values."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        theirs, ours = list(theirs.values()), [ours[key] for key in theirs]
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            assert_same(one, other)
    elif isinstance(theirs, bytes):
        assert ours == theirs
    else:
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype
        np.testing.assert_array_equal(ours, theirs, strict=True)


def variable(name, value, use_resource=True):
    return tf.get_variable(
        name, initializer=np.asarray(value, np.float32), use_resource=use_resource
    )


def linear(use_resource=True):
    """[x] -> [3x + 1], with two variables."""
    x = tf.placeholder(tf.float32, [None, 1], 'x')
    return {'x': x}, {'y': x * variable('w', [3], use_resource) + variable('b', [1], use_resource)}


def double(dtype=tf.float32, shape=(None,)):
    x = tf.placeholder(dtype, shape, 'x')
    return {'x': x}, {'y': x + x}


def echo(dtype, shape=(None,)):
    x = tf.placeholder(dtype, shape)
    return {'x': x}, {'y': tf.identity(x)}
