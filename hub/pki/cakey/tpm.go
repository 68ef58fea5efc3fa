package cakey

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// The range of persistent handles (TPM 2.0 Library, Part 2, 7.5).
const (
	firstPersistent = 0x81000000
	lastPersistent  = 0x81FFFFFF
)

// tpmKey is a key at a persistent handle of a TPM. The field `device` names a character device, or
// the socket of a software TPM in one of the forms unix:PATH, PATH and tcp:HOST:PORT. The hub opens
// the device for each operation and closes it afterwards, so that other programs can use the TPM,
// and a software TPM can restart.
type tpmKey struct {
	device string
	handle uint32
}

// busy holds one lock per device, because a software TPM accepts only one connection at a time.
var busy sync.Map // path -> *sync.Mutex

// with opens the TPM and calls `do`.
func (k *tpmKey) with(ctx context.Context, do func(transport.TPM) error) error {
	lock, _ := busy.LoadOrStore(k.device, new(sync.Mutex))
	lock.(*sync.Mutex).Lock()
	defer lock.(*sync.Mutex).Unlock()
	t, err := openTPM(ctx, k.device)
	if err != nil {
		return fmt.Errorf("open the TPM: %w", err)
	}
	defer t.Close()
	return do(patient{ctx, t})
}

func openTPM(ctx context.Context, device string) (transport.TPMCloser, error) {
	network, address := "unix", strings.TrimPrefix(device, "unix:")
	if host, ok := strings.CutPrefix(device, "tcp:"); ok {
		network, address = "tcp", host
	} else if info, err := os.Stat(address); err != nil {
		return nil, err
	} else if info.Mode()&fs.ModeSocket == 0 {
		return linuxtpm.Open(address)
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return &socket{conn}, nil
}

// maxResponse is the maximum size of a TPM's response, in bytes. TPMs use at most 4 KiB.
const maxResponse = 64 << 10

// socket is a connection to a software TPM, which reads commands and writes responses without any
// framing.
type socket struct{ conn net.Conn }

func (s *socket) Close() error { return s.conn.Close() }

func (s *socket) Send(command []byte) ([]byte, error) {
	if _, err := s.conn.Write(command); err != nil {
		return nil, err
	}
	response := make([]byte, 10) // the header: tag, size, response code (Part 1, 18.2)
	if _, err := io.ReadFull(s.conn, response); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(response[2:])
	if size < 10 || size > maxResponse {
		return nil, fmt.Errorf("a response of %d bytes", size)
	}
	response = append(response, make([]byte, size-10)...)
	_, err := io.ReadFull(s.conn, response[10:])
	return response, err
}

// patient is a transport that repeats each command until the TPM is no longer busy.
type patient struct {
	ctx context.Context
	to  transport.TPM
}

func (p patient) Send(command []byte) ([]byte, error) {
	for wait := 2 * time.Millisecond; ; wait *= 2 {
		response, err := p.to.Send(command)
		if err != nil || len(response) < 10 {
			return response, err
		}
		switch tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])) {
		case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting:
		default:
			return response, nil
		}
		select {
		case <-p.ctx.Done():
			return nil, p.ctx.Err()
		case <-time.After(wait):
		}
	}
}

// The method `read` returns the name and the public key of the object at the handle.
func (k *tpmKey) read(t transport.TPM) (tpm2.TPM2BName, *ecdsa.PublicKey, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(k.handle)}.Execute(t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return tpm2.TPM2BName{}, nil, fmt.Errorf("the TPM has no key at 0x%08x", k.handle)
	} else if err != nil {
		return tpm2.TPM2BName{}, nil, err
	}
	area, err := rsp.OutPublic.Contents()
	if err != nil {
		return tpm2.TPM2BName{}, nil, err
	}
	if a := area.ObjectAttributes; !a.SignEncrypt || a.Restricted || !a.UserWithAuth || !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin {
		return tpm2.TPM2BName{}, nil, fmt.Errorf("the object at 0x%08x must be a signing key that was made in this TPM and cannot leave it", k.handle)
	}
	key, err := tpm2.Pub(*area)
	if err != nil {
		return tpm2.TPM2BName{}, nil, err
	}
	public, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return tpm2.TPM2BName{}, nil, fmt.Errorf("the key at 0x%08x is not an ECDSA key", k.handle)
	}
	return rsp.Name, public, nil
}

