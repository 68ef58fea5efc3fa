package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"os"
	"time"

	"gangway/device/identity"
	"gangway/internal/swtpm"
	"gangway/wire"

	"github.com/google/go-tpm/tpm2"

	"crypto/rand"
)

// AgentRun counts the TPM commands that the agent sends in each step of the onboarding.
type AgentRun struct {
	TPM      string      `json:"tpm"`
	EK       string      `json:"ek"`
	Commands int         `json:"commands"`
	MS       float64     `json:"ms"`
	Steps    []AgentStep `json:"steps"`
}

// AgentStep counts the TPM commands of one step of an AgentRun.
type AgentStep struct {
	Step     string  `json:"step"`
	Commands int     `json:"commands"`
	MS       float64 `json:"ms"`
}

func measureAgents() ([]AgentRun, error) {
	if missing := swtpm.Missing(); missing != "" {
		fmt.Fprintln(os.Stderr, "the agent is not measured:", missing)
		return nil, nil
	}
	var out []AgentRun
	for _, ek := range []swtpm.EK{swtpm.RSA2048, swtpm.P384} {
		r, err := measureAgent(ek)
		if err != nil {
			return nil, err
		}
		out = append(out, *r)
	}
	return out, nil
}

func measureAgent(ek swtpm.EK) (*AgentRun, error) {
	dir, err := os.MkdirTemp("", "gwb")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	soft, err := swtpm.New(ctx, dir, swtpm.Options{EK: ek})
	if err != nil {
		return nil, err
	}
	defer soft.Stop()
	t, err := identity.Open(soft.Address())
	if err != nil {
		return nil, err
	}
	defer t.Close()
	id, err := identity.Load(ctx, t, identity.Options{})
	if err != nil {
		return nil, err
	}
	defer id.Close()
	key, err := wire.OwnershipKey(wire.NewSecret(), wire.NewID())
	if err != nil {
		return nil, err
	}
	if _, err := id.Request(identity.RequestInfo{Model: "bench", Serial: "0", CAData: func(name []byte) ([]byte, error) {
		d := wire.CAData{HubName: "h", Owner: "o", TokenID: wire.NewID(), EKPublic: id.EK.Raw, Proof: ed25519.Sign(key, name), Chain: id.EKChain}
		return d.Encode()
	}}); err != nil {
		return nil, err
	}
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](id.EK.Raw)
	if err != nil {
		return nil, err
	}
	enc, err := tpm2.ImportEncapsulationKey(pub)
	if err != nil {
		return nil, err
	}
	blob, secret, err := tpm2.CreateCredential(rand.Reader, enc, id.IAKName, make([]byte, wire.CredentialSize))
	if err != nil {
		return nil, err
	}
	if _, err := id.ActivateCredential(blob, secret); err != nil {
		return nil, err
	}
	d := sha256.Sum256([]byte("handshake"))
	if _, err := id.Signer().Sign(nil, d[:], identityHash); err != nil {
		return nil, err
	}
	s := t.Stats()
	r := &AgentRun{TPM: "swtpm", EK: id.EKTemplate, Commands: s.Total.Commands, MS: ms(s.Total.Time)}
	for _, step := range []identity.Operation{identity.OpFindEK, identity.OpMakeKeys, identity.OpCertify, identity.OpSign, identity.OpActivate, identity.OpRelease, identity.OpHandshake} {
		c := s.ByOperation[step]
		r.Steps = append(r.Steps, AgentStep{string(step), c.Commands, ms(c.Time)})
	}
	return r, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
