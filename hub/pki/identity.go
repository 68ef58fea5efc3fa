package pki

import (
	"crypto/x509"
	"errors"
	"time"
)

// Identity is what an IDevID certificate says about its device.
type Identity struct {
	DeviceID string
	OwnerPRN string
	TokenID  string
	AKName   string // TPM name of the AIK, in hexadecimal digits
	Issued   time.Time
}

// ReadIdentity reads an IDevID certificate that IssueIDevID has made. The caller has verified that
// the device CA issued the certificate.
func ReadIdentity(c *x509.Certificate) (i Identity, err error) {
	i = Identity{DeviceID: c.Subject.SerialNumber, Issued: c.NotBefore.Add(slowClock)}
	for _, e := range c.Extensions {
		switch {
		case e.Id.Equal(oidPantacorOwner):
			i.OwnerPRN = string(e.Value)
		case e.Id.Equal(oidPantacorJoinToken):
			i.TokenID = string(e.Value)
		case e.Id.Equal(oidPantacorAKName):
			i.AKName = string(e.Value)
		}
	}
	if i.DeviceID == "" || i.OwnerPRN == "" || i.TokenID == "" {
		return i, errors.New("pki: the certificate must name a device, an owner and a join token")
	}
	return i, nil
}
