"""The per-image tables of a run: columns of numpy arrays in memory, deterministic Parquet on disk."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timm_lipschitz.errors import RecordError

if TYPE_CHECKING:
    import pyarrow as pa


class Status(StrEnum):
    """What became of one image under one attack.

    ``misclassified``: wrong without any perturbation. ``certified``: proved, so not attacked. ``broken``: an
    adversarial example within eps was found. ``standing``: attacked, and none was found.
    """

    MISCLASSIFIED = "misclassified"
    CERTIFIED = "certified"
    BROKEN = "broken"
    STANDING = "standing"


@dataclass(frozen=True, eq=False)
class ImageTable:
    """One row an image (N rows), sorted by ``index``; a view of clean accuracy and certificates.

    Attributes:
        index: (N,) position in the split, each once.
        label: (N,) true class.
        prediction: (N,) predicted class.
        margin: (N,) logit of the label minus the largest other logit.
        radius: (N,) certified L2 radius in pixel units; 0 where wrong, tied or without a certificate.
        correct: (N,) whether the image counts as classified correctly; a tie may count as wrong.

    Raises:
        RecordError: columns of different length or type, NaN, a radius without a correct prediction, an index twice.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    margin: NDArray[np.float64]
    radius: NDArray[np.float64]
    correct: NDArray[np.bool_]

    def __post_init__(self) -> None:
        columns = {
            "index": _integers(self.index, "images", "index"),
            "label": _integers(self.label, "images", "label"),
            "prediction": _integers(self.prediction, "images", "prediction"),
            "margin": _floats(self.margin, "images", "margin"),
            "radius": _floats(self.radius, "images", "radius"),
            "correct": _booleans(self.correct, "images", "correct"),
        }
        _same_length("images", columns)
        if len(columns["index"]) == 0:
            raise RecordError("images: the table is empty; evaluate at least one image")
        _freeze(self, columns, np.argsort(columns["index"], kind="stable"))
        _refuse("images: index given twice", self.index[1:] == self.index[:-1], self.index[1:], self.index[1:])
        for name in ("index", "label", "prediction"):
            _refuse(f"images: negative {name}", getattr(self, name) < 0, self.index, getattr(self, name))
        for name in ("margin", "radius"):
            _refuse(f"images: {name} is not finite", ~np.isfinite(getattr(self, name)), self.index, getattr(self, name))
        _refuse("images: negative radius", self.radius < 0, self.index, self.radius)
        agrees = self.prediction == self.label
        _refuse(
            "images: 'correct' contradicts label, prediction and margin",
            (self.correct & ~(agrees & (self.margin >= 0))) | (~self.correct & (self.margin > 0)),
            self.index,
            self.prediction,
        )
        _refuse(
            "images: a certified radius on an image that is misclassified or tied",
            (self.radius > 0) & ~(self.correct & (self.margin > 0)),
            self.index,
            self.radius,
        )

    def __len__(self) -> int:
        return len(self.index)

    def to_parquet(self) -> bytes:
        """The table as a Parquet file; equal tables give equal bytes under one version of pyarrow."""
        import pyarrow as pa

        columns = [pa.array(getattr(self, field.name)) for field in fields(self)]
        return _write(pa.Table.from_arrays(columns, schema=_image_schema()), use_dictionary=False)

    @classmethod
    def from_parquet(cls, data: bytes, max_rows: int) -> Self:
        """Read what `to_parquet` wrote.

        Raises:
            RecordError: not Parquet, other columns or types, more than ``max_rows`` rows, missing values, bad values,
                rows out of order.
        """
        table = _read(data, _image_schema(), max_rows, "images.parquet")
        columns = {field.name: table.column(field.name).to_numpy() for field in fields(cls)}
        _require_sorted([columns["index"]], "images.parquet")
        return cls(**columns)


