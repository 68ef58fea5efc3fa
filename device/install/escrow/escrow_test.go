package escrow

import (
	"encoding/json"
	"strings"
	"testing"
)

const recovery = "cbdefghi-jklnrtuv-cbdefghi-jklnrtuv-cbdefghi-jklnrtuv-cbdefghi-jklnrtuv"

func sealed(t *testing.T, recipient, key string) (token []byte, text string) {
	t.Helper()
	m, err := Token(recipient, key)
	if err != nil {
		t.Fatal(err)
	}
	if token, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	if text, err = Ciphertext(token); err != nil {
		t.Fatal(err)
	}
	return token, text
}

// Only the owner's age identity decrypts the recovery key. The hub has only the recipient and the
// ciphertext, so it cannot decrypt the key.
func TestEscrowedKeyIsForItsOwnerAlone(t *testing.T) {
	t.Parallel()
	identity, recipient, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckRecipient(recipient); err != nil {
		t.Fatal(err)
	}
	token, text := sealed(t, recipient, recovery)
	for _, part := range strings.Split(recovery, "-") {
		if strings.Contains(string(token), part) {
			t.Errorf("the token contains %q of the key in plain text", part)
		}
	}
	if got, err := Open("# created: today\n"+identity+"\n", text); got != recovery || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	other, _, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Open(other, text); err == nil {
		t.Errorf("another identity reads %q", got)
	}
	if err := CheckRecipient(identity); err == nil {
		t.Error("an identity, which is secret, is accepted as a recipient")
	}
}

// A hub that an attacker controls may send the owner any text instead of the machine's ciphertext.
// Open refuses a decrypted text that cannot be a recovery key.
func TestHubSendsAnotherKeyThanTheMachines(t *testing.T) {
	t.Parallel()
	identity, recipient, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	_, text := sealed(t, recipient, recovery)
	_, escape := sealed(t, recipient, "\x1b[2Jrm -rf /")
	_, empty := sealed(t, recipient, "")
	for name, bad := range map[string]string{
		"nothing": "", "text": "hello", "an escape sequence, encrypted": escape, "an empty key": empty,
		"cut short": text[:len(text)/2] + text[len(text)-31:], "altered": strings.Replace(text, "A", "B", 1) + " ",
		"too long": strings.Replace(text, "\n", "\n"+strings.Repeat("A", 8000), 1),
	} {
		if got, err := Open(identity, bad); err == nil {
			t.Errorf("%s: accepted as %q", name, got)
		}
	}
	for _, bad := range []string{"", "{}", `{"type":"systemd-tpm2","age":"x"}`, `{"type":"gangway-escrow","age":"` + strings.Repeat("x", 5000) + `"}`, `{"type":"gangway-escrow","age":"\u001b[2J"}`} {
		if got, err := Ciphertext([]byte(bad)); err == nil {
			t.Errorf("%.60s: accepted as %q", bad, got)
		}
	}
}
