"""A TLS 1.3 client, FOR STUDY.

Python's ssl module has no exporter (RFC 8446, 7.5), and no way to sign with a
key that is in a TPM. Gangway's activation needs both. This client has just what
docs/protocol.md#10-transport says that a hub needs, and can be read in one go:

  - one cipher suite, TLS_AES_128_GCM_SHA256, and one group, x25519;
  - a server certificate of ECDSA P-256, issued by a CA that the caller names;
  - a client certificate whose key is elsewhere, if the caller has one;
  - no resumption, no early data, no HelloRetryRequest, no KeyUpdate.

What it does not know, it refuses. Numbers in parentheses are sections of RFC
8446. For anything but study take a library that many people have looked at.
"""

import datetime
import hashlib
import hmac
import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import Callable

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class TLSError(Exception):
    """The connection is no longer trustworthy or usable.

    alert is the description that the peer is told (6.2), None for nothing.
    """

    def __init__(self, message, alert=None):
        super().__init__(message)
        self.alert = alert


# Alerts (6).
CLOSE_NOTIFY, UNEXPECTED_MESSAGE, BAD_RECORD_MAC, RECORD_OVERFLOW = 0, 10, 20, 22
HANDSHAKE_FAILURE, BAD_CERTIFICATE, CERTIFICATE_EXPIRED = 40, 42, 45
ILLEGAL_PARAMETER, UNKNOWN_CA, DECODE_ERROR, DECRYPT_ERROR = 47, 48, 50, 51
UNSUPPORTED_EXTENSION = 110

# Record types (5.1) and handshake types (4).
CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
CLIENT_HELLO, SERVER_HELLO, NEW_SESSION_TICKET, ENCRYPTED_EXTENSIONS = 1, 2, 4, 8
CERTIFICATE, CERTIFICATE_REQUEST, CERTIFICATE_VERIFY, FINISHED = 11, 13, 15, 20

# Extensions (4.2).
SERVER_NAME, SUPPORTED_GROUPS, SIGNATURE_ALGORITHMS, ALPN = 0, 10, 13, 16
SUPPORTED_VERSIONS, KEY_SHARE = 43, 51

TLS_AES_128_GCM_SHA256 = 0x1301
X25519 = 0x001D
TLS13, TLS12 = 0x0304, 0x0303

# Signature schemes (4.2.3). The server's key is on P-256, and its CA's key is on P-256 or P-384.
# Both schemes are offered, because signature_algorithms is also about certificates.
ECDSA_SECP256R1_SHA256 = 0x0403
ECDSA_SECP384R1_SHA384 = 0x0503

# A ServerHello with this random is a HelloRetryRequest (4.1.3).
HELLO_RETRY_REQUEST = hashlib.sha256(b"HelloRetryRequest").digest()

MAX_PLAINTEXT = 1 << 14      # of a record (5.1)
MAX_CIPHERTEXT = (1 << 14) + 256
MAX_HANDSHAKE = 1 << 17      # of a handshake message; ours are far smaller


@dataclass
class ClientCertificate:
    """A certificate chain, and a key outside this program.

    chain is DER, the leaf first. scheme is the signature scheme of the key, and
    sign makes a signature by it over a message, as TLS wants it: for ECDSA the
    DER of an Ecdsa-Sig-Value, for RSA-PSS the bytes.
    """

    chain: list[bytes]
    scheme: int
    sign: Callable[[bytes], bytes]


### Bytes #####################################################################


def uint(size, value):
    return value.to_bytes(size, "big")


def vector(size, *parts):
    """A vector of the presentation language (3.4): the length, then the content."""
    content = b"".join(parts)
    return uint(size, len(content)) + content


def extension(kind, content):
    return uint(2, kind) + vector(2, content)


class Reader:
    """Parses a message. Each field must be present, and no bytes may remain."""

    def __init__(self, content):
        self.rest = content

    def take(self, size):
        if size > len(self.rest):
            raise TLSError("the server's message is shorter than it says", DECODE_ERROR)
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def uint(self, size):
        return int.from_bytes(self.take(size), "big")

    def vector(self, size):
        return self.take(self.uint(size))

    def end(self):
        if self.rest:
            raise TLSError("the server's message is longer than it says", DECODE_ERROR)

    def extensions(self, known):
        """Reads extensions, by type. Each must be known and appear once."""
        inner, found = Reader(self.vector(2)), {}
        while inner.rest:
            kind, content = inner.uint(2), inner.vector(2)
            if kind in found:
                raise TLSError(f"the server sent extension {kind} twice", ILLEGAL_PARAMETER)
            if known is not None and kind not in known:
                raise TLSError(f"the server sent extension {kind}, for which nobody asked", UNSUPPORTED_EXTENSION)
            found[kind] = content
        return found


