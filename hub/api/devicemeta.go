package api

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"

	"gangway/hub/store"
	"gangway/internal/strictjson"
)

// countUserMetaChange counts, in the audit trail, an owner's change of the user-meta.
// countDeviceMetaReport counts a device's change of the device-meta.
func (s *Server) countUserMetaChange(r *http.Request, d store.Device) {
	s.count(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.user-meta-changed", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("The user-meta of device %q was changed.", d.Nick)})
}

func (s *Server) countDeviceMetaReport(r *http.Request, d store.Device) {
	s.count(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.meta-reported", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q reported its device-meta.", d.Nick)})
}

func (s *Server) showUserMeta(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDeviceOrSelf(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, orEmpty(d.UserMeta))
	return nil
}

func (s *Server) showDeviceMeta(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDeviceOrSelf(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, orEmpty(d.DeviceMeta))
	return nil
}

// readMeta reads user-meta or device-meta, or a patch to it.
func readMeta(r *http.Request) (map[string]any, error) {
	var m map[string]any
	return m, readJSON(r, &m)
}

// readMetaPatch reads a patch to device-meta. Devices send one every minute, so it does not decode
// the usual ones.
func readMetaPatch(r *http.Request) (store.MetaPatch, error) {
	b := bodies.Get().(*bytes.Buffer)
	defer func() {
		if b.Cap() <= maxKeptBody {
			bodies.Put(b)
		}
	}()
	b.Reset()
	if _, err := b.ReadFrom(r.Body); err != nil {
		return store.MetaPatch{}, badBody(err)
	}
	body := b.Bytes()
	if p, ok := store.ReadMetaPatch(body); ok {
		return p, nil
	}
	var m map[string]any
	if err := strictjson.Decode(body, &m); err != nil {
		return store.MetaPatch{}, badBody(err)
	}
	return store.NewMetaPatch(m)
}

// bodies holds buffers for bodies of reports. A larger buffer than maxKeptBody is not kept.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

const maxKeptBody = 16 << 10

func dropNulls(m map[string]any) map[string]any {
	maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
	return m
}

func (s *Server) putUserMeta(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	m, err := readMeta(r)
	if err != nil {
		return err
	}
	m = dropNulls(m)
	if err := s.cfg.Store.ReplaceUserMeta(r.Context(), accountOf(r).ID, d.ID, m); err != nil {
		return err
	}
	s.countUserMetaChange(r, d)
	writeJSON(w, http.StatusOK, orEmpty(m))
	return nil
}

// putDeviceMeta and patchDeviceMeta are for the device itself, not for its owner.
func (s *Server) putDeviceMeta(w http.ResponseWriter, r *http.Request) error {
	return s.changeDeviceMeta(w, r, func(d store.Device) error {
		m, err := readMeta(r)
		if err != nil {
			return err
		}
		return s.cfg.Store.ReplaceDeviceMeta(r.Context(), d.ID, dropNulls(m))
	})
}

func (s *Server) patchDeviceMeta(w http.ResponseWriter, r *http.Request) error {
	return s.changeDeviceMeta(w, r, func(d store.Device) error {
		patch, err := readMetaPatch(r)
		if err != nil {
			return err
		}
		return s.cfg.Store.PatchDeviceMeta(r.Context(), d.ID, patch)
	})
}

func (s *Server) changeDeviceMeta(w http.ResponseWriter, r *http.Request, change func(store.Device) error) error {
	d := deviceOf(r)
	if r.PathValue("id") != d.ID {
		return store.ErrNotFound
	}
	if err := requireOwner(d); err != nil {
		return err
	}
	if err := change(d); err != nil {
		return err
	}
	s.countDeviceMetaReport(r, d)
	if err := s.cfg.Store.MarkDeviceSeen(r.Context(), d.ID, remoteAddr(r), s.cfg.Now()); err != nil {
		return err
	}
	return s.writeReportAnswer(w, r, d)
}

// writeReportAnswer answers a report. The answer requests a boot measurement if the owner requested
// a measurement before this report, or if the clone detection needs a measurement.
func (s *Server) writeReportAnswer(w http.ResponseWriter, r *http.Request, d store.Device) error {
	measure := d.BootRequested
	if !measure {
		var err error
		if measure, err = s.mustMeasureAgain(r, d); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, struct {
		Status  string `json:"status"`
		Measure bool   `json:"measure,omitempty"`
	}{"ok", measure})
	return nil
}

func (s *Server) patchUserMeta(w http.ResponseWriter, r *http.Request) error {
	patch, err := readMeta(r)
	if err != nil {
		return err
	}
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	was, err := expectedMeta(r)
	if err != nil {
		return err
	}
	switch err := s.cfg.Store.SwapUserMeta(r.Context(), accountOf(r).ID, d.ID, was, patch); {
	case errors.Is(err, store.ErrChanged):
		return problem(http.StatusConflict, "meta-changed", "Read the metadata again, and decide again.", "The metadata does not have the values that the request expects, so nothing was changed.")
	case err != nil:
		return err
	}
	s.countUserMetaChange(r, d)
	writeJSON(w, http.StatusOK, patch)
	return nil
}

// expectedMeta returns the keys and values that the metadata must have before the change: the JSON
// object in the query parameter "was". The value null means that the key must be absent.
func expectedMeta(r *http.Request) (was map[string]any, err error) {
	if !r.URL.Query().Has("was") {
		return nil, nil
	}
	if err := strictjson.Decode([]byte(r.URL.Query().Get("was")), &was); err != nil || was == nil {
		return nil, problem(http.StatusBadRequest, "meta-malformed", `Write a JSON object, such as {"site": "oslo"}.`, "The parameter \"was\" is not a JSON object.")
	}
	return was, nil
}

// reportMeta merges a device's report into the device's device-meta. It also records that the
// device was seen.
func (s *Server) reportMeta(w http.ResponseWriter, r *http.Request) error {
	patch, err := readMetaPatch(r)
	if err != nil {
		return err
	}
	d := deviceOf(r)
	if err := requireOwner(d); err != nil {
		return err
	}
	if !patch.Empty() {
		if err := s.cfg.Store.PatchDeviceMeta(r.Context(), d.ID, patch); err != nil {
			return err
		}
		s.countDeviceMetaReport(r, d)
	}
	if err := s.cfg.Store.MarkDeviceSeen(r.Context(), d.ID, remoteAddr(r), s.cfg.Now()); err != nil {
		return err
	}
	return s.writeReportAnswer(w, r, d)
}
