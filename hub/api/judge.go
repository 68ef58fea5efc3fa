package api

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"gangway/hub/boot"
	"gangway/hub/store"
	"gangway/wire/manifest"
	"gangway/wire/trail"

	"golang.org/x/sync/errgroup"
)

// systemPath is the path of the system in a revision's state. It equals the constant
// slots.SystemPath of the device's packages.
const systemPath = "gangway/system.efi"

// recentRevisions is the number of revisions, newest first, among which the hub looks for the
// systems that are meant to run.
const recentRevisions = 20

// manifestCache has the parsed manifests of owners. An owner's entry is stale if the version of the
// owner's boot rules has changed since.
type manifestCache struct {
	mu  sync.Mutex
	all map[string]cachedManifests // by owner
}

type cachedManifests struct {
	version int64
	list    []*manifest.Manifest
}

// maxCachedOwners bounds the number of owners in manifestCache, each of whom has at most
// store.MaxManifests manifests.
const maxCachedOwners = 200

// countingManifests returns the manifests of an owner that count, which are those that were signed
// with a key that the owner has not removed. The hub verified each signature when the owner
// uploaded the manifest.
func (s *Server) countingManifests(ctx context.Context, owner string, version int64) ([]*manifest.Manifest, error) {
	if version == 0 {
		return nil, nil // the owner never had a key
	}
	c := &s.manifests
	c.mu.Lock()
	cached, ok := c.all[owner]
	c.mu.Unlock()
	if ok && cached.version == version {
		return cached.list, nil
	}
	rows, err := s.cfg.Store.Manifests(ctx, owner)
	if err != nil {
		return nil, err
	}
	var list []*manifest.Manifest
	for _, row := range rows {
		if !row.Counts {
			continue
		}
		m := new(manifest.Manifest)
		if err := json.Unmarshal(row.Text, m); err != nil {
			return nil, fmt.Errorf("manifest %x: %w", row.ID, err)
		}
		list = append(list, m)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil || len(c.all) >= maxCachedOwners {
		c.all = make(map[string]cachedManifests)
	}
	c.all[owner] = cachedManifests{version, list}
	return list, nil
}

// bootRules are the rules by which the hub judges one boot: manifests, decisions and the reference.
// If their version changes after the hub has read it, the verdict is stale, and the hub judges the
// boot again.
type bootRules struct {
	boot.Rules
	version int64
}

// rulesFor returns the rules for a device's boot: manifests and decisions, but not the reference.
func (s *Server) rulesFor(ctx context.Context, d store.Device, m *boot.Measurement) (r bootRules, err error) {
	if r.version, err = s.cfg.Store.BootRulesVersion(ctx, d.Owner); err != nil || r.version == 0 {
		return r, err
	}
	if r.Manifests, err = s.countingManifests(ctx, d.Owner, r.version); err != nil {
		return r, err
	}
	if r.Known, err = s.decisionsAbout(ctx, d, m); err != nil {
		return r, err
	}
	if len(r.Manifests) == 0 {
		return r, nil
	}
	judged, _, err := orMissing(s.cfg.Store.JudgedBoot(ctx, d.ID))
	if err != nil {
		return r, err
	}
	if len(judged.Ran) > 0 {
		if err := json.Unmarshal(judged.Ran, &r.Before); err != nil {
			return r, err
		}
		// The hub trusts the sequence number of a system only as long as a valid manifest states
		// this number.
		if !namesSystem(r.Manifests, r.Before.SHA256) {
			r.Before = nil
		}
	}
	r.Wanted, r.Since, err = s.wantedSystems(ctx, d, r.Manifests)
	return r, err
}

// decisionsAbout returns the owner's decisions about the values that this device measured.
func (s *Server) decisionsAbout(ctx context.Context, d store.Device, m *boot.Measurement) (known []boot.Decision, err error) {
	rows, err := s.cfg.Store.BootDecisionsFor(ctx, d.Owner, slices.Collect(maps.Values(m.Values())))
	if err != nil {
		return nil, err
	}
	firmware := firmwareOf(m)
	for _, row := range rows {
		if (row.Model == "" || row.Model == d.ProdModel) && (row.Token == "" || row.Token == d.TokenID) && (row.Firmware == "" || row.Firmware == firmware) {
			known = append(known, boot.Decision{Part: row.Part, Value: row.Value, Since: row.Made})
		}
	}
	return known, nil
}

// maxFirmware bounds the length of a firmware version that the hub stores, in bytes, because the
// version is part of database indexes. Known versions have fewer than 40 bytes.
const maxFirmware = 120

// firmwareOf returns the version of the firmware, cut to maxFirmware bytes. A decision can be
// limited to one such version.
func firmwareOf(m *boot.Measurement) string { return cutTo(m.FirmwareText(), maxFirmware) }

// wantedSystems returns the systems that are meant to run on a device. These are the system of the
// newest revision that is done, and the systems of the revisions that the device has not finished.
// If no revision that is done has a system, the result is empty, which means that the device may
// run any system. If a manifest names the system of the newest revision that is done, `since` is
// the time at which the device finished this revision.
func (s *Server) wantedSystems(ctx context.Context, d store.Device, manifests []*manifest.Manifest) (wanted []string, since time.Time, err error) {
	heads, err := s.cfg.Store.RevisionHeads(ctx, d.ID, -1, recentRevisions)
	if err != nil {
		return nil, since, err
	}
	for _, head := range heads {
		done := head.Status == trail.StatusDone || head.Status == trail.StatusUpdated
		if head.Status.Final() && !done {
			continue
		}
		system, err := s.systemOf(ctx, d.ID, head.Rev)
		if err != nil {
			return nil, since, err
		}
		if system == "" {
			continue
		}
		wanted = append(wanted, system)
		if !done {
			continue
		}
		if namesSystem(manifests, system) {
			since = head.ProgressTime
		}
		return wanted, since, nil
	}
	return nil, since, nil
}

// namesSystem reports whether a manifest describes the system with this SHA-256.
func namesSystem(manifests []*manifest.Manifest, sum string) bool {
	return slices.ContainsFunc(manifests, func(m *manifest.Manifest) bool { return m.System.SHA256 == sum })
}

// systemOf returns the SHA-256 of the system in a revision, or "" if the revision has no system.
func (s *Server) systemOf(ctx context.Context, device string, rev int) (string, error) {
	r, err := s.cfg.Store.Revision(ctx, device, rev)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var state map[string]json.RawMessage
	var system string
	if json.Unmarshal(r.State, &state) != nil || json.Unmarshal(state[systemPath], &system) != nil {
		return "", nil
	}
	if b, err := hex.DecodeString(system); err != nil || len(b) != len(store.Hash{}) {
		return "", nil
	}
	return system, nil
}

// The function `judge` judges a boot and sets the verdict in b. The reference is empty if the
// device has none.
func judge(b *store.Boot, d store.Device, m *boot.Measurement, r bootRules, reference []byte, now time.Time) (*boot.Verdict, error) {
	rules := r.Rules
	if len(reference) > 0 {
		if err := json.Unmarshal(reference, &rules.Reference); err != nil {
			return nil, err
		}
	}
	v := boot.Judge(m, rules)
	b.State = store.BootMatches
	switch {
	case m.NothingMeasured():
		b.State = store.BootNothing
	case !v.Matches():
		b.State = store.BootChanged
	}
	if v.Changes == nil {
		v.Changes = []boot.Change{}
	}
	b.Judged = &store.BootJudged{Version: r.version, Model: d.ProdModel, Token: d.TokenID, Firmware: firmwareOf(m), Parts: cohortParts(v, m)}
	var failed error
	if b.Judged.States, failed = json.Marshal(statesOf(v)); failed != nil {
		return nil, failed
	}
	if v.System != nil && v.Matches() {
		v.System.Since = now.UTC()
		if before := r.Before; before != nil && before.SHA256 == v.System.SHA256 {
			v.System.Since = before.Since
		}
		if b.Judged.Ran, failed = json.Marshal(v.System); failed != nil {
			return nil, failed
		}
	}
	if b.Changes, failed = json.Marshal(v.Changes); failed != nil {
		return nil, failed
	}
	b.Verdict, failed = json.Marshal(v)
	return v, failed
}

// statesOf returns the state of each part of the boot, by the part's name.
func statesOf(v *boot.Verdict) map[string]string {
	states := make(map[string]string)
	for _, p := range v.Parts {
		states[p.Part] = p.State
	}
	return states
}

// unmet compares the states of the parts of a boot with the required states. It returns the first
// part whose state does not satisfy the required state, and this required state.
func unmet(states, required map[string]string) (part, state string, some bool) {
	for _, p := range boot.Parts {
		if want := required[p.Name]; want != "" && !boot.AtLeast(states[p.Name], want) {
			return p.Name, want, true
		}
	}
	return "", "", false
}

// statesOfDevice returns the state of each part of a device's newest boot. It returns nil if the
// hub has not judged a boot of the device, or if an old version of the hub judged this boot without
// its parts.
func (s *Server) statesOfDevice(ctx context.Context, device string) (states map[string]string, err error) {
	judged, ok, err := orMissing(s.cfg.Store.JudgedBoot(ctx, device))
	if err != nil || !ok {
		return nil, err
	}
	return states, json.Unmarshal(judged.States, &states)
}

// cohortParts returns the rows with which the store counts cohorts: one row for each part of a
// boot, and one for the firmware's code. If the firmware measured nothing, there are no rows, so
// that the device does not count as a member of a cohort.
func cohortParts(v *boot.Verdict, m *boot.Measurement) (parts []store.BootPart) {
	for _, p := range v.Parts {
		if p.State == boot.StateNothing {
			continue
		}
		row := store.BootPart{Part: p.Part, Value: p.Value, Bad: !boot.AtLeast(p.State, boot.StateKnown), Words: p.Words, Cause: p.Cause}
		parts = append(parts, row)
		if p.Part == boot.PartFirmware {
			row.Part, row.Value = boot.FirmwareCode, m.Values()[boot.FirmwareCode]
			parts = append(parts, row)
		}
	}
	return parts
}

// After a change of the rules, the hub judges boots again: at most judgeAtOnce devices' boots
// before it answers the person who made the change, and the others in the periodic sweep,
// judgeInSweep at a time.
const (
	judgeAtOnce  = 20
	judgeInSweep = 500
)

// judgeAgain judges boots that were judged by older rules. If owner is empty, it judges the boots
// of all owners. It judges several boots at a time, because the store commits concurrent changes
// together. It returns the number of judged boots.
func (s *Server) judgeAgain(ctx context.Context, owner string, limit int) (int, error) {
	ids, err := s.cfg.Store.StaleBoots(ctx, owner, limit)
	if err != nil {
		return 0, err
	}
	var group errgroup.Group
	group.SetLimit(judgeAtOnce)
	for _, id := range ids {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			// If this fails for one device, go on with the others.
			if err := s.judgeDeviceAgain(ctx, id); err != nil && ctx.Err() == nil {
				s.log.Error("could not judge a boot again", "device", id, "err", err)
			}
			return nil
		})
	}
	group.Wait()
	return len(ids), ctx.Err()
}

