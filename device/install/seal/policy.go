package seal

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"gangway/device/identity/tpmrc"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// policyFunc returns a policy's commands for a session.
type policyFunc func(tpm2.TPMISHPolicy) []tpm2.PolicyCommand

// digest returns the digest of a policy, after a trial of the policy in the TPM. So it returns an
// error before anything is sealed if the TPM lacks a command of the policy. The digest itself does
// not come from the TPM: nothing authenticates the digest in the TPM's response, so an interposer
// on the TPM's bus could replace it with the digest of a policy that every system satisfies.
func (s *storage) digest(policy policyFunc) ([]byte, error) {
	want, err := digestOf(policy(0))
	if err != nil {
		return nil, err
	}
	session, end, err := tpm2.PolicySession(s.tpm, tpm2.TPMAlgSHA256, 16, tpm2.Trial())
	if err != nil {
		return nil, fmt.Errorf("seal: %w", tpmrc.Explain(err, tpmrc.None))
	}
	defer end()
	if err := run(s.tpm, policy(session.Handle())); err != nil {
		return nil, fmt.Errorf("seal: this TPM cannot check the policy of the disk's key: %w", tpmrc.Explain(err, tpmrc.None))
	}
	got, err := tpm2.PolicyGetDigest{PolicySession: session.Handle()}.Execute(s.tpm)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", tpmrc.Explain(err, tpmrc.None))
	}
	if !bytes.Equal(got.PolicyDigest.Buffer, want) {
		return nil, fmt.Errorf("seal: %w", tpmrc.Altered(errors.New("the TPM computes another policy for the disk's key")))
	}
	return want, nil
}

// digestOf computes the digest of the policy that consists of these commands.
func digestOf(commands []tpm2.PolicyCommand) ([]byte, error) {
	policy, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, fmt.Errorf("seal: the policy: %w", err)
	}
	for _, c := range commands {
		if err := c.Update(policy); err != nil {
			return nil, fmt.Errorf("seal: the policy: %w", err)
		}
	}
	return policy.Hash().Digest, nil
}

// The function `run` runs a policy's commands in the policy session that they name.
func run(t transport.TPM, commands []tpm2.PolicyCommand) error {
	for _, c := range commands {
		var err error
		switch c := c.(type) {
		case tpm2.PolicyAuthorize:
			_, err = c.Execute(t)
		case tpm2.PolicyPCR:
			_, err = c.Execute(t)
		case tpm2.PolicyNV:
			_, err = c.Execute(t)
		default:
			err = fmt.Errorf("the policy has the command %T", c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// policyPCR requires that the PCRs with these numbers have these values, in ascending order of the
// numbers. Without values, the TPM takes the present values.
func policyPCR(session tpm2.TPMISHPolicy, numbers []int, values [][]byte) tpm2.PolicyPCR {
	command := tpm2.PolicyPCR{PolicySession: session, Pcrs: pcrs(numbers...)}
	if values != nil {
		sum := sha256.New()
		for _, v := range values {
			sum.Write(v)
		}
		command.PcrDigest.Buffer = sum.Sum(nil)
	}
	return command
}

func pcrs(numbers ...int) tpm2.TPMLPCRSelection {
	var list []uint
	for _, n := range numbers {
		list = append(list, uint(n))
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(list...)}}}
}

// nameOf computes the name of an object. A name in a TPM's response is not authenticated.
func nameOf(public *tpm2.TPMTPublic) (tpm2.TPM2BName, error) {
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return tpm2.TPM2BName{}, fmt.Errorf("seal: %w", err)
	}
	return *name, nil
}

// nameOfSealed computes the name of an object in a LUKS2 token.
func nameOfSealed(public *tpm2.TPM2BPublic) (tpm2.TPM2BName, error) {
	contents, err := public.Contents()
	if err != nil {
		return tpm2.TPM2BName{}, fmt.Errorf("seal: the LUKS2 token in the disk's header: %w", err)
	}
	return nameOf(contents)
}

// ReadPCRs returns the present values of PCRs in the SHA-256 bank, by number. An interposer on the
// TPM's bus cannot alter them, unless it has replaced the TPM's storage key.
func ReadPCRs(t transport.TPM, numbers ...int) (map[int][]byte, error) {
	s, err := load(t, nil)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	slices.Sort(numbers)
	list, err := s.readPCRs(numbers...)
	if err != nil {
		return nil, err
	}
	values := map[int][]byte{}
	for i, n := range numbers {
		values[n] = list[i]
	}
	return values, nil
}

// readPCRs returns the present values of PCRs in the SHA-256 bank, in ascending order of the numbers.
func (s *storage) readPCRs(numbers ...int) ([][]byte, error) {
	rsp, err := tpm2.PCRRead{PCRSelectionIn: pcrs(numbers...)}.Execute(s.tpm, s.Authentic(true))
	if err != nil {
		return nil, fmt.Errorf("seal: reading PCRs: %w", tpmrc.Explain(err, tpmrc.None))
	}
	var values [][]byte
	for _, d := range rsp.PCRValues.Digests {
		values = append(values, d.Buffer)
	}
	selected := tpm2.Marshal(rsp.PCRSelectionOut)
	if len(values) != len(numbers) || !bytes.Equal(selected, tpm2.Marshal(pcrs(numbers...))) {
		return nil, errors.New("seal: the TPM does not report its PCRs of the SHA-256 bank; switch this bank on in the firmware's setup")
	}
	return values, nil
}
