package wire

import (
	"slices"
	"strings"
	"testing"
)

// A hub cannot make a device store arbitrary or unlimited addresses: ParseAddresses skips entries
// that are not hub addresses and returns at most MaxAddresses.
func TestAddressesAreReadStrictly(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range 20 {
		many = append(many, "https://hub.example:"+string(rune('1'+i%9))+"00"+string(rune('0'+i/9)))
	}
	for name, c := range map[string]struct {
		values []string
		want   []string
	}{
		"none":         {nil, nil},
		"one":          {[]string{"https://hub.example:12443"}, []string{"https://hub.example:12443"}},
		"two in one":   {[]string{"https://new.example, https://hub.example:12443/"}, []string{"https://new.example", "https://hub.example:12443"}},
		"two headers":  {[]string{"https://new.example", "https://192.0.2.1"}, []string{"https://new.example", "https://192.0.2.1"}},
		"repeated":     {[]string{"https://a.example,https://a.example/"}, []string{"https://a.example"}},
		"IPv6":         {[]string{"https://[2001:db8::1]:443"}, []string{"https://[2001:db8::1]:443"}},
		"plain HTTP":   {[]string{"http://hub.example"}, nil},
		"a path":       {[]string{"https://hub.example/x"}, nil},
		"a query":      {[]string{"https://hub.example?x", "https://hub.example/?"}, nil},
		"a fragment":   {[]string{"https://hub.example#x"}, nil},
		"a user name":  {[]string{"https://hub.example@evil.example"}, nil},
		"no host":      {[]string{"https://", "https://:443", "", ","}, nil},
		"a line break": {[]string{"https://hub.example\nx"}, nil},
		"too long":     {[]string{"https://" + strings.Repeat("a", 300)}, nil},
		"too many":     {[]string{strings.Join(many, ",")}, many[:MaxAddresses]},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := ParseAddresses(c.values); !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
