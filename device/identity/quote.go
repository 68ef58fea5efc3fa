package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"gangway/tcg"

	"github.com/google/go-tpm/tpm2"
)

// Quoted is a quote of the PCRs, together with the PCR values in the quote.
type Quoted struct {
	Bank      tcg.AlgID // the strongest bank with measurements, SHA-384 or SHA-256
	PCRs      [][]byte  // values of PCR 0 to 15
	Attest    []byte    // TPMS_ATTEST of TPM2_Quote over the PCRs
	Signature []byte    // TPMT_SIGNATURE over Attest, by the IAK
}

// quotedPCRs is the number of PCRs that are quoted: PCR 0 to 15, which the firmware and the static
// operating system extend (PC Client Platform TPM Profile, 3.7).
const quotedPCRs = 16

// ErrNoBank means that the TPM has no PCR bank with SHA-256 or a stronger hash.
var ErrNoBank = errors.New("identity: this TPM has no SHA-256 PCR bank; enable it in the firmware setup")

// OpQuote is the operation of LoadQuote.
const OpQuote Operation = "quote"

// LoadQuote quotes PCR 0 to 15 of the strongest bank that has measurements. The quote includes a
// nonce of 16 to 64 bytes. LoadQuote makes the IAK, signs with it, and flushes it.
// Options.Algorithm must be the same as at onboarding. LoadQuote takes these commands: one
// TPM2_GetCapability, one TPM2_CreatePrimary, two TPM2_PCR_Read, three commands of a policy
// session, one TPM2_Quote and one TPM2_FlushContext. If the strongest bank is empty and the TPM has
// another bank, it takes one more TPM2_PCR_Read.
//
// LoadQuote returns exactly the PCR values that the TPM quoted. If a PCR changes between reading
// and quoting, LoadQuote reads the values again.
func LoadQuote(ctx context.Context, t *TPM, o Options, nonce []byte) (*Quoted, error) {
	if len(nonce) < 16 || len(nonce) > 64 {
		return nil, fmt.Errorf("identity: the nonce has %d bytes; it must have 16 to 64", len(nonce))
	}
	end, err := t.begin(ctx, OpQuote)
	if err != nil {
		return nil, err
	}
	defer end()
	r := &ring{t: t, endAuth: o.EndorsementAuth}
	q, err := r.quote(o, nonce)
	if closing := r.close(); err == nil {
		err = closing
	}
	if err != nil {
		return nil, r.explain(fmt.Errorf("identity: quoting the PCRs: %w", err))
	}
	return q, nil
}

// BestBank returns the PCR bank that LoadQuote would quote.
func BestBank(ctx context.Context, t *TPM) (tcg.AlgID, error) {
	end, err := t.begin(ctx, OpQuote)
	if err != nil {
		return 0, err
	}
	defer end()
	return t.bestBank()
}

func (r *ring) quote(o Options, nonce []byte) (*Quoted, error) {
	bank, err := r.t.bestBank()
	if err != nil {
		return nil, err
	}
	algorithm := o.Algorithm
	if algorithm == "" {
		algorithm = P256
	}
	template, _, err := devidTemplates(algorithm)
	if err != nil {
		return nil, err
	}
	iak := &key{template: template}
	r.keys = append(r.keys, iak)
	q := &Quoted{Bank: bank}
	for range 3 {
		if q.PCRs, err = r.t.readPCRs(bank); err != nil {
			return nil, err
		}
		matches := false
		err := r.attempt([]*key{iak}, func() error {
			rsp, err := run(r.t, tpm2.Quote{
				SignHandle:     iak.with(r.user(iak)),
				QualifyingData: tpm2.TPM2BData{Buffer: nonce},
				InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
				PCRSelect:      selection(bank, allQuoted()),
			})
			if err != nil {
				return err
			}
			q.Attest = rsp.Quoted.Bytes()
			if q.Signature, err = marshalSignature(rsp.Signature); err != nil {
				return err
			}
			matches, err = q.check(iak.public, nonce)
			return err
		})
		if err != nil {
			return nil, err
		}
		if matches {
			return q, nil
		}
	}
	return nil, errors.New("the PCRs keep changing")
}

