"""Noise for libp2p: `Noise_XX_25519_ChaChaPoly_SHA256`, the identity payload, and the frames after it.

Sans-I/O: bytes in, bytes out; keys are arguments. Three classes, one for each stage:

    NoiseXX         the handshake pattern alone, with plain payloads (what the published vectors test)
    NoiseHandshake  the same with 2-byte frames and libp2p's payload: who the peer is, and its muxers
    NoiseTransport  the two cipher states after it; the bulk path

      initiator            message                   responder
    0 write  ----------------- e ---------------->   read
    1 read   <--------- e, ee, s, es, payload ----   write
    2 write  ------------- s, se, payload ------->   read

It is no negotiation (`multistream`) and no multiplexer (`yamux`).
Source: the Noise Protocol Framework, revision 34; libp2p/specs noise/README.md and
connections/inlined-muxer-negotiation.md.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from google.protobuf.message import DecodeError

from rage_net.libp2p.errors import LocalProtocolError, PeerIdMismatchError, RemoteProtocolError
from rage_net.libp2p.pb.noise_pb2 import NoiseExtensions, NoiseHandshakePayload
from rage_net.libp2p.peer_id import PeerId, decode_public_key, encode_public_key, verify

if TYPE_CHECKING:
    from rage_net.libp2p.peer_id import PublicKey

Buffer: TypeAlias = bytes | bytearray | memoryview

PROTOCOL_ID = "/noise"
PROTOCOL_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
SIGNATURE_PREFIX = b"noise-libp2p-static-key:"

TAG_BYTES = 16
KEY_BYTES = 32
FRAME_BYTES_MAX = 65_535
"""A Noise message, tag included: the length before it has two bytes."""
PLAINTEXT_BYTES_MAX = FRAME_BYTES_MAX - TAG_BYTES
"""What one frame carries: 65,519 bytes."""
HANDSHAKE_BYTES_MAX = 8_192
"""A handshake message: keys, tags and a payload of a key, a signature and a few muxer names; the largest identity key
in use (RSA 8192) needs about 2.2 KiB."""
MUXERS_MAX = 32
"""Muxer names a peer may list. Three exist."""
NONCE_MAX = 2**64 - 1
"""The last nonce is reserved; libp2p has no rekey, so a connection ends before it."""
COALESCE_BYTES = 4_096
"""Smaller buffers are joined into one frame: copying them costs less than one more call of the cipher (0.7 us)."""

_nonce = struct.Struct("<4xQ").pack
_length = struct.Struct(">H").pack


class CipherState:
    """One direction's key and counter."""

    __slots__ = ("cipher", "nonce")

    def __init__(self, key: bytes, nonce: int = 0) -> None:
        self.cipher = ChaCha20Poly1305(key)
        self.nonce = nonce

    def encrypt(self, plaintext: Buffer, associated: bytes | None = None) -> bytes:
        """Ciphertext with its tag. Raises LocalProtocolError when the nonces are used up."""
        if self.nonce >= NONCE_MAX:
            raise LocalProtocolError("Noise: the nonces of this connection are used up")
        ciphertext = self.cipher.encrypt(_nonce(self.nonce), plaintext, associated)
        self.nonce += 1
        return ciphertext

    def decrypt(self, ciphertext: Buffer, associated: bytes | None = None) -> bytes:
        """Plaintext. Raises RemoteProtocolError when the tag does not match or the nonces are used up."""
        if self.nonce >= NONCE_MAX:
            raise RemoteProtocolError("Noise: the nonces of this connection are used up")
        try:
            plaintext = self.cipher.decrypt(_nonce(self.nonce), ciphertext, associated)
        except InvalidTag:
            raise RemoteProtocolError("Noise: a message does not authenticate") from None
        self.nonce += 1
        return plaintext


class SymmetricState:
    """Chaining key, transcript hash and the key they lead to, as in section 5.2 of the framework."""

    def __init__(self, prologue: bytes) -> None:
        self.hash = PROTOCOL_NAME  # exactly HASHLEN bytes, so it is not hashed
        self.chaining_key = PROTOCOL_NAME
        self.cipher: CipherState | None = None
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        """Add to the transcript."""
        self.hash = hashlib.sha256(self.hash + data).digest()

    def mix_key(self, secret: bytes) -> None:
        """Add a shared secret to the key; its counter begins anew."""
        self.chaining_key, key = _hkdf(self.chaining_key, secret)
        self.cipher = CipherState(key)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """Encrypt, once there is a key, and add to the transcript."""
        ciphertext = self.cipher.encrypt(plaintext, self.hash) if self.cipher else plaintext
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        """The reverse. Raises RemoteProtocolError."""
        plaintext = self.cipher.decrypt(ciphertext, self.hash) if self.cipher else ciphertext
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        """The initiator's sending cipher, then the responder's."""
        first, second = _hkdf(self.chaining_key, b"")
        return CipherState(first), CipherState(second)


