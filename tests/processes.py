"""Scripts in processes of their own, as a person runs them, but forked from one that has TensorFlow imported already.

A fork takes some milliseconds where `python train.py` imports TensorFlow for three seconds.
"""

import contextlib
import ctypes
import faulthandler
import importlib.metadata
import importlib.util
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time

# A shell ignores it in what runs in the background; what is started here is interrupted all the same.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload(
    [
        'processes',
        'support',
        'estimator_inference.tf1',
        'estimator_inference.predictor',
        'estimator_inference.exports',
        'estimator_inference.fast_predict',
        'estimator_inference.remote',
    ]
)

_LOGGED = re.compile('^(WARNING: All log messages before absl|I0000 ).*\n', re.M)
_LOGS_ALWAYS = importlib.metadata.version('tensorflow').startswith(('2.18.', '2.19.', '2.20.'))


class Process:
    """A script that runs: what subprocess.Popen has of it, but stdout and stderr are what it has printed until now."""

    def __init__(self, command, directory, cwd, environ=None, around=contextlib.nullcontext):
        """Starts it.

        Args:
          command: ['train.py', '--steps', '10'], or ['-m', 'iris.train'], or the path of another Python file.
          directory: Where its output goes to.
          cwd: The directory to run it in.
          environ: Its environment, where that is not ours.
          around: Returns a context manager for it to run in.
        """
        self._output = [os.path.join(directory, name) for name in ('stdout', 'stderr')]
        for path in self._output:
            open(path, 'w').close()
        environ = dict(os.environ if environ is None else environ)
        self._process = _CONTEXT.Process(
            name=' '.join(map(str, command)),
            target=_run,
            args=([str(word) for word in command], str(cwd), environ, self._output, around),
        )
        self._process.start()
        self.pid = self._process.pid

    stdout = property(lambda self: self._read(0))
    # TensorFlow 2.18 to 2.20 log the first session in C++, whatever TF_CPP_MIN_LOG_LEVEL says.
    stderr = property(lambda self: re.sub(_LOGGED if _LOGS_ALWAYS else '(?!)', '', self._read(1)))
    returncode = property(lambda self: self._process.exitcode)

    def _read(self, number):
        with open(self._output[number]) as file:
            return file.read()

    def wait_for(self, words, timeout=120):
        """Waits until it has printed these words, or ended."""
        end = time.monotonic() + timeout
        while words not in self.stdout + self.stderr and self.returncode is None:
            assert time.monotonic() < end, self.stderr
            time.sleep(0.005)

    def wait(self, timeout=120):
        """Waits for its end, and returns its exit status."""
        self._process.join(timeout)
        if self.returncode is None:
            self.send_signal(signal.SIGUSR1)  # it writes to stderr where its threads stand
            time.sleep(1)
            raise AssertionError(f'{self._process.name} has not ended: {self.stdout}{self.stderr}')
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        """Kills it, if it still runs."""
        self._process.kill()
        self._process.join()


def _run(command, cwd, environ, output, around):
    """Runs a script in this process, which was forked for it, and ends the process as Python does."""
    faulthandler.register(signal.SIGUSR1)
    os.setsid()
    for number, path in enumerate(output, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    sys.path.insert(0, ROOT)
    status = 0
    try:
        with around():
            if command[0] == '-m':
                sys.argv = command[1:]
                sys.modules['__main__'].__spec__ = importlib.util.find_spec(command[1])
                runpy.run_module(command[1], run_name='__main__', alter_sys=True)
            else:
                sys.argv = [os.path.join(ROOT, command[0]), *command[1:]]
                runpy.run_path(sys.argv[0], run_name='__main__')
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        status = 1 if isinstance(error.code, str) else error.code or 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


@contextlib.contextmanager
def disk(directory, content, options, after):
    """Mounts a small file system of its own on `directory`, for this process alone, and copies it to `after` then.

    The file system holds a copy of what is in `content`, and has these mount options: size=100k, or ro.
    """
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(
        0x10000000 | 0x20000
    ):  # CLONE_NEWUSER, CLONE_NEWNS
        raise OSError(ctypes.get_errno(), 'no file systems of its own')
    try:
        for name, text in (
            ('setgroups', 'deny'),
            ('uid_map', f'0 {user} 1'),
            ('gid_map', f'0 {group} 1'),
        ):
            with open(f'/proc/self/{name}', 'w') as file:
                file.write(text)
        subprocess.run(['mount', '-t', 'tmpfs', 'none', directory], check=True)
        shutil.copytree(content, directory, dirs_exist_ok=True)
        subprocess.run(['mount', '-o', f'remount,{options}', directory], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise OSError(f'no file systems of its own: {error}') from None
    try:
        yield
    finally:
        shutil.copytree(directory, after, dirs_exist_ok=True)
