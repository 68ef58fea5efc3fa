package api

import (
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

// ObjectView is an object in the API. With its signed URLs, a client can upload and download the
// object without another credential. Devices use the first match of a key anywhere in the document,
// so the fields with values that people choose come last.
type ObjectView struct {
	ID           string    `json:"id"`         // the same as Sum
	StorageID    string    `json:"storage-id"` // SHA-256 of the owner and Sum
	Owner        string    `json:"owner"`
	Sum          string    `json:"sha256sum"`
	Size         string    `json:"size"` // bytes, as a string
	SizeInt      int64     `json:"sizeint"`
	TimeCreated  time.Time `json:"time-created"`
	TimeModified time.Time `json:"time-modified"`
	PutURL       string    `json:"signed-puturl"`
	GetURL       string    `json:"signed-geturl"`
	Now          string    `json:"now"`         // RFC 3339
	Expires      string    `json:"expire-time"` // when both URLs expire, RFC 3339
	MimeType     string    `json:"mime-type"`
	Name         string    `json:"objectname"`
}

// keyOf returns the key of an object's bytes in the object store.
func keyOf(o store.Object) objects.Key { return objects.Key{Sum: o.Sum, Place: o.Place} }

func (s *Server) viewObject(hub string, o store.Object, by credential) ObjectView {
	now := s.cfg.Now()
	until := now.Add(signedURLLife)
	sum, owner := hex.EncodeToString(o.Sum[:]), wire.AccountPRN+o.Owner
	storage := sha256.Sum256([]byte(owner + "/" + sum))
	v := ObjectView{
		ID: sum, StorageID: hex.EncodeToString(storage[:]), Owner: owner, Sum: sum, Size: strconv.FormatInt(o.Size, 10), SizeInt: o.Size,
		TimeCreated: o.Created.UTC(), TimeModified: o.Modified.UTC(),
		GetURL: s.signURL(hub, http.MethodGet, o, by, until),
		Now:    now.UTC().Format(time.RFC3339), Expires: until.UTC().Format(time.RFC3339), MimeType: o.MimeType, Name: o.Name,
	}
	if by.kind() != publicCredential {
		v.PutURL = s.signURL(hub, http.MethodPut, o, by, until)
	}
	return v
}

// sizeText is a number of bytes, which clients send as a number or as a string.
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
		return errors.New("the size is not a number of bytes")
	}
	*n = sizeText(v)
	return nil
}

// maxObjectName bounds the name and the MIME type of an object, in bytes each.
const maxObjectName = 1024

// createObject announces an object. Status 200 means that the caller must upload the object's file;
// 409 means that the caller's account has already uploaded the file. Uploads by other accounts do
// not matter, because a hash alone must not give access to the file.
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
		return problem(http.StatusBadRequest, "object-sum", "Send the content's SHA-256 as 64 lower-case hexadecimal digits.", "\"sha256sum\" is not a SHA-256 hash.")
	}
	if body.ID != "" && body.ID != body.Sum {
		return problem(http.StatusBadRequest, "object-id", "Leave the id out.", "\"id\" differs from \"sha256sum\".")
	}
	if body.Size < 0 {
		return problem(http.StatusBadRequest, "object-size", "Send the number of bytes, as a number or a string.", "\"size\" is missing.")
	}
	if len(body.Name) > maxObjectName || len(body.MimeType) > maxObjectName {
		return problem(http.StatusBadRequest, "object-name", "Use a shorter name or type.", "The object's name or type has more than %d bytes.", maxObjectName)
	}
	now := s.cfg.Now()
	o := store.Object{Owner: c.Owner, Sum: sum, Size: int64(body.Size), Name: printable(body.Name), MimeType: printable(body.MimeType), Created: now, Modified: now}
	if o, err = s.cfg.Store.AnnounceObject(r.Context(), o, s.cfg.ObjectQuota); err != nil {
		return trailProblem(err)
	}
	w.Header().Set("Pantahub-Object-Type", "object")
	if !o.Stored {
		writeJSON(w, http.StatusOK, s.viewObject(s.urlFor(r), o, credentialOf(callerOf(r))))
		return nil
	}
	if _, err := s.cfg.Objects.Stat(r.Context(), keyOf(o)); errors.Is(err, objects.ErrNotFound) {
		// The hub did not remove the object's file; something else did. So the caller must upload
		// the file again.
		s.log.Error("the file of an object is missing; upload the object again", "sha256", body.Sum)
		if err := s.cfg.Store.MarkContentLost(r.Context(), sum, o.Place); err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, s.viewObject(s.urlFor(r), o, credentialOf(callerOf(r))))
		return nil
	} else if err != nil {
		return err
	}
	writeJSON(w, http.StatusConflict, s.viewObject(s.urlFor(r), o, credentialOf(callerOf(r))))
	return nil
}

