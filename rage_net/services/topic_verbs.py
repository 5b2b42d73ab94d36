"""The verbs of the noun topic, over a `PubSub`: rows, a tail of what comes, and one message out."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import TYPE_CHECKING

from rage_net import messages, refusals
from rage_net.env import Env
from rage_net.errors import RemoteProtocolError, UnavailableError
from rage_net.libp2p.errors import LimitError
from rage_net.messages import Heartbeat
from rage_net.verbs import topic as verbs

if TYPE_CHECKING:
    from rage_net.libp2p.gossipsub import Message
    from rage_net.libp2p.pubsub import PubSub
    from rage_net.verbs import Source

MayJoin = Callable[[str], bool]
"""Whether a topic may be joined for the asking."""


def list_topics(pubsub: PubSub) -> verbs.ListTopicsResult:
    """Topics we have joined first, then those of peers."""
    return verbs.ListTopicsResult(
        tuple(
            verbs.TopicRow(
                state.topic,
                state.is_joined,
                state.peers,
                state.mesh,
                state.received,
                state.duplicates,
                state.rejected,
                state.published,
            )
            for state in pubsub.topics()
        )
    )


async def tail(
    pubsub: PubSub, env: Env, verb: verbs.TailTopic, may_join: MayJoin, tell: Callable[[verbs.TopicMessage], None]
) -> verbs.TailTopicResult:
    """Tell each message as it comes, until `count` or `for_s` is reached. Raises RageError."""
    _check(pubsub, verb.topic, may_join)
    count = 0
    try:
        subscription = pubsub.subscribe(verb.topic)
    except ValueError as error:
        raise refusals.topic_invalid(verb.topic, str(error)) from None
    except LimitError as error:
        raise UnavailableError("too many readers of topics", why=str(error), id="busy") from None
    async with subscription:
        try:
            async with asyncio.timeout(verb.for_s or None):
                async for message in subscription:
                    tell(show_message(message, env.now()))
                    count += 1
                    if count == verb.count:
                        break
        except TimeoutError:
            pass  # the time that was asked for is over
        return verbs.TailTopicResult(verb.topic, count, subscription.dropped)


async def publish(
    pubsub: PubSub, env: Env, verb: verbs.PublishTopic, source: Source, may_join: MayJoin
) -> verbs.PublishTopicResult:
    """Read the message to its end, sign it and send it. Raises RageError."""
    _check(pubsub, verb.topic, may_join)
    data = await env.waiting(_read_all, source)
    try:
        id, peers = pubsub.publish(verb.topic, data)
    except ValueError as error:
        raise refusals.topic_invalid(verb.topic, str(error)) from None
    except LimitError as error:
        raise UnavailableError("the message was not sent", why=str(error), id="busy") from None
    return verbs.PublishTopicResult(verb.topic, id.hex(), peers, len(data))


def show_message(message: Message, now: float) -> verbs.TopicMessage:
    """A message as operators see it; what is one of rage's own is read for them."""
    kind, text = "unknown", ""
    try:
        said = messages.decode_gossip(message.data)
    except RemoteProtocolError:
        said = None
    if said is not None:
        info = said.node_info
        kind = "heartbeat" if isinstance(said, Heartbeat) else "announcement"
        words = {"org": info.organization, "region": info.region, "zone": info.zone, "version": info.version}
        text = " ".join(f"{name}={word}" for name, word in words.items() if word)
        text += f" free={info.free_bytes}"
    return verbs.TopicMessage(
        message.topic,
        str(message.author),
        message.sequence,
        round(now, 3),
        len(message.data),
        kind,
        text.strip(),
        base64.b64encode(message.data).decode("ascii"),
    )


def _check(pubsub: PubSub, topic: str, may_join: MayJoin) -> None:
    if not may_join(topic) and not any(state.topic == topic and state.is_joined for state in pubsub.topics()):
        raise refusals.topic_not_joined(topic)


def _read_all(source: Source) -> bytes:
    """All octets, at most MESSAGE_BYTES_MAX. Blocking."""
    data, block = bytearray(), bytearray(verbs.MESSAGE_BYTES_MAX + 1)
    while size := source.readinto(block):
        data += block[:size]
        if len(data) > verbs.MESSAGE_BYTES_MAX:
            raise refusals.message_too_large(len(data), verbs.MESSAGE_BYTES_MAX)
    return bytes(data)
