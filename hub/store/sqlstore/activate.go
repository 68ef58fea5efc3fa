package sqlstore

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"gangway/hub/store"
)

var (
	// A single query by primary keys reads all rows that Activate needs for its decision.
	selectClaim = prepared(`SELECT e.id, e.request_hash, e.state, e.device, e.owner, e.token, e.generation,
		e.ek, e.iak_name, e.expires, e.manufacturer, e.model, e.firmware, e.prod_model, e.prod_serial,
		e.key_algorithm,
		t.owner, t.device, t.generation,
		a.ek,
		j.owner, j.expires, j.max_uses, j.uses, j.disabled, j.default_user_meta,
		EXISTS (SELECT 1 FROM accounts WHERE id = e.owner AND disabled = 0),
		CASE WHEN d.token IS NULL THEN 0 WHEN d.token = e.token
		OR EXISTS (SELECT 1 FROM token_uses WHERE token = e.token AND device = e.device) THEN 1 ELSE 0 END,
		coalesce(d.enrolment, 0 * d.deleted), d.owner, d.deleted, d.nick, d.token, d.created, d.activated, d.last_seen,
		d.last_seen_addr, d.public, d.clone, d.user_meta, d.device_meta,
		(SELECT prod_serial FROM enrolments WHERE id = d.enrolment), e.ek_known,
		coalesce(j.paused, 0), EXISTS (SELECT 1 FROM lost_devices)
		FROM enrolments e
		LEFT JOIN tpms t ON t.ek = e.ek
		LEFT JOIN aiks a ON a.name = e.iak_name
		LEFT JOIN join_tokens j ON j.id = e.token
		LEFT JOIN devices d ON d.id = e.device
		WHERE e.idevid_hash = ?`)

	activateFirst = prepared(`UPDATE enrolments SET state = 'a' WHERE id = ?`)
	activateLater = prepared(`UPDATE enrolments SET state = 'a', previous = ? WHERE id = ?`)
	supersede     = prepared(`UPDATE enrolments SET state = 's' WHERE id = ? AND state = 'a'`)
	bindTPM       = prepared(`INSERT INTO tpms (ek, owner, device, generation, enrolment, first_seen)
		VALUES (?, ?, ?, 0, ?, ?) ON CONFLICT (ek) DO UPDATE SET owner = excluded.owner,
		device = excluded.device, enrolment = excluded.enrolment`)
	bindAIK = prepared(`INSERT INTO aiks (name, ek, device, enrolment, registered)
		VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET device = excluded.device,
		enrolment = excluded.enrolment`)
	spendUse  = prepared(`INSERT INTO token_uses (token, device) VALUES (?, ?)`)
	countUse  = prepared(`UPDATE join_tokens SET uses = uses + 1 WHERE id = ?`)
	newDevice = prepared(`INSERT INTO devices (id, nick, owner, token, enrolment, deleted, created,
		activated, last_seen, last_seen_addr, user_meta, device_meta)
		VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, '{}')
		ON CONFLICT (owner, nick) WHERE deleted = 0 DO NOTHING`)
	nickTaken   = prepared(`SELECT 1 FROM devices WHERE owner = ? AND nick = ? AND deleted = 0`)
	renewDevice = prepared(`UPDATE devices SET enrolment = ?, activated = ?, last_seen = ?,
		last_seen_addr = ?, quiet = 0 WHERE id = ?`)
)

