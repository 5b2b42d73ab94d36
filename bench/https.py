"""nginx on loopback with TLS 1.3, for one directory."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.processes import END_S, FailedError

CONFIG = """\
daemon off;
pid {run}/pid;
error_log stderr warn;
worker_processes 1;
{user}
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {run}/body;
  proxy_temp_path {run}/proxy;
  fastcgi_temp_path {run}/fastcgi;
  uwsgi_temp_path {run}/uwsgi;
  scgi_temp_path {run}/scgi;
  sendfile on;
  tcp_nopush on;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {run}/certificate.pem;
    ssl_certificate_key {run}/key.pem;
    ssl_protocols TLSv1.3;
    ssl_buffer_size 16k;
    root {root};
  }}
}}
"""


@contextmanager
def https(nginx: str, root: Path) -> Iterator[tuple[str, Path]]:
    """Serve `root`; gives the URL and the certificate to trust."""
    run = root / "nginx"
    run.mkdir()
    _certify(run)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    user = "user root;" if os.geteuid() == 0 else ""  # the directory is for its owner alone
    (run / "nginx.conf").write_text(CONFIG.format(run=run, root=root, port=port, user=user))
    with (run / "log").open("wb") as log:
        process = subprocess.Popen([nginx, "-e", "stderr", "-p", run, "-c", run / "nginx.conf"], stderr=log)
    try:
        _wait_for(process, port, run / "log")
        yield f"https://127.0.0.1:{port}", run / "certificate.pem"
    finally:
        process.terminate()
        process.wait(END_S)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + END_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise FailedError(f"nginx: {log.read_text()}") from error
            time.sleep(0.02)
        else:
            return


def _certify(run: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (run / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (run / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
