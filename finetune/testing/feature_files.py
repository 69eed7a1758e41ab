"""Tables of features as Parquet or NPZ, in constant memory; a file appears when it is whole."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow
import pyarrow.parquet

from hicmae.files import whole_file

# Rows of a row group: a reader's smallest unit, 2 MiB of a 512-wide feature.
ROW_GROUP = 1024
METADATA = "hicmae"


class ParquetFeatures:
    """One column a feature (a list of fixed size), beside the columns that say of what it is.

    Args:
        path: To write.
        about: Types of the other columns.
        widths: Width of each feature.
        metadata: What goes into the schema's metadata, as JSON under ``hicmae``.
    """

    def __init__(
        self,
        path: Path,
        about: pyarrow.Schema,
        widths: Mapping[str, int],
        metadata: Mapping[str, Any],
    ) -> None:
        fields = [
            pyarrow.field(name, pyarrow.list_(pyarrow.float32(), width))
            for name, width in widths.items()
        ]
        self._schema = pyarrow.schema([*about, *fields]).with_metadata(
            {METADATA: json.dumps(metadata, ensure_ascii=False)}
        )
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._about = about
        self._kept: list[pyarrow.Table] = []
        self._num_kept = 0

    def add(self, about: Mapping[str, list[Any]], features: Mapping[str, np.ndarray]) -> None:
        """Add rows: their columns and their features (rows, width) float32."""
        columns = [
            pyarrow.array(about[field.name], type=field.type, from_pandas=True)
            for field in self._about
        ]
        for name, values in features.items():
            kind = self._schema.field(name).type
            flat = pyarrow.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
            columns.append(pyarrow.FixedSizeListArray.from_arrays(flat, type=kind))
        table = pyarrow.Table.from_arrays(columns, schema=self._schema)
        self._kept.append(table)
        self._num_kept += table.num_rows
        if self._num_kept >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._kept:
            self._writer.write_table(pyarrow.concat_tables(self._kept), row_group_size=ROW_GROUP)
        self._kept, self._num_kept = [], 0


class NpzFeatures:
    """One array a feature (rows, width), and one array a column that says of what it is.

    Features go to files beside the place until their number is known; the other columns, which are
    short, stay in memory.

    Args: as ``ParquetFeatures``; the metadata is the array ``hicmae``, JSON in a string.
    """

    def __init__(
        self,
        path: Path,
        about: pyarrow.Schema,
        widths: Mapping[str, int],
        metadata: Mapping[str, Any],
    ) -> None:
        self._path, self._metadata, self._widths = path, metadata, widths
        self._about: dict[str, list[Any]] = {field.name: [] for field in about}
        self._types = {field.name: field.type for field in about}
        self._parts: dict[str, BinaryIO] = {name: self._part(name).open("wb+") for name in widths}
        self._num_rows = 0

    def add(self, about: Mapping[str, list[Any]], features: Mapping[str, np.ndarray]) -> None:
        """Add rows, as ``ParquetFeatures.add``."""
        for name, values in about.items():
            self._about[name] += values
        for name, block in features.items():
            self._parts[name].write(np.ascontiguousarray(block, dtype="<f4").tobytes())
        self._num_rows += len(next(iter(features.values())))

    def close(self) -> None:
        """Put the parts into one file."""
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, part in self._parts.items():
                header = {
                    "descr": "<f4",
                    "fortran_order": False,
                    "shape": (self._num_rows, self._widths[name]),
                }
                part.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array_header_2_0(file, header)
                    shutil.copyfileobj(part, file, 1 << 20)
            for name, values in self._about.items():
                self._array(archive, name, _plain_array(values, self._types[name]))
            self._array(archive, METADATA, np.array(json.dumps(self._metadata, ensure_ascii=False)))
        self.discard()

    def discard(self) -> None:
        """Remove the parts."""
        for name, part in self._parts.items():
            part.close()
            self._part(name).unlink(missing_ok=True)

    def _part(self, name: str) -> Path:
        return self._path.with_name(f"{self._path.name}.{name}")

    @staticmethod
    def _array(archive: zipfile.ZipFile, name: str, values: np.ndarray) -> None:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, values, allow_pickle=False)


@contextlib.contextmanager
def feature_file(
    out: Path, about: pyarrow.Schema, widths: Mapping[str, int], metadata: Mapping[str, Any]
) -> Iterator[ParquetFeatures | NpzFeatures]:
    """Write a file beside its place; it gets its name when everything in it is written.

    Args:
        out: Ends in ``.parquet`` or ``.npz``.
        about: Types of the columns that are no features.
        widths: Width of each feature.
        metadata: Where the features come from.

    Raises: ValueError: another ending.
    """
    check_ending(out)
    kind = ParquetFeatures if out.suffix == ".parquet" else NpzFeatures
    with whole_file(out) as beside:
        file = kind(beside, about, widths, metadata)
        try:
            yield file
            file.close()
        finally:
            if isinstance(file, NpzFeatures):
                file.discard()


def check_ending(out: Path) -> None:
    """Refuse a file that is neither Parquet nor NPZ.

    Raises: ValueError: it is not.
    """
    if out.suffix not in (".parquet", ".npz"):
        raise ValueError(f"{out}: the file must end in .parquet or .npz")


def _plain_array(values: list[Any], kind: pyarrow.DataType) -> np.ndarray:
    """A column as an array without Python objects: a missing text is empty, a number is nan."""
    has_gaps = any(value is None or value != value for value in values)
    if pyarrow.types.is_integer(kind) and not has_gaps:
        return np.array(values, dtype=np.int64)
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind):
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if pyarrow.types.is_boolean(kind) and not has_gaps:
        return np.array(values, dtype=bool)
    return np.array(["" if value is None or value != value else str(value) for value in values])