// claim is a request to activate an enrolment, together with the data on which the decision
// depends.
type claim struct {
	id          int64 // row id of the enrolment
	requestHash store.Hash
	state       string
	device      string
	owner       string
	token       string
	generation  int
	ek          store.Hash
	iakName     []byte
	expires     time.Time

	manufacturer, model, firmware       string
	prodModel, prodSerial, keyAlgorithm string

	tpmOwner, tpmDevice string // empty if the EK is not bound to an owner
	tpmGeneration       int    // 0 also if the EK is unknown

	iakKnown bool
	iakEK    store.Hash // the EK with which the IAK is registered

	tokenKnown    bool
	tokenOwner    string
	tokenExpires  time.Time
	tokenMax      int
	tokenUses     int
	tokenDisabled bool
	tokenMeta     string

	ownerKnown bool
	counted    bool // the token has already counted this device

	known    bool  // the database has the device, which may be deleted
	active   int64 // row id of the device's active enrolment
	devOwner string
	deleted  bool
	stored   store.Device // only the fields that the device's row has
	userMeta string
	devMeta  string

	serialBefore string // serial number in the device's active enrolment
	ekKnown      bool   // as store.Enrolment.EKKnown
	tokenPaused  bool
	anyLost      bool // there are lost devices
}

func readClaim(r *Row) (k claim) {
	k.id = r.int64()
	k.requestHash = r.hash()
	k.state = r.text()
	k.device = r.text()
	k.owner = r.text()
	k.token = r.text()
	k.generation = r.int()
	k.ek = r.hash()
	k.iakName = r.blob()
	k.expires = r.time()
	k.manufacturer = r.text()
	k.model = r.text()
	k.firmware = r.text()
	k.prodModel = r.text()
	k.prodSerial = r.text()
	k.keyAlgorithm = r.text()

	k.tpmOwner = r.text()
	k.tpmDevice = r.text()
	k.tpmGeneration = r.int()

	k.iakKnown = !r.null()
	k.iakEK = r.hash()

	k.tokenKnown = !r.null()
	k.tokenOwner = r.text()
	k.tokenExpires = r.time()
	k.tokenMax = r.int()
	k.tokenUses = r.int()
	k.tokenDisabled = r.bool()
	k.tokenMeta = r.text()

	k.ownerKnown = r.bool()
	k.counted = r.bool()

	k.known = !r.null()
	k.active = r.int64()
	k.devOwner = r.text()
	k.deleted = r.bool()
	k.stored.Nick = r.text()
	k.stored.TokenID = r.text()
	k.stored.Created = r.time()
	k.stored.Activated = r.time()
	k.stored.LastSeen = r.time()
	k.stored.LastSeenAddr = r.text()
	k.stored.Public = r.bool()
	k.stored.Clone = r.text()
	k.userMeta = r.text()
	k.devMeta = r.text()
	k.serialBefore = r.text()
	k.ekKnown = r.bool()
	k.tokenPaused = r.bool()
	k.anyLost = r.bool()
	return k
}

// Activate implements store.Enrolments. It may also return store.ErrExists: a TPM that already has
// a device cannot become a second device of the same owner.
func (s *Store) Activate(ctx context.Context, a store.Activation) (store.Device, error) {
	now := micro(a.Now)
	var (
		k       claim
		already bool
	)
	err := s.db.Write(ctx, func(c Conn) error {
		r, err := one(c, selectClaim, a.IDevIDHash[:])
		if err != nil {
			return err
		}
		k = readClaim(&r)
		if already = k.state == stateActive; already {
			if k.stored.Clone == store.CloneRefused {
				return store.ErrCloned
			}
			return nil
		}
		if err := k.refusal(a.Now); err != nil {
			return err
		}
		if a.First && k.known {
			return store.ErrChanged
		}
		return k.accept(c, a, now)
	})
	if err != nil {
		return store.Device{}, err
	}
	if already {
		if err := s.seen.record(k.device, sighting{at: now, addr: a.Addr}); err != nil {
			return store.Device{}, err
		}
	}
	d := k.result(a.IDevIDHash)
	s.seen.overlay(&d)
	return d, nil
}

