#!/usr/bin/env python3
"""A Gangway device in Python, FOR STUDY.

    device.py [--ek NAME] [--key NAME] [--model TEXT] [--serial TEXT] TOKEN-FILE TCTI STATE-DIR

It onboards with a join token, in one round trip, and prints the device's record at
the hub. Started again with the same state folder, it connects with its existing
identity. TCTI names the TPM, for example device:/dev/tpmrm0.

It was written from docs/protocol.md only. "(§3)" refers to its section 3. Read this
file from the bottom: main has the sequence, and the functions that it uses are above.
tpm.py has the TPM's part, tls13.py a TLS 1.3 client.

It requires Python 3.9, OpenSSL 3's openssl program and Debian's packages
python3-cryptography and python3-tpm2-pytss. gangway-agent does more: it works around
TPMs' oddities, retries while the hub is away, and sends boot measurements.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

import tls13
import tpm as tpm_

MAX_ANSWER = 1 << 20


class Refused(Exception):
    """A refusal of the hub (§11)."""

    def __init__(self, status, answer):
        super().__init__(printable(f"the hub refused ({status}): {answer.get('msg')} ({answer.get('error')}) {answer.get('hint', '')}"))
        self.code = answer.get("error")


def printable(text):
    """The text without control characters: the hub's text must not control the terminal."""
    return "".join(c for c in text if c.isprintable())


def say(text):
    print(printable(text), file=sys.stderr, flush=True)


### What the device has (§1) ##################################################


class Token:
    """The token file."""

    def __init__(self, text):
        fields = json.loads(text)
        for name in ("id", "owner", "token", "hub", "hub-name", "hub-ca"):
            if not isinstance(fields, dict) or not isinstance(fields.get(name), str):
                raise ValueError(f'the token file has no "{name}"')
        self.id, self.owner, self.hub_name = fields["id"], fields["owner"], fields["hub-name"]
        self.secret = base64.b64decode(fields["token"], validate=True)
        hub = urlsplit(fields["hub"])
        self.host, self.port = hub.hostname, hub.port or 443
        self.roots = certificates_of(fields["hub-ca"].encode())
        if not re.fullmatch("[0-9a-f]{24}", self.id) or not re.fullmatch("prn:::accounts:/[0-9a-f]{24}", self.owner):
            raise ValueError("the token file's id or owner is malformed")
        if len(self.secret) != 24 or not re.fullmatch("[0-9a-f]{64}", self.hub_name):
            raise ValueError("the token file's token or hub-name is malformed")
        if hub.scheme != "https" or not self.host or not self.roots:
            raise ValueError("the token file's hub or hub-ca is malformed")


