"""The device's TPM: its keys and what they do, through the TPM2 Software Stack.

The templates and policies are those of docs/protocol.md#1-what-the-device-has,
made from what they mean rather than copied: so a reader sees where each byte
comes from.
Part 2 and 3 are of the TPM 2.0 Library specification.
"""

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tpm2_pytss import (
    ESAPI, ESYS_TR, TPM2_ALG, TPM2_CAP, TPM2_CC, TPM2_RH, TPM2_SE, TPM2_ST, TPM2B_DATA, TPM2B_DIGEST, TPM2B_ENCRYPTED_SECRET, TPM2B_ID_OBJECT,
    TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE, TPMA_NV, TPMA_SESSION, TPML_DIGEST, TPML_PCR_SELECTION, TPMT_PUBLIC, TPMT_SIG_SCHEME,
    TPMT_SYM_DEF, TPMT_TK_HASHCHECK, TSS2_Exception,
)
from tpm2_pytss.types import TPMU_SYM_KEY_BITS, TPMU_SYM_MODE


def u16(value):
    return value.to_bytes(2, "big")


def u32(value):
    return value.to_bytes(4, "big")


def sized(content):
    return u16(len(content)) + content


### Policies ##################################################################

SHA256, SHA384, SHA512 = "sha256", "sha384", "sha512"
ALG = {SHA256: 0x000B, SHA384: 0x000C, SHA512: 0x000D}

RH_ENDORSEMENT = 0x4000000B
CC_ACTIVATE_CREDENTIAL, CC_CERTIFY = 0x147, 0x148
CC_POLICY_SECRET, CC_POLICY_COMMAND_CODE, CC_POLICY_OR, CC_POLICY_AUTHORIZE_NV = 0x151, 0x16C, 0x171, 0x192

# The NV indices to which the last branch of a policy delegates, by hash algorithm.
EK_INDEX = {SHA256: 0x01C07F01, SHA384: 0x01C07F02, SHA512: 0x01C07F03}
IAK_INDEX = {SHA256: 0x01C90018, SHA384: 0x01C90019, SHA512: 0x01C9001A}
IDEVID_INDEX = {SHA256: 0x01C90010, SHA384: 0x01C90011, SHA512: 0x01C90012}


def digest(hash_, *parts):
    return hashlib.new(hash_, b"".join(parts)).digest()


def zeros(hash_):
    return bytes(hashlib.new(hash_).digest_size)


def policy_a(hash_):
    """PolicySecret(TPM_RH_ENDORSEMENT), with an empty policyRef."""
    return digest(hash_, digest(hash_, zeros(hash_), u32(CC_POLICY_SECRET), u32(RH_ENDORSEMENT)))


def policy_command(hash_, command):
    return digest(hash_, policy_a(hash_), u32(CC_POLICY_COMMAND_CODE), u32(command))


def policy_delegation(hash_, index):
    a = policy_a(hash_)
    nv_public = u32(index) + u16(ALG[hash_]) + u32(0x220F1008) + sized(a) + u16(2 + len(a))
    return digest(hash_, zeros(hash_), u32(CC_POLICY_AUTHORIZE_NV), u16(ALG[hash_]), digest(hash_, nv_public))


def policy_or(hash_, branches):
    return digest(hash_, zeros(hash_), u32(CC_POLICY_OR), *branches)


def devid_branches(hash_, index):
    return [policy_a(hash_), policy_command(hash_, CC_CERTIFY), policy_command(hash_, CC_ACTIVATE_CREDENTIAL), policy_delegation(hash_, index)]


### Templates #################################################################

RSA, ECC, NULL = 0x0001, 0x0023, 0x0010
RSAPSS, ECDSA = 0x0016, 0x0018
AES, CFB = 0x0006, 0x0043
P256, P384, P521 = 0x0003, 0x0004, 0x0005

# TPMA_OBJECT (Part 2, 8.3): fixedTPM, fixedParent, sensitiveDataOrigin and
# adminWithPolicy are in all of them.
ALL = 0x000000B2
USER_WITH_AUTH, RESTRICTED, DECRYPT, SIGN = 0x40, 0x10000, 0x20000, 0x40000


@dataclass
class Template:
    """The template of a key for TPM2_CreatePrimary: a TPMT_PUBLIC."""

    name: str
    hash: str
    public: bytes
    branches: list = None     # of the policy; None: only policy A
    certificate: int = None   # NV index of an EK's certificate


def make(name, hash_, kind, attributes, policy, symmetric, scheme, size, unique, **more):
    public = u16(kind) + u16(ALG[hash_]) + u32(attributes) + sized(policy) + symmetric + scheme + u16(size)
    if kind == RSA:
        public += u32(0) + sized(unique)  # exponent: 65537
    else:
        public += u16(NULL) + sized(unique) + sized(unique)  # kdf, x, y
    return Template(name, hash_, public, **more)


def aes(bits):
    return u16(AES) + u16(bits) + u16(CFB)


