package doctor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"gangway/hub/objects"
	"gangway/hub/store"
	"gangway/internal/finding"
)

// shownRows is the largest number of rows that a finding names.
const shownRows = 5

// restoreRemedy is the remedy for damage that nothing else can repair.
const restoreRemedy = "Keep a copy of the database, examine the disk and the memory of the machine that it is on, and restore the newest backup in which this check finds no fault."

// rules has the texts for each consistency rule of the database (store.Consistency). The text
// `fact` says what is wrong, with %s for the rows that break the rule, and the text `remedy` says
// how to repair them.
var rules = map[string]struct{ fact, remedy string }{
	"device-certificate":  {"The stored certificate of these devices is missing, is not active, or belongs to another device or account: %s.", "Delete each of these devices and let it onboard again: gangway device delete DEVICE"},
	"certificate-device":  {"The database has active certificates of these devices, but the devices do not exist or use other certificates: %s.", restoreRemedy},
	"device-tpm":          {"The registry of TPMs lacks the TPMs of these devices, or its entries do not match the devices: %s.", "Delete each of these devices and let it onboard again: gangway device delete DEVICE"},
	"ek-certificate":      {"The database lacks the EK certificates of these devices: %s.", "Let each of these devices onboard again. Until then, if such a device sends a request without its EK certificate, the hub judges the request as if it had never received this certificate."},
	"tpm-device":          {"The registry of TPMs has TPMs of these devices, but the devices do not exist: %s.", restoreRemedy + " Until then, these TPMs cannot onboard."},
	"certificate-aik":     {"The registry of AIKs lacks the AIKs of these devices, or its entries do not match the devices: %s.", "Delete each of these devices and let it onboard again: gangway device delete DEVICE"},
	"aik-device":          {"The registry of AIKs has AIKs of these devices, but the devices do not exist: %s.", restoreRemedy},
	"token-uses":          {"For these join tokens, the stored number of uses differs from the number of devices that used the token: %s.", "Disable each of these join tokens, and make a new one for the remaining uses."},
	"trail-revision":      {"For these devices, the newest stored revision is not the revision that the trail (the list of the device's revisions) names as the newest: %s.", "Post a new revision for each of these devices. If the hub refuses it, delete the device and let it onboard again."},
	"revision-object":     {"Revisions of these devices name objects of which the database has no record: %s.", "Ask the owner to post the revision again, with its objects."},
	"usage":               {"For these accounts, the stored number of used bytes is not the total size of the account's objects and revisions: %s.", restoreRemedy + " Until then, the hub compares a wrong number of used bytes with the quota of these accounts."},
	"log-count":           {"For these devices, the stored number or size of the log lines is wrong: %s.", "No line is lost. Until these log lines expire, the hub keeps too many or too few lines of these devices."},
	"search-device":       {"The search index lacks these devices: %s.", restoreRemedy + " Until then, lists and searches do not show these devices."},
	"device-search":       {"The search index has devices that do not exist: %s.", restoreRemedy},
	"search-columns":      {"The search index has wrong properties (for example a wrong model or state) for these devices: %s.", restoreRemedy + " Until then, searches for these devices may be wrong."},
	"fleet-count-size":    {"The web pages sort models, makers and other values by counters. The counters are wrong for these accounts: %s.", restoreRemedy + " Until then, only the order of these values on the web pages is wrong."},
	"pending-usage":       {"For these accounts, the stored total size of the pending enrolments is wrong: %s.", restoreRemedy + " Until then, pending enrolments may expire early."},
	"boot-count":          {"For these accounts, the stored numbers of devices with the same boot measurements are wrong: %s.", restoreRemedy + " Until then, only the numbers on the web page about boots are wrong."},
	"version-count":       {"For these accounts, the stored numbers of devices with the same boot measurements and firmware version are wrong: %s.", restoreRemedy + " Until then, only the numbers on the web page about boots are wrong."},
	"boot-device":         {"The boot measurements of these devices are stored under a wrong owner, model or join token: %s.", "Measure the boots of these devices again: gangway device boot DEVICE --measure"},
	"judged-device":       {"The database has verdicts on the boots of devices with these ids, but the devices do not exist or have another owner: %s.", restoreRemedy},
	"device-owner":        {"These devices belong to accounts that do not exist: %s.", restoreRemedy},
	"account-credential":  {"The database has sessions or API tokens of accounts that do not exist, with these ids: %s.", restoreRemedy},
	"device-rows":         {"The database has data of devices that do not exist, with these ids: %s.", restoreRemedy},
	"revision-trail":      {"The database has revisions of these devices, but the device's trail (the list of its revisions) is missing or has another owner than the revisions: %s.", restoreRemedy},
	"object-revision":     {"The database has lists of objects for revisions of these devices, but the revisions do not exist or have another owner: %s.", restoreRemedy},
	"trail-device":        {"These devices have another owner than their trails (the lists of their revisions): %s.", restoreRemedy},
	"earlier-certificate": {"These devices enrolled more than once, and an earlier enrolment is missing, or belongs to another device: %s.", restoreRemedy},
	"fleet-count":         {"For these accounts, a stored number of devices is wrong: %s.", restoreRemedy + " Until then, only the numbers on the web pages are wrong."},
	"hub-count":           {"These counters about the whole hub are wrong: %s.", restoreRemedy + " Until then, only the numbers on the operator's web page are wrong."},
}