@dataclass(frozen=True, eq=False)
class AttackTable:
    """One row an image, threat model and attack (M rows), sorted by threat model, attack and index.

    Attributes:
        index: (M,) position in the split.
        threat_model: (M,) canonical text such as ``l2:36/255``.
        attack: (M,) name of the attack.
        status: (M,) values of `Status`.
        distance: (M,) norm of the perturbation, in the threat model's norm and pixel units: of the adversarial example
            where broken; elsewhere NaN, or beyond eps where one was found there. NaN is null on disk.

    Raises:
        RecordError: columns of different length or type, unknown status, infinite or negative distance, a row twice.
    """

    index: NDArray[np.int64]
    threat_model: NDArray[np.str_]
    attack: NDArray[np.str_]
    status: NDArray[np.str_]
    distance: NDArray[np.float64]

    def __post_init__(self) -> None:
        columns = {
            "index": _integers(self.index, "attacks", "index"),
            "threat_model": _texts(self.threat_model, "attacks", "threat_model"),
            "attack": _texts(self.attack, "attacks", "attack"),
            "status": _texts(self.status, "attacks", "status"),
            "distance": _floats(self.distance, "attacks", "distance"),
        }
        _same_length("attacks", columns)
        _freeze(self, columns, np.lexsort((columns["index"], columns["attack"], columns["threat_model"])))
        _refuse("attacks: negative index", self.index < 0, self.index, self.index)
        known = [status.value for status in Status]
        _refuse(f"attacks: status is none of {', '.join(known)}", ~np.isin(self.status, known), self.index, self.status)
        _refuse(
            "attacks: distance is negative or infinite",
            (self.distance < 0) | np.isinf(self.distance),
            self.index,
            self.distance,
        )
        twice = (
            (self.index[1:] == self.index[:-1])
            & (self.threat_model[1:] == self.threat_model[:-1])
            & (self.attack[1:] == self.attack[:-1])
        )
        _refuse("attacks: image given twice for one threat model and attack", twice, self.index[1:], self.attack[1:])

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def empty(cls) -> Self:
        """The table of a run without attacks."""
        integers, texts, floats = np.zeros(0, np.int64), np.zeros(0, "U1"), np.zeros(0, np.float64)
        return cls(index=integers, threat_model=texts, attack=texts, status=texts, distance=floats)

    @classmethod
    def of_attack(
        cls,
        index: ArrayLike,
        threat_model: str,
        attack: str,
        status: Sequence[str] | NDArray[np.str_],
        distance: ArrayLike,
    ) -> Self:
        """The rows of one attack at one threat model. ``index``, ``status`` and ``distance``: (M,)."""
        rows = len(np.asarray(index))
        return cls(
            index=np.asarray(index),
            threat_model=np.full(rows, threat_model),
            attack=np.full(rows, attack),
            status=np.asarray(status, dtype=str),
            distance=np.asarray(distance),
        )

    @classmethod
    def concatenate(cls, tables: Sequence[Self]) -> Self:
        """One table of the rows of several."""
        if not tables:
            return cls.empty()
        return cls(*(np.concatenate([getattr(table, field.name) for table in tables]) for field in fields(cls)))

    def select(self, threat_model: str, attack: str) -> Self:
        """The rows of one threat model and attack, sorted by index."""
        return self.of_rows((self.threat_model == threat_model) & (self.attack == attack))

    def of_rows(self, rows: NDArray[np.bool_]) -> Self:
        """The rows where ``rows`` (M,) is true."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def smallest_distance(self, index: NDArray[np.int64], norm: str) -> NDArray[np.float64]:
        """Upper bounds on the robust radii of the images ``index`` (N,), sorted: (N,), infinite where there is none.

        The smallest distance of an adversarial example over all attacks and all threat models of ``norm``. With the
        certified radius of the table of images, an image's L2 radius lies in ``[radius, smallest_distance]``.
        """
        closest = np.full(len(index), np.inf)
        rows = np.char.startswith(self.threat_model, f"{norm}:") & np.isin(self.index, index) & ~np.isnan(self.distance)
        np.minimum.at(closest, np.searchsorted(index, self.index[rows]), self.distance[rows])
        return closest

    def to_parquet(self) -> bytes:
        """The table as a Parquet file; equal tables give equal bytes under one version of pyarrow."""
        import pyarrow as pa

        columns = [pa.array(self.index)]
        columns += [pa.array(getattr(self, name).tolist(), pa.string()) for name in _TEXT_COLUMNS]
        columns.append(pa.array(self.distance, mask=np.isnan(self.distance)))
        return _write(pa.Table.from_arrays(columns, schema=_attack_schema()), use_dictionary=True)

    @classmethod
    def from_parquet(cls, data: bytes, max_rows: int) -> Self:
        """Read what `to_parquet` wrote.

        Raises:
            RecordError: not Parquet, other columns or types, more than ``max_rows`` rows, NaN, bad values, rows out of
                order, texts of more than 100 characters.
        """
        table = _read(data, _attack_schema(), max_rows, "attacks.parquet")
        distance = table.column("distance")
        values = distance.to_numpy()  # nulls become NaN
        if int(np.isnan(values).sum()) != distance.null_count:
            raise RecordError("attacks.parquet: distance holds NaN; a missing distance is written as null")
        index = table.column("index").to_numpy()
        texts = {name: _short_texts(table.column(name), f"attacks.parquet: {name}") for name in _TEXT_COLUMNS}
        _require_sorted([index, texts["attack"], texts["threat_model"]], "attacks.parquet")
        return cls(index=index, distance=values, **texts)


_TEXT_COLUMNS = ("threat_model", "attack", "status")
_ROWS_IN_GROUP = 1 << 20
_MAX_ROWS = 1 << 27  # ImageNet's 50,000 images under 15 attacks at 100 threat models are 75 million
_MAX_TEXT_BYTES = 1 << 31  # of a column of texts once read, each cell of which takes the room of the longest
_MAX_CHARACTERS = 100  # of a text; the schema of the record allows as many in an attack's name
_MAX_BYTES_PER_ROW, _MAX_BYTES_OF_AN_EMPTY_TABLE = 2048, 1 << 20  # unpacked; a row of 100-character texts has 1,220


def _image_schema() -> "pa.Schema":
    import pyarrow as pa

    types = (pa.int64(), pa.int64(), pa.int64(), pa.float64(), pa.float64(), pa.bool_())
    return pa.schema([pa.field(f.name, t, nullable=False) for f, t in zip(fields(ImageTable), types, strict=True)])


def _attack_schema() -> "pa.Schema":
    import pyarrow as pa

    texts = [pa.field(name, pa.string(), nullable=False) for name in _TEXT_COLUMNS]
    return pa.schema([pa.field("index", pa.int64(), nullable=False), *texts, pa.field("distance", pa.float64())])


def _write(table: "pa.Table", use_dictionary: bool) -> bytes:
    """Parquet with every setting that decides a byte given here, none left to a default or to the clock."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=_ROWS_IN_GROUP,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=9,
        use_dictionary=use_dictionary,
        write_statistics=False,
        store_schema=False,
    )
    return buffer.getvalue()