def certificates_of(pem):
    blocks = re.findall(b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", pem, re.DOTALL)
    return [x509.load_pem_x509_certificate(b) for b in blocks]


def hkdf(secret, salt, info):
    """The first 32 bytes of HKDF-SHA256 (RFC 5869)."""
    prk = hmac.digest(salt, secret, "sha256")
    return hmac.digest(prk, info + b"\1", "sha256")


### The ownership proof (§3) ##################################################


def ownership_proof(token, idevid_name):
    key = Ed25519PrivateKey.from_private_bytes(hkdf(token.secret, token.id.encode(), b"gangway ownership v1"))
    fields = (token.hub_name.encode(), token.owner.encode(), token.id.encode(), idevid_name)
    return key.sign(b"gangway ownership v1\0" + b"".join(opaque(1, f) for f in fields))


def opaque(size, content):
    return len(content).to_bytes(size, "big") + content


def ca_data(token, ek, idevid, chain):
    return (
        (1).to_bytes(2, "big")
        + opaque(1, token.hub_name.encode())
        + opaque(1, token.owner.encode())
        + opaque(1, token.id.encode())
        + opaque(2, ek.public)
        + opaque(1, ownership_proof(token, idevid.name))
        + opaque(3, b"".join(opaque(2, c) for c in chain[:8]))
    )


### The request (§2) ##########################################################


def make_request(chip, iak, idevid, prod, ek_certificate, model, serial):
    """Makes a TCG-CSR-IDEVID. prod is its prodCaData."""
    attest, attest_signature = chip.certify(idevid, iak, hashlib.sha256(prod).digest())
    fields = [
        model.encode(), serial.encode(), prod,
        b"",                   # bootEvntLog
        ek_certificate,
        iak.public,
        b"", b"", b"",         # atCreateTkt, atCertifyInfo, atCertifyInfoSignature
        idevid.public, attest, attest_signature,
    ]
    u32 = tpm_.u32
    head = 12 + 32
    pad = bytes(-(head + 4 * 13 + sum(map(len, fields))) % 16)
    fields.append(pad)
    hashed = b"".join(u32(len(f)) for f in fields) + b"".join(fields)
    contents = u32(0x100) + u32(tpm_.ALG["sha256"]) + u32(32) + hashlib.sha256(hashed).digest() + hashed
    signature = chip.sign(idevid, contents).marshal()
    return u32(0x100) + u32(len(contents)) + u32(len(signature)) + contents + signature


### The hub (§10) #############################################################


def call(connection, host, method, path, body=b"", kind="application/json"):
    """Sends one HTTP/1.1 request on a connection. Returns the status and the JSON answer."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.write(head.encode() + body)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += more(connection, answer)
    head, _, content = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    version, status = status_line.split(" ")[:2]
    if version != "HTTP/1.1" or not headers.get("content-length", "").isdigit():
        raise ValueError("the hub's answer is not HTTP/1.1 with a Content-Length")
    length = int(headers["content-length"])
    if length > MAX_ANSWER:
        raise ValueError("the hub's answer is too long")
    while len(content) < length:
        content += more(connection, content)
    if len(content) > length:
        raise ValueError("the hub's answer is longer than its Content-Length")
    return int(status), json.loads(content)


def more(connection, so_far):
    data = connection.read()
    if not data or len(so_far) > MAX_ANSWER:
        raise ValueError("the hub's answer is not terminated correctly")
    return data


def ask(connection, token, method, path, body=b"", kind="application/json"):
    """Like call, but raises Refused unless the status is 200, or 202 for a waiting device."""
    status, answer = call(connection, token.host, method, path, body, kind)
    if status not in (200, 202):
        raise Refused(status, answer)
    return status, answer


def send_request(token, request):
    """POST /onboard. Sends the same request again until the owner has decided (§4)."""
    while True:
        with tls13.Connection(token.host, token.port, token.roots) as hub:
            status, answer = ask(hub, token, "POST", "/onboard", request, "application/octet-stream")
        if status == 200:
            return answer
        say(f"{answer['msg']} {answer['hint']} Device {answer['device-id']}, EK {answer['ek-sha256']}.")
        time.sleep(answer["retry-after"])


### The reply (§5) ############################################################


def open_reply(token, chip, ek, iak, idevid, request, reply):
    """Returns the IDevID, device CA, IAK and ACA certificates, and the activation key."""
    part = lambda name: base64.b64decode(reply[name], validate=True)
    secret = chip.activate_credential(ek, iak, part("credential-blob"), part("secret"))
    salt = hashlib.sha256(request).digest()
    wrapping = hkdf(secret, salt, b"gangway reply v1")
    # The wrapping key only decrypts certificates, which are public. So the key may be an argument,
    # which other users can see.
    opened = subprocess.run(
        ["openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-secretkey", wrapping.hex(), "-secretkeyid", b"gangway".hex()],
        input=part("sealed"), capture_output=True, check=False)
    if opened.returncode != 0:
        raise ValueError(f"decrypting the sealed reply failed: {opened.stderr.decode(errors='replace')}")
    certificates = certificates_of(opened.stdout)
    if len(certificates) != 4:
        raise ValueError("the reply does not have four certificates")
    for (leaf, ca), key in zip((certificates[:2], certificates[2:]), (idevid, iak)):
        if not tls13.issued(ca, leaf) or not any(tls13.issued(root, ca) for root in token.roots):
            raise ValueError("a certificate in the reply was not issued by the hub's CA")
        if tpm_.public_key_of(leaf) != key.pem():
            raise ValueError("a certificate in the hub's reply is for a key that this TPM does not have")
    return certificates, hkdf(secret, salt, b"gangway activation v1")


### Connections with the IDevID certificate (§6, §10) #########################

SCHEMES = {"H-1": 0x0804, "H-2": 0x0403, "H-3": 0x0503, "H-4": 0x0603}


def identity(chip, idevid, chain):
    """The client certificate, with its key in the TPM."""

    def sign(message):
        signature = chip.sign(idevid, message).signature
        if idevid.template.name == "H-1":
            return bytes(signature.rsapss.sig)
        r, s = bytes(signature.ecdsa.signatureR), bytes(signature.ecdsa.signatureS)
        return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))

    return tls13.ClientCertificate([c.public_bytes(Encoding.DER) for c in chain], SCHEMES[idevid.template.name], sign)


def connect(token, chip, idevid, chain):
    return tls13.Connection(token.host, token.port, token.roots, identity(chip, idevid, chain))


def activate(hub, token, activation, certificate):
    exporter = hub.exporter("EXPORTER-gangway-activation", 32)
    proof = hmac.digest(activation, exporter + hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest(), "sha256")
    body = json.dumps({"proof": base64.b64encode(proof).decode()}).encode()
    ask(hub, token, "POST", "/onboard/activate", body)


### State #####################################################################


class State:
    """The state folder: the request until the activation, and the certificates
    afterwards. It contains no secret."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self, name):
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def save(self, name, content):
        """Writes a file atomically and durably."""
        new = self.folder / (name + ".new")
        with open(new, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(new, self.folder / name)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self, name):
        (self.folder / name).unlink(missing_ok=True)


###############################################################################


def onboard(token, chip, state, options):
    """Onboards the device and returns its certificate chain."""
    ek_template, ek_certificate, chain = chip.find_ek(options.ek)
    say(f"Endorsement key {ek_template.name}, {'with its certificate' if ek_certificate else 'without a certificate'}.")
    with chip.primary(ek_template) as ek, chip.primary(tpm_.iak_template(options.key)) as iak, chip.primary(tpm_.idevid_template(options.key)) as idevid:
        # If there is a stored request for this token and these keys, send it again, unchanged: a
        # new request would have different signatures.
        request, prod = state.load("request"), ca_data(token, ek, idevid, chain)
        if request is None or prod not in request or iak.public not in request:
            request = make_request(chip, iak, idevid, prod, ek_certificate or ek.public, options.model, options.serial)
            state.save("request", request)
        reply = send_request(token, request)
        certificates, activation = open_reply(token, chip, ek, iak, idevid, request, reply)
        say("The TPM opened the hub's reply.")
        with connect(token, chip, idevid, certificates[:2]) as hub:
            activate(hub, token, activation, certificates[0])
    pem = [c.public_bytes(Encoding.PEM) for c in certificates]
    state.save("aik.pem", b"".join(pem[2:]))
    state.save("identity.pem", b"".join(pem[:2]))
    state.remove("request")
    say("Activated.")
    return certificates[:2]


# After these refusals, a new request may succeed (§6).
NEED_NEW_REQUEST = ("enrolment-expired", "enrolment-superseded", "device-revoked", "activation-proof", "certificate-unknown")


def dmi(name):
    """A field of the firmware's tables."""
    try:
        return Path("/sys/class/dmi/id", name).read_text().strip() or "unknown"
    except OSError:
        return "unknown"


def main():
    parser = argparse.ArgumentParser(description="A Gangway device, for study.")
    parser.add_argument("--ek", choices=[t.name for t in tpm_.EKS], help="endorsement key template (default: the first with a certificate)")
    parser.add_argument("--key", choices=sorted(tpm_.DEVIDS), default="H-2", help="template of IAK and IDevID key (default: H-2, P-256)")
    parser.add_argument("--model", default=dmi("product_name"), help="the machine's model")
    parser.add_argument("--serial", default=dmi("product_serial"), help="the machine's serial number")
    parser.add_argument("token_file", metavar="TOKEN-FILE")
    parser.add_argument("tcti", metavar="TCTI", help="the TPM, for example device:/dev/tpmrm0")
    parser.add_argument("state_dir", metavar="STATE-DIR")
    options = parser.parse_args()

    os.umask(0o077)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exit through finally, which flushes the TPM
    token = Token(Path(options.token_file).read_text())
    state = State(options.state_dir)
    with tpm_.TPM(options.tcti) as chip:
        chain = certificates_of(state.load("identity.pem") or b"")
        if not chain:
            try:
                chain = onboard(token, chip, state, options)
            except Refused as e:
                if e.code not in NEED_NEW_REQUEST:
                    raise
                say(f"{e} A new request is made.")
                state.remove("request")
                chain = onboard(token, chip, state, options)
        with chip.primary(tpm_.idevid_template(options.key)) as idevid, connect(token, chip, idevid, chain) as hub:
            _, record = ask(hub, token, "GET", "/device")
    json.dump(record, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    try:
        main()
    except (Refused, tls13.TLSError, ValueError, OSError, RuntimeError) as error:
        sys.exit(f"device.py: {error}")
