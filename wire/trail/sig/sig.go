// Package sig verifies the signatures of a revision: Pantavisor's format pvs@2, as the command `pvr
// sig add` writes it. A device with pinned keys installs only revisions that its owner has signed,
// so an attacker who controls the hub cannot install anything on the device.
//
// A state contains its signatures as documents `_sigs/NAME.json`. A signature is a JWS (RFC 7515)
// without its payload. The patterns in its protected header select the members of the state that
// the signature covers. The payload is the canonical JSON of these members.
//
// Verify returns a new state that is parsed from the signed bytes, so the caller acts only on
// signed content. One signature must cover everything, because an attacker could combine parts of
// different revisions if each part had its own signature.
//
// The format has no number or time that orders revisions. Therefore a signed document,
// SequencePath, contains a number that the owner increases with each revision, and the device
// stores the largest number that it has accepted.
package sig

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"gangway/internal/strictjson"
	"gangway/wire/trail"

	"github.com/go-jose/go-jose/v4"
)

// Dir is the folder of the signatures in a state.
const Dir = "_sigs/"

// SequencePath is the name of the document in a state that contains the revision's sequence number:
// {"sequence": N}. Two other members are optional. "keys": ["PEM", ...] contains the owner's new
// keys. "devices": ["ID", ...] lists the only devices that may install the revision.
const SequencePath = "gangway/revision.json"

// Limits of a state's signatures. Until a signature is verified, anyone may have written it, so
// these limits bound the work that an attacker can cause.
const (
	maxSignatures  = 8
	maxPatterns    = 16        // of one signature
	maxPattern     = 512       // bytes
	maxParts       = 16        // parts of a pattern, between slashes
	maxHeader      = 32 << 10  // bytes of a protected header
	maxCertificate = 4 << 10   // bytes
	maxChain       = 4         // certificates
	maxPayload     = 2 << 20   // bytes
	maxSequence    = 1<<53 - 1 // every JSON parser reads the number exactly
)

// defaultSpec is the format of a state whose signature does not cover "#spec".
const defaultSpec = "pantavisor-service-system@1"

// Signed is what the owner has signed.
type Signed struct {
	State    *trail.State // only the signed members
	Sequence uint64       // at least 1
	Keys     *Keys        // the keys that replace the present keys; nil: unchanged
	Devices  []string     // the ids of the devices that may install the revision; nil: every device
	Name     string       // the signature's name
}

// header is the protected header of a signature. A header with any other member is refused, because
// such a member could change the signature's meaning ("crit", "b64").
type header struct {
	Alg string          `json:"alg"`
	Typ string          `json:"typ"`
	Kid string          `json:"kid"`
	JWK json.RawMessage `json:"jwk"` // ignored: it is the signer's own statement of the key
	X5C []string        `json:"x5c"` // base64 of DER
	PVS *selection      `json:"pvs"`
}

// signature is a document in the folder Dir.
type signature struct {
	Spec      string `json:"#spec"`
	Protected string `json:"protected"` // base64url
	Signature string `json:"signature"` // base64url
}

// algorithms lists the accepted algorithms. Each algorithm belongs to one kind of public key, so
// the header cannot choose how a key is used.
var algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.RS256}

// Verify verifies a state's signatures with the owner's keys, and returns the signed content. The
// error is a *Refusal.
//
// One signature must cover the document SequencePath and all other members of the state. Three
// kinds of members need no signature: the signatures themselves, files with the name src.json,
// which pvr does not sign, and "#spec" if it has its usual value. Unsigned members of the first two
// kinds are left out of Signed.State.
func Verify(s *trail.State, keys *Keys) (*Signed, error) {
	if _, err := s.Files(); err != nil { // bounds the names, before they are matched
		return nil, refuse(CodeSignature, "The state cannot be verified: %v.", err)
	}
	var names []string
	for _, name := range s.Names() {
		if isSignature(name) {
			names = append(names, name)
		}
	}
	switch {
	case len(names) == 0:
		return nil, refuse(CodeUnsigned, "The revision has no signature.")
	case len(names) > maxSignatures:
		return nil, refuse(CodeSignature, "The revision has more than %d signatures.", maxSignatures)
	}
	var first *Refusal
	for _, name := range names {
		signed, no := verifyOne(s, name, keys)
		if no == nil {
			return signed, nil
		}
		if first == nil || first.Code == CodeSignature { // any other code is more precise: it means that a pinned key made the signature
			first = no
		}
	}
	return nil, first
}

