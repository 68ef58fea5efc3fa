package boot

import (
	"crypto"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gangway/tcg"
)

// The test computes the PCRs from the fuzzer's log, so the replay must explain each PCR. Compare
// must find no difference between a boot and a reference that was made from the same boot.
func FuzzReplay(f *testing.F) {
	for _, name := range []string{"uki", "sdboot"} {
		raw, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			f.Fatal(err)
		}
		var boot struct{ Log []byte }
		if err := json.Unmarshal(raw, &boot); err != nil {
			f.Fatal(err)
		}
		f.Add(boot.Log)
		f.Add(boot.Log[:len(boot.Log)/2])
	}
	const bank = crypto.SHA256
	f.Fuzz(func(t *testing.T, raw []byte) {
		e := &Evidence{Bank: tcg.AlgSHA256, Log: raw}
		m := &Measurement{Bank: bankNames[e.Bank], Log: len(raw) > 0}
		for pcr := range PCRs {
			v := make([]byte, bank.Size())
			for _, x := range readLog(raw, e.Bank).events {
				if x.kind != evNoAction && x.pcr == uint32(pcr) && x.digest != nil {
					v = extended(bank, v, x.digest)
				}
			}
			e.PCRs, m.PCRs = append(e.PCRs, v), append(m.PCRs, hex.EncodeToString(v))
		}
		m.replay(e, bank)
		if len(m.Unexplained) > 0 {
			t.Fatalf("unexplained %v", m.Unexplained)
		}
		if c := Compare(NewReference(m, "itself", time.Now()), m); len(c) > 0 {
			t.Fatalf("it differs from itself: %+v", c)
		}
	})
}