def ek_high(name, kind, size, hash_, bits, certificate):
    branches = [policy_a(hash_), policy_delegation(hash_, EK_INDEX[hash_])]
    return make(name, hash_, kind, ALL | USER_WITH_AUTH | RESTRICTED | DECRYPT, policy_or(hash_, branches), aes(bits), u16(NULL), size, b"",
                branches=branches, certificate=certificate)


def ek_low(name, kind, size, unique, certificate):
    return make(name, SHA256, kind, ALL | RESTRICTED | DECRYPT, policy_a(SHA256), aes(128), u16(NULL), size, unique, certificate=certificate)


# The EK templates, in the order in which a device tries them.
EKS = [
    ek_high("H-2", ECC, P256, SHA256, 128, 0x01C00014),
    ek_high("H-3", ECC, P384, SHA384, 256, 0x01C00016),
    ek_low("L-2", ECC, P256, bytes(32), 0x01C0000A),
    ek_high("H-4", ECC, P521, SHA512, 256, 0x01C00018),
    ek_high("H-1", RSA, 2048, SHA256, 128, 0x01C00012),
    ek_low("L-1", RSA, 2048, bytes(256), 0x01C00002),
    ek_high("H-6", RSA, 3072, SHA384, 256, 0x01C0001C),
    ek_high("H-7", RSA, 4096, SHA384, 256, 0x01C0001E),
]

# DevID's templates H-1 to H-4, for the IAK and the IDevID key.
DEVIDS = {"H-1": (RSA, 2048, SHA256), "H-2": (ECC, P256, SHA256), "H-3": (ECC, P384, SHA384), "H-4": (ECC, P521, SHA512)}


def devid(name, attributes, index, unique, rsa_scheme):
    kind, size, hash_ = DEVIDS[name]
    branches = devid_branches(hash_, index[hash_])
    scheme = rsa_scheme if kind == RSA else u16(ECDSA) + u16(ALG[hash_])
    return make(name, hash_, kind, ALL | USER_WITH_AUTH | SIGN | attributes, policy_or(hash_, branches), u16(NULL), scheme, size, unique, branches=branches)


def iak_template(name):
    return devid(name, RESTRICTED, IAK_INDEX, b"IAK", u16(RSAPSS) + u16(ALG[SHA256]))


def idevid_template(name):
    return devid(name, 0, IDEVID_INDEX, b"IDEVID", u16(NULL))


### The TPM ###################################################################

CHAIN_FIRST, CHAIN_LAST = 0x01C00100, 0x01C001FF
# The NV indices where a maker stores its own template for L-1 and L-2, and a nonce for that
# template.
STORED = {"L-1": (0x01C00004, 0x01C00003), "L-2": (0x01C0000C, 0x01C0000B)}


@dataclass
class Key:
    """A key that is loaded in the TPM."""

    template: Template
    handle: int
    public: bytes  # TPMT_PUBLIC

    @property
    def name(self):
        hash_ = self.template.hash
        return u16(ALG[hash_]) + digest(hash_, self.public)

    def pem(self):
        return TPM2B_PUBLIC(TPMT_PUBLIC.unmarshal(self.public)[0]).to_pem()