func isSignature(name string) bool {
	return strings.HasPrefix(name, Dir) && strings.HasSuffix(name, ".json")
}

func verifyOne(s *trail.State, name string, keys *Keys) (*Signed, *Refusal) {
	h, doc, err := parse(s, name)
	if err != nil {
		return nil, refuse(CodeSignature, "The signature %s cannot be read: %v.", name, err)
	}
	payload, err := s.Payload(h.PVS.selects)
	if err == nil && len(payload) > maxPayload {
		err = fmt.Errorf("it covers more than %d bytes", maxPayload)
	}
	if err != nil {
		return nil, refuse(CodeSignature, "The signature %s cannot be verified: %v.", name, err)
	}
	if err := doc.verify(h, payload, keys); err != nil {
		return nil, refuse(CodeSignature, "No key that this device trusts made the signature %s: %v.", name, err)
	}
	// The signature is valid. Now check that it covers every member of the state.
	for _, member := range s.Names() {
		if !h.PVS.selects(member) && !mayBeUnsigned(member, s.Value(member)) {
			return nil, refuse(CodePart, "The signature %s does not cover %q.", name, member)
		}
	}
	return readSigned(payload, name)
}

// mayBeUnsigned reports whether a member of a state need not be signed.
func mayBeUnsigned(name string, value any) bool {
	if name == "#spec" {
		return value == defaultSpec
	}
	return isSignature(name) || name == "src.json" || strings.HasSuffix(name, "/src.json")
}

