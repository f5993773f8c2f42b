"""The house: what README and docs name is there, what may depend on what, and the wheel."""

import ast
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT, linear

HOUSE = pathlib.Path(ROOT)
PAGES = [HOUSE / 'README.md', HOUSE / 'CONTRIBUTING.md', *sorted(HOUSE.glob('docs/*.md'))]
each_page = pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)


# README and docs.


def anchors(page):
    headings = re.findall(r'^#+ (.+)$', re.sub(r'(?s)```.*?```', '', page.read_text()), re.M)
    return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


@each_page
def test_links_lead_somewhere(page):
    for link in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
        if not re.match('https?://', link):
            path, _, anchor = link.partition('#')
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme():
    linked = re.findall(r'\]\((docs/[\w-]+\.md)\)', (HOUSE / 'README.md').read_text())
    assert {HOUSE / link for link in linked} == set(HOUSE.glob('docs/*.md'))


@each_page
def test_commands_name_what_is_there(page):
    text = page.read_text()
    for script in re.findall(r'python3? ([\w/]+\.py)', text):
        assert (HOUSE / script).exists(), script
    for module in re.findall(r'-m ((?:examples|iris)\.\w+)', text):
        assert importlib.util.find_spec(module), module
    for target in re.findall(r'^ +make ([\w-]+)', text, re.M):
        assert re.search(rf'^{target}:', (HOUSE / 'Makefile').read_text(), re.M), target
    for extra in re.findall(r"""['"]\.\[(\w+)\]""", text):
        assert re.search(rf'^{extra} = \[', (HOUSE / 'pyproject.toml').read_text(), re.M), extra


# What may depend on what.

LIBRARY = {'estimator_inference', 'tensorflow', 'numpy'}
STEPS = {'model', 'train', 'export', 'predict', 'fast_predict', 'serve'}  # each uses earlier ones
SERVING = {'grpc', 'tensorflow_serving'}
MAY_IMPORT = {
    'estimator_inference/tf1.py': LIBRARY | {'tensorflow_estimator', 'tf_keras'},
    'estimator_inference/remote.py': LIBRARY | SERVING | {'google'},
    'estimator_inference/*.py': LIBRARY | {'google'},
    'support.py': LIBRARY,
    'model.py': LIBRARY,
    'compare.py': LIBRARY
    | {'support', 'export', 'fast_predict', 'model', 'train'}
    | {'ai_edge_litert', 'matplotlib', 'onnx', 'onnxruntime'},
    'iris/remote.py': LIBRARY | SERVING | {'support', 'iris'},
    'iris/*.py': LIBRARY | {'support', 'iris'},
    'examples/serving/*.py': LIBRARY | SERVING | {'google', 'support'},
    'examples/*.py': LIBRARY | STEPS | {'support', 'examples', 'flask'},
    '*.py': LIBRARY | STEPS | {'support'},
}
FILES = sorted(
    path
    for room in ('*.py', 'estimator_inference/*.py', 'iris/*.py', 'examples/**/*.py')
    for path in HOUSE.glob(room)
)
each_file = pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(HOUSE)))


