"""What caches are told of an answer: for how long they keep it, and by which tags it is purged. Pure values.

Three kinds of caches keep what this node answers, and each is told apart:

    browsers, and what nobody purges    `Cache-Control: max-age`, `AGE_S_MAX` at most
    CDNs that have their own header     `CDN-Cache-Control`, `Surrogate-Control`, `X-Accel-Expires`: the rule's ttl
    CDNs that read `Cache-Control`      `s-maxage` in it, and only where such a one is configured

Only documents with the tag `permanent` are told to be kept for long by everybody, and to be immutable: of them nothing
is ever purged that a browser would have to let go of. A purge by URL must meet all that a cache keeps, so shared caches
may keep an answer under its few `paths_of` alone; and no archive, which a purge of one of its chunks would not meet.

Not here: who may read (acl), which documents count for a chunk (gate), what is purged when (plan).
Source: issue 6, C; cdn-apis 1, 9, 10; ADR 23; RFC 9111, 9213, 8246, 5861.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from blake3 import blake3

from rage_net.cdn.provider import TAGS_MAX, ItemError, check_tag
from rage_net.cid import Cid
from rage_net.config.cdn import CachePolicy, CacheRule, Cdn

AGE_S_MAX = 60
"""For browsers and any cache that is not purged: what was revoked is gone from them within a minute."""
PERMANENT_AGE_S = 29_030_400
"""48 weeks, as IPFS gateways say; for documents marked `permanent`."""
TAGS_BYTES_MAX = 640
"""Of one header's value: some 17 documents. There are four such headers, and a plain nginx, whose buffer is a page of
4 KiB for all headers and its own notes on them, answers 502 to more (measured with nginx 1.22)."""

ALL = "rage"
"""The tag of everything that is tagged."""
MANY_DOCUMENTS = "many:doc"
"""On an answer that counts for more documents than have room: a purge of any document goes by this one, too."""
MANY_WORDS = "many:tag"
"""On an answer whose documents have more tags than have room: a purge by such a tag goes by this one, too."""

_HASHED = "~"
_HASH_BYTES = 15

Edges = Literal["none", "targeted", "plain"]
"""Which caches are purged when something ceases to be public. none: no CDN is configured. targeted: all that are have
a header of their own. plain: one of them reads `Cache-Control` alone."""
PLAIN = ("azure", "cloudfront", "varnish")
"""They read `s-maxage`. nginx does too, but has `X-Accel-Expires`, which it passes on to nobody."""

NO_STORE = {"Cache-Control": "no-store", "CDN-Cache-Control": "no-store", "Surrogate-Control": "no-store"}
"""In all three: who reads one ignores the others."""
PRIVATE = {**NO_STORE, "Cache-Control": "private, no-store"}


@dataclass(frozen=True, slots=True)
class Matched:
    """What the policy says of a path."""

    rule: CacheRule | None
    """The first rule that matches; None: the defaults hold."""
    ttl_s: int
    """For edges; at most `max_ttl`, 0 when they must not keep it."""
    stale_s: int
    """For how long after that they may give it while they fetch it anew."""
    is_immutable: bool
    """As the rule says; chunks say so when their document is `permanent`."""

    @property
    def is_stored(self) -> bool:
        """Whether edges keep it at all."""
        return self.ttl_s > 0


def rule_for(policy: CachePolicy, path: str) -> Matched:
    """The first rule whose pattern matches `path`, which has no query; else the default."""
    rule = next((rule for rule in policy.rules if matches(rule.pattern, path)), None)
    if rule is None:
        return Matched(None, _clamp(policy.default_ttl, policy.max_ttl), 0, False)
    ttl_s = _clamp(policy.default_ttl if rule.ttl is None else rule.ttl, policy.max_ttl)
    if not rule.cache or ttl_s == 0:
        return Matched(rule, 0, 0, rule.immutable)
    return Matched(rule, ttl_s, _clamp(rule.stale_while_revalidate, policy.max_ttl), rule.immutable)


def matches(pattern: str, path: str) -> bool:
    """Whether the whole of `path` fits `pattern`, in which each `*` is any text, also none. Linear in both."""
    first, *rest = pattern.split("*")
    if not rest:
        return path == first
    *middle, last = rest
    if not path.startswith(first) or len(path) < len(first) + len(last) or not path.endswith(last):
        return False
    at, end = len(first), len(path) - len(last)
    for part in middle:
        at = path.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def edges_of(cdn: Cdn) -> Edges:
    """Which caches are purged, as cdn.yaml has it."""
    if not cdn.enabled or not cdn.providers:
        return "none"
    return "plain" if any(provider.software in PLAIN for provider in cdn.providers) else "targeted"


def headers_for(
    policy: CachePolicy,
    path: str,
    *,
    tags: Sequence[str] = (),
    is_permanent: bool = False,
    is_public: bool = True,
    is_shared: bool = True,
    edges: Edges = "plain",
) -> dict[str, str]:
    """The headers of an answer to GET and HEAD on `path` that are for caches, by name.

    Args: tags: of `tags_of`. is_permanent: a public document with the tag `permanent` holds it. is_public: anyone may
    have it, not only who asked. is_shared: caches of many clients may keep it; False for what a purge would not meet.
    """
    if not is_public:
        return dict(PRIVATE)
    found = rule_for(policy, path)
    if not found.is_stored:
        return dict(NO_STORE)
    age = f"max-age={PERMANENT_AGE_S}, immutable" if is_permanent else f"max-age={min(AGE_S_MAX, found.ttl_s)}"
    if not is_shared:
        return {**NO_STORE, "Cache-Control": f"private, {age}"}
    if is_permanent:
        return {"Cache-Control": f"public, {age}", **(_tagged(tags) if edges != "none" else {})}
    if edges == "none":
        return {"Cache-Control": f"public, {age}"}
    targeted = f"max-age={found.ttl_s}"
    if found.stale_s:
        targeted += f", stale-while-revalidate={found.stale_s}"
    return {
        "Cache-Control": f"public, {age}" + (f", s-maxage={found.ttl_s}" if edges == "plain" else ""),
        "CDN-Cache-Control": targeted,
        "Surrogate-Control": targeted,
        "X-Accel-Expires": str(found.ttl_s),
        **_tagged(tags),
    }


def _clamp(ttl_s: float, max_s: float) -> int:
    return int(max(0.0, min(ttl_s, max_s)))


def _tagged(tags: Sequence[str]) -> dict[str, str]:
    """One list for each CDN's own header: Cloudflare's, Fastly's, Varnish's, and the one that CloudFront is told."""
    if not tags:
        return {}
    commas, blanks = ",".join(tags), " ".join(tags)
    return {"Cache-Tag": commas, "Surrogate-Key": blanks, "xkey": blanks, "x-amz-meta-cache-tag": commas}


# --- names ---


def paths_of(cid: Cid) -> tuple[str, ...]:
    """The paths, with their queries, under which shared caches may keep a block: what a purge by URL names.

    The last one is its archive's, which they keep for `permanent` documents alone, and for one block.
    """
    return f"/chunks/{cid}", f"/ipfs/{cid}?format=raw", f"/ipfs/{cid}?format=car"


def tag_for_document(doc_id: str) -> str:
    """Purge `MANY_DOCUMENTS` with it."""
    return _tag("doc:", doc_id)


def tag_for_cid(cid: Cid) -> str:
    """Of the chunk or manifest itself, in every form."""
    return f"cid:{cid}"


def tag_for_word(word: str) -> str:
    """The cache tag for a document's tag. Purge `MANY_WORDS` with it."""
    return _tag("tag:", word)