func (k *tpmKey) public(ctx context.Context) (public *ecdsa.PublicKey, err error) {
	err = k.with(ctx, func(t transport.TPM) (err error) {
		_, public, err = k.read(t)
		return err
	})
	return public, err
}

// tpmHashes maps hash functions to the TPM's algorithm ids for them.
var tpmHashes = map[crypto.Hash]tpm2.TPMAlgID{crypto.SHA256: tpm2.TPMAlgSHA256, crypto.SHA384: tpm2.TPMAlgSHA384}

func (k *tpmKey) sign(ctx context.Context, digest []byte, hash crypto.Hash) (der []byte, err error) {
	err = k.with(ctx, func(t transport.TPM) error {
		name, _, err := k.read(t)
		if err != nil {
			return err
		}
		rsp, err := tpm2.Sign{
			KeyHandle:  tpm2.AuthHandle{Handle: tpm2.TPMHandle(k.handle), Name: name, Auth: tpm2.PasswordAuth(nil)},
			Digest:     tpm2.TPM2BDigest{Buffer: digest},
			InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpmHashes[hash]})},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(t)
		if err != nil {
			return err
		}
		sig, err := rsp.Signature.Signature.ECDSA()
		if err != nil {
			return err
		}
		der, err = asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig.SignatureR.Buffer), new(big.Int).SetBytes(sig.SignatureS.Buffer)})
		return err
	})
	return der, err
}

// create makes a key in the owner hierarchy, and stores it at the handle. The key cannot be
// restored after TPM2_Clear, which replaces the seed that the key is derived from.
func (k *tpmKey) create(ctx context.Context, curve elliptic.Curve) error {
	id, hash, size := tpm2.TPMECCNistP256, tpm2.TPMAlgSHA256, 32
	if curve == elliptic.P384() {
		id, hash, size = tpm2.TPMECCNistP384, tpm2.TPMAlgSHA384, 48
	}
	unique := make([]byte, size) // the TPM derives a primary key from its seed and this value
	rand.Read(unique)            // never fails
	return k.with(ctx, func(t transport.TPM) error {
		_, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(k.handle)}.Execute(t)
		if err == nil {
			return fmt.Errorf("the TPM already has an object at 0x%08x: choose another handle", k.handle)
		} else if !errors.Is(err, tpm2.TPMRCHandle) {
			return err
		}
		made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template(id, hash, unique))}.Execute(t)
		if err != nil {
			return err
		}
		_, err = tpm2.EvictControl{
			Auth: tpm2.TPMRHOwner, ObjectHandle: &tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name},
			PersistentHandle: tpm2.TPMHandle(k.handle),
		}.Execute(t)
		_, flushed := tpm2.FlushContext{FlushHandle: made.ObjectHandle}.Execute(t) // a software TPM has no resource manager, which would flush the object
		return errors.Join(err, flushed)
	})
}

// remove deletes the key at the handle.
func (k *tpmKey) remove(ctx context.Context) error {
	return k.with(ctx, func(t transport.TPM) error {
		name, _, err := k.read(t)
		if err != nil {
			return err
		}
		_, err = tpm2.EvictControl{
			Auth: tpm2.TPMRHOwner, ObjectHandle: &tpm2.NamedHandle{Handle: tpm2.TPMHandle(k.handle), Name: name},
			PersistentHandle: tpm2.TPMHandle(k.handle),
		}.Execute(t)
		return err
	})
}

// template returns the template of an unrestricted signing key that cannot leave the TPM. The
// attribute NoDA exempts the key from the TPM's dictionary attack lockout, so that wrong passwords
// for other keys cannot stop the hub from signing.
func template(curve tpm2.TPMECCCurve, hash tpm2.TPMAlgID, unique []byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true, NoDA: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: curve,
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash}),
			},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: unique}, Y: tpm2.TPM2BECCParameter{Buffer: unique}}),
	}
}
