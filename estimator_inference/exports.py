"""Exports side by side, export_dir_base/<timestamp>/: the newest complete one, checksums, which to remove."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Iterator, Union

import tensorflow.compat.v1 as tf
from google.protobuf import message, text_format
from tensorflow.core.protobuf import saved_model_pb2

Path = Union[str, bytes, 'os.PathLike[str]']
CHECKSUM = 'assets.extra/sha256sum'  # in TensorFlow's place for files that it doesn't know


class DamagedExport(ValueError):
    """A SavedModel that can't be read, or not by this TensorFlow."""


def latest(export_dir_base: Path) -> str:
    """Returns the path of the newest complete export below a directory.

    Raises:
      FileNotFoundError: There is none, or no such directory.
    """
    for export_dir in complete(export_dir_base):
        return export_dir
    raise FileNotFoundError(f'no complete export in {os.fsdecode(export_dir_base)}')


def complete(export_dir_base: Path) -> Iterator[str]:
    """Yields the paths of the complete exports below a directory, the newest first.

    Raises:
      FileNotFoundError: No such directory.
    """
    export_dir_base = os.fsdecode(export_dir_base)
    if not tf.gfile.IsDirectory(export_dir_base):
        raise FileNotFoundError(f'no directory {export_dir_base}')
    names = (name.rstrip('/') for name in tf.gfile.ListDirectory(export_dir_base))
    for timestamp in sorted(filter(str.isdecimal, names), key=int, reverse=True):
        if is_complete(os.path.join(export_dir_base, timestamp)):
            yield os.path.join(export_dir_base, timestamp)


def is_complete(export_dir: Path) -> bool:
    """Whether a directory is an export, and whole: what is still being written or copied is not.

    Its name is a number, its timestamp; its `saved_model.pb` can be read and has the checksum that was written with it,
    if any; and all files of its variables are there.
    """
    export_dir = os.fsdecode(export_dir).rstrip('/')
    if not os.path.basename(export_dir).isdecimal():
        return False
    try:
        saved_model = read(export_dir)
        if not any(meta_graph.HasField('saver_def') for meta_graph in saved_model.meta_graphs):
            return True  # a model without variables
        files = tf.gfile.ListDirectory(os.path.join(export_dir, 'variables'))
    except (OSError, ValueError, tf.errors.OpError):
        return False
    shards = [re.fullmatch(r'variables\.data-\d{5}-of-(\d{5})', name) for name in files]
    counts = [int(shard[1]) for shard in shards if shard]
    return 'variables.index' in files and bool(counts) and len(counts) == counts[0]


def read(export_dir: Path) -> saved_model_pb2.SavedModel:
    """Returns what stands in the saved_model.pb, or saved_model.pbtxt, of an export.

    Raises:
      FileNotFoundError: There is none.
      DamagedExport: It can't be read, holds no graph, or its checksum is another.
    """
    saved_model = saved_model_pb2.SavedModel()
    path = os.path.join(os.fsdecode(export_dir), 'saved_model.pb')
    if tf.gfile.Exists(path + 'txt') and not tf.gfile.Exists(path):
        path += 'txt'
    try:
        content = _content(path)
    except (tf.errors.NotFoundError, tf.errors.FailedPreconditionError):
        raise FileNotFoundError(
            f'no SavedModel in {os.fsdecode(export_dir)}: {path} is missing'
        ) from None
    checksum = os.path.join(os.path.dirname(path), CHECKSUM)
    if tf.gfile.Exists(checksum) and _content(checksum) != _checksum(content):
        raise DamagedExport(f'{path} is damaged: its checksum is not that of {checksum}')
    try:
        if path.endswith('txt'):
            text_format.Parse(content, saved_model)
        else:
            saved_model.ParseFromString(content)
    except (message.DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise DamagedExport(f'{path} is damaged: {error}') from None
    if not saved_model.meta_graphs:
        raise DamagedExport(f'{path} is damaged: it holds no graph')
    return saved_model


def write_checksum(export_dir: Path) -> None:
    """Writes the checksum of an export's graph into the export; `read`, and so the predictor, then compares it.

    TensorFlow compares checksums of variables only: with a byte changed, saved_model.pb may load and answer wrong.
    `cd EXPORT_DIR && sha256sum --check assets.extra/sha256sum` compares it by hand.
    """
    export_dir = os.fsdecode(export_dir)
    path = os.path.join(export_dir, CHECKSUM)
    checksum = _checksum(_content(os.path.join(export_dir, 'saved_model.pb')))
    tf.gfile.MakeDirs(os.path.dirname(path))
    with tf.gfile.Open(path + '.temp', 'wb') as file:
        file.write(checksum)
    tf.gfile.Rename(path + '.temp', path, overwrite=True)


def remove_old(export_dir: Path, keep: int) -> list[str]:
    """Removes the oldest complete exports beside `export_dir` until `keep` are left with it; returns their paths.

    Raises:
      ValueError: `keep` is less than 1.
    """
    if keep < 1:
        raise ValueError(f'expected to keep 1 or more exports, got {keep}')
    export_dir_base, timestamp = os.path.split(os.fsdecode(export_dir).rstrip('/'))
    others = [
        other for other in complete(export_dir_base or '.') if os.path.basename(other) != timestamp
    ]
    for other in others[keep - 1 :]:
        temporary = os.path.join(os.path.dirname(other), f'temp-{os.path.basename(other)}')
        tf.gfile.Rename(other, temporary)  # at once it is no export any more, for a reader
        tf.gfile.DeleteRecursively(temporary)
    return others[keep - 1 :]


def _content(path):
    with tf.gfile.Open(path, 'rb') as file:
        return file.read()


def _checksum(content):
    return f'{hashlib.sha256(content).hexdigest()}  saved_model.pb\n'.encode()