class TPM:
    """A TPM, named as in the TPM2 Software Stack: "device:/dev/tpmrm0"."""

    def __init__(self, tcti):
        self.esys = ESAPI(tcti)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.esys.close()

    @contextmanager
    def primary(self, template):
        """Makes the template's key for a with statement. A TPM has room for at least three
        keys, and often for only three."""
        handle, public, *_ = self.esys.create_primary(
            TPM2B_SENSITIVE_CREATE(), TPM2B_PUBLIC(TPMT_PUBLIC.unmarshal(template.public)[0]), ESYS_TR.ENDORSEMENT, TPM2B_DATA(), TPML_PCR_SELECTION())
        try:
            yield Key(template, handle, public.publicArea.marshal())
        finally:
            self.esys.flush_context(handle)

    @contextmanager
    def policy(self, key, command=None, salted_by=None):
        """A policy session for one use of a key: PolicySecret, then the branch for a
        command, if the key's policy has branches.

        If salted_by is a key that decrypts, what the command returns is
        encrypted on its way from the chip, by a secret that only the TPM can
        have read.
        """
        esys = self.esys
        symmetric = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
        if salted_by is not None:
            symmetric = TPMT_SYM_DEF(algorithm=TPM2_ALG.AES, keyBits=TPMU_SYM_KEY_BITS(aes=128), mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB))
        session = esys.start_auth_session(
            ESYS_TR.NONE if salted_by is None else salted_by.handle, ESYS_TR.NONE, TPM2_SE.POLICY, symmetric, ALG[key.template.hash])
        try:
            attributes = TPMA_SESSION.CONTINUESESSION | (TPMA_SESSION.ENCRYPT if salted_by is not None else 0)
            esys.trsess_set_attributes(session, attributes)
            esys.policy_secret(ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0)
            if command is not None:
                esys.policy_command_code(session, command)
                esys.policy_or(session, TPML_DIGEST([TPM2B_DIGEST(b) for b in key.template.branches]))
            yield session
        finally:
            esys.flush_context(session)

    def certify(self, idevid, iak, qualifying):
        """The IAK certifies that the IDevID key is in this TPM: TPMS_ATTEST, TPMT_SIGNATURE."""
        with self.policy(idevid, TPM2_CC.Certify) as session:
            attest, signature = self.esys.certify(
                idevid.handle, iak.handle, qualifying, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), session1=session, session2=ESYS_TR.PASSWORD)
        return bytes(attest.attestationData), signature.marshal()

    def sign(self, idevid, message):
        """A TPMT_SIGNATURE over a message by the IDevID key: RSAPSS or ECDSA, with its nameAlg."""
        hash_ = idevid.template.hash
        scheme = TPM2_ALG.RSAPSS if DEVIDS[idevid.template.name][0] == RSA else TPM2_ALG.ECDSA
        in_scheme = TPMT_SIG_SCHEME(scheme=scheme)
        in_scheme.details.any.hashAlg = ALG[hash_]
        ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
        return self.esys.sign(idevid.handle, digest(hash_, message), in_scheme, ticket)

    def activate_credential(self, ek, iak, blob, secret):
        """Decrypts a secret that was encrypted to the TPM with both keys."""
        with self.policy(iak, TPM2_CC.ActivateCredential, salted_by=ek) as admin:
            with self.user(ek) as user:
                return bytes(self.esys.activate_credential(
                    iak.handle, ek.handle, TPM2B_ID_OBJECT(blob), TPM2B_ENCRYPTED_SECRET(secret), session1=admin, session2=user))

    @contextmanager
    def user(self, ek):
        """The authorisation for an EK: its empty password, or policy A."""
        if ek.template.branches is not None:
            yield ESYS_TR.PASSWORD
            return
        with self.policy(ek) as session:
            yield session

    def nv_indices(self):
        """The existing NV indices that a TPM's maker may have defined."""
        found, start = [], 0x01C00000
        while True:
            more, data = self.esys.get_capability(TPM2_CAP.HANDLES, start, 64)
            handles = [int(h) for h in data.data.handles]
            found += [h for h in handles if h <= CHAIN_LAST]
            if not more or not handles or handles[-1] > CHAIN_LAST:
                return found
            start = handles[-1] + 1

    def nv_read(self, index):
        """The content of an NV index that is readable without a password."""
        handle = self.esys.tr_from_tpmpublic(index)
        public = self.esys.nv_read_public(handle)[0].nvPublic
        by = handle if public.attributes & TPMA_NV.AUTHREAD else ESYS_TR.OWNER
        out = b""
        while len(out) < public.dataSize:
            out += bytes(self.esys.nv_read(handle, min(512, public.dataSize - len(out)), len(out), by))
        return out

    def find_ek(self, wanted=None):
        """Returns the device's EK template, the EK certificate in DER (None if the TPM has
        none), and the maker's intermediate certificates."""
        indices = self.nv_indices()
        chain = split_certificates(b"".join(self.nv_read(i) for i in indices if CHAIN_FIRST <= i <= CHAIN_LAST))
        for template in EKS:
            if template.certificate not in indices or wanted not in (None, template.name):
                continue
            certificates = split_certificates(self.nv_read(template.certificate))
            template = self.stored(template, indices)
            if certificates and self.makes(template, key_in(certificates[0])):
                return template, certificates[0], chain
        for name in [wanted] if wanted else ["L-2", "L-1"]:
            template = self.stored(next(t for t in EKS if t.name == name), indices)
            if self.makes(template):
                return template, None, chain
        raise RuntimeError("this TPM makes no endorsement key that is known here")

    def makes(self, template, pem=None):
        """Whether the TPM makes the key in pem from the template."""
        try:
            with self.primary(template) as key:
                return pem is None or key.pem() == pem
        except TSS2_Exception as e:
            if e.rc & 0x980 == 0x900:  # a warning (Part 2, 6.6.2): the TPM is busy or has no room
                raise
            return False

    def stored(self, template, indices):
        """The template with the changes that the TPM's maker stored."""
        at_template, at_nonce = STORED.get(template.name, (None, None))
        public = template.public
        if at_template in indices:
            public = self.nv_read(at_template)
        if at_nonce in indices:
            nonce = self.nv_read(at_nonce)
            area = TPMT_PUBLIC.unmarshal(public)[0]
            unique, size = (area.unique.rsa, 256) if template.name == "L-1" else (area.unique.ecc.x, 32)
            unique.buffer = nonce + bytes(unique).ljust(size, b"\0")[len(nonce):]
            public = area.marshal()
        return Template(template.name, template.hash, public, template.branches, template.certificate)


def split_certificates(content):
    """Splits consecutive DER certificates, up to the first bytes that are not a certificate."""
    out = []
    while content[:2] == b"\x30\x82":
        size = 4 + int.from_bytes(content[2:4], "big")
        if size > len(content):
            break
        out.append(content[:size])
        content = content[size:]
    return out


def key_in(der):
    """The key of a certificate in DER; empty if it cannot be parsed."""
    try:
        return public_key_of(x509.load_der_x509_certificate(der))
    except ValueError:
        return b""


def public_key_of(certificate):
    """The key of a certificate in PEM, in the form of Key.pem."""
    return certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
