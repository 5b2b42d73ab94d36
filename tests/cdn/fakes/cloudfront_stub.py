"""A stub of CloudFront's API, for what moto lacks: idempotency, purges in progress, quotas, throttling, its errors.

No server of AWS: it answers as AWS's own description of the service (botocore's model, 2020-05-31) and its prose say
(cdn-apis 5). It reads requests by that model, checks signatures with the secret it knows, and refuses what AWS refuses.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import botocore.loaders
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.model import ListShape, ServiceModel, StructureShape
from botocore.validate import ParamValidator

PATHS_MAX = 3000
WILDCARDS_MAX = 15
PATH_CHARS_MAX = 4000
TAG_CHARS_MAX = 256
SPACE = "http://cloudfront.amazonaws.com/doc/2020-05-31/"
MODEL = ServiceModel(botocore.loaders.create_loader().load_service_model("cloudfront", "service-2"), "cloudfront")


class Refused(Exception):
    def __init__(self, code: str, status: int, message: str = "said by the stub") -> None:
        super().__init__(code)
        self.code, self.status, self.message = code, status, message


@dataclass
class Purge:
    id: str
    reference: str
    items: list[str]
    is_completed: bool = False


@dataclass(frozen=True)
class Raw:
    """An answer as it is, which needs be no XML."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class CloudFrontStub:
    """One distribution. `faults` are answered first, each once: a Refused or a Raw."""

    def __init__(self, key: str, secret: str) -> None:
        self.distribution = "EDFDVBD6EXAMPLE"
        self.names = {"DomainName": "d111.cloudfront.net", "Aliases": ["cdn.example.org", "*.edge.example.org"]}
        self.is_enabled = True
        self.is_prompt = False
        """Purges are completed as soon as they were taken."""
        self.tag_header: str | None = "x-amz-meta-cache-tag"
        self.may = {"CreateInvalidation", "GetInvalidation", "ListInvalidations", "GetDistribution"}
        self.purges: list[Purge] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.faults: list[Refused | Raw] = []
        self._credentials = Credentials(key, secret)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def complete(self) -> None:
        """All purges come to their end."""
        for purge in self.purges:
            purge.is_completed = True

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # --- what it says ---

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Raw:
        try:
            with self._lock:
                if self.faults:
                    fault = self.faults.pop(0)
                    if isinstance(fault, Raw):
                        return fault
                    raise fault
                self._check_signature(method, target, headers, body)
                name, arguments = read_request(method, target, body)
                self.calls.append((name, arguments))
                if name not in self.may:
                    raise Refused("AccessDenied", 403, f"not authorized to perform: cloudfront:{name}")
                id = arguments.get("DistributionId", arguments.get("Id") if name == "GetDistribution" else None)
                if id != self.distribution:
                    raise Refused("NoSuchDistribution", 404, "The specified distribution does not exist.")
                found = getattr(self, f"_{name}")(arguments)
                model = MODEL.operation_model(name)
                assert isinstance(model.output_shape, StructureShape)
                payload = model.output_shape.serialization["payload"]
                root = f'<{payload} xmlns="{SPACE}">' + _written(model.output_shape.members[payload], found)
                status = model.http["responseCode"]
                extra = {"Location": f"{self.url}{target}/{found['Id']}"} if name == "CreateInvalidation" else {}
                return Raw(status, f"{root}</{payload}>".encode(), {"Content-Type": "text/xml", **extra})
        except Refused as refused:
            said = (
                f'<ErrorResponse xmlns="{SPACE}"><Error><Type>Sender</Type><Code>{refused.code}</Code>'
                f"<Message>{escape(refused.message)}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
            )
            return Raw(refused.status, said.encode(), {"Content-Type": "text/xml"})

    def _check_signature(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        given = headers.get("authorization", "")
        parts = dict(part.strip().split("=", 1) for part in given.partition(" ")[2].split(",") if "=" in part)
        scope = parts.get("Credential", "").split("/")
        if not given.startswith("AWS4-HMAC-SHA256 ") or len(scope) != 5:
            raise Refused("MissingAuthenticationToken", 403)
        if scope[0] != self._credentials.access_key:
            raise Refused("InvalidClientTokenId", 403, f"The security token {scope[0]} is invalid.")
        if scope[2:] != ["us-east-1", "cloudfront", "aws4_request"]:
            raise Refused("SignatureDoesNotMatch", 403, "Credential should be scoped to a valid region.")
        signed = {name: headers[name] for name in parts["SignedHeaders"].split(";")}
        request = AWSRequest(method, f"{self.url}{target}", headers=signed, data=body)
        request.context["timestamp"] = headers["x-amz-date"]
        signer = SigV4Auth(self._credentials, "cloudfront", "us-east-1")
        wanted = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
        if wanted != parts["Signature"]:
            raise Refused("SignatureDoesNotMatch", 403, f"it gave {given}, not {wanted}")

    def _CreateInvalidation(self, arguments: dict[str, Any]) -> dict[str, Any]:
        batch = arguments.get("InvalidationBatch")
        if not batch:
            raise Refused("MissingBody", 400)
        items, reference = batch["Paths"].get("Items", []), batch["CallerReference"]
        if batch["Paths"]["Quantity"] != len(items) or not items:
            raise Refused("InconsistentQuantities", 400)
        if len(items) > PATHS_MAX:
            raise Refused("BatchTooLarge", 413)
        for item in items:
            check_item(item)
        for purge in self.purges:
            if purge.reference == reference:
                if sorted(purge.items) != sorted(items):
                    raise Refused("InvalidationBatchAlreadyExists", 400)
                return _told(purge)
        busy = [item for purge in self.purges if not purge.is_completed for item in purge.items] + items
        wildcards = sum(item.endswith("*") for item in busy)
        if wildcards > WILDCARDS_MAX or len(busy) - wildcards > PATHS_MAX:
            raise Refused("TooManyInvalidationsInProgress", 400, "Processing your request will exceed the quota.")
        self.purges.append(Purge(f"I{len(self.purges) + 1:013d}", reference, items))
        told = _told(self.purges[-1])
        self.purges[-1].is_completed = self.is_prompt
        return told

    def _GetInvalidation(self, arguments: dict[str, Any]) -> dict[str, Any]:
        for purge in self.purges:
            if purge.id == arguments["Id"]:
                return _told(purge)
        raise Refused("NoSuchInvalidation", 404, "The specified invalidation does not exist.")

    def _ListInvalidations(self, arguments: dict[str, Any]) -> dict[str, Any]:
        most = int(arguments.get("MaxItems", 100))
        newest = [_told(purge) for purge in reversed(self.purges)]
        return {
            "Marker": "",
            "MaxItems": most,
            "IsTruncated": len(newest) > most,
            "Quantity": len(newest[:most]),
            "Items": newest[:most],
        }

    def _GetDistribution(self, arguments: dict[str, Any]) -> dict[str, Any]:
        aliases = self.names["Aliases"]
        config: dict[str, Any] = {"Enabled": self.is_enabled, "Aliases": {"Quantity": len(aliases), "Items": aliases}}
        if self.tag_header is not None:
            config["CacheTagConfig"] = {"HeaderName": self.tag_header}
        return {"Id": self.distribution, "DomainName": self.names["DomainName"], "DistributionConfig": config}


def check_item(item: str) -> None:
    """The rules of a path and of a tag that the model does not hold."""
    plain = item.removesuffix("*")
    if item.startswith("#"):
        is_good = 1 < len(item) <= TAG_CHARS_MAX + 1 and all("!" <= char <= "~" and char not in "*," for char in item)
    else:
        is_good = item.startswith("/") and len(item) <= PATH_CHARS_MAX
        is_good = is_good and all("!" <= char <= "~" and char not in '*#<>"{}|\\^`' for char in plain)
    if not is_good:
        raise Refused("InvalidArgument", 400, "Your request contains an invalid path.")


def read_request(method: str, target: str, body: bytes) -> tuple[str, dict[str, Any]]:
    """The operation and its arguments, by the service's model. Raises Refused for what the model does not allow."""
    parts = urlsplit(target)
    for name in MODEL.operation_names:
        model = MODEL.operation_model(name)
        wanted = model.http["requestUri"].partition("?")[0].split("/")
        given = parts.path.split("/")
        if model.http["method"] != method or len(wanted) != len(given):
            continue
        pairs = list(zip(wanted, given, strict=True))
        if not all(want.startswith("{") or want == got for want, got in pairs):
            continue
        arguments: dict[str, Any] = {want[1:-1]: got for want, got in pairs if want.startswith("{")}
        assert isinstance(model.input_shape, StructureShape)
        for member, shape in model.input_shape.members.items():
            if shape.serialization.get("location") == "querystring":
                found = parse_qs(parts.query).get(shape.serialization["name"])
                if found:
                    arguments[member] = found[0]
        payload = model.input_shape.serialization.get("payload")
        if payload is not None and body:
            arguments[payload] = _read(model.input_shape.members[payload], ElementTree.fromstring(body))
        report = ParamValidator().validate(arguments, model.input_shape)
        if report.has_errors():
            raise Refused("MalformedXML", 400, report.generate_report())
        return name, arguments
    raise Refused("InvalidAction", 400, f"{method} {target}")


def _read(shape: Any, node: ElementTree.Element) -> Any:
    if isinstance(shape, StructureShape):
        children = {child.tag.removeprefix(f"{{{SPACE}}}"): child for child in node}
        unknown = children.keys() - shape.members.keys()
        if unknown:
            raise Refused("MalformedXML", 400, f"no such element: {unknown}")
        return {name: _read(shape.members[name], child) for name, child in children.items()}
    if isinstance(shape, ListShape):
        name = shape.member.serialization.get("name", "member")
        assert all(child.tag == f"{{{SPACE}}}{name}" for child in node)
        return [_read(shape.member, child) for child in node]
    return int(node.text or "0") if shape.type_name in ("integer", "long") else (node.text or "")


def _written(shape: Any, found: Any) -> str:
    if isinstance(shape, StructureShape):
        names = [name for name in shape.members if name in found]
        return "".join(f"<{name}>{_written(shape.members[name], found[name])}</{name}>" for name in names)
    if isinstance(shape, ListShape):
        name = shape.member.serialization.get("name", "member")
        return "".join(f"<{name}>{_written(shape.member, one)}</{name}>" for one in found)
    return ("true" if found else "false") if isinstance(found, bool) else escape(str(found))


def _told(purge: Purge) -> dict[str, Any]:
    return {
        "Id": purge.id,
        "Status": "Completed" if purge.is_completed else "InProgress",
        "CreateTime": "2026-11-27T12:00:00.000Z",
        "InvalidationBatch": {
            "Paths": {"Quantity": len(purge.items), "Items": purge.items},
            "CallerReference": purge.reference,
        },
    }


def _handler(stub: CloudFrontStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): text for name, text in self.headers.items()}
            answer = stub.answer(self.command, self.path, headers, body)
            self.send_response_only(answer.status)  # without a Date of its own
            for name, text in answer.headers.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who asked was killed
                self.wfile.write(answer.body)

        do_GET = do_POST = do_PUT = pass_on

    return Handler