// parse reads a signature strictly: it refuses every form that `pvr sig add` does not write.
func parse(s *trail.State, name string) (*header, *signature, error) {
	text, err := s.Payload(func(other string) bool { return other == name })
	if err != nil {
		return nil, nil, err
	}
	var docs map[string]*signature
	if err := strictjson.DecodeKnown(text, &docs); err != nil {
		return nil, nil, err
	}
	doc := docs[name]
	if doc == nil || doc.Spec != "pvs@2" {
		return nil, nil, fmt.Errorf(`its "#spec" is not "pvs@2"`)
	}
	if len(doc.Protected) > maxHeader {
		return nil, nil, fmt.Errorf("the header has more than %d bytes", maxHeader)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(doc.Protected)
	if err != nil {
		return nil, nil, fmt.Errorf("its header: %w", err)
	}
	var h header
	if err := strictjson.DecodeKnown(raw, &h); err != nil {
		return nil, nil, fmt.Errorf("its header: %w", err)
	}
	if h.Typ != "PVS" || h.PVS == nil {
		return nil, nil, fmt.Errorf(`its header is not of the type "PVS"`)
	}
	if !slices.Contains(algorithms, jose.SignatureAlgorithm(h.Alg)) {
		return nil, nil, fmt.Errorf("the algorithm %.20q is not one of %v", h.Alg, algorithms)
	}
	return &h, doc, h.PVS.check()
}

// verify checks that one of the keys made the signature over the payload.
func (doc *signature) verify(h *header, payload []byte, keys *Keys) error {
	jws, err := jose.ParseDetached(doc.Protected+".."+doc.Signature, payload, algorithms)
	if err != nil {
		return err
	}
	candidates, err := keys.candidates(h)
	for _, key := range candidates {
		if algorithmOf(key) == jose.SignatureAlgorithm(h.Alg) && jws.DetachedVerify(payload, key) == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("its certificates: %w", err)
	}
	return fmt.Errorf("%d key(s) were tried", len(candidates))
}

// candidates returns the pinned keys, and the key of the header's certificate if a pinned CA issued
// that certificate. The error says why the certificate does not count; the pinned keys are returned
// in any case.
func (k *Keys) candidates(h *header) ([]crypto.PublicKey, error) {
	keys := slices.Clone(k.keys)
	if len(k.cas) == 0 || len(h.X5C) == 0 {
		return keys, nil
	}
	leaf, err := verifyChain(h.X5C, k.cas)
	if err != nil {
		return keys, err
	}
	return append(keys, leaf.PublicKey), nil
}

// verifyChain verifies a chain of certificates for code signing and returns its first certificate.
// It ignores the dates, because the device's clock may be wrong.
func verifyChain(x5c []string, cas []*x509.Certificate) (*x509.Certificate, error) {
	if len(x5c) > maxChain {
		return nil, fmt.Errorf("the signature has more than %d certificates", maxChain)
	}
	var chain []*x509.Certificate
	for _, text := range x5c {
		der, err := base64.StdEncoding.Strict().DecodeString(text)
		if err == nil && len(der) > maxCertificate {
			err = fmt.Errorf("it has more than %d bytes", maxCertificate)
		}
		var c *x509.Certificate
		if err == nil {
			c, err = x509.ParseCertificate(der)
		}
		if err == nil {
			err = checkKey(c.PublicKey)
		}
		if err != nil {
			return nil, fmt.Errorf("a certificate: %w", err)
		}
		chain = append(chain, c)
	}
	roots, links := x509.NewCertPool(), x509.NewCertPool()
	now := chain[0].NotBefore
	for _, c := range cas {
		roots.AddCert(c)
	}
	for _, c := range slices.Concat(chain[1:], cas) {
		links.AddCert(c)
		if c.NotBefore.After(now) {
			now = c.NotBefore
		}
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: links, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}})
	if err != nil {
		return nil, err
	}
	return chain[0], nil
}

// readSigned parses the signed bytes.
func readSigned(payload []byte, name string) (*Signed, *Refusal) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(payload, &members); err != nil {
		return nil, refuse(CodeSignature, "The signed part cannot be read: %v.", err)
	}
	if members["#spec"] == nil {
		members["#spec"] = json.RawMessage(`"` + defaultSpec + `"`)
	}
	text, err := json.Marshal(members)
	if err != nil {
		return nil, refuse(CodeSignature, "The signed part cannot be read: %v.", err)
	}
	state, err := trail.ParseState(text)
	if err != nil {
		return nil, refuse(CodeSignature, "The signed part is not a state: %v.", err)
	}
	signed := &Signed{State: state, Name: name}
	var order struct {
		Sequence uint64   `json:"sequence"`
		Keys     []string `json:"keys"`
		Devices  []string `json:"devices"`
	}
	if members[SequencePath] == nil {
		return nil, refuse(CodeSequence, "The signed part has no document %s with the revision's sequence number.", SequencePath)
	}
	if err := strictjson.DecodeKnown(members[SequencePath], &order); err != nil {
		return nil, refuse(CodeSequence, "The document %s cannot be read: %v.", SequencePath, err)
	}
	if signed.Sequence = order.Sequence; signed.Sequence < 1 || signed.Sequence > maxSequence {
		return nil, refuse(CodeSequence, "The sequence number in %s is not a whole number from 1 to %d.", SequencePath, int64(maxSequence))
	}
	if signed.Devices = order.Devices; signed.Devices != nil && len(signed.Devices) == 0 {
		return nil, refuse(CodeSequence, `The list "devices" in %s is empty.`, SequencePath)
	}
	if order.Keys != nil {
		if signed.Keys, err = ParseKeys([]byte(strings.Join(order.Keys, "\n"))); err != nil {
			return nil, refuse(CodeKeys, "The new keys in %s cannot be used: %v.", SequencePath, err)
		}
	}
	return signed, nil
}
