"""S3, and what speaks its API: R2, Fastly Object Storage, MinIO. Asked by boto3.

Source: cdn-apis 3, 4, 5 ("S3 put"); the S3 API reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

from rage_net.aws import BUSY, REFUSED, Account, Blocking, Failure, Outcome
from rage_net.cdn.buckets.objects import (
    KEYS_MAX,
    TAGS_KEY,
    Found,
    Page,
    PutOutcome,
    Told,
    check_data,
    check_key,
    joined,
    parts_of,
    tags_of,
)
from rage_net.errors import ConfigError, NotFoundError, RageError, StorageFullError, UnavailableError

if TYPE_CHECKING:
    from rage_net.config.cdn import Bucket as Keys


class S3:
    """Objects in S3, or what speaks its API. See `Bucket`.

    Bodies are sent whole, with their hash in the signature and no trailing checksum: other servers than AWS know no
    other. A server that knows no conditional writes is asked first whether the object is there.
    """

    def __init__(self, name: str, prefix: str, keys: Keys, *, blocking: Blocking) -> None:
        self._name = name
        self._prefix = f"{prefix}/" if prefix else ""
        found = None
        if keys.access_key_id is not None and keys.secret_access_key is not None:
            found = (keys.access_key_id.reveal(), keys.secret_access_key.reveal())
        self._account = Account("s3", blocking=blocking, keys=found, endpoint=keys.endpoint, region=keys.region)
        self._is_conditional = True

    def __str__(self) -> str:
        return f"s3://{self._name}/{self._prefix}".rstrip("/")

    async def put(self, key: str, data: bytes, **told: Unpack[Told]) -> PutOutcome:
        """PutObject with If-None-Match."""
        arguments = {
            "Bucket": self._name,
            "Key": self._prefix + check_key(key),
            "Body": check_data(data),
            "ContentType": told["content_type"],
            "CacheControl": told["cache_control"],
            "Metadata": joined(told.get("tags", ()), told.get("metadata", {})),
        }
        if self._is_conditional:
            try:
                await self._account.ask("put_object", **arguments, IfNoneMatch="*")
            except Failure as failure:
                if failure.outcome == "there":
                    return PutOutcome(True)
                if failure.outcome != "unsupported":
                    raise self._error(f"write {key}", failure) from None
                self._is_conditional = False
            else:
                return PutOutcome(False)
        if await self.head(key) is not None:
            return PutOutcome(True)
        try:
            await self._account.ask("put_object", **arguments)
        except Failure as failure:
            raise self._error(f"write {key}", failure) from None
        return PutOutcome(False)

    async def delete(self, keys: Sequence[str]) -> Mapping[str, RageError | None]:
        """DeleteObjects, a thousand in a call."""
        outcomes: dict[str, RageError | None] = dict.fromkeys(map(check_key, keys))
        for part in parts_of(list(outcomes), KEYS_MAX):
            try:
                answer = await self._account.ask(
                    "delete_objects",
                    Bucket=self._name,
                    Delete={"Objects": [{"Key": self._prefix + key} for key in part], "Quiet": False},
                )
            except Failure as failure:
                for key in part:
                    outcomes[key] = self._error(f"delete {key}", failure)
                continue
            gone = {str(entry.get("Key")) for entry in answer.get("Deleted", ())}
            refused = {str(entry.get("Key")): entry for entry in answer.get("Errors", ())}
            for key in part:
                entry = refused.get(self._prefix + key)
                if entry is not None:
                    outcomes[key] = self._refused(f"delete {key}", str(entry.get("Code")), str(entry.get("Message")))
                elif self._prefix + key not in gone:
                    outcomes[key] = UnavailableError(
                        f"cannot delete {key} in {self}", why="the answer does not name it", id="objects-unavailable"
                    )
        return outcomes

    async def head(self, key: str) -> Found | None:
        """HeadObject."""
        try:
            answer = await self._account.ask("head_object", Bucket=self._name, Key=self._prefix + check_key(key))
        except Failure as failure:
            if failure.outcome == "missing":
                return None
            raise self._error(f"look at {key}", failure) from None
        metadata = {str(name): str(text) for name, text in answer.get("Metadata", {}).items()}
        tags = tags_of(metadata.pop(TAGS_KEY, ""))
        kind, cache_control = str(answer.get("ContentType", "")), str(answer.get("CacheControl", ""))
        return Found(int(answer.get("ContentLength", 0)), tags, metadata, kind, cache_control)

    async def page(self, prefix: str, marker: str | None = None) -> Page:
        """ListObjectsV2."""
        try:
            answer = await self._account.ask(
                "list_objects_v2",
                Bucket=self._name,
                Prefix=self._prefix + prefix,
                MaxKeys=KEYS_MAX,
                **({"ContinuationToken": marker} if marker else {}),
            )
        except Failure as failure:
            raise self._error(f"list {prefix}", failure) from None
        found = [str(entry["Key"])[len(self._prefix) :] for entry in answer.get("Contents", ())]
        following = str(answer.get("NextContinuationToken", "")) if answer.get("IsTruncated") else ""
        return Page(found, following or None)

    async def set_tags(self, key: str, tags: Sequence[str]) -> None:
        """CopyObject onto itself with other metadata: S3 changes it in no other way."""
        found = await self.head(key)
        if found is None:
            raise NotFoundError(f"there is no {key} in {self}")
        place = {"Bucket": self._name, "Key": self._prefix + key}
        try:
            await self._account.ask(
                "copy_object",
                **place,
                CopySource=place,
                MetadataDirective="REPLACE",
                Metadata=joined(tags, found.metadata),
                **({"ContentType": found.content_type} if found.content_type else {}),
                **({"CacheControl": found.cache_control} if found.cache_control else {}),
            )
        except Failure as failure:
            if failure.outcome == "missing":
                raise NotFoundError(f"there is no {key} in {self}") from None
            raise self._error(f"set the tags of {key}", failure) from None

    def close(self) -> None:
        """Close the connections."""
        self._account.close()

    def _refused(self, doing: str, code: str, message: str) -> RageError:
        """What one key's row in the answer to a deletion means."""
        outcome: Outcome = "busy" if code in BUSY else "refused" if code in REFUSED else "setup"
        said = "".join(char if char.isprintable() else " " for char in f"{code}: {message}"[:200])
        return self._error(doing, Failure(outcome, code, self._account.hide(said)))

    def _error(self, doing: str, failure: Failure) -> RageError:
        where = self._account.endpoint or "AWS"
        message, why = f"cannot {doing} in {self}", f"{where} says {failure.said}"
        mend: tuple[str, ...]
        match failure.outcome:
            case "full":
                return StorageFullError(message, why=why, mend=("give the bucket more room",))
            case "refused" if failure.code in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
                mend = (
                    "set bucket.access_key_id and bucket.secret_access_key in cdn.yaml, or AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY",
                )
                return ConfigError(message, why=why, mend=mend, id="objects-refused")
            case "refused" if failure.code == "RequestTimeTooSkewed":
                return ConfigError(message, why=why, mend=("date -u",), id="objects-refused")
            case "refused":
                mend = (
                    "renew bucket.access_key_id and bucket.secret_access_key in cdn.yaml",
                    f"the keys need Get, Put and Delete on {self}/* and ListBucket on its bucket",
                )
                return ConfigError(message, why=why, mend=mend, id="objects-refused")
            case "setup" | "unsupported":
                mend = ("see bucket.uri, bucket.endpoint and bucket.region in cdn.yaml", "rage config check")
                return ConfigError(message, why=why, mend=mend, id="objects-setup")
        return UnavailableError(message, why=why, id="objects-unavailable")
