"""Fetches the files of MNIST and Fashion-MNIST; only this function ever asks the network."""

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from equipoise import _checks
from equipoise.errors import ArgumentError, EquipoiseError
from equipoise.lab.mnist_files import CHECKSUMS, IDX_FILES, UNREADABLE, idx_bytes, idx_folder

SOURCES: Mapping[str, str] = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion_mnist": "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
}
# The largest file has 26,421,880 bytes.
_MOST_BYTES = 2**25
_SECONDS = 60


def download_images(name: str, folder: Path | str, source: str = "") -> Path:
    """Fetch the four original files of MNIST or Fashion-MNIST into a folder, 11 or 30 MB.

    Each file is checked against a SHA-256 of its content before it is kept; one that is there and
    right is not fetched again, one that is there and wrong is replaced.

    Args:
        name: ``mnist`` or ``fashion_mnist``.
        folder: gets a folder ``mnist`` or ``fashion-mnist``, made if need be: ``image_task`` reads
            it from there.
        source: address of the folder with the four files; left out, a well-known one.

    Returns:
        The folder with the four files.

    Raises:
        ArgumentError: if the name is unknown or a file from there is not the original.
        EquipoiseError: if a file cannot be fetched.
    """
    _checks.one_of("name", name, SOURCES)
    place = idx_folder(name, Path(folder).expanduser())
    address = source or SOURCES[name]
    for part, file in IDX_FILES.items():
        path = place / file
        if path.is_file() and _is_original(name, part, path.read_bytes()):
            continue
        url = f"{address.rstrip('/')}/{file}"
        content = _fetch(url, path)
        if not _is_original(name, part, content):
            raise ArgumentError(
                f"source must hold the original {file} of {name} (SHA-256 of its content "
                f"{CHECKSUMS[name][part][:12]}...), got another file of {len(content)} bytes from "
                f"{url}. Pass the address of another copy."
            )
        place.mkdir(parents=True, exist_ok=True)
        # Under another name until it is whole.
        half = path.with_name(f"{file}.part")
        half.write_bytes(content)
        os.replace(half, path)
    return place


def _is_original(name: str, part: str, content: bytes) -> bool:
    try:
        held = idx_bytes(content, part)
    except UNREADABLE:
        return False
    return hashlib.sha256(held.tobytes()).hexdigest() == CHECKSUMS[name][part]


def _fetch(url: str, path: Path) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            content: bytes = answer.read(_MOST_BYTES)
    # A word that is no address is a ValueError.
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise EquipoiseError(
            f"{url} could not be fetched ({type(error).__name__}: {error}). Look to the network, "
            f"pass another source, or put the file at {path} by hand."
        ) from error
    return content