def _tag(kind: str, word: str) -> str:
    """The word as it is where every CDN takes it, else its hash; one that begins as hashes do is hashed, too."""
    try:
        if not word.startswith(_HASHED):
            return check_tag(kind + word)
    except ItemError:
        pass
    digest = blake3(word.encode("utf-8", "surrogatepass")).digest(length=_HASH_BYTES)
    return f"{kind}{_HASHED}{base64.b32encode(digest).decode('ascii').lower()}"


def tags_of(
    cid: Cid, documents: Iterable[str] = (), words: Iterable[str] = (), *, has_more: bool = False
) -> tuple[str, ...]:
    """The tags of an answer: everything's, its CID's, its public documents', and these documents' own tags.

    Args: documents: ids. has_more: not all of its documents are among them, nor all their tags among `words`.
    Returns: at most `TAGS_MAX`, in a header's line of at most `TAGS_BYTES_MAX`; `MANY_DOCUMENTS` and `MANY_WORDS` stand
    for those without room. Same values, same tags.
    """
    tags = [ALL, tag_for_cid(cid)]
    room = TAGS_BYTES_MAX - sum(len(tag) + 1 for tag in (*tags, MANY_DOCUMENTS, MANY_WORDS))
    places = TAGS_MAX - len(tags) - 2
    for many, of_kind in (
        (MANY_DOCUMENTS, sorted(set(map(tag_for_document, documents)))),
        (MANY_WORDS, sorted(set(map(tag_for_word, words)))),
    ):
        is_left_out = has_more
        for tag in of_kind:
            if places and len(tag) + 1 <= room:
                tags.append(tag)
                places, room = places - 1, room - len(tag) - 1
            else:
                is_left_out = True
        if is_left_out:
            tags.append(many)
    return tuple(tags)
