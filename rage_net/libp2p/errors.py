"""The errors of the network stack, and nothing else: this package imports nothing of rage outside itself."""

from __future__ import annotations


class Libp2pError(Exception):
    """The root of everything this stack raises."""


class ProtocolError(Libp2pError):
    """A protocol was broken, by one side or the other."""


class LocalProtocolError(ProtocolError):
    """Our fault: the caller asked for something the protocol's state forbids."""


class RemoteProtocolError(ProtocolError):
    """The peer's fault: malformed, oversized, out of order, or forged bytes."""


class NegotiationError(Libp2pError):
    """The peer speaks none of the protocols that were proposed."""


class DialError(Libp2pError):
    """No address of the peer led to a secure connection; `reasons` names each address and what happened."""

    def __init__(self, message: str, reasons: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.reasons = reasons


class PeerIdMismatchError(DialError):
    """Someone answered, but not the peer that was dialled."""


class NotAdmittedError(DialError):
    """The peer is connected, and one of the two does not want to have to do with the other; `refusal` says why."""

    def __init__(self, message: str, refusal: str) -> None:
        super().__init__(f"{message}: {refusal}" if refusal else message)
        self.refusal = refusal


class StreamClosedError(Libp2pError):
    """The stream was closed on our side, or the connection below it is gone."""


class StreamResetError(Libp2pError):
    """The peer reset the stream."""


class LimitError(Libp2pError):
    """A named limit (connections, streams, bytes) would be passed."""