// refusal returns the error with which the claim must be refused, or nil if there is no reason to
// refuse it. It uses only the fields of the claim. If several errors apply, it returns the one that
// matters most to the caller. It must not be called for an enrolment that is already active.
func (k *claim) refusal(now time.Time) error {
	switch k.state {
	case stateRevoked:
		return store.ErrRevoked
	case stateSuperseded:
		return store.ErrSuperseded
	case stateExpired:
		return store.ErrEnrolmentExpired
	}
	bound := k.tpmOwner != ""
	switch {
	case !now.Before(k.expires):
		return store.ErrEnrolmentExpired
	case k.generation != k.tpmGeneration, k.known && k.deleted:
		return store.ErrRevoked
	case bound && k.tpmOwner != k.owner, k.known && k.devOwner != k.owner:
		return store.ErrOtherOwner
	case k.known && k.id < k.active: // ids increase in the order of BeginEnrolment
		return store.ErrSuperseded
	case k.iakKnown && k.iakEK != k.ek:
		return store.ErrOtherEK
	case bound && k.tpmDevice != k.device:
		return fmt.Errorf("%w: the TPM already belongs to device %s", store.ErrExists, k.tpmDevice)
	case k.known && !bound:
		return fmt.Errorf("%w: device %s has another TPM", store.ErrExists, k.device)
	case k.stored.Clone == store.CloneRefused:
		return store.ErrCloned
	case !k.ownerKnown, !k.tokenKnown, k.tokenOwner != k.owner, k.tokenDisabled, !now.Before(k.tokenExpires):
		return store.ErrTokenUnusable
	case !k.counted && k.tokenPaused:
		return store.ErrTokenPaused
	case !k.counted && k.tokenMax > 0 && k.tokenUses >= k.tokenMax:
		return store.ErrTokenUsedUp
	}
	return nil
}

// accept writes all changes that result from accepting the claim, and updates the fields of `k` to
// match the rows.
func (k *claim) accept(c Conn, a store.Activation, now int64) error {
	if k.anyLost && a.DeviceIDs != nil {
		if err := returnLost(c, k.owner, a.DeviceIDs()); err != nil {
			return err
		}
	}
	k.stored.Activated = fromMicro(now)
	k.stored.LastSeen = k.stored.Activated
	k.stored.LastSeenAddr = a.Addr
	onboarded, serial := "onboarded", ""
	if k.known {
		onboarded = "onboarded again"
		if err := c.Do(supersede, k.active); err != nil {
			return err
		}
		if err := c.Do(activateLater, k.active, k.id); err != nil {
			return err
		}
		if err := c.Do(renewDevice, k.id, now, now, a.Addr, k.device); err != nil {
			return err
		}
		is := words{k.owner, k.stored.Nick, k.prodSerial}
		if err := moveWords(c, words{k.owner, k.stored.Nick, k.serialBefore}, is); err != nil {
			return err
		}
		// The device secret was issued for the certificate that this activation replaces.
		if err := c.Do(deleteSecret, k.device); err != nil {
			return err
		}
		if err := forgetSuperseded(c, k.active); err != nil {
			return err
		}
	} else {
		if err := c.Do(activateFirst, k.id); err != nil {
			return err
		}
		if err := k.createDevice(c, a, now); err != nil {
			return err
		}
	}
	if k.known && k.serialBefore != k.prodSerial {
		serial = fmt.Sprintf(" Its serial number changed from %q to %q.", k.serialBefore, k.prodSerial)
	}
	if err := k.prove(c); err != nil {
		return err
	}
	if err := c.Do(bindTPM, k.ek[:], k.owner, k.device, k.id, now); err != nil {
		return err
	}
	if len(k.iakName) != 0 {
		if err := c.Do(bindAIK, k.iakName, k.ek[:], k.device, k.id, now); err != nil {
			return err
		}
	}
	if !k.counted {
		if err := c.Do(countUse, k.token); err != nil {
			return err
		}
		if k.known {
			if err := c.Do(spendUse, k.token, k.device); err != nil {
				return err
			}
		}
	}
	event := store.Event{
		Time:   a.Now,
		Kind:   "device.activated",
		Owner:  k.owner,
		Device: k.device,
		Token:  k.token,
		Addr:   a.Addr,
		Actor:  "prn:::devices:/" + k.device, ActorName: k.stored.Nick, Means: store.ByCertificate,
		Message: "Device " + strconv.Quote(k.stored.Nick) + " " + onboarded + ": " +
			tpmWords(k.manufacturer, k.model) + ", join token " + k.token + "." + serial,
	}
	tell := appendEvent
	if k.known { // a device may onboard again any number of times, so these events are counted in one row
		tell = countEvent
		if serial != "" {
			event.Group = "serial"
		}
	}
	if err := tell(c, event); err != nil {
		return err
	}
	return k.linkChips(c, a)
}