// judgeDeviceAgain judges a device's newest boot by the present rules. It changes nothing if the
// device sends a new measurement, or the owner changes the reference, in the meantime.
func (s *Server) judgeDeviceAgain(ctx context.Context, id string) error {
	d, err := s.cfg.Store.Device(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	status, err := s.stableBootStatus(ctx, id)
	if err != nil || status.latest == nil {
		return err
	}
	latest, now := *status.latest, s.cfg.Now()
	was := latest.State
	var m boot.Measurement
	if err := json.Unmarshal(latest.Measurement, &m); err != nil {
		return err
	}
	rules, err := s.rulesFor(ctx, d, &m)
	if err != nil {
		return err
	}
	v, err := judge(&latest, d, &m, rules, status.reference.Text, now)
	if err != nil {
		return err
	}
	text := status.reference.Text
	if v.Learn {
		if text, err = json.Marshal(firstReference(&m, v, now)); err != nil {
			return err
		}
	}
	err = s.cfg.Store.PutBootReference(ctx, store.BootReference{Device: id, Text: text, Replaces: status.reference.Text}, latest)
	if errors.Is(err, store.ErrChanged) || errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err == nil && latest.State != was {
		e := bootEvent(d.Nick, bootVerdict(latest.State, v))
		e.Time, e.Owner, e.Device = now, d.Owner, d.ID
		s.recordOrCount(ctx, e)
	}
	return err
}

// judgeIfStale judges a device's newest boot again if it was judged by older rules.
func (s *Server) judgeIfStale(ctx context.Context, d store.Device) error {
	version, err := s.cfg.Store.BootRulesVersion(ctx, d.Owner)
	if err != nil || version == 0 {
		return err
	}
	judged, ok, err := orMissing(s.cfg.Store.JudgedBoot(ctx, d.ID))
	if err != nil || !ok || judged.Version >= version {
		return err
	}
	return s.judgeDeviceAgain(ctx, d.ID)
}

// judgeStale judges boots again that were judged by older rules. It is a part of the periodic
// sweep.
func (s *Server) judgeStale(ctx context.Context) {
	for range sweepRounds {
		n, err := s.judgeAgain(ctx, "", judgeInSweep)
		if err != nil && !interrupted(ctx, err) {
			s.log.Error("judging boots again", "err", err)
		}
		if err != nil || n < judgeInSweep {
			return
		}
	}
}