def _read(data: bytes, schema: "pa.Schema", max_rows: int, name: str) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(io.BytesIO(data))
        found = metadata.schema.to_arrow_schema()
        if not found.equals(schema):
            raise RecordError(f"{name} has columns {_columns(found)}; expected are {_columns(schema)}")
        if metadata.num_rows > min(max_rows, _MAX_ROWS):  # before anything is unpacked
            raise RecordError(f"{name} has {metadata.num_rows} rows; its record allows {min(max_rows, _MAX_ROWS)}")
        if metadata.num_row_groups > 1 + metadata.num_rows // _ROWS_IN_GROUP:
            raise RecordError(f"{name} has {metadata.num_row_groups} groups of {metadata.num_rows} rows in all")
        unpacked = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        if unpacked > metadata.num_rows * _MAX_BYTES_PER_ROW + _MAX_BYTES_OF_AN_EMPTY_TABLE:
            raise RecordError(f"{name} unpacks to {unpacked} bytes, too many for its {metadata.num_rows} rows")
        # Texts stay one copy each, with numbers that point to them, however long they are and often they occur.
        file = pq.ParquetFile(io.BytesIO(data), read_dictionary=[f.name for f in schema if pa.types.is_string(f.type)])
        if metadata.metadata:
            raise RecordError(f"{name} carries metadata of its own, under {', '.join(map(repr, metadata.metadata))}")
        table = file.read(use_threads=False)
        table.validate(full=True)
        return table
    except MemoryError as error:  # pyarrow's own among them
        raise RecordError(f"{name} takes more memory than there is") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RecordError(f"{name} is not readable as Parquet: {error}") from error