// tpmWords describes a TPM in an event, by the maker and the model in its EK certificate. Both are
// empty for a machine that onboarded without an EK certificate, after its owner approved it.
func tpmWords(manufacturer, model string) string {
	name := strings.TrimSpace(manufacturer + " " + model)
	if name == "" {
		return "a TPM without an EK certificate"
	}
	return "TPM " + name
}

var (
	// Selects the chain of a device's enrolments, newest first, without reading the long columns.
	selectSuperseded = prepared(`WITH RECURSIVE chain (id, previous, number) AS (
			SELECT id, previous, 1 FROM enrolments WHERE id = ?1
			UNION ALL
			SELECT e.id, e.previous, number + 1 FROM chain c JOIN enrolments e ON e.id = c.previous WHERE number < ?2)
		SELECT id, coalesce(previous, 0) FROM chain ORDER BY number`)
	selectEvidence = prepared(`SELECT ` + evidenceColumns + ` FROM enrolments e WHERE e.id = ?`)
	// Removes the evidence of an enrolment, but keeps what the method `AIK` returns.
	stripEnrolment = prepared(`UPDATE enrolments SET iak_public = ?, iak_cert = ?, ek_certificate = x'', idevid_cert = x'',
		verdict = x'', request = x'', ek_links = x'' WHERE id = ?`)
	setPrevious     = prepared(`UPDATE enrolments SET previous = nullif(?, 0) WHERE id = ?`)
	deleteAIKsOf    = prepared(`DELETE FROM aiks WHERE enrolment = ?`)
	deleteEnrolment = prepared(`DELETE FROM enrolments WHERE id = ?`)
)

// forgetSuperseded removes the evidence of a device's older superseded enrolments, and deletes the
// oldest of them entirely. `newest` is the row id of the enrolment that was superseded last. One
// call deletes at most 16 enrolments, because a database of an earlier version of the hub may have
// many more.
func forgetSuperseded(c Conn, newest int64) error {
	const most = store.KeptSuperseded + store.KeptFingerprints
	chain, err := activated(c, newest, most+16)
	if err != nil {
		return err
	}
	if err := stripAll(c, chain[min(len(chain), store.KeptSuperseded):min(len(chain), most)]); err != nil {
		return err
	}
	if len(chain) <= most {
		return nil
	}
	if err := c.Do(setPrevious, chain[len(chain)-1].previous, chain[most-1].id); err != nil {
		return err
	}
	for _, old := range chain[most:] {
		if err := c.Do(deleteAIKsOf, old.id); err != nil {
			return err
		}
		if err := c.Do(deleteEnrolment, old.id); err != nil {
			return err
		}
	}
	return nil
}

