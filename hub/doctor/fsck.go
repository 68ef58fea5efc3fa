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

// shownRows is the number of rows that a finding names.
const shownRows = 5

// restoreRemedy is the remedy for damage that nothing else can repair.
const restoreRemedy = "Keep a copy of the database, examine the disk and the memory of its machine, and restore the newest backup whose check is clean."

// rules has, for each rule of store.Consistency, the fact about the rows that break the rule, and
// the remedy. In the fact, %s stands for the rows.
var rules = map[string]struct{ fact, remedy string }{
	"device-certificate":  {"Devices have a certificate that is not their active one: %s.", "Delete each of these devices and let it onboard again: gangway device delete DEVICE"},
	"certificate-device":  {"Active certificates belong to no device: %s.", restoreRemedy},
	"device-tpm":          {"The registry of TPMs does not have the TPM of these devices, or has it for another device: %s.", "Delete each of these devices and let it onboard again: gangway device delete DEVICE"},
	"ek-certificate":      {"The EK certificates of these devices are missing: %s.", "Let each of these devices onboard again. Until then, a request without the EK certificate is judged as if the hub had never received the EK certificate."},
	"tpm-device":          {"The registry of TPMs names devices that do not exist: %s.", restoreRemedy + " Until then, these TPMs cannot onboard."},
	"certificate-aik":     {"The registry of AIKs does not have the AIK of these devices, or has it for another device: %s.", "Delete each of these devices and let it onboard again: gangway device delete DEVICE"},
	"aik-device":          {"The registry of AIKs names devices that do not exist: %s.", restoreRemedy},
	"token-uses":          {"The counted uses of these join tokens differ from the devices that used them: %s.", "Disable each of these join tokens, and make a new one for the remaining uses."},
	"trail-revision":      {"These devices lack their newest revision: %s.", "Post a new revision for each of these devices. If the hub refuses it, delete the device and let it onboard again."},
	"revision-object":     {"Revisions of these devices name objects that are not recorded: %s.", "Ask the owner to post the revision again, with its objects."},
	"usage":               {"The used bytes of these accounts are not the sum of their objects and revisions: %s.", restoreRemedy + " Until then, the quota of these accounts is wrong."},
	"log-count":           {"The number of log lines of these devices is wrong: %s.", "No line is lost. Until these log lines expire, the hub keeps too many or too few lines of these devices."},
	"search-device":       {"The search does not find these devices: %s.", restoreRemedy + " Until then, lists and searches lack these devices."},
	"device-search":       {"The search finds devices that do not exist: %s.", restoreRemedy},
	"search-columns":      {"The search has other properties of these devices than the devices have: %s.", restoreRemedy + " Until then, searches for these devices may be wrong."},
	"fleet-count-size":    {"The sizes of counters of these accounts are wrong: %s.", restoreRemedy + " Until then, only the order on the pages is wrong."},
	"pending-usage":       {"The bytes of the pending enrolments of these accounts are not the sum of their enrolments: %s.", restoreRemedy + " Until then, pending enrolments may expire early."},
	"boot-count":          {"The numbers of devices by boot of these accounts are wrong: %s.", restoreRemedy + " Until then, only the numbers on the page about boots are wrong."},
	"version-count":       {"The numbers of devices by boot and firmware version of these accounts are wrong: %s.", restoreRemedy + " Until then, only the numbers on the page about boots are wrong."},
	"boot-device":         {"The parts of the boots of these devices have another owner, model or join token than the devices: %s.", "Measure the boots of these devices again: gangway device boot DEVICE --measure"},
	"judged-device":       {"The judged boots of these devices belong to no device of their owner: %s.", restoreRemedy},
	"device-owner":        {"The owners of these devices do not exist: %s.", restoreRemedy},
	"account-credential":  {"Sessions or API tokens belong to accounts that do not exist: %s.", restoreRemedy},
	"device-rows":         {"Rows belong to devices that do not exist: %s.", restoreRemedy},
	"revision-trail":      {"Revisions of these devices belong to no trail of their owner: %s.", restoreRemedy},
	"object-revision":     {"The database lists objects of revisions that do not exist. The devices of these revisions are: %s.", restoreRemedy},
	"trail-device":        {"The trails of these devices have another owner than the devices: %s.", restoreRemedy},
	"earlier-certificate": {"The earlier enrolments of these devices are missing, or belong to another device: %s.", restoreRemedy},
	"fleet-count":         {"The number of devices of these accounts is wrong: %s.", restoreRemedy + " Until then, only the numbers on the pages are wrong."},
	"hub-count":           {"These numbers of the whole hub are wrong: %s.", restoreRemedy + " Until then, only the numbers on the operator's page are wrong."},
}

// Fsck checks that the parts of a database agree, and that the object store has each stored object.
// If `contents` is nil, it does not check the objects. If `read` is true, it also reads each
// object, and compares the SHA-256. It repairs nothing. A hub may use the database at the same
// time.
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
		return append(findings, bad(finding.Note, "objects-unchecked", "The objects were not compared with the database.", "A hub runs, and has the folder of the objects open.",
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

// missingObjects returns the sums of the objects that the database records as stored, but that the
// object store does not have. It also returns the number of all objects.
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

// differs reads an object, and reports whether its SHA-256 differs from the SHA-256 in the
// database.
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
