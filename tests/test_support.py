"""support/: what is left unsaid at start-up, hints that work when they are pasted, the help, and devices."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
from processes import ROOT

import predict
import serve
import train
from estimator_inference import tf
from support.errors import command, install
from support.timing import seconds

SCRIPTS = sorted(
    path.name if folder == '.' else f'-m {folder}.{path.stem}'
    for folder in ('.', 'iris', 'beyond')
    for path in pathlib.Path(ROOT, folder).glob('*.py')
    if '\n@script(' in path.read_text()
)
IN_FOLDERS = [name for name in SCRIPTS if name.startswith('-m')]


def shell(line, cwd, path='', **environ):
    """Runs a line in a shell, as a person does, who has the directory `path` in PYTHONPATH."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if key not in ('TF_USE_LEGACY_KERAS', 'PYTHONWARNINGS')
    }
    return subprocess.run(
        line,
        shell=True,
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=120,
        env={**clean, 'PYTHONPATH': str(path), **environ},
    )


def python(code, path='', **environ):
    """Runs code in a fresh Python in the root of the repository."""
    return shell(f"exec {sys.executable} -c '{code}'", ROOT, path, **environ)


def test_scripts_are_found():
    assert {
        'train.py',
        'export.py',
        'predict.py',
        'fast_predict.py',
        'serve.py',
        'compare.py',
        '-m iris.train',
        '-m iris.remote',
        '-m beyond.export',
        '-m beyond.serve',
        '-m beyond.cluster',
        '-m beyond.train_and_evaluate',
    } <= set(SCRIPTS)


# What is left unsaid.

START_UP = 'import support; from estimator_inference import tf; tf.Session(graph=tf.Graph()); tf.estimator.RunConfig()'


def test_start_up_is_silent():
    assert python(START_UP).stderr == ''


@pytest.mark.slow
def test_start_up_tells_all_where_it_is_asked_for():
    printed = python(START_UP, TF_CPP_MIN_LOG_LEVEL='0', PYTHONWARNINGS='default').stderr
    assert 'cpu_feature_guard' in printed and 'Instructions for updating' in printed


@pytest.fixture
def fake_tensorflow(tmp_path):
    """A directory for PYTHONPATH, whose module tensorflow is this source."""

    def write(source):
        (tmp_path / 'fake').mkdir()
        (tmp_path / 'fake/tensorflow.py').write_text(source)
        return tmp_path / 'fake'

    return write


@pytest.mark.skipif(not shutil.which('grep'), reason='there is no grep')
def test_last_words_of_an_import_that_kills_python_come_through(fake_tensorflow):
    path = fake_tensorflow(
        "import os\nos.write(2, b'I0000 noise\\nF0000 last words\\n')\nos.abort()"
    )
    process = python('import support.quiet', path)
    assert process.stderr.splitlines()[0] == 'F0000 last words' and 'noise' not in process.stderr
    assert process.returncode < 0


FOREVER = 'while True:\n    time.sleep(.1)'
DESTRUCTOR = f'class Deleted:\n    def __del__(self):\n        interrupt()\nDeleted()\n{FOREVER}'


@pytest.mark.parametrize(
    'code',
    [
        f'try:\n    interrupt()\nexcept BaseException:\n    pass\n{FOREVER}',
        DESTRUCTOR,
        f'from support import errors\nerrors.raise_on_interrupt()\n{DESTRUCTOR}',
    ],
    ids=['imported by what catches it', 'imported, in a destructor', 'at work, in a destructor'],
)
def test_an_interrupt_is_not_lost(code, fake_tensorflow):
    path = fake_tensorflow(
        f'import signal, time\ninterrupt = lambda: signal.raise_signal(signal.SIGINT)\n{code}'
    )
    process = python('import support', path)
    assert (process.stderr, process.returncode) == ('-c: interrupted\n', -signal.SIGINT)


# The help, and hints.


@pytest.mark.parametrize('name', SCRIPTS)
def test_help_needs_no_tensorflow(name, fake_tensorflow, tmp_path):
    path = fake_tensorflow('raise SystemExit("TensorFlow is imported")')
    (tmp_path / 'here').mkdir()
    script = (
        f'env PYTHONPATH={path}:{ROOT} {sys.executable} {name}'
        if name in IN_FOLDERS
        else f'{sys.executable} {ROOT}/{name}'
    )
    process = shell(f'{script} --help', tmp_path / 'here', path)
    assert (process.stderr, process.returncode) == ('', 0)
    assert process.stdout.startswith(f'usage: {name} [-h]') and '(default: ' in process.stdout
    assert f'python {name}' in process.stdout and os.listdir(tmp_path / 'here') == []


