package identity

import (
	"encoding/binary"
	"fmt"
	"time"
)

// command has the properties of a TPM command (Part 3) that the transport needs.
type command struct {
	name    string
	handles int  // number of handles in the handle area
	makes   bool // the response begins with a new handle
	limit   time.Duration
}

const (
	ccCreatePrimary      = 0x00000131
	ccStartAuthSession   = 0x00000176
	ccFlushContext       = 0x00000165
	ccGetCapability      = 0x0000017A
	ccCertify            = 0x00000148
	ccActivateCredential = 0x00000147
)

// Time limits of commands, with a wide margin: a discrete TPM signs within a second, and
// searches for RSA primes for up to a minute.
const (
	limitCommand = 45 * time.Second
	limitMake    = 5 * time.Minute
)

var commands = map[uint32]command{
	ccCreatePrimary:      {"CreatePrimary", 1, true, limitMake},
	ccStartAuthSession:   {"StartAuthSession", 2, true, limitCommand},
	ccFlushContext:       {"FlushContext", 0, false, limitCommand}, // FlushContext has the handle among its parameters
	ccGetCapability:      {"GetCapability", 0, false, limitCommand},
	ccCertify:            {"Certify", 2, false, limitCommand},
	ccActivateCredential: {"ActivateCredential", 2, false, limitCommand},
	0x0000014E:           {"NV_Read", 2, false, limitCommand},
	0x00000169:           {"NV_ReadPublic", 1, false, limitCommand},
	0x00000173:           {"ReadPublic", 1, false, limitCommand},
	0x00000151:           {"PolicySecret", 2, false, limitCommand},
	0x0000016C:           {"PolicyCommandCode", 1, false, limitCommand},
	0x00000171:           {"PolicyOR", 1, false, limitCommand},
	0x0000015D:           {"Sign", 1, false, limitCommand},
	0x00000120:           {"EvictControl", 2, false, limitCommand},
}

func commandOf(code uint32) command {
	if c, ok := commands[code]; ok {
		return c
	}
	return command{name: fmt.Sprintf("command 0x%08X", code), limit: limitCommand}
}

// endedSessions returns the sessions that end with the command `cmd`, because the command does not
// set continueSession for them. `cmd` is well-formed, because this package makes it.
func endedSessions(cmd []byte) []uint32 {
	if len(cmd) < 10 || binary.BigEndian.Uint16(cmd) != tagSessions {
		return nil
	}
	at := 10 + 4*commandOf(binary.BigEndian.Uint32(cmd[6:])).handles
	if len(cmd) < at+4 {
		return nil
	}
	size := int(binary.BigEndian.Uint32(cmd[at:]))
	at += 4
	if size > len(cmd)-at {
		return nil
	}
	var ended []uint32
	// Each TPMS_AUTH_COMMAND consists of handle, nonce, attributes (bit 0: continueSession) and
	// HMAC.
	for b := cmd[at : at+size]; len(b) >= 6; {
		handle := binary.BigEndian.Uint32(b)
		nonce := int(binary.BigEndian.Uint16(b[4:]))
		if len(b) < 6+nonce+3 {
			break
		}
		b = b[6+nonce:]
		if kind := handle >> 24; b[0]&1 == 0 && (kind == htHMACSession || kind == htPolicySession) {
			ended = append(ended, handle)
		}
		hmac := int(binary.BigEndian.Uint16(b[1:]))
		if len(b) < 3+hmac {
			break
		}
		b = b[3+hmac:]
	}
	return ended
}

// Tags and handle types (Part 2, 6.9 and 7.2).
const (
	tagRspCommand12 = 0x00C4 // the tag of a TPM 1.2's response
	tagNoSessions   = 0x8001
	tagSessions     = 0x8002

	htHMACSession   = 0x02
	htPolicySession = 0x03
	htTransient     = 0x80
)