// createRevisionObject is like createObject, but the caller must be allowed to change the trail in
// the path.
func (s *Server) createRevisionObject(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.trailRevision(r); err != nil {
		return err
	}
	return s.createObject(w, r)
}

// storedObject finds an object of the caller's account by {sha}. It returns store.ErrNotFound if
// the object's file was not uploaded.
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
	writeJSON(w, http.StatusOK, s.viewObject(s.urlFor(r), o, credentialOf(callerOf(r))))
	return nil
}

// revisionObject finds the object {sha} of the revision in the path. It also returns the caller's
// credential, which the hub needs to sign the object's URL.
func (s *Server) revisionObject(r *http.Request) (store.Object, credential, error) {
	revision, err := s.readableRevision(r)
	if err != nil {
		return store.Object{}, credential{}, err
	}
	o, err := s.storedObjectOf(r, revision.Owner)
	if err != nil {
		return store.Object{}, credential{}, err
	}
	list, err := s.cfg.Store.RevisionObjects(r.Context(), revision.Device, revision.Rev)
	if err != nil {
		return store.Object{}, credential{}, err
	}
	for _, named := range list {
		if named.Sum == o.Sum {
			return o, credentialFor(callerOf(r), revision), nil
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
	writeJSON(w, http.StatusOK, s.viewObject(s.urlFor(r), o, by))
	return nil
}

// redirectToBlob redirects to the signed URL of the object's file.
func (s *Server) redirectToBlob(w http.ResponseWriter, r *http.Request) error {
	o, by, err := s.revisionObject(r)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, s.signURL(s.urlFor(r), http.MethodGet, o, by, s.cfg.Now().Add(signedURLLife)), http.StatusFound)
	return nil
}

func (s *Server) listRevisionObjects(w http.ResponseWriter, r *http.Request) error {
	revision, err := s.readableRevision(r)
	if err != nil {
		return err
	}
	list, err := s.cfg.Store.RevisionObjects(r.Context(), revision.Device, revision.Rev)
	if err != nil {
		return err
	}
	s.writeObjects(w, r, list, credentialFor(callerOf(r), revision))
	return nil
}

// listObjects lists an account's objects. Each page begins after the SHA-256 in ?after=. Devices
// may not list objects, because a device needs only the objects that its revisions name.
func (s *Server) listObjects(w http.ResponseWriter, r *http.Request) error {
	limit, err := pageSize(r, 100)
	if err != nil {
		return err
	}
	var after *store.Hash
	if v := r.URL.Query().Get("after"); v != "" {
		sum, err := objects.ParseSum(v)
		if err != nil {
			return problem(http.StatusBadRequest, "after", "Use the id of an object.", "\"after\" is not a SHA-256 hash.")
		}
		hash := store.Hash(sum)
		after = &hash
	}
	list, err := s.cfg.Store.Objects(r.Context(), accountOf(r).ID, after, limit)
	if err != nil {
		return err
	}
	s.writeObjects(w, r, list, credentialOf(callerOf(r)))
	return nil
}

// writeObjects writes the array of objects, one object at a time, because a revision may have ten
// thousand objects.
func (s *Server) writeObjects(w http.ResponseWriter, r *http.Request, list []store.Object, by credential) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	fmt.Fprint(w, "[")
	for i, o := range list {
		if i > 0 {
			fmt.Fprint(w, ",")
		}
		if enc.Encode(s.viewObject(s.urlFor(r), o, by)) != nil {
			return // the client has closed the connection
		}
	}
	fmt.Fprint(w, "]\n")
}