@pytest.mark.parametrize('name', IN_FOLDERS)
@pytest.mark.parametrize('cwd', ['.', 'tests'])
def test_a_script_of_a_folder_by_its_path_says_how_to_run_it(name, cwd):
    path = os.path.relpath(
        os.path.join(ROOT, name[3:].replace('.', '/') + '.py'), os.path.join(ROOT, cwd)
    )
    process = shell(f'{sys.executable} {path}', os.path.join(ROOT, cwd))
    assert (
        process.returncode == 1 and process.stdout == '' and len(process.stderr.splitlines()) == 1
    )
    hint = re.fullmatch(f'{path} needs the repository around it: run (.*)\n', process.stderr)[1]
    assert shell(f'{hint} --help', os.path.join(ROOT, cwd)).stdout.startswith(f'usage: {name} [-h]')


@pytest.mark.parametrize('cwd', [ROOT, None], ids=['root', 'elsewhere'])
@pytest.mark.parametrize('name', ['serve.py', '-m iris.serve'])
def test_the_hint_of_a_wrong_flag_works_when_it_is_pasted(name, cwd, script, tmp_path):
    cwd = cwd or tmp_path
    process = script(name, '--nonsense', cwd=cwd)
    [hint] = re.findall(r'unrecognized arguments: --nonsense \(see (.*)\)\n$', process.stderr)
    assert process.returncode == 2 and (cwd == ROOT) == (ROOT not in hint)
    assert shell(hint, cwd).stdout.startswith(f'usage: {name} [-h]')


def test_hints_lead_from_nothing_to_an_answer(script, tmp_path):
    """Each hint, pasted into a shell, does what the next script needs: so these are real `python train.py` too."""
    process = script('predict.py', '--model-dir', "a b'c")
    [hint] = re.findall("^no checkpoint in a b'c: run (.*)\n$", process.stderr)
    assert process.returncode == 1 and not os.listdir(tmp_path)
    assert shell(f'{hint} --steps 1', tmp_path).stdout == "Trained on CPU: a b'c/model.ckpt-1\n"

    os.rename(tmp_path / "a b'c", tmp_path / 'model')
    process = script('serve.py')
    [hint] = re.findall('^no export in saved_model: run (.*)\n$', process.stderr)
    assert shell(hint, tmp_path).stdout.startswith('Exported model/model.ckpt-1 to saved_model/')
    assert re.search(
        r'^f\(100\) = .*, expected 200: the model has not learned 2x\n$', script('serve.py').stderr
    )


def test_commands(monkeypatch, tmp_path):
    for directory in ('bin', 'venv'):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / 'python').symlink_to(sys.executable)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('PATH', f'{tmp_path}/bin')
    monkeypatch.setattr(sys, 'executable', f'{tmp_path}/bin/python')
    assert command('train.py') == 'python train.py'
    assert (
        command('-m iris.train', '--model-dir', 'a b') == "python -m iris.train --model-dir 'a b'"
    )
    monkeypatch.setattr(
        sys, 'executable', f'{tmp_path}/venv/python'
    )  # the same file, with other packages
    assert command('train.py') == f'{tmp_path}/venv/python train.py'
    monkeypatch.setattr(sys, 'executable', os.path.join(ROOT, '.venv/bin/python'))
    assert command('train.py') == '.venv/bin/python train.py'
    monkeypatch.chdir(tmp_path)
    assert command('train.py') == f'{ROOT}/.venv/bin/python {ROOT}/train.py'
    assert (
        command('-m iris.train') == f'env PYTHONPATH={ROOT} {ROOT}/.venv/bin/python -m iris.train'
    )
    assert install('web') == f"{ROOT}/.venv/bin/python -m pip install '{ROOT}[web]'"
    monkeypatch.chdir(ROOT)
    assert install('web') == ".venv/bin/python -m pip install '.[web]'"


def test_missing_packages():
    process = shell(f'{sys.executable} -S {ROOT}/train.py', '/')
    assert process.stderr == (
        f"train.py: No module named 'tensorflow': run {sys.executable} -m pip install -r "
        f'{ROOT}/requirements.txt\n'
    )
    assert process.returncode == 1


def test_a_repository_with_a_space_in_its_path(tmp_path):
    others = shutil.ignore_patterns('model', 'saved*', '__pycache__')
    for room in ('iris', 'support'):
        shutil.copytree(f'{ROOT}/{room}', tmp_path / 'a b' / room, ignore=others)
    process = shell(f'{sys.executable} "a b/iris/train.py"', tmp_path)
    assert process.stderr == (
        f"a b/iris/train.py needs the repository around it: run cd '{tmp_path}/a b' && "
        f'{sys.executable} -m iris.train\n'
    )


# What a process is set up to.


def test_gpu_memory_is_allocated_as_needed():
    assert os.environ['TF_FORCE_GPU_ALLOW_GROWTH'] == 'true'


def test_device(trained, monkeypatch, ends):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    predict.main(['--model-dir', trained, '--examples', '1', '--device', 'cpu'])
    assert os.environ['CUDA_VISIBLE_DEVICES'] == '-1'
    if not tf.config.experimental.list_physical_devices('GPU'):
        for module in (predict, serve, train):
            assert ends(module, '--device', 'gpu').startswith(
                f'--device gpu: TensorFlow sees no GPU: {install("gpu")}; or leave --device out'
            )


def test_no_time():
    with pytest.raises(ValueError, match='expected a time, got -1'):
        seconds(-1)