def imports(path):
    """Yields the dotted names that a Python file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path} imports relatively'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


@each_file
def test_each_room_imports_what_it_may(path):
    packages = {name.split('.')[0] for name in imports(path)} - {*sys.stdlib_module_names}
    [room, *_] = [room for room in MAY_IMPORT if path.match(str(HOUSE / room))]
    assert packages <= MAY_IMPORT[room]


@each_file
def test_private_names_of_tensorflow_stand_where_they_are_explained(path):
    if path.name in ('_private_api.py', 'tf1.py', '_removed.py'):
        return
    assert not [name for name in imports(path) if re.match(r'tensorflow\.(python|.*\._)', name)]
    owners = {'tf', 'tf2', 'tensorflow', 'session', 'graph', 'estimator', 'context'}
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Attribute) and re.match('_[^_]', node.attr):
            assert not owners & {*ast.unparse(node.value).split('.')}, ast.unparse(node)


# The package.


@pytest.fixture(scope='module')
def wheel(once):
    """The directory of the wheel, built from a copy of what it is made of."""
    pytest.importorskip('setuptools', '77', reason='builds a wheel: pip install .[dev]')

    def build(directory):
        source = pathlib.Path(f'{directory}.source')
        for pattern in ('pyproject.toml', 'README.md', 'LICENSE', '**/*.py', '**/py.typed'):
            for path in HOUSE.glob(pattern):
                if '.venv' not in str(path) and 'build' not in str(path):
                    copy = source / path.relative_to(HOUSE)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(path.read_bytes())
        pip('wheel', '--no-build-isolation', '--wheel-dir', directory, source)

    return pathlib.Path(once('wheel', build))


def pip(command, *args):
    quiet = ('--quiet', '--no-deps', '--no-index')
    subprocess.run([sys.executable, '-m', 'pip', command, *quiet, *map(str, args)], check=True)


def test_the_wheel_holds_the_library(wheel):
    [path] = wheel.iterdir()
    with zipfile.ZipFile(path) as file:
        names = {name for name in file.namelist() if '.dist-info/' not in name}
        [metadata] = [file.read(name) for name in file.namelist() if name.endswith('METADATA')]
    library = [*HOUSE.glob('estimator_inference/*.py'), HOUSE / 'estimator_inference/py.typed']
    assert names == {path.relative_to(HOUSE).as_posix() for path in library}
    for line in (b'Name: estimator-inference\n', b'Requires-Dist: tensorflow>=', b'Apache-2.0'):
        assert line in metadata


def test_the_predictor_needs_tensorflow_and_numpy_alone(wheel, save, python, tmp_path):
    """What needs more says what to install; and no import loads what isn't asked for."""
    [path] = wheel.iterdir()
    pip('install', '--target', tmp_path / 'site', path)
    code = """
import json, sys
missing = 'tensorflow_estimator', 'tf_keras', 'keras', 'grpc', 'tensorflow_serving'
sys.modules.update(dict.fromkeys(missing[3:]))
import estimator_inference
loaded = sorted({'tensorflow', 'numpy'} & {*sys.modules})
from estimator_inference import predictor
answer = predictor.from_saved_model(sys.argv[1])({'x': [[1]]})['y'].tolist()
modules = sorted(name for name in sys.modules if name.startswith('estimator_inference.'))
try:
    estimator_inference.RemotePredictor('127.0.0.1:1', 'model')
except ImportError as error:
    remote = str(error)
try:
    estimator_inference.nothing
except AttributeError as error:
    nothing = str(error)
print(json.dumps([estimator_inference.__file__, loaded, answer, modules, remote, nothing]))
"""
    process = python('-c', code, save(linear), PYTHONPATH=str(tmp_path / 'site'))
    assert process.wait() == 0, process.printed()
    at, loaded, answer, modules, remote, nothing = json.loads(process.printed().splitlines()[-1])
    assert at == str(tmp_path / 'site' / 'estimator_inference' / '__init__.py')
    assert loaded == [] and answer == [[4.0]]
    assert not {f'estimator_inference.{name}' for name in ('tf1', 'remote')} & {*modules}
    assert 'serving' in remote and 'pip install' in remote
    assert 'nothing' in nothing and 'FastPredict' in nothing


@pytest.mark.slow
def test_a_type_checker_finds_the_names_without_running_them(tmp_path):
    pytest.importorskip('mypy')
    (tmp_path / 'program.py').write_text(
        'from estimator_inference import FastPredict, predictor\n'
        "reveal_type(predictor.from_saved_model('1'))\nreveal_type(FastPredict.predict)\n"
    )
    environ = {**os.environ, 'MYPYPATH': ROOT}
    command = [sys.executable, '-m', 'mypy', '--config-file', HOUSE / 'pyproject.toml']
    checked = subprocess.run(
        [*command, tmp_path / 'program.py'], capture_output=True, text=True, env=environ
    )
    revealed = re.findall('Revealed type is "(.*)"', checked.stdout)
    assert 'Predictor' in revealed[0] and 'FastPredict' in revealed[1], checked.stdout
