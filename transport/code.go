package transport

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"
)

// A code is "roam-host-", "roam-guest-" or "roam-pass-", followed by unpadded URL-safe base64 of
//
//	host   secret[32]
//	guest  seed of the guests' key[32] | hosts' public key[32]
//	pass   hosts' public key[32] | guests' public key[32] | length of the certificate, 2 bytes | certificate (DER)
//
// and then, for all of them, key of the name service[32] | its address | checksum[4]. The checksum is the beginning of the
// SHA-256 of what precedes it, the prefix included. It finds mistakes in copying.
const (
	prefixHost  = "roam-host-"
	prefixGuest = "roam-guest-"
	prefixPass  = "roam-pass-"

	checksumSize = 4
	maxPass      = 8 << 10  // bytes of a certificate
	maxCode      = 16 << 10 // bytes of a code
)

// Code returns the code that lets processes join the realm with a role: one line, which is a secret. It contains the address
// and the key of the realm's name service, so that a process needs nothing else and finds out if another one answers at that
// address; a zero server leaves them out.
//
// The holder of a code can make further members with its role. [Realm.Issue] and [Realm.PassCode] admit one key only.
func (r *Realm) Code(role Role, server Peer) (string, error) {
	switch {
	case role == RoleHost && r.secret != nil:
		return appendServer(prefixHost, r.secret, server)
	case role == RoleGuest && r.guestKey != nil:
		return appendServer(prefixGuest, append(r.guestKey.Seed(), r.hosts...), server)
	}
	return "", fmt.Errorf("transport: realm %v: this process, a %v, cannot make a code for the role %v", r, r.role, role)
}

// PassCode returns the code that lets the process with the key in pass, which [Realm.Issue] returned, join the realm. It is
// useless without the private key.
func (r *Realm) PassCode(pass *x509.Certificate, server Peer) (string, error) {
	if len(pass.Raw) > maxPass {
		return "", fmt.Errorf("transport: realm %v: a pass of %d bytes, more than %d", r, len(pass.Raw), maxPass)
	}
	n := len(pass.Raw)
	b := append(append([]byte(nil), r.hosts...), r.guests...)
	return appendServer(prefixPass, append(append(b, byte(n>>8), byte(n)), pass.Raw...), server)
}

func appendServer(prefix string, b []byte, server Peer) (string, error) {
	if len(server.Addr) > 255 {
		return "", fmt.Errorf("transport: the name service's address has %d bytes, more than 255", len(server.Addr))
	}
	b = append(append(append([]byte(nil), b...), server.Key[:]...), server.Addr...)
	return prefix + base64.RawURLEncoding.EncodeToString(append(b, checksum(prefix, b)...)), nil
}

func checksum(prefix string, b []byte) []byte {
	sum := sha256.Sum256(append([]byte(prefix), b...))
	return sum[:checksumSize]
}

// ParseCode reads a code made by [Realm.Code] or [Realm.PassCode], and returns the realm and its name service. White space
// around the code and within it, as from a line that was broken, is ignored.
func ParseCode(code string) (*Realm, Peer, error) {
	bad := func(why string) (*Realm, Peer, error) {
		return nil, Peer{}, fmt.Errorf("transport: this is not a code of a realm: %s", why)
	}
	if len(code) > maxCode {
		return bad(fmt.Sprintf("it has %d bytes, more than %d", len(code), maxCode))
	}
	code = strings.Join(strings.Fields(code), "")
	var prefix string
	for _, p := range []string{prefixHost, prefixGuest, prefixPass} {
		if strings.HasPrefix(code, p) {
			prefix = p
		}
	}
	if prefix == "" {
		return bad("it does not begin with " + prefixHost + ", " + prefixGuest + " or " + prefixPass)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(code[len(prefix):])
	if err != nil || len(b) < secretSize+len(Key{})+checksumSize {
		return bad("a part of it is missing, or was changed")
	}
	b, sum := b[:len(b)-checksumSize], b[len(b)-checksumSize:]
	if string(sum) != string(checksum(prefix, b)) {
		return bad("a part of it is missing, or was changed")
	}
	r, pass, rest := takeRealm(prefix, b)
	if r == nil || len(rest) < len(Key{}) || len(rest) > len(Key{})+255 {
		return bad("its contents are malformed")
	}
	var server Peer
	copy(server.Key[:], rest)
	server.Addr = string(rest[len(server.Key):])
	if prefix == prefixPass {
		var a admission
		if r.pass, err = x509.ParseCertificate(pass); err == nil {
			a, err = r.check(r.pass)
		}
		if err != nil {
			return bad(fmt.Sprintf("its pass: %v", err))
		}
		r.role = a.role
	}
	return r, server, nil
}

// takeRealm reads the part of a code that differs between the prefixes. It returns nil if b is malformed. pass is the
// encoded pass, if there is one.
func takeRealm(prefix string, b []byte) (r *Realm, pass, rest []byte) {
	const key = ed25519.PublicKeySize
	switch {
	case prefix == prefixHost:
		return realmOf(b[:secretSize]), nil, b[secretSize:]
	case prefix == prefixGuest && len(b) >= secretSize+key:
		r := &Realm{role: RoleGuest, guestKey: ed25519.NewKeyFromSeed(b[:secretSize]), hosts: b[secretSize : secretSize+key]}
		r.guests = publicOf(r.guestKey)
		return r, nil, b[secretSize+key:]
	case prefix == prefixPass && len(b) >= 2*key+2:
		n := int(b[2*key])<<8 | int(b[2*key+1])
		if rest := b[2*key+2:]; n <= maxPass && n <= len(rest) {
			return &Realm{hosts: b[:key], guests: b[key : 2*key]}, rest[:n], rest[n:]
		}
	}
	return nil, nil, nil
}
