"""Publish and subscribe over a swarm: `gossipsub`'s host. Streams, tasks and the heartbeat live here, rules do not.

    host     what others ask, peers that come and go, the stream to each, the heartbeat
    inbound  the streams that peers open: RPCs cut, decoded and bounded
    readers  subscriptions, and what waits for each

Source: libp2p/specs, pubsub (Stream management).
"""

from __future__ import annotations

from rage_net.libp2p.pubsub.host import PubSub
from rage_net.libp2p.pubsub.readers import Subscription, TopicState, Validate

__all__ = ["PubSub", "Subscription", "TopicState", "Validate"]