// check verifies the TPM's signature and the nonce in the quote. It reports whether q.PCRs are the
// values that the TPM quoted.
func (q *Quoted) check(iak *tcg.Public, nonce []byte) (bool, error) {
	a, err := tcg.ParseQuote(q.Attest)
	if err != nil {
		return false, err
	}
	s, err := tcg.ParseSignature(q.Signature)
	if err != nil {
		return false, err
	}
	if err := iak.Verify(q.Attest, s); errors.Is(err, tcg.ErrSignature) || err == nil && !bytes.Equal(a.ExtraData, nonce) {
		return false, errForeignKey
	} else if err != nil {
		return false, err
	}
	h, err := iak.SchemeHash.Hash()
	if err != nil {
		return false, err
	}
	d := h.New()
	for _, v := range q.PCRs {
		d.Write(v)
	}
	return bytes.Equal(d.Sum(nil), a.PCRDigest), nil
}

func allQuoted() []uint {
	pcrs := make([]uint, quotedPCRs)
	for i := range pcrs {
		pcrs[i] = uint(i)
	}
	return pcrs
}

func selection(bank tcg.AlgID, pcrs []uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash: tpm2.TPMAlgID(bank), PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...),
	}}}
}

// bestBank returns the strongest bank with measurements. Firmware may measure into only one bank
// and leave a stronger bank empty. If all banks are empty, bestBank returns the strongest bank.
func (t *TPM) bestBank() (tcg.AlgID, error) {
	rsp, err := run(t, tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1})
	if err != nil {
		return 0, err
	}
	var has *tpm2.TPMLPCRSelection
	if err := guarded(func() (err error) { has, err = rsp.CapabilityData.Data.AssignedPCR(); return err }); err != nil {
		return 0, err
	}
	var banks []tcg.AlgID
	for _, bank := range []tcg.AlgID{tcg.AlgSHA384, tcg.AlgSHA256} {
		for _, s := range has.PCRSelections {
			if tcg.AlgID(s.Hash) == bank && len(s.PCRSelect) >= 2 && s.PCRSelect[0] == 0xFF && s.PCRSelect[1] == 0xFF {
				banks = append(banks, bank)
			}
		}
	}
	if len(banks) == 0 {
		return 0, ErrNoBank
	}
	for _, bank := range banks[:len(banks)-1] {
		empty, err := t.isEmpty(bank)
		if err != nil {
			return 0, err
		}
		if !empty {
			return bank, nil
		}
	}
	// All banks before the last one are empty. If the last one is empty too, use the strongest
	// bank.
	last := banks[len(banks)-1]
	if len(banks) > 1 {
		if empty, err := t.isEmpty(last); err != nil || empty {
			return banks[0], err
		}
	}
	return last, nil
}

// isEmpty reports whether the firmware measured nothing into PCR 1 to 7 of a bank. It ignores PCR
// 0, because the initial value of PCR 0 may be the TPM's startup locality. It also ignores the
// separator that systemd extends into all banks.
func (t *TPM) isEmpty(bank tcg.AlgID) (bool, error) {
	h, err := bank.Hash()
	if err != nil {
		return false, err
	}
	zero, word, separated := make([]byte, h.Size()), h.New(), h.New()
	word.Write([]byte("os-separator"))
	separated.Write(zero)
	separated.Write(word.Sum(nil))
	rsp, err := run(t, tpm2.PCRRead{PCRSelectionIn: selection(bank, allQuoted()[1:8])})
	if err != nil {
		return false, err
	}
	for _, d := range rsp.PCRValues.Digests {
		if !bytes.Equal(d.Buffer, zero) && !bytes.Equal(d.Buffer, separated.Sum(nil)) {
			return false, nil
		}
	}
	return true, nil
}

// readPCRs reads PCR 0 to 15. A TPM returns at most eight PCRs in one response.
func (t *TPM) readPCRs(bank tcg.AlgID) ([][]byte, error) {
	var values [][]byte
	for len(values) < quotedPCRs {
		rsp, err := run(t, tpm2.PCRRead{PCRSelectionIn: selection(bank, allQuoted()[len(values):])})
		if err != nil {
			return nil, err
		}
		if len(rsp.PCRValues.Digests) == 0 || len(values)+len(rsp.PCRValues.Digests) > quotedPCRs {
			return nil, errors.New("TPM2_PCR_Read returned a wrong number of values")
		}
		for _, d := range rsp.PCRValues.Digests {
			values = append(values, d.Buffer)
		}
	}
	return values, nil
}
