package sqlstore

import (
	"context"

	"gangway/hub/store"
)

var (
	selectTPM = prepared(`SELECT t.ek, t.owner, t.device, t.generation,
		e.manufacturer, e.model, e.firmware, t.first_seen, ` + evidenceColumns + `
		FROM tpms t JOIN enrolments e ON e.id = t.enrolment WHERE t.ek = ?`)
	selectAIK = prepared(`SELECT a.name, a.ek, a.device, a.registered, ` + evidenceColumns + `
		FROM aiks a JOIN enrolments e ON e.id = a.enrolment WHERE a.name = ?`)
)

// TPM implements store.Registries. The certificate, manufacturer, model and firmware come from the
// latest activation.
func (s *Store) TPM(ctx context.Context, ek store.Hash) (t store.TPM, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, err := one(c, selectTPM, ek[:])
		if err != nil {
			return err
		}
		t = store.TPM{
			EK:           r.hash(),
			Owner:        r.text(),
			DeviceID:     r.text(),
			Generation:   r.int(),
			Manufacturer: r.text(),
			Model:        r.text(),
			Firmware:     r.text(),
			FirstSeen:    r.time(),
		}
		v, err := readEvidence(&r)
		t.Certificate = v.ekCertificate
		return err
	})
	return t, err
}

// AIK implements store.Registries. The certificate comes from the latest activation with this AIK.
func (s *Store) AIK(ctx context.Context, name []byte) (a store.AIK, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, err := one(c, selectAIK, name)
		if err != nil {
			return err
		}
		a = store.AIK{
			Name:       r.blob(),
			EK:         r.hash(),
			DeviceID:   r.text(),
			Registered: r.time(),
		}
		v, err := readEvidence(&r)
		a.Public, a.Certificate = v.iakPublic, v.iakCert
		return err
	})
	return a, err
}