def _columns(schema: "pa.Schema") -> str:
    return ", ".join(f"{field.name!r} {field.type}{' or null' if field.nullable else ''}" for field in schema)


def _short_texts(column: "pa.ChunkedArray", name: str) -> NDArray[np.str_]:
    """The texts of a dictionary-encoded column; numpy pads all to the longest, so that is bounded first."""
    chunks = []
    for chunk in column.chunks:
        texts = chunk.dictionary.to_pylist()
        longest = max(map(len, texts), default=0)
        if longest > _MAX_CHARACTERS:
            raise RecordError(f"{name} holds a text of {longest} characters; at most {_MAX_CHARACTERS} are allowed")
        if len(column) * longest * 4 > _MAX_TEXT_BYTES:
            raise RecordError(f"{name} takes {len(column) * longest * 4} bytes once read: shorten the longest text")
        chunks.append(np.asarray(texts, dtype=str)[chunk.indices.to_numpy()])
    return np.concatenate(chunks) if chunks else np.zeros(0, "U1")


def _require_sorted(keys: Sequence[np.ndarray], name: str) -> None:
    """``keys`` as of `numpy.lexsort`, the last one first: one table has one form on disk."""
    if not np.array_equal(np.lexsort(keys), np.arange(len(keys[0]))):
        raise RecordError(f"{name}: the rows are not in order")


def _integers(values: ArrayLike, table: str, column: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise RecordError(f"{table}: {column} must hold integers, got {array.dtype}")
    return array.astype(np.int64)


def _floats(values: ArrayLike, table: str, column: str) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind != "f":
        raise RecordError(f"{table}: {column} must hold floating-point numbers, got {array.dtype}")
    return array.astype(np.float64) + 0.0  # -0.0 becomes 0.0: equal tables are equal bytes


def _booleans(values: ArrayLike, table: str, column: str) -> NDArray[np.bool_]:
    array = np.asarray(values)
    if array.dtype != np.bool_:
        raise RecordError(f"{table}: {column} must hold booleans, got {array.dtype}")
    return array.copy()


def _texts(values: ArrayLike, table: str, column: str) -> NDArray[np.str_]:
    array = np.asarray(values)
    if array.dtype.kind != "U" and array.size:
        raise RecordError(f"{table}: {column} must hold text, got {array.dtype}")
    return array.astype(np.str_)


def _same_length(table: str, columns: dict[str, np.ndarray]) -> None:
    shapes = {name: column.shape for name, column in columns.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise RecordError(f"{table}: columns must be one-dimensional and equally long, got shapes {shapes}")


def _freeze(table: object, columns: dict[str, np.ndarray], order: NDArray[np.intp]) -> None:
    """Store the columns in the given order, read-only; the arrays that the caller passed are not touched."""
    for name, column in columns.items():
        column = column[order]
        column.flags.writeable = False
        object.__setattr__(table, name, column)


def _refuse(what: str, rows: NDArray[np.bool_], index: NDArray[np.int64], values: np.ndarray) -> None:
    if rows.any():
        first = int(np.argmax(rows))
        raise RecordError(f"{what}: image {index[first]} has {values[first].item()!r} ({int(rows.sum())} rows in all)")