def _hkdf(chaining_key: bytes, secret: bytes) -> tuple[bytes, bytes]:
    temp = hmac.digest(chaining_key, secret, "sha256")
    first = hmac.digest(temp, b"\x01", "sha256")
    return first, hmac.digest(temp, first + b"\x02", "sha256")


def _dh(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise RemoteProtocolError("Noise: a public key of low order") from None


PATTERN: tuple[tuple[str, ...], ...] = (("e",), ("e", "ee", "s", "es"), ("s", "se"))
"""XX. Message n is written by the initiator when n is even. In `es` the first letter is the initiator's key."""


class NoiseXX:
    """The XX handshake: `write` and `read` in the order of PATTERN, then `split`."""

    def __init__(
        self, *, initiator: bool, static: X25519PrivateKey, ephemeral: X25519PrivateKey, prologue: bytes = b""
    ) -> None:
        self.initiator = initiator
        self.turn = 0
        self.remote_static = b""
        self._static = static
        self._ephemeral = ephemeral
        self._remote_ephemeral = b""
        self._state = SymmetricState(prologue)

    @property
    def is_finished(self) -> bool:
        """True once all three messages have passed."""
        return self.turn == len(PATTERN)

    @property
    def is_writer(self) -> bool:
        """True when the next message is ours."""
        return not self.is_finished and (self.turn % 2 == 0) == self.initiator

    @property
    def handshake_hash(self) -> bytes:
        """The transcript's hash: channel binding."""
        return self._state.hash

    def write(self, payload: bytes) -> bytes:
        """The next message of ours. Raises LocalProtocolError out of turn."""
        if not self.is_writer:
            raise LocalProtocolError("Noise: it is not our turn")
        state, message = self._state, b""
        for token in PATTERN[self.turn]:
            if token == "e":  # noqa: S105 - a token of the pattern, no secret
                public = self._ephemeral.public_key().public_bytes_raw()
                state.mix_hash(public)
                message += public
            elif token == "s":  # noqa: S105
                message += state.encrypt_and_hash(self._static.public_key().public_bytes_raw())
            else:
                self._mix_dh(token)
        message += state.encrypt_and_hash(payload)
        self.turn += 1
        return message

    def read(self, message: bytes) -> bytes:
        """The payload of the peer's next message. Raises RemoteProtocolError; LocalProtocolError out of turn."""
        if self.is_finished or self.is_writer:
            raise LocalProtocolError("Noise: it is not the peer's turn")
        state, at = self._state, 0
        for token in PATTERN[self.turn]:
            if token == "e":  # noqa: S105
                at, self._remote_ephemeral = _take(message, at, KEY_BYTES)
                state.mix_hash(self._remote_ephemeral)
            elif token == "s":  # noqa: S105
                at, sealed = _take(message, at, KEY_BYTES + TAG_BYTES)
                self.remote_static = state.decrypt_and_hash(sealed)
            else:
                self._mix_dh(token)
        payload = state.decrypt_and_hash(message[at:])
        self.turn += 1
        return payload

    def _mix_dh(self, token: str) -> None:
        ours, theirs = (token[0], token[1]) if self.initiator else (token[1], token[0])
        private = self._ephemeral if ours == "e" else self._static
        self._state.mix_key(_dh(private, self._remote_ephemeral if theirs == "e" else self.remote_static))

    def split(self) -> NoiseTransport:
        """The ciphers for what follows. Raises LocalProtocolError before the end."""
        if not self.is_finished:
            raise LocalProtocolError("Noise: the handshake is not finished")
        first, second = self._state.split()
        return NoiseTransport(first, second) if self.initiator else NoiseTransport(second, first)


def _take(message: bytes, at: int, size: int) -> tuple[int, bytes]:
    if len(message) < at + size:
        raise RemoteProtocolError("Noise: a handshake message is truncated")
    return at + size, message[at : at + size]


@dataclass(frozen=True)
class Secured:
    """What a finished handshake proved."""

    peer_id: PeerId
    public_key: PublicKey
    muxers: tuple[str, ...]
    """The peer's muxers in its order; empty when it does not negotiate them here."""
    transport: NoiseTransport


class NoiseHandshake:
    """The libp2p handshake: `receive` what arrives, send `data_to_send`, until `secured` is set.

    Args: key: our identity. static, ephemeral: fresh X25519 keys. remote: who must answer, None for anyone.
    muxers: ours in order of preference, sent inside the handshake.
    """

    def __init__(
        self,
        key: Ed25519PrivateKey,
        *,
        initiator: bool,
        static: X25519PrivateKey,
        ephemeral: X25519PrivateKey,
        remote: PeerId | None = None,
        muxers: Sequence[str] = (),
    ) -> None:
        self.secured: Secured | None = None
        self._noise = NoiseXX(initiator=initiator, static=static, ephemeral=ephemeral)
        self._remote = remote
        public = static.public_key().public_bytes_raw()
        self._payload = NoiseHandshakePayload(
            identity_key=encode_public_key(key.public_key()),
            identity_sig=key.sign(SIGNATURE_PREFIX + public),
            extensions=NoiseExtensions(stream_muxers=muxers),
        ).SerializeToString()
        self._identity: tuple[PeerId, PublicKey, tuple[str, ...]] | None = None
        self._to_send = bytearray()
        self._advance()

    def receive(self, data: Buffer) -> int:
        """Take whole messages from `data`; the number of bytes used. What follows the handshake is left alone.

        Raises: RemoteProtocolError for what is malformed, too long, or signed by another key;
        PeerIdMismatchError when the peer is not the one asked for.
        """
        used = 0
        view = memoryview(data)
        while self.secured is None and len(view) - used >= 2:
            size = view[used] << 8 | view[used + 1]
            if size > HANDSHAKE_BYTES_MAX:
                raise RemoteProtocolError(f"Noise: a handshake message of {size} bytes, at most {HANDSHAKE_BYTES_MAX}")
            if len(view) - used - 2 < size:
                break
            payload = self._noise.read(bytes(view[used + 2 : used + 2 + size]))
            used += 2 + size
            if self._noise.turn > 1:  # the first message carries no key to sign with
                self._identity = self._check(payload)
            self._advance()
        return used

    def data_to_send(self) -> bytes:
        """Bytes for the peer; empty when there is nothing to say."""
        data = bytes(self._to_send)
        self._to_send.clear()
        return data

    def _advance(self) -> None:
        if self._noise.is_writer:
            message = self._noise.write(self._payload if self._noise.turn else b"")
            self._to_send += _length(len(message)) + message
        if self._noise.is_finished and self._identity is not None:
            self.secured = Secured(*self._identity, transport=self._noise.split())

    def _check(self, payload: bytes) -> tuple[PeerId, PublicKey, tuple[str, ...]]:
        try:
            message = NoiseHandshakePayload.FromString(payload)
        except DecodeError:
            raise RemoteProtocolError("Noise: the handshake payload is no protobuf") from None
        key = decode_public_key(message.identity_key)
        verify(key, SIGNATURE_PREFIX + self._noise.remote_static, message.identity_sig)
        peer_id = PeerId.from_public_key(key)
        if self._remote is not None and peer_id != self._remote:
            raise PeerIdMismatchError(f"dialled {self._remote}, but {peer_id} answered")
        if len(message.extensions.stream_muxers) > MUXERS_MAX:
            raise RemoteProtocolError(f"Noise: more than {MUXERS_MAX} muxers")
        return peer_id, key, tuple(message.extensions.stream_muxers)


class NoiseTransport:
    """Frames of a 2-byte length and a ciphertext, both ways. The bulk path: no copies but the cipher's own."""

    __slots__ = ("_receiving", "_sending")

    def __init__(self, sending: CipherState, receiving: CipherState) -> None:
        self._sending = sending
        self._receiving = receiving

    def decrypt(self, view: memoryview) -> tuple[list[bytes], int]:
        """The plaintexts of all whole frames in `view`, and how many bytes they took.

        Raises: RemoteProtocolError for a frame that does not authenticate.
        """
        plaintexts: list[bytes] = []
        state = self._receiving
        decrypt, nonce = state.cipher.decrypt, state.nonce
        at, end = 0, len(view)
        try:
            while end - at >= 2:
                following = at + 2 + (view[at] << 8 | view[at + 1])
                if following > end:
                    break
                if nonce >= NONCE_MAX:
                    raise RemoteProtocolError("Noise: the nonces of this connection are used up")
                plaintexts.append(decrypt(_nonce(nonce), view[at + 2 : following], None))
                nonce += 1
                at = following
        except InvalidTag:
            raise RemoteProtocolError("Noise: a frame does not authenticate") from None
        state.nonce = nonce
        return plaintexts, at

    def encrypt(self, buffers: Iterable[Buffer]) -> list[bytes]:
        """Frames for `buffers`, in order: large ones are encrypted where they lie, small neighbours share a frame.

        Raises: LocalProtocolError when the nonces are used up.
        """
        frames: list[bytes] = []
        small: list[Buffer] = []
        small_bytes = 0
        for buffer in buffers:
            size = len(buffer)
            if size <= COALESCE_BYTES:
                if small_bytes + size > PLAINTEXT_BYTES_MAX:
                    self._seal(frames, b"".join(small))
                    small, small_bytes = [], 0
                small.append(buffer)
                small_bytes += size
                continue
            if small:
                self._seal(frames, b"".join(small))
                small, small_bytes = [], 0
            if size <= PLAINTEXT_BYTES_MAX:
                self._seal(frames, buffer)
            else:
                view = memoryview(buffer)
                for at in range(0, size, PLAINTEXT_BYTES_MAX):
                    self._seal(frames, view[at : at + PLAINTEXT_BYTES_MAX])
        if small:
            self._seal(frames, b"".join(small))
        return frames

    def _seal(self, frames: list[bytes], plaintext: Buffer) -> None:
        ciphertext = self._sending.encrypt(plaintext)
        frames.append(_length(len(ciphertext)))
        frames.append(ciphertext)
