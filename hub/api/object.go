package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"gangway/hub/objects"
	"gangway/hub/store"
	"gangway/wire"
)

// ObjectView is an object, with addresses to upload and to download it that
// need no other permission. Devices take the first match of a key, so what
// people name stands last.
type ObjectView struct {
	ID           string    `json:"id"`         // the SHA-256 again
	StorageID    string    `json:"storage-id"` // of this object and owner
	Owner        string    `json:"owner"`
	Sum          string    `json:"sha256sum"`
	Size         string    `json:"size"` // bytes, as a text
	SizeInt      int64     `json:"sizeint"`
	TimeCreated  time.Time `json:"time-created"`
	TimeModified time.Time `json:"time-modified"`
	PutURL       string    `json:"signed-puturl"`
	GetURL       string    `json:"signed-geturl"`
	Now          string    `json:"now"`         // RFC 3339
	Expires      string    `json:"expire-time"` // of both addresses, RFC 3339
	MimeType     string    `json:"mime-type"`
	Name         string    `json:"objectname"`
}

func (s *Server) viewObject(o store.Object, by credential) ObjectView {
	now := s.cfg.Now()
	until := now.Add(signedURLLife)
	sum, owner := hex.EncodeToString(o.Sum[:]), wire.AccountPRN+o.Owner
	storage := sha256.Sum256([]byte(owner + "/" + sum))
	v := ObjectView{
		ID: sum, StorageID: hex.EncodeToString(storage[:]), Owner: owner, Sum: sum, Size: strconv.FormatInt(o.Size, 10), SizeInt: o.Size,
		TimeCreated: o.Created.UTC(), TimeModified: o.Modified.UTC(),
		GetURL: s.signURL(http.MethodGet, o, by, until),
		Now:    now.UTC().Format(time.RFC3339), Expires: until.UTC().Format(time.RFC3339), MimeType: o.MimeType, Name: o.Name,
	}
	if by.kind() != publicCredential {
		v.PutURL = s.signURL(http.MethodPut, o, by, until)
	}
	return v
}

// sizeText is a number of bytes, which clients send as a number or as a text.
type sizeText int64

func (n *sizeText) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) != nil {
		text = string(b)
	}
	if text == "" || text == "null" {
		*n = -1
		return nil
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < 0 {
		return errors.New("the size is no number of bytes")
	}
	*n = sizeText(v)
	return nil
}

// maxObjectName is in bytes, also of a type.
const maxObjectName = 1024

// createObject announces an object: 200, upload it; 409, you have it already.
// What others have makes no difference: who has not uploaded the bytes is
// asked for them.
func (s *Server) createObject(w http.ResponseWriter, r *http.Request) error {
	c := callerOf(r)
	if c.Device != nil {
		if err := requireOwner(*c.Device); err != nil {
			return err
		}
	}
	body := struct {
		ID       string   `json:"id"`
		Sum      string   `json:"sha256sum"`
		Size     sizeText `json:"size"`
		Name     string   `json:"objectname"`
		MimeType string   `json:"mime-type"`
	}{Size: -1}
	if err := readJSON(r, &body); err != nil {
		return err
	}
	sum, err := objects.ParseSum(body.Sum)
	if err != nil {
		return problem(http.StatusBadRequest, "object-sum", "Send the content's SHA-256 as 64 lower-case hexadecimal digits.", "\"sha256sum\" is no SHA-256.")
	}
	if body.ID != "" && body.ID != body.Sum {
		return problem(http.StatusBadRequest, "object-id", "Leave the id out.", "\"id\" is not the same as \"sha256sum\".")
	}
	if body.Size < 0 {
		return problem(http.StatusBadRequest, "object-size", "Send the number of bytes, as a number or a text.", "\"size\" is missing.")
	}
	if len(body.Name) > maxObjectName || len(body.MimeType) > maxObjectName {
		return problem(http.StatusBadRequest, "object-name", "Use a shorter one.", "The object's name or type has more than %d bytes.", maxObjectName)
	}
	now := s.cfg.Now()
	o := store.Object{Owner: c.Owner, Sum: sum, Size: int64(body.Size), Name: printable(body.Name), MimeType: printable(body.MimeType), Created: now, Modified: now}
	if o, err = s.cfg.Store.AnnounceObject(r.Context(), o, s.cfg.ObjectQuota); err != nil {
		return trailProblem(err)
	}
	w.Header().Set("Pantahub-Object-Type", "object")
	if !o.Stored {
		writeJSON(w, http.StatusOK, s.viewObject(o, credentialOf(callerOf(r))))
		return nil
	}
	if _, err := s.cfg.Objects.Stat(r.Context(), sum); errors.Is(err, objects.ErrNotFound) {
		// Somebody removed it behind the hub's back: it is wanted again.
		s.log.Error("the content of an object is gone", "sha256", body.Sum)
		if err := s.cfg.Store.LostContent(r.Context(), sum); err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, s.viewObject(o, credentialOf(callerOf(r))))
		return nil
	} else if err != nil {
		return err
	}
	writeJSON(w, http.StatusConflict, s.viewObject(o, credentialOf(callerOf(r))))
	return nil
}

// createRevisionObject is createObject for whoever may read the step.
func (s *Server) createRevisionObject(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.trailRevision(r); err != nil {
		return err
	}
	return s.createObject(w, r)
}

// storedObject finds an object that the caller's owner has uploaded, by
// {sha}.
func (s *Server) storedObject(r *http.Request) (store.Object, error) {
	c := callerOf(r)
	if c.Device != nil {
		if err := requireOwner(*c.Device); err != nil {
			return store.Object{}, err
		}
	}
	return s.storedObjectOf(r, c.Owner)
}

