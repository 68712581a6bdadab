#!/usr/bin/python3
"""Seals and opens files as docs/sealed-format.md says, with nothing of exclave's.

  another_hand.py open KEYFILE SEALED OUT
  another_hand.py seal KEYFILE IN OUT [BLOCK_BYTES]
  another_hand.py --test EXCLAVE    each opens what the other has sealed, and the file in known/

Written from that page with Python's cryptography (Debian: python3-cryptography), so a mistake that exclave makes both when it seals
and when it opens shows here: a nonce or a key that is not what the page says, or something that a tag does not cover.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError:
    sys.exit("another_hand: no cryptography in this Python; Debian has it as python3-cryptography")

KNOWN = pathlib.Path(__file__).resolve().parent / "known"
HEADER, TAG, SALT = 4096, 16, 32


class NotIntact(Exception):
    pass


def little(value, size):
    return value.to_bytes(size, "little")


def read_key(path):
    text = pathlib.Path(path).read_bytes()
    return text if len(text) == 32 else bytes.fromhex(text.decode("ascii").strip())


def derived(key, salt, purpose, length):
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=purpose).derive(key)


def nonce(domain, index):
    return bytes([domain, 0, 0, 0]) + little(index, 8)


def bound(salt, index, plaintext_bytes, block_bytes, is_last):
    return salt + little(index, 8) + little(plaintext_bytes, 8) + little(block_bytes, 8) + bytes([is_last])


def seal(key, plaintext, block_bytes, salt):
    cipher = AESGCM(derived(key, salt, b"exclave seal v1: file key", 32))
    check = derived(key, salt, b"exclave seal v1: key check", 16)
    header = b"EXCLAVE1" + little(1, 4) + little(block_bytes, 4) + little(len(plaintext), 8) + salt + check
    header += bytes(HEADER - TAG - len(header))
    sealed = header + cipher.encrypt(nonce(0, 0), b"", header)
    payload = block_bytes - TAG
    pieces = [plaintext[at: at + payload] for at in range(0, len(plaintext), payload)]
    for index, piece in enumerate(pieces):
        associated = bound(salt, index, len(plaintext), block_bytes, index + 1 == len(pieces))
        sealed += cipher.encrypt(nonce(1, index), piece, associated)
    return sealed


def unseal(key, sealed):
    header = sealed[:HEADER - TAG]
    magic, version, zeros = header[:8], header[8:12], header[72:]
    block_bytes = int.from_bytes(header[12:16], "little")
    plaintext_bytes = int.from_bytes(header[16:24], "little")
    salt, check = header[24:56], header[56:72]
    if magic != b"EXCLAVE1" or version != little(1, 4) or any(zeros) or block_bytes % 4096 or not block_bytes:
        raise NotIntact("header")
    if check != derived(key, salt, b"exclave seal v1: key check", 16):
        raise NotIntact("another key")
    cipher = AESGCM(derived(key, salt, b"exclave seal v1: file key", 32))
    payload = block_bytes - TAG
    blocks = (plaintext_bytes + payload - 1) // payload
    if len(sealed) != HEADER + plaintext_bytes + blocks * TAG:
        raise NotIntact("length")
    try:
        cipher.decrypt(nonce(0, 0), sealed[HEADER - TAG: HEADER], header)
        return b"".join(
            cipher.decrypt(nonce(1, i), sealed[HEADER + i * block_bytes: HEADER + (i + 1) * block_bytes],
                           bound(salt, i, plaintext_bytes, block_bytes, i + 1 == blocks))
            for i in range(blocks))
    except InvalidTag:
        raise NotIntact("tag") from None


def test(exclave):
    def must(holds, what):
        if not holds:
            sys.exit(f"another_hand: {what}")

    def run(*arguments):
        done = subprocess.run([exclave, *arguments], capture_output=True, text=True)
        must(done.returncode == 0, f"exclave {' '.join(map(str, arguments))}: {done.stderr}")

    known_key = read_key(KNOWN / "key")
    known_plaintext = (KNOWN / "plaintext").read_bytes()
    known_sealed = (KNOWN / "sealed").read_bytes()
    must(unseal(known_key, known_sealed) == known_plaintext, "known/sealed does not open to known/plaintext")
    salt = known_sealed[24:56]
    must(seal(known_key, known_plaintext, 4096, salt) == known_sealed, "known/sealed is not what the page says, byte for byte")

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run("keygen", folder / "key")
        key = read_key(folder / "key")
        for size, block_bytes in ((1, 4096), (4080, 4096), (4081, 4096), (3 * 8176, 8192), (100_000, 65536)):
            plaintext = os.urandom(size)
            for old in ("in", "sealed", "made", "out"):
                (folder / old).unlink(missing_ok=True)
            (folder / "in").write_bytes(plaintext)
            run("seal", "--key-file", folder / "key", "--block-size", str(block_bytes), folder / "in", folder / "sealed")
            must(unseal(key, (folder / "sealed").read_bytes()) == plaintext, f"{size} bytes sealed by exclave do not open")
            (folder / "made").write_bytes(seal(key, plaintext, block_bytes, os.urandom(SALT)))
            run("unseal", "--key-file", folder / "key", folder / "made", folder / "out")
            must((folder / "out").read_bytes() == plaintext, f"{size} bytes sealed here come back otherwise")
        # The check itself can fail.
        sealed = bytearray((folder / "sealed").read_bytes())
        for at in (30, 60, 2000, HEADER - 1, HEADER, len(sealed) - 1):
            sealed[at] ^= 1
            try:
                unseal(key, bytes(sealed))
                must(False, f"opens though byte {at} was changed")
            except NotIntact:
                sealed[at] ^= 1
    print("another_hand: each opens what the other has sealed")


def main(words):
    if len(words) == 2 and words[0] == "--test":
        test(words[1])
    elif len(words) == 4 and words[0] == "open":
        pathlib.Path(words[3]).write_bytes(unseal(read_key(words[1]), pathlib.Path(words[2]).read_bytes()))
    elif len(words) in (4, 5) and words[0] == "seal":
        block_bytes = int(words[4]) if len(words) == 5 else 1 << 20
        pathlib.Path(words[3]).write_bytes(
            seal(read_key(words[1]), pathlib.Path(words[2]).read_bytes(), block_bytes, os.urandom(SALT)))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except NotIntact as what:
        sys.exit(f"another_hand: not intact: {what}")
