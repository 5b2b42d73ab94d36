"""Calls to an S3-compatible object store, each with a deadline, and what their failures mean.

One client for all threads. Retries are counted here and nowhere else: botocore makes one attempt. What a server says
is sorted by what the caller does next: try again later (UnavailableError), or mend the configuration (ConfigError; also
for 403: "denied" is a word about rights on documents, and must not come out of a store). Credentials are read anew when
they are refused, so that files that are rotated need no restart. Not here: chunks and the cache (objects, disk_cache).
Source: design D9, D10; issue 5, section G; the S3 API reference, "Error responses" and "Conditional writes".
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rage_net.aws import REFUSED, BrokenOff, Outcome, classify, connect, said_by
from rage_net.durable import SECRET
from rage_net.errors import AccessDeniedError, ConfigError, RageError, StorageFullError, UnavailableError

if TYPE_CHECKING:
    from rage_net.config.network import Store
    from rage_net.env import Env

T = TypeVar("T")

DEADLINE_S = 30.0
"""After this no further attempt begins: threads that wait are few, and the store's other work needs them."""
BODY_S_MAX = 60.0
"""For a whole body: a server that drips must not hold a thread for good."""
ATTEMPTS = 4
BACKOFF_S, BACKOFF_S_MAX = 0.2, 3.0
"""Before the second attempt; doubled each time, and scattered by half, so that threads do not come back together."""
REST_S = 5.0
"""How long nothing is sent after all attempts failed; what is asked meanwhile fails at once. Then one attempt tells."""
RELOAD_S = 10.0
"""Between two readings of credentials that were refused."""
PAGE_KEYS = 1000
"""In one page of a listing: what S3 gives at most."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where objects lie, as the configuration has it. `credentials_file` None leaves it to the environment and AWS."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    credentials_file: Path | None = None

    @classmethod
    def of_keys(cls, keys: Store) -> Place | None:
        """The place that `network.store` names; None where chunks are files."""
        if keys.uri is None:
            return None
        bucket, _, prefix = keys.uri.removeprefix("s3://").partition("/")
        return cls(bucket, prefix.strip("/"), keys.endpoint, keys.region or None, keys.credentials_file)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


class Found(NamedTuple):
    """An object: its bytes, and the checksum that was given when it was written; empty where there was none."""

    data: bytes
    checksum: str


class Bucket:
    """The objects under one prefix of one bucket, by keys below that prefix. Thread-safe."""

    def __init__(
        self, place: Place, env: Env, *, attempts: int = ATTEMPTS, pause: Callable[[float], object] = time.sleep
    ) -> None:
        """Load the library and the credentials; nothing is sent. Raises ConfigError, AccessDeniedError."""
        self.place = place
        self._prefix = f"{place.prefix}/" if place.prefix else ""
        self._env = env
        self._attempts = attempts
        self._pause = pause
        self._lock = threading.Lock()
        self._generation = 0
        self._reloaded_at = float("-inf")
        self._rests_until = float("-inf")
        self._failure: UnavailableError | None = None
        """While it rests: what the last attempt came to."""
        self._problem: RageError | None = None
        self._is_conditional = True
        self._client = self._connect()

    @property
    def problem(self) -> str:
        """Why the last call failed when all attempts did; empty while calls succeed."""
        problem = self._problem
        return "" if problem is None else f"{problem.message} ({problem.why})"

    def get(self, key: str, bytes_max: int) -> Found:
        """A whole object. One that is longer than `bytes_max` is given as no bytes. Raises FileNotFoundError.

        Bytes that end early are asked for again, and are never given.
        """

        def call(client: Any) -> Found:
            answer = client.get_object(Bucket=self.place.bucket, Key=self._prefix + key)
            size, checksum = int(answer["ContentLength"]), str(answer["Metadata"].get("blake3", ""))
            with answer["Body"] as body:
                return Found(self._read_body(body, size) if size <= bytes_max else b"", checksum)

        return self._ask(f"read {key}", call)

    def head(self, key: str) -> tuple[int, str] | None:
        """Size and checksum of an object; None when it is not there."""
        try:
            answer = self._ask(
                f"look at {key}",
                lambda client: client.head_object(Bucket=self.place.bucket, Key=self._prefix + key),
            )
        except FileNotFoundError:
            return None
        return int(answer["ContentLength"]), str(answer["Metadata"].get("blake3", ""))

    def put(self, key: str, data: bytes, checksum: str, *, replace: bool) -> bool:
        """Write an object, durable when it returns; without `replace` False when one is there already.

        A server that knows no conditional writes replaces it all the same.
        """

        def call(client: Any) -> bool:
            condition = {} if replace or not self._is_conditional else {"IfNoneMatch": "*"}
            client.put_object(
                Bucket=self.place.bucket,
                Key=self._prefix + key,
                Body=data,
                Metadata={"blake3": checksum},
                ContentType="application/octet-stream",
                **condition,
            )
            return True

        try:
            return self._ask(f"write {key}", call)
        except FileExistsError:
            return False

    def copy(self, key: str, to: str) -> None:
        """Copy an object within the prefix, by the server. Raises FileNotFoundError."""
        source = {"Bucket": self.place.bucket, "Key": self._prefix + key}
        self._ask(
            f"copy {key}",
            lambda client: client.copy_object(Bucket=self.place.bucket, Key=self._prefix + to, CopySource=source),
        )

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        self._ask(
            f"delete {key}",
            lambda client: client.delete_object(Bucket=self.place.bucket, Key=self._prefix + key),
        )

    def page(self, prefix: str, after: str = "", keys_max: int = PAGE_KEYS) -> tuple[list[str], bool]:
        """Up to `keys_max` keys that begin with `prefix`, in order, from behind `after`; and whether more follow."""
        behind = {"StartAfter": self._prefix + after} if after else {}
        answer = self._ask(
            f"list {prefix}",
            lambda client: client.list_objects_v2(
                Bucket=self.place.bucket, Prefix=self._prefix + prefix, MaxKeys=keys_max, **behind
            ),
        )
        found = [str(entry["Key"])[len(self._prefix) :] for entry in answer.get("Contents", ())]
        return found, bool(answer.get("IsTruncated")) and bool(found)

    def list(self, prefix: str, pages_max: int) -> Iterator[str]:
        """Keys that begin with `prefix`, in order, of at most `pages_max` pages."""
        after = ""
        for _ in range(pages_max):
            found, has_more = self.page(prefix, after)
            yield from found
            if not has_more:
                return
            after = found[-1]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # --- one call ---

    def _ask(self, doing: str, call: Callable[[Any], T]) -> T:
        """Make a call, again where that may help. FileNotFoundError and FileExistsError are answers, not failures."""
        began = self._env.monotonic()
        failure = self._failure
        if failure is not None and began < self._rests_until:
            raise UnavailableError(failure.message, why=failure.why, mend=failure.mend, id=failure.id)
        attempts = self._attempts if failure is None else 1
        attempt = 0
        while True:
            attempt += 1
            generation = self._generation
            try:
                answer = call(self._client)
            except Exception as error:
                outcome, code = classify(error)
                if outcome in ("missing", "there"):
                    self._failure = self._problem = None
                    raise (FileNotFoundError if outcome == "missing" else FileExistsError)(doing) from None
                if outcome == "unsupported" and self._is_conditional:
                    log.info("%s knows no conditional writes: objects are written without", self.place)
                    self._is_conditional = False
                    continue
                if outcome == "refused" and self._reload(generation):
                    continue
                mapped = self._explain(doing, outcome, code, error)
                if not isinstance(mapped, UnavailableError):
                    self._problem = mapped
                    raise mapped from error
                delay = min(BACKOFF_S_MAX, BACKOFF_S * 2 ** (attempt - 1)) * (0.5 + self._env.random.random())
                if attempt >= attempts or self._env.monotonic() + delay - began > DEADLINE_S:
                    if outcome == "busy":  # a body that breaks off may be that one object's fault
                        self._failure = self._problem = mapped
                        self._rests_until = self._env.monotonic() + REST_S
                    raise mapped from error
                self._pause(delay)
            else:
                self._failure = self._problem = None
                return answer

    def _read_body(self, body: Any, size: int) -> bytes:
        """`size` bytes, within BODY_S_MAX."""
        began = self._env.monotonic()
        parts, left = [], size
        while left:
            part = body.read(left if left < 256 * 1024 else 256 * 1024)
            if not part:
                raise BrokenOff(f"{size - left} of {size} bytes came")
            parts.append(part)
            left -= len(part)
            if left and self._env.monotonic() - began > BODY_S_MAX:
                raise BrokenOff(f"{size - left} of {size} bytes came in {BODY_S_MAX:.0f} s")
        return b"".join(parts)

    def _reload(self, generation: int) -> bool:
        """Read the credentials again after a refusal; False when that was tried a moment ago."""
        with self._lock:
            if self._generation != generation:
                return True
            now = self._env.monotonic()
            if now - self._reloaded_at < RELOAD_S:
                return False
            self._reloaded_at = now
            try:
                client = self._connect()
            except RageError as error:
                log.warning("the credentials of %s cannot be read again: %s", self.place, error)
                return False
            self._client = client  # the old one is left to the threads that are using it
            self._generation += 1
            return True

    def _connect(self) -> Any:
        from botocore.exceptions import BotoCoreError

        place = self.place
        try:
            keys = None if place.credentials_file is None else read_credentials(place.credentials_file)
            return connect("s3", endpoint=place.endpoint, region=place.region, keys=keys)[0]
        except (BotoCoreError, ValueError) as error:
            raise self._explain("open the object store", "setup", type(error).__name__, error) from error

    def _explain(self, doing: str, outcome: Outcome, code: str, error: Exception) -> RageError:
        message, said = f"cannot {doing} in {self.place}", said_by(error)
        where = self.place.endpoint or "AWS"
        match outcome:
            case "busy" | "broken" | "missing" | "there":
                why = f"{where} says {said}" if outcome != "broken" else f"the answer of {where} broke off: {said}"
                mend = ("rage doctor --only disk", *((f"curl -i {where}",) if self.place.endpoint else ()))
                return UnavailableError(message, why=why, mend=mend, id="objects-unavailable")
            case "full":
                mend = ("give the bucket more room", "rage chunk gc")
                return StorageFullError(message, why=f"{where} says {said}", mend=mend)
            case "refused":
                return ConfigError(
                    message, why=f"{where} says {said}", mend=_mends(code, self.place), id="objects-refused"
                )
            case _:
                return ConfigError(
                    message, why=f"{where} says {said}", mend=_mends(code, self.place), id="objects-setup"
                )


def read_credentials(path: Path) -> Mapping[str, str | None]:
    """Keys from a file in the form of AWS's `credentials`: of its section `default`, or that of AWS_PROFILE.

    Raises AccessDeniedError where others can read it; ConfigError.
    """
    import os

    from botocore.credentials import SharedCredentialProvider
    from botocore.exceptions import BotoCoreError

    key = "network.store.credentials_file"
    try:
        mode = path.stat().st_mode
        if mode & 0o077:
            raise AccessDeniedError(
                f"others can read {path}",
                why=f"its mode is {mode & 0o7777:04o}; whoever reads it can delete every chunk",
                mend=(f"chmod {SECRET:o} {path}",),
                id="key-exposed",
            )
        profile = os.environ.get("AWS_PROFILE", "default")
        found = SharedCredentialProvider(str(path), profile).load()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read",
            why=(error.strerror or "unknown").lower(),
            mend=(f"see {key}",),
            id="objects-setup",
        ) from error
    except BotoCoreError as error:
        raise ConfigError(
            f"{path} holds no keys", why=said_by(error), mend=(f"see {key}",), id="objects-setup"
        ) from error
    if found is None:
        raise ConfigError(
            f"{path} holds no keys",
            why=f"a section [{profile}] with aws_access_key_id and aws_secret_access_key is wanted",
            mend=(f"see {key}",),
            id="objects-setup",
        )
    return {"access_key": found.access_key, "secret_key": found.secret_key, "token": found.token}


def _mends(code: str, place: Place) -> tuple[str, ...]:
    match code:
        case "NoSuchBucket":
            return (f"aws s3 mb s3://{place.bucket}", "see network.store.uri and network.store.endpoint")
        case "RequestTimeTooSkewed":
            return ("date -u", "timedatectl set-ntp true")
        case "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException" | "301":
            return ("see network.store.region",)
        case "NoCredentialsError" | "PartialCredentialsError" | "ProfileNotFound":
            return ("set network.store.credentials_file, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",)
        case _ if code in REFUSED:
            return (
                "renew the keys in network.store.credentials_file, the environment or ~/.aws/credentials",
                f"the keys need Get, Put and Delete on {place}/* and ListBucket on its bucket",
            )
        case _:
            return ("see network.store.uri and network.store.endpoint", "rage config check")