### Keys (7) ##################################################################


def hkdf_extract(salt, secret):
    return hmac.digest(salt, secret, "sha256")


def hkdf_expand_label(secret, label, context, length):
    info = uint(2, length) + vector(1, b"tls13 " + label) + vector(1, context)
    block, out = b"", b""
    for i in range(1, 1 + -(-length // 32)):
        block = hmac.digest(secret, block + info + bytes([i]), "sha256")
        out += block
    return out[:length]


def derive_secret(secret, label, messages):
    return hkdf_expand_label(secret, label, hashlib.sha256(messages).digest(), 32)


class Protection:
    """Protects the records of one direction under one traffic secret (5.2, 5.3)."""

    def __init__(self, secret):
        self.aead = AESGCM(hkdf_expand_label(secret, b"key", b"", 16))
        self.iv = hkdf_expand_label(secret, b"iv", b"", 12)
        self.sequence = 0

    def nonce(self):
        number = uint(12, self.sequence)
        self.sequence += 1
        return bytes(a ^ b for a, b in zip(number, self.iv))

    def seal(self, kind, content):
        inner = content + bytes([kind])
        head = bytes([APPLICATION_DATA]) + uint(2, TLS12) + uint(2, len(inner) + 16)
        return head + self.aead.encrypt(self.nonce(), inner, head)

    def open(self, head, ciphertext):
        try:
            inner = self.aead.decrypt(self.nonce(), ciphertext, head)
        except InvalidTag:
            raise TLSError("a record was altered", BAD_RECORD_MAC) from None
        inner = inner.rstrip(b"\0")  # padding (5.4)
        if not inner:
            raise TLSError("a record has no type", UNEXPECTED_MESSAGE)
        if len(inner) > MAX_PLAINTEXT + 1:
            raise TLSError("a record is too long", RECORD_OVERFLOW)
        return inner[-1], inner[:-1]


### The server's certificate ##################################################


def verify_server(leaf, roots, host, now):
    """Checks that one of roots issued leaf for host.

    The hub sends its certificate and nothing else, so there is no path to build.
    """
    issuers = [r for r in roots if r.subject == leaf.issuer and issued(r, leaf)]
    if not issuers:
        raise TLSError("the server's certificate is not by the hub's CA", UNKNOWN_CA)
    for certificate in (leaf, issuers[0]):
        if not certificate.not_valid_before <= now <= certificate.not_valid_after:
            raise TLSError("the server's certificate or its CA's has expired, or is not valid yet", CERTIFICATE_EXPIRED)
    known = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName)
    for certificate in (leaf, issuers[0]):
        for e in certificate.extensions:
            if e.critical and not isinstance(e.value, known):
                raise TLSError(f"a certificate has the critical extension {e.oid.dotted_string}, which is not known here", BAD_CERTIFICATE)
    try:
        ca = issuers[0].extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        ca = ca and issuers[0].extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
        signs = leaf.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as e:
        raise TLSError(f"a certificate of the server lacks an extension: {e}", BAD_CERTIFICATE) from None
    if not ca:
        raise TLSError("the issuer of the server's certificate is not a CA", BAD_CERTIFICATE)
    if not signs or x509.oid.ExtendedKeyUsageOID.SERVER_AUTH not in usages:
        raise TLSError("the server's certificate is for another purpose", BAD_CERTIFICATE)
    if not has_name(names, host):
        raise TLSError(f"the server's certificate is not for {host}", BAD_CERTIFICATE)


def issued(ca, leaf):
    """Whether the key of ca signed leaf: ECDSA, by SHA-256 or SHA-384."""
    key, digest = ca.public_key(), leaf.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(digest, (hashes.SHA256, hashes.SHA384)):
        return False
    try:
        key.verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(digest))
    except InvalidSignature:
        return False
    return True


def has_name(names, host):
    """Whether one of the names is host: an IP address, or a DNS name, whose first label may
    be a star (RFC 6125, 6.4.3)."""
    try:
        return ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        pass
    host = host.lower().rstrip(".")
    wild = "*." + host.partition(".")[2]
    return any(name.lower() in (host, wild) for name in names.get_values_for_type(x509.DNSName))


