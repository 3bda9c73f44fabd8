"""How a matrix is given on the command line: by the name of its file."""

from pathlib import Path

import tyro

from mesalens.tasks import read_matrix
from mesalens.tasks.matrix_file import Matrix


def matrix_file(
    type_info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """The rule by which tyro reads a field of type `Matrix`."""
    if type_info.type not in (Matrix, Matrix | None):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FILE",
        instance_from_str=_matrix,
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: [str(value)],
    )


def _matrix(names: list[str]) -> Matrix:
    return tuple(map(tuple, read_matrix(Path(names[0])).tolist()))
