"""LMDB, the Lightning Memory-Mapped Database, as LSUN ships it: image files by key, and nothing else."""

from harness.config import Crop
from harness.data.readers.formats import Batch, Contents, decode_images
from harness.data.source import Source, shown
from harness.errors import InputError


def read_lmdb(source: Source, image_size: int, crop: Crop) -> Contents:
    """The image of each key, in order of the keys (Yu et al. 2015). There are no labels: a database is a class.

    Raises: InputError for a damaged database, one of several in a folder, values that are no images, naming their keys,
        or without lmdb.
    """
    try:
        import lmdb  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise InputError("LMDB needs its library; install it: pip install 'aaebench[lmdb]'") from error
    found = source.find_all("data.mdb")
    where = shown(source.path)
    if len(found) > 1 or not source.path.is_dir():
        raise InputError(
            f"{where} holds {', '.join(map(shown, found))}; name the unpacked folder of one: --from FOLDER"
        )
    file = source.path / found[0]
    try:
        with lmdb.open(str(file.parent), readonly=True, lock=False, readahead=False, create=False) as database:
            pages, page_bytes = database.info()["last_pgno"] + 1, database.stat()["psize"]
            if pages * page_bytes > file.stat().st_size:  # reading on would end the process
                raise InputError(f"{where} is truncated: {file.stat().st_size:,} of {pages * page_bytes:,} bytes")
            with database.begin() as transaction:
                keys = [bytes(key) for key in transaction.cursor().iternext(values=False)]

            def read(index: int) -> bytes:
                with database.begin() as transaction:
                    return bytes(transaction.get(keys[index]) or b"")

            if not keys:
                raise InputError(f"{where} holds no images")
            names = [f"key {key.decode(errors='backslashreplace')}" for key in keys]
            return Contents(decode_images(source.path, len(keys), [Batch(names, read)], image_size, crop))
    except (lmdb.Error, OSError) as error:
        raise InputError(f"{where} is no whole LMDB: {error}") from error