### The connection ############################################################


class Connection:
    """A TLS 1.3 connection. Use it in a with statement.

    host and port are the server's, roots the only CA certificates that it may be
    certified by. client is shown if the server asks for a certificate; None:
    none. A TLSError leaves a connection that is closed.
    """

    def __init__(self, host, port, roots, client=None, timeout=60):
        self.host, self.roots, self.client = host, roots, client
        self.transcript = b""        # all handshake messages so far (4.4.1)
        self.messages = b""          # handshake bytes that are not consumed yet
        self.data = b""              # application bytes that are not consumed yet
        self.closed = False          # the server sent close_notify
        self.reading = self.writing = None  # Protection; None: in the clear
        self.socket = socket.create_connection((host, port), timeout)
        try:
            self.handshake()
        except BaseException as e:
            self.fail(e)
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if error is None:
            self.close()
        else:
            self.fail(error)

    def exporter(self, label, length=32):
        """Keying material of this connection, with an empty context (7.5)."""
        secret = derive_secret(self.exporter_secret, label.encode(), b"")
        return hkdf_expand_label(secret, b"exporter", hashlib.sha256(b"").digest(), length)

    def write(self, data):
        for at in range(0, len(data), MAX_PLAINTEXT):
            self.send(APPLICATION_DATA, data[at:at + MAX_PLAINTEXT])

    def read(self):
        """The next bytes; empty if the server has closed the connection."""
        try:
            while not self.data and not self.closed:
                self.receive()
        except TLSError as e:
            self.fail(e)
            raise
        data, self.data = self.data, b""
        return data

    def close(self):
        try:
            self.send(ALERT, bytes([1, CLOSE_NOTIFY]))
        except OSError:
            pass  # the server has already closed
        self.socket.close()

    def fail(self, error):
        """Sends an alert and closes the connection."""
        try:
            if isinstance(error, TLSError) and error.alert is not None:
                self.send(ALERT, bytes([2, error.alert]))
        except OSError:
            pass
        self.socket.close()

    ## Records (5)

    def send(self, kind, content):
        if self.writing:
            self.socket.sendall(self.writing.seal(kind, content))
        else:
            self.socket.sendall(bytes([kind]) + uint(2, TLS12) + vector(2, content))

    def receive_exactly(self, size):
        out = b""
        while len(out) < size:
            part = self.socket.recv(size - len(out))
            if not part:
                # If the connection ends without close_notify, an attacker may have truncated the
                # data (6.1).
                raise TLSError("the connection ended without a word")
            out += part
        return out

    def receive(self):
        """Reads one record and stores its content by type."""
        head = self.receive_exactly(5)
        kind, size = head[0], int.from_bytes(head[3:], "big")
        if size > MAX_CIPHERTEXT:
            raise TLSError("a record is too long", RECORD_OVERFLOW)
        content = self.receive_exactly(size)
        if kind == CHANGE_CIPHER_SPEC and content == b"\1" and self.handshaking:
            return  # only for compatibility with middleboxes (5)
        if self.reading:
            if kind != APPLICATION_DATA:
                raise TLSError("a record is not protected", UNEXPECTED_MESSAGE)
            kind, content = self.reading.open(head, content)
        elif size > MAX_PLAINTEXT:
            raise TLSError("a record is too long", RECORD_OVERFLOW)
        if kind == ALERT:
            if content == bytes([1, CLOSE_NOTIFY]) and not self.handshaking:
                self.closed = True
                return
            raise TLSError(f"the server ended the connection (alert {int.from_bytes(content[1:2], 'big')})")
        if kind == HANDSHAKE and content:
            self.messages += content
            if not self.handshaking:
                self.after_handshake()
        elif kind == APPLICATION_DATA and not self.handshaking and not self.messages:
            self.data += content
        else:
            raise TLSError(f"a record of type {kind} comes at the wrong time", UNEXPECTED_MESSAGE)

    ## The handshake (4)

    handshaking = True

    def message(self, *kinds):
        """Returns the next handshake message's type and content. The type must be one of
        kinds. Adds the message to the transcript."""
        while (whole := self.whole_message()) is None:
            self.receive()
        if whole[0] not in kinds:
            raise TLSError(f"the server sent handshake message {whole[0]} at the wrong time", UNEXPECTED_MESSAGE)
        self.transcript += whole
        return whole[0], Reader(whole[4:])

    def whole_message(self):
        """Removes the next complete message from the received bytes; None if there is none."""
        if len(self.messages) < 4:
            return None
        size = 4 + int.from_bytes(self.messages[1:4], "big")
        if size > MAX_HANDSHAKE:
            raise TLSError("a handshake message is too long", DECODE_ERROR)
        if len(self.messages) < size:
            return None
        whole, self.messages = self.messages[:size], self.messages[size:]
        return whole

    def say(self, kind, *parts):
        whole = bytes([kind]) + vector(3, *parts)
        self.transcript += whole
        for at in range(0, len(whole), MAX_PLAINTEXT):
            self.send(HANDSHAKE, whole[at:at + MAX_PLAINTEXT])

    def keys_change(self):
        """A message must not span a change of keys (5.1)."""
        if self.messages:
            raise TLSError("a handshake message comes too early", UNEXPECTED_MESSAGE)

    def handshake(self):
        share = x25519.X25519PrivateKey.generate()
        self.client_hello(share)
        shared = self.server_hello(share)
        self.keys_change()

        # The key schedule (7.1), without a pre-shared key.
        zeros = bytes(32)
        early = hkdf_extract(zeros, zeros)
        handshake = hkdf_extract(derive_secret(early, b"derived", b""), shared)
        client_secret = derive_secret(handshake, b"c hs traffic", self.transcript)
        server_secret = derive_secret(handshake, b"s hs traffic", self.transcript)
        master = hkdf_extract(derive_secret(handshake, b"derived", b""), zeros)
        self.reading, self.writing = Protection(server_secret), Protection(client_secret)

        self.encrypted_extensions()
        kind, body = self.message(CERTIFICATE_REQUEST, CERTIFICATE)
        wanted = None
        if kind == CERTIFICATE_REQUEST:
            wanted = self.certificate_request(body)
            _, body = self.message(CERTIFICATE)
        key = self.server_certificate(body)
        self.server_certificate_verify(key)
        self.server_finished(server_secret)
        self.keys_change()

        client_traffic = derive_secret(master, b"c ap traffic", self.transcript)
        server_traffic = derive_secret(master, b"s ap traffic", self.transcript)
        self.exporter_secret = derive_secret(master, b"exp master", self.transcript)
        if wanted is not None:
            self.client_certificate(wanted)
        self.say(FINISHED, self.finished(client_secret))
        self.reading, self.writing = Protection(server_traffic), Protection(client_traffic)
        self.handshaking = False

    def client_hello(self, share):
        public = share.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        extensions = [
            extension(SUPPORTED_VERSIONS, vector(1, uint(2, TLS13))),
            extension(SUPPORTED_GROUPS, vector(2, uint(2, X25519))),
            extension(SIGNATURE_ALGORITHMS, vector(2, uint(2, ECDSA_SECP256R1_SHA256), uint(2, ECDSA_SECP384R1_SHA384))),
            extension(KEY_SHARE, vector(2, uint(2, X25519), vector(2, public))),
            extension(ALPN, vector(2, vector(1, b"http/1.1"))),
        ]
        try:
            ipaddress.ip_address(self.host)
        except ValueError:  # only names go into server_name (RFC 6066, 3)
            extensions.append(extension(SERVER_NAME, vector(2, b"\0", vector(2, self.host.encode("ascii")))))
        self.say(CLIENT_HELLO, uint(2, TLS12), os.urandom(32),
                 vector(1),                                  # legacy_session_id
                 vector(2, uint(2, TLS_AES_128_GCM_SHA256)),
                 vector(1, b"\0"),                           # legacy_compression_methods
                 vector(2, *extensions))

    def server_hello(self, share):
        """Returns the shared secret."""
        _, body = self.message(SERVER_HELLO)
        version, random = body.uint(2), body.take(32)
        session, suite, compression = body.vector(1), body.uint(2), body.uint(1)
        if random == HELLO_RETRY_REQUEST:
            raise TLSError("the server requires a group that is not x25519", HANDSHAKE_FAILURE)
        extensions = body.extensions({SUPPORTED_VERSIONS, KEY_SHARE})
        body.end()
        if (version, session, suite, compression) != (TLS12, b"", TLS_AES_128_GCM_SHA256, 0):
            raise TLSError("the server answers what was not offered", ILLEGAL_PARAMETER)
        if extensions.get(SUPPORTED_VERSIONS) != uint(2, TLS13) or KEY_SHARE not in extensions:
            raise TLSError("the server does not speak TLS 1.3", ILLEGAL_PARAMETER)
        key_share = Reader(extensions[KEY_SHARE])
        group, public = key_share.uint(2), key_share.vector(2)
        key_share.end()
        if group != X25519 or len(public) != 32:
            raise TLSError("the server's key share is not of x25519", ILLEGAL_PARAMETER)
        try:
            return share.exchange(x25519.X25519PublicKey.from_public_bytes(public))
        except ValueError:  # all zeros (7.4.2)
            raise TLSError("the server's key share is a bad point", ILLEGAL_PARAMETER) from None

    def encrypted_extensions(self):
        _, body = self.message(ENCRYPTED_EXTENSIONS)
        extensions = body.extensions({SERVER_NAME, SUPPORTED_GROUPS, ALPN})
        body.end()
        if ALPN in extensions and extensions[ALPN] != vector(2, vector(1, b"http/1.1")):
            raise TLSError("the server requires a protocol that is not http/1.1", ILLEGAL_PARAMETER)

    def certificate_request(self, body):
        """Returns the signature schemes that the server accepts. A client ignores unknown
        extensions of a request (4.3.2)."""
        context, extensions = body.vector(1), body.extensions(None)
        body.end()
        if context or SIGNATURE_ALGORITHMS not in extensions:
            raise TLSError("the server's request for a certificate is not as it must be", ILLEGAL_PARAMETER)
        inner = Reader(extensions[SIGNATURE_ALGORITHMS])
        schemes = Reader(inner.vector(2))
        inner.end()
        wanted = set()
        while schemes.rest:
            wanted.add(schemes.uint(2))
        return wanted

    def server_certificate(self, body):
        """Returns the key of the server's verified certificate."""
        context, entries = body.vector(1), Reader(body.vector(3))
        body.end()
        if context or not entries.rest:
            raise TLSError("the server shows no certificate", DECODE_ERROR)
        leaf = entries.vector(3)
        entries.extensions(set())
        try:
            certificate = x509.load_der_x509_certificate(leaf)
            verify_server(certificate, self.roots, self.host, datetime.datetime.utcnow())
            key = certificate.public_key()
        except ValueError as e:
            raise TLSError(f"the server's certificate cannot be parsed: {e}", BAD_CERTIFICATE) from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise TLSError("the server's key is not on P-256", BAD_CERTIFICATE)
        return key

    def signed(self, side):
        """The content that a CertificateVerify signs at this point (4.4.3)."""
        return b" " * 64 + b"TLS 1.3, " + side + b" CertificateVerify\0" + hashlib.sha256(self.transcript).digest()

    def server_certificate_verify(self, key):
        signed = self.signed(b"server")
        _, body = self.message(CERTIFICATE_VERIFY)
        scheme, signature = body.uint(2), body.vector(2)
        body.end()
        if scheme != ECDSA_SECP256R1_SHA256:
            raise TLSError("the server signs with a scheme that is not ecdsa_secp256r1_sha256", ILLEGAL_PARAMETER)
        try:
            key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise TLSError("the server does not have the key of its certificate", DECRYPT_ERROR) from None

    def finished(self, secret):
        """verify_data at this point (4.4.4)."""
        key = hkdf_expand_label(secret, b"finished", b"", 32)
        return hmac.digest(key, hashlib.sha256(self.transcript).digest(), "sha256")

    def server_finished(self, secret):
        expected = self.finished(secret)
        _, body = self.message(FINISHED)
        if not hmac.compare_digest(body.rest, expected):
            raise TLSError("the handshake was altered on its way", DECRYPT_ERROR)

    def client_certificate(self, wanted):
        """Sends the client's certificate and proves its key, or sends an empty certificate."""
        client = self.client
        if client is None:
            self.say(CERTIFICATE, vector(1), vector(3))
            return
        if client.scheme not in wanted:
            raise TLSError(f"the server does not take signatures of scheme {client.scheme:04x}", HANDSHAKE_FAILURE)
        self.say(CERTIFICATE, vector(1), vector(3, *(vector(3, der) + vector(2) for der in client.chain)))
        self.say(CERTIFICATE_VERIFY, uint(2, client.scheme), vector(2, client.sign(self.signed(b"client"))))

    def after_handshake(self):
        """Ignores session tickets. Any other message would require an answer."""
        while (whole := self.whole_message()) is not None:
            if whole[0] != NEW_SESSION_TICKET:
                raise TLSError(f"the server sent handshake message {whole[0]} at the wrong time", UNEXPECTED_MESSAGE)
