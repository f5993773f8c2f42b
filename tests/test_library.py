"""What may depend on what, what an import loads and prints, and the wheel."""

import ast
import glob
import importlib.metadata
import os
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT, linear, save  # noqa: F401

if sys.version_info < (3, 10):
    pytest.skip(
        'tells what is in the standard library from Python 3.10 on', allow_module_level=True
    )

LIBRARY = {'estimator_inference', 'tensorflow', 'numpy', 'google'}
SUPPORT = LIBRARY - {'google'} | {'support'}
SCRIPTS = {os.path.basename(path)[:-3] for path in glob.glob(os.path.join(ROOT, '*.py'))}
THIRD_PARTY = {'matplotlib', 'onnx', 'onnxruntime', 'ai_edge_litert'}
PRIVATE_NAMES = ('_private_api.py', 'tf1.py')


def files_of(*patterns):
    paths = [
        path for pattern in patterns for path in sorted(glob.glob(os.path.join(ROOT, pattern)))
    ]
    assert paths
    return pytest.mark.parametrize('path', paths, ids=lambda path: os.path.relpath(path, ROOT))


def imports(path):
    """Yields the dotted names that a Python file imports, also within functions and by importlib.import_module."""
    with open(path, encoding='utf-8') as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path} imports relatively'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == 'importlib.import_module'
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.args[0].value


def packages(path):
    return {name.split('.')[0] for name in imports(path)} - sys.stdlib_module_names


@files_of('estimator_inference/*.py')
def test_the_library_uses_tensorflow_and_numpy(path):
    """It knows nothing of the toy model, of flags or of scripts."""
    more = {
        'tf1.py': {'tensorflow_estimator', 'tf_keras', 'keras'},
        'remote.py': {'grpc', 'tensorflow_serving'},
    }
    assert packages(path) <= LIBRARY | more.get(os.path.basename(path), set())


@files_of('support/*.py')
def test_support_uses_the_library(path):
    assert packages(path) <= SUPPORT


@files_of('*.py')
def test_scripts_use_support_and_the_library(path):
    """And the functions of the steps before theirs; compare.py, which compares all, more."""
    name = os.path.basename(path)
    more = THIRD_PARTY | {'iris', 'beyond'} if name == 'compare.py' else set()
    assert packages(path) <= SUPPORT | (SCRIPTS - {'compare'}) | more
    if name == 'model.py':
        assert packages(path) <= LIBRARY


@files_of('iris/*.py', 'beyond/*.py')
def test_what_goes_further_uses_support_and_the_library(path):
    room = os.path.basename(os.path.dirname(path))
    more = SCRIPTS | {'flask', 'matplotlib', 'werkzeug'} if room == 'beyond' else set()
    assert packages(path) <= SUPPORT | {room, 'google'} | more


@files_of('*.py', 'estimator_inference/*.py', 'support/*.py', 'iris/*.py', 'beyond/*.py')
def test_private_names_of_tensorflow_stand_in_two_files(path):
    if (
        os.path.dirname(path).endswith('estimator_inference')
        and os.path.basename(path) in PRIVATE_NAMES
    ):
        return
    assert not [
        name
        for name in imports(path)
        if name.startswith('tensorflow.python') or name.startswith('tensorflow') and '._' in name
    ]
    with open(path, encoding='utf-8') as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names = ast.unparse(node).split('.')
            private = [name for name in names if name.startswith('_') and not name.endswith('__')]
            assert not (private and names[0] in ('tf', 'tf2', 'tensorflow')), ast.unparse(node)
            # What is TensorFlow's own by its name, whatever holds it: a session, a graph, an Estimator.
            assert not (
                private and {'session', 'graph', 'estimator', 'context'} & set(names[:-1])
            ), ast.unparse(node)


