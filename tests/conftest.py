"""What the tests share: one training and one export for all workers of a run, and how a script is run."""

import contextlib
import fcntl
import os
import random
import socket
import types

import pytest
from processes import ROOT, Process  # noqa: F401  ROOT for the tests


def pytest_pycollect_makemodule():
    """Imports support before TensorFlow, in pytest-xdist's workers only: its controller needs neither."""
    from support import errors

    errors.raise_on_interrupt()  # Ctrl-C ends pytest as ever


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    random.seed(1)  # Keras's initializers draw their seeds there, and not from the RunConfig


def slow(*arguments):
    """What pytest.mark.parametrize takes, each marked slow."""
    return [
        pytest.param(*each if isinstance(each, tuple) else (each,), marks=pytest.mark.slow)
        for each in arguments
    ]


def snapshot(directory):
    """The names and contents of all files below a directory."""
    return {
        os.path.join(at, name): open(os.path.join(at, name), 'rb').read()
        for at, _, names in os.walk(directory)
        for name in names
    }


@pytest.fixture(scope='session')
def once(tmp_path_factory):
    """Makes a directory once in a run, whichever worker of pytest-xdist needs it first: once('model', function).

    No test may change it: others use it at the same time.
    """
    made = {}
    directory = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        directory = directory.parent

    def make(name, function):
        path = directory / 'once' / name
        path.parent.mkdir(exist_ok=True)
        with open(f'{path}.lock', 'w') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
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
    """The directory of one export of it by export.py."""
    import export

    return once(
        'saved_model', lambda path: export.main(['--model-dir', trained, '--export-dir', path])
    )


@pytest.fixture(scope='session')
def hidden(once):
    """The directory of a model with a hidden layer of 4 units."""
    import train

    return once(
        'hidden',
        lambda model_dir: train.main(
            ['--model-dir', model_dir, '--hidden-units', '4', '--steps', '500']
        ),
    )


@pytest.fixture(scope='session')
def iris_trained(once):
    """A directory with what iris.train wrote, model/ and saved_model/, and printed, stdout and stderr."""

    def train_iris(path):
        os.mkdir(path)
        process = Process(
            [
                '-m',
                'iris.train',
                '--model-dir',
                f'{path}/model',
                '--export-dir',
                f'{path}/saved_model',
            ],
            path,
            path,
        )
        assert process.wait() == 0, process.stderr

    return once('iris', train_iris)


@pytest.fixture(autouse=True)
def default_graph():
    """No test leaves a graph of its own behind as the default, where the next would build."""
    from estimator_inference import tf

    yield
    assert not tf.get_default_graph().finalized


@pytest.fixture(scope='session')
def free_port():
    """A function that returns a port of 127.0.0.1 that nobody uses, and that nobody else is given during this run."""
    with contextlib.ExitStack() as stack:

        def make():
            bound = stack.enter_context(socket.socket())
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server may bind it too
            bound.bind(('127.0.0.1', 0))
            return bound.getsockname()[1]

        yield make


@pytest.fixture
def start(tmp_path, tmp_path_factory):
    """Starts a script in a process of its own and an empty directory, and kills it at the end of the `with` block."""

    @contextlib.contextmanager
    def run(name, *args, cwd=tmp_path, around=contextlib.nullcontext, **environ):
        process = Process(
            [*name.split(), *args],
            tmp_path_factory.mktemp('output'),
            cwd,
            {**os.environ, **environ},
            around,
        )
        try:
            yield process
        finally:
            process.kill()

    return run


@pytest.fixture
def script(start):
    """Runs a script as a person does, in an empty directory: script('train.py', '--steps', '10') -> the process."""

    def run(name, *args, **options):
        with start(name, *args, **options) as process:
            process.wait()
        return process

    return run


@pytest.fixture
def ends(capsys):
    """Asserts that a script's main ends with one line on stderr, and returns the line."""

    def run(script: types.ModuleType, *args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as error:
            script.main([str(arg) for arg in args])
        printed = capsys.readouterr().err.splitlines()
        lines = [line for line in printed if not line.startswith('INFO')]
        if isinstance(error.value.code, str):  # Python prints it and exits with 1
            lines.append(error.value.code)
        assert error.value.code != 0 and len(lines) == 1 and '\n' not in lines[0], lines
        return lines[0]

    return run
