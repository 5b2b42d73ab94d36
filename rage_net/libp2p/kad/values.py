"""Small values by key, in memory, bounded and expiring; each namespace has a validator, and one without is refused.

A key is a path, `/NAMESPACE/...`. `/pk/` and a peer id's bytes hold that peer's public key in libp2p's encoding, which
proves itself. Source: libp2p/specs kad-dht, "Value routing".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.kad.messages import KEY_BYTES_MAX, VALUE_BYTES_MAX
from rage_net.libp2p.kad.records import EXPIRY_S
from rage_net.libp2p.peer_id import PeerId, decode_public_key

VALUES_MAX = 1024
"""In all: 8 MiB."""
VALUES_PER_PEER_MAX = 64


class ValueRefusedError(Libp2pError):
    """A value is not what its namespace asks for, or the namespace is unknown."""


class Validator(Protocol):
    """The rule of one namespace. Both functions are pure."""

    def validate(self, key: bytes, value: bytes) -> None:
        """Return when `value` may stand under `key`. Raises Libp2pError or ValueError."""
        ...

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """Which of several valid values is the best."""
        ...


class PublicKeys:
    """`/pk/`: a public key under the id that it hashes to."""

    def validate(self, key: bytes, value: bytes) -> None:
        """See `Validator`."""
        peer_id = PeerId.from_bytes(key[len(b"/pk/") :])
        decode_public_key(value)
        if PeerId.from_encoded_key(value) != peer_id:
            raise ValueRefusedError(f"the key is not that of {peer_id}")

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """See `Validator`: all valid ones are equal."""
        return 0


VALIDATORS: Mapping[str, Validator] = {"pk": PublicKeys()}


@dataclass(frozen=True, slots=True)
class _Stored:
    value: bytes
    giver: PeerId
    at: float


class Values:
    """The values that one node keeps, the longest unchanged first."""

    def __init__(self, validators: Mapping[str, Validator] = VALIDATORS) -> None:
        self._validators = validators
        self._stored: OrderedDict[bytes, _Stored] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stored)

    def validate(self, key: bytes, value: bytes) -> None:
        """Return when `value` may stand under `key`. Raises ValueRefusedError."""
        if len(key) > KEY_BYTES_MAX or len(value) > VALUE_BYTES_MAX:
            raise ValueRefusedError(f"a key has at most {KEY_BYTES_MAX} bytes, a value {VALUE_BYTES_MAX}")
        try:
            self._validator(key).validate(key, value)
        except ValueRefusedError:
            raise
        except (Libp2pError, ValueError) as error:
            raise ValueRefusedError(f"the value is not what its key asks for: {error}") from error

    def best(self, key: bytes, values: Sequence[bytes]) -> bytes:
        """The best of valid values, at least one."""
        return values[self._validator(key).select(key, values)]

    def put(self, key: bytes, value: bytes, giver: PeerId, now: float) -> None:
        """Keep `value` unless a better one is here. Raises ValueRefusedError; also when `giver` has its share."""
        self.validate(key, value)
        old = self._fresh(key, now)
        if old is not None and self.best(key, [old.value, value]) != value:
            raise ValueRefusedError("a better value is known")
        given = sum(1 for stored in self._stored.values() if stored.giver == giver)
        if (old is None or old.giver != giver) and given >= VALUES_PER_PEER_MAX:
            raise ValueRefusedError(f"a peer may leave {VALUES_PER_PEER_MAX} values")
        self._stored.pop(key, None)
        self._stored[key] = _Stored(value, giver, now)
        while len(self._stored) > VALUES_MAX:
            self._stored.popitem(last=False)

    def get(self, key: bytes, now: float) -> bytes | None:
        """The value under `key`, if one is kept."""
        stored = self._fresh(key, now)
        return None if stored is None else stored.value

    def expire(self, now: float) -> None:
        """Forget what is over."""
        while self._stored and next(iter(self._stored.values())).at + EXPIRY_S <= now:
            self._stored.popitem(last=False)

    def _fresh(self, key: bytes, now: float) -> _Stored | None:
        stored = self._stored.get(key)
        return stored if stored is not None and now < stored.at + EXPIRY_S else None

    def _validator(self, key: bytes) -> Validator:
        parts = key.split(b"/", 2)
        name = parts[1].decode("ascii", "replace") if len(parts) == 3 and not parts[0] else ""
        validator = self._validators.get(name)
        if validator is None:
            raise ValueRefusedError(f"there is no rule for values under /{name}/")
        return validator