def python(code, *args, path=ROOT, **environ):
    """Runs code in a process of its own, away from the repository; returns its stdout and its stderr."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if key not in ('TF_USE_LEGACY_KERAS', 'PYTHONWARNINGS')
    }
    done = subprocess.run(
        [sys.executable, '-c', code, *args],
        cwd='/',
        text=True,
        capture_output=True,
        timeout=300,
        env={**clean, 'PYTHONPATH': str(path), **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


# The wheel.


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what it is made of."""
    pytest.importorskip('setuptools', '77', reason='builds a wheel: pip install .[dev]')
    pytest.importorskip('wheel', reason='builds a wheel: pip install .[dev]')
    source, built = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for name in ('pyproject.toml', 'README.md', 'LICENSE', *glob.glob('*.py', root_dir=ROOT)):
        (source / name).write_bytes(open(os.path.join(ROOT, name), 'rb').read())
    for room in ('estimator_inference', 'support', 'iris', 'beyond', 'tests'):
        (source / room).mkdir()
        for path in glob.glob(os.path.join(ROOT, room, '*.py')):
            (source / room / os.path.basename(path)).write_bytes(open(path, 'rb').read())
    (source / 'estimator_inference' / 'py.typed').touch()
    subprocess.run(
        [
            sys.executable,
            '-m',
            'pip',
            'wheel',
            '--quiet',
            '--no-deps',
            '--no-build-isolation',
            '--no-index',
            '--wheel-dir',
            str(built),
            str(source),
        ],
        check=True,
        timeout=300,
    )
    [path] = built.iterdir()
    return path


def test_the_wheel_holds_the_library(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if '.dist-info/' not in name]
        [metadata] = [
            file.read(name).decode()
            for name in file.namelist()
            if name.endswith('.dist-info/METADATA')
        ]
    files = os.listdir(os.path.join(ROOT, 'estimator_inference'))
    library = [name for name in files if name.endswith(('.py', 'py.typed'))]
    assert sorted(names) == sorted(f'estimator_inference/{name}' for name in library)
    assert 'Name: estimator-inference\n' in metadata and 'Apache-2.0' in metadata
    assert 'Requires-Dist: tensorflow>=' in metadata and 'Requires-Dist: numpy' in metadata


def test_the_wheel_needs_tensorflow_and_numpy_alone(wheel, save, tmp_path):
    """The predictor does; what needs more says what to install."""
    subprocess.run(
        [
            sys.executable,
            '-m',
            'pip',
            'install',
            '--quiet',
            '--no-deps',
            '--no-index',
            '--target',
            str(tmp_path / 'site'),
            str(wheel),
        ],
        check=True,
        timeout=300,
    )
    printed, _ = python(
        """
import importlib.metadata, sys
for name in 'tensorflow_estimator', 'tf_keras', 'grpc', 'tensorflow_serving':
    sys.modules[name] = None
version = importlib.metadata.version

def missing(name):
    if name.replace('_', '-') in ('tensorflow-estimator', 'tf-keras'):
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

importlib.metadata.version = missing
import estimator_inference
from estimator_inference import exports, predictor
print(estimator_inference.__file__)
print(predictor.from_saved_model(sys.argv[1])({'x': [[1]]})['y'].tolist())
for name in 'tf', 'FastPredict':
    try:
        print(getattr(estimator_inference, name).__name__)
    except ImportError as error:
        print(error)
try:
    estimator_inference.RemotePredictor('127.0.0.1:1', 'model')
except ImportError as error:
    print(error)
""",
        save(linear),
        path=tmp_path / 'site',
    )
    where, answer, tf, fast_predict, remote = printed.splitlines()
    assert (
        where == str(tmp_path / 'site' / 'estimator_inference' / '__init__.py')
        and answer == '[[4.0]]'
    )
    if not importlib.metadata.version('tensorflow').startswith('2.15.'):  # which itself requires it
        assert 'tensorflow-estimator' in tf and 'install' in tf
    assert fast_predict == 'FastPredict'  # it takes an Estimator, and makes none
    assert 'serving' in remote and 'install' in remote
