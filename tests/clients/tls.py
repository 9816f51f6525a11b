"""A certificate for localhost, made for a test, and whom to believe because of it."""

import ssl
from pathlib import Path

import trustme


class Tls:
    """A certificate, and the file that programs are told to believe."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(self.context)
        file = directory / "authority.pem"
        authority.cert_pem.write_to_path(str(file))
        # As Python's requests and as Node want to be told.
        self.environment = {"REQUESTS_CA_BUNDLE": str(file), "NODE_EXTRA_CA_CERTS": str(file)}
