package wire

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"gangway/tcg"

	"golang.org/x/crypto/cryptobyte"
)

// Versions of the prodCaData format. A device sends version 2 only if it states why it omits the EK
// certificate. Version 1 has no field for this statement.
const (
	caDataVersion         = 1
	caDataVersionOmission = 2
)

// Bounds of the fields of CAData: sizes in bytes, and numbers of certificates.
const (
	MaxOwner         = 64
	MaxIntermediates = tcg.MaxIntermediates
)

// CAData is the prodCaData of a TCG-CSR-IDEVID sent to Gangway, in the
// presentation language of RFC 8446, 3:
//
//	struct {
//	    uint16 version = 1;
//	    opaque hub_name<1..255>;
//	    opaque owner<1..255>;         // prn
//	    opaque token_id<1..255>;
//	    opaque ek_public<1..2^16-1>;  // TPMT_PUBLIC
//	    opaque proof<64..255>;        // Ed25519, see OwnershipMessage
//	    Certificate chain<0..2^24-1>; // opaque<1..2^16-1> each, DER
//	} GangwayCaData;
//
// chain contains the EK certificate's intermediates from the TPM's NV, in any order. Version 2 has
// one more field, which says why the request does not have the EK certificate that is in the TPM's
// NV:
//
//	struct { uint8 why; uint32 nv_index; } omission;  // tcg.Omission, why > 0
type CAData struct {
	HubName  string
	Owner    string
	TokenID  string
	EKPublic []byte
	Proof    []byte
	Chain    [][]byte
	Omission tcg.Omission // the zero value means no statement
}

// Encode returns the prodCaData.
func (d *CAData) Encode() ([]byte, error) {
	b := cryptobyte.NewBuilder(nil)
	version := uint16(caDataVersion)
	if d.Omission.Why != 0 {
		version = caDataVersionOmission
	}
	b.AddUint16(version)
	for _, field := range []string{d.HubName, d.Owner, d.TokenID} {
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(field)) })
	}
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(d.EKPublic) })
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(d.Proof) })
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, cert := range d.Chain {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(cert) })
		}
	})
	if version == caDataVersionOmission {
		b.AddUint8(uint8(d.Omission.Why))
		b.AddUint32(d.Omission.Index)
	}
	out, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("prodCaData: %w", err)
	}
	if len(out) > tcg.MaxCAData {
		return nil, fmt.Errorf("prodCaData has %d bytes; at most %d are allowed", len(out), tcg.MaxCAData)
	}
	return out, nil
}

// ParseCAData parses a prodCaData, strictly. The result aliases `b`.
func ParseCAData(b []byte) (*CAData, error) {
	s := cryptobyte.String(b)
	var version uint16
	if !s.ReadUint16(&version) {
		return nil, errors.New("prodCaData is empty")
	}
	if version != caDataVersion && version != caDataVersionOmission {
		return nil, fmt.Errorf("prodCaData has version %d; only %d and %d are supported", version, caDataVersion, caDataVersionOmission)
	}
	var hub, owner, token, ek, proof, chain cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&hub) || !s.ReadUint8LengthPrefixed(&owner) || !s.ReadUint8LengthPrefixed(&token) ||
		!s.ReadUint16LengthPrefixed(&ek) || !s.ReadUint8LengthPrefixed(&proof) || !s.ReadUint24LengthPrefixed(&chain) {
		return nil, errors.New("prodCaData is malformed")
	}
	var omission tcg.Omission
	if version == caDataVersionOmission && (!s.ReadUint8((*uint8)(&omission.Why)) || !s.ReadUint32(&omission.Index) || omission.Why == 0) || !s.Empty() {
		return nil, errors.New("prodCaData is malformed")
	}
	d := &CAData{HubName: string(hub), Owner: string(owner), TokenID: string(token), EKPublic: ek, Proof: proof, Omission: omission}
	if len(hub) == 0 || len(owner) == 0 || len(owner) > MaxOwner || !IsID(d.TokenID) || len(ek) == 0 || len(ek) > tcg.MaxPublic || len(proof) != ed25519.SignatureSize {
		return nil, errors.New("prodCaData: the hub name, owner, token id, EK or ownership proof has a wrong size or form")
	}
	for !chain.Empty() {
		var cert cryptobyte.String
		if len(d.Chain) == MaxIntermediates || !chain.ReadUint16LengthPrefixed(&cert) || len(cert) == 0 || len(cert) > tcg.MaxCertificate {
			return nil, fmt.Errorf("prodCaData: the chain is malformed, or has more than %d certificates", MaxIntermediates)
		}
		d.Chain = append(d.Chain, cert)
	}
	return d, nil
}