// createDevice stores a new device with the proposed nick. If the nick is in use, createDevice
// appends a suffix ("-2", "-3", ...). If no nick is proposed, the device id becomes the nick.
func (k *claim) createDevice(c Conn, a store.Activation, now int64) error {
	k.stored.TokenID = k.token
	k.stored.Created = k.stored.Activated
	k.userMeta, k.devMeta = k.tokenMeta, "{}"
	if meta, unreadable := decodeMeta(k.tokenMeta, ""); len(unreadable) > 0 {
		// Do not copy metadata members to the new device that a read could not return.
		var err error
		if k.userMeta, err = store.EncodeMeta(meta); err != nil {
			return err
		}
	}
	base := a.Nick
	if base == "" {
		base = k.device
	}
	nick := base
	for {
		n, err := c.Exec(newDevice, k.device, nick, k.owner, k.token, k.id, now, now, now, a.Addr, k.userMeta)
		if err != nil {
			return err
		}
		if n != 0 {
			k.stored.Nick = nick
			return indexed{}.move(c, indexed{words{k.owner, nick, k.prodSerial}, k.userMeta, "{}"})
		}
		if nick, err = freeNick(c, k.owner, base); err != nil {
			return err
		}
	}
}

// freeNick returns the nick `base` with a numeric suffix that is not in use. It tries the suffixes
// 2, 4, 8 and so on until it finds one that is free, and then makes a binary search between this
// suffix and the one before. Therefore each device needs only a logarithmic number of queries, even
// if a whole fleet proposes the same nick.
//
// Because deleted devices leave gaps between the suffixes in use, freeNick returns either a suffix
// from such a gap, or the one after the last.
func freeNick(c Conn, owner, base string) (string, error) {
	with := func(n int) string { return base + "-" + strconv.Itoa(n) }
	taken := func(n int) (bool, error) {
		_, ok, err := c.One(nickTaken, owner, with(n))
		return ok, err
	}
	last, free := 1, 2 // `base` without a suffix has the number 1
	for {
		is, err := taken(free)
		if err != nil {
			return "", err
		}
		if !is {
			break
		}
		last, free = free, 2*free
	}
	for free-last > 1 {
		middle := last + (free-last)/2
		is, err := taken(middle)
		if err != nil {
			return "", err
		}
		if is {
			last = middle
		} else {
			free = middle
		}
	}
	return with(free), nil
}

// result returns the device as a read would return it after the activation.
func (k *claim) result(idevid store.Hash) store.Device {
	d := k.stored
	d.ID = k.device
	d.Owner = k.owner
	d.EK = k.ek
	d.Enrolment = k.requestHash
	d.IDevIDHash = idevid
	d.TPMMaker = k.manufacturer
	d.TPMModel = k.model
	d.TPMFirmware = k.firmware
	d.ProdModel = k.prodModel
	d.ProdSerial = k.prodSerial
	d.KeyAlgorithm = k.keyAlgorithm
	setMetas(&d, k.userMeta, k.devMeta)
	return d
}

// link is an enrolment in a device's chain of enrolments. `id` is its row id. `previous` is the row
// id of the enrolment that it superseded, or 0 if there is none.
type link struct{ id, previous int64 }

// activated returns at most `limit` enrolments of a device's chain of activated enrolments, newest
// first, beginning with the row id `newest`.
func activated(c Conn, newest int64, limit int) (chain []link, err error) {
	err = c.Each(selectSuperseded, func(r Row) (bool, error) {
		chain = append(chain, link{r.int64(), r.int64()})
		return true, nil
	}, newest, int64(limit))
	return chain, err
}

func stripAll(c Conn, chain []link) error {
	for _, e := range chain {
		r, ok, err := c.One(selectEvidence, e.id)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		v, err := readEvidence(&r)
		if err == nil && len(v.request) == 0 {
			continue // its evidence was removed earlier
		}
		// This also removes evidence that cannot be read, which fsck would otherwise report as
		// damaged.
		if err := c.Do(stripEnrolment, v.iakPublic, v.iakCert, e.id); err != nil {
			return err
		}
	}
	return nil
}

// stripSuperseded removes the evidence of all enrolments in a device's chain that are older than
// the enrolment with the row id `last`, which keeps its own evidence.
func stripSuperseded(c Conn, last int64) error {
	chain, err := activated(c, last, 1+store.KeptSuperseded)
	if err != nil || len(chain) == 0 {
		return err
	}
	return stripAll(c, chain[1:])
}
