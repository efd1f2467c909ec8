"""AES-256-GCM for the body of a nef; what stands before it is readable, and authenticated with it."""

import os
from pathlib import Path
from typing import Any

from knerex_jax.errors import ArtifactError, ConfigError

KEY_VARIABLE = "KNEREX_NEF_KEY"
_NONCE, _TAG = 12, 16


def overhead() -> int:
    """Bytes by which an encrypted body is longer."""
    return _NONCE + _TAG


def encrypt(data: bytes, key: bytes, head: bytes) -> bytes:
    """Nonce, ciphertext, tag.

    Raises:
      ArtifactError: the package for it is missing.
      ConfigError: the key does not have 32 bytes.
    """
    nonce = os.urandom(_NONCE)
    return nonce + _cipher(key).encrypt(nonce, data, head)


def decrypt(data: bytes, key: bytes, head: bytes, where: str) -> bytes:
    """The inverse of `encrypt`.

    Raises:
      ArtifactError: the key is wrong, or the package for it is missing.
      ConfigError: the key does not have 32 bytes.
    """
    from cryptography.exceptions import InvalidTag

    try:
        return _cipher(key).decrypt(data[:_NONCE], data[_NONCE:], head)
    except InvalidTag as e:
        raise ArtifactError(
            "the key is not the one of this nef", where=where, fix="use the key it was made with"
        ) from e


def read_key(path: str | Path | None) -> bytes | None:
    """The key in a file (32 bytes, or 64 hexadecimal digits), else in the environment (hexadecimal), else None.

    Raises:
      ConfigError: the file cannot be read, or holds no key.
    """
    if path is not None:
        try:
            data = Path(path).read_bytes()
        except OSError as e:
            raise ConfigError(f"cannot read the key: {e.strerror}", where=str(path), fix="check the path") from e
        return data if len(data) == 32 else _from_hex(data.decode("ascii", "replace"), str(path))
    text = os.environ.get(KEY_VARIABLE)
    return None if text is None else _from_hex(text, KEY_VARIABLE)


def _from_hex(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError("this is not a key", where=where, fix="give 32 bytes, or 64 hexadecimal digits")
    return key


def _cipher(key: bytes) -> Any:
    if len(key) != 32:
        raise ConfigError(f"a key of {len(key)} bytes", where="key", fix="give 32 bytes")
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as e:
        raise ArtifactError(
            "encryption needs the package cryptography", where="key", fix="pip install 'knerex-jax[crypto]'"
        ) from e
    return AESGCM(key)