func (s *Server) storedObjectOf(r *http.Request, owner string) (store.Object, error) {
	sum, err := objects.ParseSum(r.PathValue("sha"))
	if err != nil {
		return store.Object{}, store.ErrNotFound
	}
	o, err := s.cfg.Store.Object(r.Context(), owner, sum)
	if err == nil && !o.Stored {
		err = store.ErrNotFound
	}
	return o, err
}

func (s *Server) showObject(w http.ResponseWriter, r *http.Request) error {
	o, err := s.storedObject(r)
	if err != nil {
		return err
	}
	w.Header().Set("Pantahub-Object-Type", "object")
	writeJSON(w, http.StatusOK, s.viewObject(o, credentialOf(callerOf(r))))
	return nil
}

// revisionObject finds an object that the step names, and what the caller's
// address of it rests on.
func (s *Server) revisionObject(r *http.Request) (store.Object, credential, error) {
	step, err := s.readableRevision(r)
	if err != nil {
		return store.Object{}, credential{}, err
	}
	o, err := s.storedObjectOf(r, step.Owner)
	if err != nil {
		return store.Object{}, credential{}, err
	}
	list, err := s.cfg.Store.RevisionObjects(r.Context(), step.Device, step.Rev)
	if err != nil {
		return store.Object{}, credential{}, err
	}
	for _, named := range list {
		if named.Sum == o.Sum {
			return o, credentialFor(callerOf(r), step), nil
		}
	}
	return store.Object{}, credential{}, store.ErrNotFound
}

func (s *Server) showRevisionObject(w http.ResponseWriter, r *http.Request) error {
	o, by, err := s.revisionObject(r)
	if err != nil {
		return err
	}
	w.Header().Set("Pantahub-Object-Type", "object")
	writeJSON(w, http.StatusOK, s.viewObject(o, by))
	return nil
}

// redirectToBlob leads to the content.
func (s *Server) redirectToBlob(w http.ResponseWriter, r *http.Request) error {
	o, by, err := s.revisionObject(r)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, s.signURL(http.MethodGet, o, by, s.cfg.Now().Add(signedURLLife)), http.StatusFound)
	return nil
}

func (s *Server) listRevisionObjects(w http.ResponseWriter, r *http.Request) error {
	step, err := s.readableRevision(r)
	if err != nil {
		return err
	}
	list, err := s.cfg.Store.RevisionObjects(r.Context(), step.Device, step.Rev)
	if err != nil {
		return err
	}
	s.writeObjects(w, list, credentialFor(callerOf(r), step))
	return nil
}

// listObjects lists a person's, in pages by `after`, a SHA-256. A device knows
// the objects of its steps.
func (s *Server) listObjects(w http.ResponseWriter, r *http.Request) error {
	limit, err := pageSize(r, 100)
	if err != nil {
		return err
	}
	var after *store.Hash
	if v := r.URL.Query().Get("after"); v != "" {
		sum, err := objects.ParseSum(v)
		if err != nil {
			return problem(http.StatusBadRequest, "after", "Use the id of an object.", "\"after\" is no SHA-256.")
		}
		hash := store.Hash(sum)
		after = &hash
	}
	list, err := s.cfg.Store.Objects(r.Context(), accountOf(r).ID, after, limit)
	if err != nil {
		return err
	}
	s.writeObjects(w, list, credentialOf(callerOf(r)))
	return nil
}

// writeObjects writes an array one by one: a step may have ten thousand.
func (s *Server) writeObjects(w http.ResponseWriter, list []store.Object, by credential) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	fmt.Fprint(w, "[")
	for i, o := range list {
		if i > 0 {
			fmt.Fprint(w, ",")
		}
		if enc.Encode(s.viewObject(o, by)) != nil {
			return // the client is gone
		}
	}
	fmt.Fprint(w, "]\n")
}

// Graces of the collector.
const (
	// pendingAge is how long an announced object waits for its upload.
	pendingAge = 24 * time.Hour
	// unusedAge is how long an object is kept that no step names: time to post
	// the step that it was uploaded for.
	unusedAge = 7 * 24 * time.Hour
	// orphanAge is how old a content must be before it is asked whether anybody
	// has a record of it.
	orphanAge = time.Hour
)

// Collect removes what nobody needs any more: trails and logs of deleted
// devices, records of objects that no step names, contents that nobody has a
// record of, log entries past their age. It is safe beside everything else.
func (s *Server) Collect(ctx context.Context) error {
	now := s.cfg.Now()
	for _, step := range []func() (int, error){
		func() (int, error) { return s.cfg.Store.DropTrails(ctx, 100) },
		func() (int, error) {
			return s.cfg.Store.ExpireObjects(ctx, now.Add(-pendingAge), now.Add(-unusedAge), 1000)
		},
		func() (int, error) { return s.cfg.Store.ExpireLogs(ctx, now.Add(-s.cfg.LogAge), 1000) },
	} {
		for {
			n, err := step()
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
		}
	}
	remove := func(sum store.Hash) error {
		if err := s.cfg.Objects.Delete(ctx, sum); err != nil {
			return err
		}
		return s.cfg.Store.Bury(ctx, sum)
	}
	// What an earlier run was stopped at.
	left, err := s.cfg.Store.Condemned(ctx)
	if err != nil {
		return err
	}
	for _, sum := range left {
		if err := remove(sum); err != nil {
			return err
		}
	}
	return s.cfg.Objects.Walk(ctx, func(sum objects.Sum, info objects.Info) error {
		if now.Sub(info.Modified) < orphanAge {
			return nil
		}
		going, err := s.cfg.Store.Condemn(ctx, sum)
		if err != nil || !going {
			return err
		}
		return remove(sum)
	})
}

// collectLoop runs Collect at the start and every hour.
func (s *Server) collectLoop(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if err := s.Collect(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("collectLoop what nobody needs", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