// Fsck checks that the tables of a database agree with each other, and that the object store has
// each stored object. If `contents` is nil, Fsck does not check the objects. If `read` is true, it
// also reads each object, and compares its SHA-256 with the database. Fsck repairs nothing. A hub
// may use the database at the same time.
func Fsck(ctx context.Context, db store.Consistency, contents objects.Store, read bool) ([]finding.Finding, error) {
	list, err := db.Disagreements(ctx, shownRows)
	if err != nil {
		return nil, err
	}
	var findings []finding.Finding
	for _, d := range list {
		rule := rules[d.Rule]
		rows := strings.Join(d.Rows, ", ")
		if d.More {
			rows += ", and more"
		}
		findings = append(findings, bad(finding.Problem, d.Rule, fmt.Sprintf(rule.fact, rows), "", rule.remedy))
	}
	if len(findings) == 0 {
		findings = good("agreement", "Certificates, devices, registries, revisions and counters agree.")
	}
	if contents == nil {
		return append(findings, bad(finding.Note, "objects-unchecked", "The objects were not compared with the database.", "A hub is running, and has the folder of the objects open.",
			"Run the check again while the hub is stopped.")), nil
	}
	missing, n, err := missingObjects(ctx, db, contents, read)
	if err != nil {
		return nil, err
	}
	if len(missing) == 0 {
		return append(findings, good("objects", "The object store has all %d objects.", n)...), nil
	}
	return append(findings, bad(finding.Problem, "object-missing", fmt.Sprintf("The object store lacks %d of %d objects, or has them with another size or SHA-256: %s.", len(missing), n, shortened(missing)),
		"", "Restore these objects from a backup, or let their owners upload them again: the hub asks for an object when a device wants it.")), nil
}

func shortened(list []string) string {
	if len(list) > shownRows {
		return strings.Join(list[:shownRows], ", ") + ", and more"
	}
	return strings.Join(list, ", ")
}

// missingObjects returns the SHA-256 of each object that the database records as stored, but that
// the object store lacks or has with another size. If `read` is true, it also returns the objects
// whose content does not have this SHA-256. The result `n` is the number of all objects in the
// database.
func missingObjects(ctx context.Context, db store.Consistency, contents objects.Store, read bool) (missing []string, n int, err error) {
	const page = 1000
	for after := (store.Hash{}); ; {
		list, err := db.StoredObjects(ctx, after, page)
		if err != nil {
			return nil, 0, err
		}
		for _, o := range list {
			after, n = o.Sum, n+1
			info, err := contents.Stat(ctx, objects.Key{Sum: o.Sum, Place: o.Place})
			if err != nil && !errors.Is(err, objects.ErrNotFound) {
				return nil, 0, fmt.Errorf("object %x: %w", o.Sum, err)
			}
			damaged := false
			if read && err == nil && info.Size == o.Size {
				if damaged, err = differs(ctx, contents, o); err != nil {
					return nil, 0, fmt.Errorf("object %x: %w", o.Sum, err)
				}
			}
			if err != nil || info.Size != o.Size || damaged {
				missing = append(missing, fmt.Sprintf("%x", o.Sum))
			}
		}
		if len(list) < page {
			return missing, n, nil
		}
	}
}

// differs reads the content of the object `o`, and reports whether its SHA-256 differs from o.Sum.
func differs(ctx context.Context, contents objects.Store, o store.Object) (bool, error) {
	from, err := contents.Open(ctx, objects.Key{Sum: o.Sum, Place: o.Place})
	if err != nil {
		return false, err
	}
	defer from.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, from); err != nil {
		return false, err
	}
	return [sha256.Size]byte(hash.Sum(nil)) != o.Sum, nil
}
