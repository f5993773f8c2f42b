"""What the tests share: one training and one export, and how a script is run."""
import os
import subprocess
import sys
import types

import pytest

import export
import train

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """The directory of a model that was trained by train.py. Tests leave it as it is."""
    model_dir = tmp_path_factory.mktemp('trained') / 'model'
    train.main(['--model-dir', str(model_dir)])
    return str(model_dir)


@pytest.fixture(scope='session')
def exported(trained, tmp_path_factory):
    """The directory of one export of it by export.py. Tests leave it as it is."""
    export_dir = tmp_path_factory.mktemp('exported') / 'saved_model'
    export.main(['--model-dir', trained, '--export-dir', str(export_dir)])
    return str(export_dir)


@pytest.fixture
def script(tmp_path):
    """Runs a script as a person does, in an empty directory: script('train.py', '--steps', '10') -> the process."""
    def run(name, *args, **environ):
        return subprocess.run([sys.executable, os.path.join(ROOT, name), *map(str, args)], cwd=tmp_path, text=True,
                              capture_output=True, timeout=120, env={**os.environ, **environ})
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
