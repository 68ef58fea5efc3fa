package sqlstore

import (
	"context"

	"gangway/hub/store"
)

var (
	selectTPM = prepared(`SELECT t.ek, t.owner, t.device, t.generation, e.ek_certificate,
		e.manufacturer, e.model, e.firmware, t.first_seen
		FROM tpms t JOIN enrolments e ON e.id = t.enrolment WHERE t.ek = ?`)
	selectAIK = prepared(`SELECT a.name, a.ek, a.device, e.iak_public, e.iak_cert, a.registered
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
			Certificate:  r.blob(),
			Manufacturer: r.text(),
			Model:        r.text(),
			Firmware:     r.text(),
			FirstSeen:    r.time(),
		}
		return nil
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
			Name:        r.blob(),
			EK:          r.hash(),
			DeviceID:    r.text(),
			Public:      r.blob(),
			Certificate: r.blob(),
			Registered:  r.time(),
		}
		return nil
	})
	return a, err
}
