"""Ed25519 over a bundle's manifest, through `cryptography` (the extra `sign`)."""

from __future__ import annotations

from pathlib import Path

from stars_local.core.errors import DataError, UsageError

_MISSING = "signatures need the package cryptography: pip install 'stars-local[sign]'"


def sign(data: bytes, key: Path) -> bytes:
    """The signature, 64 bytes, by a private Ed25519 key in PEM without a password."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise UsageError(_MISSING) from error
    try:
        found = load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{key}: not a private key in PEM without a password: {error}") from error
    if not isinstance(found, Ed25519PrivateKey):
        raise DataError(f"{key}: not an Ed25519 key: openssl genpkey -algorithm ed25519 makes one")
    signature: bytes = found.sign(data)
    return signature


def check_signature(data: bytes, signature: bytes | None, key: Path) -> None:
    """Raise DataError unless the signature is there and is that of the public key in PEM."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise UsageError(_MISSING) from error
    try:
        found = load_pem_public_key(key.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{key}: not a public key in PEM: {error}") from error
    if not isinstance(found, Ed25519PublicKey):
        raise DataError(f"{key}: not an Ed25519 key")
    if signature is None:
        raise DataError("the bundle is not signed: get a signed one, or leave --verify-key out")
    try:
        found.verify(signature, data)
    except InvalidSignature as error:
        raise DataError(f"the signature is not by the key {key}: do not use this bundle") from error
